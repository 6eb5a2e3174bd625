"""What becomes of a Switchover: it asks for one move, or for a move and the way back, and it always ends.

    (new) ── the target owns it already ──▶ Complete, AlreadyThere; a drill: Failed, AlreadyThere
      │ ──── no VirtualIP, suspended, or the target cannot ──▶ Failed
      │ ──── a drill, and nobody owns it, so there is no way back ──▶ Failed, NoOwner
      ▼
    started (`startedAt`, `from`): the election is told the target (a drill's once this is written)
      │ ──── the target is the observed owner, under a newer term, and has bound it ──▶ Complete, Moved,
      │      with the outage
      │ ──── somebody else got it, or a newer Switchover asks ──▶ Failed, Superseded
      ├ ──── its deadline after its start ──▶ Failed, DeadlineExceeded
      │
      │ a drill goes on when the target is the observed owner:
      ▼
    there (`outageMilliseconds`, Steady=Unknown): the election is told the target still
      │ ──── somebody else got it, or a newer Switchover asks ──▶ Failed, Superseded
      │ ──── `STEADY_S` after that it is bound there, and its services, if any follow, active ──▶ Steady=True
      │ ──── `READY_S` after that they are not ──▶ Steady=False
      ▼
    on the way back: the election is told where it came from
      │ ──── bound there again ──▶ Steady=True: Complete, Drilled, with both outages; Steady=False: Failed
      │ ──── suspended, or the former owner cannot ──▶ Failed, with where the address is now
      │ ──── somebody else got it, or a newer Switchover asks ──▶ Failed, Superseded
      └ ──── its deadline after Steady changed ──▶ Failed, DeadlineExceeded

The owner goes when its services have stopped, one after the other, so the deadline is `DEADLINE_S` and the
stop timeouts of all that follow; `READY_S` grows by their start timeouts likewise. So does the deadline of
whoever has been granted the address and has not bound it: its services may come first.
All of it is in the status, the times as those of the condition Steady, so a controller that restarts goes on.
The writes of one look are made side by side, so a drill gives no order before its status says where it came
from and that it goes: else one that was cut off between them would find itself there and not know why.
A drill that somebody deletes on the way leaves the address where it is.
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

    from vipapi.conditions import Status
    from vipapi.election import Candidate
    from vipapi.resources import Switchover, VirtualIP
    from vipcontroller.observation import Grant

DEADLINE_S = 30.0
PATIENCE_S = 5.0
"""How long a new Switchover waits for news of the VirtualIP, and of the target, that it names."""
STEADY_S = 5.0
"""How long a drill stays at least."""
READY_S = 150.0
"""How long a drill waits for services to be active, besides the time that they may take to start."""


class Situation(NamedTuple):
    """A VirtualIP as its Switchovers see it. `outage_ms` is told by the owner of the observed term.

    `waiting` says which services that follow it are not active on the observed owner; all those that run on
    nodes may take `stop_s` to stop, and `start_s` to start. `unbound` says why the observed owner has not
    bound the addresses; "" if it has.
    """

    virtual_ip: VirtualIP
    is_accepted: bool
    observed: Grant | None
    candidates: Sequence[Candidate]
    outage_ms: int | None
    waiting: Sequence[str] = ()
    stop_s: float = 0.0
    start_s: float = 0.0
    unbound: str = ""

    @property
    def deadline_s(self) -> float:
        """How long a move may take until it is granted."""
        return DEADLINE_S + self.stop_s

    @property
    def arrival_s(self) -> float:
        """How long a move may take, to whoever was granted it."""
        return self.deadline_s + (self.start_s if self.unbound else 0.0)

    @property
    def ready_s(self) -> float:
        """How long a drill waits at most for the services to be active."""
        return READY_S + self.start_s

    @property
    def owner(self) -> str | None:
        """The observed owner."""
        return None if self.observed is None else self.observed.holder

    @property
    def place(self) -> str:
        """Where the address is now, as the end of a sentence."""
        return "nobody has the address now" if self.owner is None else f"the address is on {self.owner} now"


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
    return_outage_ms: int | None = None
    has_returned: bool = False


def is_ended(switchover: Switchover) -> bool:
    """Whether a result stands."""
    found = switchover.status.conditions
    return conditions.is_true(found, "Complete") or conditions.is_true(found, "Failed")


def steer(open_ones: Sequence[Switchover], situation: Situation | None, now: dt.datetime) -> Course:
    """Decide the open Switchovers of one VirtualIP; `situation` is None where there is no such object."""
    if not open_ones:
        return Course()
    *older, newest = sorted(open_ones, key=lambda one: (_created(one, now), one.metadata.name))
    writes = tuple(_ended(one, _superseded(one, newest, situation), situation, now) for one in older)
    age_s = (now - _created(newest, now)).total_seconds()
    if situation is None:
        course: Course | _End = _absent(newest)
    elif _steady(newest) is not None:
        course = _drill(newest, situation, now)
    else:
        course = _go(newest, situation, now)
    if isinstance(course, Course):
        return course._replace(writes=(*writes, *course.writes))
    if age_s < PATIENCE_S and course.might_change:
        return Course(None, writes, PATIENCE_S - age_s)
    return Course(None, (*writes, _ended(newest, course, situation, now)))


def _superseded(switchover: Switchover, newest: Switchover, situation: Situation | None) -> _End:
    message = f"Switchover {newest.metadata.name!r} is newer"
    if switchover.spec.type == "Drill" and switchover.status.started_at is not None and situation is not None:
        message += f"; {situation.place}"
    return _End(is_complete=False, reason=Reason.SUPERSEDED, message=message)


def _absent(switchover: Switchover) -> _End:
    message = f"there is no VirtualIP {switchover.spec.virtual_ip_ref.name!r}"
    return _End(is_complete=False, reason=Reason.VIRTUAL_IP_NOT_FOUND, message=message, might_change=True)


def _go(switchover: Switchover, situation: Situation, now: dt.datetime) -> Course | _End:
    """Return how it ends now, or what to do while it goes on."""
    target, status, owner = switchover.spec.to, switchover.status, situation.owner
    is_drill = switchover.spec.type == "Drill"
    if owner == target:
        arrived = _arrived(switchover, situation, now)
        if arrived is None or not arrived.is_complete or not is_drill:
            return arrived or _under_way(switchover, situation, now)
        return Course(target, (_there(switchover, arrived, now),), STEADY_S)
    if status.started_at is not None and owner not in {None, status.from_node}:
        message = f"{owner} took it meanwhile" + (f"; {situation.place}" if is_drill else "")
        return _End(is_complete=False, reason=Reason.SUPERSEDED, message=message)
    refusal = _refusal(target, situation)
    if refusal is None and is_drill and owner is None and status.started_at is None:
        message = "nobody owns the address, so there would be no way back: wait until it has an owner"
        return _End(is_complete=False, reason=Reason.NO_OWNER, message=message, might_change=True)
    if refusal is None and _is_over(status, situation.deadline_s, now):
        message = (
            f"{target} did not get it within {situation.deadline_s:g} s; the owner is {owner or 'nobody'}"
        )
        return _End(is_complete=False, reason=Reason.DEADLINE_EXCEEDED, message=message)
    return refusal or _under_way(switchover, situation, now)


def _under_way(switchover: Switchover, situation: Situation, now: dt.datetime) -> Course:
    started = _started(switchover, situation, now)
    is_arriving = situation.owner == switchover.spec.to and switchover.spec.type == "Move"
    limit_s = situation.arrival_s if is_arriving else situation.deadline_s
    due_in_s = limit_s - (now - (switchover.status.started_at or now)).total_seconds()
    if started is None:
        return Course(switchover.spec.to, (), due_in_s)
    return Course(None if switchover.spec.type == "Drill" else switchover.spec.to, (started,), due_in_s)


def _arrived(switchover: Switchover, situation: Situation, now: dt.datetime) -> _End | None:
    """Return the end, once it is bound and the outage known, or the deadline has passed.

    A drill arrives bound or not: it finds out there whether the target can do the work.
    """
    target, status = switchover.spec.to, switchover.status
    if status.started_at is None and switchover.spec.type == "Drill":
        message = f"{target} owns it already, so there is nothing to drill: set `to` to another candidate"
        return _End(is_complete=False, reason=Reason.ALREADY_THERE, message=message)
    if status.started_at is None:
        message = f"{target} owned it already"
        return _End(is_complete=True, reason=Reason.ALREADY_THERE, message=message, outage_ms=0)
    if situation.unbound and switchover.spec.type == "Move":
        if not _is_over(status, situation.arrival_s, now):
            return None
        message = _not_bound(target, situation)
        return _End(is_complete=False, reason=Reason.DEADLINE_EXCEEDED, message=message)
    if situation.outage_ms is None and not _is_over(status, situation.deadline_s, now):
        return None
    message = f"moved from {status.from_node or 'nobody'} to {target}{_outage(situation.outage_ms)}"
    return _End(is_complete=True, reason=Reason.MOVED, message=message, outage_ms=situation.outage_ms)


def _not_bound(node: str, situation: Situation) -> str:
    within = f"within {situation.arrival_s:g} s"
    return f"{node} was granted the addresses and has not bound them {within}: {situation.unbound}"


def _outage(outage_ms: int | None) -> str:
    return "" if outage_ms is None else f", with an outage of {outage_ms} ms"


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


def _is_over(status: SwitchoverStatus, limit_s: float, now: dt.datetime) -> bool:
    started = status.started_at
    return started is not None and (now - started).total_seconds() >= limit_s


def _created(switchover: Switchover, now: dt.datetime) -> dt.datetime:
    return switchover.metadata.creation_timestamp or now


def _steady(switchover: Switchover) -> Condition | None:
    """Return how it is with the stay at the target; None on the way there, and for every move."""
    return conditions.find(switchover.status.conditions, "Steady")


def _drill(switchover: Switchover, situation: Situation, now: dt.datetime) -> Course | _End:
    steady = _steady(switchover)
    assert steady is not None
    # The transition is kept in whole seconds, the earlier ones: nothing is done too early.
    since_s = (now - steady.last_transition_time).total_seconds() - 1.0
    if steady.status == "Unknown":
        return _stay(switchover, situation, since_s, now)
    return _return(switchover, situation, since_s)


def _stay(switchover: Switchover, situation: Situation, since_s: float, now: dt.datetime) -> Course | _End:
    """Stay at the target until it has shown that it can do the work, or that it cannot."""
    target = switchover.spec.to
    if situation.owner not in {target, None}:
        message = f"{situation.owner} took it while the drill stayed on {target}; {situation.place}"
        return _End(is_complete=False, reason=Reason.SUPERSEDED, message=message)
    is_well = situation.owner == target and not situation.waiting and not situation.unbound
    ready_s = situation.ready_s
    if since_s < STEADY_S or not (is_well or since_s >= ready_s):
        due_in_s = (STEADY_S if since_s < STEADY_S else ready_s) - since_s
        return Course(target, (), due_in_s)
    reason: str = Reason.WAITING
    message = f"it worked on {target}; on the way back to {switchover.status.from_node}"
    if not is_well:
        missing = ", ".join(situation.waiting) or "the address"
        reason = Reason.SERVICES_NOT_ACTIVE
        message = f"not active on {target} within {ready_s:g} s: {missing}"
    write = _with_steady(switchover, "True" if is_well else "False", reason, message, now=now)
    return Course(target, (write,), situation.deadline_s)


def _return(switchover: Switchover, situation: Situation, since_s: float) -> Course | _End:
    home, target, owner = switchover.status.from_node, switchover.spec.to, situation.owner
    assert home is not None
    deadline_s = situation.deadline_s
    is_late = since_s >= deadline_s
    if owner == home:
        return _back(switchover, situation, home, since_s)
    if owner not in {target, None}:
        message = f"{owner} took it on the way back to {home}; {situation.place}"
        return _End(is_complete=False, reason=Reason.SUPERSEDED, message=message)
    refusal = _refusal(home, situation)
    if refusal is not None and (is_late or not refusal.might_change):
        message = f"no way back to {home}, and {situation.place}: {refusal.message}"
        return _End(is_complete=False, reason=refusal.reason, message=message)
    if is_late:
        message = f"{home} did not get it back within {deadline_s:g} s, and {situation.place}"
        return _End(is_complete=False, reason=Reason.DEADLINE_EXCEEDED, message=message)
    return Course(home, (), deadline_s - since_s)


def _back(switchover: Switchover, situation: Situation, home: str, since_s: float) -> Course | _End:
    """Return the end of a drill whose address was granted again to where it began, once that has bound it."""
    if since_s < situation.arrival_s and (situation.unbound or situation.outage_ms is None):
        return Course(home, (), situation.arrival_s - since_s)
    if situation.unbound:
        message = _not_bound(home, situation)
        return _End(is_complete=False, reason=Reason.DEADLINE_EXCEEDED, message=message)
    status, target, steady = switchover.status, switchover.spec.to, _steady(switchover)
    assert steady is not None
    there, back = _outage(status.outage_milliseconds), _outage(situation.outage_ms)
    message = f"moved from {status.from_node} to {target}{there}, and back{back}"
    is_complete = steady.status == "True"
    if not is_complete:
        message = f"{steady.message}; {situation.place}, back where it was"
    return _End(
        is_complete=is_complete,
        reason=Reason.DRILLED if is_complete else steady.reason,
        message=message,
        return_outage_ms=situation.outage_ms,
        has_returned=True,
    )


def _there(switchover: Switchover, arrived: _End, now: dt.datetime) -> StatusWrite:
    """Return the write that marks the arrival of a drill."""
    status = msgspec.structs.replace(switchover.status, outage_milliseconds=arrived.outage_ms)
    there = msgspec.structs.replace(switchover, status=status)
    return _with_steady(there, "Unknown", Reason.WAITING, f"{arrived.message}; waiting there", now=now)


def _with_steady(
    switchover: Switchover, status: Status, reason: str, message: str, *, now: dt.datetime
) -> StatusWrite:
    found = conditions.set_condition(
        switchover.status.conditions,
        "Steady",
        status,
        reason=reason,
        message=message,
        now=now,
        generation=switchover.metadata.generation,
    )
    return StatusWrite(
        kind="Switchover",
        metadata=switchover.metadata,
        status=msgspec.structs.replace(switchover.status, conditions=found),
    )


def _started(switchover: Switchover, situation: Situation, now: dt.datetime) -> StatusWrite | None:
    """Return the write that marks the start, unless it is marked."""
    if switchover.status.started_at is not None:
        return None
    waiting = "the move was ordered"
    generation = switchover.metadata.generation
    status = SwitchoverStatus(
        observed_generation=generation,
        from_node=situation.owner,
        to=switchover.spec.to,
        started_at=_whole_milliseconds(now),
        conditions=conditions.merge(
            switchover.status.conditions,
            (
                Condition("Complete", "False", Reason.WAITING, waiting, now, generation),
                Condition("Failed", "False", Reason.NOT_FAILED, waiting, now, generation),
                Condition("Reconciling", "True", Reason.WAITING, waiting, now, generation),
            ),
        ),
    )
    return StatusWrite(kind="Switchover", metadata=switchover.metadata, status=status)


def _ended(switchover: Switchover, end: _End, situation: Situation | None, now: dt.datetime) -> StatusWrite:
    generation, before = switchover.metadata.generation, switchover.status
    complete = Condition(
        "Complete", "True" if end.is_complete else "False", end.reason, end.message, now, generation
    )
    failed = [Condition("Failed", "False", Reason.NOT_FAILED, "the move has not failed", now, generation)]
    if not end.is_complete:
        kinds = ("Failed", "Stalled")
        failed = [Condition(kind, "True", end.reason, end.message, now, generation) for kind in kinds]
    steady = _steady(switchover)
    status = msgspec.structs.replace(
        before,
        observed_generation=generation,
        from_node=before.from_node or (None if situation is None else situation.owner),
        to=switchover.spec.to,
        outage_milliseconds=end.outage_ms if steady is None else before.outage_milliseconds,
        return_outage_milliseconds=end.return_outage_ms,
        returned_at=_whole_milliseconds(now) if end.has_returned else None,
        started_at=before.started_at or _whole_milliseconds(now),
        completed_at=_whole_milliseconds(now),
        conditions=conditions.merge(
            before.conditions, (complete, *failed, *(() if steady is None else (steady,)))
        ),
    )
    what = "Drill with" if switchover.spec.type == "Drill" else "Switchover to"
    telling = Telling(
        type="Normal" if end.is_complete else "Warning",
        action="Move",
        reason=end.reason,
        note=f"{what} {switchover.spec.to}: {end.message}",
    )
    return StatusWrite(kind="Switchover", metadata=switchover.metadata, status=status, tellings=(telling,))


def _whole_milliseconds(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
