"""What the standbys see of an owner through its address, and what the owner makes of it: pure.

A check with `observedFrom: Peers` is not run by the owner, to which its own address always answers, but by
the other candidates, against the VirtualIP's first address:

    owner                                          each other candidate
      │ Observe(term, is it announced?) ─────────▶ │ probes the address, in this term only
      │ ◀─────────── Observation(failing, passing) │ each second, and at each change

It goes on without the API server, and as with health checks one keeper decides for itself only:

1. An observer says of a check only what it has seen since the owner announced (or its services were all
   active, for their checks) for as long as a dead one takes to be noticed, `fall` periods and a timeout. What
   it saw in another term counts for nothing, and an owner that is not heard for `FRESH_S` is not observed.
2. A check fails when a majority of those who have spoken within `FRESH_S` says so, one of one included.
3. The owner is unfit then (`PeersDisagree`), and hands over as it does for a failed check. But only while
   somebody stands by: the last candidate keeps the address, for a fault of the observers must not take it
   from everybody.
4. It keeps off for `LEAST_HOLD_OFF_S` from when it let go, and twice as long each further time, up to
   `MOST_HOLD_OFF_S`; all is forgiven `FORGIVEN_S` after a hold-off. So where the fault is the observers' the
   address moves less and less.
5. Who keeps off and hears of no owner for `LAST_RESORT_S` stands by again: the other may have died. A lease
   that it wins so ends the hold-off.

Checks go by digests of all that they say, so that nodes with different plans do not mean different checks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from vipagent.health import HIGHEST_SCORE, Subject
from vipagent.messages import Observation
from vipagent.nodeview import Refusal
from vipapi.healthchecks import GRPC, HTTPGet, TCPSocket
from vipapi.nodestatus import CheckStatus

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vipagent.health import Fitness
    from vipagent.messages import Key, Observe
    from vipapi.healthchecks import HealthCheck
    from vipapi.nodeplan import VirtualIPPlan

SAY_S: Final = 1.0
FRESH_S: Final = 3.0
LAST_RESORT_S: Final = 5.0
LEAST_HOLD_OFF_S: Final = 60.0
MOST_HOLD_OFF_S: Final = 600.0
FORGIVEN_S: Final = 1800.0
_REASON: Final = "PeersDisagree"
_DIGEST_BYTES: Final = 8


def of_peers(uid: str) -> str:
    """Return the UID under which the checks of another owner of a VirtualIP stand."""
    return f"{uid}/peers"


def observed(checks: Iterable[HealthCheck]) -> tuple[HealthCheck, ...]:
    """Return those of the checks that the standbys run."""
    return tuple(check for check in checks if check.observed_from == "Peers")


def is_observed(vip: VirtualIPPlan) -> bool:
    """Whether the owner of a VirtualIP is checked by its standbys."""
    return bool(observed((*vip.health_checks, *vip.service_checks)))


def digest(check: HealthCheck) -> bytes:
    """Return what names a check between keepers."""
    return hashlib.blake2b(msgspec.msgpack.encode(check), digest_size=_DIGEST_BYTES).digest()


def names(vip: VirtualIPPlan) -> dict[bytes, str]:
    """Return the checks that the standbys run, by digest."""
    return {digest(check): check.name for check in observed((*vip.health_checks, *vip.service_checks))}


def at_address(check: HealthCheck, vip: VirtualIPPlan) -> HealthCheck:
    """Return a check as an observer runs it: of the VirtualIP's first address."""
    host = vip.addresses[0].partition("/")[0]
    match check.probe:
        case HTTPGet() as probe:
            return msgspec.structs.replace(check, http_get=msgspec.structs.replace(probe, host=host))
        case GRPC() as probe:
            return msgspec.structs.replace(check, grpc=msgspec.structs.replace(probe, host=host))
        case TCPSocket() as probe:
            return msgspec.structs.replace(check, tcp_socket=msgspec.structs.replace(probe, host=host))
        case _:
            return check


@dataclass(frozen=True, slots=True)
class _Watch:
    """An owner that wants to be observed; since when it can be, and its services."""

    owner: str
    incarnation: int
    key: Key
    term: int
    heard_s: float
    announced_s: float | None
    active_s: float | None


class View(NamedTuple):
    """What this node sees of an owner: what to tell it, None while there is nothing to say."""

    owner: str
    observation: Observation | None
    checks: tuple[CheckStatus, ...]


