"""The lab's network: hosts (network namespaces) with a veth each into one bridge, which stands in its own.

    client ─┐
    gateway ┤
    observer┤
    api ────┤ bridge "segment"     192.0.2.0/24 and 2001:db8::/64
    node-a ─┤
    node-b ─┘

Each port of the bridge has the name of the host behind it, and each host's end is `eth0`. "api" is the
enclosure's own namespace, where the API server and the lab run. "observer" asks nodes directly
(`inquirer`); all others know its MAC address beforehand, for a node that had to ask for it would, by
asking from a virtual address, tell everybody where that address is, and the lab would heal what it
measures. MAC addresses are fixed and say who is who, so that a capture on the bridge names the sender of
every frame.

Ports go down with or without the host noticing: `cut` takes the carrier away, as a pulled cable does;
`faults` drops frames while the link stays up, as a broken switch does.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from lab import kernelcalls
from lab.processes import Process, ProcessFailedError, start

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BRIDGE = "segment"
IPV4 = ipaddress.IPv4Network("192.0.2.0/24")
IPV6 = ipaddress.IPv6Network("2001:db8::/64")
GATEWAY = 1
API = 2
OBSERVER = 8
CLIENT = 9
FIRST_NODE = 101
FIRST_TWIN = 201
API_SERVER = "api"
IFA_F_NODAD = 2


def _mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


@dataclass(slots=True, eq=False)
class Host:
    """A network namespace on the segment; `number` ends its addresses and its MAC address.

    What is started here has `environment` in its own.
    """

    name: str
    number: int
    network: int
    folder: Path
    processes: list[Process] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def ipv4(self) -> str:
        return str(IPV4[self.number])

    @property
    def ipv6(self) -> str:
        return str(IPV6[self.number])

    @property
    def mac(self) -> str:
        return _mac(self.number)

    def start(
        self,
        command: Sequence[str | Path],
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> Process:
        """Start a command on this host; its output goes to `<name>.log` in the host's folder."""
        process = start(
            command,
            name=f"{self.name}/{name}",
            network=self.network,
            log=self.folder / f"{name}.log",
            environment={**self.environment, **(environment or {})},
            descriptors=descriptors,
        )
        self.processes.append(process)
        return process

    def run(self, *command: str | Path, patience_s: float = 20) -> str:
        """Run a command on this host to its end and return its output; raises `ProcessFailedError`."""
        process = self.start(command, name=f"run-{len(self.processes)}-{Path(command[0]).name}")
        if process.wait(patience_s) != 0:
            raise ProcessFailedError(process, f"ended with {process.child.returncode}")
        return process.output()

    def addresses(self) -> set[str]:
        """Return what the kernel has on eth0 now, as `address/prefix`, link-local ones left out."""
        with kernelcalls.entered(self.network), IPRoute() as netlink:
            [eth0] = netlink.link_lookup(ifname="eth0")
            found = {
                f"{message.get_attr('IFA_LOCAL') or message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"
                for message in netlink.get_addr(index=eth0)
            }
        return {each for each in found if not each.startswith("fe80:")}

    def kill_everything(self) -> None:
        """Kill -9 all that was started on this host."""
        for process in self.processes:
            process.kill()


class Segment:
    """The bridge and the hosts on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self.network = kernelcalls.new_network()
        with kernelcalls.entered(self.network), IPRoute() as netlink:
            netlink.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_mcast_snooping=0)
            [bridge] = netlink.link_lookup(ifname=BRIDGE)
            netlink.link("set", index=bridge, state="up")

    def add(self, name: str, number: int, *, network: int | None = None) -> Host:
        """Connect a host, in a new network namespace or in a given one."""
        host = Host(
            name=name,
            number=number,
            network=kernelcalls.new_network() if network is None else network,
            folder=self.folder / name,
        )
        host.folder.mkdir(parents=True, exist_ok=True)
        self._plug_in(host)
        self.hosts[name] = host
        return host

    def renew(self, host: Host) -> None:
        """Give a host a new namespace and its old folder: an empty kernel, as after it was switched on."""
        self.remove(host)
        os.close(host.network)
        host.network = kernelcalls.new_network()
        self._plug_in(host)

    def _plug_in(self, host: Host) -> None:
        with kernelcalls.entered(self.network), IPRoute() as netlink:
            peer = {"ifname": "eth0", "net_ns_fd": host.network, "address": host.mac}
            netlink.link("add", ifname=host.name, kind="veth", peer=peer)
            [bridge] = netlink.link_lookup(ifname=BRIDGE)
            [port] = netlink.link_lookup(ifname=host.name)
            netlink.link("set", index=port, master=bridge, state="up")
        with kernelcalls.entered(host.network):
            # A fresh address must be usable at once, and there is no router to listen to.
            for setting, value in (("accept_dad", "0"), ("accept_ra", "0"), ("dad_transmits", "0")):
                Path(f"/proc/sys/net/ipv6/conf/eth0/{setting}").write_text(value)
            with IPRoute() as netlink:
                [eth0] = netlink.link_lookup(ifname="eth0")
                netlink.link("set", index=eth0, state="up")
                netlink.addr("add", index=eth0, address=host.ipv4, prefixlen=IPV4.prefixlen)
                netlink.addr(
                    "add", index=eth0, address=host.ipv6, prefixlen=IPV6.prefixlen, flags=IFA_F_NODAD
                )
                if host.number != OBSERVER:
                    for address in (IPV4[OBSERVER], IPV6[OBSERVER]):
                        netlink.neigh(
                            "add",
                            dst=str(address),
                            lladdr=_mac(OBSERVER),
                            ifindex=eth0,
                            state="permanent",
                        )
                if host.number != GATEWAY:
                    netlink.route("add", dst="default", gateway=str(IPV4[GATEWAY]))

    def cut(self, host: Host) -> None:
        """Take the host's carrier away, as pulling its cable does."""
        self._set_port(host, "down")

    def mend(self, host: Host) -> None:
        """Give the host its carrier back."""
        self._set_port(host, "up")

    def remove(self, host: Host) -> None:
        """Unplug a host for good, so that its namespace, if it lives on, has no trace of the segment."""
        with kernelcalls.entered(self.network), IPRoute() as netlink:
            netlink.link("del", ifname=host.name)

    def close(self) -> None:
        """Kill every process on the segment and let its namespaces go."""
        for host in self.hosts.values():
            host.kill_everything()
        for descriptor in {self.network, *(host.network for host in self.hosts.values())}:
            os.close(descriptor)

    def _set_port(self, host: Host, state: str) -> None:
        with kernelcalls.entered(self.network), IPRoute() as netlink:
            [port] = netlink.link_lookup(ifname=host.name)
            netlink.link("set", index=port, state=state)
