"""The API server's vote, as the node that holds it hears it: a witness that speaks to one node only.

In a domain of two nodes the third vote is one Lease object that at most one node holds at a time; the
courier asks for it and says until when it is good. While it is good the API server grants whatever its
node asks for, and nobody else has its voice. It answers like a witness would, with one difference: it
echoes a `sent_at_ns` so early that a lease that rests on it ends with the vote.

Terms: the object keeps a ceiling that no term granted under this vote may pass. Who takes the vote from
another has that ceiling as its floor. It also keeps the highest epoch of its holders, and is not given to
who is two epochs behind: that is its seal (`vipapi.configuration`).

Once it is not needed any more it is given back, for whoever needs it next may need it at once: the other
node, when this one dies. First it falls silent; when a lease's time has passed no lease rests on it. Then it
is forgotten here, and only after that is the courier told. What the courier won before, and tells too late,
is known by its `since_ns` and counts for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vipagent.effects import Send
from vipagent.messages import Ack, Denied, Free, Granted, Release, Released

if TYPE_CHECKING:
    from vipagent.effects import LeaseTiming
    from vipagent.messages import Sender, ToWitness
    from vipapi import link


class Vote:
    """The API server's voice in one domain, for as long as this node holds it."""

    def __init__(self, *, timing: LeaseTiming, now_ns: int) -> None:
        self._timing = timing
        self._held: link.Vote | None = None
        self._silent_since_ns: int | None = None
        self.since_ns = now_ns
        """When it was given back last: votes that were wanted before are none of its own."""
        self.is_given_back = False

    def need(self, now_ns: int, *, is_needed: bool) -> None:
        """Speak while it is needed; later fall silent, and give it back when nothing rests on it."""
        if is_needed:
            self._silent_since_ns, self.is_given_back = None, False
        elif self._silent_since_ns is None:
            self._silent_since_ns = now_ns
        elif not self.is_given_back and now_ns - self._silent_since_ns >= self._timing.lease_ns:
            self._held, self.since_ns, self.is_given_back = None, now_ns, True

    def hear(self, vote: link.Vote | None) -> None:
        """Take over what the courier says; None when it says nothing of this domain any more."""
        self._held = vote if vote is not None and vote.since_ns == self.since_ns else None

    def transitions(self, now_ns: int) -> int:
        """How often the vote has changed hands; 0 if it is not held here."""
        return self._held.transitions if self._held is not None and now_ns < self._held.until_ns else 0

    def knows(self, *, epoch: int, term_floor: int, now_ns: int) -> bool:
        """Whether the object, held here, was told of this epoch, and this floor holds of its terms too."""
        held = self._held
        if held is None or held.until_ns <= now_ns:
            return False
        return held.epoch >= epoch and held.term_ceiling >= term_floor >= held.term_floor

    def receive(self, sender: Sender, message: ToWitness, now_ns: int) -> list[Send]:
        """Answer this node's lease; what a vote that is not held has to say is nothing."""
        held = self._held
        if held is None or held.until_ns <= now_ns or self._silent_since_ns is not None:
            return []
        if isinstance(message, Release):
            return [
                Send(sender.node, Released(sender.incarnation, message.round, message.key, message.others))
            ]
        granted: list[Granted] = []
        denied: list[Denied] = []
        for want in message.wants:
            if not want.is_held and want.term <= held.term_floor:
                denied.append(Denied(want.key, None, held.term_floor, 0))
            elif want.term <= held.term_ceiling:
                granted.append(Granted(want.key, want.term, None, is_standby_sound=False))
        answer = Ack(
            incarnation=sender.incarnation,
            round=message.round,
            sent_at_ns=min(message.sent_at_ns, held.until_ns - self._timing.lease_ns),
            term_floor=held.term_floor,
            granted=tuple(granted),
            denied=tuple(denied),
            free=tuple(self._free(key, held) for key in message.polls),
        )
        return [Send(sender.node, answer)]

    @staticmethod
    def _free(key: bytes, held: link.Vote) -> Free:
        return Free(key, rank=0, term=held.term_floor, former=None, lapsed_ns=0, was_released=False)
