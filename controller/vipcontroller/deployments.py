"""Where a Deployment's one replica has to run: on the owner of an address.

Two fields are ours, by server-side apply without force:

    spec.replicas: 1
    spec.template.spec.nodeSelector: {kubernetes.io/hostname: <the label of the owner's Node>}

Another owner means another template, and Kubernetes replaces the Pod; with the strategy Recreate it makes
the new one only when the old one is gone. Any other strategy has two for a moment, and is refused. Of a node
that died Kubernetes does not know that the Pod is gone until somebody says so, by the taint out-of-service.
Whoever else sets one of the fields (a GitOps tool, an autoscaler) is not overruled, for they would set it
again: the condition FieldOwned tells what to remove. Of the node selector that is told before anybody needs
another: a manifest that names the primary is no conflict until the primary has died. That somebody else wants
one replica as well never is one.

While nobody owns the address the Deployment stays as it is. There is no node to put it on; an election
takes a moment, and a Pod that stopped for it would as often as not start anew where it was. Nor would a stop
prove anything: a kubelet that is cut off runs its Pods on. That is why such a service is no singleton.

A label of ours on the Deployment says that the fields are ours. When its ServiceFailover is gone, an empty
set of fields is applied, which takes back just what nobody else has set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vipapi.conditions import Reason
from vipapi.resources import OUT_OF_SERVICE
from vipapi.workloads import Deployment as Workload
from vipcontroller.assignments import FAILOVER_LABEL, FIELD_MANAGER, HOSTNAME, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vipcontroller.assignments import Assignment, Assignments
    from vipcontroller.kubeobjects import Deployment

RECREATE = "Recreate"


class Plan(NamedTuple):
    """What to apply, if anything, and how the service stands."""

    body: dict[str, Any] | None
    finding: Finding


def plan(assignment: Assignment, deployment: Deployment | None) -> Plan:
    """Compare what there is with what there should be."""
    if deployment is None:
        message = (
            f"there is no Deployment {assignment.workload.name!r} in the namespace {assignment.namespace!r}: "
            "create it, with the strategy Recreate, or correct `deployment.name`"
        )
        return Plan(None, assignment.hindered(assignment.objection(Reason.DEPLOYMENT_NOT_FOUND, message)))
    hindrance = _hindrance(assignment, deployment)
    if hindrance is not None:
        return Plan(None, hindrance)
    site = assignment.site
    if site is None:
        return Plan(None, standing(assignment, deployment))
    if not site.hostname:
        message = f"the Node {site.name} has no label {HOSTNAME}"
        return Plan(None, Finding(assignment.report("Waiting", message, node=site.name), site.name))
    selector = {HOSTNAME: site.hostname}
    if (
        deployment.spec.replicas == 1
        and deployment.spec.template.spec.node_selector == selector
        and deployment.metadata.labels.get(FAILOVER_LABEL) == assignment.uid
    ):
        return Plan(None, standing(assignment, deployment))
    body = _body(deployment)
    body["metadata"]["labels"] = {FAILOVER_LABEL: assignment.uid}
    body["spec"] = {"replicas": 1, "template": {"spec": {"nodeSelector": selector}}}
    return Plan(body, Finding(assignment.report("Starting", node=site.name), site.name))


def standing(assignment: Assignment, deployment: Deployment) -> Finding:
    """Return how a Deployment stands that needs no write: under the node to which it is bound."""
    hostname = deployment.spec.template.spec.node_selector.get(HOSTNAME)
    nodes = (site.name for site in assignment.sites if hostname and site.hostname == hostname)
    node = next(nodes, assignment.owner)
    if node is None:
        return Finding()
    status = deployment.status
    if status.observed_generation >= deployment.metadata.generation and (
        status.ready_replicas,
        status.updated_replicas,
    ) == (1, 1):
        return Finding(assignment.report("Active", node=node), node)
    return Finding(assignment.report("Starting", _plight(deployment), node=node), node)


def owned(assignment: Assignment, fields: Sequence[tuple[str, str]]) -> Finding:
    """Return how it stands when others own fields, given as (field, field manager)."""
    name = assignment.workload.name
    said = " and ".join(f"`{field.removeprefix('.')}` ({manager} sets it)" for field, manager in fields)
    message = (
        f"vipkeeper has to set one replica and its node in the Deployment {name!r}: remove {said} from its "
        "manifest; what else a node must have can be said as `affinity.nodeAffinity`"
    )
    return assignment.hindered(assignment.objection(Reason.FIELD_OWNED, message))


def leftovers(
    deployments: Iterable[Deployment], assignments: Assignments
) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Return by namespace what gives the fields of Deployments back that nobody has assigned any more."""
    wanted = assignments.names(Workload)
    return tuple(
        (each.metadata.namespace, _body(each))
        for each in deployments
        if FAILOVER_LABEL in each.metadata.labels
        and (each.metadata.namespace, each.metadata.name) not in wanted
        and each.metadata.labels[FAILOVER_LABEL] not in assignments.untouched
    )


def _hindrance(assignment: Assignment, deployment: Deployment) -> Finding | None:
    """Return how it stands if it cannot follow the address as it is, wherever it is now."""
    if deployment.spec.strategy.type != RECREATE:
        message = (
            f"the Deployment {assignment.workload.name!r} has the strategy {deployment.spec.strategy.type}, "
            "which runs two Pods at once for a moment: set `spec.strategy.type: Recreate` in it"
        )
        return assignment.hindered(assignment.objection(Reason.STRATEGY_NOT_RECREATE, message))
    pinned = _pinned(deployment)
    return owned(assignment, pinned) if pinned else None


def _pinned(deployment: Deployment) -> tuple[tuple[str, str], ...]:
    """Return the node selector with each manager that has set it besides us, as `owned` takes them."""
    managers = {
        each.manager
        for each in deployment.metadata.managed_fields
        if (each.manager, each.operation) != (FIELD_MANAGER, "Apply")
        and each.has("spec", "template", "spec", "nodeSelector")
    }
    return tuple((".spec.template.spec.nodeSelector", manager) for manager in sorted(managers))


def _body(deployment: Deployment) -> dict[str, Any]:
    """Return an apply that sets nothing; it is for the version that was read, so it never makes one."""
    metadata = deployment.metadata
    return {"metadata": {"name": metadata.name, "resourceVersion": metadata.resource_version}}


def _plight(deployment: Deployment) -> str:
    """Return why its Pod is not ready, as Kubernetes tells."""
    status = deployment.status
    if deployment.spec.paused:
        return "the Deployment is paused"
    if status.observed_generation < deployment.metadata.generation:
        return "Kubernetes has not seen the change of the Deployment yet"
    bad = {"Available": "False", "Progressing": "False", "ReplicaFailure": "True"}
    said = [each for each in status.conditions if bad.get(each.type) == each.status]
    if not status.updated_replicas and all(each.type != "ReplicaFailure" for each in said):
        return (
            "Kubernetes makes the new Pod when the former one has ended; if that one's node is off, say so: "
            f"kubectl taint nodes NODE {OUT_OF_SERVICE}=nodeshutdown:NoExecute"
        )
    return "; ".join(f"{each.reason}: {each.message}" for each in said) or "no Pod is ready"
