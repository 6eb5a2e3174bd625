"""Which nodes a VirtualIP may live on, and with which priority: `spec.candidates` against the cluster.

Each entry names a node or selects nodes by labels; the first entry that fits a node gives its priority.
No entries mean every node of the domain with priority 100. A node that is named but does not exist, or
that the domain does not select, is kept in the answer and marked: somebody wants to be told.

`onQuorumLoss: Hold` is for two candidates: of three that are cut off from each other three could own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sized

    from vipapi.resources import FailoverDomainSpec, Node, VirtualIPSpec
    from vipapi.selectors import LabelSelector

DEFAULT_PRIORITY = 100
MOST_THAT_HOLD = 2
"""How many candidates a VirtualIP with `onQuorumLoss: Hold` may have."""


class Nominee(msgspec.Struct, frozen=True, kw_only=True):
    """One node that the VirtualIP's spec means. Only those present and in the domain are candidates."""

    node: str
    priority: int
    is_present: bool = True
    is_in_domain: bool = True

    @property
    def is_candidate(self) -> bool:
        """Whether the node may hold the address as far as the specs say."""
        return self.is_present and self.is_in_domain


class Roster(NamedTuple):
    """A cluster's nodes as one domain sees them: the names of all, and by name those that it selects."""

    everywhere: frozenset[str]
    inside: Mapping[str, Node]


def roster(domain: FailoverDomainSpec, nodes: Iterable[Node]) -> Roster:
    """Return what `nominate` asks of the nodes, once for all the VirtualIPs of a domain."""
    everywhere = {node.metadata.name: node for node in nodes}
    inside = {node.metadata.name: node for node in members(domain, everywhere.values())}
    return Roster(frozenset(everywhere), inside)


def members(domain: FailoverDomainSpec, nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Return the nodes that the domain selects, by name."""
    selected = (node for node in nodes if domain.node_selector.matches(node.metadata.labels))
    return tuple(sorted(selected, key=lambda node: node.metadata.name))


def nominate(spec: VirtualIPSpec, nodes: Roster) -> tuple[Nominee, ...]:
    """Return every node that the spec means, by name."""
    if not spec.candidates:
        return tuple(Nominee(node=name, priority=DEFAULT_PRIORITY) for name in nodes.inside)
    priorities: dict[str, int] = {}
    for candidate in spec.candidates:
        for name in _meant(candidate.node_name, candidate.node_selector, nodes.inside):
            priorities.setdefault(name, candidate.priority)
    return tuple(
        Nominee(
            node=name,
            priority=priority,
            is_present=name in nodes.everywhere,
            is_in_domain=name in nodes.inside,
        )
        for name, priority in sorted(priorities.items())
    )


def is_held_alone(spec: VirtualIPSpec, candidates: Sized) -> bool:
    """Whether a candidate that hears no other witness may go on alone: Hold, while two could own at most.

    `candidates` are all that `nominate` returns: one that is missing may be there again without a change.
    """
    return spec.on_quorum_loss == "Hold" and len(candidates) <= MOST_THAT_HOLD


def _meant(name: str | None, selector: LabelSelector | None, inside: Mapping[str, Node]) -> list[str]:
    if name is not None:
        return [name]
    assert selector is not None
    return [node.metadata.name for node in inside.values() if selector.matches(node.metadata.labels)]
