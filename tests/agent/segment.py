"""A network segment for tests: namespaces on a bridge, each with one `eth0`, made and removed by the test.

That is a veth's end, alone or in a VRF, or what stands on one or two of them: a VLAN, an active-backup bond,
or the one on the other, where the kernel has these. Nothing here has a name outside: closing the namespaces'
descriptors is all it takes to remove them.
"""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from enum import Enum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from lab.kernelcalls import entered, new_network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ipaddress import IPv4Address, IPv6Address

NO_DAD = 0x02
VLAN_ID, VRF_TABLE = 5, 10
VIP4, VIP6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")


def ipv4(place: int) -> IPv4Address:
    return ip_address(f"192.0.2.{place}")  # type: ignore[return-value]


def ipv6(place: int) -> IPv6Address:
    return ip_address(f"2001:db8::{place}")  # type: ignore[return-value]


def mac(place: int) -> str:
    return f"02:00:00:00:00:{place:02x}"


class Kind(Enum):
    """What a host's eth0 is, in the words of test identifiers."""

    PLAIN = "plain"
    VRF = "vrf"
    VLAN = "vlan"
    BOND = "bond"
    VLAN_ON_BOND = "vlan-on-bond"

    @property
    def is_vlan(self) -> bool:
        return self in {Kind.VLAN, Kind.VLAN_ON_BOND}

    @property
    def is_bond(self) -> bool:
        return self in {Kind.BOND, Kind.VLAN_ON_BOND}

    @property
    def ends(self) -> tuple[str, ...]:
        """The veths' ends in the host that all stands on."""
        if self.is_bond:
            return ("end0", "end1")
        return ("end0",) if self.is_vlan else ("eth0",)


class Everything:
    """Every address there is."""

    def __contains__(self, packed: object) -> bool:
        return True


class Segment:
    """Hosts by number: number n has 192.0.2.n/24, 2001:db8::n/64 and the MAC address 02:00:00:00:00:n."""

    def __init__(self, networks: dict[int, int]) -> None:
        self._networks = networks

    @contextmanager
    def inside(self, place: int) -> Iterator[int]:
        """Stand in a host's namespace; gives the index of its eth0."""
        with entered(self._networks[place]):
            yield socket.if_nametoindex("eth0")


@contextmanager
def segment(*places: int, kind: Kind = Kind.PLAIN) -> Iterator[Segment]:
    """Give hosts whose eth0 is of this kind."""
    switch = new_network()
    networks = {place: new_network() for place in places}
    try:
        for place, network in networks.items():
            with entered(network):
                # eth0 does not exist yet; what it will be like is "default"
                Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0", encoding="ascii")
            with entered(switch), IPRoute() as route:
                for name in kind.ends:
                    _plug_in(route, name, place, network)
            with entered(network), IPRoute() as route:
                index = _build(route, kind)
                route.addr("add", index=index, address=str(ipv4(place)), prefixlen=24)
                route.addr("add", index=index, address=str(ipv6(place)), prefixlen=64, flags=NO_DAD)
        for network in (switch, *networks.values()):
            with entered(network), IPRoute() as route:
                _await_carriers(route)
        yield Segment(networks)
    finally:
        for network in (switch, *networks.values()):
            os.close(network)


def _plug_in(route: IPRoute, end: str, place: int, network: int) -> None:
    if not route.link_lookup(ifname="br0"):
        route.link("add", ifname="br0", kind="bridge")
    bridge = route.link_lookup(ifname="br0")[0]
    name = f"{end}-{place}"
    peer = {"ifname": end, "net_ns_fd": network, "address": mac(place)}
    route.link("add", ifname=name, kind="veth", peer=peer)
    route.link("set", index=route.link_lookup(ifname=name)[0], master=bridge, state="up")
    route.link("set", index=bridge, state="up")


def _await_carriers(route: IPRoute) -> None:
    """Wait until the kernel acts upon the carriers, in its own time: until then it drops what is sent."""
    is_up = 0x1
    while any(
        link["flags"] & is_up and link.get("operstate") in {"DOWN", "LOWERLAYERDOWN"}
        for link in route.get_links()
    ):
        pass


def _build(route: IPRoute, kind: Kind) -> int:
    """Make eth0 of the ends of the veths; returns its index."""
    below = kind.ends[0]
    if kind.is_bond:
        below = "bond0" if kind.is_vlan else "eth0"
        make_bond(route, below, *kind.ends)
    route.link("set", index=socket.if_nametoindex(below), state="up")
    if kind.is_vlan:
        lower = socket.if_nametoindex(below)
        route.link("add", ifname="eth0", kind="vlan", link=lower, vlan_id=VLAN_ID)
    index = socket.if_nametoindex("eth0")
    if kind is Kind.VRF:
        put_into_vrf(route, "eth0")
    route.link("set", index=index, state="up")
    return index


def make_bond(route: IPRoute, name: str, *ports: str, **facts: object) -> None:
    """Make an active-backup bond that sees a lost carrier within 10 ms, and announces nothing by itself."""
    facts |= {"bond_mode": 1, "bond_miimon": 10, "bond_num_peer_notif": 0}
    route.link("add", ifname=name, kind="bond", **facts)
    for port in ports:
        route.link("set", index=socket.if_nametoindex(port), master=socket.if_nametoindex(name))
    for port in ports:
        route.link("set", index=socket.if_nametoindex(port), state="up")


def put_into_vrf(route: IPRoute, name: str) -> None:
    """Make a VRF, and a link a member of it."""
    route.link("add", ifname="vrf0", kind="vrf", vrf_table=VRF_TABLE)
    vrf = socket.if_nametoindex("vrf0")
    route.link("set", index=vrf, state="up")
    route.link("set", index=socket.if_nametoindex(name), master=vrf)


def can_speak(name: str = "eth0") -> bool:
    """Whether a gratuitous ARP packet of the address leaves."""
    frame = b"\xff" * 6 + b"\x02" + bytes(5) + b"\x08\x06" + b"\0\x01\x08\0\6\4\0\x01"
    frame += b"\x02" + bytes(5) + VIP4.packed + bytes(6) + VIP4.packed
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        try:
            raw.sendto(frame, (name, 0x0806))
        except OSError:
            return False
    return True
