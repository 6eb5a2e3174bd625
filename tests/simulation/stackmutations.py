"""The rules of `vipagent.workload` switched off, one at a time: each a stack, or a leash, that lacks one.

As in `mutations.py`; a stack is given a subclass, and what stands around it is production code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from simulation.clock import SECOND
from simulation.leash import Copy
from vipagent.workload import Stack
from vipagent.workloads import Workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from simulation.world import World
    from vipagent.runs import Outcome
    from vipapi.nodeplan import ServicePlan


def stack_with(mutant: type[Stack]) -> Callable[[World], None]:
    """A world whose stacks are of this type."""

    class Mutant(Workloads):
        def _stack(self, *arguments: Any) -> Stack:
            stack = super()._stack(*arguments)
            stack.__class__ = mutant
            return stack

    def alter(world: World) -> None:
        world.workloads_type = Mutant

    return alter


class NeverWaits(Stack):
    """Rule 1: the time in which another node's leash ends its copy is over at once."""

    def own(self, term: int, since_ns: int, now_ns: int, *arguments: Any, **more: Any) -> None:
        super().own(term, since_ns - 3600 * SECOND, now_ns, *arguments, **more)


class WaitsForExactClocks(Stack):
    """Rule 1: it waits for the stop timeout, with no room for clocks that run apart."""

    def own(self, term: int, since_ns: int, now_ns: int, *arguments: Any, **more: Any) -> None:
        longest_ns = max((each.stop_timeout_ms for each in self._plans.values()), default=0) * 1_000_000
        room_ns = since_ns - now_ns + SECOND + longest_ns * 2 // 9
        super().own(term, since_ns - room_ns, now_ns, *arguments, **more)


class ForgetsTheFormer(Stack):
    """Rule 1: the owner before this one is not asked, if it is no candidate."""

    def own(self, term: int, since_ns: int, now_ns: int, former: str | None = None, **more: Any) -> None:  # noqa: ARG002 - it is what is forgotten
        super().own(term, since_ns, now_ns, None, **more)


class ForgetsFormerCandidates(Stack):
    """Rule 1: who is a candidate no more is not asked."""

    def assign(
        self, services: tuple[ServicePlan, ...], others: frozenset[str], now_ns: int, **more: Any
    ) -> None:
        super().assign(services, others, now_ns, **more)
        for copy in self._copies.values():
            copy.suspects = {node: copy.suspects[node] for node in copy.suspects if node in others}


class HeedsNoDenial(Stack):
    """Rule 1: who says that it could not stop its copy is waited for as any other."""

    def deny(self, *arguments: Any, **more: Any) -> None:
        pass


class GoesOnWithoutTheLease(Stack):
    """Rule 2: what runs is left running when the lease is lost."""

    def lose(self, now_ns: int) -> None:
        super().lose(now_ns)
        for copy in self._copies.values():
            if copy.state == "Stopping" and copy.due_ns == now_ns:
                copy.due_ns = 1 << 62


class OverlooksLeftovers(Workloads):
    """Rule 2: what an earlier keeper left behind is not counted."""

    async def start_clean(self, *arguments: Any) -> None:
        await super().start_clean(*arguments)
        self._leftovers = frozenset()


class VacantTooEarly(Stack):
    """Rule 3: what is being stopped counts as stopped."""

    @property
    def is_vacant(self) -> bool:
        return not any(copy.is_up for copy in self._copies.values())


class DeniesWhatStops(Stack):
    """Rule 3: what is being stopped is not told of."""

    def runs(self, service_ids: Any) -> frozenset[str]:
        return frozenset(each for each in super().runs(service_ids) if self._copies[each].state != "Stopping")


class AnyTenureCounts(Stack):
    """Rule 4: an answer counts whatever term it names."""

    def confirm(self, node: str, service_ids: Collection[str], now_ns: int, *, term: int) -> None:
        super().confirm(node, service_ids, now_ns, term=self._term or term)


class RemembersOtherTenures(Stack):
    """Rule 4: who was known to run none is so in the next tenure as well."""

    def own(self, *arguments: Any, **more: Any) -> None:
        cleared = {
            key: [node for node, suspect in copy.suspects.items() if suspect.is_cleared]
            for key, copy in self._copies.items()
        }
        super().own(*arguments, **more)
        for key, nodes in cleared.items():
            for node in nodes:
                self._copies[key].suspects[node].is_cleared = True


class AnyRunCounts(Stack):
    """Rule 5: an outcome counts whatever run it names."""

    def receive(self, outcome: Outcome, now_ns: int) -> None:
        copy = self._copies.get(outcome.service_id)
        super().receive(outcome if copy is None else replace(outcome, run=copy.run), now_ns)


class NeverDrains(Stack):
    """Rule 6: the next tenure's services start beside what the last one's has not stopped."""

    def lose(self, now_ns: int) -> None:
        super().lose(now_ns)
        self._is_draining = False


class StartsBesideTheFormer(Stack):
    """Rule 6: neither what is planned no more need be gone, nor the same program by another name."""

    @property
    def _is_unfinished(self) -> bool:
        return self._is_draining

    def _is_here_still(self, service: ServicePlan) -> bool:
        return service.id in self._elsewhere


class StopsBeneathTheAddress(Stack):
    """Rule 8: the address stays bound until the lease is lost."""

    @property
    def may_bind(self) -> bool:
        return self._is_bound or super().may_bind


def _altered(**types: type) -> Callable[[World], None]:
    def alter(world: World) -> None:
        for name, each in types.items():
            setattr(world, name, each)

    return alter


class StopsFromTheOrder(Copy):
    """Leash: an order that is read after the lease's end gives the whole stop timeout again."""

    def _asked_ns(self, now_ns: int) -> int:
        return now_ns


class KilledByTheKeeperOnly(Copy):
    """Leash: what the lease's end stops is killed only when the keeper asked as well."""

    def kill(self) -> None:
        if self.machine.keeper is not None:
            super().kill()


OTHERS: Mapping[str, Callable[[World], None]] = {
    "leftovers": _altered(workloads_type=OverlooksLeftovers),
    "orders": _altered(copy_type=StopsFromTheOrder),
    "leash": _altered(copy_type=KilledByTheKeeperOnly),
}