class Watches:
    """The owners that this node observes."""

    def __init__(self) -> None:
        self._watches: dict[str, _Watch] = {}

    def hear(self, uid: str, owner: str, said: Observe, now: float) -> None:
        """An owner says that it is one; of two the higher term is the owner's."""
        known = self._watches.get(uid)
        if known is not None and known.term > said.term:
            return
        is_same = known is not None and (owner, said.incarnation, said.key, said.term) == (
            known.owner,
            known.incarnation,
            known.key,
            known.term,
        )
        announced_s = active_s = None
        if known is not None and is_same:
            announced_s, active_s = known.announced_s, known.active_s
        self._watches[uid] = _Watch(
            owner,
            said.incarnation,
            said.key,
            said.term,
            heard_s=now,
            announced_s=_since(announced_s, now, is_so=said.is_announced),
            active_s=_since(active_s, now, is_so=said.is_announced and said.is_active),
        )

    def expire(self, now: float) -> None:
        """Forget who is not heard any more."""
        for uid in [uid for uid, watch in self._watches.items() if now - watch.heard_s > FRESH_S]:
            del self._watches[uid]

    def forget(self, uid: str) -> None:
        """This node owns it itself, or it is planned no more."""
        self._watches.pop(uid, None)

    def subject(self, vip: VirtualIPPlan) -> Subject | None:
        """Return what is to be probed of a VirtualIP's owner; None while there is nothing."""
        watch = self._watches.get(vip.uid)
        checks = tuple(at_address(check, vip) for check, _ in _due(vip, watch))
        if watch is None or not checks:
            return None
        return Subject(of_peers(vip.uid), HIGHEST_SCORE, checks, are_presumed=True, term=watch.term)

    def view(self, vip: VirtualIPPlan, fitness: Fitness | None, now: float) -> View | None:
        """Return what is seen of a VirtualIP's owner; `fitness` is that of the `subject`."""
        watch = self._watches.get(vip.uid)
        due = list(_due(vip, watch))
        if watch is None or fitness is None or len(due) != len(fitness.checks):
            return None
        failing: list[bytes] = []
        passing: list[bytes] = []
        statuses: list[CheckStatus] = []
        for (check, since_s), status in zip(due, fitness.checks, strict=True):
            notice_ms = check.fall * check.period_ms + check.timeout_ms
            if now - since_s < notice_ms / 1000 or status.result == "Unknown":
                statuses.append(CheckStatus(check.name, "Unknown"))
                continue
            statuses.append(status)
            (failing if status.result == "Failing" else passing).append(digest(check))
        said = None
        if failing or passing:
            said = Observation(watch.incarnation, watch.key, watch.term, tuple(failing), tuple(passing))
        return View(watch.owner, said, tuple(statuses))


def _since(before: float | None, now: float, *, is_so: bool) -> float | None:
    if not is_so:
        return None
    return now if before is None else before


def _due(vip: VirtualIPPlan, watch: _Watch | None) -> Iterable[tuple[HealthCheck, float]]:
    """Return the checks that can be run now, and since when."""
    if watch is not None and watch.announced_s is not None:
        for check in observed(vip.health_checks):
            yield check, watch.announced_s
    if watch is not None and watch.active_s is not None:
        for check in observed(vip.service_checks):
            yield check, watch.active_s


@dataclass(frozen=True, slots=True)
class _HoldOff:
    """This node keeps off; `seen_s` is when an owner was last known of."""

    refusal: Refusal
    length_s: float
    until_s: float
    seen_s: float


class Dispute:
    """What the peers say of this node as the owner of one VirtualIP, and whether it keeps off for that."""

    def __init__(self) -> None:
        self._term = 0
        self._said: dict[str, tuple[float, frozenset[bytes]]] = {}
        self._hold_off: _HoldOff | None = None
        self._last: _HoldOff | None = None
        self.obstacle: Refusal | None = None
        self.remark: Refusal | None = None

    def hear(self, node: str, said: Observation, now: float) -> None:
        """A peer has said something; of another term than this node's it counts for nothing."""
        if self._term and said.term == self._term:
            self._said[node] = (now, frozenset(said.failing))

    def see_owner(self, now: float) -> None:
        """Another node says that it is the owner."""
        if self._hold_off is not None:
            self._hold_off = replace(self._hold_off, seen_s=now)

    def look(self, checks: Mapping[bytes, str], *, term: int, has_standby: bool, now: float) -> None:
        """Decide anew: `obstacle` and `remark` say how. `term` is this node's, 0 while it owns nothing."""
        if term != self._term:
            self._term = term
            self._said.clear()
            if term:
                self._hold_off = None
        self.remark = None
        if term:
            self._look_as_owner(checks, has_standby=has_standby, now=now)
        elif self._hold_off is not None and now >= self._hold_off.until_s:
            self._hold_off = None
        held = self._hold_off
        self.obstacle = None if held is None or now - held.seen_s >= LAST_RESORT_S else held.refusal

    def _look_as_owner(self, checks: Mapping[bytes, str], *, has_standby: bool, now: float) -> None:
        if self._hold_off is not None:  # it is leaving, which may take services some time
            until_s = now + self._hold_off.length_s
            self._last = self._hold_off = replace(self._hold_off, until_s=until_s, seen_s=now)
            return
        complaint = self._complaint(checks, now)
        if complaint is None:
            return
        if not has_standby:
            told = f"{complaint}; it stays here, for no other candidate stands by"
            self.remark = Refusal(_REASON, told)
            return
        length_s = self._next_length_s(now)
        refusal = Refusal(_REASON, f"{complaint}; this node keeps off for {length_s:.0f} s")
        self._last = self._hold_off = _HoldOff(refusal, length_s, now + length_s, now)

    def _next_length_s(self, now: float) -> float:
        if self._last is None or now - self._last.until_s >= FORGIVEN_S:
            return LEAST_HOLD_OFF_S
        return min(MOST_HOLD_OFF_S, 2 * self._last.length_s)

    def _complaint(self, checks: Mapping[bytes, str], now: float) -> str | None:
        """Return what a majority of those who speak says against this node."""
        speaking = {node: failing for node, (at, failing) in self._said.items() if now - at <= FRESH_S}
        failing: list[str] = []
        accusers: set[str] = set()
        for check, name in checks.items():
            against = {node for node, said in speaking.items() if check in said}
            if 2 * len(against) > len(speaking):
                failing.append(name)
                accusers |= against
        if not failing:
            return None
        return (
            f"through the address these checks fail for {', '.join(sorted(accusers))}: {', '.join(failing)}"
        )
