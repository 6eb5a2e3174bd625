"""What the controller makes of services that follow: stories on a stage, in every way of looking."""

from __future__ import annotations

import pytest

from controller.stage import Object, Stage, Way, service
from vipcontroller.world import Reader

AT = "2026-01-01T00:00:01Z"


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


def test_a_failure_is_told_of_each_node_whatever_their_names_begin_with(stage: Stage) -> None:
    stage.agents("node-a", "node-a0", "node-b", "node-c")
    stage.settle()
    stage.failover("billing", service("app", "web", "node-b", "node-a", "node-a0"))
    stage.settle()
    stage.run("node-a0", "Failed", term=1)
    serve(stage, "node-b", 2)
    assert state(stage)["message"] == "Failed on node-a0"
    stage.run("node-a", "Failed", term=1, message="exit status 1")
    own(stage, "node-b", 2)
    assert stage.tellings.count("billing ServiceFailed") == 2


def test_a_failure_is_told_also_where_a_stop_had_failed(stage: Stage) -> None:
    billing_on_a(stage)
    stage.run("node-a", "StopFailed", term=1)
    serve(stage, "node-b", 2)
    assert stage.tellings.count("billing StopFailed") == 1
    stage.run("node-a", "Failed", term=1)
    own(stage, "node-b", 2)
    assert stage.tellings.count("billing ServiceFailed") == 1


def test_a_failure_is_told_once_also_behind_one_with_much_to_say(stage: Stage) -> None:
    stage.failover("billing", service("app", "web", "node-b", "node-a", "node-c"))
    stage.settle()
    stage.run("node-a", "StopFailed", term=1, message="x" * 1024)
    stage.run("node-c", "Failed", term=1, message="y" * 1024)
    for term in (2, 3):
        serve(stage, "node-b", term)
        assert len(state(stage)["message"]) <= 1024
    assert stage.tellings.count("billing StopFailed") == 1
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


@pytest.mark.parametrize(
    ("spec", "reason", "told"),
    [
        pytest.param(
            {"candidates": [{"nodeName": "node-c"}]},
            "CandidatesConflict",
            "remove `candidates` from the VirtualIP, or the service from this object; until then these "
            "candidates are not in force",
            id="candidates",
        ),
        pytest.param(
            {"onQuorumLoss": "Hold"},
            "HoldConflict",
            "set `onQuorumLoss: Release` there, or `singleton: false` here; until then Hold is not in force",
            id="hold",
        ),
    ],
)
def test_what_somebody_writes_into_an_address_later_stops_no_service_that_runs(
    stage: Stage, *, spec: Object, reason: str, told: str
) -> None:
    billing_on_a(stage)
    edit(stage, "VirtualIP", "web", **spec)
    own(stage, "node-a", 1)
    assert reasons(stage)["Accepted"] == f"True {reason}"
    assert message(stage, "Accepted").endswith(told)
    assert reasons(stage)["Ready"] == "True ServicesActive"
    assert in_force(stage) == (1, ["app"])
    assert candidates(stage) == {"node-a", "node-b"}
    assert stage.reasons("web")["Accepted"] == "True Accepted"
    assert stage.get("VirtualIP", "web")["status"]["effective"]["onQuorumLoss"] == "Release"
    edit(stage, "ServiceFailover", "billing", services=[service("app", stopTimeoutSeconds=90)])
    assert in_force(stage) == (2, ["app"])
    assert reasons(stage)["Accepted"] == f"True {reason}"
    assert "Stalled" not in reasons(stage), "it is no reason to refuse an edit of something else"
    stage.failover("late", service("other"))
    stage.settle()
    assert reasons(stage, "late")["Accepted"] == f"False {reason}"
    stage.delete("ServiceFailover", "billing")
    stage.settle()
    assert candidates(stage) != {"node-a", "node-b"}, "it is in force when nobody follows"


def test_an_address_that_lets_a_namespace_follow_no_more_stops_what_follows(stage: Stage) -> None:
    billing_on_a(stage)
    edit(stage, "VirtualIP", "web", allowedNamespaces={"names": ["lab"]})
    assert reasons(stage)["Accepted"] == "False NamespaceNotAllowed"


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


def in_force(stage: Stage, name: str = "billing") -> tuple[int, list[str]] | None:
    """Return the generation that the status has as the one in force, and its services."""
    found = stage.get("ServiceFailover", name)["status"].get("inForce")
    return found and (found["generation"], [each["name"] for each in found["spec"]["services"]])


