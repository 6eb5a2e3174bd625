"""Changes a domain's witnesses step by step, as the controller does: from the nodes' reports only.

    single ──▶ joining ──▶ sealing ──▶ single            (`vipapi.configuration` says why)

It stands in for the controller where a whole API server would be too slow; `cluster.py` has the real
one. Reports outlive their nodes, and those of nodes that cannot reach the API server stand still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vipagent.effects import MILLISECOND
from vipapi.configuration import API_SERVER, Configuration, WitnessSet

if TYPE_CHECKING:
    from simulation.world import World
    from vipapi.nodestatus import DomainStatus

_LOOK_NS: Final = 250 * MILLISECOND


class Registrar:
    """`wanted` is the witness set that the domain should come to."""

    def __init__(self, world: World, uid: str, *, spread_ns: int = 0) -> None:
        self.wanted: WitnessSet | None = None
        self.spread_ns = spread_ns
        self.is_away = False
        self._world = world
        self._uid = uid
        self._reports: dict[str, DomainStatus] = {}
        self._is_looking = False

    def want(self, wanted: WitnessSet) -> None:
        self.wanted = wanted
        if not self._is_looking:
            self._is_looking = True
            self._look()

    @property
    def is_settled(self) -> bool:
        configuration = self._world.domains[self._uid].configuration
        return configuration.former is None and self.wanted in (None, configuration.witnesses)

    def _look(self) -> None:
        world = self._world
        self._read()
        domain = world.domains[self._uid]
        after = None if self.is_away else self._next(domain.configuration)
        if after is not None:
            after = after.sealed(self._uid)
            world.watch.note(f"epoch {after.epoch} is {told(after)}")
            world.publish(msgspec.structs.replace(domain, configuration=after), spread_ns=self.spread_ns)
        if self.is_settled:
            self._is_looking = False
        else:
            world.agenda.after(_LOOK_NS, self._look)

    def _read(self) -> None:
        for machine in self._world.machines.values():
            keeper = machine.keeper
            if keeper is None or machine.is_cut_from_api or self._uid not in keeper.seats:
                continue
            if keeper.frozen_until_ns <= self._world.agenda.now_ns and not machine.is_paused:
                self._reports[machine.name] = keeper.seats[self._uid].status(
                    heartbeat_address="", now_ns=machine.now()
                )

    def _next(self, present: Configuration) -> Configuration | None:
        wanted = self.wanted or present.witnesses

        def later(witnesses: WitnessSet, former: WitnessSet | None, *, is_sealing: bool) -> Configuration:
            return Configuration(
                epoch=present.epoch + 1,
                former_hash=present.hash,
                witnesses=witnesses,
                former=former,
                is_sealing=is_sealing,
            )

        if wanted != present.witnesses:
            return later(wanted, present.former or present.witnesses, is_sealing=False)
        if present.former is None:
            return None
        there = {
            node: report
            for node, report in self._reports.items()
            if (report.configuration.epoch, report.configuration.hash) == (present.epoch, present.hash)
        }
        if any(report.behind for report in there.values()):
            return None
        if not present.is_sealing:
            are_there = all(self._votes(names, set(there)) for names in present.quorums)
            return later(present.witnesses, present.former, is_sealing=True) if are_there else None
        drained = {node for node, report in there.items() if report.drained_epoch >= present.epoch}
        old = present.former.names
        floor = max((there[node].term_floor for node in drained & old), default=0)
        high = {node for node, report in there.items() if report.term_floor >= floor}
        if self._votes(old, drained) and self._votes(present.witnesses.names, high):
            return later(present.witnesses, None, is_sealing=False)
        return None

    def _votes(self, names: frozenset[str], voters: set[str]) -> bool:
        """Whether they are a majority; the API server speaks through the newest holder of its vote."""
        holders = [(report.vote_transitions, node) for node, report in self._reports.items()]
        transitions, holder = max(holders, default=(0, ""))
        speaks = {API_SERVER} if transitions and holder in voters else set()
        return 2 * len(names & (voters | speaks)) > len(names)


def told(configuration: Configuration) -> str:
    """A configuration in words."""

    def listed(witnesses: WitnessSet) -> str:
        return "{" + " ".join(sorted(witnesses.names)) + "}"

    if configuration.former is None:
        return listed(configuration.witnesses)
    word = "sealing" if configuration.is_sealing else "joining"
    return f"{listed(configuration.former)} and {listed(configuration.witnesses)}, {word}"
