"""Whether a Switchover to a node that cannot own the address now is refused at once, or waits a while."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vipapi.election import Candidate
from vipapi.resources import (
    ObjectMeta,
    Switchover,
    SwitchoverSpec,
    SwitchoverStatus,
    VirtualIP,
    VirtualIPRef,
    VirtualIPSpec,
)
from vipcontroller.switchovers import PATIENCE_S, Situation, steer

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def asked(seconds_ago: float, *, has_started: bool = False) -> Switchover:
    created = NOW - timedelta(seconds=seconds_ago)
    return Switchover(
        ObjectMeta(name="move", creation_timestamp=created),
        SwitchoverSpec(to="node-b", virtual_ip_ref=VirtualIPRef("web")),
        SwitchoverStatus(started_at=created if has_started else None),
    )


def situation(reason: str) -> Situation:
    candidate = Candidate(
        node="node-b", priority=100, is_alive=True, has_agent=True, fitness="Unfit", reason=reason
    )
    return Situation(
        virtual_ip=VirtualIP(ObjectMeta(name="web"), VirtualIPSpec(addresses=("192.0.2.1",))),
        is_accepted=True,
        observed=None,
        candidates=(candidate,),
        outage_ms=None,
    )


@pytest.mark.parametrize("reason", ["NotArmed", "CheckPending"])
@pytest.mark.parametrize("has_started", [False, True])
def test_a_node_whose_agent_has_just_started_is_given_some_seconds(
    reason: str,
    has_started: bool,  # noqa: FBT001
) -> None:
    """It may have been ordered by what the agent before it reported."""
    course = steer([asked(1, has_started=has_started)], situation(reason), NOW)
    assert course.writes == ()
    assert course.due_in_s == pytest.approx(PATIENCE_S - 1)
    assert len(steer([asked(PATIENCE_S)], situation(reason), NOW).writes) == 1


def test_a_node_that_is_unwell_is_refused_at_once() -> None:
    assert len(steer([asked(1)], situation("CheckFailed"), NOW).writes) == 1
