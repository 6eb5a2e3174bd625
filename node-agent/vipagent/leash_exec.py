"""Workloads that hooks start: what a start hook leaves running in its cgroup is the service.

A status hook that passes is what "works" means, and one that says no is believed when a stop hook failed.
Without one the service is what runs in its cgroup (`vipagent.leash_children` says where hooks run).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from vipagent.leash_children import Children, Ended, Housed, Program
from vipagent.leash_fence import Unsure
from vipagent.probes_hooks import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vipagent.leash_cgroups import Cgroup

_STATUS_S: Final = 5.0
_STATUS_PERIOD_S: Final = 1.0
_STATUS_FALL: Final = 3


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the hooks folder with its arguments."""

    name: str
    args: tuple[str, ...]

    @classmethod
    def read(cls, order: Mapping[str, Any] | None) -> Self | None:
        """Read what the keeper sends, or none."""
        return None if order is None else cls(order["hook"], tuple(order.get("args", ())))

    def program(self, hooks_dir: Path, environment: Mapping[str, str]) -> Program:
        """Return what is to be run."""
        return Program(
            f"hook {self.name}",
            hooks_dir / self.name,
            self.args,
            environment,
            refusal=lambda: refusal(hooks_dir, self.name),
        )


class Scripts(Housed):
    """One start of a workload that hooks start, watch and stop: a `leash.Charge`."""

    def __init__(
        self,
        order: Mapping[str, Any],
        *,
        hooks_dir: Path,
        children: Children,
        folder: Cgroup,
        environment: Mapping[str, str],
        objection: Callable[[], str | None],
        is_in_doubt: bool = False,
    ) -> None:
        super().__init__(children, folder)
        start = Hook.read(order["start"])
        assert start is not None
        self._start = start
        self._stop = Hook.read(order.get("stop"))
        self._status = Hook.read(order.get("status"))
        self._hooks_dir = hooks_dir
        self._environment = environment
        self._objection = objection
        self._is_in_doubt = is_in_doubt
        self._doubt = None if self._stop is None else f"hook {self._stop.name} has not run yet"

    async def start(self, within_s: float) -> str | None:
        """Run the start hook, then the status hook until it passes."""
        waiting_for = f"hook {self._start.name} did not end within {within_s:g} s"
        try:
            async with asyncio.timeout(within_s):
                complaint = await self._run_start()
                while complaint is None and self._status is not None:
                    status = await self._ask(self._status)
                    if status.complaint is None:
                        break
                    waiting_for = f"it did not work within {within_s:g} s: {status.complaint}"
                    await asyncio.sleep(_STATUS_PERIOD_S)
        except TimeoutError:
            return waiting_for
        except OSError as error:
            return f"its cgroup cannot be used: {error}"
        self._has_processes = self._service.is_populated
        if complaint is None and self._status is None and not self._has_processes:
            return (
                f"hook {self._start.name} left nothing running{self._last_words()}; what works without "
                "a process of its own needs a status hook"
            )
        return complaint

    async def watch(self) -> str:
        """Return why it does not work any more: it has ended, or its status hook failed too often."""
        watching = [asyncio.ensure_future(self._fail())]
        if self._has_processes:
            watching.append(asyncio.ensure_future(self._end()))
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for each in watching:
                each.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def stop(self) -> None:
        """Run the stop hook, ask what is left to end, and return when nothing is."""
        if self._main is not None:
            self._main.kill()  # a start hook that still runs must start nothing more
        if self._stop is not None and self._has_begun:
            self._doubt = f"hook {self._stop.name} did not end in time and was killed"
            self._doubt = (await self._run(self._stop, "stop")).complaint
        self._service.terminate()
        await self._service.emptied()

    async def doubt(self) -> str | None:
        """Say why it may still run, None where it is known to be stopped."""
        if self._hanging is not None:
            return self._hanging
        if not self._has_begun:
            return None
        if self._doubt is not None and self._status is not None and (await self._ask(self._status)).says_no:
            self._doubt = None
        if self._doubt is not None and self._main is None:
            return Unsure(self._doubt)  # of what an earlier leash left, which may be gone
        return self._doubt

    @property
    def is_started(self) -> bool:
        """Whether the start hook was run; where this leash has not come to that, an earlier one may have."""
        return self._main is None or self._has_begun

    @property
    def may_lack_processes(self) -> bool:
        """Whether it works without a process here, or did from its start on."""
        can_lack = self._stop is not None and self._status is not None
        return can_lack and self._has_begun and not self._has_processes

    @property
    def _has_begun(self) -> bool:
        """Whether the start hook was run, by this leash or by one that could not stop it."""
        if self._main is None:
            return self._is_in_doubt
        return not self._main.ended.done() or self._main.ended.result().has_run

    async def _run_start(self) -> str | None:
        if self._folder.is_populated:
            return "what an earlier start left is not gone yet"
        self._service.make()
        program = self._start.program(self._hooks_dir, self._environment)
        self._main = self._children.start(program, cgroup=self._service, objection=self._objection)
        return (await asyncio.shield(self._main.ended)).complaint

    async def _fail(self) -> str:
        failures = 0
        while self._status is not None:
            await asyncio.sleep(_STATUS_PERIOD_S)
            ended = await self._ask(self._status)
            failures = 0 if ended.complaint is None else failures + 1
            if failures == _STATUS_FALL:
                return f"it does not work: {ended.complaint}"
        forever: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await forever

    async def _end(self) -> str:
        await self._service.emptied()
        return f"it ended{self._last_words()}"

    def _last_words(self) -> str:
        line = "" if self._main is None else self._main.last_words()
        return f": {line}" if line else ""

    async def _ask(self, status: Hook) -> Ended:
        try:
            async with asyncio.timeout(_STATUS_S):
                return await self._run(status, "status")
        except TimeoutError:
            return Ended(f"hook {status.name} did not end within {_STATUS_S:g} s and was killed")

    async def _run(self, hook: Hook, name: str) -> Ended:
        return await self._asides.run(hook.program(self._hooks_dir, self._environment), name)
