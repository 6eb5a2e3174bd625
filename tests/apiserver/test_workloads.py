"""Services and Deployments of Kubernetes that follow an address: the controller against a real API server.

It runs under exactly the RBAC rules that are shipped. There is no kube-controller-manager: what Deployments
and Pods come to is written by the tests, and nothing but the controller removes anything.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from apiserver.controllers import NAMESPACE, ROOT, admit, end, launch, make, notes
from apiserver.fleet import API_VERSION, Fleet, condition, eventually
from lab.api import RefusedError, manifests_in
from vipapi.workloads import Deployment, KubernetesService
from vipcluster.client import connect
from vipcontroller.assignments import Assignment, Assignments, Site
from vipcontroller.steward import SWEEP_S, Steward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.controlplane import ControlPlane
    from lab.processes import Process

Object = dict[str, Any]

SLICES = ("discovery.k8s.io/v1", "EndpointSlice")
DEPLOYMENT = ("apps/v1", "Deployment")
LABEL = "vipkeeper.io/servicefailover-uid"
HOME = "prod"
NODES = {"node-a": "192.0.2.101", "node-b": "192.0.2.102", "node-c": "192.0.2.103"}
ENTRY: Object = {"kubernetesService": {"name": "entry"}}


@pytest.fixture
def start(bare_control_plane: ControlPlane, tmp_path: Path) -> Iterator[Callable[[str], Process]]:
    """Start replicas of the controller, which end with the test."""
    kubeconfig = admit(bare_control_plane)
    running: list[Process] = []

    def start(identity: str) -> Process:
        running.append(launch(kubeconfig, tmp_path / identity, identity))
        return running[-1]

    yield start
    for process in running:
        end(process)


@pytest.fixture
def fleet(apiserver: ControlPlane) -> Iterator[Fleet]:
    """Three nodes with an InternalIP and a hostname label each, and the address `web` for the namespace."""
    api, fleet = apiserver.api, Fleet(apiserver.api, *NODES)
    fleet.arrive()
    for node, address in NODES.items():
        api.merge("v1", "Node", node, {"metadata": {"labels": {"kubernetes.io/hostname": f"host-{node}"}}})
        addresses = [{"type": "Hostname", "address": node}, {"type": "InternalIP", "address": address}]
        api.merge("v1", "Node", node, {"status": {"addresses": addresses}}, subresource="/status")
    for manifest in (
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": HOME}},
    ):
        api.apply(manifest)
    fleet.scores = {"node-a": 100, "node-b": 99}
    make(fleet, "web", allowedNamespaces={"names": [HOME]})
    yield fleet
    for version, kind in (("v1", "Service"), ("v1", "Pod"), SLICES, DEPLOYMENT):
        for each in api.list(version, kind, namespace=HOME):
            path = api.path_of(version, kind, namespace=HOME, name=each["metadata"]["name"])
            api.request("DELETE", f"{path}?gracePeriodSeconds=0")


def follow(fleet: Fleet, workload: Object, name: str = "billing", **spec: Any) -> Object:
    """Make a ServiceFailover of one workload, which follows `web` on node-a and node-b."""
    service = {
        "name": "app",
        "virtualIPRef": {"name": "web"},
        "primary": "node-a",
        "standbys": ["node-b"],
        "workload": workload,
    }
    if "deployment" in workload:
        service["singleton"] = False
    return fleet.api.apply(
        {
            "apiVersion": API_VERSION,
            "kind": "ServiceFailover",
            "metadata": {"name": name, "namespace": HOME},
            "spec": {"mode": "ActiveStandby", "services": [service], **spec},
        }
    )


def serve(fleet: Fleet, name: str = "entry", **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": HOME}}
    return fleet.api.apply({**body, "spec": {"ports": ports, **spec}})


def deploy(fleet: Fleet, *, manager: str = "lab", **spec: Any) -> Object:
    labels = {"app": "billing"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "billing", "namespace": HOME},
        "spec": {
            "selector": {"matchLabels": labels},
            "strategy": {"type": "Recreate"},
            "template": template,
            **spec,
        },
    }
    return fleet.api.apply(body, manager=manager)


def deployment(fleet: Fleet) -> Object:
    return fleet.api.get(*DEPLOYMENT, "billing", namespace=HOME)


def bound_to(fleet: Fleet) -> str | None:
    selector = deployment(fleet)["spec"]["template"]["spec"].get("nodeSelector", {})
    found: str | None = selector.get("kubernetes.io/hostname")
    return found


def run_pod(fleet: Fleet, name: str, node: str, ip: str) -> None:
    """Run a ready Pod with the label `app: billing`."""
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": HOME, "labels": {"app": "billing"}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "x"}]},
    }
    fleet.api.apply(body)
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    fleet.api.merge("v1", "Pod", name, {"status": status}, namespace=HOME, subresource="/status")


def failover(fleet: Fleet, name: str = "billing") -> Object:
    return fleet.api.get(API_VERSION, "ServiceFailover", name, namespace=HOME)


def leads_to(fleet: Fleet, service: str = "entry") -> list[str] | None:
    """Return where the Service leads; None without a slice."""
    slices = [
        each
        for each in fleet.api.list(*SLICES, namespace=HOME)
        if each["metadata"]["labels"]["kubernetes.io/service-name"] == service
    ]
    if not slices:
        return None
    return [ip for each in slices for one in each["endpoints"] or [] for ip in one["addresses"]]


def state(fleet: Fleet) -> tuple[str, str | None]:
    """Return the service's state and owner."""
    [service] = failover(fleet)["status"].get("services") or [{"state": "", "owner": None}]
    return service["state"], service.get("owner")


