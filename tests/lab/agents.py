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
    from collections.abc import Collection

    from lab.cluster import Lab
    from lab.processes import Process
    from lab.topology import Host

RBAC = Path(__file__).parents[2] / "charts" / "vipkeeper" / "files" / "rbac.yaml"
NAMESPACE = "vipkeeper-system"
CONTROLLER_METRICS = 9945
KEEPER_METRICS = 9946
COURIER_METRICS = 9947


def start_keeper(
    host: Host,
    *,
    node: str = "",
    witness_only: bool = False,
    fence: str = "auto",
    health: int | None = None,
) -> Process:
    """Start the keeper of a host; its state and its hooks are kept from one start to the next.

    It is called as the host, or `node`; `fence` is what it keeps addresses silent with, `health` the port
    of its /readyz.
    """
    state, hooks = host.folder / "state", host.folder / "hooks"
    for folder in (state, hooks):
        folder.mkdir(mode=0o700, exist_ok=True)
    command: list[str | Path] = [
        *(sys.executable, "-m", "vipagent"),
        *("--node", node or host.name),
        *("--state-dir", state),
        *("--socket", _socket(host)),
        *("--hooks-dir", hooks),
        *("--metrics", f"127.0.0.1:{KEEPER_METRICS}"),
        *("--fence-backend", fence),
        *(["--witness-only"] if witness_only else []),
        *_health(health),
    ]
    return host.start(command, name="keeper", environment=environment())


def start_courier(lab: Lab, host: Host, *, node: str = "", health: int | None = None) -> Process:
    """Start the courier of a host.

    It is called as the host, or `node`; `health` is the port of its /readyz.
    """
    command: list[str | Path] = [
        *(sys.executable, "-m", "vipcourier"),
        *("--node", node or host.name),
        *("--socket", _socket(host)),
        *("--namespace", NAMESPACE),
        *("--metrics", f"127.0.0.1:{COURIER_METRICS}"),
        *("--kubeconfig", lab.plane.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-courier")),
        *_health(health),
    ]
    return host.start(command, name="courier", environment=environment())


def start_controller(
    lab: Lab, replica: int, *, notifications: Path | None = None, health: int | None = None
) -> Process:
    """Start a replica of the controller; replicas are numbered from 1.

    `notifications` is the file that says who is notified, `health` the port of its /readyz.
    """
    identity = f"controller-{replica}"
    command: list[str | Path] = [
        *(sys.executable, "-m", "vipcontroller"),
        *("--namespace", NAMESPACE),
        *("--identity", identity),
        *("--metrics", f"127.0.0.1:{CONTROLLER_METRICS + 10 * replica}"),
        *("--kubeconfig", lab.plane.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-controller")),
        *(["--notifications", str(notifications)] if notifications else []),
        *_health(health),
    ]
    return lab.host.start(command, name=identity, environment=environment())


@dataclass(slots=True, kw_only=True)
class Agents:
    """All of vipkeeper in a lab. A node's keeper and courier are found by the node's name."""

    lab: Lab
    keepers: dict[str, Process]
    couriers: dict[str, Process]
    controllers: list[Process]
    witness_only: frozenset[str] = frozenset()
    notifications: Path | None = None
    fence: str = "auto"

    def restart(self, node: Host) -> None:
        """Start a node's keeper again, and its courier if that has ended too."""
        if not self.keepers[node.name].is_alive:
            self.keepers[node.name] = start_keeper(
                node, witness_only=node.name in self.witness_only, fence=self.fence
            )
        if not self.couriers[node.name].is_alive:
            self.couriers[node.name] = start_courier(self.lab, node)

    def stop_controllers(self) -> None:
        """Kill -9 every controller; nothing starts them again until `restart_controllers`."""
        for controller in self.controllers:
            controller.kill()

    def restart_controllers(self) -> None:
        """Start every controller that has ended again, as a kubelet does."""
        for place, controller in enumerate(self.controllers):
            if not controller.is_alive:
                self.controllers[place] = start_controller(
                    self.lab, place + 1, notifications=self.notifications
                )

    def everything(self) -> list[Process]:
        """Return every process."""
        return [*self.controllers, *self.keepers.values(), *self.couriers.values()]


def start_agents(
    lab: Lab,
    *,
    controllers: int = 2,
    witness_only: Collection[str] = (),
    notifications: Path | None = None,
    fence: str = "auto",
) -> Agents:
    """Start a keeper and a courier on every node, and the controllers, with the rights that the chart gives.

    None of them is waited for. The keepers of the nodes named in `witness_only` are so from the beginning;
    all keep addresses silent with `fence`.
    """
    lab.plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for manifest in manifests_in(RBAC):
        lab.plane.api.apply(manifest)
    return Agents(
        lab=lab,
        controllers=[
            start_controller(lab, replica, notifications=notifications)
            for replica in range(1, controllers + 1)
        ],
        keepers={
            node.name: start_keeper(node, witness_only=node.name in witness_only, fence=fence)
            for node in lab.nodes.values()
        },
        couriers={node.name: start_courier(lab, node) for node in lab.nodes.values()},
        witness_only=frozenset(witness_only),
        notifications=notifications,
        fence=fence,
    )


def _health(port: int | None) -> list[str]:
    return [] if port is None else ["--health", f"127.0.0.1:{port}"]


def _socket(host: Host) -> Path:
    return host.folder / "keeper.sock"
