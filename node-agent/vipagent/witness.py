"""A witness: grants each address set to one holder at a time, for Tw, and forgets it all at a restart.

The rules (numbers as in docs/protocol.md):

 2. a grant is dated from a clock read after the request was in hand, so it never ends too early;
 3. it stands until Tw has passed on this clock, or its holder released it; while it stands, no address
    set that shares an address with it is granted, whatever became of the plan meanwhile;
 5. a (re)started witness stays silent for at least Tw: by then every grant that it has forgotten is over;
 7. a release older than the newest granted request is ignored, and so is a request older than a release;
14a. who does not hold the address set yet needs a term above every term that this witness ever granted.
    The memory of terms must outlive a restart: `term_ceiling` says what to keep on disk, some 1,000 ahead
    so that nothing waits for a disk, and nothing is granted anew under a term above what is kept. A
    restarted witness starts from its ceiling. With a new witness configuration it asks that every term
    be above all that it knows; candidates carry such floors in their requests from one witness to the
    next, so that new witnesses start where the old ones end.

A request counts only once and in order: what is not newer than the newest (incarnation, round) of its
sender is dropped. A holder is a node on a machine: a clone that goes by the same name is somebody else,
while a keeper that was restarted on its machine has closed the fence and may have its lease back at once.

When a grant ends, the standbys are told at once (Offer), each with its rank in the succession; a release
may name the successor, and the address set is then kept for that one for a moment. So are they when the
silence ends: else whoever asks first after a power cut would have everything. Candidates that cannot
reach their gateway come after all that can.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

import msgspec

from vipagent.effects import Send
from vipagent.messages import (
    Ack,
    Denied,
    Free,
    Granted,
    Key,
    Offer,
    Release,
    Released,
    Request,
    Sender,
    ToWitness,
    Want,
)
from vipapi.nodeplan import MOST_CEILING, MOST_FLOOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vipagent.effects import LeaseTiming

_POLL_FRESH_HEARTBEATS: Final = 2.5
_RESERVED_HEARTBEATS: Final = 2
_ELECTED_ALONE_HEARTBEATS: Final = 3
_TERMS_AHEAD: Final = 1000
_MOST_FREE: Final = 400
"""As many offers fit into one datagram, whatever the nodes are called; the rest follow in others."""
_NEVER_NS: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class Roster:
    """An address set's candidates in the order in which they should have it.

    `addresses` is what the set consists of, each written in one way only: sets that share one exclude
    each other. `elected` is the operator's choice; right after the witness first hears of the address
    set it is offered to that one alone. `observed_term` is a floor for the witness's memory of terms.
    """

    addresses: frozenset[str]
    order: tuple[str, ...]
    elected: str | None = None
    observed_term: int = 0


class Grant(msgspec.Struct, frozen=True):
    """Who holds an address set, under which term, until when on this witness's clock."""

    holder: str
    machine: bytes
    incarnation: int
    round: int
    term: int
    until_ns: int
    addresses: frozenset[str]

    def is_of(self, sender: Sender) -> bool:
        """Whether that node on that machine holds it."""
        return (self.holder, self.machine) == (sender.node, sender.machine)


@dataclass(frozen=True, slots=True)
class _Former:
    holder: str
    ended_ns: int
    was_released: bool


@dataclass(frozen=True, slots=True)
class _Reservation:
    successor: str
    until_ns: int


@dataclass(frozen=True, slots=True)
class _Stance:
    """What a candidate said last: when, for which address sets it stands by, whether it has a gateway."""

    at_ns: int
    polls: frozenset[Key]
    is_sound: bool


