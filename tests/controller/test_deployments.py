"""What is applied to a Deployment that follows an address, and how it stands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vipapi.workloads import Deployment as Workload
from vipcontroller import deployments
from vipcontroller.assignments import Assignment, Assignments, Site
from vipcontroller.deployments import Plan
from vipcontroller.kubeobjects import Deployment, read

Object = dict[str, Any]

SITES = (Site("node-a", (), "host-a"), Site("node-b", (), "host-b"), Site("node-c", (), ""))
OURS = {"vipkeeper.io/servicefailover-uid": "uid-1"}
DONE = {"observedGeneration": 3, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1}
UNAVAILABLE = {
    "type": "Available",
    "status": "False",
    "reason": "MinimumReplicasUnavailable",
    "message": "Deployment does not have minimum availability.",
}


def assignment(owner: str | None = "node-a", *, uid: str = "uid-1") -> Assignment:
    return Assignment(
        uid=uid,
        namespace="prod",
        failover="billing",
        service="app",
        virtual_ip="web",
        workload=Workload(name="billing"),
        owner=owner,
        term=0 if owner is None else 7,
        sites=SITES,
    )


def deployment(
    *,
    status: Object | None = None,
    on: str | None = None,
    labels: Object | None = None,
    fields: tuple[Object, ...] = (),
    **spec: Any,
) -> Deployment:
    """Return a Deployment as a person made it; `on` is the host that we bound it to."""
    found: Object = {"replicas": 1, "strategy": {"type": "Recreate"}, **spec}
    if on is not None:
        found["template"] = {"spec": {"nodeSelector": {"kubernetes.io/hostname": on}}}
    metadata = {
        "name": "billing",
        "namespace": "prod",
        "resourceVersion": "41",
        "generation": 3,
        "labels": labels or ({} if on is None else OURS),
        "managedFields": fields,
    }
    return read(Deployment, {"metadata": metadata, "spec": found, "status": status or {}})


def shown(plan: Plan) -> tuple[str, str, str]:
    report = plan.finding.report
    assert report is not None
    return plan.finding.node, report.state, report.message


def objection(plan: Plan) -> str:
    assert plan.finding.objection is not None
    return f"{plan.finding.objection.reason} {plan.finding.objection.message}"


def test_one_replica_is_bound_to_the_owner_by_its_label() -> None:
    plan = deployments.plan(assignment(), deployment())
    assert plan.body == {
        "metadata": {"name": "billing", "resourceVersion": "41", "labels": OURS},
        "spec": {
            "replicas": 1,
            "template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "host-a"}}},
        },
    }
    assert shown(plan)[:2] == ("node-a", "Starting")


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(deployment(on="host-a", replicas=0), id="scaled"),
        pytest.param(deployment(on="host-b"), id="on another node"),
        pytest.param(deployment(on="host-a", labels={"team": "x"}), id="set by somebody else as well"),
        pytest.param(
            deployment(on="host-a", labels={"vipkeeper.io/servicefailover-uid": "uid-0"}),
            id="another object's before",
        ),
        pytest.param(
            deployment(
                template={"spec": {"nodeSelector": {"kubernetes.io/hostname": "host-a", "disk": "ssd"}}},
                labels=OURS,
            ),
            id="with another label",
        ),
    ],
)
def test_whatever_differs_is_set(found: Deployment) -> None:
    assert deployments.plan(assignment(), found).body is not None


def test_what_is_so_already_is_not_applied_again() -> None:
    assert deployments.plan(assignment(), deployment(on="host-a")).body is None


def test_it_is_active_with_one_ready_pod_of_the_newest_template() -> None:
    plan = deployments.plan(assignment(), deployment(on="host-a", status=DONE))
    assert shown(plan) == ("node-a", "Active", "")
    report = plan.finding.report
    assert report is not None
    assert (report.uid, report.name, report.virtual_ip, report.term) == ("uid-1", "app", "web", 7)


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        pytest.param({}, "has not seen the change", id="nothing observed yet"),
        pytest.param(DONE | {"observedGeneration": 2}, "has not seen the change", id="an older generation"),
        pytest.param(
            DONE | {"updatedReplicas": 0, "conditions": [UNAVAILABLE]},
            "when the former one has ended; if that one's node is off, say so: kubectl taint nodes node",
            id="the former node's pod is there",
        ),
        pytest.param(
            DONE
            | {
                "updatedReplicas": 0,
                "conditions": [
                    {"type": "ReplicaFailure", "status": "True", "reason": "Quota", "message": "exceeded"}
                ],
            },
            "quota: exceeded",
            id="which is not what hinders it",
        ),
        pytest.param(DONE | {"readyReplicas": 0}, "no pod", id="not ready"),
        pytest.param(DONE | {"readyReplicas": 2}, "no pod", id="two"),
        pytest.param(
            DONE | {"readyReplicas": 0, "conditions": [UNAVAILABLE]},
            "minimumreplicasunavailable: deployment does not have minimum availability.",
            id="with its conditions",
        ),
        pytest.param(
            DONE
            | {
                "readyReplicas": 0,
                "conditions": [
                    {"type": "Progressing", "status": "True", "reason": "Fine", "message": "going on"},
                    {"type": "ReplicaFailure", "status": "True", "reason": "Quota", "message": "exceeded"},
                ],
            },
            "quota: exceeded",
            id="with those that are bad",
        ),
    ],
)
def test_until_then_it_is_starting_and_says_why(status: Object, hint: str) -> None:
    node, state, message = shown(deployments.plan(assignment(), deployment(on="host-a", status=status)))
    assert (node, state) == ("node-a", "Starting")
    assert message.lower().startswith(hint) or hint in message.lower()
    assert "going on" not in message


def test_a_paused_one_says_so() -> None:
    assert shown(deployments.plan(assignment(), deployment(on="host-a", paused=True)))[2] == (
        "the Deployment is paused"
    )


def test_while_nobody_owns_the_address_it_stays_and_is_told_of_where_it_is() -> None:
    plan = deployments.plan(assignment(None), deployment(on="host-b", status=DONE))
    assert plan.body is None
    assert shown(plan) == ("node-b", "Active", "")
    report = plan.finding.report
    assert report is not None
    assert report.term == 0
    assert deployments.plan(assignment(None), deployment()) == (None, (None, "", None))
    assert deployments.plan(assignment(None), deployment(on="host-z")) == (None, (None, "", None))


@pytest.mark.parametrize(
    "owner", [pytest.param("node-c", id="unlabelled"), pytest.param("node-x", id="gone")]
)
def test_an_owner_whose_node_has_no_hostname_label_is_told(owner: str) -> None:
    plan = deployments.plan(assignment(owner), deployment(on="host-a"))
    assert plan.body is None
    assert shown(plan) == (owner, "Waiting", f"the Node {owner} has no label kubernetes.io/hostname")


def test_one_that_does_not_exist_is_told() -> None:
    plan = deployments.plan(assignment(), None)
    assert plan.body is None
    assert objection(plan).startswith("DeploymentNotFound service 'app': there is no Deployment 'billing'")
    assert shown(plan)[:2] == ("node-a", "Waiting")


@pytest.mark.parametrize("strategy", [{"type": "RollingUpdate"}, {}])
def test_one_that_may_have_two_pods_for_a_moment_is_refused_and_left_as_it_is(strategy: Object) -> None:
    for found in (deployment(strategy=strategy), deployment(on="host-b", strategy=strategy)):
        plan = deployments.plan(assignment(), found)
        assert plan.body is None
        assert objection(plan).startswith("StrategyNotRecreate")
        assert "set `spec.strategy.type: Recreate`" in objection(plan)


def fields(manager: str, spec: Object, operation: str = "Apply") -> Object:
    return {
        "manager": manager,
        "operation": operation,
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": spec},
    }


PINNED = {"f:replicas": {}, "f:template": {"f:spec": {"f:nodeSelector": {}}}}


@pytest.mark.parametrize("owner", ["node-a", "node-b", None])
def test_a_node_selector_of_somebody_else_is_told_before_the_primary_dies(owner: str | None) -> None:
    shared = (
        fields("vipkeeper-workloads", PINNED),
        fields("argocd", PINNED),
        fields("kubectl-client-side-apply", PINNED, "Update"),
    )
    plan = deployments.plan(assignment(owner), deployment(on="host-a", status=DONE, fields=shared))
    assert plan.body is None
    assert objection(plan).startswith("FieldOwned")
    selector = "`spec.template.spec.nodeSelector`"
    both = f"{selector} (argocd sets it) and {selector} (kubectl-client-side-apply sets it)"
    assert f"remove {both} from" in objection(plan)


def test_what_others_set_besides_does_no_harm() -> None:
    others = (
        fields("vipkeeper-workloads", PINNED),
        fields("argocd", {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {}}}}),
        {"manager": "kube-controller-manager", "operation": "Update", "subresource": "status"},
    )
    plan = deployments.plan(assignment(), deployment(on="host-a", status=DONE, fields=others))
    assert shown(plan) == ("node-a", "Active", "")
    assert plan.finding.objection is None


def test_fields_of_others_are_named_with_who_sets_them() -> None:
    fields = ((".spec.replicas", "argocd"), (".spec.template.spec.nodeSelector", "kubectl"))
    finding = deployments.owned(assignment(), fields)
    assert objection(Plan(None, finding)) == (
        "FieldOwned service 'app': vipkeeper has to set one replica and its node in the Deployment "
        "'billing': remove `spec.replicas` (argocd sets it) and `spec.template.spec.nodeSelector` (kubectl "
        "sets it) from its manifest; what else a node must have can be said as `affinity.nodeAffinity`"
    )


def test_fields_that_nobody_assigned_are_given_back_unless_nobody_knows() -> None:
    bound, free = deployment(on="host-a"), deployment()
    empty = {"metadata": {"name": "billing", "resourceVersion": "41"}}
    assert deployments.leftovers([bound, free], Assignments()) == (("prod", empty),)
    assert deployments.leftovers([bound], Assignments((assignment(None, uid="uid-2"),))) == ()
    assert deployments.leftovers([bound], Assignments(untouched=frozenset({"uid-1"}))) == ()
    elsewhere = msgspec.structs.replace(assignment(), namespace="lab")
    assert deployments.leftovers([bound], Assignments((elsewhere,))) == (("prod", empty),)
