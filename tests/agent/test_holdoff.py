"""What fails: the stack comes down, the node keeps off for a while, and each fault is told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.onestack import APP, DB, HOUR_S, Node, active
from agent.stacks import SECOND, service
from vipagent.holdoff import FIRST_HOLD_OFF_S, LONGEST_HOLD_OFF_S
from vipagent.runs import Fault

if TYPE_CHECKING:
    from vipapi.nodeplan import ServicePlan


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        pytest.param("StartFailed", "prod/billing/app: its start failed: bad", id="start"),
        pytest.param("Died", "prod/billing/app: it died: bad", id="death"),
        pytest.param("Stopped", "prod/billing/app: it stopped without having been told to: bad", id="end"),
        pytest.param("StopFailed", "prod/billing/app: it could not be stopped: bad", id="leash"),
    ],
)
def test_a_service_that_fails_takes_the_stack_down(kind: str, told: str) -> None:
    node = Node(DB, APP)
    node.own()
    node.started("db")
    deeds = node.tell("app", kind, "bad")
    assert deeds == (["stop db"] if kind == "Stopped" else ["stop app"])
    node.tell("app", "Stopped")
    node.tell("db", "Stopped")
    assert node.stack.is_vacant
    assert node.states == {"db": "Stopped", "app": "Failed"}
    assert node.messages["app"] == f"{told}; this node is kept off for 60 s"
    assert node.messages["db"] == f"with another that failed: {told}"
    assert node.stack.obstacle is not None
    assert node.stack.obstacle.reason == "ServiceFailed"
    assert node.stack.obstacle.message == f"{told}; this node is kept off for 60 s"


def test_a_start_that_nothing_is_heard_of_has_failed() -> None:
    node = Node(service("db", start_s=20))
    node.own()
    assert node.after(24.9) == []
    assert node.after(0.1) == ["stop db"]
    assert node.stack.obstacle is not None
    assert node.stack.obstacle.message.startswith("prod/billing/db: nothing was heard of its start")


def test_services_that_their_health_checks_give_up_on_are_stopped() -> None:
    node = active(DB, APP)
    assert node.fail("app: HTTP 500") == ["stop app"]
    node.tell("app", "Stopped")
    node.tell("db", "Stopped")
    assert node.messages["app"] == (
        "health checks of the services fail: app: HTTP 500; this node is kept off for 60 s"
    )


@pytest.mark.parametrize("what", ["standby", "leaving", "starting"])
def test_health_checks_say_nothing_of_what_is_not_active(what: str) -> None:
    node = Node(DB)
    if what != "standby":
        node.own()
    if what == "leaving":
        node.started("db")
        node.leave()
    assert node.fail() == []
    assert node.stack.obstacle is None


@pytest.mark.parametrize("end", ["leave", "lose"])
def test_what_ends_while_it_is_to_end_is_no_failure(end: str) -> None:
    node = active(DB, APP)
    getattr(node, end)()
    node.tell("db", "Died")
    assert node.stack.obstacle is None


def test_an_owner_that_keeps_the_lease_tries_again_after_the_hold_off() -> None:
    node = active(DB)
    node.tell("db", "Died")
    node.tell("db", "Stopped")
    assert node.after(FIRST_HOLD_OFF_S - 0.1) == []
    assert node.after(0.1) == ["start db"]
    assert node.stack.obstacle is None


def test_a_standby_that_failed_is_fit_again_after_the_hold_off() -> None:
    node = active(DB)
    node.tell("db", "Died")
    node.lose()
    node.tell("db", "Stopped")
    assert node.stack.deadline_ns == node.now_ns + FIRST_HOLD_OFF_S * SECOND
    assert node.after(FIRST_HOLD_OFF_S) == []
    assert node.stack.obstacle is None
    assert node.states == {"db": "Stopped"}


def _hold_off_s(node: Node) -> int:
    """Let it fail once more and return how long the node is kept off."""
    node.tell("db", "Died")
    node.tell("db", "Stopped")
    assert node.stack.deadline_ns is not None
    hold_off_s = (node.stack.deadline_ns - node.now_ns) // SECOND
    assert node.after(hold_off_s) == ["start db"]
    node.tell("db", "Started")
    return hold_off_s


def test_each_failure_doubles_the_hold_off() -> None:
    node = active(DB)
    assert [_hold_off_s(node) for _ in range(6)] == [
        60,
        120,
        240,
        480,
        LONGEST_HOLD_OFF_S,
        LONGEST_HOLD_OFF_S,
    ]


def test_failures_are_forgotten_after_an_hour_of_being_active() -> None:
    node = active(DB)
    _hold_off_s(node)
    assert node.stack.deadline_ns == node.now_ns + HOUR_S * SECOND
    node.after(HOUR_S)
    assert node.stack.deadline_ns is None
    assert _hold_off_s(node) == 60


def test_a_service_that_dies_after_hours_is_held_off_as_well() -> None:
    node = active(DB)
    node.after(5 * HOUR_S)
    node.tell("db", "Died")
    assert node.stack.obstacle is not None


@pytest.mark.parametrize(
    ("services", "is_forgotten"),
    [
        pytest.param([DB, service("app", generation=2)], True, id="corrected"),
        pytest.param([DB], True, id="removed"),
        pytest.param([service("db", generation=2), APP], False, id="another-is-corrected"),
    ],
)
def test_a_corrected_service_is_tried_at_once(services: list[ServicePlan], *, is_forgotten: bool) -> None:
    node = active(DB, APP)
    node.tell("app", "Died")
    node.assign(*services)
    assert (node.stack.obstacle is None) == is_forgotten


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param("StartFailed", "prod/billing/db: its start failed: bad", id="start"),
        pytest.param("Died", "prod/billing/db: it died: bad", id="death"),
        pytest.param("StopFailed", "prod/billing/db: it could not be stopped: bad", id="stop"),
    ],
)
def test_a_fault_is_told_once(kind: str, message: str) -> None:
    node = Node(DB, APP)
    node.own(term=4)
    for _ in range(2):
        node.tell("db", kind, "bad")
    assert node.stack.take_faults() == [Fault(DB, 4, message)]
    assert node.stack.take_faults() == []


def test_a_service_that_cannot_be_stopped_is_a_fault_whatever_became_of_the_lease() -> None:
    node = active(DB, APP)
    node.lose()
    for _ in range(2):
        node.tell("db", "StopFailed", "bad")
    assert node.stack.take_faults() == [Fault(DB, 1, "it could not be stopped: bad", is_stop=True)]
    node.tell("db", "Stopped")
    assert node.stack.take_faults() == []


def test_a_service_that_died_and_cannot_be_stopped_either_has_two_faults() -> None:
    node = active(DB)
    node.tell("db", "Died")
    node.tell("db", "StopFailed")
    assert node.stack.take_faults() == [
        Fault(DB, 1, "prod/billing/db: it died"),
        Fault(DB, 1, "it could not be stopped", is_stop=True),
    ]


def test_a_check_that_fails_is_a_fault_of_all_services_that_it_may_be_about() -> None:
    node = active(DB, APP)
    node.fail("no answer")
    message = "health checks of the services fail: no answer"
    assert node.stack.take_faults() == [Fault(DB, 1, message), Fault(APP, 1, message)]


@pytest.mark.parametrize("end", ["leave", "lose"])
def test_what_ends_because_it_is_to_end_is_no_fault(end: str) -> None:
    node = active(DB)
    getattr(node, end)()
    node.tell("db", "Died")
    node.tell("db", "Stopped")
    assert node.stack.take_faults() == []