def owned(fleet: Fleet, node: str) -> None:
    fleet.settle(lambda: fleet.owns("web", node), what=f"{node} owns web")


def move(fleet: Fleet, node: str) -> None:
    """Let a node take the address over, as it does when the owner died."""
    fleet.is_obedient = False
    fleet.take_over(fleet.virtual_ip("web")["metadata"]["uid"], node)
    fleet.publish()


def give_up(fleet: Fleet) -> None:
    """Let nobody own the address."""
    fleet.is_obedient = False
    fleet.grants.clear()
    fleet.holders.clear()
    fleet.publish()


def stalled(fleet: Fleet) -> Object:
    return condition(failover(fleet), "Stalled")


def test_a_service_leads_to_the_owner_and_to_nobody_when_there_is_none(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    serve(fleet)
    uid = follow(fleet, ENTRY)["metadata"]["uid"]
    owned(fleet, "node-a")
    eventually(lambda: leads_to(fleet) == ["192.0.2.101"])
    [found] = fleet.api.list(*SLICES, namespace=HOME)
    assert found["metadata"]["labels"] == {
        "kubernetes.io/service-name": "entry",
        "endpointslice.kubernetes.io/managed-by": "vipkeeper.io",
        LABEL: uid,
    }
    assert [each["uid"] for each in found["metadata"]["ownerReferences"]] == [uid]
    assert found["ports"] == [{"name": "http", "port": 8080, "protocol": "TCP"}]
    assert found["endpoints"][0]["conditions"] == {"ready": True, "serving": True, "terminating": False}
    eventually(lambda: condition(failover(fleet), "Ready").get("reason") == "ServicesActive")
    assert state(fleet) == ("Active", "node-a")
    move(fleet, "node-b")
    eventually(lambda: leads_to(fleet) == ["192.0.2.102"])
    eventually(lambda: state(fleet) == ("Active", "node-b"))
    give_up(fleet)
    eventually(lambda: leads_to(fleet) == [])
    eventually(lambda: state(fleet) == ("Stopped", None))
    fleet.api.delete(API_VERSION, "ServiceFailover", "billing", namespace=HOME)
    eventually(lambda: leads_to(fleet) is None, what="the slices are gone")


def test_a_service_leads_to_the_pods_on_the_owner_only(fleet: Fleet, start: Callable[[str], Process]) -> None:
    start("one")
    serve(fleet)
    run_pod(fleet, "on-a", "node-a", "10.0.0.1")
    run_pod(fleet, "on-b", "node-b", "10.0.1.1")
    selector = {"matchLabels": {"app": "billing"}}
    follow(fleet, {"kubernetesService": {"name": "entry", "podSelector": selector}})
    owned(fleet, "node-a")
    eventually(lambda: leads_to(fleet) == ["10.0.0.1"])
    run_pod(fleet, "also-on-a", "node-a", "10.0.0.2")
    eventually(lambda: leads_to(fleet) == ["10.0.0.2", "10.0.0.1"], what="a new Pod is found")
    move(fleet, "node-b")
    eventually(lambda: leads_to(fleet) == ["10.0.1.1"])
    pods = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    fleet.api.merge("v1", "Pod", "on-b", pods, namespace=HOME, subresource="/status")
    eventually(lambda: state(fleet) == ("Starting", "node-b"))
    assert leads_to(fleet) == []


def test_a_service_that_is_missing_or_selects_for_itself_is_told_until_it_is_right(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    follow(fleet, ENTRY)
    owned(fleet, "node-a")
    eventually(lambda: stalled(fleet).get("reason") == "ServiceNotFound")
    serve(fleet, selector={"app": "billing"})
    eventually(lambda: stalled(fleet).get("reason") == "ServiceHasSelector")
    assert "remove `spec.selector`" in stalled(fleet)["message"]
    assert condition(failover(fleet), "Ready")["status"] == "False"
    assert condition(failover(fleet), "Accepted")["status"] == "True"
    assert leads_to(fleet) is None
    eventually(lambda: notes(fleet, "ServiceHasSelector", namespace=HOME))
    serve(fleet)
    eventually(lambda: leads_to(fleet) == ["192.0.2.101"])
    eventually(lambda: condition(failover(fleet), "Ready").get("status") == "True")
    assert not stalled(fleet)


def test_a_service_to_which_others_write_endpoints_says_whose_they_are(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    serve(fleet)
    labels = {
        "kubernetes.io/service-name": "entry",
        "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
    }
    foreign = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "entry-xyz", "namespace": HOME, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.9.9.9"]}],
        "ports": [],
    }
    fleet.api.apply(foreign)
    follow(fleet, ENTRY)
    owned(fleet, "node-a")
    eventually(lambda: stalled(fleet).get("reason") == "ForeignEndpoints")
    assert "endpointslicemirroring-controller.k8s.io made (entry-xyz)" in stalled(fleet)["message"]
    assert leads_to(fleet) == ["192.0.2.101", "10.9.9.9"]
    fleet.api.delete(*SLICES, "entry-xyz", namespace=HOME)
    eventually(lambda: condition(failover(fleet), "Ready").get("status") == "True")


def test_a_deployment_follows_the_owner_and_gets_its_fields_back(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    follow(fleet, {"deployment": {"name": "billing"}})
    owned(fleet, "node-a")
    eventually(lambda: stalled(fleet).get("reason") == "DeploymentNotFound")
    assert fleet.api.list(*DEPLOYMENT, namespace=HOME) == [], "it never makes one"
    deploy(fleet)
    eventually(lambda: bound_to(fleet) == "host-node-a")
    assert deployment(fleet)["spec"]["replicas"] == 1
    eventually(lambda: state(fleet) == ("Starting", "node-a"))

    def run(ready: int) -> None:
        status = {
            "observedGeneration": deployment(fleet)["metadata"]["generation"],
            "replicas": 1,
            "updatedReplicas": 1,
            "readyReplicas": ready,
        }
        patch = {"status": status}
        fleet.api.merge(*DEPLOYMENT, "billing", patch, namespace=HOME, subresource="/status")

    run(ready=1)
    eventually(lambda: condition(failover(fleet), "Ready").get("status") == "True")
    move(fleet, "node-b")
    eventually(lambda: bound_to(fleet) == "host-node-b")
    eventually(lambda: state(fleet) == ("Starting", "node-b"))
    run(ready=1)
    eventually(lambda: state(fleet) == ("Active", "node-b"))
    give_up(fleet)
    eventually(lambda: state(fleet) == ("Active", None), what="without an owner it stays as it is")
    assert bound_to(fleet) == "host-node-b"
    fleet.api.delete(API_VERSION, "ServiceFailover", "billing", namespace=HOME)
    eventually(lambda: bound_to(fleet) is None, what="the node selector is given back")
    after = deployment(fleet)
    assert LABEL not in after["metadata"].get("labels", {})
    managers = {field["manager"] for field in after["metadata"]["managedFields"]}
    assert "vipkeeper-workloads" not in managers


def test_fields_that_others_set_are_left_to_them_and_told(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    deploy(fleet, manager="argocd", replicas=3)
    follow(fleet, {"deployment": {"name": "billing"}})
    owned(fleet, "node-a")
    eventually(lambda: stalled(fleet).get("reason") == "FieldOwned")
    assert "remove `spec.replicas` (argocd sets it)" in stalled(fleet)["message"]
    assert deployment(fleet)["spec"]["replicas"] == 3
    assert bound_to(fleet) is None
    deploy(fleet, manager="argocd")
    eventually(lambda: bound_to(fleet) == "host-node-a")
    eventually(lambda: not stalled(fleet))


def test_a_manifest_that_names_the_primary_is_told_before_the_primary_dies(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    before = deploy(fleet)["spec"]["template"]
    pinned = {"spec": {**before["spec"], "nodeSelector": {"kubernetes.io/hostname": "host-node-a"}}}
    deploy(fleet, manager="argocd", template={**before, **pinned}, replicas=1)
    follow(fleet, {"deployment": {"name": "billing"}})
    owned(fleet, "node-a")
    eventually(lambda: stalled(fleet).get("reason") == "FieldOwned")
    assert "`spec.template.spec.nodeSelector` (argocd sets it)" in stalled(fleet)["message"]
    deploy(fleet, manager="argocd", template=before, replicas=1)
    eventually(lambda: not stalled(fleet))
    eventually(lambda: state(fleet) == ("Starting", "node-a"))
    assert bound_to(fleet) == "host-node-a"


def test_a_deployment_that_rolls_is_refused_and_left_as_it_is(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    before = deploy(fleet, strategy={"type": "RollingUpdate"})
    follow(fleet, {"deployment": {"name": "billing"}})
    owned(fleet, "node-a")
    eventually(lambda: stalled(fleet).get("reason") == "StrategyNotRecreate")
    assert deployment(fleet)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_what_ended_while_nobody_led_is_taken_back_by_whoever_leads_next(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    first = start("one")
    serve(fleet)
    deploy(fleet)
    follow(fleet, ENTRY, "entry")
    follow(fleet, {"deployment": {"name": "billing"}})
    owned(fleet, "node-a")
    eventually(lambda: leads_to(fleet) == ["192.0.2.101"])
    eventually(lambda: bound_to(fleet) == "host-node-a")
    first.terminate()
    fleet.api.delete(API_VERSION, "ServiceFailover", "entry", namespace=HOME)
    follow(fleet, {"systemd": {"unit": "billing.service"}})
    start("two")
    eventually(lambda: leads_to(fleet) is None, what="the slices are gone")
    eventually(lambda: bound_to(fleet) is None, what="the node selector is given back")


def test_a_change_of_owner_while_nobody_led_is_carried_out_by_whoever_leads_next(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    first = start("one")
    serve(fleet)
    follow(fleet, ENTRY)
    owned(fleet, "node-a")
    eventually(lambda: leads_to(fleet) == ["192.0.2.101"])
    start("two")
    first.kill()
    move(fleet, "node-b")
    eventually(lambda: leads_to(fleet) == ["192.0.2.102"], within_s=40)
    eventually(lambda: state(fleet) == ("Active", "node-b"))


def test_a_new_leader_lets_stand_what_was_found_until_it_has_looked(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    first = start("one")
    serve(fleet)
    follow(fleet, ENTRY)
    follow(fleet, {"deployment": {"name": "billing"}}, "app")
    owned(fleet, "node-a")
    eventually(lambda: condition(failover(fleet), "Ready").get("status") == "True")
    eventually(lambda: condition(failover(fleet, "app"), "Stalled").get("reason") == "DeploymentNotFound")
    eventually(lambda: notes(fleet, "DeploymentNotFound", namespace=HOME))
    before = [failover(fleet)["status"], failover(fleet, "app")["status"]]
    told = notes(fleet, "DeploymentNotFound", namespace=HOME)
    first.terminate()
    serve(fleet, ports=[{"name": "http", "port": 80, "targetPort": 9090}])
    start("two")

    def ports() -> list[int]:
        return [port["port"] for each in fleet.api.list(*SLICES, namespace=HOME) for port in each["ports"]]

    eventually(lambda: ports() == [9090], what="the new leader has looked")
    assert [failover(fleet)["status"], failover(fleet, "app")["status"]] == before
    assert notes(fleet, "DeploymentNotFound", namespace=HOME) == told


def test_an_edit_that_is_not_acceptable_leaves_the_service_leading_to_the_owner(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    serve(fleet)
    follow(fleet, ENTRY)
    owned(fleet, "node-a")
    eventually(lambda: leads_to(fleet) == ["192.0.2.101"])
    edited = failover(fleet)["spec"]["services"]
    edited[0]["standbys"] = ["node-b", "node-x"]
    patch = {"spec": {"services": edited}}
    fleet.api.merge(API_VERSION, "ServiceFailover", "billing", patch, namespace=HOME)
    eventually(lambda: "is not acted upon" in stalled(fleet).get("message", ""))
    move(fleet, "node-b")
    eventually(lambda: leads_to(fleet) == ["192.0.2.102"])


def test_in_peace_neither_slices_nor_deployments_are_written(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    start("one")
    serve(fleet)
    deploy(fleet)
    follow(fleet, ENTRY, "entry")
    follow(fleet, {"deployment": {"name": "billing"}})
    owned(fleet, "node-a")
    eventually(lambda: leads_to(fleet) == ["192.0.2.101"])
    eventually(lambda: bound_to(fleet) == "host-node-a")
    eventually(lambda: state(fleet) == ("Starting", "node-a"))

    def versions() -> list[str]:
        found = [deployment(fleet), *fleet.api.list(*SLICES, namespace=HOME)]
        found += [failover(fleet), failover(fleet, "entry")]
        return [each["metadata"]["resourceVersion"] for each in found]

    eventually(lambda: condition(failover(fleet, "entry"), "Ready").get("status") == "True")
    before = versions()
    run_pod(fleet, "other", "node-a", "10.0.0.1")
    # Three more looks at least: the leader renews its Lease less often than that.
    lease = ("coordination.k8s.io/v1", "Lease", "vipkeeper-controller")
    first = int(fleet.api.get(*lease, namespace=NAMESPACE)["metadata"]["resourceVersion"])
    renewed: set[int] = set()

    def renewed_thrice() -> bool:
        renewed.add(int(fleet.api.get(*lease, namespace=NAMESPACE)["metadata"]["resourceVersion"]))
        return len(renewed - {first}) >= 3

    eventually(renewed_thrice)
    assert versions() == before


def test_without_such_workloads_nobody_has_to_permit_what_they_need(
    fleet: Fleet, start: Callable[[str], Process]
) -> None:
    def rules(*, of_workloads: bool) -> None:
        for manifest in manifests_in(ROOT / "charts" / "vipkeeper" / "files" / "rbac.yaml"):
            if (manifest["kind"], manifest["metadata"]["name"]) == ("ClusterRole", "vipkeeper-controller"):
                own = {"endpointslices", "deployments", "services", "pods"}
                manifest["rules"] = [
                    rule for rule in manifest["rules"] if of_workloads or not own & set(rule["resources"])
                ]
                fleet.api.apply(manifest)

    rules(of_workloads=False)
    try:
        process = start("one")
        follow(fleet, {"systemd": {"unit": "app.service"}})
        owned(fleet, "node-a")
        fleet.run("node-a", failover(fleet), "Active", term=1)
        eventually(lambda: condition(failover(fleet), "Ready").get("status") == "True")
        assert process.is_alive
        assert "workload of the cluster" not in process.output()
        fleet.api.delete(API_VERSION, "ServiceFailover", "billing", namespace=HOME)
        serve(fleet)
        follow(fleet, ENTRY, "entry")

        def told() -> bool:
            [service] = failover(fleet, "entry")["status"].get("services") or [{}]
            return "RBAC manifests" in service.get("message", "")

        eventually(told)
    finally:
        rules(of_workloads=True)
    eventually(lambda: leads_to(fleet) == ["192.0.2.101"], what="a permission that comes later is enough")


def assignment(name: str, workload: KubernetesService | Deployment, owner: str) -> Assignment:
    return Assignment(
        uid=name,
        namespace=HOME,
        failover=name,
        service=name,
        virtual_ip="web",
        workload=workload,
        owner=owner,
        term=1,
        sites=tuple(Site(node, (address,), f"host-{node}") for node, address in NODES.items()),
    )


def test_a_replica_that_lost_the_lead_writes_nothing(apiserver: ControlPlane, fleet: Fleet) -> None:
    serve(fleet)
    deploy(fleet)
    cluster, news = connect(str(admit(apiserver)), user_agent="test"), threading.Event()
    steward = Steward(cluster, may_write=lambda: False, on_change=news.set)
    entry = assignment("entry", KubernetesService(name="entry"), "node-a")
    app = assignment("app", Deployment(name="billing"), "node-a")
    steward.start()
    try:
        steward.assign(Assignments((entry, app)))
        eventually(lambda: len(steward.carried.reports) == 2)
    finally:
        steward.stop()
    assert news.is_set()
    for name in ("entry", "app"):
        report = steward.carried.reports[name][name]["node-a"]
        assert report.state == "Waiting"
        assert report.message == "this replica does not lead any more"
    assert (leads_to(fleet), bound_to(fleet)) == (None, None)


def test_what_was_found_stands_while_nobody_answers_and_never_of_another_owner(
    apiserver: ControlPlane, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    serve(fleet)
    cluster = connect(str(admit(apiserver)), user_agent="test", timeout_s=1.0)
    steward = Steward(cluster, may_write=lambda: True, on_change=lambda: None)

    def states() -> dict[str, str]:
        reports = steward.carried.reports.get("entry", {}).get("entry", {})
        return {node: report.state for node, report in reports.items()}

    steward.start()
    try:
        steward.assign(Assignments((assignment("entry", KubernetesService(name="entry"), "node-a"),)))
        eventually(lambda: states() == {"node-a": "Active"})
        apiserver.freeze_apiserver()
        eventually(lambda: "Could not look after a workload" in caplog.text)
        assert states() == {"node-a": "Active"}
        steward.assign(Assignments((assignment("entry", KubernetesService(name="entry"), "node-b"),)))
        eventually(lambda: states() == {"node-b": "Waiting"})
        apiserver.thaw_apiserver()
        eventually(lambda: states() == {"node-b": "Active"})
    finally:
        apiserver.thaw_apiserver()
        steward.stop()
    assert leads_to(fleet) == ["192.0.2.102"]


def test_what_cannot_be_written_is_not_active_any_more_until_it_can_be(
    apiserver: ControlPlane, fleet: Fleet
) -> None:
    serve(fleet)
    cluster, leads = connect(str(admit(apiserver)), user_agent="test"), True
    steward = Steward(cluster, may_write=lambda: leads, on_change=lambda: None)
    wanted = Assignments((assignment("entry", KubernetesService(name="entry"), "node-a"),))

    def report() -> tuple[str, str]:
        steward.look(wanted)
        found = steward.carried.reports["entry"]["entry"]["node-a"]
        return found.state, found.message

    assert report() == ("Active", "")
    leads = False
    assert report() == ("Active", ""), "nothing is to be written"
    serve(fleet, ports=[{"name": "http", "port": 80, "targetPort": 9090}])
    assert report() == ("Waiting", "this replica does not lead any more")
    assert steward.carried.answered == {wanted.wanted[0].key}
    leads = True
    assert report() == ("Active", "")


@pytest.mark.parametrize("found", ["nothing", "its-own", "left-over"])
def test_who_wakes_amid_a_write_undoes_nothing_of_its_successor(
    apiserver: ControlPlane, fleet: Fleet, found: str
) -> None:
    serve(fleet)
    cluster, is_frozen = connect(str(admit(apiserver)), user_agent="test"), True
    on_a, on_b = (
        Assignments((assignment("entry", KubernetesService(name="entry"), node),))
        for node in ("node-a", "node-b")
    )
    successor = Steward(cluster, may_write=lambda: True, on_change=lambda: None)
    if found != "nothing":
        nobody = msgspec.structs.replace(on_a.wanted[0], owner=None, term=0)
        successor.look(Assignments((nobody,)))
        assert leads_to(fleet) == []

    def may_write() -> bool:
        """Sleep between this question and the first write until the successor has written."""
        nonlocal is_frozen
        if is_frozen:
            is_frozen = False
            successor.look(on_b)
        return True

    former = Steward(cluster, may_write=may_write, on_change=lambda: None)
    former.look(Assignments() if found == "left-over" else on_a)
    assert not is_frozen
    assert leads_to(fleet) == ["192.0.2.102"]


def test_a_slice_belongs_to_one_failover_though_it_was_made_for_another(
    apiserver: ControlPlane, fleet: Fleet
) -> None:
    serve(fleet)
    cluster = connect(str(admit(apiserver)), user_agent="test")
    steward = Steward(cluster, may_write=lambda: True, on_change=lambda: None)
    for name in ("first", "second"):
        steward.look(Assignments((assignment(name, KubernetesService(name="entry"), "node-a"),)))
        [found] = fleet.api.list(*SLICES, namespace=HOME)
        assert [each["uid"] for each in found["metadata"]["ownerReferences"]] == [name]
        assert found["metadata"]["labels"][LABEL] == name


def test_other_standbys_let_what_was_found_stand(apiserver: ControlPlane, fleet: Fleet) -> None:
    serve(fleet)
    cluster, found = connect(str(admit(apiserver)), user_agent="test"), []
    steward = Steward(
        cluster, may_write=lambda: True, on_change=lambda: found.append(steward.carried.reports)
    )
    before = assignment("entry", KubernetesService(name="entry"), "node-a")
    steward.look(Assignments((before,)))
    sites = (*before.sites[:1], Site("node-b", ("192.0.2.222",)))
    after: Assignment = msgspec.structs.replace(before, sites=sites)
    steward.look(Assignments((after,)))
    assert [each["entry"]["entry"]["node-a"].state for each in found] == ["Active"]


def test_what_cannot_be_taken_back_keeps_nothing_else_and_is_tried_now_and_then(
    apiserver: ControlPlane, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    serve(fleet)
    serve(fleet, "other")
    deploy(fleet)
    cluster, now_s, asked = connect(str(admit(apiserver)), user_agent="test"), 1000.0, 0
    first = Steward(cluster, may_write=lambda: True, on_change=lambda: None)
    entries = [assignment(name, KubernetesService(name=name), "node-a") for name in ("entry", "other")]
    first.look(Assignments((*entries, assignment("app", Deployment(name="billing"), "node-a"))))
    assert (leads_to(fleet), leads_to(fleet, "other")) == (["192.0.2.101"], ["192.0.2.101"])
    assert bound_to(fleet) == "host-node-a"

    def may_write() -> bool:
        """Refuse the first."""
        nonlocal asked
        asked += 1
        return asked > 1

    second = Steward(cluster, may_write=may_write, on_change=lambda: None, clock=lambda: now_s)
    second.look(Assignments())
    assert sorted([leads_to(fleet) is None, leads_to(fleet, "other") is None]) == [False, True]
    assert (bound_to(fleet), asked) == (None, 3)
    assert caplog.text.count("this replica does not lead any more") == 1
    for _ in range(3):
        now_s += SWEEP_S / 4
        second.look(Assignments())
    assert asked == 3
    assert caplog.text.count("this replica does not lead any more") == 1, "told once"
    now_s += SWEEP_S / 4
    second.look(Assignments())
    assert asked == 4
    assert (leads_to(fleet), leads_to(fleet, "other")) == (None, None)


def test_it_may_make_no_deployment(apiserver: ControlPlane, fleet: Fleet) -> None:
    admit(apiserver)
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:vipkeeper-controller",
            "resourceAttributes": {
                "group": "apps",
                "resource": "deployments",
                "verb": "create",
                "namespace": HOME,
            },
        },
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    assert fleet.api.request("POST", path, review)["status"]["allowed"] is False
    with pytest.raises(RefusedError):
        fleet.api.get(*DEPLOYMENT, "billing", namespace=HOME)
