"""What the agents of a domain see, taken together: who is alive, and who owns what.

Both are majorities of the domain's witnesses, as their nodes' VIPNodes report it. So the API server
is only the messenger: a node that cannot reach it, but whose peers hear it, is alive, and a node that
died while its last report still says "all is well" has one vote for itself out of three or five. Of an
owner only the grants count, not what it says of itself.

The limit of this: witnesses report changes, not heartbeats. When a majority of them dies at one
instant, nobody is left to report it, and the last reports stand. Nothing can be held then anyway.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipapi.resources import FailoverDomain
    from vipcontroller.world import World


class Grant(NamedTuple):
    """Who holds an address, and under which term."""

    holder: str
    term: int


class View(NamedTuple):
    """One domain as its witnesses see it. `owners` is by VirtualIP UID."""

    alive: frozenset[str]
    owners: Mapping[str, Grant]
    is_quorate: bool


def majority(count: int) -> int:
    """Return how many of `count` are more than half of them."""
    return count // 2 + 1


def view(world: World, domain: FailoverDomain) -> View:
    """Return what a majority of the domain's witnesses reports.

    Before there are witnesses every node with an agent in the domain counts as alive, and nothing is
    owned. A witness that has not joined the epoch yet knows nothing of anybody: it speaks against nobody.
    """
    witnesses = [witness.node_name for witness in domain.status.witnesses]
    reporting = frozenset(name for name in world.vip_nodes if world.domain_report(name, domain) is not None)
    if not witnesses:
        return View(reporting, {}, is_quorate=False)
    heard: Counter[str] = Counter()
    granted: Counter[tuple[str, Grant]] = Counter()
    for witness in witnesses:
        report = world.domain_report(witness, domain)
        if report is None:
            continue
        if report.epoch != domain.status.epoch:
            heard.update(reporting)
            continue
        heard.update({witness, *report.reachable_peers})
        granted.update({(grant.uid, Grant(grant.holder, grant.term)) for grant in report.grants})
    enough = majority(len(witnesses))
    owners: dict[str, Grant] = {}
    for (uid, grant), votes in granted.items():
        if votes >= enough and (uid not in owners or owners[uid].term < grant.term):
            owners[uid] = grant
    alive = frozenset(node for node, votes in heard.items() if votes >= enough)
    return View(alive, owners, is_quorate=len(alive.intersection(witnesses)) >= enough)
