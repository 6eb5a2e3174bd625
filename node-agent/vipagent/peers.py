"""The other keepers of a domain, as they are known by what they say: when, and at which epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vipapi.configuration import Relation
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable

_REACHABLE_NS: Final = 1_000_000_000
_CLONE_NS: Final = 2_000_000_000
_NAME_TAKEN: Final = (
    "two keepers of domain {domain} run as {node}: stop the node-agent of the machine that was cloned, "
    "give it a node name of its own and an empty /var/lib/vipkeeper"
)
_CONFLICT: Final = (
    "{node} works in domain {domain} with another witness configuration of the same epoch as this node's "
    "{epoch}: stop its node-agent and remove its /var/lib/vipkeeper, unless most nodes agree with it"
)
_BEHIND: Final = (Relation.FORMER, Relation.BEHIND)


class Peers:
    """The other keepers, by node."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[int, Relation]] = {}
        self._told_ns: dict[str, int] = {}
        self._answered_ns: dict[str, int] = {}
        self._conflicting_ns: dict[str, int] = {}
        self._outdated: dict[str, tuple[int, int]] = {}

    def meet(self, nodes: Iterable[str], now_ns: int) -> None:
        """Take note of who belongs to the domain: who is new has a second to be heard."""
        for node in nodes:
            self._heard.setdefault(node, (now_ns, Relation.SAME))

    def hear(self, node: str, relation: Relation, now_ns: int) -> None:
        """One of them said something, and how its configuration stands to ours."""
        self._heard[node] = (now_ns, relation)
        if relation is Relation.CONFLICT:
            self._conflicting_ns[node] = now_ns

    def hear_answer(self, node: str, now_ns: int) -> None:
        """One of them answered a request of ours."""
        self._answered_ns[node] = now_ns

    def hear_outdated(self, node: str, now_ns: int) -> None:
        """A datagram of an incarnation came, or of a machine, that is not the newest of its name."""
        since_ns, at_ns = self._outdated.get(node, (now_ns, now_ns))
        self._outdated[node] = (since_ns if now_ns - at_ns < _CLONE_NS else now_ns, now_ns)

    def is_to_be_told(self, node: str, now_ns: int, *, at_most_every_ns: int) -> bool:
        """Whether it is time to speak with it about configurations; the answer counts as having done so."""
        if node in self._told_ns and now_ns - self._told_ns[node] < at_most_every_ns:
            return False
        self._told_ns[node] = now_ns
        return True

    def answering(self, since_ns: int) -> frozenset[str]:
        """Who answered a request later than that."""
        return frozenset(node for node, at_ns in self._answered_ns.items() if at_ns > since_ns)

    def reachable(self, now_ns: int) -> frozenset[str]:
        """Who was heard within the last second."""
        return frozenset(node for node, (at_ns, _) in self._heard.items() if now_ns - at_ns <= _REACHABLE_NS)

    def behind(self, now_ns: int) -> frozenset[str]:
        """Who of the reachable is at an older epoch."""
        return frozenset(node for node in self.reachable(now_ns) if self._heard[node][1] in _BEHIND)

    def problems(self, domain: str, epoch: int, now_ns: int) -> tuple[Problem, ...]:
        """What a person has to put right, in sentences."""
        clones = sorted(
            node
            for node, (since_ns, at_ns) in self._outdated.items()
            if now_ns - at_ns < _CLONE_NS and at_ns - since_ns >= _CLONE_NS
        )
        conflicting = sorted(
            node for node, at_ns in self._conflicting_ns.items() if now_ns - at_ns < _CLONE_NS
        )
        return (
            *(Problem("NodeNameTaken", _NAME_TAKEN.format(domain=domain, node=node)) for node in clones),
            *(
                Problem("EpochConflict", _CONFLICT.format(domain=domain, node=node, epoch=epoch))
                for node in conflicting
            ),
        )
