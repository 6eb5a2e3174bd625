"""Which nodes of a domain are its witnesses.

A witness set is chosen once, when exactly `spec.witnesses.count` fit nodes can be had, and not changed
afterwards: changing it needs joint quorums. The choice spreads over zones (the label
`topology.kubernetes.io/zone`): every round takes one node of each zone, and which zone and which node
come first is told by a hash of domain and name, so that the witnesses of many domains do not all sit
on the same nodes and the same cluster always gives the same answer.

The configuration is named by its epoch and a hash of its content, so that two that claim the same
epoch can be told apart by every keeper.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vipapi.resources import DomainNode

ZONE_LABEL = "topology.kubernetes.io/zone"
FIRST_EPOCH = 1


class Voter(NamedTuple):
    """A node whose keeper could be a witness."""

    node: DomainNode
    zone: str = ""


def choose(domain_uid: str, voters: Iterable[Voter], count: int) -> tuple[DomainNode, ...] | None:
    """Return exactly `count` witnesses by name, or None while there are not enough voters."""
    by_zone: dict[str, list[DomainNode]] = {}
    for voter in voters:
        by_zone.setdefault(voter.zone, []).append(voter.node)
    if sum(map(len, by_zone.values())) < count:
        return None
    zones = sorted(by_zone, key=lambda zone: _hash(domain_uid, "zone", zone))
    queues = [
        sorted(by_zone[zone], key=lambda node: _hash(domain_uid, "node", node.node_name)) for zone in zones
    ]
    order = sorted(
        ((turn, place, node) for place, queue in enumerate(queues) for turn, node in enumerate(queue)),
        key=lambda entry: entry[:2],
    )
    return tuple(sorted((node for _, _, node in order[:count]), key=lambda node: node.node_name))


def config_hash(domain_uid: str, epoch: int, witnesses: Sequence[DomainNode]) -> str:
    """Return the hash that names a witness configuration's content."""
    content = [domain_uid, epoch, sorted([witness.node_name, witness.address] for witness in witnesses)]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:32]


def _hash(*words: str) -> bytes:
    return hashlib.blake2b("\0".join(words).encode(), digest_size=8).digest()
