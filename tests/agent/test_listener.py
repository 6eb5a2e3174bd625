"""The listener on real links: what it hears, what it does not, and what a flood does to it."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import AsyncIPRoute, IPRoute
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vrrp import VRRPv3

from agent.segment import NO_DAD, VIP4, VIP6, Everything, ipv4, mac, segment
from vipagent import sieve, sightings
from vipagent.fence import Fence
from vipagent.frames import build
from vipagent.kernel import Kernel
from vipagent.listener import Listener
from vipagent.nodeview import GuardRole, LinkIndex
from vipagent.sightings import Sighting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.segment import Segment
    from vipagent.nodeview import IPAddress

NODE, FOREIGN = 1, 66
OURS = frozenset((VIP4, VIP6))
VRRP_GROUPS = {"01005e000012", "333300000012"}
BROADCAST = Ether(src=mac(FOREIGN), dst="ff:ff:ff:ff:ff:ff")
ADVERT = bytes(
    Ether(src=mac(FOREIGN), dst="01:00:5e:00:00:12")
    / IP(src="192.0.2.7", dst="224.0.0.18", ttl=255, proto=112)
    / VRRPv3(vrid=51, addrlist=[str(VIP4)])
)
LAST = bytes(BROADCAST / ARP(op=1, hwsrc=mac(FOREIGN), psrc=str(VIP4), pdst="192.0.2.254"))
"""The last frame of a story: when it was heard, so was all that came before it."""


@pytest.fixture
def wire() -> Iterator[Segment]:
    with segment(NODE, FOREIGN) as made:
        yield made


@contextmanager
def mouth(wire: Segment) -> Iterator[socket.socket]:
    with wire.inside(FOREIGN):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        raw.bind(("eth0", 0))
    with raw:
        yield raw


def read(protocol: int, frame: bytes) -> tuple[Sighting, ...]:
    return sightings.read(protocol, frame, Everything())


def until_last(is_over: asyncio.Event, seen: list[bytes]) -> Callable[[int, bytes], int]:
    def hear(_protocol: int, frame: bytes) -> int:
        if frame[:42] == LAST:
            is_over.set()
        else:
            seen.append(frame)
        return 0

    return hear


def heard(wire: Segment, frames: list[bytes], addresses: frozenset[IPAddress] = OURS) -> list[Sighting]:
    """What a node listens to while a foreign host sends frames, up to the last."""

    async def story(index: LinkIndex) -> list[Sighting]:
        seen: list[Sighting] = []
        is_over = asyncio.Event()

        def hear(protocol: int, frame: bytes) -> int:
            if frame[:42] == LAST:
                is_over.set()
            else:
                seen.extend(read(protocol, frame))
            return 0

        listener = Listener()
        listener.tell(hear)
        listener.listen({index: addresses})
        for frame in (*frames, LAST):
            sender.send(frame)
        await is_over.wait()
        listener.close()
        return seen

    with mouth(wire) as sender, wire.inside(NODE) as index:
        return asyncio.run(story(LinkIndex(index)))


def test_claims_are_heard_and_what_is_said_of_others_is_not(wire: Segment) -> None:
    advertisement = bytes(
        Ether(src=mac(FOREIGN), dst="33:33:00:00:00:01")
        / IPv6(src="fe80::6", dst="ff02::1", hlim=255)
        / ICMPv6ND_NA(tgt=str(VIP6))
    )
    seen = heard(
        wire,
        [
            *build(mac(FOREIGN), VIP4).frames,
            *build(mac(FOREIGN), ipv4(77)).frames,
            bytes(BROADCAST / ARP(op=1, hwsrc=mac(FOREIGN), psrc=str(ipv4(66)), pdst=str(VIP4))),
            bytes(BROADCAST / IP(src=str(VIP4), dst="192.0.2.255") / UDP()),
            bytes(Ether(src=mac(FOREIGN), dst=mac(77)) / ARP(op=2, hwsrc=mac(78), psrc=str(VIP4))),
            bytes(
                Ether(src=mac(FOREIGN), dst="33:33:ff:00:00:10")
                / IPv6(src="fe80::6", dst="ff02::1:ff00:10", hlim=255)
                / ICMPv6ND_NS(tgt=str(VIP6))
            ),
            ADVERT,
            advertisement,
        ],
    )
    claim = Sighting(VIP4, mac(FOREIGN))
    router = Sighting(VIP4, mac(FOREIGN), ipv4(7), 51)
    assert sorted(map(repr, seen)) == sorted(map(repr, [claim, claim, router, Sighting(VIP6, mac(FOREIGN))]))


def test_an_address_whose_fence_is_closed_is_listened_for(wire: Segment) -> None:
    async def guard(index: int) -> None:
        fence.close(OURS)
        async with Kernel.open() as kernel:
            await kernel.guard(index, fence, GuardRole.CARRIER)

    with Fence.load() as fence:
        with wire.inside(NODE) as index:
            asyncio.run(guard(index))
        frames = [*build(mac(FOREIGN), VIP4).frames, *build(mac(FOREIGN), VIP6).frames]
        assert {each.address for each in heard(wire, frames)} == OURS


def test_who_has_the_address_answers_a_probe_of_a_node_whose_fence_is_closed(wire: Segment) -> None:
    async def story(index: LinkIndex) -> None:
        seen: dict[IPAddress, Sighting] = {}
        is_over = asyncio.Event()

        def hear(protocol: int, frame: bytes) -> int:
            seen.update((each.address, each) for each in read(protocol, frame))
            if seen.keys() == OURS:
                is_over.set()
            return 0

        listener = Listener()
        listener.tell(hear)
        listener.listen({index: OURS})
        with Fence.load() as fence, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            fence.close(OURS)
            async with Kernel.open() as kernel:
                await kernel.guard(index, fence, GuardRole.CARRIER)
            for address in OURS:
                raw.sendto(build(mac(NODE), address).probe, ("eth0", 0))
            await is_over.wait()
        listener.close()
        assert seen[VIP4] == Sighting(VIP4, mac(FOREIGN), is_answer=True)
        assert seen[VIP6] == Sighting(VIP6, mac(FOREIGN))

    with wire.inside(FOREIGN) as index, IPRoute() as route:
        route.addr("add", index=index, address=str(VIP4), prefixlen=24)
        route.addr("add", index=index, address=str(VIP6), prefixlen=64, flags=NO_DAD)
    with wire.inside(NODE) as index:
        asyncio.run(story(LinkIndex(index)))


def test_a_link_that_is_listened_to_receives_the_groups_of_vrrp(wire: Segment) -> None:
    async def story(index: LinkIndex) -> None:
        listener = Listener()
        assert not VRRP_GROUPS & groups()
        listener.listen({index: OURS})
        assert groups() >= VRRP_GROUPS
        listener.close()

    def groups() -> set[str]:
        lines = Path("/proc/thread-self/net/dev_mcast").read_text(encoding="ascii").splitlines()
        return {line.split()[-1] for line in lines if line.split()[1] == "eth0"}

    with wire.inside(NODE) as index:
        asyncio.run(story(LinkIndex(index)))


def test_what_this_node_sends_itself_is_not_heard(wire: Segment) -> None:
    with mouth(wire) as sender, wire.inside(NODE) as index:
        seen: list[bytes] = []

        async def story() -> None:
            is_over = asyncio.Event()
            listener = Listener()
            listener.tell(until_last(is_over, seen))
            listener.listen({LinkIndex(index): OURS})
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                for frame in (*build(mac(NODE), VIP4).frames, *build(mac(NODE), VIP6).frames):
                    raw.sendto(frame, ("eth0", 0))
            sender.send(LAST)
            await is_over.wait()
            listener.close()

        asyncio.run(story())
        assert seen == []


def turns_and_frames(
    wire: Segment, send: Callable[[socket.socket], None], *, wanted: int, claims: int = 0
) -> tuple[list[int], int]:
    """How many frames were heard between one turn of the loop and the next, and how many were lost.

    `claims` is how many addresses each of them claims.
    """
    turns = [0]

    def hear(_protocol: int, _frame: bytes) -> int:
        turns[-1] += 1
        return claims

    async def story(index: LinkIndex) -> int:
        listener = Listener()
        listener.tell(hear)
        listener.listen({index: OURS})
        send(sender)
        while sum(turns) < wanted:
            turns.append(0)
            await asyncio.sleep(0)
        losses = listener.take_losses()
        assert listener.take_losses() == 0
        listener.close()
        return losses

    with mouth(wire) as sender, wire.inside(NODE) as index:
        return turns, asyncio.run(story(LinkIndex(index)))


def test_a_flood_is_read_in_small_parts_with_pauses_and_what_is_lost_is_counted(wire: Segment) -> None:
    flood = 5000

    def send(sender: socket.socket) -> None:
        for _ in range(flood):
            sender.send(LAST)

    turns, losses = turns_and_frames(wire, send, wanted=64)
    assert max(turns) == 32
    assert all(after == 0 for turn, after in itertools.pairwise(turns) if turn == 32)
    assert 0 < losses < flood


def test_one_frame_that_claims_many_addresses_is_all_that_is_read_in_a_turn(wire: Segment) -> None:
    def send(sender: socket.socket) -> None:
        for _ in range(8):
            sender.send(ADVERT)

    turns, _ = turns_and_frames(wire, send, wanted=8, claims=255)
    assert max(turns) == 1


def test_all_sockets_together_read_no_more_than_one_may(wire: Segment) -> None:
    advertisement = build(mac(FOREIGN), VIP6).frames[0]

    def send(sender: socket.socket) -> None:
        for frame in (LAST, ADVERT, advertisement):
            for _ in range(40):
                sender.send(frame)

    turns, _ = turns_and_frames(wire, send, wanted=120)
    assert max(turns) == 32


def test_a_flood_about_other_addresses_wakes_nobody(wire: Segment) -> None:
    other = build(mac(FOREIGN), ipv4(77)).frames[0]

    def send(sender: socket.socket) -> None:
        for _ in range(2000):
            sender.send(other)
        sender.send(LAST)

    turns, losses = turns_and_frames(wire, send, wanted=1)
    assert (sum(turns), losses) == (1, 0)


def packet_sockets() -> int:
    """How many packet sockets there are in this network; the first line is a heading."""
    return len(Path("/proc/thread-self/net/packet").read_text(encoding="ascii").splitlines()) - 1


def test_a_link_that_is_made_anew_is_listened_to_and_the_one_that_went_is_not(wire: Segment) -> None:
    async def story(index: LinkIndex) -> None:
        listener = Listener()
        listener.listen({index: OURS})
        sockets = packet_sockets()
        async with AsyncIPRoute() as route:
            await route.link("add", ifname="eth1", kind="veth", peer={"ifname": "far1"})
            new = LinkIndex(socket.if_nametoindex("eth1"))
            for name in ("eth1", "far1"):
                await route.link("set", index=socket.if_nametoindex(name), state="up")
            await route.link("del", index=index)
        may_close = threading.Event()
        with ThreadPoolExecutor(1) as thread:
            asyncio.get_running_loop().set_default_executor(thread)
            thread.submit(may_close.wait)
            listener.listen({index: OURS, new: OURS})
            assert packet_sockets() == 2 * sockets == 6, "the kernel is not waited for"
            may_close.set()
        assert packet_sockets() == 3
        is_heard = asyncio.Event()
        listener.tell(until_last(is_heard, []))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
            raw.sendto(LAST, ("far1", 0))
        await is_heard.wait()
        listener.close()

    with wire.inside(NODE) as index:
        asyncio.run(story(LinkIndex(index)))


def test_a_link_that_can_carry_nothing_is_not_listened_to_until_it_can(wire: Segment) -> None:
    other = build(mac(FOREIGN), ipv4(77)).frames[0]
    with mouth(wire) as sender, wire.inside(NODE) as index:
        seen: list[bytes] = []

        async def story() -> None:
            is_over = asyncio.Event()
            listener = Listener()
            listener.tell(until_last(is_over, seen))
            listener.listen({LinkIndex(index): OURS})
            listener.listen({})
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as all_of_it:  # ETH_P_ALL
                all_of_it.bind(("eth0", 3))
                for frame in (*build(mac(FOREIGN), VIP4).frames, ADVERT, other):
                    sender.send(frame)
                while all_of_it.recv(2048)[:42] != other:
                    pass
            listener.listen({LinkIndex(index): OURS})
            sender.send(LAST)
            await is_over.wait()
            listener.close()

        asyncio.run(story())
        assert seen == []


def test_too_many_addresses_get_a_coarse_filter(wire: Segment) -> None:
    many = frozenset(type(VIP4)(int(VIP4) + 4 * n) for n in range(1000))
    assert sieve.exact(0x0806, many) is None
    between = bytes(BROADCAST / ARP(op=1, hwsrc=mac(FOREIGN), psrc="192.0.2.11", pdst="192.0.2.12"))
    below = bytes(BROADCAST / ARP(op=1, hwsrc=mac(FOREIGN), psrc="192.0.2.9", pdst="192.0.2.12"))
    assert [str(each.address) for each in heard(wire, [between, below], many)] == ["192.0.2.11"]
