"""Whether a fault ended as it must, and what a failover added to the service's own times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.analysis import MILLISECOND, Overlap
from lab.copies import Collision
from lab.faultruns import DETECTED_MS, Run, limit_ms
from lab.faulttable import added_ms, start_ms, stop_ms
from lab.legacy import START, STATUS, STOP, Step
from lab.servicefaults import FAULTS, Ending
from lab.site import STOP_S
from lab.stage import Outcome, Timeline

TOLD = next(fault for fault in FAULTS if fault.ending is Ending.TOLD and not fault.is_death)
DEATH = next(fault for fault in FAULTS if fault.is_death)
LEASHED = next(fault for fault in FAULTS if fault.ending is Ending.LEASHED)
STAYS = next(fault for fault in FAULTS if fault.ending is Ending.STAYS)
NOWHERE = next(fault for fault in FAULTS if fault.ending is Ending.NOWHERE)
OVERLAP = Overlap("node-a", "node-b", left_ns=0, start_ns=1, end_ns=2)
COLLISION = Collision(at_ns=1, node="node-b", start=2, other="node-a.1")
UNTIMED = Timeline(detect=None, decide=None, bind=None, announce=None, first_reply=None)
MOVED = Outcome(
    virtual_ip="billing",
    before="node-a",
    after="node-b",
    outage_ms=1_000,
    hiccup_ms=4,
    timeline=UNTIMED,
    overlaps=(),
    astray=(),
    said=frozenset({"handover", "release"}),
    touched=("node-a", "node-b"),
)
BACK = Run(
    fault=TOLD,
    owner="node-a",
    outcome=MOVED,
    elsewhere_ms=1_000,
    blind_ms=5,
    ran=(["node-a.1"], ["node-b.1"]),
    doubles=[],
)
STAYED = replace(
    BACK,
    fault=STAYS,
    outcome=replace(MOVED, after="node-a"),
    elsewhere_ms=None,
    ran=(["node-a.1"], ["node-a.1"]),
)
AWAY = replace(
    BACK,
    fault=NOWHERE,
    outcome=replace(MOVED, after=None),
    elsewhere_ms=None,
    ran=(["node-a.1"], ["node-a.1"]),
)


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(BACK, id="told"),
        pytest.param(replace(BACK, fault=LEASHED), id="leashed"),
        pytest.param(STAYED, id="stays"),
        pytest.param(AWAY, id="nowhere"),
    ],
)
def test_what_ended_as_it_must_is_not_objected_to(kept: Run) -> None:
    assert kept.objection is None


@pytest.mark.parametrize(
    ("broken", "objection"),
    [
        pytest.param(replace(BACK, doubles=[COLLISION]), "two copies", id="two copies"),
        pytest.param(replace(STAYED, doubles=[COLLISION]), "two copies", id="two copies though it stayed"),
        pytest.param(replace(BACK, outcome=replace(MOVED, overlaps=(OVERLAP,))), "address", id="two owners"),
        pytest.param(replace(BACK, outcome=replace(MOVED, after=None)), "did not come back", id="gone again"),
        pytest.param(replace(BACK, elsewhere_ms=None), "did not come back", id="no copy elsewhere"),
        pytest.param(replace(STAYED, outcome=MOVED), "did not stay", id="it moved"),
        pytest.param(
            replace(STAYED, ran=(["node-a.1"], ["node-a.2"])), "did not stay", id="it was started anew"
        ),
        pytest.param(replace(AWAY, elsewhere_ms=1), "nobody could know", id="it was started elsewhere"),
        pytest.param(replace(AWAY, outcome=MOVED), "nobody could know", id="the address moved"),
    ],
)
def test_what_did_not_end_as_it_must_is_said(broken: Run, objection: str) -> None:
    assert broken.objection is not None
    assert objection in broken.objection


@pytest.mark.parametrize(
    ("run", "is_late"),
    [
        pytest.param(replace(BACK, elsewhere_ms=limit_ms(TOLD) + MOVED.hiccup_ms), True, id="too late"),
        pytest.param(replace(BACK, elsewhere_ms=limit_ms(TOLD)), False, id="by the machine's own hiccup"),
        pytest.param(replace(BACK, elsewhere_ms=None), False, id="not at all"),
        pytest.param(STAYED, False, id="it stayed"),
    ],
)
def test_what_took_longer_than_the_service_s_own_times_allow_is_late(run: Run, *, is_late: bool) -> None:
    assert run.is_late is is_late


def test_a_leash_is_given_its_time_and_so_is_a_start_that_hangs() -> None:
    futile = next(fault for fault in FAULTS if fault.futile_starts)
    assert limit_ms(LEASHED) > limit_ms(TOLD)
    assert limit_ms(futile) > limit_ms(TOLD)


def step(at_ms: int, hook: str, status: int | None = None) -> Step:
    return Step(at_ms * MILLISECOND, hook, status)


STOPPED = [step(650, STOP), step(790, STOP, 0)]
STARTED = [
    step(1_000, START),
    step(1_400, START, 0),
    step(1_410, STATUS),
    step(1_420, STATUS, 1),
    step(2_420, STATUS),
    step(2_450, STATUS, 0),
    step(3_450, STATUS),
    step(3_470, STATUS, 0),
]


def test_a_stop_lasts_as_long_as_its_hook_or_all_its_time_where_that_was_killed() -> None:
    assert stop_ms(STOPPED) == 140
    assert stop_ms(STOPPED[:1]) == STOP_S * 1000
    assert stop_ms([]) == 0


def test_a_start_lasts_until_the_first_status_hook_that_passes() -> None:
    assert start_ms(STARTED) == 1_450
    assert start_ms([step(990, STATUS, 0), *STARTED]) == 1_450
    assert start_ms(STARTED[:4]) is None
    assert start_ms([]) is None


def test_what_a_failover_adds_is_told_where_the_service_itself_died() -> None:
    answered = replace(MOVED, timeline=replace(UNTIMED, first_reply=DETECTED_MS + 140 + 1_450 + 60))
    died = replace(BACK, fault=DEATH, outcome=answered)
    assert added_ms(died, STOPPED, STARTED) == 60
    assert added_ms(replace(died, fault=TOLD), STOPPED, STARTED) is None
    assert added_ms(replace(died, outcome=MOVED), STOPPED, STARTED) is None
    assert added_ms(died, STOPPED, []) is None
