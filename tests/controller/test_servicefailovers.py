"""What the controller makes of services that follow: stories on a stage, in every way of looking."""

from __future__ import annotations

import pytest

from controller.stage import Object, Stage, Way, service
from vipcontroller.world import Reader


@pytest.fixture(params=list(Way), ids=lambda way: way.value)
def stage(request: pytest.FixtureRequest) -> Stage:
    stage = Stage(way=request.param)
    stage.agents("node-a", "node-b", "node-c")
    stage.settle()
    stage.report()
    stage.pass_time(10)
    stage.virtual_ip("web", allowedNamespaces={"names": ["prod"]})
    return stage


def serve(stage: Stage, node: str, term: int, state: str = "Active", **more: object) -> None:
    """Let a node own `web` and tell how `app` stands there."""
    stage.run(node, state, term=term, since="2026-01-01T00:00:00Z", **more)
    own(stage, node, term)


def own(stage: Stage, node: str, term: int, name: str = "web", **report: object) -> None:
    stage.report(owners={name: (node, term)}, **report)  # type: ignore[arg-type]
    stage.settle()


def billing_on_a(stage: Stage) -> None:
    stage.failover("billing")
    stage.settle()
    serve(stage, "node-a", 1)


def reasons(stage: Stage, name: str = "billing") -> dict[str, str]:
    return stage.reasons(name, "ServiceFailover")


def message(stage: Stage, condition: str, name: str = "billing") -> str:
    found: str = stage.condition("ServiceFailover", name, condition)["message"]
    return found


def state(stage: Stage, name: str = "billing", *, place: int = 0) -> Object:
    found: Object = stage.get("ServiceFailover", name)["status"]["services"][place]
    return found


def candidates(stage: Stage, name: str = "web") -> set[str]:
    return {row["nodeName"] for row in stage.get("VirtualIP", name)["status"].get("candidates", [])}


def edit(stage: Stage, kind: str, name: str, **spec: object) -> None:
    obj = stage.get(kind, name)
    obj["spec"] = {**obj["spec"], **spec}
    obj["metadata"]["generation"] += 1
    stage.touch(obj)
    stage.settle()


def test_a_service_that_is_active_on_its_owner_is_ready(stage: Stage) -> None:
    billing_on_a(stage)
    assert reasons(stage) == {
        "Ready": "True ServicesActive",
        "Accepted": "True Accepted",
        "Degraded": "False StandbyAvailable",
    }
    assert state(stage) == {
        "name": "app",
        "state": "Active",
        "owner": "node-a",
        "term": 1,
        "since": "2026-01-01T00:00:00Z",
    }
    assert stage.get("ServiceFailover", "billing")["status"]["observedGeneration"] == 1
    assert stage.tellings.count("billing OwnerChanged") == 1


def test_an_address_is_elected_among_the_nodes_of_its_services(stage: Stage) -> None:
    stage.failover("billing", service("app", "web", "node-b", "node-c"), failback={"policy": "Automatic"})
    stage.settle()
    stage.report(scores={"node-c": 99})
    stage.pass_time(10)
    status = stage.get("VirtualIP", "web")["status"]
    assert status["election"] == {"owner": "node-b", "succession": ["node-c"], "basedOnTerm": 0}
    assert candidates(stage) == {"node-b", "node-c"}
    assert status["effective"]["failbackPolicy"] == "Automatic"


def test_the_failback_of_the_services_is_in_force(stage: Stage) -> None:
    stage.failover("billing", failback={"policy": "Automatic", "delaySeconds": 60})
    stage.settle()
    scores = {"node-a": 100, "node-b": 99}
    own(stage, "node-b", 1, scores=scores)
    stage.pass_time(59)
    assert stage.get("VirtualIP", "web")["status"]["election"]["owner"] == "node-b"
    if stage.way is not Way.REBUILT:  # who forgets since when, never gets there
        stage.pass_time(2)
        assert stage.get("VirtualIP", "web")["status"]["election"]["owner"] == "node-a"
        assert reasons(stage)["Reconciling"] == "True Moving"


def test_a_failover_is_told_with_its_new_owner(stage: Stage) -> None:
    billing_on_a(stage)
    stage.run("node-b", "Waiting", term=2, message="node-a has not said that it stopped")
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    assert state(stage)["state"] == "Waiting", "a dead node's last word says nothing"
    assert state(stage)["owner"] == "node-b"
    assert reasons(stage)["Ready"] == "False ServicesNotActive"
    assert "node-a has not said" in message(stage, "Ready")
    assert reasons(stage)["Reconciling"] == "True Progressing"
    serve(stage, "node-b", 2)
    assert reasons(stage)["Ready"] == "True ServicesActive"
    assert stage.tellings.count("billing OwnerChanged") == 2


