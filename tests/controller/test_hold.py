"""When the controller says that `onQuorumLoss: Hold` is in force: where couriers plan it so."""

from __future__ import annotations

import pytest

from controller.stage import Object, Stage, service
from vipcontroller import followings, hold

TWICE = service("cache", singleton=False)
ONCE = service("db")
ELSEWHERE = service("mail", "other")
OF_THE_CLUSTER = service("app", workload={"kubernetesService": {"name": "app", "port": 80}})


def stage_with(*services: Object) -> Stage:
    """Two nodes and `web`, with services that were accepted before it became one to be held."""
    stage = Stage()
    stage.agents("node-a", "node-b")
    stage.settle()
    for number, name in enumerate(("other", "web"), 10):
        stage.virtual_ip(name, f"192.0.2.{number}/24", allowedNamespaces={"names": ["prod"]})
    if services:
        stage.failover("billing", *services)
    stage.settle()
    web = stage.get("VirtualIP", "web")
    web["spec"]["onQuorumLoss"] = "Hold"
    stage.touch(web)
    return stage


def is_in_force(stage: Stage) -> bool:
    world = stage.world()
    world = followings.join(world, followings.judge(world))
    (web,) = (each for each in world.virtual_ips if each.metadata.name == "web")
    return hold.is_in_force(web, world)


@pytest.mark.parametrize(
    ("services", "is_so"),
    [
        pytest.param([], True, id="nobody-follows"),
        pytest.param([TWICE], True, id="what-may-run-twice"),
        pytest.param([ONCE], False, id="what-may-not"),
        pytest.param([TWICE, ONCE], False, id="one-among-others"),
        pytest.param([ELSEWHERE], True, id="what-follows-another"),
        pytest.param([OF_THE_CLUSTER], True, id="what-no-keeper-runs"),
    ],
)
def test_nobody_holds_alone_what_a_service_follows_that_must_not_run_twice(
    services: list[Object], *, is_so: bool
) -> None:
    stage = stage_with(*services)
    if services:
        assert stage.condition("ServiceFailover", "billing", "Accepted")["status"] == "True"
    assert is_in_force(stage) is is_so


def test_a_service_that_is_being_deleted_is_in_no_plan_any_more() -> None:
    stage = stage_with(ONCE)
    stage.get("ServiceFailover", "billing")["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    stage.touch(stage.get("ServiceFailover", "billing"))
    assert is_in_force(stage)


def test_a_service_that_is_not_accepted_is_in_no_plan() -> None:
    stage = stage_with()
    stage.failover("billing", ONCE)
    stage.settle()
    assert stage.reasons("billing", "ServiceFailover")["Accepted"] == "False HoldConflict"
    assert is_in_force(stage)


def test_with_a_third_node_it_is_not_in_force() -> None:
    stage = stage_with()
    stage.put("Node", "node-c")
    assert not is_in_force(stage)


def test_it_is_not_in_force_where_nobody_asked_for_it() -> None:
    stage = stage_with()
    stage.get("VirtualIP", "web")["spec"]["onQuorumLoss"] = "Release"
    stage.touch(stage.get("VirtualIP", "web"))
    assert not is_in_force(stage)
