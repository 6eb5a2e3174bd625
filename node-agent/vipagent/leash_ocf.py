"""Workloads that a resource agent of the node holds (OCF, Open Cluster Framework), as Pacemaker runs them.

An agent is a program `OCF_ROOT/resource.d/PROVIDER/TYPE` that is told one action as its argument and the
parameters as `OCF_RESKEY_…`; the actions and exit statuses are those of the OCF Resource Agent API 1.1.

    start   `validate-all`, `meta-data`, `start`, then `monitor` until it says 0: some are up only later
    watch   `monitor`, as often as its meta-data says, at the most every second and at the least every 10 s;
            one that fails is repeated a second later, and the third in a row is the service's death
    stop    `stop`, then SIGTERM for what is left of its processes, then `monitor`, which must say 7
    doubt   `monitor` must say 7 (not running); otherwise `stop` once more, and `monitor` again

A status 2 to 6 says that the agent cannot run here at all: it lacks a program, a right or a parameter. As in
Pacemaker such a `monitor` finds nothing running where `start` said likewise, for then nothing was started.
Where `start` came to no good end otherwise, 5 (not installed) still means that nothing runs; the others mean
a doubt, but not one that ends the node. After a `start` that passed, 5 is believed together with a `stop`
that passed and not alone: what is missing now was there then.

Only `monitor` knows whether it runs: an address, a mounted file system or a volume group has no process, so
its cgroup is empty while it is up. Where a process stands in the cgroup, its end is an occasion to ask
`monitor` at once. Some processes leave the cgroup without ill will: whoever starts one through systemd or
through `su`, whose PAM modules open a session for it. A kill does not reach them, `stop` and `monitor` do.

An agent finds its own state by its instance's name (`OCF_RESOURCE_INSTANCE`), so that is made of the
service's name alone: an agent that is asked by a later leash answers for the same instance.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vipagent import probes_hooks
from vipagent.leash_children import Children, Ended, Housed, Program
from vipagent.leash_fence import Unsure
from vipagent.probes_hooks import last_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vipagent.leash_cgroups import Cgroup

ROOT: Final = Path("/usr/lib/ocf")
_AGENTS_TMP: Final = Path("/run/resource-agents")
"""Where agents keep what they remember (HA_RSCTMP); systemd-tmpfiles makes it, where there is one."""

_PERIOD_S: Final = (1.0, 10.0, 10.0)
"""Between two times that `monitor` is run: the least, the most, and where the meta-data do not say."""
_TIMEOUT_S: Final = (5.0, 30.0, 20.0)
"""How long one run of `monitor` may take, likewise."""
_SOON_S: Final = 1.0
_FALL: Final = 3
_MEANINGS: Final = {
    1: "generic error",
    2: "invalid parameters",
    3: "unimplemented action",
    4: "insufficient privileges",
    5: "not installed",
    6: "not configured",
    7: "not running",
    8: "running, promoted",
    9: "failed, promoted",
}
_UNIMPLEMENTED: Final = 3
_NOT_INSTALLED: Final = 5
_NOT_RUNNING: Final = 7
_RUNNING: Final = (0, 8)
_FAILED: Final = (1, 9)
"""What `monitor` says of what runs, but not as it should."""
_CANNOT: Final = (2, 3, 4, 5, 6)
"""What any action says that cannot be done on this node as it is."""
_REASON: Final = b"ocf-exit-reason:"
_MONITOR: Final = re.compile(r'<action\b[^>]*\bname\s*=\s*"monitor"[^>]*>')
_ATTRIBUTE: Final = re.compile(r'\b(depth|interval|timeout)\s*=\s*"\s*(\d+)\s*(ms|s|min|m|)\s*"')
_UNITS_S: Final = {"ms": 0.001, "s": 1, "": 1, "m": 60, "min": 60}


def refusal(root: Path, provider: str, kind: str) -> str | None:
    """Say why that agent may not be run on this node, None where it may."""
    for name in (provider, kind):
        if not name or "/" in name or name.startswith("."):
            return f"{name!r} is no name of a resource agent or of its provider"
    folder = root / "resource.d" / provider
    if not (folder / kind).exists():
        return (
            f"this node has no resource agent {provider}:{kind}: install it as {folder / kind}; many come "
            "with the package resource-agents"
        )
    return probes_hooks.refusal(folder, kind)


def pace(meta_data: str) -> tuple[float, float]:
    """Find in the end of an agent's meta-data how often to run `monitor`, and for how long, in seconds."""
    found: dict[str, float] = {}
    for action in _MONITOR.findall(meta_data):
        values = {name: int(number) * _UNITS_S[unit] for name, number, unit in _ATTRIBUTE.findall(action)}
        if values.pop("depth", 0) == 0:
            found = values
            break
    return _within(_PERIOD_S, found.get("interval")), _within(_TIMEOUT_S, found.get("timeout"))


