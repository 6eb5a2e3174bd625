"""How near to trouble the domains and the addresses are: numbers that alerts are made of.

They are of the moment, and decide nothing. A domain's *spare* witnesses are those that may still fall silent
before nobody may hold an address any more: 0 where the next one is the end, less where that has come. The
API server's vote counts as there, for it is the API server that tells us all this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.candidates import members
from vipapi.configuration import API_SERVER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipapi.nodestatus import HoldingStatus
    from vipcontroller.observation import View
    from vipcontroller.world import World


class DomainVitals(NamedTuple):
    """One domain: its witnesses, how many of them are heard by a majority, how many are to spare, its agents.

    `agents` says of every node of the domain whether its node-agent is heard; of a domain that cannot be read
    nobody knows the nodes. `spare` is None where there are no witnesses yet.
    """

    name: str
    witnesses: int
    heard: int
    spare: int | None
    agents: Mapping[str, bool]


class Vitals(NamedTuple):
    """All domains, and by the name of each VirtualIP how many nodes that are heard say that they hold it."""

    domains: tuple[DomainVitals, ...] = ()
    holders: Mapping[str, int] = {}


def vitals(
    world: World, views: Mapping[str, View], holdings: Mapping[str, Mapping[str, HoldingStatus]]
) -> Vitals:
    """Return them; `views` are by the domains' names, `holdings` by VirtualIP UID and node."""
    domains = []
    for name in (*world.domains, *(name for name in world.unread_domains if name in views)):
        domain, view = world.domains.get(name), views[name]
        quorums = view.configuration.quorums if view.configuration.epoch else ()
        voters = frozenset[str]().union(*quorums)
        heard = (view.heard_by(quorums) | {API_SERVER}) & voters if quorums else frozenset[str]()
        agents = {
            node.metadata.name: node.metadata.name in view.alive
            for node in (() if domain is None else members(domain.spec, world.nodes.values()))
            if not node.metadata.is_deleting
        }
        spare = min((len(heard & quorum) - len(quorum) // 2 - 1 for quorum in quorums), default=None)
        domains.append(DomainVitals(name, len(voters), len(heard), spare, agents))
    alive = {name: view.alive for name, view in views.items()}
    holders = {
        virtual_ip.metadata.name: sum(
            holding.state == "Owner" and node in alive.get(virtual_ip.spec.domain, ())
            for node, holding in holdings.get(virtual_ip.metadata.uid, {}).items()
        )
        for virtual_ip in world.virtual_ips
    }
    return Vitals(tuple(domains), holders)
