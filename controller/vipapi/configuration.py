"""Which keepers vote in a domain, under which epoch, and how two configurations stand to each other.

A configuration has one set of witnesses, or two while they change: then a majority of each must agree.
A change takes four epochs, each written once, by one writer, with compare-and-swap:

    e {S}  ──▶  e+1 {S and S'} joining  ──▶  e+2 {S and S'} sealing  ──▶  e+3 {S'}

Consecutive configurations share a set, so any two majorities that they ask for share a witness. `e` and
`e+3` share none, and never meet: a keeper serves its own epoch and its two neighbours, so one that is at
`e+2` never again grants under `e`; and `e+3` is not written before a majority of S is at `e+2` and every
grant that it made before has run out. (Joint quorums as in Raft, Ongaro 2014, 4.3, in the form that
leaves time for a new epoch to spread.)

Each configuration carries a hash of its content and the hash of the one before, so that two that claim
the same epoch can be told apart, and a stranger in between is noticed.
"""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection
    from collections.abc import Set as AbstractSet

API_SERVER: Final = "@api-server"
"""The name of the API server's vote among witnesses; no node can be called so."""


class Member(msgspec.Struct, frozen=True, rename="camel"):
    """A node of a domain and the IP address that its keeper's heartbeats come from and go to."""

    node: str
    address: str


class WitnessSet(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The keepers that vote, and whether the API server does."""

    members: tuple[Member, ...] = ()
    has_api_vote: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Who votes, by name."""
        voters = frozenset(member.node for member in self.members)
        return voters | {API_SERVER} if self.has_api_vote else voters


class Configuration(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One witness configuration; epoch 0 means that none was chosen yet.

    `former` are the witnesses that must agree too while they are being replaced by `witnesses`.
    """

    epoch: int = 0
    hash: str = ""
    former_hash: str = ""
    witnesses: WitnessSet = WitnessSet()
    former: WitnessSet | None = None
    is_sealing: bool = False

    @property
    def quorums(self) -> tuple[frozenset[str], ...]:
        """The sets of which a majority each must agree."""
        return (self.witnesses.names,) if self.former is None else (self.former.names, self.witnesses.names)

    @property
    def members(self) -> tuple[Member, ...]:
        """The nodes of all its sets; where both name a node, with its newer address."""
        former = () if self.former is None else self.former.members
        by_node = {member.node: member for member in (*former, *self.witnesses.members)}
        return tuple(by_node[node] for node in sorted(by_node))

    def sealed(self, domain_uid: str) -> Configuration:
        """The same configuration with the hash of its content."""
        return msgspec.structs.replace(self, hash=fingerprint(domain_uid, self))


class Relation(Enum):
    """How another keeper's configuration stands to one's own."""

    SAME = "Same"
    FORMER = "Former"
    NEXT = "Next"
    BEHIND = "Behind"
    AHEAD = "Ahead"
    CONFLICT = "Conflict"

    @property
    def is_served(self) -> bool:
        """Whether what it asks is answered."""
        return self in (Relation.SAME, Relation.FORMER, Relation.NEXT)


class Stamp(NamedTuple):
    """What a message says of its sender's configuration: its epoch, and what names it and the one before."""

    epoch: int
    hash: bytes
    former_hash: bytes


def relation(own: Stamp, other: Stamp) -> Relation:
    """Return how the other's configuration stands to one's own."""
    match other.epoch - own.epoch:
        case 0:
            return Relation.SAME if other.hash == own.hash else Relation.CONFLICT
        case -1:
            return Relation.FORMER if other.hash == own.former_hash else Relation.CONFLICT
        case 1:
            return Relation.NEXT if other.former_hash == own.hash else Relation.CONFLICT
        case ahead:
            return Relation.AHEAD if ahead > 0 else Relation.BEHIND


def is_majority(voters: AbstractSet[str], quorums: Collection[AbstractSet[str]]) -> bool:
    """Return whether more than half of every quorum is among the voters."""
    return all(2 * len(quorum & voters) > len(quorum) for quorum in quorums)


def fingerprint(domain_uid: str, configuration: Configuration) -> str:
    """Return the hash that names a configuration's content; its own `hash` is no part of it."""

    def listed(witnesses: WitnessSet | None) -> object:
        if witnesses is None:
            return None
        return [sorted([member.node, member.address] for member in witnesses.members), witnesses.has_api_vote]

    content = [
        domain_uid,
        configuration.epoch,
        configuration.former_hash,
        listed(configuration.witnesses),
        listed(configuration.former),
        configuration.is_sealing,
    ]
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()[:32]
