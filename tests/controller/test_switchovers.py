"""How a Switchover goes on and ends: when a target is waited for, and every way in which a drill can go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from controller.stage import Object, Stage, Way, service
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
from vipcontroller.switchovers import DEADLINE_S, PATIENCE_S, READY_S, STEADY_S, Situation, steer
from vipcontroller.writes import StatusWrite

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def asked(seconds_ago: float, *, has_started: bool = False) -> Switchover:
    created = NOW - timedelta(seconds=seconds_ago)
    return Switchover(
        ObjectMeta(name="move", creation_timestamp=created),
        SwitchoverSpec(to="node-b", virtual_ip_ref=VirtualIPRef("web")),
        SwitchoverStatus(started_at=created if has_started else None),
    )


def on_their_nodes() -> tuple[Object, Object, Object]:
    """Services that stop in 90 s, and in 30 s without a word about it, and one that is not on nodes."""
    return (
        service("db", stopTimeoutSeconds=90, startTimeoutSeconds=600),
        service("app", after=["db"]),
        service("proxy", workload={"deployment": {"name": "proxy"}}, singleton=False),
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


@pytest.fixture(params=list(Way), ids=lambda way: way.value)
def stage(request: pytest.FixtureRequest) -> Stage:
    stage = Stage(way=request.param)
    stage.agents("node-a", "node-b", "node-c")
    stage.settle()
    stage.report()
    stage.pass_time(10)
    stage.virtual_ip("web", "2001:db8::10/64", allowedNamespaces={"names": ["prod"]})
    stage.settle()
    stage.report()
    stage.pass_time(10)
    own(stage, "node-a", 1)
    return stage


def own(stage: Stage, node: str, term: int, **report: object) -> None:
    stage.report(owners={"web": (node, term)}, **report)  # type: ignore[arg-type]
    stage.settle()


def granted(stage: Stage, node: str, term: int) -> None:
    """Let the witnesses grant the address to a node that has not bound it yet: it starts its services."""
    stage.report(owners={"web": (node, term)})
    for holding in stage.get("VIPNode", node)["status"]["virtualIPs"]:
        holding["bound"] = []
        del holding["takeover"]
    stage.settle()


def move(stage: Stage, to: str = "node-b", name: str = "drill") -> None:
    stage.put("Switchover", name, {"virtualIPRef": {"name": "web"}, "to": to})
    stage.settle()


def drill(stage: Stage, to: str = "node-b", name: str = "drill") -> None:
    stage.put("Switchover", name, {"virtualIPRef": {"name": "web"}, "to": to, "type": "Drill"})
    stage.settle()


def suspend(stage: Stage) -> None:
    obj = stage.get("VirtualIP", "web")
    obj["spec"]["suspend"] = True
    stage.touch(obj)
    stage.settle()


def ordered(stage: Stage) -> str:
    owner: str = stage.get("VirtualIP", "web")["status"]["election"]["owner"]
    return owner


def status(stage: Stage) -> Object:
    found: Object = stage.get("Switchover", "drill")["status"]
    return found


def failed(stage: Stage) -> tuple[str, str]:
    """Return why the drill has failed, and in which words."""
    found = stage.condition("Switchover", "drill", "Failed")
    assert found["status"] == "True", status(stage)
    assert stage.condition("Switchover", "drill", "Complete")["status"] == "False"
    assert stage.condition("Switchover", "drill", "Stalled")["reason"] == found["reason"], "kstatus: Failed"
    return found["reason"], found["message"]


def is_open(stage: Stage) -> bool:
    expected = {"Complete": "False", "Failed": "False", "Reconciling": "True"}
    found = {kind: stage.condition("Switchover", "drill", kind)["status"] for kind in expected}
    return found == expected


def stay(stage: Stage) -> None:
    """Let a drill arrive on node-b, and stay there for as long as it does."""
    drill(stage)
    own(stage, "node-b", 2)
    stage.pass_time(STEADY_S + 1)


def test_a_drill_goes_there_stays_and_comes_back_with_both_outages(stage: Stage) -> None:
    drill(stage)
    assert ordered(stage) == "node-b"
    own(stage, "node-b", 2)
    assert (is_open(stage), status(stage)["outageMilliseconds"]) == (True, 402)
    assert ordered(stage) == "node-b", "it stays for a while"
    stage.pass_time(STEADY_S - 1)
    assert ordered(stage) == "node-b"
    stage.pass_time(2)
    assert ordered(stage) == "node-a"
    own(stage, "node-a", 3)
    found = status(stage)
    assert stage.reasons("drill", "Switchover") == {
        "Complete": "True Drilled",
        "Failed": "False NotFailed",
        "Steady": "True Waiting",
    }
    assert (found["from"], found["to"]) == ("node-a", "node-b")
    assert (found["outageMilliseconds"], found["returnOutageMilliseconds"]) == (402, 403)
    assert found["startedAt"] < found["returnedAt"] == found["completedAt"]
    assert stage.tellings.count("drill Drilled") == 1
    own(stage, "node-c", 4)
    assert status(stage) == found, "a result stays"


def test_a_drill_to_the_owner_has_nothing_to_drill_and_says_what_to_do(stage: Stage) -> None:
    drill(stage, "node-a")
    reason, message = failed(stage)
    assert reason == "AlreadyThere"
    assert "set `to` to another candidate" in message


def test_a_drill_of_an_address_without_an_owner_has_no_way_back(stage: Stage) -> None:
    stage.report(owners={})
    stage.settle()
    drill(stage)
    assert "conditions" not in status(stage), "the owner may be on its way"
    stage.pass_time(PATIENCE_S)
    assert failed(stage)[0] == "NoOwner"


def test_a_drill_waits_for_the_services_that_follow(stage: Stage) -> None:
    stage.failover("billing", service("app"))
    stage.run("node-a", "Active", term=1)
    own(stage, "node-a", 1)
    drill(stage)
    stage.run("node-b", "Starting", term=2)
    own(stage, "node-b", 2)
    stage.pass_time(READY_S + 59)
    assert ordered(stage) == "node-b"
    stage.run("node-b", "Active", term=2)
    own(stage, "node-b", 2)
    assert ordered(stage) == "node-a"
    stage.run("node-b", "Stopped")
    stage.run("node-a", "Active", term=3)
    own(stage, "node-a", 3)
    assert stage.condition("Switchover", "drill", "Complete")["reason"] == "Drilled"


def test_a_drill_whose_services_do_not_start_comes_back_and_fails(stage: Stage) -> None:
    stage.failover("billing", service("app"))
    own(stage, "node-a", 1)
    drill(stage)
    stage.run("node-b", "Starting", term=2)
    own(stage, "node-b", 2)
    stage.pass_time(READY_S + 61)
    assert ordered(stage) == "node-a"
    own(stage, "node-a", 3)
    reason, message = failed(stage)
    assert reason == "ServicesNotActive"
    assert "prod/billing/app" in message
    assert "the address is on node-a now" in message
    assert status(stage)["returnOutageMilliseconds"] == 403


def test_a_move_waits_for_the_services_to_stop(stage: Stage) -> None:
    stage.failover("billing", *on_their_nodes())
    own(stage, "node-a", 1)
    move(stage)
    stage.pass_time(DEADLINE_S + 119)
    assert is_open(stage)
    assert ordered(stage) == "node-b"
    assert stage.last is not None
    assert stage.last.due == pytest.approx(stage.now_s + 1)
    stage.pass_time(1)
    assert failed(stage)[0] == "DeadlineExceeded"
    assert "within 150 s" in failed(stage)[1]


def test_a_move_is_complete_when_the_target_has_bound_it(stage: Stage) -> None:
    stage.failover("billing", *on_their_nodes())
    own(stage, "node-a", 1)
    move(stage)
    granted(stage, "node-b", 2)
    stage.pass_time(DEADLINE_S + 120 + 659)
    assert is_open(stage), "the services may start for so long, and come first"
    assert stage.last is not None
    assert stage.last.due == pytest.approx(stage.now_s + 1)
    own(stage, "node-b", 2)
    assert stage.condition("Switchover", "drill", "Complete")["reason"] == "Moved"
    assert status(stage)["outageMilliseconds"] == 402


def test_a_move_whose_target_never_binds_it_fails(stage: Stage) -> None:
    move(stage)
    granted(stage, "node-b", 2)
    stage.pass_time(DEADLINE_S)
    reason, message = failed(stage)
    assert reason == "DeadlineExceeded"
    assert message.startswith("node-b was granted the addresses and has not bound them within 30 s")
    assert "the kernel of node-b lacks 2001:db8::10/64" in message


def test_a_move_that_is_bound_is_complete_at_its_deadline_though_nobody_tells_the_outage(
    stage: Stage,
) -> None:
    move(stage)
    granted(stage, "node-b", 2)
    for holding in stage.get("VIPNode", "node-b")["status"]["virtualIPs"]:
        holding["bound"] = ["2001:db8::10/64"]
    stage.touch(stage.get("VIPNode", "node-b"))
    stage.settle()
    assert is_open(stage)
    stage.pass_time(DEADLINE_S)
    assert stage.condition("Switchover", "drill", "Complete")["reason"] == "Moved"
    assert "outageMilliseconds" not in status(stage)


def test_a_drill_to_a_node_that_never_binds_it_comes_back_and_fails(stage: Stage) -> None:
    drill(stage)
    granted(stage, "node-b", 2)
    stage.pass_time(DEADLINE_S)
    stage.pass_time(READY_S - 1)
    assert ordered(stage) == "node-b"
    stage.pass_time(2)
    assert ordered(stage) == "node-a"
    own(stage, "node-a", 3)
    assert "not active on node-b within 150 s: the address" in failed(stage)[1]


def test_a_drill_that_is_not_bound_again_where_it_began_fails(stage: Stage) -> None:
    stay(stage)
    granted(stage, "node-a", 3)
    stage.pass_time(DEADLINE_S - 1)
    assert is_open(stage)
    stage.pass_time(2)
    assert failed(stage)[0] == "DeadlineExceeded"
    assert "node-a was granted the addresses and has not bound them" in failed(stage)[1]


def test_a_drill_waits_for_the_services_to_stop_on_the_way_back_too(stage: Stage) -> None:
    stage.failover("billing", *on_their_nodes())
    own(stage, "node-a", 1)
    drill(stage)
    stage.pass_time(DEADLINE_S + 119)
    own(stage, "node-b", 2)
    stage.pass_time(READY_S + 659)
    assert ordered(stage) == "node-b", "they may start for so long"
    stage.pass_time(2)
    assert ordered(stage) == "node-a"
    stage.pass_time(DEADLINE_S + 119)
    assert is_open(stage)
    assert ordered(stage) == "node-a"
    own(stage, "node-a", 3)
    assert "not active on node-b within 810 s" in failed(stage)[1]


def test_a_drill_orders_nothing_before_its_status_says_so(stage: Stage) -> None:
    """Only the order is written: the controller ends, or the API server refuses, between the two writes."""
    stage.put("Switchover", "drill", {"virtualIPRef": {"name": "web"}, "to": "node-b", "type": "Drill"})
    lose_the_drills_status(stage)
    assert ordered(stage) == "node-a"
    stage.settle()
    assert ordered(stage) == "node-b"
    own(stage, "node-b", 2)
    assert is_open(stage)
    stage.now_s += STEADY_S + 1
    lose_the_drills_status(stage)
    assert ordered(stage) == "node-b"
    stage.settle()
    assert ordered(stage) == "node-a"
    own(stage, "node-a", 3)
    assert stage.condition("Switchover", "drill", "Complete")["reason"] == "Drilled"


def lose_the_drills_status(stage: Stage) -> None:
    """Let the controller decide once, and what it writes about the drill be lost."""
    before = stage.get("Switchover", "drill")["status"]
    assert any(write.kind == "Switchover" for write in stage.look().writes if isinstance(write, StatusWrite))
    stage.get("Switchover", "drill")["status"] = before


def test_a_failover_while_a_drill_stays_ends_it_and_says_where_the_address_is(stage: Stage) -> None:
    drill(stage)
    own(stage, "node-b", 2)
    stage.report()
    stage.settle()
    assert is_open(stage), "nobody has taken it yet"
    own(stage, "node-c", 3, alive={"node-a", "node-c"})
    assert failed(stage)[0] == "Superseded"
    assert "the address is on node-c now" in failed(stage)[1]
    assert ordered(stage) == "node-c", "a drill that has ended moves nothing"


def test_a_failover_on_the_way_back_ends_it_and_says_where_the_address_is(stage: Stage) -> None:
    stay(stage)
    own(stage, "node-c", 3)
    assert failed(stage)[0] == "Superseded"
    assert "the address is on node-c now" in failed(stage)[1]


def test_a_drill_whose_first_owner_dies_stays_where_it_is_and_says_so(stage: Stage) -> None:
    drill(stage)
    own(stage, "node-b", 2, unfit={"node-a": "CheckFailed"})
    stage.pass_time(STEADY_S + 1)
    reason, message = failed(stage)
    assert reason == "TargetNotEligible"
    assert "no way back to node-a, and the address is on node-b now: " in message
    assert ordered(stage) == "node-b"


def test_a_first_owner_that_is_only_settling_is_waited_for(stage: Stage) -> None:
    drill(stage)
    own(stage, "node-b", 2, unfit={"node-a": "CheckPending"})
    stage.pass_time(STEADY_S + 1)
    assert is_open(stage)
    own(stage, "node-b", 2)
    assert ordered(stage) == "node-a"
    own(stage, "node-a", 3)
    assert stage.condition("Switchover", "drill", "Complete")["reason"] == "Drilled"


def test_a_way_back_that_nobody_goes_ends_at_its_deadline(stage: Stage) -> None:
    stay(stage)
    stage.pass_time(DEADLINE_S - 1)
    assert is_open(stage)
    stage.pass_time(2)
    assert failed(stage)[0] == "DeadlineExceeded"
    assert "the address is on node-b now" in failed(stage)[1]
    assert ordered(stage) == "node-b", "the order goes to the owner"


def test_a_drill_that_is_suspended_on_the_way_back_stays_and_says_so(stage: Stage) -> None:
    stay(stage)
    suspend(stage)
    assert failed(stage)[0] == "Suspended"
    assert "the address is on node-b now" in failed(stage)[1]
    assert "set `suspend` to false" in failed(stage)[1]
    assert ordered(stage) == "node-b"


def test_a_newer_move_takes_a_drill_over_and_says_where_the_address_is(stage: Stage) -> None:
    drill(stage)
    own(stage, "node-b", 2)
    stage.now_s += 1
    stage.put("Switchover", "newer", {"virtualIPRef": {"name": "web"}, "to": "node-c"})
    stage.settle()
    assert failed(stage)[0] == "Superseded"
    assert "'newer' is newer; the address is on node-b now" in failed(stage)[1]
    assert status(stage)["outageMilliseconds"] == 402
    assert ordered(stage) == "node-c"


def test_a_drill_that_never_arrives_fails_as_a_move_does(stage: Stage) -> None:
    drill(stage)
    stage.pass_time(DEADLINE_S)
    assert failed(stage)[0] == "DeadlineExceeded"
    assert "Steady" not in stage.reasons("drill", "Switchover")


def test_a_drill_goes_back_under_automatic_failback_and_no_sooner(stage: Stage) -> None:
    stage.get("VirtualIP", "web")["spec"]["failback"] = {"policy": "Automatic", "delaySeconds": 0}
    own(stage, "node-a", 1, scores={"node-a": 200})
    drill(stage)
    own(stage, "node-b", 2, scores={"node-a": 200})
    assert ordered(stage) == "node-b"
    stage.pass_time(STEADY_S + 1)
    assert ordered(stage) == "node-a"
