"""Which other nodes may run a copy of a service, and from when on none does (`workload`, rules 1, 9, 10).

Each such node is a `Suspect`. What ends the suspicion is

    its own word                                                                     `clear`
    the time in which its leash has ended the copy, unless it could not stop it      `leash_ns`, `deny`
    the time in which its leash restarts it, if it could not, counted from its last word that it does so
    that somebody says that it is off, and it has not answered for 2 s               `Questioning`

Times are CLOCK_BOOTTIME of this node in nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vipapi.nodeplan import ServicePlan

_SECOND: Final = 1000 * MILLISECOND
_UNANSWERED_NS: Final = 2 * _SECOND
_OFF_BY_THEN_NS: Final = 60 * _SECOND

FENCED_AFTER_MS: Final = 5_000
"""How long after the stop timeout a leash may take until its node is being restarted (`fences`)."""


def ended_within_ms(service: ServicePlan) -> int:
    """How long after its lease's end a node's copy may last by that node's clock, whatever becomes of it."""
    return service.stop_timeout_ms + (FENCED_AFTER_MS if service.fences else 0)


def leash_ns(within_ms: int) -> int:
    """How long this node waits for what another one's leash does within so many of its own milliseconds.

    Its clock may be a tenth slow and this one a tenth fast; a second is for the kill itself.
    """
    return within_ms * MILLISECOND * 11 // 9 + _SECOND


@dataclass(slots=True)
class Suspect:
    """Another node that may run a copy of a service.

    `within_ms` is the longest that its leash may take to end it, and `since_ns` when its lease was over, or
    when it last said that it runs it. It is cleared once it is known to run none, for it cannot have one
    again in this tenure. Once it has denied, no time clears it but that which it promised.
    """

    within_ms: int
    since_ns: int
    is_cleared: bool = False
    has_denied: bool = False
    fenced_within_ms: int | None = None

    @property
    def leash_ns(self) -> int | None:
        """How long it takes at the most until its copy has ended; None while only the node can say so."""
        if not self.has_denied:
            return leash_ns(self.within_ms)
        return None if self.fenced_within_ms is None else leash_ns(self.fenced_within_ms)

    def renew(self, since_ns: int) -> None:
        """It may run a copy after all, and time counts from here."""
        self.since_ns, self.is_cleared = since_ns, False

    def clear(self) -> None:
        """It runs none, and will not in this tenure."""
        self.is_cleared, self.has_denied, self.fenced_within_ms = True, False, None

    def wait(self, now_ns: int) -> None:
        """It runs one still; what its leash takes counts from now."""
        self.since_ns = max(now_ns, self.since_ns)

    def deny(self, fenced_within_ms: int | None, now_ns: int) -> None:
        """It cannot stop its copy; what it promises counts from now."""
        self.has_denied, self.fenced_within_ms = True, fenced_within_ms
        self.wait(now_ns)

    def forgive(self, now_ns: int) -> None:
        """What it denied is forgotten; its leash has its time once more."""
        self.has_denied, self.since_ns = False, now_ns


class Questioning:
    """Since when the other nodes are asked in this tenure, and who of them is said to be off (rule 10).

    `_named` are those of whom it is said, `_off` those of whom it counts, with when it was said.
    """

    def __init__(self) -> None:
        self._since_ns: int | None = None
        self._named: frozenset[str] = frozenset()
        self._off: dict[str, int] = {}

    def begin(self, now_ns: int) -> None:
        """They are being asked, perhaps for long already."""
        if self._since_ns is None:
            self._since_ns = now_ns

    def end(self) -> None:
        """They are not asked any more."""
        self._since_ns = None

    def assign(self, out_of_service: frozenset[str], now_ns: int) -> None:
        """Take over of whom it is said; what was said of a node already is not said anew."""
        self._off = {node: self._off[node] for node in self._off if node in out_of_service}
        self._off |= dict.fromkeys(out_of_service - self._named, now_ns)
        self._named = out_of_service

    def heard(self, nodes: Collection[str], now_ns: int) -> None:
        """These nodes say something: a word about them from a minute ago or longer has become wrong."""
        self._off = {
            node: said_ns
            for node, said_ns in self._off.items()
            if node not in nodes or now_ns < said_ns + _OFF_BY_THEN_NS
        }

    def seen(self, node: str, seen_ns: int) -> None:
        """It was seen to have a lease then: a word from before that has become wrong."""
        if seen_ns > self._off.get(node, seen_ns):
            del self._off[node]

    def believe(self, uncleared: Mapping[str, Suspect], now_ns: int) -> None:
        """Clear who is said to be off and has not spoken since."""
        for node, suspect in uncleared.items():
            off_ns = self._off_ns(node, suspect)
            if off_ns is not None and now_ns >= off_ns:
                suspect.clear()

    def free_ns(self, uncleared: Mapping[str, Suspect]) -> int | None:
        """Rule 1: when none of them has a copy any more; None while only a node can say so."""
        ends_ns = [0]
        for node, suspect in uncleared.items():
            ended_ns = self._ended_ns(node, suspect)
            if ended_ns is None:
                return None
            ends_ns.append(ended_ns)
        return max(ends_ns)

    def told(self, uncleared: Mapping[str, Suspect]) -> str:
        """Say for people what is waited for; `uncleared` are not none."""
        deniers = [node for node, suspect in uncleared.items() if self._ended_ns(node, suspect) is None]
        if deniers:
            return (
                f"could not be stopped on {', '.join(deniers)}: end it there, or take the node out of the "
                "service's nodes if it is dead"
            )
        longest_s = max((suspect.leash_ns or 0) // _SECOND for suspect in uncleared.values())
        restarting = [node for node, suspect in uncleared.items() if suspect.fenced_within_ms is not None]
        return (
            f"waits for {', '.join(uncleared)} to confirm that it does not run there, "
            f"for {longest_s} s at the longest"
            + (f"; {', '.join(restarting)} could not stop it and restarts itself" if restarting else "")
        )

    def _ended_ns(self, node: str, suspect: Suspect) -> int | None:
        """When a node has no copy any more; None while only the node can say so."""
        length_ns, off_ns = suspect.leash_ns, self._off_ns(node, suspect)
        if length_ns is None:
            return off_ns
        ended_ns = suspect.since_ns + length_ns
        if suspect.has_denied:
            ended_ns = max(ended_ns, (self._since_ns or 0) + _UNANSWERED_NS)
        return ended_ns if off_ns is None else min(ended_ns, off_ns)

    def _off_ns(self, node: str, suspect: Suspect) -> int | None:
        """Rule 10: from when on a node counts as off; None where nobody says so."""
        said_ns = self._off.get(node)
        if said_ns is None or self._since_ns is None:
            return None
        return max(said_ns, self._since_ns, suspect.since_ns) + _UNANSWERED_NS
