"""`vipkeeper-controller release-finalizers` against a real API server, with the rights of its hook."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import gotools
from apiserver.controllers import NAMESPACE, PREFER_A, admit, end, launch, make
from apiserver.fleet import API_VERSION, Fleet, condition, eventually
from chart.rendering import Chart
from lab import kernelcalls, processes
from lab.api import RefusedError, manifests_in
from vipapi.resources import OUT_OF_SERVICE

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
FINALIZER = "vipkeeper.io/release"
HOOK = "vipkeeper-cleanup"
MANY = 100
PATIENCE_S = 180
SWEEPERS = "vipkeeper-sweeper"
Object = dict[str, Any]
Control = Uninstall = Callable[..., processes.Process]
Sweep = Callable[..., None]


@pytest.fixture(scope="module")
def rules() -> list[Object]:
    """Return the hook's ServiceAccount and its roles, as the chart has them."""
    objects = Chart(gotools.locate("helm")).render().objects
    return [each for each in objects if each["metadata"]["name"] == HOOK and each["kind"] != "Job"]


@pytest.fixture
def control(apiserver: ControlPlane, tmp_path: Path) -> Iterator[Control]:
    """Start a controller; what runs still is ended with the test."""
    running: list[processes.Process] = []

    def start(identity: str = "one") -> processes.Process:
        running.append(launch(admit(apiserver), tmp_path / identity, identity))
        return running[-1]

    yield start
    for process in running:
        end(process)


@pytest.fixture
def uninstall(apiserver: ControlPlane, rules: list[Object], tmp_path: Path) -> Iterator[Uninstall]:
    """Start the command; what runs still is ended with the test."""
    kubeconfig = apiserver.kubeconfig_of_service_account(NAMESPACE, HOOK)
    for rule in rules:
        apiserver.api.apply(rule)
    running: list[processes.Process] = []

    def start(*options: str) -> processes.Process:
        command = [sys.executable, "-m", "vipcontroller", "release-finalizers", f"--kubeconfig={kubeconfig}"]
        log = tmp_path / f"uninstall-{len(running)}"
        network = kernelcalls.current_network()
        running.append(processes.start([*command, *options], name="uninstall", network=network, log=log))
        return running[-1]

    yield start
    for process in running:
        end(process)
    apiserver.api.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")


