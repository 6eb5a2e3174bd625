"""Conflicts: what to do about a machine outside vipkeeper that has an address of ours.

RFC 5227 (for IPv6: RFC 4862, 5.4) with a clock of our own, for one address set for as long as its lease is
held here. `now_ns` and sightings go in, what to send and whether the addresses may be bound come out.

                  nobody was known to hold it              somebody was
                              │                                 │
                              ▼       no answer                 ▼    somebody else has it
                           PROBING ────────────────────────▶ HOLDING ────────────────────▶ DEFENDED
                              │                             ▲  ▲  ▲  silent for 10 s           │
                  an answer   │     no answer for 10 s      │  │  └────────────────────────────┤
                              ▼                             │  │ silent for 10 s               │ again
                            CEDED ──────────────────────────┘  └────────── CONTESTED ◀─────────┘
                              ▲                                                │
                              └────────────────────────────────────────────────┘
                                 after 30 s, or longer, if it answers every probe

- PROBING: the addresses are not bound. Three probes, 100 ms apart, and 100 ms for the last answer: 300 ms,
  where RFC 5227 takes 5 to 7 seconds, for on a segment that is to fail over in less than one an answer comes
  in one or two milliseconds. Only where the witnesses know of nobody who held it before, or where this keeper
  itself has ceded it last. Any other failover or move never waits: until a moment ago the address was ours.
- HOLDING: bound. A probe a second after the addresses came, and every minute, finds who is silent otherwise.
- DEFENDED: one announcement (RFC 5227, 2.4 b), a probe every two seconds, and nothing said yet: who respects
  RFC 5227 gives way now.
- CONTESTED: the conflict is told. No announcement comes sooner than 10 s (DEFEND_INTERVAL; RFC 5227, 2.4 c)
  after the one before it; most clients keep finding this node.
- CEDED: the addresses are unbound and the lease is *kept*. Another node of the segment would meet the same
  machine, so to give up the lease would only send the address from node to node; and two machines that both
  answer break every connection, where one that answers breaks none of its own. When the other has answered
  nothing for 10 s, thus five probes, the addresses are bound again by themselves.

**Words are not enough to take an address away.** Claims cost whoever forges them one small frame in ten
seconds, so they are defended against and told, for as long as they come, and that is all. Ceded is only to
what answers: one of the three probes at first, and later the last five in a row, for whoever has an address
answers all of them. An answer comes within a second of a probe of ours; for ARP it is for 0.0.0.0, as only a
probe's answer is; for IPv6 any advertisement counts, for a probe's answer looks like one that nobody asked
for. Adverts of VRRP are no answer: their router gives those as well. Each time it was ceded in the last hour
(`_MEMORY_NS`) the set is defended twice as long before it is again, up to eight minutes: a machine that comes
and goes is to have the address for the smaller part of the time. It can still be had by one that stays and
answers; nothing in ARP or NDP tells that from the address's owner.

**Never one of ours.** While a lease is held and its fence open, the fence of every other node is closed for
the address and lets neither an answer nor an announcement out. So what is seen in that time is foreign, but
for frames on their way since before: those of the former owner are over a second after the addresses came
(`_SETTLING_NS`), except an answer to a probe of ours, which cannot be older than the probe. The shell tells
nothing that it reads after the lease's end, so a keeper that was stopped and reads its successor's frames
sees nothing; nor what has a MAC address of this node's (its bonds' ports, its other links). And once the
addresses are bound one sighting says nothing: it takes a second one, a second later at least. An address set
that may have two owners (`onQuorumLoss: Hold`) tells its conflicts, waits for no probe and cedes nothing: the
other may be its other candidate.

**Not seen.** A probe or solicitation by which another asks whether the address is free is no claim; the
kernel answers it. A switch or cloud network that answers ARP for others says what it believes: where it keeps
the former owner's MAC address for longer than 40 s in spite of announcements, that is a conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND
from vipagent.nodeview import Refusal

if TYPE_CHECKING:
    from vipagent.sightings import Sighting

_PROBES: Final = 3
_PROBE_NS: Final = 100 * MILLISECOND
_SETTLING_NS: Final = 1_000 * MILLISECOND
_VERIFY_NS: Final = 60_000 * MILLISECOND
_ASK_NS: Final = 2_000 * MILLISECOND
_DEFEND_NS: Final = 10_000 * MILLISECOND
"""DEFEND_INTERVAL of RFC 5227, 1.1; a machine that says nothing for as long, though asked, has gone."""
_PERSISTENCE_NS: Final = 30_000 * MILLISECOND
_MOST_DOUBLINGS: Final = 4
_MEMORY_NS: Final = 3_600_000 * MILLISECOND
_ANSWER_NS: Final = 1_000 * MILLISECOND
_ANSWERS: Final = 5


class Act(Enum):
    """Something for the shell to send for an address set."""

    PROBE = "Probe"
    ANNOUNCE = "Announce"


class Step(Enum):
    """Where an address set stands with others on the segment."""

    PROBING = "Probing"
    HOLDING = "Holding"
    DEFENDED = "Defended"
    CONTESTED = "Contested"
    CEDED = "Ceded"


_UNBOUND: Final = frozenset({Step.PROBING, Step.CEDED})
_TOLD: Final = frozenset({Step.CONTESTED, Step.CEDED})


@dataclass(slots=True)
class Watch:
    """One address set, from the moment at which its lease was won until that is over.

    `deadline_ns` is when `expire` has something to do next. `may_cede` is that no other node of ours can
    hold it at the same time; whoever keeps the watch sets it anew when that changes.
    """

    step: Step
    may_cede: bool
    since_ns: int
    deadline_ns: int
    asked: int = 0
    asked_ns: int | None = None
    is_answered: bool = False
    answers: int = 0
    seen_ns: int = 0
    defended_ns: int | None = None
    ceded_ns: int | None = None
    cessions: int = 0
    foreign: Sighting | None = None

    @classmethod
    def begin(cls, now_ns: int, *, is_first: bool, may_cede: bool, former: Watch | None = None) -> Watch:
        """Watch an address set that was won just now; `is_first` is that nobody is known to have held it.

        `former` is this keeper's last watch of the same set, if there was one.
        """
        made = cls(Step.HOLDING, may_cede, since_ns=now_ns, deadline_ns=now_ns + _SETTLING_NS)
        if former is not None and former.remembers(now_ns):
            made.ceded_ns, made.cessions = former.ceded_ns, former.cessions
            is_first = is_first or former.step is Step.CEDED
        if is_first and may_cede:
            made.step, made.deadline_ns = Step.PROBING, now_ns
        return made

    def remembers(self, now_ns: int) -> bool:
        """Whether the set was ceded so recently that it matters to the next watch."""
        return self.ceded_ns is not None and now_ns - self.ceded_ns < _MEMORY_NS

    @property
    def may_bind(self) -> bool:
        """Whether the addresses may be bound."""
        return self.step not in _UNBOUND

    @property
    def conflict(self) -> Refusal | None:
        """What is to be told to people, None if there is nothing; it stays the same while nothing changes."""
        if self.step not in _TOLD or self.foreign is None:
            return None
        reason, who = _name(self.foreign)
        if self.step is Step.CEDED:
            outcome = "this node leaves the addresses unbound until it has been silent for 10 s"
        elif self.may_cede:
            outcome = "this node goes on announcing it for now"
        else:
            outcome = "or it is the other candidate (`onQuorumLoss: Hold`); this node goes on announcing it"
        return Refusal(reason, f"{who}; {outcome}")

    def is_of_before(self, sighting: Sighting, now_ns: int) -> bool:
        """Whether a sighting may be a frame of the former owner that was on its way; it says nothing then."""
        return (
            self.step is Step.HOLDING
            and now_ns - self.since_ns < _SETTLING_NS
            and not self._is_answer(sighting, now_ns)
        )

    def receive(self, sighting: Sighting, now_ns: int) -> Act | None:
        """Somebody else has one of the addresses; returns what to send about it."""
        if self.is_of_before(sighting, now_ns):
            return None
        is_answer = self._is_answer(sighting, now_ns)
        self.is_answered = self.is_answered or is_answer
        match self.step:
            case Step.PROBING:
                if is_answer:
                    self._note(sighting, now_ns)
                    self._cede(now_ns)
                return None
            case Step.CEDED:
                self._note(sighting, now_ns if is_answer else self.seen_ns)
                return None
            case Step.HOLDING:
                self._go(Step.DEFENDED, now_ns)
            case Step.DEFENDED:
                if now_ns - self.since_ns < _SETTLING_NS:
                    return None
                self._go(Step.CONTESTED, now_ns)
        self._note(sighting, now_ns)
        return self._defend(now_ns)

    def expire(self, now_ns: int) -> Act | None:
        """Do what is due; returns what to send."""
        if now_ns < self.deadline_ns:
            return None
        match self.step:
            case Step.PROBING if self.asked == _PROBES or not self.may_cede:
                self._hold(now_ns)
                return None
            case Step.PROBING:
                self.asked += 1
                self.deadline_ns = now_ns + _PROBE_NS
            case Step.HOLDING:
                self.deadline_ns = now_ns + _VERIFY_NS
            case Step.DEFENDED | Step.CONTESTED | Step.CEDED:
                if now_ns - self.seen_ns >= _DEFEND_NS:
                    self._hold(now_ns)
                    return None
                self.answers = self.answers + 1 if self.is_answered else 0
                if self.step is Step.CONTESTED and self._is_lost(now_ns):
                    self._cede(now_ns)
                self.deadline_ns = now_ns + _ASK_NS
        self.asked_ns, self.is_answered = now_ns, False
        return Act.PROBE

    def _is_answer(self, sighting: Sighting, now_ns: int) -> bool:
        if self.asked_ns is None or now_ns - self.asked_ns >= _ANSWER_NS:
            return False
        return sighting.is_answer or (sighting.address.version == 6 and sighting.router is None)  # noqa: PLR2004 - the IP version

    def _is_lost(self, now_ns: int) -> bool:
        doublings = min(self.cessions, _MOST_DOUBLINGS) if self.remembers(now_ns) else 0
        persists = now_ns - self.since_ns >= _PERSISTENCE_NS << doublings
        return self.may_cede and persists and self.answers >= _ANSWERS

    def _hold(self, now_ns: int) -> None:
        self.step, self.since_ns, self.foreign = Step.HOLDING, now_ns, None
        self.deadline_ns = now_ns + _SETTLING_NS

    def _cede(self, now_ns: int) -> None:
        self.cessions = self.cessions + 1 if self.remembers(now_ns) else 1
        self.ceded_ns = now_ns
        self._go(Step.CEDED, now_ns)

    def _defend(self, now_ns: int) -> Act | None:
        if self.defended_ns is not None and now_ns - self.defended_ns < _DEFEND_NS:
            return None
        self.defended_ns = now_ns
        return Act.ANNOUNCE

    def _go(self, step: Step, now_ns: int) -> None:
        self.step, self.since_ns, self.deadline_ns = step, now_ns, now_ns + _ASK_NS

    def _note(self, sighting: Sighting, seen_ns: int) -> None:
        """Remember who it was: the first, until a router gives its name; what is told should not flicker."""
        self.seen_ns = seen_ns
        sighting = replace(sighting, is_answer=False)
        if self.foreign is None or (self.foreign.router is None and sighting.router is not None):
            self.foreign = sighting


def _name(foreign: Sighting) -> tuple[str, str]:
    """Return the reason, and who has which address and what to do about it."""
    address, mac = foreign.address, foreign.mac
    if foreign.vrid is None:
        return "ForeignHost", f"the machine with MAC {mac} has {address} too: take the address from it"
    where = f"on {foreign.router}" if foreign.router is not None else f"with MAC {mac}"
    remedy = "stop its keepalived, or take the address out of its configuration"
    return "ForeignVRRP", f"a VRRP router {where} announces {address} with VRID {foreign.vrid}: {remedy}"
