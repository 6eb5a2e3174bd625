"""Controller processes under test, each under exactly the RBAC rules that are shipped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apiserver.fleet import API_VERSION, Fleet, condition
from lab import kernelcalls, processes
from lab.api import manifests_in
from lab.controlplane import free_ports

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]
NAMESPACE = "vipkeeper-system"
Object = dict[str, Any]

PREFER_A = [
    {"nodeName": "node-a", "priority": 150},
    {"nodeName": "node-b"},
    {"nodeName": "node-c", "priority": 90},
]


def admit(control_plane: ControlPlane) -> Path:
    """Apply the RBAC rules and return the controller's own kubeconfig."""
    kubeconfig = control_plane.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-controller")
    for manifest in manifests_in(ROOT / "charts" / "vipkeeper" / "files" / "rbac.yaml"):
        control_plane.api.apply(manifest)
    return kubeconfig


def launch(kubeconfig: Path, log: Path, identity: str = "one", *options: str) -> processes.Process:
    """Start a replica in the network namespace of the caller."""
    return processes.start(
        [
            *(sys.executable, "-m", "vipcontroller"),
            *(f"--namespace={NAMESPACE}", f"--identity={identity}"),
            *(f"--metrics=127.0.0.1:{free_ports().api}", f"--kubeconfig={kubeconfig}"),
            *options,
        ],
        name=f"controller-{identity}",
        network=kernelcalls.current_network(),
        log=log,
    )


def end(process: processes.Process) -> None:
    """Stop a replica and show what it said, should the test fail."""
    process.terminate()
    print(process.output())  # noqa: T201


def make(fleet: Fleet, name: str, **spec: Any) -> Object:
    spec.setdefault("addresses", ["192.0.2.10/24"])
    body = {"apiVersion": API_VERSION, "kind": "VirtualIP", "metadata": {"name": name}, "spec": spec}
    return fleet.api.apply(body)


def follow(fleet: Fleet, name: str, virtual_ip: str, *, namespace: str) -> Object:
    """Make a ServiceFailover of one service on node-a, for which node-b stands by."""
    fleet.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    service = {
        "name": "app",
        "virtualIPRef": {"name": virtual_ip},
        "primary": "node-a",
        "standbys": ["node-b"],
        "workload": {"systemd": {"unit": "app.service"}},
    }
    return fleet.api.apply(
        {
            "apiVersion": API_VERSION,
            "kind": "ServiceFailover",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"mode": "ActiveStandby", "services": [service]},
        }
    )


def move(fleet: Fleet, name: str, virtual_ip: str, to: str, **more: Any) -> None:
    spec = {"virtualIPRef": {"name": virtual_ip}, "to": to, **more}
    body = {"apiVersion": API_VERSION, "kind": "Switchover", "metadata": {"name": name}, "spec": spec}
    fleet.api.apply(body)


def ended(fleet: Fleet, name: str, how: str) -> Object | None:
    """Return the Switchover if it has ended so."""
    found = fleet.api.get(API_VERSION, "Switchover", name)
    return found if condition(found, how).get("status") == "True" else None


def steady(fleet: Fleet, name: str) -> Object | None:
    """Return the Switchover if it is a drill that has arrived."""
    found = fleet.api.get(API_VERSION, "Switchover", name)
    return found if condition(found, "Steady") else None


def told(fleet: Fleet, name: str, kind: str) -> Object | None:
    """Return the VirtualIP if it has the condition at all."""
    found = fleet.virtual_ip(name)
    return found if condition(found, kind) else None


def is_ready(fleet: Fleet, name: str) -> bool:
    return bool(condition(fleet.virtual_ip(name), "Ready").get("status") == "True")


def notes(fleet: Fleet, reason: str, *, namespace: str = "default") -> list[str]:
    events = fleet.api.list("events.k8s.io/v1", "Event", namespace=namespace)
    return [event["note"] for event in events if event["reason"] == reason]
