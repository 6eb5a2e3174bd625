"""Tells the node's own programs what became of a service: `promoted`, `demoted`, `faulted`.

    promoted    every service of the address is active here, and the addresses are bound
    demoted     what was promoted has stopped with all that follow the address, and the addresses are gone
    faulted     the service did not start, died or failed its checks, or could not be stopped

They change nothing: nobody waits for them but the next hook of the same service. So each is free to hang,
fork or print without end: a process of its own runs them (`probes_hooks`), and kills what has not ended after
30 s. They delay neither lease nor services nor checks nor the hooks of another service.

Of one service one hook runs at a time, those of an event one after another whatever each says. A `promoted`
that something else overtakes is killed, or not begun; of several events of a kind that wait, the newest
counts. A keeper that stops lets them end for ten seconds more; one that dies tells nothing of what it left.

A hook gets `VIPKEEPER_EVENT`, `_SERVICE`, `_NODE`, `_VIRTUAL_IP`, `_TERM` and, what a fault says, `_MESSAGE`.
The term is the one in which the service was started: it only grows, so whoever keeps the greatest that it has
seen can tell a late `demoted` of a former owner from the newer `promoted` of another.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal

from vipagent import metrics
from vipagent.health import Result
from vipapi.nodestatus import HookStatus

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from vipapi.healthchecks import Exec
    from vipapi.nodeplan import ServicePlan

    RunHook = Callable[[Exec, Mapping[str, str]], Awaitable[Result]]

Kind = Literal["promoted", "demoted", "faulted"]

WITHIN_S: Final = 30.0
AT_END_S: Final = 10.0
AT_ONCE: Final = 200
_MESSAGE_LENGTH: Final = 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Occasion:
    """Something that became of a service in a term, for its hooks."""

    kind: Kind
    service: ServicePlan
    term: int
    virtual_ip: str
    message: str = ""

    @property
    def hooks(self) -> tuple[Exec, ...]:
        """What is to be run."""
        hooks: tuple[Exec, ...] = getattr(self.service.hooks, self.kind)
        return hooks


@dataclass(slots=True)
class _Line:
    """What one service's hooks are still to be told, the first of it now."""

    waiting: list[Occasion] = field(default_factory=list)
    running: Occasion | None = None
    telling: asyncio.Task[HookStatus] | None = None


async def no_hooks(hook: Exec, _: Mapping[str, str]) -> Result:
    """Run nothing."""
    return Result(is_ok=False, message=f"hook {hook.hook}: this keeper runs no hooks")


class EventHooks:
    """The events' hooks of one node. Used inside a running event loop.

    `run_hook` runs one with more environment until it ends; cancelling it kills the hook. `on_change` is
    called after a `status` has changed.
    """

    def __init__(
        self,
        run_hook: RunHook,
        *,
        node: str,
        on_change: Callable[[], None],
        within_s: float = WITHIN_S,
    ) -> None:
        self._run_hook = run_hook
        self._node = node
        self._on_change = on_change
        self._within_s = within_s
        self._lines: dict[str, _Line] = {}
        self._statuses: dict[str, HookStatus] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._is_closed = False

    def status(self, service_id: str) -> HookStatus | None:
        """Return what came of the last event of a service that has hooks for it."""
        return self._statuses.get(service_id)

    def keep(self, service_ids: Collection[str]) -> None:
        """Forget what came of the hooks of any other service."""
        self._statuses = {key: self._statuses[key] for key in self._statuses if key in service_ids}

    def tell(self, occasion: Occasion) -> None:
        """Run the hooks for it as soon as it is their turn."""
        service_id = occasion.service.id
        line = self._lines.get(service_id)
        if self._is_closed or (line is None and not occasion.hooks):
            return
        if line is None:
            line = self._lines[service_id] = _Line()
            task = asyncio.get_running_loop().create_task(self._serve(service_id, line))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        line.waiting = [each for each in line.waiting if each.kind not in (occasion.kind, "promoted")]
        line.waiting.append(occasion)
        if line.telling is not None and line.running is not None and line.running.kind == "promoted":
            line.telling.cancel()

    async def close(self) -> None:
        """Let what runs end for a while, then kill it; nothing more is told."""
        self._is_closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=AT_END_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, service_id: str, line: _Line) -> None:
        """Tell one service's hooks everything, in order."""
        while line.waiting:
            line.running = occasion = line.waiting.pop(0)
            if not occasion.hooks:
                continue
            line.telling = asyncio.get_running_loop().create_task(self._told(occasion))
            try:
                await asyncio.wait([line.telling])
            finally:
                line.telling.cancel()
            status = _overtaken(occasion) if line.telling.cancelled() else line.telling.result()
            metrics.event_hooks.labels(occasion.kind, "ok" if status.is_ok else "failed").inc()
            if not status.is_ok:
                _log.warning("%s of %s: %s", occasion.kind, occasion.service.title, status.message)
            self._statuses[service_id] = status
            self._on_change()
        del self._lines[service_id]

    async def _told(self, occasion: Occasion) -> HookStatus:
        environment = {
            "VIPKEEPER_EVENT": occasion.kind,
            "VIPKEEPER_SERVICE": occasion.service.title,
            "VIPKEEPER_NODE": self._node,
            "VIPKEEPER_VIRTUAL_IP": occasion.virtual_ip,
            "VIPKEEPER_TERM": str(occasion.term),
            "VIPKEEPER_MESSAGE": occasion.message.replace("\0", " ")[:_MESSAGE_LENGTH],
        }
        results = [await self._ended(hook, environment) for hook in occasion.hooks]
        failed = [result.message for result in results if not result.is_ok]
        said = [result.message for result in results if result.message]
        return _status(occasion, is_ok=not failed, message=(failed or said[-1:] or [""])[0])

    async def _ended(self, hook: Exec, environment: Mapping[str, str]) -> Result:
        """Run one hook and return how it ended; raises nothing but cancellation."""
        async with self._room:
            try:
                async with asyncio.timeout(self._within_s):
                    return await self._run_hook(hook, environment)
            except TimeoutError:
                why = f"did not end within {self._within_s:g} s and was killed"
            except Exception as error:  # noqa: BLE001 - a hook's odd end must not end the keeper
                why = f"could not be run: {str(error) or type(error).__name__}"
        return Result(is_ok=False, message=f"hook {hook.hook} {why}")


def _overtaken(occasion: Occasion) -> HookStatus:
    why = f"hook {occasion.hooks[0].hook} was killed, for the service was active no more before it had ended"
    return _status(occasion, is_ok=False, message=why)


def _status(occasion: Occasion, *, is_ok: bool, message: str) -> HookStatus:
    return HookStatus(
        kind=occasion.kind,
        term=occasion.term,
        is_ok=is_ok,
        message=message[:_MESSAGE_LENGTH],
        at=datetime.now(tz=UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    )