@pytest.fixture
def sweep(apiserver: ControlPlane) -> Iterator[Sweep]:
    """Let sweepers be done on some nodes, and not on as many others as `left`; they go with the test."""
    api = apiserver.api
    labels = {"app": "sweeper"}
    containers = [{"name": "stay", "image": "none"}]
    names: list[str] = []

    def sweep(*nodes: str, left: int = 0) -> None:
        of_all = {"name": SWEEPERS, "namespace": NAMESPACE}
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        template = {"metadata": {"labels": labels}, "spec": {"containers": containers}}
        spec: Object = {"selector": {"matchLabels": labels}, "template": template}
        made = api.apply({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": of_all, "spec": spec})
        numbers = {"desiredNumberScheduled": len(nodes) + left, "numberReady": len(nodes)}
        status = {"observedGeneration": made["metadata"]["generation"], **numbers}
        status |= {"currentNumberScheduled": len(nodes) + left, "numberMisscheduled": 0}
        api.merge(
            *("apps/v1", "DaemonSet", SWEEPERS, {"status": status}),
            namespace=NAMESPACE,
            subresource="/status",
        )
        for node in nodes:
            name = f"{SWEEPERS}-{node}"
            metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
            spec = {"nodeName": node, "serviceAccountName": HOOK, "containers": containers}
            spec |= {"automountServiceAccountToken": False}
            api.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
            names.append(name)
            ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
            api.merge("v1", "Pod", name, ready, namespace=NAMESPACE, subresource="/status")

    yield sweep
    api.delete("apps/v1", "DaemonSet", SWEEPERS, namespace=NAMESPACE)
    for name in names:
        api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}?gracePeriodSeconds=0")


def finish(process: processes.Process) -> None:
    assert process.wait(PATIENCE_S) == 0, process.output()


def finalizers(plane: ControlPlane) -> list[str]:
    found = [*plane.api.list(API_VERSION, "VirtualIP"), *plane.api.list(API_VERSION, "FailoverDomain")]
    return [name for each in found for name in each["metadata"].get("finalizers", [])]


def test_finalizers_go_when_the_last_controller_has_ended_and_never_before(
    apiserver: ControlPlane, control: Control, uninstall: Uninstall, sweep: Sweep
) -> None:
    fleet = Fleet(apiserver.api, "node-a", "node-b", "node-c")
    fleet.arrive()
    controller = control()
    make(fleet, "web", candidates=PREFER_A)
    make(fleet, "going", addresses=["192.0.2.11/24"])
    fleet.settle(lambda: fleet.owns("web", "node-a"), within_s=PATIENCE_S)
    fleet.settle(
        lambda: condition(fleet.virtual_ip("going"), "Owned").get("status") == "True", within_s=PATIENCE_S
    )
    fleet.is_obedient = False
    fleet.unburied |= set(fleet.nodes)
    apiserver.api.delete(API_VERSION, "VirtualIP", "going")
    status = fleet.virtual_ip("web")["status"]
    domain = apiserver.api.get(API_VERSION, "FailoverDomain", "default")["status"]
    sweep(*fleet.nodes)
    process = uninstall(f"--sweepers={SWEEPERS}")
    with pytest.raises(processes.ProcessFailedError, match="did not print"):
        process.wait_for_output("Let go of", patience_s=4)
    assert len(finalizers(apiserver)) == 3
    controller.terminate()
    finish(process)
    assert finalizers(apiserver) == []
    assert apiserver.api.list(API_VERSION, "VIPNode") == []
    [web] = apiserver.api.list(API_VERSION, "VirtualIP")
    assert {name: condition(web, name)["status"] for name in ("Ready", "Owned", "Bound", "Redundant")} == (
        dict.fromkeys(("Ready", "Owned", "Bound", "Redundant"), "Unknown")
    )
    assert condition(web, "Ready")["reason"] == "Uninstalled"
    assert "owner" not in web["status"]
    assert web["status"]["term"] == status["term"]
    assert web["status"]["election"] == status["election"]
    after = apiserver.api.get(API_VERSION, "FailoverDomain", "default")
    assert condition(after, "Ready")["status"] == "Unknown"
    assert {**after["status"], "conditions": []} == {**domain, "conditions": []}
    lease = apiserver.api.get("coordination.k8s.io/v1", "Lease", "vipkeeper-controller", namespace=NAMESPACE)
    assert not lease["spec"]["holderIdentity"]
    # Whoever runs it again finds nothing to do.
    finish(uninstall())
    assert fleet.virtual_ip("web")["metadata"]["resourceVersion"] == web["metadata"]["resourceVersion"]


def test_what_was_uninstalled_is_held_again_after_a_new_installation(
    apiserver: ControlPlane, control: Control, uninstall: Uninstall
) -> None:
    fleet = Fleet(apiserver.api, "node-a", "node-b", "node-c")
    fleet.arrive()
    first = control()
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"), within_s=PATIENCE_S)
    epoch = apiserver.api.get(API_VERSION, "FailoverDomain", "default")["status"]["epoch"]
    first.terminate()
    finish(uninstall("--force"))
    fleet.grants.clear()
    fleet.holders.clear()
    control("two")
    fleet.settle(lambda: fleet.owns("web", "node-a"), within_s=PATIENCE_S)
    assert apiserver.api.get(API_VERSION, "FailoverDomain", "default")["status"]["epoch"] == epoch
    assert len(finalizers(apiserver)) == 2


def test_many_objects_are_let_go_of_while_others_write_them(
    apiserver: ControlPlane, uninstall: Uninstall
) -> None:
    names = [f"vip-{number:03}" for number in range(MANY)]
    for name in names:
        metadata = {"name": name, "finalizers": [FINALIZER, "example.com/other"]}
        spec = {"addresses": ["192.0.2.10"]}
        apiserver.api.apply(
            {"apiVersion": API_VERSION, "kind": "VirtualIP", "metadata": metadata, "spec": spec}
        )
    is_over = threading.Event()

    def label() -> None:
        for count in range(1000):
            for name in names[:: MANY // 10]:
                if is_over.is_set():
                    return
                labels = {"metadata": {"labels": {"count": str(count)}}}
                with contextlib.suppress(RefusedError, OSError):  # on a busy machine
                    apiserver.api.merge(API_VERSION, "VirtualIP", name, labels)

    writer = threading.Thread(target=label)
    writer.start()
    try:
        finish(uninstall())
    finally:
        is_over.set()
        writer.join()
    assert finalizers(apiserver) == ["example.com/other"] * MANY


def test_definitions_that_are_gone_are_no_hindrance(apiserver: ControlPlane, uninstall: Uninstall) -> None:
    name = "failoverdomains.vipkeeper.io"
    apiserver.api.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)

    def is_gone() -> bool:
        try:
            apiserver.api.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
        except RefusedError:
            return True
        return False

    eventually(is_gone)
    try:
        finish(uninstall())
    finally:
        apiserver.api.apply_definitions(manifests_in(ROOT / "crds"))


def test_a_node_that_is_never_swept_keeps_nobody_from_uninstalling(
    uninstall: Uninstall, sweep: Sweep
) -> None:
    sweep("node-b", left=2)
    started = time.monotonic()
    process = uninstall(f"--sweepers={SWEEPERS}", "--patience=3")
    finish(process)
    assert time.monotonic() - started >= 3
    assert "2 nodes are not swept after 3 s: run `vipkeeper-keeper --clean` there" in process.output()


def held(apiserver: ControlPlane) -> Fleet:
    """Return a fleet of which node-a owns an address, with its finalizer on."""
    fleet = Fleet(apiserver.api, "node-a", "node-b", "node-c")
    fleet.arrive()
    made = make(fleet, "web")
    apiserver.api.merge(API_VERSION, "VirtualIP", "web", {"metadata": {"finalizers": [FINALIZER]}})
    fleet.take_over(made["metadata"]["uid"], "node-a")
    fleet.publish()
    return fleet


def test_nothing_is_let_go_of_while_an_agent_that_no_sweeper_replaced_has_an_address(
    apiserver: ControlPlane, uninstall: Uninstall, sweep: Sweep
) -> None:
    """A static pod runs on, and its node has no sweeper: that the sweepers are done says nothing of it."""
    held(apiserver)
    sweep("node-b", "node-c")
    before = apiserver.api.list(API_VERSION, "VirtualIP")
    process = uninstall(f"--sweepers={SWEEPERS}")
    assert process.wait(PATIENCE_S) == 1
    said = process.output()
    assert "a keeper may hold an address still: node-a has 192.0.2.10 (VirtualIP web). Stop the keep" in said
    assert apiserver.api.list(API_VERSION, "VirtualIP") == before
    assert len(apiserver.api.list(API_VERSION, "VIPNode")) == 3
    # As the message has it: whoever stopped that keeper says so.
    assert "kubectl delete vipnode node-a`" in said
    apiserver.api.delete(API_VERSION, "VIPNode", "node-a")
    finish(uninstall(f"--sweepers={SWEEPERS}"))
    assert finalizers(apiserver) == []


def test_who_forces_it_is_told_whose_word_did_not_count(
    apiserver: ControlPlane, uninstall: Uninstall
) -> None:
    held(apiserver)
    process = uninstall("--force")
    finish(process)
    assert finalizers(apiserver) == []
    assert "Going on, for it is forced, though node-a has 192.0.2.10" in process.output()


@pytest.mark.parametrize("how", ["unheard", "out-of-service"])
def test_a_node_that_is_dead_keeps_nobody_from_uninstalling(
    apiserver: ControlPlane, uninstall: Uninstall, sweep: Sweep, how: str
) -> None:
    """What it said last is old: without the other witnesses, which were swept, its lease is over."""
    fleet = held(apiserver)
    if how == "unheard":
        domain = apiserver.api.get(API_VERSION, "FailoverDomain", "default")
        witnesses = [
            {"nodeName": node, "address": f"198.51.100.{place}"} for place, node in enumerate(fleet.nodes, 1)
        ]
        status = {"status": {**domain["status"], "epoch": 1, "witnesses": witnesses}}
        apiserver.api.merge(API_VERSION, "FailoverDomain", "default", status, subresource="/status")
        fleet.publish()
        conditions = [{"type": "Ready", "status": "Unknown"}]
        apiserver.api.merge(
            "v1", "Node", "node-a", {"status": {"conditions": conditions}}, subresource="/status"
        )
    else:
        taints = [{"key": OUT_OF_SERVICE, "effect": "NoExecute", "value": "nodeshutdown"}]
        apiserver.api.merge("v1", "Node", "node-a", {"spec": {"taints": taints}})
    sweep("node-b", "node-c", left=1)
    process = uninstall(f"--sweepers={SWEEPERS}", "--patience=3")
    finish(process)
    assert finalizers(apiserver) == []
    assert "It is taken for old that node-a has 192.0.2.10" in process.output()


def test_who_is_told_to_end_before_it_is_done_does_not_say_that_it_is(
    apiserver: ControlPlane, uninstall: Uninstall, sweep: Sweep
) -> None:
    held(apiserver)
    sweep(left=1)
    process = uninstall(f"--sweepers={SWEEPERS}")
    process.wait_for_output("Nodes that are not swept yet: 1", patience_s=PATIENCE_S)
    assert process.terminate(patience_s=PATIENCE_S) == 143
    assert finalizers(apiserver) == [FINALIZER]


def test_a_namespace_that_is_not_there_proves_nothing(apiserver: ControlPlane, uninstall: Uninstall) -> None:
    """It may be the wrong one, and a controller lead in the right one."""
    held(apiserver)
    administrator = f"--kubeconfig={apiserver.kubeconfig}"  # for who has rights there only is told of these
    process = uninstall("--namespace=vipkeeper-gone", "--patience=3", "--force", administrator)
    assert process.wait(PATIENCE_S) == 1
    assert "kubectl create namespace vipkeeper-gone" in process.output()
    assert finalizers(apiserver) == [FINALIZER]
