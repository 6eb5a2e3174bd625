"""Which witnesses a domain should have: its present ones, unless others would survive more.

The best set has as many nodes as `spec.witnesses.count` says, or as there are, and always an odd number
of votes, for an even one survives no more losses than the odd one below. Of two nodes and the API server
that makes three votes. Without the API server's vote one of the two is the only witness: the loss of the
other is survived then, where two votes that must agree would survive no loss at all.

A change costs four epochs, so the present witnesses stay while they survive as many more losses as the
best set would. So one that is lost (not heard for long) is replaced as soon as a living node or the API
server can take its place, and waited for otherwise. One that is gone (its Node object was removed, or
the selectors do not select it any more) is not waited for. The API server's vote, which is slow, goes
when three nodes can vote.

Witnesses that stay are kept, the others spread over zones (the label `topology.kubernetes.io/zone`):
every place goes to the zone with the fewest. Which zone and which node come first among equals is told
by a hash of domain and name, so that the witnesses of many domains do not all sit on the same nodes and
the same cluster always gives the same answer.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from vipapi.configuration import API_SERVER, Member, WitnessSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

ZONE_LABEL = "topology.kubernetes.io/zone"
TWO_NODES = 2
TWO_NODES_AND_API_SERVER = 3


class Voter(NamedTuple):
    """A node that can be a witness now, or that is one and is not given up."""

    member: Member
    zone: str = ""


class Rules(NamedTuple):
    """What the spec says of witnesses; `most` is its `count`."""

    domain_uid: str
    most: int
    may_api_server_vote: bool


def choose(
    rules: Rules, present: WitnessSet, voters: Sequence[Voter], *, gone: AbstractSet[str] = frozenset()
) -> WitnessSet:
    """Return the wanted witnesses, by name.

    Of the `present` ones those that are lost or gone are not among the `voters`; an empty set has none.
    """
    best = _best(rules, present, voters)
    if present.names and not best.names:
        return present
    if not present.names or not _stays(rules, present, best, voters, gone):
        return best
    current = {voter.member.node: voter.member for voter in voters}
    members = (current.get(member.node, member) for member in present.members)
    return WitnessSet(_ordered(members), present.has_api_vote)


def _best(rules: Rules, present: WitnessSet, voters: Sequence[Voter]) -> WitnessSet:
    if len(voters) == TWO_NODES and rules.may_api_server_vote and rules.most >= TWO_NODES_AND_API_SERVER:
        return WitnessSet(_ordered(voter.member for voter in voters), has_api_vote=True)
    places = min(rules.most, len(voters) - (len(voters) + 1) % 2) if voters else 0
    chosen: list[Voter] = []
    left = list(voters)
    while len(chosen) < places:
        per_zone = Counter(voter.zone for voter in chosen)
        left.sort(
            key=lambda voter: (
                voter.member.node not in present.names,
                per_zone[voter.zone],
                _hash(rules.domain_uid, "zone", voter.zone),
                _hash(rules.domain_uid, "node", voter.member.node),
            )
        )
        chosen.append(left.pop(0))
    return WitnessSet(_ordered(voter.member for voter in chosen))


def _stays(
    rules: Rules, present: WitnessSet, best: WitnessSet, voters: Sequence[Voter], gone: AbstractSet[str]
) -> bool:
    if len(present.names) > rules.most:
        return False
    if present.has_api_vote and (not rules.may_api_server_vote or len(voters) > TWO_NODES):
        return False
    usable = frozenset({API_SERVER, *(voter.member.node for voter in voters)})
    gain = _spare(best, usable) - _spare(present, usable)
    return gain < 0 if gone & present.names else gain <= 0


def _spare(witnesses: WitnessSet, usable: AbstractSet[str]) -> int:
    """Return how many more voters may be lost; below 0 there is no majority already."""
    names = witnesses.names
    return len(names & usable) - (len(names) // 2 + 1)


def _ordered(members: Iterable[Member]) -> tuple[Member, ...]:
    return tuple(sorted(members, key=lambda member: member.node))


def _hash(*words: str) -> bytes:
    return hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest()