def test_what_is_accepted_is_kept_in_the_status_and_goes_when_it_is_not_accepted_any_more(
    stage: Stage,
) -> None:
    stage.failover("billing", namespace="lab")
    stage.settle()
    assert in_force(stage) is None
    edit(stage, "VirtualIP", "web", allowedNamespaces={"names": ["lab"]})
    assert in_force(stage) == (1, ["app"])
    edit(stage, "ServiceFailover", "billing", services=[service("app"), service("more")])
    assert in_force(stage) == (2, ["app", "more"])
    edit(stage, "VirtualIP", "web", allowedNamespaces={"names": ["prod"]})
    assert in_force(stage) is None


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param([service("app"), service("lost", "nowhere")], id="refused"),
        pytest.param([service("app", "web", "node-a", "node-x")], id="a node that is not there"),
        pytest.param([{"name": "app", "virtualIPRef": {"name": "web"}, "nodes": {}}], id="unreadable"),
        pytest.param("none at all", id="unreadable as a whole"),
    ],
)
def test_what_was_accepted_is_in_force_while_an_edit_is_held_back(stage: Stage, bad: object) -> None:
    stage.failover("billing", service("app", "web", "node-a", "node-b", startTimeoutSeconds=7))
    stage.settle()
    serve(stage, "node-a", 1)
    before = stage.get("VirtualIP", "web")["status"]
    edit(stage, "ServiceFailover", "billing", services=bad)
    own(stage, "node-a", 1, scores={"node-c": 200})
    assert stage.get("VirtualIP", "web")["status"] == before
    assert in_force(stage) == (1, ["app"])
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert reasons(stage)["Stalled"] == "True InvalidSpec"
    assert state(stage)["state"] == "Active"
    stage.failover("thief", service("other", "web", "node-b", "node-c"))
    stage.settle()
    assert reasons(stage, "thief")["Accepted"] == "False NodesDiffer"
    own(stage, "node-b", 2, alive={"node-b", "node-c"})
    assert stage.get("VirtualIP", "web")["status"]["election"]["owner"] == "node-b", "it fails over as well"


def test_what_an_address_does_not_allow_any_more_is_out_of_force_also_while_an_edit_is_held_back(
    stage: Stage,
) -> None:
    billing_on_a(stage)
    edit(stage, "ServiceFailover", "billing", services=[service("app", "nowhere")])
    edit(stage, "VirtualIP", "web", allowedNamespaces={"names": ["lab"]})
    assert reasons(stage)["Accepted"].startswith("False")
    assert in_force(stage) is None
    assert candidates(stage) == {"node-a", "node-b", "node-c"}


def test_services_keep_their_nodes_while_an_edit_of_their_address_is_held_back(stage: Stage) -> None:
    billing_on_a(stage)
    edit(stage, "VirtualIP", "web", addresses=["192.0.2.300"], allowedNamespaces={"names": ["lab"]})
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert candidates(stage) == {"node-a", "node-b"}
    assert "candidates" not in stage.get("VirtualIP", "web")["status"]["inForce"]["spec"]
    own(stage, "node-a", 1, unfit={"node-a": "CheckFailed"})
    assert stage.get("VirtualIP", "web")["status"]["election"]["owner"] == "node-b"


def test_of_an_address_that_is_held_back_and_of_services_that_nobody_can_read_the_order_stands(
    stage: Stage,
) -> None:
    billing_on_a(stage)
    before = stage.get("VirtualIP", "web")["status"]["election"]
    edit(stage, "VirtualIP", "web", addresses=["192.0.2.300"])
    wipe(stage, inForce=None)
    edit(stage, "ServiceFailover", "billing", services=[{"name": "app", "virtualIPRef": {"name": "web"}}])
    own(stage, "node-a", 1, unfit={"node-a": "CheckFailed"})
    assert stage.get("VirtualIP", "web")["status"]["election"] == before


def test_of_two_quick_edits_the_one_that_was_never_accepted_leaves_no_trace(stage: Stage) -> None:
    billing_on_a(stage)
    spec = stage.get("ServiceFailover", "billing")["spec"]
    spec["services"] = [service("app"), service("fine")]
    stage.get("ServiceFailover", "billing")["metadata"]["generation"] += 1
    edit(stage, "ServiceFailover", "billing", services=[service("app", "nowhere")])
    assert in_force(stage) == (1, ["app"])
    edit(stage, "ServiceFailover", "billing", services=[service("last")])
    assert in_force(stage) == (4, ["last"])


def test_an_edit_takes_nothing_from_what_is_in_force_however_old_its_object(stage: Stage) -> None:
    billing_on_a(stage)
    stage.now_s += 1
    stage.virtual_ip("mail", "192.0.2.11/24", allowedNamespaces={"names": ["prod"]})
    stage.failover("post", service("other", "mail"))
    stage.settle()
    taken = service("app", workload={"systemd": {"unit": "other.service"}})
    edit(stage, "ServiceFailover", "billing", services=[taken])
    assert reasons(stage, "post")["Accepted"] == "True Accepted"
    assert "WorkloadTaken" not in reasons(stage, "post")["Ready"]
    assert in_force(stage) == (1, ["app"])
    assert "'prod/post/other' has" in message(stage, "Stalled")