def _within(bounds: tuple[float, float, float], value: float | None) -> float:
    least, most, default = bounds
    return default if value is None else max(least, min(most, value))


def words(output: bytes) -> str:
    """Return what an agent says at its end: the reasons that it gives as such, or else its last line."""
    reasons = [
        line.removeprefix(_REASON)
        for line in map(bytes.strip, output.splitlines())
        if line.startswith(_REASON)
    ]
    return last_line(b"; ".join(dict.fromkeys(reasons))) if reasons else last_line(output)


class Agent(Housed):
    """One start of what an agent holds: a `leash.Charge`."""

    def __init__(
        self,
        order: Mapping[str, Any],
        *,
        root: Path,
        title: str,
        children: Children,
        folder: Cgroup,
        environment: Mapping[str, str],
        objection: Callable[[], str | None],
        stop_within_s: Callable[[], float],
        is_left_over: bool,
    ) -> None:
        super().__init__(children, folder)
        self._provider: str = order["provider"]
        self._kind: str = order["type"]
        self._parameters: Mapping[str, str] = order.get("parameters", {})
        self._root = root
        self._instance = title.replace("/", ".")
        self._environment = environment
        self._objection = objection
        self._stop_within_s = stop_within_s
        self._is_left_over = is_left_over
        self._is_stopped = False
        self._cannot_monitor = False
        self._period_s, self._timeout_s = pace("")

    async def start(self, within_s: float) -> str | None:
        """Validate and start it, then ask `monitor` until it works."""
        waiting_for = f"{self._name} validate-all did not end within {within_s:g} s"
        try:
            async with asyncio.timeout(within_s):
                if self._folder.is_populated:
                    return "what an earlier start left is not gone yet"
                ended = await self._aside("validate-all", within_s)
                if ended.complaint is not None and ended.status != _UNIMPLEMENTED:
                    return ended.complaint
                self._period_s, self._timeout_s = pace((await self._aside("meta-data", within_s)).output)
                waiting_for = f"{self._name} start did not end within {within_s:g} s"
                complaint = await self._start(within_s)
                while complaint is None:
                    ended = await self._monitor(self._period_s)
                    if ended.status in _RUNNING:
                        break
                    waiting_for = f"it did not work within {within_s:g} s: {ended.complaint}"
                    await asyncio.sleep(_SOON_S)
        except TimeoutError:
            return waiting_for
        except OSError as error:
            return f"its cgroup cannot be used: {error}"
        self._has_processes = self._service.is_populated
        return complaint

    async def watch(self) -> str:
        """Return why it does not work any more: `monitor` failed too often."""
        failures = 0
        while True:
            await self._pause(self._period_s if failures == 0 else _SOON_S)
            ended = await self._monitor(self._period_s)
            failures = 0 if ended.status in _RUNNING else failures + 1
            if failures == _FALL:
                return f"it does not work: {ended.complaint}"

    async def stop(self) -> None:
        """Run `stop`, end what is left of its processes, and return when it is known to be stopped or not."""
        if self._main is not None:
            self._main.kill()  # a start that still runs must start nothing more
        if self._is_left_over:
            # Where there is no such agent, or not what it is for, it cannot have started anything either.
            is_here = (self._root / "resource.d" / self._provider / self._kind).exists()
            asked = await self._probe()
            self._is_stopped = not is_here or asked.status in (_NOT_RUNNING, _NOT_INSTALLED)
        is_to_stop = self._has_begun and not self._is_stopped
        stopping = await self._aside("stop", self._stop_within_s()) if is_to_stop else None
        self._service.terminate()
        await self._service.emptied()
        if stopping is not None:
            self._is_stopped = self._denies(await self._probe(), stopping)

    async def doubt(self) -> str | None:
        """Say why it may still run, None where `monitor` says that it does not."""
        if self._hanging is not None:
            return self._hanging
        if self._is_stopped or not self._has_begun:
            return None
        asked = await self._probe()
        if not self._denies(asked):
            # What was killed may have left a file that `monitor` takes for a failure; `stop` removes it.
            stopping = await self._aside("stop", self._stop_within_s())
            asked = await self._probe()
            if not self._denies(asked, stopping):
                said = asked.complaint or f"{self._name} monitor says that it runs"
                doubt = "; ".join(filter(None, (stopping.complaint, said)))
                # Where nothing was ever started, an agent that cannot run may say that it failed.
                is_sure = asked.status in _RUNNING or (asked.status in _FAILED and not self._is_left_over)
                return doubt if is_sure else Unsure(doubt)
        self._is_stopped = True
        return None

    @property
    def is_started(self) -> bool:
        """Whether it may run as far as is known: `start` was run, and may have done something."""
        if not self._has_begun or self._is_refused:
            return False
        return self._is_left_over or self._has_passed or not self._cannot_monitor

    @property
    def may_lack_processes(self) -> bool:
        """Whether only the agent can say that it does not run."""
        return self.is_started and not self._is_stopped

    @property
    def _name(self) -> str:
        return f"{self._provider}:{self._kind}"

    @property
    def _has_begun(self) -> bool:
        """Whether `start` was run, by this leash or by an earlier one, as far as is known."""
        if self._main is None:
            return self._is_left_over
        return not self._main.ended.done() or self._main.ended.result().has_run

    @property
    def _has_passed(self) -> bool:
        """Whether `start` said that it has started it, or was killed before it said anything."""
        return self._has_begun and self._start_status in (0, None)

    @property
    def _is_refused(self) -> bool:
        """Whether `start` said that it cannot start anything here."""
        return self._start_status in _CANNOT

    @property
    def _start_status(self) -> int | None:
        if self._main is None or not self._main.ended.done():
            return None
        return self._main.ended.result().status

    def _denies(self, asked: Ended, stopping: Ended | None = None) -> bool:
        """Tell whether `monitor`, run after `stop` where that was, says that nothing runs."""
        if asked.status == _NOT_RUNNING or (self._is_refused and asked.status in _CANNOT):
            return True
        is_sure = not self._has_passed or (stopping is not None and stopping.complaint is None)
        return asked.status == _NOT_INSTALLED and is_sure

    async def _start(self, within_s: float) -> str | None:
        self._service.make()
        program = self._program("start", within_s)
        self._main = self._children.start(program, cgroup=self._service, objection=self._objection)
        return (await asyncio.shield(self._main.ended)).complaint

    async def _pause(self, for_s: float) -> None:
        """Wait that long, but no longer than until the last of its processes has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                if not self._has_processes:
                    await asyncio.sleep(for_s)
                await self._service.emptied()
                self._has_processes = False

    async def _monitor(self, period_s: float) -> Ended:
        """Ask whether it works; with a period of 0 it is a probe, that asks whether it runs here at all."""
        return await self._aside("monitor", self._timeout_s, period_s=period_s)

    async def _probe(self) -> Ended:
        asked = await self._monitor(0)
        if asked.status is not None:  # one that does not answer is no news
            self._cannot_monitor = asked.status in _CANNOT
        return asked

    async def _aside(self, action: str, within_s: float, *, period_s: float = 0) -> Ended:
        try:
            async with asyncio.timeout(within_s):
                return await self._asides.run(self._program(action, within_s, period_s=period_s), action)
        except TimeoutError:
            return Ended(f"{self._name} {action} did not end within {within_s:g} s and was killed")

    def _program(self, action: str, within_s: float, *, period_s: float = 0) -> Program:
        return Program(
            f"{self._name} {action}",
            self._root / "resource.d" / self._provider / self._kind,
            (action,),
            {
                **self._environment,
                **{f"OCF_RESKEY_{name}": value for name, value in self._parameters.items()},
                "OCF_ROOT": str(self._root),
                "OCF_RA_VERSION_MAJOR": "1",
                "OCF_RA_VERSION_MINOR": "1",
                "OCF_RESOURCE_INSTANCE": self._instance,
                "OCF_RESOURCE_PROVIDER": self._provider,
                "OCF_RESOURCE_TYPE": self._kind,
                "OCF_CHECK_LEVEL": "0",
                "OCF_RESKEY_CRM_meta_name": action,
                "OCF_RESKEY_CRM_meta_timeout": str(round(within_s * 1000)),
                "OCF_RESKEY_CRM_meta_interval": str(round(period_s * 1000)),
            },
            refusal=self._refusal,
            meanings=_MEANINGS,
            words=words,
        )

    def _refusal(self) -> str | None:
        """Say in the new process why the agent may not be run."""
        with contextlib.suppress(OSError):  # an agent that needs it says so
            _AGENTS_TMP.mkdir(mode=0o755, exist_ok=True)
        return refusal(self._root, self._provider, self._kind)
