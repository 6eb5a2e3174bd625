"""A cluster, put together: the lab's hosts, a whole control plane, and kubelets on the nodes.

    with Cluster(programs, folder, nodes=3) as cluster:
        cluster.plane.kubectl("get", "nodes")
        cluster.helm("install", ...)
        cluster.machines["node-a"].stop_kubelet()
        cluster.power_off(cluster.nodes["node-a"])

The calling process must stand in an enclosure, with which every process and every mount of the cluster ends.
Its cgroups end with the cluster; what a killed one has left is removed by the next. One at a time runs on a
machine, for it needs all of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import string
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.node import CLUSTER_RANGE, Node, copy_store, route_pods
from lab import processes, topology
from lab.cluster import Lab
from lab.controlplane import ControlPlane
from lab.measuring import start_responder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lab.binaries import Binaries, ClusterPrograms
    from lab.processes import Process
    from lab.topology import Host

MOST_NODES = 6
SPARE = [f"node-{letter}" for letter in string.ascii_lowercase[:MOST_NODES]]
CONTROLLERS = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
PROXY = "system:kube-proxy"
CGROUPS = "vipkeeper-e2e"
LOCK = Path(tempfile.gettempdir()) / "vipkeeper-e2e.lock"
NODE_IS_LOST_AFTER_S = 40
READY_S = 90
HELM_S = 180
CGROUPS_EMPTY_S = 10
INHERITED = ("cpuset.cpus", "cpuset.mems")  # empty in a new cgroup of version 1
# All pods of a node together would have as much of a busy processor as a single process outside of them.
SHARES = {"cpu.shares": "16384", "cpu.weight": "1600"}


class NotSoError(Exception):
    """The cluster did not become what was waited for; the message says what that was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Everything that a cluster is made of, and the archives of the images that every node has."""

    plane: Binaries
    cluster: ClusterPrograms
    helm: Path
    archives: Sequence[Path]


class Cluster(Lab):
    """Everything of one cluster; `machines` are its nodes' machines by their names."""

    def __init__(self, programs: Programs, folder: Path, *, nodes: int = 3) -> None:
        super().__init__(programs.plane, folder, nodes=nodes)
        self.programs = programs
        self.machines: dict[str, Node] = {}
        self.controllers: list[Process] = []
        self._store = folder / "store"
        self._lock = LOCK.open("w")
        self._cgroup = f"{CGROUPS}-{os.getpid()}-{time.monotonic_ns()}"
        self.plane = ControlPlane(
            programs.plane,
            folder / "control-plane",
            address=self.host.ipv4,
            users={CONTROLLERS: "", SCHEDULER: "", PROXY: ""}
            | {f"system:node:{name}": "system:nodes" for name in SPARE},
            settings={
                "authorization-mode": "Node,RBAC",
                "enable-admission-plugins": "NodeRestriction",
                "endpoint-reconciler-type": "lease",
                "service-cluster-ip-range": CLUSTER_RANGE,
            },
        )

    def start(self, *, defines_kinds: bool = False) -> None:
        """Start the control plane and all nodes, and wait until they are Ready; nothing is installed."""
        assert not defines_kinds, "the chart brings the kinds"
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as refusal:
            raise NotSoError(f"another cluster runs on this machine: {LOCK} is locked") from refusal
        _remove_cgroups(f"{CGROUPS}-*")
        start_responder(self.gateway)
        self.plane.start()
        self.start_controllers()
        for host in self.nodes.values():
            start_responder(host)
            self.machines[host.name] = self._machine(host)
        self._unpack_images(next(iter(self.machines.values())))
        with ThreadPoolExecutor() as boots:
            list(boots.map(self._boot, self.machines.values()))
        self._route()
        for name in self.nodes:
            self.machines[name].start_kubelet()
        for name in self.nodes:
            self.await_node(name)

    def start_controllers(self) -> None:
        """Start the controller manager and the scheduler."""
        key, authority = self.plane.service_account_key, self.plane.authority
        found = self.programs.cluster
        commands: dict[str, list[str | Path]] = {
            "kube-controller-manager": [
                found.kube_controller_manager,
                f"--kubeconfig={self.plane.kubeconfig_of_user(CONTROLLERS)}",
                f"--service-account-private-key-file={key}",
                f"--root-ca-file={authority}",
                "--use-service-account-credentials=true",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                f"--node-monitor-grace-period={NODE_IS_LOST_AFTER_S}s",
                "--node-monitor-period=1s",
                f"--cert-dir={self.folder / 'kube-controller-manager'}",
            ],
            "kube-scheduler": [
                found.kube_scheduler,
                f"--kubeconfig={self.plane.kubeconfig_of_user(SCHEDULER)}",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ],
        }
        self.controllers = [self.host.start(command, name=name) for name, command in commands.items()]

    def add_node(self) -> Host:
        """Add a node to the cluster, and wait until it is Ready."""
        name = next(each for each in SPARE if each not in self.segment.hosts)
        host = self.segment.add(name, topology.FIRST_NODE + SPARE.index(name))
        self.nodes[name] = host
        start_responder(host)
        self.machines[name] = self._machine(host)
        self._boot(self.machines[name])
        self._route()
        self.machines[name].start_kubelet()
        self.await_node(name)
        return host

    def remove_node(self, host: Host) -> None:
        """Power a node off for good, and delete its Node object as an administrator does."""
        super().power_off(host)
        self.plane.kubectl("delete", "node", host.name)
        del self.nodes[host.name], self.machines[host.name]

    def power_on(self, node: Host) -> None:
        """Boot a node that was powered off; the kubelet starts what ran there."""
        super().power_on(node)
        machine = self.machines[node.name]
        machine.boot()
        self._route()
        machine.start_kubelet()
        machine.start_proxy()

    def load(self, archives: Iterable[Path]) -> None:
        """Put images into every node's store."""
        found = list(archives)
        with ThreadPoolExecutor() as loads:
            list(loads.map(lambda machine: machine.load(found), self.machines.values()))

    def helm(self, *arguments: str | Path, patience_s: float = HELM_S) -> str:
        """Run helm as the administrator and return what it printed; raises `ProcessFailedError`."""
        log = self.folder / "helm" / f"{time.monotonic_ns()}.log"
        process = processes.start(
            [self.programs.helm, *arguments],
            name=f"helm {arguments[0]}",
            network=self.host.network,
            log=log,
            environment={"KUBECONFIG": str(self.plane.kubeconfig), "HOME": str(self.folder)},
        )
        if process.wait(patience_s) != 0:
            raise processes.ProcessFailedError(process, f"ended with {process.child.returncode}")
        return process.output()

    def await_node(self, name: str, *, patience_s: float = READY_S) -> None:
        """Wait until a node is Ready."""
        self.wait_until(f"{name} Ready", lambda: self.is_ready(name), patience_s=patience_s)

    def is_ready(self, name: str) -> bool:
        """Tell whether a node is Ready, as the API server has it."""
        for node in self.plane.api.list("v1", "Node"):
            if node["metadata"]["name"] == name:
                conditions = node.get("status", {}).get("conditions", [])
                return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        return False

    def wait_until(self, what: str, is_so: Callable[[], bool], *, patience_s: float = 60) -> float:
        """Wait for something to become true and return how long that took, in seconds."""
        started = time.monotonic()
        while not is_so():
            if time.monotonic() - started > patience_s:
                raise NotSoError(f"waited {patience_s} s for {what}, in vain")
            time.sleep(0.1)
        return time.monotonic() - started

    def close(self) -> None:
        """End everything."""
        for process in self.controllers:
            process.kill()
        super().close()
        _remove_cgroups(self._cgroup, patience_s=CGROUPS_EMPTY_S)
        self._lock.close()

    def left_behind(self) -> list[Path]:
        """Return what is still there of a cluster that was closed: cgroups, and mounts in this namespace."""
        cgroups = [each for root in _hierarchies() for each in root.glob(self._cgroup)]
        mounts = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
        return [*cgroups, *(each for each in mounts if each.is_relative_to(self.folder))]

    def _unpack_images(self, machine: Node) -> None:
        """Have one node unpack the images, and keep what it made of them for all."""
        machine.boot()
        machine.load(self.programs.archives)
        machine.stop_containerd()
        copy_store(machine.store, self._store)
        machine.halt()

    def _boot(self, machine: Node) -> None:
        if not machine.store.exists():
            copy_store(self._store, machine.store)
        machine.boot()
        machine.start_proxy()

    def _machine(self, host: Host) -> Node:
        zone = f"zone-{host.number - topology.FIRST_NODE + 1}"
        cgroup = f"/{self._cgroup}/{host.name}"
        _make_cgroups(cgroup)
        return Node(
            host=host,
            programs=self.programs.cluster,
            kubeconfig=self.plane.kubeconfig_of_user(f"system:node:{host.name}"),
            proxy_kubeconfig=self.plane.kubeconfig_of_user(PROXY),
            cgroup=cgroup,
            labels={"role": "edge", "topology.kubernetes.io/zone": zone},
        )

    def _route(self) -> None:
        nodes = list(self.nodes.values())
        route_pods([self.host, *nodes], nodes)


