"""What the controller gives its steward to carry out, and what it makes of the answer: on a stage."""

from __future__ import annotations

import msgspec
import pytest

from controller.stage import Object, Stage, Way, service
from vipapi.services import Objection
from vipcontroller.assignments import Assignment, Assignments, Carried, Finding, Site, carried

ENTRY: Object = {"kubernetesService": {"name": "entry", "port": 8080}}


@pytest.fixture(params=list(Way), ids=lambda way: way.value)
def stage(request: pytest.FixtureRequest) -> Stage:
    stage = Stage(way=request.param)
    stage.agents("node-a", "node-b")
    addresses = [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "a"}]
    node = stage.put("Node", "node-a", labels={"kubernetes.io/hostname": "host-a"})
    node["status"] = {"addresses": addresses}
    stage.settle()
    stage.report()
    stage.pass_time(10)
    stage.virtual_ip("web", allowedNamespaces={"names": ["prod"]})
    return stage


def assigned(stage: Stage) -> Assignments:
    stage.settle()
    assert stage.last is not None
    return stage.last.assignments


def follow(stage: Stage, workload: Object = ENTRY) -> Object:
    found = stage.failover("billing", service("app", workload=workload))
    stage.converge()
    return found


def own(stage: Stage, node: str, term: int) -> None:
    stage.report(owners={"web": (node, term)})
    stage.settle()


def answer(stage: Stage, finding: Finding) -> None:
    """Let the steward have found this of the only assignment."""
    [assignment] = assigned(stage).wanted
    stage.carried = carried([(assignment, finding)])
    stage.settle()


def condition(stage: Stage, kind: str) -> tuple[str, str]:
    found = stage.condition("ServiceFailover", "billing", kind)
    return found.get("status", ""), found.get("reason", "")


def test_a_workload_of_the_cluster_is_assigned_with_the_observed_owner(stage: Stage) -> None:
    uid = follow(stage)["metadata"]["uid"]
    [before] = assigned(stage).wanted
    assert (before.owner, before.term, before.site) == (None, 0, None)
    own(stage, "node-a", 3)
    [assignment] = assigned(stage).wanted
    assert (assignment.uid, assignment.namespace, assignment.failover) == (uid, "prod", "billing")
    assert (assignment.service, assignment.virtual_ip, assignment.workload.name) == ("app", "web", "entry")
    assert (assignment.owner, assignment.term) == ("node-a", 3)
    assert assignment.sites == (Site("node-a", ("192.0.2.1",), "host-a"), Site("node-b"))
    assert assignment.site == assignment.sites[0]
    own(stage, "node-b", 4)
    [assignment] = assigned(stage).wanted
    assert assignment.site == Site("node-b")


def test_what_runs_on_the_nodes_is_not_assigned(stage: Stage) -> None:
    follow(stage, {"systemd": {"unit": "app.service"}})
    own(stage, "node-a", 1)
    assert assigned(stage) == Assignments()


def test_what_is_not_accepted_or_gone_is_not_assigned(stage: Stage) -> None:
    follow(stage)
    assert assigned(stage).wanted
    del stage.get("VirtualIP", "web")["spec"]["allowedNamespaces"]
    stage.touch(stage.get("VirtualIP", "web"))
    assert assigned(stage) == Assignments()
    stage.delete("ServiceFailover", "billing")
    assert assigned(stage) == Assignments()


def test_an_edit_that_is_not_acceptable_leaves_the_assignment_that_is_in_force(stage: Stage) -> None:
    failover = follow(stage)
    failover["spec"]["services"] = [service("app", "web", "node-a", "node-x", workload=ENTRY)]
    failover["metadata"]["generation"] += 1
    stage.touch(failover)
    stage.settle()
    own(stage, "node-a", 1)
    [assignment] = assigned(stage).wanted
    assert (assignment.owner, [site.name for site in assignment.sites]) == ("node-a", ["node-a", "node-b"])
    assert condition(stage, "Stalled")[0] == "True"


