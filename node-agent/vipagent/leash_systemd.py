"""Workloads that are units of the node's systemd, as the leash holds them.

What is told of a unit is what systemd says (`vipagent.units`). While systemd does not answer nothing is known
of it, which is neither an end nor a death: it is asked again. But a unit that systemd was never asked to
start, or refused to, is not ours: it is neither stopped nor doubted.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from vipagent.leash_fence import Unsure
from vipagent.units import UnitError, Units

if TYPE_CHECKING:
    from collections.abc import Callable

_AGAIN_S: Final = 1.0
_LOOK_S: Final = 0.05
_DISCARD_S: Final = 3.0


class Unit:
    """One start of a unit: a `leash.Charge`."""

    def __init__(
        self,
        name: str,
        *,
        units: Units,
        stop_within_s: Callable[[], float],
        objection: Callable[[], str | None],
        is_left_over: bool,
    ) -> None:
        self._name = name
        self._units = units
        self._stop_within_s = stop_within_s
        self._objection = objection
        self._is_left_over = is_left_over
        self._has_begun = False
        self._killing: asyncio.Task[None] | None = None

    async def start(self, within_s: float) -> str | None:
        """Start it and wait until it is active."""
        if (why_not := self._objection()) is not None:
            return why_not
        try:
            await self._units.start(self._name, within_s, on_request=self._begin)
        except UnitError as error:
            return str(error)
        return None

    async def watch(self) -> str:
        """Return when it is not active any more, also when systemd is about to start it again."""
        known = None
        while True:
            try:
                known = await (
                    self._units.state(self._name) if known is None else self._units.change(self._name, known)
                )
            except UnitError:
                await asyncio.sleep(_AGAIN_S)
                continue
            if not known.is_active:
                return f"{self._name} is {known}: see `journalctl -u {self._name}`"

    async def stop(self) -> None:
        """Have systemd stop it."""
        if not self.is_started:
            return
        with contextlib.suppress(UnitError):  # `doubt` says what is left
            await self._units.stop(self._name, self._stop_within_s())

    async def doubt(self) -> str | None:
        """Say what of it still runs, as far as systemd knows."""
        if not self.is_started:
            return None
        try:
            state = await self._units.state(self._name)
            pids = await self._units.processes(self._name)
        except UnitError as error:
            return Unsure(error)
        if state.is_resting and not pids:
            return None
        return f"{self._name} was killed and is {state} (processes: {', '.join(map(str, pids)) or 'none'})"

    def kill(self) -> None:
        """Have systemd kill it."""
        if self.is_started and (self._killing is None or self._killing.done()):
            self._killing = asyncio.get_running_loop().create_task(self._kill())

    async def gone(self) -> None:
        """Return when systemd says that nothing of it runs."""
        while await self.doubt() is not None:  # noqa: ASYNC110 - the end of its processes is told by no signal
            await asyncio.sleep(_LOOK_S)

    async def discard(self) -> None:
        """Wait until nothing that was asked for here can hit a later start of it."""
        if self._killing is not None:
            with contextlib.suppress(TimeoutError):  # a systemd that is silent must not keep others waiting
                await asyncio.wait_for(self._killing, _DISCARD_S)

    @property
    def has_processes(self) -> bool:
        """Whether it has processes in a cgroup of ours; they are systemd's."""
        return False

    @property
    def may_lack_processes(self) -> bool:
        """Whether it may run though systemd says that it does not: never."""
        return False

    @property
    def is_started(self) -> bool:
        """Whether systemd may have been asked to start it, for this leash or for an earlier one."""
        return self._has_begun or self._is_left_over

    def _begin(self, is_requested: bool) -> None:  # noqa: FBT001 - as `Units.start` tells it
        self._has_begun = is_requested

    async def _kill(self) -> None:
        with contextlib.suppress(UnitError):
            await self._units.kill(self._name)
