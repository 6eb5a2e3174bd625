"""Decides when the API server's vote of a domain is asked for, and until when it is one's own.

The vote is a Lease object that names one holder, a node on a machine. All writes are compare-and-swap,
so the Lease's versions are one chain, and nobody compares its clock with another's:

    no Lease ── make it, held by nobody ──▶ another's (or nobody's) ◀──┐
                                               │                       │ a version that names another
                 unchanged for DURATION on our clock since we first    │
                 saw this version: take it, naming that version        │
                                               ▼                       │
                                     ours: renew every RENEWAL ────────┤
                                               │ its keeper gave it back   │
                                               ▼                           │
                                     nobody's: anybody takes it at once ───┘

- The holder's vote ends (DURATION · 0.9/1.1 − MARGIN) after the clock was read *before* the write that
  won or renewed it. The reader's DURATION begins when it had the answer that showed it the version, which
  is *after* that write. With clock rates that are off by 10 % at most, the first is over before the second.
- A write whose answer is lost, or late by `PATIENCE`, gives no vote, whether it happened or not. It
  cannot surprise anybody: it names a version, and whatever comes after that version is seen.
- A Lease that is made is nobody's at first, so that one that somebody deleted while it was held is
  waited out like any other.
- A vote that is needed no more is not just left to run out: for DURATION after its last renewal the other
  node could not get it, and that is when this one may die. The keeper says when no lease rests on it
  any more, and has forgotten it by then; a version with the duration `FREE_S` is nobody's. A keeper's
  word is about votes that were asked for before it. Each version says who asked (`CLAIM`), so a process
  that is late with an old word does not give away what was won since. Without such a word a vote is only
  not renewed.
- An answer that shows the same version as before the write means that nothing was written, and that
  nobody else can see a change. It is no vote.
- While the vote is not needed the Lease is only looked at, each `IDLE_LOOK`. Its versions are known so
  soon that a needed vote whose last holder stopped `DURATION` + `IDLE_LOOK` ago, or earlier, is won with
  the first request. Each node asks the API server for this two times in 3 s, for each domain whose
  witnesses have its vote; while the vote is needed its holder writes five times in 3 s, and others read
  six times.

The annotation `TERM_CEILING` is a number that no term granted under the vote has passed; it only grows.
Who takes the vote is given it as the floor for its own terms. As long as the Lease shows the same holder
in the same transition, nobody held it in between, and the floor stays what it was; but only for the same
incarnation of the keeper. One that was restarted remembers nothing of the terms that the one before it
had under the vote: it gets the ceiling as its floor, with a renewal of its own.

The annotation `EPOCH` is the highest witness configuration that the vote was asked for under. Who is two
epochs behind it does not take or renew the vote: that is how the API server seals an epoch.

The Lease is named by the domain's UID (`lease_name`): a domain that is made anew under an old name begins
with epoch 1, and in a Lease with the old one's epoch it would never get the vote. So a Lease stays behind
when its domain is deleted; that one nobody needs.

Limits. An etcd that is restored to an earlier state within DURATION could show a former holder its
Lease again; the restore takes longer. A Lease that somebody deletes loses its seal, its ceiling and its
count of transitions, except for what the process that makes it anew remembers: then an epoch that was
sealed could get the vote again, and a term could be granted twice. Do not delete the Lease of a domain
that exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vipapi.link import Vote
from vipapi.nodeplan import MOST_CEILING

if TYPE_CHECKING:
    from datetime import datetime

    from vipapi.link import VoteWanted

Document = dict[str, Any]

_CLAIM: Final = re.compile(r"([0-9]{1,20})\.([0-9]{1,20})")
DURATION_S: Final = 3
DURATION_NS: Final = DURATION_S * 1_000_000_000
MARGIN_NS: Final = 50_000_000
HOLD_NS: Final = DURATION_NS * 9 // 11 - MARGIN_NS
"""How long a vote lasts for its holder: `DURATION` of a clock that is 10 % fast, on one 10 % slow."""
RENEWAL_NS: Final = 600_000_000
LOOK_NS: Final = 500_000_000
# Two whole tries fit between a renewal that is due and the end of the vote.
PATIENCE_NS: Final = 700_000_000
FIRST_RETRY_NS: Final = 200_000_000
LAST_RETRY_NS: Final = 1_000_000_000
IDLE_LOOK_NS: Final = 1_500_000_000
TERM_CEILING: Final = "vipkeeper.io/term-ceiling"
EPOCH: Final = "vipkeeper.io/epoch"
CLAIM: Final = "vipkeeper.io/claim"
"""For which keeper's incarnation the version was written, and with which `since_ns`."""
FREE_S: Final = 1
"""The duration in a version that nobody holds. Any other write has `DURATION`, also one by a release that
does not know this; to that release it is a version like any other, which it waits out."""


