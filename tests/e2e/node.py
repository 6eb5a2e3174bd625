"""A node of the cluster: a machine (`e2e.machine`) with a containerd, a kubelet and a kube-proxy of its own.

    folder/var            its /var, which outlives a reboot: images, pods' volumes, logs
    folder/node           what it is configured with
    folder/*.log          what its programs told

Pods that are not on the host's network get an address of `PODS`, of which each node has a part, from Debian's
CNI plugins `ptp` and `host-local`. The other nodes and the API server's host have a route to each part, so
nothing is masqueraded.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pyroute2 import IPRoute

from e2e import machine
from e2e.images import PAUSE
from lab import kernelcalls, processes, topology
from lab.measuring import environment

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterable, Mapping

    from lab.binaries import ClusterPrograms
    from lab.processes import Process
    from lab.topology import Host

PODS = ipaddress.IPv4Network("203.0.113.0/24")
PART = 27
CLUSTER_RANGE = "198.51.100.0/24"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CNI_PLUGINS = "/usr/lib/cni"
UP_S = 60
IMPORT_S = 120


def pods_of(host: Host) -> ipaddress.IPv4Network:
    """Return the part of `PODS` that a node's pods get their addresses from."""
    return list(PODS.subnets(new_prefix=PART))[host.number - topology.FIRST_NODE]


@dataclass(slots=True, eq=False)
class Node:
    """A host's machine and what runs on it; `labels` are those that its kubelet registers it with."""

    host: Host
    programs: ClusterPrograms
    kubeconfig: Path
    proxy_kubeconfig: Path
    cgroup: str
    labels: Mapping[str, str]
    machine: Process | None = None
    containerd: Process | None = None
    kubelet: Process | None = None
    proxy: Process | None = None
    _inside: int = 0

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def var(self) -> Path:
        """The node's /var, as the lab sees it."""
        return self.host.folder / "var"

    @property
    def store(self) -> Path:
        """Where the node's containerd keeps images and containers."""
        return self.var / "lib" / "containerd"

    def boot(self) -> None:
        """Start the machine and containerd, and wait until containerd answers. Images are as they were."""
        log = self.host.folder / "machine.log"
        log.unlink(missing_ok=True)
        command: list[str | Path] = [sys.executable, "-m", "e2e.machine", self.name, self.host.folder]
        self.machine = self.host.start(command, name="machine", environment=environment())
        self.machine.wait_for_output(machine.IS_UP, patience_s=UP_S)
        found = re.search(rf"{machine.IS_UP} (\d+)", self.machine.output())
        assert found
        self._inside = int(found[1])
        with kernelcalls.entered(self.host.network):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self.start_containerd()

    def start_containerd(self) -> None:
        """Start containerd; the containers that run go on."""
        folder = self.host.folder / "node"
        (folder / "cni").mkdir(parents=True, exist_ok=True)
        (folder / "cni" / "10-lab.conflist").write_text(json.dumps(_network(self.host), indent=1))
        config = folder / "containerd.toml"
        config.write_text(_containerd_config(folder / "cni"))
        self.containerd = self.start("containerd", ["containerd", "--config", config])
        deadline = time.monotonic() + UP_S
        while self._run(["ctr", "version"], name="ctr", patience_s=UP_S).child.returncode != 0:
            if not self.containerd.is_alive or time.monotonic() > deadline:
                raise processes.ProcessFailedError(self.containerd, "does not answer")
            time.sleep(0.1)

    def stop_containerd(self) -> None:
        """End containerd; the containers that run go on."""
        if self.containerd is not None:
            self.containerd.terminate()

    def halt(self) -> None:
        """End everything that runs on the machine, at once."""
        if self.machine is not None:
            self.machine.kill()

    def start_kubelet(self) -> None:
        """Start the kubelet; does not wait until the node is Ready."""
        (self.var / "lib" / "kubelet" / "manifests").mkdir(parents=True, exist_ok=True)
        config = self.host.folder / "node" / "kubelet.yaml"
        config.write_text(yaml.safe_dump(_kubelet_config(self.cgroup)))
        labels = ",".join(f"{name}={value}" for name, value in self.labels.items())
        command: list[str | Path] = [
            self.programs.kubelet,
            f"--config={config}",
            f"--kubeconfig={self.kubeconfig}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.host.ipv4}",
            f"--node-labels={labels}",
            "--v=2",
        ]
        self.kubelet = self.start("kubelet", command)

    def stop_kubelet(self) -> None:
        """Kill -9 the kubelet; its pods go on."""
        if self.kubelet is not None:
            self.kubelet.kill()

    def start_proxy(self) -> None:
        """Start kube-proxy, which makes Services' addresses work on the node and in its pods."""
        config = self.host.folder / "node" / "proxy.yaml"
        config.write_text(yaml.safe_dump(_proxy_config(self.name, self.proxy_kubeconfig)))
        self.proxy = self.start("kube-proxy", [self.programs.kube_proxy, f"--config={config}"])

    def load(self, archives: Iterable[Path]) -> None:
        """Put the images of OCI archives into the node's store."""
        for archive in archives:
            self.ctr("images", "import", archive, patience_s=IMPORT_S)

    def start(self, name: str, command: list[str | Path]) -> Process:
        """Start a command in the machine's namespaces."""
        inside = ["nsenter", f"--target={self._inside}", "--mount", "--pid", "--uts", "--ipc", "--"]
        return self.host.start([*inside, *command], name=name)

    def ctr(self, *arguments: str | Path, patience_s: float = UP_S) -> str:
        """Run `ctr` on what Kubernetes has in the node's containerd and return what it printed.

        Raises `ProcessFailedError`.
        """
        command: list[str | Path] = ["ctr", "--namespace=k8s.io", *arguments]
        process = self._run(command, name="ctr", patience_s=patience_s)
        if process.child.returncode != 0:
            raise processes.ProcessFailedError(process, f"ended with {process.child.returncode}")
        return process.output()

    def processes_of(self, program: str) -> list[int]:
        """Return the numbers of the node's processes one of whose arguments ends in a name, oldest first."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                is_here = (entry / "ns" / "net").stat().st_ino == os.fstat(self.host.network).st_ino
                if is_here and any(word.decode(errors="replace").endswith(f"/{program}") for word in words):
                    found.append(int(entry.name))
        return sorted(found)

    def signal(self, program: str, number: signal.Signals) -> None:
        """Send a signal to a program that runs in one of the node's containers."""
        found = self.processes_of(program)
        assert found, f"no {program} runs on {self.name}"
        for each in found:
            os.kill(each, number)

    def _run(self, command: list[str | Path], *, name: str, patience_s: float) -> Process:
        (self.host.folder / f"{name}.log").unlink(missing_ok=True)
        process = self.start(name, command)
        process.wait(patience_s)
        return process


