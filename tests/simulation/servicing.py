"""What a simulated domain goes through whose addresses are followed by services, and what must hold.

As in `torment.py`; and in true time there are never two copies of a program (`census.py`). After healing
every address is on one node within what the protocol allows, and within what rule 1 of `vipagent.workload`
adds its services run there, and nowhere else. Where services failed their nodes are kept off for a while, up
to ten minutes, so it may take as long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from simulation.clock import SECOND
from simulation.leash import Nature
from simulation.mixes import SERVICES, Mix
from simulation.servicefaults import ServiceFaults
from simulation.torment import Torment
from vipagent.effects import MILLISECOND
from vipagent.holdoff import LONGEST_HOLD_OFF_S

if TYPE_CHECKING:
    from simulation.faults import Faults

_STEP_NS: Final = SECOND // 2
_LONGEST_WAIT_NS: Final = 15 * SECOND
_STARTS_NS: Final = 10 * SECOND


class Servicing(Torment):
    """One run."""

    mixes: ClassVar[dict[str, Mix]] = SERVICES
    faults_type: ClassVar[type[Faults]] = ServiceFaults
    most_ns: ClassVar[int] = 1500 * MILLISECOND

    def __init__(self, mix: str, seed: int, **more: Any) -> None:
        super().__init__(mix, seed, **more)
        assert self.mix.nature is not None
        self.nature = self.mix.nature
        self.world.nature = self.nature

    def _heal(self) -> None:
        self.world.nature = Nature()
        for machine in self.world.machines.values():
            machine.ailing.clear()
        super()._heal()

    def _check(self) -> None:
        world = self.world
        patience_ns = self._patience_ns() + _LONGEST_WAIT_NS + _STARTS_NS
        if self.nature.may_fail:
            patience_ns += (LONGEST_HOLD_OFF_S + 60) * SECOND
        until_ns = world.agenda.now_ns + patience_ns
        while wrong := self._wrong():
            if world.agenda.now_ns > until_ns:
                world.watch.fail(f"long after healing: {wrong}")
            world.run_for(_STEP_NS)

    def _wrong(self) -> str:
        for vip in self.faults.vips:
            owners = self.world.watch.owners(vip.addresses[0].partition("/")[0])
            if len(owners) != 1:
                return f"{vip.name} is open on {owners}"
            for service in vip.services:
                assert service.workload.exec is not None
                where = self.world.census.where(service.workload.exec.start.hook)
                if where != owners:
                    return f"{service.name} runs on {where}, and its address is on {owners}"
            [owner] = owners
            keeper = self.world.machines[owner].keeper
            assert keeper is not None
            assert keeper.serving is not None
            if vip.services and vip.uid not in keeper.serving.workloads.active:
                return f"the services of {vip.name} are not active on {owner}"
        return ""

    def _stay(self, duration_ns: int) -> None:
        self.world.run_for(3 * SECOND)
        before = self.world.census.moves
        super()._stay(duration_ns)
        if before != self.world.census.moves:
            self.world.watch.fail("in peace a program was started or ended")
