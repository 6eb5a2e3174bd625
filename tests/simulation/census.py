"""Who runs what, in true time: at no instant may there be two copies of a program.

A copy counts from the moment at which its start begins until its last process is gone. What there must not
be two of is the program, by whatever service's name it was started, and on one machine as well as on two.

Two things are outside the promise (docs/services.md, "What this rests on"):

- copies of a machine that stands still as a whole, and for `GRACE_NS` after it goes on;
- what was killed and hangs in the kernel, but for those who were told so by the machine: they must wait.

A node that says to another that it runs no copy has none; and what it runs for one address, it has started in
one tenure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Collection

    from simulation.keeper import Keeper
    from simulation.leash import Copy
    from simulation.machine import Machine
    from simulation.watch import Watch

GRACE_NS: Final = 15 * MILLISECOND


class Census:
    """All copies of the world. `moves` counts starts and ends."""

    def __init__(self, watch: Watch) -> None:
        self.moves = 0
        self._watch = watch
        self._running: dict[str, list[Copy]] = {}
        self._told: dict[tuple[Keeper, str], set[str]] = {}

    def began(self, copy: Copy) -> None:
        self.moves += 1
        self._watch.note(f"{copy.machine.label} runs {copy.program}")
        self._running.setdefault(copy.program, []).append(copy)
        self._compare(copy)
        self._look_for_hanging(copy)
        self._look_for_former(copy)

    def ended(self, copy: Copy) -> None:
        self.moves += 1
        self._watch.note(f"{copy.machine.label} runs {copy.program} no more")
        self._running[copy.program].remove(copy)

    def look_at(self, machine: Machine) -> None:
        """It has gone on after a pause, and has had time to notice."""
        for copies in self._running.values():
            for copy in copies:
                if copy.machine is machine:
                    self._compare(copy)

    def where(self, program: str) -> list[str]:
        """Where it runs."""
        return [copy.machine.label for copy in self._running.get(program, ())]

    def _compare(self, copy: Copy) -> None:
        if not copy.service.is_singleton:
            return
        for other in self._running[copy.program]:
            if other is copy or (_is_excused(other.machine) and other.machine is not copy.machine):
                continue
            if _is_excused(copy.machine) and other.machine is not copy.machine:
                continue
            self._watch.fail(f"{copy.program} runs on {other.machine.label} and on {copy.machine.label}")

    def _look_for_former(self, copy: Copy) -> None:
        """What follows one address on one node was started in one tenure."""
        (virtual_ip, term), machine = copy.tenure, copy.machine
        for other in machine.copies:
            if other.is_running and other.tenure[0] == virtual_ip and other.tenure[1] != term:
                self._watch.fail(
                    f"{copy.program} runs on {machine.label} in term {term} of {virtual_ip} beside "
                    f"{other.program} of term {other.tenure[1]}"
                )

    def answered(self, machine: Machine, vacant: Collection[str]) -> None:
        """A node says that it runs none of these: it is so."""
        for copy in machine.copies:
            if copy.service.id in vacant and (copy.is_running or copy.is_hanging):
                self._watch.fail(f"{machine.label} says that it does not run {copy.service.name}")

    def told(self, keeper: Keeper, node: str, stuck: Collection[str], vacant: Collection[str]) -> None:
        """A node has told that keeper which services it could not stop."""
        for service_id in stuck:
            self._told.setdefault((keeper, service_id), set()).add(node)
        for service_id in vacant:
            self._told.get((keeper, service_id), set()).discard(node)

    def _look_for_hanging(self, copy: Copy) -> None:
        keeper = copy.machine.keeper
        if keeper is None or not copy.service.is_singleton:
            return
        told = self._told.get((keeper, copy.service.id), set())
        for machine in copy.machine.world.machines.values():
            if machine.name not in told and machine is not copy.machine:
                continue
            if any(each.is_hanging and each.service.id == copy.service.id for each in machine.copies):
                self._watch.fail(f"{copy.machine.label} runs {copy.program}, which hangs on {machine.label}")


def _is_excused(machine: Machine) -> bool:
    return machine.is_paused or machine.world.agenda.now_ns < machine.went_on_ns + GRACE_NS
