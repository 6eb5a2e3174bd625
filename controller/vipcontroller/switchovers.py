"""What becomes of a Switchover: it asks for one move, and it always ends.

    (new) ── target owns it already ──▶ Complete, AlreadyThere
      │ ──── no VirtualIP, suspended, or the target cannot ──▶ Failed
      ▼
    started (`startedAt`, `from`): the election is told the target
      │ ──── the target is the observed owner, under a newer term ──▶ Complete, Moved, with the outage
      │ ──── somebody else got it, or a newer Switchover asks ──▶ Failed, Superseded
      └ ──── `DEADLINE_S` after its start ──▶ Failed, DeadlineExceeded

An ended Switchover is a record and is not touched again. Of several that are not ended, the newest
asks and the others fail as superseded. The outage is the new owner's own measurement (from the last
sign of the old owner to the first announcement), so it is waited for, but not beyond the deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi import conditions
from vipapi.conditions import Condition, Reason
from vipapi.resources import SwitchoverStatus
from vipcontroller.sheets import SETTLING
from vipcontroller.writes import StatusWrite, Telling

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from vipapi.election import Candidate
    from vipapi.resources import Switchover, VirtualIP
    from vipcontroller.observation import Grant

DEADLINE_S = 30.0
PATIENCE_S = 5.0
"""How long a new Switchover waits for news of the VirtualIP, and of the target, that it names."""


class Situation(NamedTuple):
    """A VirtualIP as its Switchovers see it. `outage_ms` is told by the owner of the observed term."""

    virtual_ip: VirtualIP
    is_accepted: bool
    observed: Grant | None
    candidates: Sequence[Candidate]
    outage_ms: int | None


class Course(NamedTuple):
    """What is to be done: whom the election is told to choose, what is written, when to look again."""

    target: str | None = None
    writes: tuple[StatusWrite, ...] = ()
    due_in_s: float | None = None


class _End(NamedTuple):
    is_complete: bool
    reason: str
    message: str
    outage_ms: int | None = None
    might_change: bool = False


def is_ended(switchover: Switchover) -> bool:
    """Whether a result stands."""
    found = switchover.status.conditions
    return conditions.is_true(found, "Complete") or conditions.is_true(found, "Failed")


def steer(open_ones: Sequence[Switchover], situation: Situation | None, now: dt.datetime) -> Course:
    """Decide the open Switchovers of one VirtualIP; `situation` is None where there is no such object."""
    if not open_ones:
        return Course()
    *older, newest = sorted(open_ones, key=lambda one: (_created(one, now), one.metadata.name))
    superseded = _End(
        is_complete=False, reason=Reason.SUPERSEDED, message=f"Switchover {newest.metadata.name!r} is newer"
    )
    writes = tuple(_ended(one, superseded, situation, now) for one in older)
    age_s = (now - _created(newest, now)).total_seconds()
    ended = _absent(newest) if situation is None else _end(newest, situation, now)
    if ended is None:
        assert situation is not None
        started = _started(newest, situation, now)
        due_in_s = DEADLINE_S - (now - (newest.status.started_at or now)).total_seconds()
        return Course(newest.spec.to, (*writes, *([started] if started is not None else [])), due_in_s)
    if age_s < PATIENCE_S and ended.might_change:
        return Course(None, writes, PATIENCE_S - age_s)
    return Course(None, (*writes, _ended(newest, ended, situation, now)))


def _absent(switchover: Switchover) -> _End:
    message = f"there is no VirtualIP {switchover.spec.virtual_ip_ref.name!r}"
    return _End(is_complete=False, reason=Reason.VIRTUAL_IP_NOT_FOUND, message=message, might_change=True)


def _end(switchover: Switchover, situation: Situation, now: dt.datetime) -> _End | None:
    """Return how it ends now, or None while it goes on."""
    target, status = switchover.spec.to, switchover.status
    owner = None if situation.observed is None else situation.observed.holder
    if owner == target:
        return _arrived(switchover, situation, now)
    if status.started_at is not None and owner not in {None, status.from_node}:
        return _End(is_complete=False, reason=Reason.SUPERSEDED, message=f"{owner} took it meanwhile")
    refusal = _refusal(target, situation)
    if refusal is None and _is_over(status, now):
        message = f"{target} did not get it within {DEADLINE_S:g} s; the owner is {owner or 'nobody'}"
        return _End(is_complete=False, reason=Reason.DEADLINE_EXCEEDED, message=message)
    return refusal


def _arrived(switchover: Switchover, situation: Situation, now: dt.datetime) -> _End | None:
    """Return the good end, once the outage is known or the deadline has passed."""
    target, status = switchover.spec.to, switchover.status
    if status.started_at is None:
        message = f"{target} owned it already"
        return _End(is_complete=True, reason=Reason.ALREADY_THERE, message=message, outage_ms=0)
    if situation.outage_ms is None and not _is_over(status, now):
        return None
    outage = "" if situation.outage_ms is None else f", with an outage of {situation.outage_ms} ms"
    message = f"moved from {status.from_node or 'nobody'} to {target}{outage}"
    return _End(is_complete=True, reason=Reason.MOVED, message=message, outage_ms=situation.outage_ms)


def _refusal(target: str, situation: Situation) -> _End | None:
    """Return why the move is impossible as things stand."""
    virtual_ip = situation.virtual_ip
    name = virtual_ip.metadata.name
    if virtual_ip.spec.suspend:
        message = f"VirtualIP {name!r} is suspended: no voluntary moves; set `suspend` to false first"
        return _End(is_complete=False, reason=Reason.SUSPENDED, message=message)
    found = next((candidate for candidate in situation.candidates if candidate.node == target), None)
    if not situation.is_accepted or virtual_ip.metadata.is_deleting:
        message, might_change = f"VirtualIP {name!r} is not in force; see its conditions", True
    elif found is None:
        known = ", ".join(candidate.node for candidate in situation.candidates) or "none"
        message, might_change = (
            f"{target} is not a candidate of VirtualIP {name!r}; these are: {known}",
            False,
        )
    elif found.obstacle is not None:
        message, might_change = (
            f"{target} cannot own it: {found.obstacle.message}",
            found.obstacle.reason in SETTLING,
        )
    else:
        return None
    return _End(
        is_complete=False, reason=Reason.TARGET_NOT_ELIGIBLE, message=message, might_change=might_change
    )


def _is_over(status: SwitchoverStatus, now: dt.datetime) -> bool:
    return status.started_at is not None and (now - status.started_at).total_seconds() >= DEADLINE_S


def _created(switchover: Switchover, now: dt.datetime) -> dt.datetime:
    return switchover.metadata.creation_timestamp or now


def _started(switchover: Switchover, situation: Situation, now: dt.datetime) -> StatusWrite | None:
    """Return the write that marks the start, unless it is marked."""
    if switchover.status.started_at is not None:
        return None
    waiting = "the move was ordered"
    generation = switchover.metadata.generation
    status = SwitchoverStatus(
        observed_generation=generation,
        from_node=None if situation.observed is None else situation.observed.holder,
        to=switchover.spec.to,
        started_at=_whole_milliseconds(now),
        conditions=conditions.merge(
            switchover.status.conditions,
            (
                Condition("Complete", "False", Reason.WAITING, waiting, now, generation),
                Condition("Failed", "False", Reason.NOT_FAILED, waiting, now, generation),
            ),
        ),
    )
    return StatusWrite(kind="Switchover", metadata=switchover.metadata, status=status)


def _ended(switchover: Switchover, end: _End, situation: Situation | None, now: dt.datetime) -> StatusWrite:
    generation = switchover.metadata.generation
    complete = Condition(
        "Complete", "True" if end.is_complete else "False", end.reason, end.message, now, generation
    )
    failed = Condition("Failed", "False", Reason.NOT_FAILED, "the move has not failed", now, generation)
    if not end.is_complete:
        failed = Condition("Failed", "True", end.reason, end.message, now, generation)
    observed = None if situation is None or situation.observed is None else situation.observed.holder
    status = msgspec.structs.replace(
        switchover.status,
        observed_generation=generation,
        from_node=switchover.status.from_node or observed,
        to=switchover.spec.to,
        outage_milliseconds=end.outage_ms,
        started_at=switchover.status.started_at or _whole_milliseconds(now),
        completed_at=_whole_milliseconds(now),
        conditions=conditions.merge(switchover.status.conditions, (complete, failed)),
    )
    kind = "Normal" if end.is_complete else "Warning"
    note = f"Switchover to {switchover.spec.to}: {end.message}"
    telling = Telling(
        type="Normal" if kind == "Normal" else "Warning", action="Move", reason=end.reason, note=note
    )
    return StatusWrite(kind="Switchover", metadata=switchover.metadata, status=status, tellings=(telling,))


def _whole_milliseconds(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