@dataclass(frozen=True, slots=True)
class Look:
    """Read the Lease."""


@dataclass(frozen=True, slots=True)
class Make:
    """Create the Lease; it is nobody's yet."""

    lease: Document


@dataclass(frozen=True, slots=True)
class Write:
    """Replace the Lease, naming the version in it; the clock was read before."""

    lease: Document
    holder: str
    asked_at_ns: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be asked before this time."""

    until_ns: int


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Replace the Lease, naming the version in it, by one that nobody holds."""

    lease: Document


Step = Look | Make | Write | GiveBack | Wait


@dataclass(frozen=True, slots=True)
class _Seen:
    """The Lease as it was last seen, and when on our clock this version of it was first."""

    lease: Document
    version: tuple[str, str]
    holder: str
    transitions: int
    term_ceiling: int
    epoch: int
    since_ns: int
    claim: tuple[int, int] | None
    is_free: bool


@dataclass(frozen=True, slots=True)
class _Tenure:
    """One keeper's unbroken time as the holder, and the ceiling that it found when it took the vote."""

    holder: str
    incarnation: int
    transitions: int
    term_floor: int


def lease_name(domain_uid: str) -> str:
    """Return what the Lease of a domain's vote is called."""
    return f"vipkeeper-vote-{domain_uid}"


