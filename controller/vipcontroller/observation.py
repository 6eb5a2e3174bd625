"""What the agents of a domain see, taken together: who is alive, who owns what, what is buried.

All are majorities of the domain's witnesses, as their nodes' VIPNodes report it. So the API server is
only the messenger: a node that cannot reach it, but whose peers hear it, is alive, and a node that
died while its last report still says "all is well" has one vote for itself out of three or five. Of an
owner only the grants count, not what it says of itself.

Everything is reckoned by the configuration in force (`vipcontroller.epochs.recover`), which a status that
was wiped or restored does not tell. Who speaks for a witness, and for the API server's vote, is told by
`vipcontroller.voices`.

Nothing is buried by the API server's vote: it is a promise of the node that holds it, and a node that
missed the deletion may take it over later.

While witnesses change, a majority of both sets is asked; but in the first step, *joining*, of the former
ones alone. Keepers hear of the new set one after another, and those that have not yet need no other: so
whoever owns has their majority at any time, and nobody else can have it.

The limit of this: witnesses report changes, not heartbeats. When a majority of them dies at one
instant, nobody is left to report it, and the last reports stand. Nothing can be held then anyway.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.configuration import API_SERVER, Configuration, is_majority
from vipapi.resources import configuration_of
from vipcontroller import epochs
from vipcontroller.voices import strangers, voices

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Mapping
    from collections.abc import Set as AbstractSet
    from typing import TypeVar

    from vipapi.resources import FailoverDomain
    from vipcontroller.world import World

    Said = TypeVar("Said", bound=Hashable)


class Grant(NamedTuple):
    """Who holds an address, and under which term."""

    holder: str
    term: int


class View(NamedTuple):
    """One domain as its witnesses see it.

    `configuration` is the one in force. `owners` is by VirtualIP UID, `buried` are the tombstones that hold
    for ever, `tombstones` those that anybody reports; `can_bury` is whether enough nodes are there for it.
    `hearers` is by node, and by `API_SERVER`: the voters that hear it. `has_witnesses` is whether anything
    may ever have been granted.
    """

    alive: frozenset[str] = frozenset()
    owners: Mapping[str, Grant] = {}
    is_quorate: bool = False
    hearers: Mapping[str, frozenset[str]] = {}
    buried: frozenset[str] = frozenset()
    tombstones: frozenset[str] = frozenset()
    can_bury: bool = False
    has_witnesses: bool = False
    configuration: Configuration = Configuration()

    def heard_by(self, quorums: Collection[AbstractSet[str]]) -> frozenset[str]:
        """Return whom a majority of each of these quorums hears."""
        return _agreed(self.hearers, quorums)

    def is_there(self, quorum: frozenset[str]) -> bool:
        """Whether a majority of this quorum is there, as it sees itself."""
        return is_majority(self.heard_by((quorum,)), (quorum,))


def view(world: World, domain: FailoverDomain) -> View:
    """Return what majorities of the domain's witnesses report.

    Before there are witnesses every node with an agent in the domain counts as alive, and nothing is
    owned; but keepers that run a configuration which cannot be recovered may have granted anything. A
    witness that does not know yet that it is one knows nothing of anybody: it speaks against nobody.
    """
    reports = world.reports(domain)
    configuration = epochs.recover(domain.metadata.uid, configuration_of(domain.status), reports)
    if not configuration.epoch:
        has_witnesses = any(report.configuration.epoch for report in reports.values())
        return View(alive=frozenset(reports), has_witnesses=has_witnesses)
    quorums, deciding = configuration.quorums, _deciding(configuration)
    hearers: dict[str, set[str]] = {}
    granters: dict[tuple[str, Grant], set[str]] = {}
    buriers: dict[str, set[str]] = {}
    speaking = voices(reports, configuration)
    for voter, (node, report) in speaking.items():
        is_aware = any(voter in quorum for quorum in report.configuration.quorums)
        _note(hearers, {node, *report.reachable_peers} if is_aware else reports, voter)
        _note(granters, ((grant.uid, Grant(grant.holder, grant.term)) for grant in report.grants), voter)
        if voter != API_SERVER:
            _note(buriers, report.tombstones, voter)
    for node in strangers(reports, configuration):
        hearers.pop(node, None)
    if API_SERVER in speaking:
        hearers[API_SERVER] = hearers.get(speaking[API_SERVER].node, set())
    owners: dict[str, Grant] = {}
    for uid, grant in _agreed(granters, deciding):
        if uid not in owners or owners[uid].term < grant.term:
            owners[uid] = grant
    heard = _agreed(hearers, quorums)
    return View(
        alive=_agreed(hearers, deciding) - {API_SERVER},
        owners=owners,
        is_quorate=is_majority(heard, quorums),
        hearers={name: frozenset(voters) for name, voters in hearers.items()},
        buried=_agreed(buriers, quorums),
        tombstones=frozenset().union(*(report.tombstones for report in reports.values())),
        can_bury=is_majority(heard - {API_SERVER}, quorums),
        has_witnesses=True,
        configuration=configuration,
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
