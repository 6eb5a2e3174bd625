"""Every rule of the fence, asked of the kernel's own programs; and its map of deadlines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether

from agent import judges
from agent.judges import BpfJudge
from vipagent.fence import Fence
from vipagent.packetfence import MAX_ADDRESSES, FenceRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scapy.packet import Packet

    from agent.judges import Judge

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
NOBODY4 = str(IPv4Address(0))
VIP4, PEER4, OWN4 = "192.0.2.10", "192.0.2.99", "192.0.2.1"
VIP6, PEER6, OWN6 = "2001:db8::10", "2001:db8::99", "2001:db8::1"
LOCAL6, GROUP6, ALL6 = "fe80::1", "ff02::1:ff00:10", "ff02::1"
ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
HOUR_NS = 3600 * 10**9

SOLICITATION = IPv6(src=PEER6, dst=GROUP6, hlim=255) / ICMPv6ND_NS(tgt=VIP6)
ADVERTISEMENT = IPv6(src=LOCAL6, dst=ALL6, hlim=255) / ICMPv6ND_NA(tgt=VIP6, O=1)


def chained(count: int) -> Packet:
    packet = IPv6(src=PEER6, dst=GROUP6, hlim=255)
    for _ in range(count):
        packet /= IPv6ExtHdrDestOpt()
    return packet / ICMPv6ND_NS(tgt=VIP6)


DROPPED = [
    pytest.param("ingress", ARP(op=1, psrc=PEER4, pdst=VIP4), id="who has the address"),
    pytest.param("ingress", ARP(op=1, psrc=NOBODY4, pdst=VIP4), id="an ARP probe for it"),
    pytest.param("ingress", ARP(op=2, psrc=PEER4, pdst=VIP4), id="an ARP reply to it"),
    pytest.param("ingress", IP(src=PEER4, dst=VIP4) / UDP(), id="IPv4 to it"),
    pytest.param("ingress", IP(src=VIP4, dst=VIP4) / UDP(), id="IPv4 from it to it"),
    pytest.param("ingress", IP(src=PEER4, dst=VIP4, options=[IPOption_NOP()] * 8) / UDP(), id="options"),
    pytest.param("ingress", IP(src=PEER4, dst=VIP4, frag=100) / b"later fragment", id="a later fragment"),
    pytest.param("ingress", IP(src=PEER4, dst=VIP4, proto=99), id="IPv4 of nothing but a header"),
    pytest.param("ingress", IPv6(src=PEER6, dst=VIP6) / UDP(), id="IPv6 to it"),
    pytest.param("ingress", IPv6(src=PEER6, dst=VIP6, nh=59), id="IPv6 of nothing but a header"),
    pytest.param("ingress", SOLICITATION, id="a neighbour solicitation to the group"),
    pytest.param("ingress", IPv6(src=PEER6, dst=VIP6) / ICMPv6ND_NS(tgt=VIP6), id="one to the address"),
    pytest.param("ingress", IPv6(src="::", dst=GROUP6) / ICMPv6ND_NS(tgt=VIP6), id="duplicate detection"),
    pytest.param(
        "ingress",
        IPv6(src=PEER6, dst=GROUP6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / ICMPv6ND_NS(tgt=VIP6),
        id="a solicitation behind hop-by-hop options and a routing header",
    ),
    pytest.param("ingress", chained(4), id="a solicitation behind four extension headers"),
    pytest.param("egress", ARP(op=2, psrc=VIP4, pdst=PEER4), id="it is at"),
    pytest.param("egress", ARP(op=1, psrc=VIP4, pdst=VIP4), id="a gratuitous ARP of ours"),
    pytest.param("egress", ARP(op=1, psrc=VIP4, pdst=PEER4), id="it asks who has another"),
    pytest.param("egress", IP(src=VIP4, dst=PEER4) / ICMP(type=0), id="IPv4 from it"),
    pytest.param("egress", IPv6(src=VIP6, dst=PEER6) / ICMPv6EchoRequest(), id="IPv6 from it"),
    pytest.param("egress", IPv6(src=VIP6, dst=PEER6) / ICMPv6ND_NA(tgt=VIP6), id="its own advertisement"),
    pytest.param("egress", ADVERTISEMENT, id="its advertisement from a link-local address"),
    pytest.param("egress", IPv6(src=VIP6, dst=GROUP6) / ICMPv6ND_NS(tgt=PEER6), id="it solicits another"),
    pytest.param("other_egress", ARP(op=2, psrc=VIP4, pdst=PEER4), id="it is at, by another link"),
    pytest.param("other_egress", IP(src=VIP4, dst=PEER4) / UDP(), id="IPv4 from it by another link"),
    pytest.param("other_egress", IPv6(src=VIP6, dst=PEER6) / UDP(), id="IPv6 from it by another link"),
    pytest.param("other_egress", ADVERTISEMENT, id="its advertisement by another link"),
]

PASSED = [
    pytest.param("ingress", ARP(op=1, psrc=VIP4, pdst=VIP4), id="a new owner's gratuitous request"),
    pytest.param("ingress", ARP(op=2, psrc=VIP4, pdst=VIP4), id="a new owner's gratuitous reply"),
    pytest.param("ingress", ARP(op=2, psrc=VIP4, pdst=OWN4), id="the owner answers this node"),
    pytest.param("ingress", ARP(op=1, psrc=VIP4, pdst=OWN4), id="the owner asks for this node"),
    pytest.param("ingress", ARP(op=1, psrc=PEER4, pdst=OWN4), id="who has this node's own address"),
    pytest.param("ingress", IP(src=VIP4, dst=OWN4) / UDP(), id="the owner's reply to this node"),
    pytest.param("ingress", IPv6(src=VIP6, dst=OWN6) / UDP(), id="the same over IPv6"),
    pytest.param("ingress", ADVERTISEMENT, id="a new owner's unsolicited advertisement"),
    pytest.param("ingress", IPv6(src=VIP6, dst=OWN6) / ICMPv6ND_NA(tgt=VIP6), id="the owner's solicited one"),
    pytest.param("ingress", IPv6(src=VIP6, dst=ALL6) / ICMPv6ND_NS(tgt=OWN6), id="the owner solicits us"),
    pytest.param("egress", ARP(op=1, psrc=OWN4, pdst=VIP4), id="this node asks who has it"),
    pytest.param("egress", ARP(op=1, psrc=OWN4, pdst=OWN4), id="this node's own gratuitous ARP"),
    pytest.param("egress", IP(src=OWN4, dst=VIP4) / UDP(), id="this node's request to it"),
    pytest.param("egress", IPv6(src=OWN6, dst=VIP6) / UDP(), id="the same over IPv6"),
    pytest.param("egress", IPv6(src=OWN6, dst=GROUP6) / ICMPv6ND_NS(tgt=VIP6), id="this node solicits it"),
    pytest.param("other_egress", IP(src=OWN4, dst=VIP4) / UDP(), id="to it by another link"),
]

# What the fence lets by though it is about a closed address, because the kernel itself does not answer it.
UNANSWERED = [
    pytest.param("ingress", bytes(ARP(op=1, psrc=PEER4, pdst=VIP4))[:27], 0x0806, id="ARP cut short"),
    pytest.param("ingress", bytes(SOLICITATION)[:63], 0x86DD, id="a solicitation cut in its target"),
    pytest.param("ingress", bytes(chained(1))[:41], 0x86DD, id="cut in an extension header"),
    pytest.param("egress", b"", 0x0806, id="nothing but an Ethernet header"),
    pytest.param("ingress", bytes(chained(5)), 0x86DD, id="behind five extension headers"),
    pytest.param(
        "ingress",
        bytes(IPv6(src=PEER6, dst=GROUP6) / IPv6ExtHdrFragment(m=1) / ICMPv6ND_NS(tgt=VIP6)),
        0x86DD,
        id="a fragmented solicitation (RFC 6980)",
    ),
]


@pytest.fixture(scope="module", params=["bpf", "nftables"])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    with judges.judge(request.param) as made:
        yield made


@pytest.fixture(scope="module")
def bpf() -> Iterator[BpfJudge]:
    with Fence.load() as loaded:
        yield BpfJudge(loaded)


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def close_both(judge: Judge) -> None:
    judge.fence.close([ip_address(VIP4), ip_address(VIP6)])


@pytest.mark.parametrize(("program", "packet"), DROPPED)
def test_a_closed_address_is_dropped(judge: Judge, program: str, packet: Packet) -> None:
    close_both(judge)
    assert judge.verdict(program, bytes(ETHER / packet)) == "drop"


@pytest.mark.parametrize(("program", "packet"), DROPPED)
def test_a_deadline_that_has_come_closes(judge: Judge, program: str, packet: Packet) -> None:
    judge.fence.admit([ip_address(VIP4), ip_address(VIP6)], boot_ns())
    assert judge.verdict(program, bytes(ETHER / packet)) == "drop"


@pytest.mark.parametrize(("program", "packet"), DROPPED + PASSED)
def test_an_open_address_passes(judge: Judge, program: str, packet: Packet) -> None:
    judge.fence.admit([ip_address(VIP4), ip_address(VIP6)], boot_ns() + HOUR_NS)
    assert judge.verdict(program, bytes(ETHER / packet)) == "pass"


@pytest.mark.parametrize(("program", "packet"), DROPPED + PASSED)
def test_an_address_unknown_to_the_fence_passes(judge: Judge, program: str, packet: Packet) -> None:
    for address in (VIP4, VIP6):
        judge.fence.forget_all([ip_address(address)])
    assert judge.verdict(program, bytes(ETHER / packet)) == "pass"


@pytest.mark.parametrize(("program", "packet"), PASSED)
def test_a_standby_is_a_client_and_hears_the_owner(judge: Judge, program: str, packet: Packet) -> None:
    close_both(judge)
    assert judge.verdict(program, bytes(ETHER / packet)) == "pass"


@pytest.mark.parametrize(("program", "payload", "ethertype"), UNANSWERED)
def test_what_the_kernel_ignores_itself_passes(
    bpf: BpfJudge, program: str, payload: bytes, ethertype: int
) -> None:
    close_both(bpf)
    assert bpf.verdict(program, bytes(Ether(type=ethertype)) + payload) == "pass"


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src=VIP4, dst=PEER4) / UDP(), id="IPv4"),
        pytest.param(IPv6(src=VIP6, dst=PEER6) / UDP(), id="IPv6"),
    ],
)
def test_the_owners_reply_is_forwarded_to_a_pod_but_never_to_the_wire(bpf: BpfJudge, packet: Packet) -> None:
    close_both(bpf)
    frame = bytes(ETHER / packet)
    assert bpf.verdict("other_egress", frame, ingress_ifindex=1) == "pass"
    assert bpf.verdict("egress", frame, ingress_ifindex=1) == "drop"


def test_a_frame_of_another_protocol_passes(judge: Judge) -> None:
    close_both(judge)
    inside = bytes(IP(src=VIP4, dst=VIP4))
    for program in ("ingress", "egress", "other_egress"):
        assert judge.verdict(program, bytes(Ether(type=0x88CC)) + inside) == "pass"
        assert judge.verdict(program, bytes(Ether() / Dot1Q(vlan=5) / Dot1Q(vlan=6)) + inside) == "pass"


def test_neighbouring_addresses_are_told_apart(judge: Judge) -> None:
    close_both(judge)
    for destination in ("192.0.2.9", "192.0.2.11", "192.0.2.100", "10.2.0.192"):
        assert judge.verdict("ingress", bytes(ETHER / IP(src=PEER4, dst=destination))) == "pass"
    for destination in ("2001:db8::11", "2001:db8::1:10", "2001:db8:1::10"):
        assert judge.verdict("ingress", bytes(ETHER / IPv6(src=PEER6, dst=destination))) == "pass"


@UNHURRIED
@given(
    program=st.sampled_from(("ingress", "egress", "other_egress")),
    ethertype=st.sampled_from((0x0800, 0x0806, 0x86DD, 0x8100)) | st.integers(0, 0xFFFF),
    payload=st.binary(max_size=160),
    next_header=st.sampled_from((0, 43, 58, 60)) | st.integers(0, 255),
    kind=st.sampled_from((135, 136)) | st.integers(0, 255),
)
def test_a_packet_without_the_address_is_never_dropped(
    judge: Judge,
    *,
    program: str,
    ethertype: int,
    payload: bytes,
    next_header: int,
    kind: int,
) -> None:
    close_both(judge)
    steered = bytearray(payload)
    if ethertype in (0x0800, 0x86DD, 0x8100, 0x88A8):
        steered.extend(bytes(40))  # the kernel itself takes no frame with half an IP header or VLAN tag
    if len(steered) > 40:
        steered[6], steered[40] = next_header, kind
    if ip_address(VIP4).packed in steered or ip_address(VIP6).packed in steered:
        return
    frame = bytes(12) + ethertype.to_bytes(2, "big") + bytes(steered)
    assert judge.verdict(program, frame) == "pass"


@UNHURRIED
@given(
    addresses=st.lists(
        st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address),
        min_size=1,
        max_size=8,
        unique=True,
    ),
    deadline_ns=st.integers(1, 2**64 - 1),
)
def test_the_kernel_holds_the_deadline_it_was_given(
    bpf: BpfJudge, addresses: list[IPv4Address | IPv6Address], deadline_ns: int
) -> None:
    fence = bpf.fence
    fence.admit(addresses, deadline_ns)
    assert [fence.deadline_ns(address) for address in addresses] == [deadline_ns] * len(addresses)
    assert set(addresses) <= fence.addresses
    fence.close(addresses)
    assert [fence.deadline_ns(address) for address in addresses] == [0] * len(addresses)
    for address in addresses:
        fence.forget_all([address])
        fence.forget_all([address])
        assert fence.deadline_ns(address) is None
    assert not set(addresses) & fence.addresses


def test_one_address_too_many_is_refused_and_the_others_stay() -> None:
    with Fence.load() as fence:
        first = IPv4Address("198.51.100.0")
        addresses = [first + number for number in range(MAX_ADDRESSES)]
        fence.close(addresses)
        with pytest.raises(FenceRefused, match=f"more than {MAX_ADDRESSES} addresses"):
            fence.close([IPv4Address("192.0.2.10")])
        assert fence.addresses == frozenset(addresses)
        fence.admit(addresses[:1], 7)
        assert fence.deadline_ns(first) == 7


def test_the_kernels_numbers_of_the_programs_are_known() -> None:
    with Fence.load() as fence:
        assert set(fence.ids) == {fence.ingress_fd, fence.egress_fd, fence.other_egress_fd}
        assert len(set(fence.ids.values())) == 3


def test_a_released_fence_leaves_no_descriptor_behind() -> None:
    before = set(Path("/proc/self/fd").iterdir())
    Fence.load().release()
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_a_keeper_without_capabilities_is_told_which_it_lacks() -> None:
    trial = """
import ctypes
from vipagent.fence import Fence
from vipagent.packetfence import FenceRefused
assert ctypes.CDLL(None).capset(b"\\x22\\x05\\x08\\x20" + bytes(4), bytes(24)) == 0
try: Fence.load()
except FenceRefused as refused: print(refused)
"""
    ran = subprocess.run(
        [sys.executable, "-c", trial],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "BPF and NET_ADMIN" in ran.stdout