def test_what_can_no_longer_be_read_is_left_untouched(stage: Stage) -> None:
    failover = follow(stage)
    failover["spec"] = {"mode": "Cluster", "services": [service("app", workload={"hovercraft": {}})]}
    failover["status"].pop("inForce")
    stage.touch(failover)
    found = assigned(stage)
    assert found == Assignments(untouched=frozenset({failover["metadata"]["uid"]}))


def test_while_nothing_is_decided_about_an_address_its_workloads_are_left_untouched(stage: Stage) -> None:
    failover = follow(stage)
    own(stage, "node-a", 1)
    stage.get("FailoverDomain", "default")["status"] = {"observedGeneration": -1}
    stage.touch(stage.get("FailoverDomain", "default"))
    decisions = stage.look()
    assert decisions.assignments == Assignments(untouched=frozenset({failover["metadata"]["uid"]}))
    [assignment] = assigned(stage).wanted
    assert assignment.owner == "node-a", "the configuration is adopted, and the owner known again"


def test_what_the_steward_found_is_the_services_state(stage: Stage) -> None:
    follow(stage)
    own(stage, "node-a", 1)
    [assignment] = assigned(stage).wanted
    answer(stage, Finding(assignment.report("Starting", "not yet", node="node-a"), "node-a"))
    [state] = stage.get("ServiceFailover", "billing")["status"]["services"]
    assert state == {"name": "app", "state": "Starting", "owner": "node-a", "term": 1, "message": "not yet"}
    assert condition(stage, "Ready") == ("False", "ServicesNotActive")
    answer(stage, Finding(assignment.report("Active", node="node-a"), "node-a"))
    assert condition(stage, "Ready") == ("True", "ServicesActive")


def test_what_is_in_the_way_stalls_it_and_takes_nothing_out_of_force(stage: Stage) -> None:
    follow(stage)
    own(stage, "node-a", 1)
    [assignment] = assigned(stage).wanted
    objection = assignment.objection("ServiceHasSelector", "remove it")
    answer(stage, assignment.hindered(objection))
    assert condition(stage, "Stalled") == ("True", "ServiceHasSelector")
    assert condition(stage, "Ready") == ("False", "ServiceHasSelector")
    assert condition(stage, "Accepted") == ("True", "Accepted")
    assert stage.condition("ServiceFailover", "billing", "Stalled")["message"] == "service 'app': remove it"
    assert stage.tellings.count("billing ServiceHasSelector") == 1
    assert assigned(stage).wanted == (assignment,)
    answer(stage, Finding(assignment.report("Active", node="node-a"), "node-a"))
    assert condition(stage, "Stalled") == ("", "")
    assert condition(stage, "Ready") == ("True", "ServicesActive")


@pytest.mark.parametrize("is_hindered", [False, True], ids=["active", "stalled"])
def test_until_the_steward_of_a_new_leader_answers_what_the_status_says_stands(
    stage: Stage, *, is_hindered: bool
) -> None:
    follow(stage)
    own(stage, "node-a", 1)
    [assignment] = assigned(stage).wanted
    active = Finding(assignment.report("Active", node="node-a"), "node-a")
    objection = assignment.objection("ServiceHasSelector", "remove it")
    found = assignment.hindered(objection) if is_hindered else active
    answer(stage, found)
    before, told = stage.get("ServiceFailover", "billing")["status"], list(stage.tellings)
    unseen = Finding(assignment.report("Waiting", "nothing is known of it", node="node-a"), "node-a")
    for unanswered in (Carried(), carried([], [(assignment, unseen)])):
        stage.carried = unanswered
        stage.settle()
        assert stage.get("ServiceFailover", "billing")["status"] == before
        assert stage.tellings == told
    answer(stage, found)
    assert (stage.get("ServiceFailover", "billing")["status"], stage.tellings) == (before, told)
    answer(stage, active)
    assert condition(stage, "Ready") == ("True", "ServicesActive")
    assert condition(stage, "Stalled") == ("", "")


