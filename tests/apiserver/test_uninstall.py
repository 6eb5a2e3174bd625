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

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
FINALIZER = "vipkeeper.io/release"
HOOK = "vipkeeper-cleanup"
MANY = 100
PATIENCE_S = 180
Object = dict[str, Any]
Control = Uninstall = Callable[..., processes.Process]


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


def finish(process: processes.Process) -> None:
    assert process.wait(PATIENCE_S) == 0, process.output()


def finalizers(plane: ControlPlane) -> list[str]:
    found = [*plane.api.list(API_VERSION, "VirtualIP"), *plane.api.list(API_VERSION, "FailoverDomain")]
    return [name for each in found for name in each["metadata"].get("finalizers", [])]


def test_finalizers_go_when_the_last_controller_has_ended_and_never_before(
    apiserver: ControlPlane, control: Control, uninstall: Uninstall
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
    process = uninstall()
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
    finish(uninstall())
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
    apiserver: ControlPlane, uninstall: Uninstall
) -> None:
    metadata = {"name": "vipkeeper-sweeper", "namespace": NAMESPACE}
    labels = {"app": "sweeper"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "stay", "image": "none"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    apiserver.api.apply({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec})
    try:
        started = time.monotonic()
        process = uninstall("--sweepers=vipkeeper-sweeper", "--patience=3")
        finish(process)
        assert time.monotonic() - started >= 3
        assert "nodes are not swept after 3 s: run `vipkeeper-keeper --clean` there" in process.output()
    finally:
        apiserver.api.delete("apps/v1", "DaemonSet", "vipkeeper-sweeper", namespace=NAMESPACE)
