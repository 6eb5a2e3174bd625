"""A second network, beside the segment: what nodes have behind their other interface, `eth1`.

A bridge in a namespace of its own, with a port for each host that is connected, and a database server. No
virtual address is ever there, and nothing goes from here to the segment. The API server can be reached by
both networks, so that what a node loses with the one is that network only.
"""

from __future__ import annotations

import ipaddress
import os
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from lab import kernelcalls, topology
from lab.topology import Host

if TYPE_CHECKING:
    from lab.cluster import Lab

INTERFACE = "eth1"
BRIDGE = "backbone"
NETWORK = ipaddress.IPv4Network("203.0.113.0/24")
DATABASE = 50
PORT = 5432


class DatabaseNetwork:
    """The network and the database on it; `close` takes both away again."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._network = kernelcalls.new_network()
        self.database = Host(
            name="database",
            number=DATABASE,
            network=kernelcalls.new_network(),
            folder=lab.folder / "database",
        )

    def start(self) -> None:
        """Start the database and connect it, the API server and all nodes."""
        self.database.folder.mkdir()
        with kernelcalls.entered(self._network), IPRoute() as netlink:
            netlink.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_mcast_snooping=0)
            [bridge] = netlink.link_lookup(ifname=BRIDGE)
            netlink.link("set", index=bridge, state="up")
        for host in (self._lab.host, self.database, *self._lab.nodes.values()):
            self._connect(host)
        for node in self._lab.nodes.values():
            self._reach_api_server_from(node)
        self._lab.start_webserver(self.database, port=PORT)

    @property
    def address(self) -> str:
        """Where the database is."""
        return str(NETWORK[DATABASE])

    def cut(self, host: Host) -> None:
        """Take the carrier of a host's second interface away."""
        self._set_port(host, "down")

    def mend(self, host: Host) -> None:
        """Give it back."""
        self._set_port(host, "up")

    def close(self) -> None:
        """End the database and unplug everybody."""
        self.database.kill_everything()
        with kernelcalls.entered(self._network), IPRoute() as netlink:
            netlink.link("del", ifname=self._lab.host.name)
        for descriptor in (self._network, self.database.network):
            os.close(descriptor)

    def _connect(self, host: Host) -> None:
        with kernelcalls.entered(self._network), IPRoute() as netlink:
            peer = {"ifname": INTERFACE, "net_ns_fd": host.network}
            netlink.link("add", ifname=host.name, kind="veth", peer=peer)
            [bridge] = netlink.link_lookup(ifname=BRIDGE)
            [port] = netlink.link_lookup(ifname=host.name)
            netlink.link("set", index=port, master=bridge, state="up")
        with kernelcalls.entered(host.network), IPRoute() as netlink:
            [eth1] = netlink.link_lookup(ifname=INTERFACE)
            netlink.link("set", index=eth1, state="up")
            netlink.addr("add", index=eth1, address=str(NETWORK[host.number]), prefixlen=NETWORK.prefixlen)

    def _reach_api_server_from(self, node: Host) -> None:
        with kernelcalls.entered(node.network), IPRoute() as netlink:
            [eth1] = netlink.link_lookup(ifname=INTERFACE)
            netlink.route(
                "add",
                dst=f"{topology.IPV4[topology.API]}/32",
                oif=eth1,
                scope="link",
                prefsrc=str(NETWORK[node.number]),
            )

    def _set_port(self, host: Host, state: str) -> None:
        with kernelcalls.entered(self._network), IPRoute() as netlink:
            [port] = netlink.link_lookup(ifname=host.name)
            netlink.link("set", index=port, state=state)
