"""Changes a domain's witnesses step by step, as the controller does: from the nodes' reports only.

The steps are the production controller's (`vipcontroller.epochs`); what stands around them is less than
the whole cluster (`cluster.py` has that), for speed. Reports outlive their nodes, and those of nodes that
cannot reach the API server stand still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vipagent.effects import MILLISECOND
from vipapi.resources import (
    FailoverDomain,
    FailoverDomainStatus,
    ObjectMeta,
    VIPNode,
    VIPNodeStatus,
    with_configuration,
)
from vipcontroller import epochs, observation
from vipcontroller.world import World as Seen

if TYPE_CHECKING:
    from simulation.world import World
    from vipapi.configuration import Configuration, WitnessSet
    from vipapi.nodestatus import DomainStatus

LOOK_NS: Final = 250 * MILLISECOND


class Registrar:
    """`wanted` is the witness set that the domain should come to."""

    def __init__(self, world: World, uid: str, *, spread_ns: int = 0) -> None:
        self.look_ns = LOOK_NS
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
            world.watch.note(f"epoch {after.epoch} is {told(after)}")
            world.publish(msgspec.structs.replace(domain, configuration=after), spread_ns=self.spread_ns)
        if self.is_settled:
            self._is_looking = False
        else:
            world.agenda.after(self.look_ns, self._look)

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
        """The production controller's step, from what was reported."""
        domain = FailoverDomain(
            metadata=ObjectMeta(name=self._uid, uid=self._uid),
            status=with_configuration(FailoverDomainStatus(), present),
        )
        nodes = {
            node: VIPNode(metadata=ObjectMeta(name=node), status=VIPNodeStatus(domains=(report,)))
            for node, report in self._reports.items()
        }
        seen = Seen(vip_nodes=nodes)
        step = epochs.advance(
            self._uid,
            present,
            self.wanted or present.witnesses,
            reports=seen.reports(domain),
            view=observation.view(seen, domain),
        )
        return None if step.configuration == present else step.configuration


def told(configuration: Configuration) -> str:
    """A configuration in words."""

    def listed(witnesses: WitnessSet) -> str:
        return "{" + " ".join(sorted(witnesses.names)) + "}"

    if configuration.former is None:
        return listed(configuration.witnesses)
    word = "sealing" if configuration.is_sealing else "joining"
    return f"{listed(configuration.former)} and {listed(configuration.witnesses)}, {word}"