def test_without_an_owner_too(stage: Stage) -> None:
    follow(stage, {"deployment": {"name": "billing"}})
    [assignment] = assigned(stage).wanted
    answer(stage, Finding(assignment.report("Active", node="node-b"), "node-b"))
    before = stage.get("ServiceFailover", "billing")["status"]
    stage.carried = Carried()
    stage.settle()
    assert stage.get("ServiceFailover", "billing")["status"] == before


def test_what_was_of_another_owner_or_term_or_workload_does_not_stand(stage: Stage) -> None:
    failover = follow(stage)
    for node, term in (("node-a", 1), ("node-b", 2), ("node-b", 3)):
        own(stage, node, term)
        [state] = stage.get("ServiceFailover", "billing")["status"]["services"]
        assert (state["state"], state["owner"]) == ("Stopped", node)
        assert condition(stage, "Ready") == ("False", "ServicesNotActive")
        [assignment] = assigned(stage).wanted
        answer(stage, Finding(assignment.report("Active", node=node), node))
        assert condition(stage, "Ready") == ("True", "ServicesActive")
        stage.carried = Carried()
    failover["spec"]["services"] = [service("app", workload={"kubernetesService": {"name": "other"}})]
    failover["metadata"]["generation"] += 1
    stage.touch(failover)
    stage.settle()
    assert condition(stage, "Ready") == ("False", "ServicesNotActive")


def test_a_finding_is_of_its_owner_term_and_workload_whatever_becomes_of_the_standbys(stage: Stage) -> None:
    follow(stage)
    own(stage, "node-a", 1)
    [assignment] = assigned(stage).wanted
    answer(stage, Finding(assignment.report("Active", node="node-a"), "node-a"))
    stage.get("Node", "node-b")["status"] = {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}
    stage.touch(stage.get("Node", "node-b"))
    [changed] = assigned(stage).wanted
    assert changed != assignment
    assert changed.key == assignment.key
    assert condition(stage, "Ready") == ("True", "ServicesActive")


def test_a_deployment_that_stays_where_it_was_is_told_of_without_an_owner(stage: Stage) -> None:
    follow(stage, {"deployment": {"name": "billing"}})
    [assignment] = assigned(stage).wanted
    answer(stage, Finding(assignment.report("Active", node="node-b"), "node-b"))
    [state] = stage.get("ServiceFailover", "billing")["status"]["services"]
    assert state == {"name": "app", "state": "Active", "message": "Active on node-b"}
    assert condition(stage, "Ready") == ("False", "NoOwner")


def test_findings_of_several_services_are_told_together(stage: Stage) -> None:
    stage.failover(
        "billing", service("app", workload=ENTRY), service("db", workload={"deployment": {"name": "db"}})
    )
    stage.converge()
    app, db = assigned(stage).wanted
    first, second = app.objection("ServiceNotFound", "make it"), db.objection("FieldOwned", "remove it")
    found = carried([(app, Finding(objection=first)), (db, Finding(objection=second))])
    together = Objection("ServiceNotFound", "service 'app': make it; service 'db': remove it")
    assert found == Carried(objections={app.uid: together}, answered=frozenset({app.key, db.key}))
    assert carried([]) == Carried()


def test_what_is_assigned_at_all_does_not_depend_on_the_owner(stage: Stage) -> None:
    follow(stage)
    [assignment] = assigned(stage).wanted
    moved = msgspec.structs.replace(assignment, owner="node-b", term=2)
    assert Assignments((assignment,)).scope == Assignments((moved,)).scope
    renamed: Assignment = msgspec.structs.replace(assignment, namespace="lab")
    assert Assignments((assignment,)).scope != Assignments((renamed,)).scope
    assert Assignments((assignment,)).scope != Assignments((assignment,), frozenset({"x"})).scope