def test_who_was_never_accepted_keeps_nobody_who_runs_from_being_edited(stage: Stage) -> None:
    stage.failover("older", service("app", "web", "node-a", "node-c"), namespace="lab")
    stage.now_s += 1
    billing_on_a(stage)
    assert reasons(stage, "older")["Accepted"] == "False NamespaceNotAllowed"
    stage.virtual_ip("mail", "192.0.2.11/24", allowedNamespaces={"names": ["lab"]})
    edit(stage, "ServiceFailover", "older", services=[service("app", "mail", "node-a", "node-c")])
    assert reasons(stage, "older")["Accepted"] == "False WorkloadTaken"
    edit(stage, "ServiceFailover", "billing", services=[service("app", stopTimeoutSeconds=90)])
    assert "Stalled" not in reasons(stage)
    assert stage.condition("ServiceFailover", "billing", "Accepted")["observedGeneration"] == 2
    assert reasons(stage, "older")["Accepted"] == "False WorkloadTaken"


def test_two_that_share_an_address_get_other_nodes_together(stage: Stage) -> None:
    """One of them alone would have other nodes than the other, and waits."""
    billing_on_a(stage)
    stage.now_s += 1
    stage.failover("post", service("other"))
    stage.settle()
    edit(stage, "ServiceFailover", "billing", services=[service("app", "web", "node-b", "node-c")])
    assert reasons(stage)["Stalled"] == "True InvalidSpec"
    assert candidates(stage) == {"node-a", "node-b"}
    edit(stage, "ServiceFailover", "post", services=[service("other", "web", "node-b", "node-c")])
    assert in_force(stage) == (2, ["app"])
    assert in_force(stage, "post") == (2, ["other"])
    assert candidates(stage) == {"node-b", "node-c"}
    assert "Stalled" not in reasons(stage)


def test_an_edit_that_is_refused_for_itself_takes_none_with_it_that_needs_it_not(stage: Stage) -> None:
    billing_on_a(stage)
    stage.now_s += 1
    stage.failover("post", service("other"))
    stage.settle()
    for name, bad in (
        ("billing", service("app", "nowhere")),
        ("post", service("other", stopTimeoutSeconds=9)),
    ):
        obj = stage.get("ServiceFailover", name)
        obj["spec"] = {**obj["spec"], "services": [bad]}
        obj["metadata"]["generation"] += 1
        stage.touch(obj)
    stage.settle()
    assert in_force(stage) == (1, ["app"])
    assert in_force(stage, "post") == (2, ["other"])


def test_a_node_that_is_gone_keeps_nobody_from_editing_something_else(stage: Stage) -> None:
    billing_on_a(stage)
    stage.delete("Node", "node-a")
    stage.delete("VIPNode", "node-a")
    own(stage, "node-b", 2)
    edit(stage, "ServiceFailover", "billing", services=[service("app", stopTimeoutSeconds=9)])
    assert in_force(stage) == (2, ["app"])


def test_an_object_of_a_restored_backup_is_judged_as_it_is(stage: Stage) -> None:
    """Its status is from another life: it may name a generation that this object has yet to reach."""
    billing_on_a(stage)
    obj = stage.get("ServiceFailover", "billing")
    found = next(each for each in obj["status"]["conditions"] if each["type"] == "Accepted")
    found["observedGeneration"] = obj["status"]["inForce"]["generation"] = 7
    obj["status"]["inForce"]["spec"]["services"] = [service("former")]
    stage.touch(obj)
    stage.settle()
    assert in_force(stage) == (1, ["app"])
    assert state(stage)["name"] == "app"


def wipe(stage: Stage, **status: object) -> None:
    """Put something else in the place of fields of the status of `billing`, or nothing."""
    obj = stage.get("ServiceFailover", "billing")
    obj["status"] = {name: value for name, value in {**obj["status"], **status}.items() if value is not None}
    stage.touch(obj)