class Witness:
    """The witness role of one keeper in one domain. It does no I/O: `now_ns` goes in, `Send`s come out.

    `term_ceiling` is what was read from disk (0 at the very first start); None stands for a witness
    without a disk, whose memory of terms ends with it.
    """

    def __init__(self, *, me: str, timing: LeaseTiming, now_ns: int, term_ceiling: int | None = None) -> None:
        self._me = me
        self._timing = timing
        self._silent_until_ns = now_ns + timing.silence_ns
        self._is_silent = True
        self._term_floor = term_ceiling or 0
        self._kept_ceiling = term_ceiling
        self._term_ceiling = 0
        self._raise_ceiling(self._term_floor)
        self._claims: dict[str, Key] = {}
        self._due_ns = _NEVER_NS
        self._rosters: dict[Key, Roster] = {}
        self._known_since_ns: dict[Key, int] = {}
        self._grants: dict[Key, Grant] = {}
        self._terms: dict[Key, int] = {}
        self._formers: dict[Key, _Former] = {}
        self._reservations: dict[Key, _Reservation] = {}
        self._newest: dict[str, tuple[int, int]] = {}
        self._stances: dict[str, _Stance] = {}

    @property
    def grants(self) -> Mapping[Key, Grant]:
        """What is granted now."""
        return self._grants

    @property
    def term_ceiling(self) -> int:
        """What the shell is to keep on disk; when that is done it says `keep`."""
        return self._term_ceiling

    def keep(self, ceiling: int) -> None:
        """The shell says that the ceiling is on disk, safe from a power cut."""
        assert self._kept_ceiling is not None
        self._kept_ceiling = max(ceiling, self._kept_ceiling)

    @property
    def is_silent(self) -> bool:
        """Whether it has not been running for long enough to speak (rule 5)."""
        return self._is_silent

    @property
    def term_floor(self) -> int:
        """What it asks every new term to be above, as far as it would after a restart."""
        return self._term_floor if self._kept_ceiling is None else min(self._term_floor, self._kept_ceiling)

    def raise_floor(self) -> None:
        """A new configuration is in force: from now on every term must be above all that were granted."""
        self._raise_floor(max(self._terms.values(), default=0))

    def take_floor(self, floor: int) -> None:
        """Somebody who knows asks that every term be above this one; who leaves no room does not know."""
        if floor <= MOST_FLOOR:
            self._raise_floor(floor)

    def _raise_floor(self, floor: int) -> None:
        self._term_floor = max(self._term_floor, floor)
        self._leave_room_above(self._term_floor)

    def assign(self, rosters: Mapping[Key, Roster], now_ns: int) -> None:
        """Take over the address sets of the newest plan.

        What is no longer planned is granted to nobody any more; its standing grant runs out by itself.
        """
        self._rosters = dict(rosters)
        self._known_since_ns = {key: self._known_since_ns.get(key, now_ns) for key in rosters}

    @property
    def deadline_ns(self) -> int | None:
        """When `expire` is to be called again, at the latest; None while nothing is granted."""
        if self._is_silent:
            return self._silent_until_ns
        return self._due_ns if self._grants else None

    def receive(self, sender: Sender, message: ToWitness, now_ns: int) -> list[Send]:
        """Answer a request or take note of a release."""
        sends = self.expire(now_ns)
        match message:
            case Request():
                sends += self._on_request(sender, message, now_ns)
            case Release():
                sends += self._on_release(sender, message, now_ns)
        return sends

    def addresses(self, key: Key) -> frozenset[str]:
        """The addresses of a planned address set."""
        return self._rosters[key].addresses

    def calls_free(self, key: Key, node: str, now_ns: int) -> bool:
        """Whether it would tell that node that the address set is free."""
        return not self._is_silent and self._free(key, node, now_ns) is not None

    def expire(self, now_ns: int) -> list[Send]:
        """End the grants whose time has passed, and offer their address sets; break the silence."""
        if self._is_silent:
            if now_ns < self._silent_until_ns:
                return []
            self._is_silent = False
            return self._offers(self._rosters, now_ns)
        if now_ns < self._due_ns:
            return []
        over = [key for key, grant in self._grants.items() if grant.until_ns <= now_ns]
        for key in over:
            grant = self._end(key)
            self._formers[key] = _Former(grant.holder, grant.until_ns, was_released=False)
        self._due_ns = min((grant.until_ns for grant in self._grants.values()), default=_NEVER_NS)
        return self._offers(over, now_ns)

    def _on_request(self, sender: Sender, request: Request, now_ns: int) -> list[Send]:
        said = (sender.incarnation, request.round)
        if said <= self._newest.get(sender.node, (-1, -1)):
            return []
        self._newest[sender.node] = said
        self._stances[sender.node] = _Stance(now_ns, frozenset(request.polls), request.is_sound)
        self.take_floor(request.term_floor)
        if self._is_silent:
            return []
        granted: list[Granted] = []
        denied: list[Denied] = []
        for want in request.wants:
            if want.key not in self._rosters or not self._is_term_kept(want):
                continue
            refusal = self._refusal(sender, want, now_ns)
            if refusal is not None:
                denied.append(refusal)
                continue
            self._grant(sender, request.round, want, now_ns)
            granted.append(Granted(want.key, want.term, *self._best_standby(want.key, sender.node, now_ns)))
        offers = (self._free(key, sender.node, now_ns) for key in request.polls)
        free = islice((offer for offer in offers if offer is not None), _MOST_FREE)
        answer = Ack(
            incarnation=sender.incarnation,
            round=request.round,
            sent_at_ns=request.sent_at_ns,
            term_floor=self._term_floor,
            granted=tuple(granted),
            denied=tuple(denied),
            free=tuple(free),
        )
        return [Send(sender.node, answer)]

    def _grant(self, sender: Sender, number: int, want: Want, now_ns: int) -> None:
        addresses = self._rosters[want.key].addresses
        before = self._grants.get(want.key)
        if before is None or before.addresses != addresses:
            if before is not None:
                self._end(want.key)
            self._claims.update(dict.fromkeys(addresses, want.key))
        until_ns = now_ns + self._timing.grant_ns
        self._due_ns = min(self._due_ns, until_ns)
        self._grants[want.key] = Grant(*sender, number, want.term, until_ns, addresses)
        self._terms[want.key] = max(want.term, self._terms.get(want.key, 0))
        self._reservations.pop(want.key, None)

    def _end(self, key: Key) -> Grant:
        grant = self._grants.pop(key)
        for address in grant.addresses:
            del self._claims[address]
        return grant

    def _rival(self, key: Key) -> Grant | None:
        """The standing grant of another address set that shares an address with this one."""
        for address in self._rosters[key].addresses:
            claim = self._claims.get(address, key)
            if claim != key:
                return self._grants[claim]
        return None

    def _is_term_kept(self, want: Want) -> bool:
        """Rule 14a: a term is granted anew only if a restart would not forget it."""
        if want.is_held or self._kept_ceiling is None:
            return True
        self._leave_room_above(want.term)
        return want.term <= self._kept_ceiling

    def _leave_room_above(self, term: int) -> None:
        if term + _TERMS_AHEAD // 2 > self._term_ceiling:
            self._raise_ceiling(term)

    def _raise_ceiling(self, term: int) -> None:
        self._term_ceiling = max(self._term_ceiling, min(term + _TERMS_AHEAD, MOST_CEILING))

    def _refusal(self, sender: Sender, want: Want, now_ns: int) -> Denied | None:
        """Why not; None to grant it. A lease that is held needs no new term: nothing is opened by it."""
        term = self._known_term(want.key)
        grant = self._grants.get(want.key)
        rival = self._rival(want.key)
        if rival is not None:
            return Denied(want.key, rival.holder, term, rival.term)
        if grant is not None and not grant.is_of(sender):
            return Denied(want.key, grant.holder, term, grant.term)
        reserved_for = self._reserved_for(want.key, now_ns)
        if reserved_for is not None and reserved_for != sender.node:
            return Denied(want.key, reserved_for, term, 0)
        is_same = grant is not None and (grant.incarnation, grant.term) == (sender.incarnation, want.term)
        return None if want.is_held or is_same or want.term > term else Denied(want.key, None, term, 0)

    def _on_release(self, sender: Sender, release: Release, now_ns: int) -> list[Send]:
        said = (sender.incarnation, release.round)
        self._newest[sender.node] = max(self._newest.get(sender.node, (-1, -1)), said)
        ended = []
        for key in release.keys:
            grant = self._grants.get(key)
            if grant is None or not grant.is_of(sender) or said < (grant.incarnation, grant.round):
                continue
            ended.append(key)
            self._end(key)
            self._formers[key] = _Former(sender.node, now_ns, was_released=True)
            if release.successor is not None:
                until_ns = now_ns + _RESERVED_HEARTBEATS * self._timing.heartbeat_ns
                self._reservations[key] = _Reservation(release.successor, until_ns)
        seen = Released(sender.incarnation, release.round, release.key, release.others)
        return [Send(sender.node, seen), *self._offers(ended, now_ns)]

    def _offers(self, keys: Iterable[Key], now_ns: int) -> list[Send]:
        offers: dict[str, list[Free]] = {}
        for key in keys:
            roster = self._rosters.get(key)
            for candidate in roster.order if roster is not None else ():
                if self._stands_by(candidate, key, now_ns):
                    free = self._free(key, candidate, now_ns)
                    if free is not None:
                        offers.setdefault(candidate, []).append(free)
        return [
            Send(candidate, Offer(tuple(free[first : first + _MOST_FREE])))
            for candidate, free in offers.items()
            for first in range(0, len(free), _MOST_FREE)
        ]

    def _free(self, key: Key, asker: str, now_ns: int) -> Free | None:
        """What to tell a standby; None while the address set is not free for it."""
        roster = self._rosters.get(key)
        if roster is None or key in self._grants or self._rival(key) is not None:
            return None
        reserved_for = self._reserved_for(key, now_ns)
        if reserved_for is not None:
            rank = 0 if reserved_for == asker else None
        elif self._is_for_elected_alone(key, roster, now_ns):
            rank = 0 if roster.elected == asker else None
        else:
            rank = self._rank(key, roster, asker, now_ns)
        if rank is None:
            return None
        former = self._formers.get(key)
        return Free(
            key=key,
            rank=rank,
            term=self._known_term(key),
            former=former.holder if former else None,
            lapsed_ns=now_ns - former.ended_ns if former else 0,
            was_released=former is not None and former.was_released,
        )

    def _known_term(self, key: Key) -> int:
        return max(self._terms.get(key, 0), self._rosters[key].observed_term, self._term_floor)

    def _rank(self, key: Key, roster: Roster, asker: str, now_ns: int) -> int | None:
        if asker not in roster.order:
            return None
        place = roster.order.index(asker)
        is_sound = self._is_sound(asker)
        before = [c for c in roster.order[:place] if self._is_sound(c) or not is_sound]
        overtaking = [] if is_sound else [c for c in roster.order[place + 1 :] if self._is_sound(c)]
        return sum(self._stands_by(candidate, key, now_ns) for candidate in (*before, *overtaking))

    def _is_for_elected_alone(self, key: Key, roster: Roster, now_ns: int) -> bool:
        if roster.elected is None or key in self._formers:
            return False
        return now_ns - self._known_since_ns[key] < _ELECTED_ALONE_HEARTBEATS * self._timing.heartbeat_ns

    def _best_standby(self, key: Key, holder: str, now_ns: int) -> tuple[str | None, bool]:
        """Return the best candidate that could take over, and whether it is sound."""
        unsound: str | None = None
        for candidate in self._rosters[key].order:
            if candidate != holder and self._stands_by(candidate, key, now_ns):
                if self._is_sound(candidate):
                    return candidate, True
                unsound = unsound or candidate
        return unsound, False

    def _is_sound(self, candidate: str) -> bool:
        stance = self._stances.get(candidate)
        return stance is not None and stance.is_sound

    def _stands_by(self, candidate: str, key: Key, now_ns: int) -> bool:
        stance = self._stances.get(candidate)
        if stance is None or key not in stance.polls:
            return False
        return now_ns - stance.at_ns < _POLL_FRESH_HEARTBEATS * self._timing.heartbeat_ns

    def _reserved_for(self, key: Key, now_ns: int) -> str | None:
        reservation = self._reservations.get(key)
        if reservation is None or reservation.until_ns <= now_ns:
            return None
        return reservation.successor
