"""What a controller finds that takes over from another, and what only one of two replicas tells."""

from __future__ import annotations

import http.server
import json
import queue
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from apiserver.controllers import NAMESPACE, PREFER_A, admit, end, ended, follow, launch, make, move
from apiserver.fleet import API_VERSION, Fleet, condition, eventually
from lab.controlplane import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lab.controlplane import ControlPlane
    from lab.processes import Process

SECRET = "hunter2"  # noqa: S105 - looked for in what the controller says


@pytest.fixture
def kubeconfig(apiserver: ControlPlane) -> Iterator[Path]:
    yield admit(apiserver)
    apiserver.api.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")


@pytest.fixture
def running() -> Iterator[list[Process]]:
    """Replicas that are ended with the test."""
    found: list[Process] = []
    yield found
    for process in found:
        end(process)


@pytest.fixture
def fleet(apiserver: ControlPlane) -> Fleet:
    fleet = Fleet(apiserver.api, "node-a", "node-b", "node-c")
    fleet.arrive()
    return fleet


@pytest.fixture
def webhook() -> Iterator[tuple[queue.Queue[Any], int]]:
    told: queue.Queue[Any] = queue.Queue()

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(http.HTTPStatus.OK)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield told, server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def scrape(metrics: str) -> str:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def test_an_address_is_elected_by_what_is_in_force_by_whoever_starts_while_an_edit_is_held_back(
    fleet: Fleet, kubeconfig: Path, running: list[Process], tmp_path: Path
) -> None:
    fleet.scores = {"node-a": 100, "node-b": 99, "node-c": 98}
    running.append(launch(kubeconfig, tmp_path / "one"))
    make(fleet, "other", addresses=["192.0.2.11/24"])
    make(fleet, "web", addresses=["192.0.2.10/24"], candidates=PREFER_A)
    before = fleet.settle(lambda: fleet.owns("web", "node-a") and fleet.virtual_ip("web"))
    make(fleet, "web", addresses=["192.0.2.11/24"], candidates=[{"nodeName": "node-c"}])
    fleet.settle(lambda: condition(fleet.virtual_ip("web"), "Stalled"))
    assert running[0].terminate() == 0
    running.append(launch(kubeconfig, tmp_path / "two", "two"))
    running[1].wait_for_output("This replica leads", patience_s=20)
    move(fleet, "to-b", "web", "node-b")
    fleet.settle(lambda: ended(fleet, "to-b", "Complete"))
    after = fleet.settle(
        lambda: (found := fleet.virtual_ip("web"))["status"].get("owner") == "node-b" and found
    )
    assert after["status"]["inForce"] == before["status"]["inForce"]
    assert after["status"]["inForce"]["spec"]["candidates"] == PREFER_A
    assert after["status"]["addresses"] == ["192.0.2.10/24"]
    assert condition(after, "Accepted") == condition(before, "Accepted")


def test_what_is_in_force_is_found_by_whoever_starts_while_an_edit_is_held_back(
    fleet: Fleet, kubeconfig: Path, running: list[Process], tmp_path: Path
) -> None:
    fleet.scores = {"node-a": 100, "node-b": 99, "node-c": 98}
    running.append(launch(kubeconfig, tmp_path / "one"))
    make(fleet, "app", allowedNamespaces={"names": ["default"]})
    billing = follow(fleet, "billing", "app", namespace="default")
    fleet.settle(lambda: fleet.owns("app", "node-a"))
    good = billing["spec"]["services"][0]
    lost = {**good, "name": "lost", "virtualIPRef": {"name": "nowhere"}}
    lost |= {"workload": {"systemd": {"unit": "lost.service"}}, "standbys": ["node-c"]}
    named = {"apiVersion": API_VERSION, "kind": "ServiceFailover", "metadata": {"name": "billing"}}
    named["metadata"]["namespace"] = "default"  # type: ignore[index]
    fleet.api.apply({**named, "spec": {"mode": "Cluster", "services": [good, lost]}})

    def is_held_back() -> Any:
        found = fleet.api.get(API_VERSION, "ServiceFailover", "billing")
        return found if condition(found, "Stalled") else None

    before = fleet.settle(is_held_back)
    assert before["status"]["inForce"]["generation"] == 1
    assert running[0].terminate() == 0
    metrics = f"127.0.0.1:{free_ports().api}"
    running.append(launch(kubeconfig, tmp_path / "two", "two", f"--metrics={metrics}"))
    running[1].wait_for_output("This replica leads", patience_s=20)
    fleet.silent.add("node-a")
    fleet.take_over(fleet.virtual_ip("app")["metadata"]["uid"], "node-b")
    fleet.run("node-b", billing, "Active", term=2)
    fleet.settle(lambda: fleet.owns("app", "node-b"), what="it goes on by what was accepted")

    def is_served() -> Any:
        found = fleet.api.get(API_VERSION, "ServiceFailover", "billing")
        states = found["status"]["services"]
        return found if [each.get("owner") for each in states] == ["node-b"] else None

    after = fleet.settle(is_served)
    assert after["status"]["inForce"] == before["status"]["inForce"]
    assert condition(after, "Accepted") == condition(before, "Accepted")
    fleet.settle(
        lambda: (
            'vipkeeper_servicefailover_degraded{namespace="default",servicefailover="billing"} 1.0'
            in scrape(metrics)
        ),
        what="node-a is gone, so there is no standby any more",
    )
    assert 'vipkeeper_servicefailover_ready{namespace="default",servicefailover="billing"} 0.0' in scrape(
        metrics
    )


def test_of_two_replicas_the_leader_alone_notifies_and_says_nothing_secret(
    fleet: Fleet,
    kubeconfig: Path,
    running: list[Process],
    webhook: tuple[queue.Queue[Any], int],
    tmp_path: Path,
) -> None:
    told, hook = webhook
    settings = tmp_path / "settings"
    targets = [
        {"name": "chat", "url": f"json://user:{SECRET}@127.0.0.1:{hook}/"},
        {"name": "broken", "url": f"pigeon://{SECRET}"},
    ]
    settings.write_text(json.dumps({"cluster": "berlin", "targets": targets}))
    ports = {name: free_ports().api for name in ("one", "two")}
    running.extend(
        launch(
            *(kubeconfig, tmp_path / name, name),
            *(f"--notifications={settings}", f"--metrics=127.0.0.1:{port}"),
        )
        for name, port in ports.items()
    )
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    first = told.get(timeout=30)
    assert first["title"] == "vipkeeper berlin: VirtualIP web moved"
    assert "Moved from nobody to node-a with term 1" in first["message"]
    count = 'vipkeeper_controller_notifications_total{result="ok",target="chat"} 1.0'
    eventually(lambda: sum(count in scrape(f"127.0.0.1:{port}") for port in ports.values()) == 1)
    for process in running:
        process.wait_for_output("The notification target broken is not used", patience_s=20)
        assert SECRET not in process.output()
        assert process.terminate() == 0
    assert told.empty(), "not even what was gathered last is told twice"