def test_the_services_of_one_address_move_with_one_event(stage: Stage) -> None:
    stage.failover("billing", service("db"), service("app", after=["db"]))
    stage.settle()
    own(stage, "node-a", 1)
    assert stage.tellings.count("billing OwnerChanged") == 1
    own(stage, "node-b", 2)
    assert stage.tellings.count("billing OwnerChanged") == 2


def test_a_service_that_nobody_owns_any_more_is_told(stage: Stage) -> None:
    billing_on_a(stage)
    stage.services.clear()
    stage.report()
    stage.settle()
    assert state(stage) == {"name": "app", "state": "Stopped"}
    assert reasons(stage)["Ready"] == "False NoOwner"
    assert "nobody owns VirtualIP 'web'" in message(stage, "Ready")
    assert "billing NoOwner" in stage.tellings


def test_a_service_that_fails_is_told_once_and_kept_in_view(stage: Stage) -> None:
    billing_on_a(stage)
    serve(stage, "node-a", 1, "Failed", message="app.service: exit status 1")
    assert reasons(stage)["Degraded"] == "True ServiceFailed"
    assert "exit status 1" in message(stage, "Degraded")
    assert reasons(stage)["Ready"] == "False ServiceFailed"
    assert stage.tellings.count("billing ServiceFailed") == 1
    serve(stage, "node-b", 2)
    assert state(stage)["state"] == "Active"
    assert state(stage)["message"] == "Failed on node-a: app.service: exit status 1"
    assert reasons(stage)["Ready"] == "True ServicesActive"
    serve(stage, "node-b", 3)
    assert state(stage)["term"] == 3
    assert stage.tellings.count("billing ServiceFailed") == 1


def test_a_failure_that_was_over_before_anybody_looked_is_told(stage: Stage) -> None:
    billing_on_a(stage)
    stage.run("node-a", "Failed", term=1, message="exit status 1")
    serve(stage, "node-b", 2)
    assert stage.tellings.count("billing ServiceFailed") == 1


def test_a_failure_on_the_only_other_node_is_no_failure_of_the_service(stage: Stage) -> None:
    billing_on_a(stage)
    stage.run("node-a", "Failed", term=1)
    stage.run("node-b", "Active", term=2)
    own(stage, "node-b", 2, unfit={"node-a": "ServiceFailed"})
    assert reasons(stage)["Ready"] == "True ServicesActive"
    assert reasons(stage)["Degraded"] == "True NoStandby"
    assert "VirtualIP 'web'" in message(stage, "Degraded")
    assert stage.tellings.count("billing NoStandby") == 1


def test_what_could_not_be_stopped_asks_for_a_person(stage: Stage) -> None:
    billing_on_a(stage)
    stage.run("node-a", "StopFailed", term=1, message="2 processes are left")
    stage.run("node-b", "Waiting", term=2)
    own(stage, "node-b", 2)
    assert state(stage)["state"] == "StopFailed"
    assert state(stage)["owner"] == "node-b"
    assert reasons(stage)["Degraded"] == "True StopFailed"
    assert reasons(stage)["Stalled"] == "True StopFailed"
    assert "node-a: 2 processes are left" in message(stage, "Stalled")
    assert stage.tellings.count("billing StopFailed") == 1
    stage.run("node-a", "Stopped")
    serve(stage, "node-b", 2)
    assert "Stalled" not in reasons(stage)
    assert reasons(stage)["Degraded"] == "False StandbyAvailable"


def test_the_last_word_of_a_node_that_died_counts_no_more(stage: Stage) -> None:
    billing_on_a(stage)
    serve(stage, "node-a", 1, "StopFailed")
    assert reasons(stage)["Stalled"] == "True StopFailed"
    stage.run("node-b", "Waiting", term=2)
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    assert state(stage) == {"name": "app", "state": "Waiting", "owner": "node-b", "term": 2}
    assert "Stalled" not in reasons(stage)


def test_a_service_that_left_the_spec_and_could_not_be_stopped_is_told(stage: Stage) -> None:
    billing_on_a(stage)
    stage.run("node-c", "StopFailed", service="former", message="hangs")
    own(stage, "node-a", 1)
    assert reasons(stage)["Degraded"] == "True StopFailed"
    assert message(stage, "Degraded") == "former could not be stopped on node-c: hangs"
    assert reasons(stage)["Ready"] == "True ServicesActive"


