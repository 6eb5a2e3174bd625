"""What the agents of a domain see, taken together: who is alive, who owns what, what is buried.

All are majorities of the domain's witnesses, as their nodes' VIPNodes report it. So the API server is
only the messenger: a node that cannot reach it, but whose peers hear it, is alive, and a node that
died while its last report still says "all is well" has one vote for itself out of three or five. Of an
owner only the grants count, not what it says of itself.

Where the API server votes, the node that holds its vote speaks for it: the one whose report counts the
most transitions of that vote. Without such a node that vote is silent.

While witnesses change, a majority of both sets is asked; but in the first step, *joining*, of the former
ones alone. Keepers hear of the new set one after another, and those that have not yet need no other: so
whoever owns has their majority at any time, and nobody else can have it.

The limit of this: witnesses report changes, not heartbeats. When a majority of them dies at one
instant, nobody is left to report it, and the last reports stand. Nothing can be held then anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.configuration import API_SERVER, is_majority
from vipapi.resources import configuration_of

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Mapping
    from collections.abc import Set as AbstractSet
    from typing import TypeVar

    from vipapi.configuration import Configuration
    from vipapi.nodestatus import DomainStatus
    from vipapi.resources import FailoverDomain
    from vipcontroller.world import World

    Said = TypeVar("Said", bound=Hashable)


class Grant(NamedTuple):
    """Who holds an address, and under which term."""

    holder: str
    term: int


class Voice(NamedTuple):
    """Who speaks for a voter: the node itself, or the one that holds the API server's vote."""

    node: str
    report: DomainStatus


class View(NamedTuple):
    """One domain as its witnesses see it.

    `owners` is by VirtualIP UID, `buried` are the UIDs that no majority will ever grant again. `hearers`
    is by node, and by `API_SERVER`: the voters that hear it.
    """

    alive: frozenset[str] = frozenset()
    owners: Mapping[str, Grant] = {}
    is_quorate: bool = False
    hearers: Mapping[str, frozenset[str]] = {}
    buried: frozenset[str] = frozenset()
    has_witnesses: bool = False

    def heard_by(self, quorums: Collection[AbstractSet[str]]) -> frozenset[str]:
        """Return whom a majority of each of these quorums hears."""
        return _agreed(self.hearers, quorums)

    def is_there(self, quorum: frozenset[str]) -> bool:
        """Whether a majority of this quorum is there, as it sees itself."""
        return is_majority(self.heard_by((quorum,)), (quorum,))


def voices(reports: Mapping[str, DomainStatus], voters: Iterable[str]) -> Mapping[str, Voice]:
    """Return who speaks for each voter; nobody for one that has not reported."""
    holders = {node: report.vote_transitions for node, report in reports.items() if report.vote_transitions}
    speakers = {node: node for node in reports}
    if holders:
        speakers[API_SERVER] = max(sorted(holders), key=holders.__getitem__)
    return {voter: Voice(speakers[voter], reports[speakers[voter]]) for voter in voters if voter in speakers}


def spoken(voter: str) -> str:
    """Return how a voter is called in a sentence."""
    return "the API server" if voter == API_SERVER else voter


def view(world: World, domain: FailoverDomain) -> View:
    """Return what majorities of the domain's witnesses report.

    Before there are witnesses every node with an agent in the domain counts as alive, and nothing is
    owned. A witness that does not know yet that it is one knows nothing of anybody: it speaks against
    nobody.
    """
    configuration, reports = configuration_of(domain.status), world.reports(domain)
    if not configuration.epoch:
        return View(alive=frozenset(reports))
    quorums, deciding = configuration.quorums, _deciding(configuration)
    hearers: dict[str, set[str]] = {}
    granters: dict[tuple[str, Grant], set[str]] = {}
    buriers: dict[str, set[str]] = {}
    speaking = voices(reports, frozenset().union(*quorums))
    for voter, (node, report) in speaking.items():
        is_aware = any(voter in quorum for quorum in report.configuration.quorums)
        _note(hearers, {node, *report.reachable_peers} if is_aware else reports, voter)
        _note(granters, ((grant.uid, Grant(grant.holder, grant.term)) for grant in report.grants), voter)
        _note(buriers, report.tombstones, voter)
    if API_SERVER in speaking:
        hearers[API_SERVER] = hearers.get(speaking[API_SERVER].node, set())
    owners: dict[str, Grant] = {}
    for uid, grant in _agreed(granters, deciding):
        if uid not in owners or owners[uid].term < grant.term:
            owners[uid] = grant
    return View(
        alive=_agreed(hearers, deciding) - {API_SERVER},
        owners=owners,
        is_quorate=is_majority(_agreed(hearers, quorums), quorums),
        hearers={name: frozenset(voters) for name, voters in hearers.items()},
        buried=_agreed(buriers, quorums),
        has_witnesses=True,
    )


def _deciding(configuration: Configuration) -> tuple[frozenset[str], ...]:
    """Return the quorums of which every owner has a majority, also one that is an epoch behind."""
    if configuration.former is not None and not configuration.is_sealing:
        return (configuration.former.names,)
    return configuration.quorums


def _note(by_said: dict[Said, set[str]], said: Iterable[Said], voter: str) -> None:
    for each in said:
        by_said.setdefault(each, set()).add(voter)


def _agreed(
    by_said: Mapping[Said, AbstractSet[str]], quorums: Collection[AbstractSet[str]]
) -> frozenset[Said]:
    return frozenset(said for said, voters in by_said.items() if is_majority(voters, quorums))
