"""A lab, put together: a control plane, nodes, a client and a gateway, on one segment.

    with Lab(binaries, folder, nodes=3) as lab:
        lab.plane.kubectl("get", "nodes")
        lab.nodes["node-a"].start(...)
        lab.segment.cut(lab.nodes["node-a"])

The calling process must stand in an enclosure: the lab's API server listens on the segment with an
address of the caller's own network namespace.
"""

from __future__ import annotations

import os
import shutil
import string
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab import enclosure, kernelcalls, topology
from lab.api import manifests_in
from lab.controlplane import ControlPlane
from lab.faults import Faults
from lab.measuring import USUAL, Measurement, environment, start_responder
from lab.topology import Host, Segment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.binaries import Binaries
    from lab.measuring import Pace
    from lab.processes import Process

ROOT = Path(__file__).parents[2]
WEB_PORT = 8080


class Lab:
    """Everything of one lab; `close` or the end of a `with` block ends all of it."""

    def __init__(self, binaries: Binaries, folder: Path, *, nodes: int = 3) -> None:
        assert enclosure.is_entered(), "enter an enclosure first: the lab changes this process's network"
        self.folder = folder
        self.segment = Segment(folder)
        self.faults = Faults(self.segment)
        self.host = self.segment.add(topology.API_SERVER, topology.API, network=kernelcalls.current_network())
        self.gateway = self.segment.add("gateway", topology.GATEWAY)
        self.observer = self.segment.add("observer", topology.OBSERVER)
        self.client = self.segment.add("client", topology.CLIENT)
        self.nodes: dict[str, Host] = {}
        for index in range(nodes):
            name = (
                f"node-{string.ascii_lowercase[index]}"
                if nodes <= len(string.ascii_lowercase)
                else f"node-{index}"
            )
            self.nodes[name] = self.segment.add(name, topology.FIRST_NODE + index)
        self.plane = ControlPlane(binaries, folder / "control-plane", address=self.host.ipv4)
        self._measurements: list[Measurement] = []

    def start(self, *, defines_kinds: bool = True) -> None:
        """Start the control plane, apply the CRDs, register the nodes and let every host answer probes."""
        for host in (self.gateway, *self.nodes.values()):
            start_responder(host)
        self.plane.start()
        if defines_kinds:
            self.plane.api.apply_definitions(manifests_in(ROOT / "crds"))
        for index, node in enumerate(self.nodes.values()):
            self._register(node, zone=f"zone-{index + 1}")

    def _register(self, node: Host, *, zone: str) -> None:
        """Create the Node object that a kubelet would have made."""
        labels = {"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": zone, "role": "edge"}
        api = self.plane.api
        api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}})
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Lab",
            "message": "the lab's node is up",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        api.merge("v1", "Node", node.name, {"status": {"conditions": [ready]}}, subresource="/status")
        self.tell_addresses(node.name, node)

    def tell_addresses(self, name: str, host: Host) -> None:
        """Say that a node has a host's addresses, as the kubelet there would."""
        addresses = [{"type": "InternalIP", "address": address} for address in (host.ipv4, host.ipv6)]
        status = {"addresses": [*addresses, {"type": "Hostname", "address": name}]}
        self.plane.api.merge("v1", "Node", name, {"status": status}, subresource="/status")

    def measure(
        self, addresses: Mapping[str, str], *, name: str = "measured", pace: Pace = USUAL
    ) -> Measurement:
        """Start measuring addresses, given by label."""
        measurement = Measurement(
            segment=self.segment,
            folder=self.folder / name,
            addresses=addresses,
            nodes=list(self.nodes.values()),
            gateway=self.gateway,
            client=self.client,
            observer=self.observer,
            pace=pace,
        )
        self._measurements.append(measurement)
        measurement.start()
        return measurement

    def start_webserver(self, node: Host, *, port: int = WEB_PORT) -> Process:
        """Start an HTTP server on a node and wait until it serves; it answers with the node's name."""
        command = [sys.executable, "-m", "lab.webserver", node.name, str(port)]
        server = node.start(command, name="webserver", environment=environment())
        server.wait_for_output("serves on port", patience_s=20)
        return server

    def power_off(self, node: Host) -> None:
        """Take a node's carrier away and kill all that runs on it, as pulling its plug does."""
        self.segment.cut(node)
        node.kill_everything()

    def power_on(self, node: Host) -> None:
        """Boot a node that was powered off: its disk is as it was, its kernel remembers nothing."""
        self.segment.renew(node)
        start_responder(node)

    def add_twin(self, node: Host) -> Host:
        """Connect one more host, a clone of a node: a copy of its disk, with addresses of its own."""
        number = topology.FIRST_TWIN + len(self.segment.hosts)
        twin = self.segment.add(f"{node.name}-twin", number)
        shutil.copytree(node.folder / "state", twin.folder / "state")
        start_responder(twin)
        return twin

    def remove_twin(self, twin: Host) -> None:
        """Kill a clone and wipe its disk."""
        twin.kill_everything()
        self.segment.remove(twin)
        del self.segment.hosts[twin.name]
        os.close(twin.network)
        shutil.rmtree(twin.folder)

    def close(self) -> None:
        """End everything."""
        for measurement in self._measurements:
            measurement.stop()
        self.plane.stop()
        self.segment.remove(self.host)
        self.segment.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