def test_peace_writes_nothing_however_often_one_looks(stage: Stage) -> None:
    billing_on_a(stage)
    for _ in range(3):
        stage.report(owners={"web": ("node-a", 1)})
        stage.now_s += 1000
        assert stage.look().writes == ()


@pytest.mark.parametrize(
    ("spec", "virtual_ip", "reason"),
    [
        pytest.param({"services": [service("app", "mail")]}, {}, "VirtualIPNotFound", id="no address"),
        pytest.param({}, {"allowedNamespaces": {"names": ["lab"]}}, "NamespaceNotAllowed", id="namespace"),
        pytest.param({}, {"candidates": [{"nodeName": "node-c"}]}, "CandidatesConflict", id="candidates"),
        pytest.param(
            {"services": [service("app", "web", "node-a", "node-x")]}, {}, "NodeNotFound", id="node"
        ),
        pytest.param({"mode": "SomethingNewer"}, {}, "InvalidSpec", id="unreadable"),
    ],
)
def test_one_that_is_not_accepted_changes_nothing_for_its_address(
    stage: Stage, *, spec: Object, virtual_ip: Object, reason: str
) -> None:
    edit(stage, "VirtualIP", "web", **virtual_ip)
    stage.pass_time(10)
    before = candidates(stage)
    stage.failover("billing", **spec)
    stage.settle()
    assert reasons(stage)["Accepted"] == f"False {reason}"
    assert reasons(stage)["Ready"] == f"False {reason}"
    assert reasons(stage)["Stalled"] == f"True {reason}"
    assert candidates(stage) == before
    assert f"billing {reason}" in stage.tellings
    own(stage, "node-c", 1)
    assert "owner" not in state(stage)


def test_a_remedy_is_noticed(stage: Stage) -> None:
    stage.failover("billing", namespace="lab")
    stage.settle()
    assert "`allowedNamespaces.names`" in message(stage, "Accepted")
    edit(stage, "VirtualIP", "web", allowedNamespaces={"names": ["lab", "prod"]})
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert "Stalled" not in reasons(stage)


def test_one_whose_address_is_not_in_force_waits_for_it(stage: Stage) -> None:
    stage.failover("billing")
    edit(stage, "VirtualIP", "web", domain="nowhere")
    assert reasons(stage) == {
        "Ready": "False NoOwner",
        "Accepted": "True Accepted",
        "Degraded": "Unknown Progressing",
        "Reconciling": "True Progressing",
    }
    assert "'web' is not in force" in message(stage, "Degraded")


def test_an_address_without_a_quorum_may_be_held_where_two_nodes_serve(stage: Stage) -> None:
    edit(stage, "VirtualIP", "web", onQuorumLoss="Hold")
    assert stage.reasons("web")["Accepted"] == "False HoldNeedsTwoCandidates"
    stage.failover("billing", service("app", singleton=False))
    stage.settle()
    assert stage.reasons("web")["Accepted"] == "True Accepted"


def test_an_older_one_that_comes_into_force_later_takes_nothing_away(stage: Stage) -> None:
    stage.failover("older", service("other", "web", "node-b", "node-c"), namespace="lab")
    stage.now_s += 1
    billing_on_a(stage)
    edit(stage, "VirtualIP", "web", allowedNamespaces={"names": ["lab", "prod"]})
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert reasons(stage, "older")["Accepted"] == "False NodesDiffer"


def test_a_node_that_is_removed_stops_nothing_on_another(stage: Stage) -> None:
    billing_on_a(stage)
    stage.delete("Node", "node-a")
    stage.delete("VIPNode", "node-a")
    stage.run("node-b", "Active", term=2)
    own(stage, "node-b", 2)
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert reasons(stage)["Ready"] == "True ServicesActive"
    assert reasons(stage)["Degraded"] == "True NoStandby"
    assert candidates(stage) == {"node-a", "node-b"}


def test_one_that_goes_gives_its_address_back(stage: Stage) -> None:
    billing_on_a(stage)
    stage.delete("ServiceFailover", "billing")
    stage.settle()
    assert ("ServiceFailover", "billing") not in stage.objects
    assert candidates(stage) == {"node-a", "node-b", "node-c"}