def copy_store(source: Path, target: Path) -> None:
    """Copy a store of images that no containerd uses; what never changes in it is linked."""
    target.mkdir(parents=True)
    subprocess.run(["/bin/cp", "--archive", "--link", f"{source}/.", target], check=True)
    for database in target.rglob("*.db"):
        content = database.read_bytes()
        database.unlink()
        database.write_bytes(content)


def route_pods(hosts: Iterable[Host], nodes: Iterable[Host]) -> None:
    """Tell hosts the way to the pods of all nodes."""
    for host in hosts:
        with kernelcalls.entered(host.network), IPRoute() as netlink:
            for node in nodes:
                if node is not host:
                    netlink.route("replace", dst=str(pods_of(node)), gateway=node.ipv4)


def _network(host: Host) -> dict[str, Any]:
    ranges = [[{"subnet": str(pods_of(host))}]]
    addresses = {"type": "host-local", "dataDir": "/run/cni", "ranges": ranges}
    routed = {**addresses, "routes": [{"dst": "0.0.0.0/0"}]}
    plugins = [{"type": "ptp", "ipMasq": False, "ipam": routed}]
    return {"cniVersion": "1.0.0", "name": "lab", "plugins": plugins}


def _containerd_config(cni: Path) -> str:
    # Without CAP_SYS_RESOURCE, which containers on build machines lack, no sandbox could lower its
    # oom_score_adj; that is what the one unusual setting is for.
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{cni}"
"""


def _kubelet_config(cgroup: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        # The API server has no client certificate here, and nobody else is on this network.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "protectKernelDefaults": True,
        "oomScoreAdj": 0,
        "resolvConf": "",
        "staticPodPath": "/var/lib/kubelet/manifests",
        "nodeStatusUpdateFrequency": "2s",
        "nodeLeaseDurationSeconds": 8,
        "maxPods": 20,
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "shutdownGracePeriod": "0s",
    }


def _proxy_config(name: str, kubeconfig: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": name,
        "clusterCIDR": str(PODS),
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"syncPeriod": "10s", "minSyncPeriod": "0s"},
        "oomScoreAdj": 0,
    }
