"""What frames say about who has an address: frames that scapy builds, and bytes that nobody would."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vrrp import VRRP, VRRPv3

from agent.segment import Everything
from vipagent import sightings
from vipagent.frames import build
from vipagent.sightings import ARP_PROTOCOL, IPV4_PROTOCOL, IPV6_PROTOCOL, Sighting

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from scapy.packet import Packet

MAC, OTHER = "02:00:00:00:00:66", "02:00:00:00:00:67"
VIP4, VIP6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
ROUTER4, ROUTER6 = ip_address("192.0.2.7"), ip_address("fe80::7")
FROM = Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff")
ADVERT4 = FROM / IP(src=str(ROUTER4), dst="224.0.0.18", ttl=255, proto=112)
ADVERT6 = FROM / IPv6(src=str(ROUTER6), dst="ff02::12", hlim=255, nh=112)
ADVERTISEMENT = FROM / IPv6(src="fe80::6", dst="ff02::1", hlim=255)
CLAIM4, CLAIM6 = Sighting(VIP4, MAC), Sighting(VIP6, MAC)


def read(protocol: int, frame: bytes) -> tuple[Sighting, ...]:
    return sightings.read(protocol, frame, Everything())


def arp(sender: str, target: str, *, operation: int = 1, mac: str = MAC) -> Packet:
    return FROM / ARP(op=operation, hwsrc=mac, psrc=sender, pdst=target)


@pytest.mark.parametrize(
    ("protocol", "frame", "seen"),
    [
        pytest.param(ARP_PROTOCOL, arp("192.0.2.10", "192.0.2.10"), {CLAIM4}, id="gratuitous ARP"),
        pytest.param(ARP_PROTOCOL, arp("192.0.2.10", "192.0.2.1"), {CLAIM4}, id="ARP request from it"),
        pytest.param(ARP_PROTOCOL, arp("192.0.2.10", "192.0.2.1", operation=2), {CLAIM4}, id="ARP reply"),
        pytest.param(
            ARP_PROTOCOL,
            arp("192.0.2.10", "0.0.0.0", operation=2),  # noqa: S104 - the target of an answer to a probe
            {Sighting(VIP4, MAC, is_answer=True)},
            id="answer to a probe",
        ),
        pytest.param(ARP_PROTOCOL, arp("0.0.0.0", "192.0.2.10"), set(), id="ARP probe"),  # noqa: S104 - a probe
        pytest.param(
            ARP_PROTOCOL,
            arp("192.0.2.10", "192.0.2.1", mac="00:00:5e:00:01:33"),
            {Sighting(VIP4, "00:00:5e:00:01:33", vrid=0x33)},
            id="ARP with a virtual router's MAC",
        ),
        pytest.param(
            IPV6_PROTOCOL,
            ADVERTISEMENT / ICMPv6ND_NA(tgt=str(VIP6)) / ICMPv6NDOptDstLLAddr(lladdr=OTHER),
            {Sighting(VIP6, OTHER)},
            id="advertisement",
        ),
        pytest.param(
            IPV6_PROTOCOL, ADVERTISEMENT / ICMPv6ND_NA(tgt=str(VIP6)), {CLAIM6}, id="without MAC option"
        ),
        pytest.param(
            IPV6_PROTOCOL,
            ADVERTISEMENT / ICMPv6ND_NA(tgt=str(VIP6)) / bytes(8),
            {CLAIM6},
            id="advertisement with an option of no length",
        ),
        pytest.param(
            IPV6_PROTOCOL,
            FROM / IPv6(dst="ff02::1", hlim=64) / ICMPv6ND_NA(tgt=str(VIP6)),
            set(),
            id="advertisement from beyond a router",
        ),
        pytest.param(IPV6_PROTOCOL, ADVERTISEMENT / ICMPv6ND_NS(tgt=str(VIP6)), set(), id="solicitation"),
        pytest.param(
            IPV4_PROTOCOL,
            ADVERT4 / VRRP(vrid=51, priority=100, addrlist=["192.0.2.9", "192.0.2.10"]),
            {Sighting(ip_address("192.0.2.9"), MAC, ROUTER4, 51), Sighting(VIP4, MAC, ROUTER4, 51)},
            id="VRRP version 2",
        ),
        pytest.param(
            IPV4_PROTOCOL,
            ADVERT4 / VRRPv3(vrid=51, priority=100, addrlist=["192.0.2.10"]),
            {Sighting(VIP4, MAC, ROUTER4, 51)},
            id="VRRP version 3",
        ),
        pytest.param(
            IPV6_PROTOCOL,
            ADVERT6 / bytes([0x31, 52, 100, 1, 0, 100, 0, 0]) / VIP6.packed,
            {Sighting(VIP6, MAC, ROUTER6, 52)},
            id="VRRP version 3 over IPv6",
        ),
        pytest.param(
            IPV4_PROTOCOL,
            ADVERT4 / VRRP(vrid=51, priority=0, addrlist=["192.0.2.10"]),
            set(),
            id="VRRP router that resigns",
        ),
        pytest.param(
            IPV4_PROTOCOL,
            ADVERT4 / bytes([0x21, 51, 100, 2, 0, 1, 0, 0]) / VIP4.packed,
            set(),
            id="VRRP with fewer addresses than it says",
        ),
        pytest.param(
            IPV4_PROTOCOL,
            FROM / IP(src=str(ROUTER4), ttl=9, proto=112) / VRRP(vrid=51, addrlist=["192.0.2.10"]),
            set(),
            id="VRRP from beyond a router",
        ),
    ],
)
def test_a_frame_says(protocol: int, frame: Packet, seen: set[Sighting]) -> None:
    assert set(read(protocol, bytes(frame))) == seen


@pytest.mark.parametrize("address", [pytest.param(VIP4, id="IPv4"), pytest.param(VIP6, id="IPv6")])
def test_what_this_node_announces_is_a_claim_and_what_it_probes_is_none(
    address: IPv4Address | IPv6Address,
) -> None:
    protocol = ARP_PROTOCOL if address.version == 4 else IPV6_PROTOCOL
    built = build(MAC, address)
    assert {each for frame in built.frames for each in read(protocol, frame)} == {Sighting(address, MAC)}
    assert read(protocol, built.probe) == ()


def test_an_advert_is_read_for_ours_alone_and_each_address_once() -> None:
    listed = ["192.0.2.9", "192.0.2.10", "192.0.2.11", "192.0.2.10"]
    advert = bytes(ADVERT4 / VRRP(vrid=51, addrlist=listed))
    seen = sightings.read(IPV4_PROTOCOL, advert, {VIP4.packed})
    assert seen == (Sighting(VIP4, MAC, ROUTER4, 51),)
    assert len(read(IPV4_PROTOCOL, advert)) == 3


@pytest.mark.parametrize("protocol", [ARP_PROTOCOL, IPV6_PROTOCOL])
def test_a_claim_of_another_address_is_not_ours(protocol: int) -> None:
    assert sightings.read(protocol, FRAMES[protocol], {bytes(4)}) == ()


FRAMES = {
    ARP_PROTOCOL: bytes(arp("192.0.2.10", "192.0.2.1")),
    IPV4_PROTOCOL: bytes(ADVERT4 / VRRP(vrid=51, addrlist=["192.0.2.9", "192.0.2.10"])),
    IPV6_PROTOCOL: bytes(ADVERTISEMENT / ICMPv6ND_NA(tgt=str(VIP6)) / ICMPv6NDOptDstLLAddr(lladdr=OTHER)),
}


@given(
    st.sampled_from(sorted(FRAMES)),
    st.integers(0, 120),
    st.lists(st.tuples(st.integers(0, 119), st.integers(0, 255)), max_size=6),
    st.binary(max_size=40),
)
def test_no_bytes_raise_and_none_are_read_twice(
    protocol: int, length: int, changes: list[tuple[int, int]], tail: bytes
) -> None:
    frame = bytearray(FRAMES[protocol])
    for place, value in changes:
        if place < len(frame):
            frame[place] = value
    whole = bytes(frame[:length]) + tail
    seen = read(protocol, whole)
    assert len(seen) <= 255
    for sighting in seen:
        assert sighting.address.packed in whole