def test_one_that_is_being_deleted_is_in_force_no_more(stage: Stage) -> None:
    billing_on_a(stage)
    stage.get("ServiceFailover", "billing")["metadata"]["finalizers"] = ["foregroundDeletion"]
    stage.delete("ServiceFailover", "billing")
    stage.run("node-a", "Stopping", term=1)
    own(stage, "node-a", 1)
    assert reasons(stage)["Accepted"] == "False Deleting"
    assert reasons(stage)["Reconciling"] == "True Deleting"
    assert "Stalled" not in reasons(stage)
    assert state(stage)["state"] == "Stopping"
    assert candidates(stage) == {"node-a", "node-b", "node-c"}


def test_an_accepted_one_for_a_newer_version_keeps_its_nodes_and_its_owner(stage: Stage) -> None:
    billing_on_a(stage)
    newer = service("app", workload={"container": {"image": "app"}}, onStopFailure="Fence")
    edit(stage, "ServiceFailover", "billing", services=[newer], mode="SomethingNewer")
    stage.failover("thief", service("other", "web", "node-b", "node-c"))
    stage.settle()
    assert candidates(stage) == {"node-a", "node-b"}
    assert reasons(stage)["Stalled"] == "True InvalidSpec"
    accepted = stage.condition("ServiceFailover", "billing", "Accepted")
    assert (accepted["status"], accepted["observedGeneration"]) == ("True", 1)
    assert state(stage)["owner"] == "node-a"
    assert reasons(stage, "thief")["Accepted"] == "False NodesDiffer"


def test_an_edit_that_is_not_acceptable_takes_nothing_out_of_force(stage: Stage) -> None:
    billing_on_a(stage)
    before = stage.get("VirtualIP", "web")["status"]["election"]
    good = service("app")
    edit(stage, "ServiceFailover", "billing", mode="Cluster", services=[good, service("lost", "nowhere")])
    own(stage, "node-a", 1)
    accepted = stage.condition("ServiceFailover", "billing", "Accepted")
    assert (accepted["status"], accepted["observedGeneration"]) == ("True", 1)
    assert reasons(stage)["Stalled"] == "True InvalidSpec"
    assert "there is no VirtualIP 'nowhere'" in message(stage, "Stalled")
    assert "what was before goes on" in message(stage, "Stalled")
    assert stage.get("VirtualIP", "web")["status"]["election"] == before
    edit(stage, "ServiceFailover", "billing", mode="Cluster", services=[good])
    assert stage.condition("ServiceFailover", "billing", "Accepted")["observedGeneration"] == 3
    assert "Stalled" not in reasons(stage)


def test_where_not_even_its_nodes_can_be_read_the_order_of_the_address_stands(stage: Stage) -> None:
    billing_on_a(stage)
    before = stage.get("VirtualIP", "web")["status"]["election"]
    newer = {"name": "app", "virtualIPRef": {"name": "web"}, "nodes": {"role": "edge"}}
    edit(stage, "ServiceFailover", "billing", services=[newer])
    own(stage, "node-a", 1, scores={"node-c": 200})
    assert stage.get("VirtualIP", "web")["status"]["election"] == before
    assert stage.reasons("web")["Stalled"] == "True InvalidSpec"
    assert "prod/billing" in stage.condition("VirtualIP", "web", "Stalled")["message"]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"onQuorumLoss": "SomethingNewer"}, id="elsewhere"),
        pytest.param({"allowedNamespaces": {"selector": {}}}, id="allowedNamespaces"),
    ],
)
def test_an_address_for_a_newer_version_lets_go_of_no_service(stage: Stage, spec: Object) -> None:
    billing_on_a(stage)
    edit(stage, "VirtualIP", "web", **spec)
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert reasons(stage)["Ready"] == "True ServicesActive"
    stage.failover("stranger", service("other"), namespace="lab")
    stage.settle()
    assert reasons(stage, "stranger")["Accepted"] == "False NamespaceNotAllowed"


def test_nothing_is_said_in_the_look_that_adopts_a_wiped_domain(stage: Stage) -> None:
    billing_on_a(stage)
    before = stage.get("ServiceFailover", "billing")["status"]
    domain = stage.get("FailoverDomain", "default")
    domain["status"] = {"observedGeneration": -1}
    stage.touch(domain)
    stage.services.clear()
    stage.report(alive={"node-c"})
    decisions = stage.look()
    assert stage.get("ServiceFailover", "billing")["status"] == before
    assert decisions.problems == ()


def test_who_comes_later_finds_the_same(stage: Stage) -> None:
    """Two controllers, and one that was rebuilt, decide alike from one world."""
    billing_on_a(stage)
    stage.run("node-a", "StopFailed", term=1)
    stage.report(owners={"web": ("node-b", 2)})
    first = stage.look().writes
    assert first
    stage.reader = Reader()
    assert stage.look().writes == ()