def _hierarchies() -> list[Path]:
    """Return where the machine's cgroups are mounted: one tree of version 2, or those of version 1."""
    found = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    version_2 = [Path(where) for _, where, kind, *_ in found if kind == "cgroup2"]
    version_1 = [Path(where) for _, where, kind, *_ in found if kind == "cgroup"]
    return version_1 + version_2


def _make_cgroups(path: str) -> None:
    for root in _hierarchies():
        made = root
        for name in path.strip("/").split("/"):
            above, made = made, made / name
            if (above / "cgroup.subtree_control").exists():
                controllers = (above / "cgroup.controllers").read_text().split()
                (above / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in controllers))
            made.mkdir(exist_ok=True)
            for setting in INHERITED:
                if (made / setting).exists() and (root / "cpuset.cpu_exclusive").exists():
                    (made / setting).write_text((above / setting).read_text())
            for setting, value in SHARES.items():
                if (made / setting).exists():
                    (made / setting).write_text(value)


def _remove_cgroups(pattern: str, *, patience_s: float = 0) -> None:
    """Remove the cgroups whose names are so; what was killed a moment ago may still be in them."""
    deadline = time.monotonic() + patience_s
    while True:
        left = [each for root in _hierarchies() for each in root.glob(pattern) if not _is_removed(each)]
        if not left or time.monotonic() >= deadline:
            return
        time.sleep(0.1)


def _is_removed(cgroup: Path) -> bool:
    """Remove a cgroup with all below it, as far as they are empty, and tell whether nothing is left."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
    return not cgroup.exists()
