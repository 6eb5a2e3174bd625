"""Looks at units of the node's systemd for health checks: active passes.

`vipagent.units` is the door to systemd. Its D-Bus library is imported when the first such check is run, in a
thread, for that takes longer than a heartbeat, and most nodes have no such check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vipagent.health import Result
from vipagent.probes_threads import Threads

if TYPE_CHECKING:
    from vipagent.units import Units
    from vipapi.healthchecks import SystemdUnit


class UnitLooks:
    """Looks at units. Made anywhere; used inside one event loop."""

    def __init__(self) -> None:
        self._threads: Threads[Units] = Threads(1)
        self._units: Units | None = None

    async def ready(self) -> Units:
        """Have the library imported, once."""
        if self._units is None:
            self._units = await self._threads.run("dbus-fast", _open)
        return self._units

    async def look(self, probe: SystemdUnit) -> Result:
        """Ask systemd what the unit is now; waits as long as it takes to answer."""
        from vipagent.units import UnitError  # noqa: PLC0415 - by now it is imported

        units = await self.ready()
        try:
            state = await units.state(probe.unit)
        except UnitError as error:
            return Result(is_ok=False, message=f"unit {probe.unit}: {error}")
        if state.is_active:
            return Result(is_ok=True)
        return Result(is_ok=False, message=f"{probe.unit} is {state}: see `journalctl -u {probe.unit}`")

    async def close(self) -> None:
        """Let the connection to systemd go."""
        if self._units is not None:
            await self._units.close()


def _open() -> Units:
    from vipagent.units import Units  # noqa: PLC0415 - see above

    return Units()