def test_where_nobody_knows_what_was_accepted_the_order_of_the_address_stands(stage: Stage) -> None:
    billing_on_a(stage)
    before = stage.get("VirtualIP", "web")["status"]["election"]
    wipe(stage, inForce=None)
    newer = {"name": "app", "virtualIPRef": {"name": "web"}, "nodes": {"role": "edge"}}
    edit(stage, "ServiceFailover", "billing", services=[newer])
    own(stage, "node-a", 1, scores={"node-c": 200})
    assert stage.get("VirtualIP", "web")["status"]["election"] == before
    assert stage.reasons("web")["Stalled"] == "True InvalidSpec"
    assert "prod/billing" in stage.condition("VirtualIP", "web", "Stalled")["message"]
    edit(stage, "ServiceFailover", "billing", services=[service("app", "web", "node-b", "node-x")])
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert stage.get("VirtualIP", "web")["status"]["election"] == before


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"services": [service("app", "nowhere")]}, id="refused"),
        pytest.param({"mode": "SomethingElse"}, id="unreadable"),
    ],
)
def test_what_is_in_force_and_only_a_newer_version_can_read_is_never_written_over(
    stage: Stage, bad: Object
) -> None:
    billing_on_a(stage)
    before = stage.get("VirtualIP", "web")["status"]["election"]
    newer = {"generation": 1, "spec": {"mode": "SomethingNewer", "services": [service("app")]}}
    wipe(stage, inForce=newer)
    edit(stage, "ServiceFailover", "billing", **bad)
    own(stage, "node-a", 1, scores={"node-c": 200})
    assert stage.get("ServiceFailover", "billing")["status"]["inForce"] == newer
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert stage.get("VirtualIP", "web")["status"]["election"] == before
    assert stage.last is not None
    assert [(each.kind, each.name) for each in stage.last.problems] == [("ServiceFailover", "prod/billing")]


def test_an_edit_is_acted_upon_where_only_a_newer_version_can_read_what_was_before(stage: Stage) -> None:
    billing_on_a(stage)
    newer = {"generation": 1, "spec": {"mode": "SomethingNewer", "services": [service("app")]}}
    wipe(stage, inForce=newer)
    edit(stage, "ServiceFailover", "billing", services=[service("app", "web", "node-c", "node-a")])
    assert in_force(stage) == (2, ["app"])
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert stage.last is not None
    assert stage.last.problems == ()
    candidates = stage.get("VirtualIP", "web")["status"]["candidates"]
    assert {each["nodeName"] for each in candidates} == {"node-a", "node-c"}
    assert "Stalled" not in stage.reasons("web")


def test_a_status_that_cannot_be_read_but_is_of_this_generation_is_written_anew(stage: Stage) -> None:
    billing_on_a(stage)
    wipe(stage, inForce={"generation": "one"})
    stage.settle()
    assert in_force(stage) == (1, ["app"])
    assert reasons(stage)["Ready"] == "True ServicesActive"


def test_a_spec_too_large_to_be_kept_twice_is_accepted_and_kept_once(stage: Stage) -> None:
    padding = ["x" * 1000] * 30
    large = [
        service(f"app-{number}", workload={"exec": {"start": {"hook": f"start-{number}", "args": padding}}})
        for number in range(9)
    ]
    stage.failover("billing", *large[:8])
    stage.settle()
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert in_force(stage) is not None
    edit(stage, "ServiceFailover", "billing", services=large)
    assert reasons(stage)["Accepted"] == "True Accepted"
    assert in_force(stage) is None


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


def test_a_hook_that_ended_is_told_once_with_its_output(stage: Stage) -> None:
    billing_on_a(stage)
    good = {"kind": "promoted", "term": 1, "isOk": True, "at": "2026-01-01T00:00:00Z"}
    serve(stage, "node-a", 1, hook=good)
    assert stage.tellings.count("billing HookEnded") == 1
    bad = {"kind": "demoted", "term": 1, "isOk": False, "message": "exit status 3: no route", "at": AT}
    stage.run("node-a", "Stopped", hook=bad)
    serve(stage, "node-b", 2, hook={**good, "term": 2})
    assert stage.tellings.count("billing HookFailed") == 1
    assert stage.tellings.count("billing HookEnded") == 2
    hooks = {"node-a": {**bad, "nodeName": "node-a"}, "node-b": {**good, "nodeName": "node-b", "term": 2}}
    assert {each["nodeName"]: each for each in state(stage)["hooks"]} == hooks
    assert reasons(stage)["Ready"] == "True ServicesActive", "what a hook does changes nothing of its service"
    stage.services.clear()
    own(stage, "node-b", 2)
    serve(stage, "node-b", 2, hook={**good, "term": 2})
    stage.run("node-a", "Stopped", hook=bad)
    own(stage, "node-b", 2)
    assert stage.tellings.count("billing HookFailed") == 1, "who is heard again tells nothing new"
    assert stage.tellings.count("billing HookEnded") == 2
    stage.run("node-a", "Stopped", hook={**bad, "term": 3})
    own(stage, "node-b", 2)
    assert stage.tellings.count("billing HookFailed") == 2, "the same words in another term are another hook"


def test_a_hook_that_says_too_much_is_cut(stage: Stage) -> None:
    billing_on_a(stage)
    bad = {"kind": "faulted", "term": 1, "isOk": False, "message": "x" * 5000, "at": AT}
    serve(stage, "node-a", 1, hook=bad)
    stage.settle()
    assert len(state(stage)["hooks"][0]["message"]) == 1024
    assert stage.tellings.count("billing HookFailed") == 1