class Claim:
    """One domain's vote as this process stands to it; remembers the Lease while it is not wanted."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._seen: _Seen | None = None
        self._is_missing = False
        self._is_outdated = True
        self._looked_at_ns = 0
        self._renewed_at_ns: int | None = None
        self._tenure: _Tenure | None = None
        self._failures = 0
        self._paused_until_ns = 0
        self.objection = ""
        """What of the Lease that was seen last cannot be read, in a sentence; empty if all can."""

    def step(self, wanted: VoteWanted, *, now_ns: int, wall: datetime) -> Step:
        """Return what is to be asked now; `wall` is written into the Lease for people to read."""
        if now_ns < self._paused_until_ns:
            return Wait(self._paused_until_ns)
        if self._is_outdated:
            return Look()
        return Make(self._made()) if self._is_missing else self._claim(wanted, now_ns, wall)

    def _claim(self, wanted: VoteWanted, now_ns: int, wall: datetime) -> Step:
        seen = self._seen
        assert seen is not None
        is_ours = seen.holder == wanted.holder
        asked = (wanted.incarnation, wanted.since_ns)
        if wanted.is_given_back and is_ours and not seen.is_free and seen.claim and seen.claim < asked:
            return GiveBack(_with_spec(seen.lease, leaseDurationSeconds=FREE_S))
        if not wanted.is_needed or seen.epoch > wanted.epoch + 1:
            return self._look(now_ns, LOOK_NS if wanted.is_needed else IDLE_LOOK_NS)
        if is_ours:
            due_ns = now_ns if self._renewed_at_ns is None else self._renewed_at_ns + RENEWAL_NS
            is_news = (
                wanted.term_ceiling > seen.term_ceiling
                or wanted.epoch > seen.epoch
                or not self._is_tenant(seen, wanted)
                or seen.claim != asked
            )
            return self._write(seen, wanted, now_ns, wall) if now_ns >= due_ns or is_news else Wait(due_ns)
        free_ns = now_ns if seen.is_free else seen.since_ns + DURATION_NS
        if now_ns >= free_ns:
            return self._write(seen, wanted, now_ns, wall)
        return self._look(now_ns, LOOK_NS, at_latest_ns=free_ns)

    def _look(self, now_ns: int, every_ns: int, *, at_latest_ns: int | None = None) -> Step:
        due_ns = self._looked_at_ns + every_ns
        if now_ns >= due_ns:
            return Look()
        return Wait(due_ns if at_latest_ns is None else min(due_ns, at_latest_ns))

    def saw(self, lease: Document | None, *, now_ns: int) -> None:
        """Take in the Lease as it was answered, None if there is none; the clock was read after."""
        self._failures = 0
        self._is_outdated = False
        self._is_missing = lease is None
        self._looked_at_ns = now_ns
        if lease is None:
            return
        metadata, spec = lease["metadata"], lease.get("spec") or {}
        version = (str(metadata.get("uid", "")), str(metadata["resourceVersion"]))
        if self._seen is not None and self._seen.version == version:
            return
        ceiling, epoch = _number(metadata, TERM_CEILING), _number(metadata, EPOCH)
        spoilt = [name for name, said in ((TERM_CEILING, ceiling), (EPOCH, epoch)) if said is None]
        self.objection = f"{' and '.join(spoilt)} cannot be read" if spoilt else ""
        before = self._seen
        self._seen = _Seen(
            lease=lease,
            version=version,
            holder=spec.get("holderIdentity") or "",
            transitions=spec.get("leaseTransitions") or 0,
            term_ceiling=(before.term_ceiling if before else 0) if ceiling is None else ceiling,
            epoch=(before.epoch if before else 0) if epoch is None else epoch,
            since_ns=now_ns,
            claim=_claim(metadata),
            is_free=spec.get("leaseDurationSeconds") == FREE_S,
        )

    def wrote(self, write: Write, lease: Document, wanted: VoteWanted, *, now_ns: int) -> Vote | None:
        """Take in the answer to a write; return the vote that it gives. The clock was read after."""
        before = self._seen
        self.saw(lease, now_ns=now_ns)
        seen, tenure = self._seen, self._tenure
        assert seen is not None
        assert tenure is not None
        assert tenure.incarnation == wanted.incarnation
        if seen is before or seen.holder != write.holder or now_ns - write.asked_at_ns > PATIENCE_NS:
            return None
        self._renewed_at_ns = write.asked_at_ns
        return Vote(
            domain_uid=wanted.domain_uid,
            until_ns=write.asked_at_ns + HOLD_NS,
            term_floor=tenure.term_floor,
            term_ceiling=seen.term_ceiling,
            transitions=seen.transitions + 1,
            epoch=seen.epoch,
            since_ns=wanted.since_ns,
        )

    def was_moved(self) -> None:
        """Take in that what was to be written has moved on: it is looked at again at once."""
        self._is_outdated = True

    def failed(self, *, now_ns: int) -> None:
        """Take in that a request failed, or that nobody knows what came of it."""
        self._is_outdated = True
        self._paused_until_ns = now_ns + min(FIRST_RETRY_NS << min(self._failures, 8), LAST_RETRY_NS)
        self._failures += 1

    def _made(self) -> Document:
        metadata: Document = {"name": self._name}
        spec: Document = {"leaseDurationSeconds": DURATION_S}
        if self._seen is not None:
            metadata["annotations"] = {
                TERM_CEILING: str(self._seen.term_ceiling),
                EPOCH: str(self._seen.epoch),
            }
            spec["leaseTransitions"] = self._seen.transitions
        return {"metadata": metadata, "spec": spec}

    def _is_tenant(self, seen: _Seen, wanted: VoteWanted) -> bool:
        """Whether the Lease shows the tenure, of the keeper that asks, whose floor is known."""
        tenure = self._tenure
        if tenure is None or seen.holder != wanted.holder:
            return False
        shown = (seen.holder, wanted.incarnation, seen.transitions)
        return (tenure.holder, tenure.incarnation, tenure.transitions) == shown

    def _write(self, seen: _Seen, wanted: VoteWanted, now_ns: int, wall: datetime) -> Write:
        said_at = wall.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {**(seen.lease.get("spec") or {}), "leaseDurationSeconds": DURATION_S, "renewTime": said_at}
        transitions = seen.transitions
        if seen.holder != wanted.holder:
            transitions += 1
            spec |= {
                "holderIdentity": wanted.holder,
                "acquireTime": said_at,
                "leaseTransitions": transitions,
            }
        if not self._is_tenant(seen, wanted):
            # Noted before it is known whether the write happens: if its answer is lost and the Lease shows
            # this transition later, this is the floor that it was taken with.
            self._tenure = _Tenure(wanted.holder, wanted.incarnation, transitions, seen.term_ceiling)
        metadata = seen.lease["metadata"]
        annotations = {
            **(metadata.get("annotations") or {}),
            TERM_CEILING: str(max(seen.term_ceiling, wanted.term_ceiling)),
            EPOCH: str(max(seen.epoch, wanted.epoch)),
            CLAIM: f"{wanted.incarnation}.{wanted.since_ns}",
        }
        lease = {**seen.lease, "metadata": {**metadata, "annotations": annotations}, "spec": spec}
        return Write(lease, wanted.holder, now_ns)


def _with_spec(lease: Document, **changes: object) -> Document:
    return {**lease, "spec": {**(lease.get("spec") or {}), **changes}}


def _claim(metadata: Document) -> tuple[int, int] | None:
    """Return for which want of a keeper a version was written; None where that cannot be read."""
    said = str((metadata.get("annotations") or {}).get(CLAIM, ""))
    found = _CLAIM.fullmatch(said)
    return None if found is None else (int(found[1]), int(found[2]))


def _number(metadata: Document, annotation: str) -> int | None:
    """Return what an annotation says, 0 for one that was left out; None if it was spoilt by hand."""
    try:
        number = int((metadata.get("annotations") or {}).get(annotation, "0"))
    except ValueError:
        return None
    return number if 0 <= number <= MOST_CEILING else None
