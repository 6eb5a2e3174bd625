"""vipkeeper's own processes in a lab: a keeper and a courier on each node, controllers beside the API server.

They are the programs that a user runs, with the flags that a user gives and the rights that the chart
gives, each with folders of its own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.api import manifests_in
from lab.measuring import environment

if TYPE_CHECKING:
    from lab.cluster import Lab
    from lab.processes import Process
    from lab.topology import Host

RBAC = Path(__file__).parents[2] / "charts" / "vipkeeper" / "files" / "rbac.yaml"
NAMESPACE = "vipkeeper-system"
CONTROLLER_METRICS = 9945
KEEPER_METRICS = 9946
COURIER_METRICS = 9947


def start_keeper(node: Host, *, witness_only: bool = False) -> Process:
    """Start the keeper of a node; its state and its hooks are kept from one start to the next."""
    state, hooks = node.folder / "state", node.folder / "hooks"
    for folder in (state, hooks):
        folder.mkdir(mode=0o700, exist_ok=True)
    command: list[str | Path] = [
        *(sys.executable, "-m", "vipagent"),
        *("--node", node.name),
        *("--state-dir", state),
        *("--socket", _socket(node)),
        *("--hooks-dir", hooks),
        *("--metrics", f"127.0.0.1:{KEEPER_METRICS}"),
        *(["--witness-only"] if witness_only else []),
    ]
    return node.start(command, name="keeper", environment=environment())


def start_courier(lab: Lab, node: Host) -> Process:
    """Start the courier of a node."""
    command: list[str | Path] = [
        *(sys.executable, "-m", "vipcourier"),
        *("--node", node.name),
        *("--socket", _socket(node)),
        *("--namespace", NAMESPACE),
        *("--metrics", f"127.0.0.1:{COURIER_METRICS}"),
        *("--kubeconfig", lab.plane.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-courier")),
    ]
    return node.start(command, name="courier", environment=environment())


def start_controller(lab: Lab, replica: int) -> Process:
    """Start a replica of the controller; replicas are numbered from 1."""
    identity = f"controller-{replica}"
    command: list[str | Path] = [
        *(sys.executable, "-m", "vipcontroller"),
        *("--namespace", NAMESPACE),
        *("--identity", identity),
        *("--metrics", f"127.0.0.1:{CONTROLLER_METRICS + 10 * replica}"),
        *("--kubeconfig", lab.plane.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-controller")),
    ]
    return lab.host.start(command, name=identity, environment=environment())


@dataclass(slots=True, kw_only=True)
class Agents:
    """All of vipkeeper in a lab. A node's keeper and courier are found by the node's name."""

    lab: Lab
    keepers: dict[str, Process]
    couriers: dict[str, Process]
    controllers: list[Process]

    def restart(self, node: Host) -> None:
        """Start a node's keeper again, and its courier if that has ended too."""
        if not self.keepers[node.name].is_alive:
            self.keepers[node.name] = start_keeper(node)
        if not self.couriers[node.name].is_alive:
            self.couriers[node.name] = start_courier(self.lab, node)

    def restart_controllers(self) -> None:
        """Start every controller that has ended again, as a kubelet does."""
        for place, controller in enumerate(self.controllers):
            if not controller.is_alive:
                self.controllers[place] = start_controller(self.lab, place + 1)

    def everything(self) -> list[Process]:
        """Return every process."""
        return [*self.controllers, *self.keepers.values(), *self.couriers.values()]


def start_agents(lab: Lab, *, controllers: int = 2) -> Agents:
    """Start a keeper and a courier on every node, and the controllers, with the rights that the chart gives.

    None of them is waited for.
    """
    lab.plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for manifest in manifests_in(RBAC):
        lab.plane.api.apply(manifest)
    return Agents(
        lab=lab,
        controllers=[start_controller(lab, replica) for replica in range(1, controllers + 1)],
        keepers={node.name: start_keeper(node) for node in lab.nodes.values()},
        couriers={node.name: start_courier(lab, node) for node in lab.nodes.values()},
    )


def _socket(node: Host) -> Path:
    return node.folder / "keeper.sock"
