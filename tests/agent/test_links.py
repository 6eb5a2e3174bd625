"""Links that change under a held address, and hands that remove it: mended by the kernel's word alone.

No test here waits for a look that comes by itself: the node is told to make none within an hour, so what
is mended is mended because the kernel told of a change.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pyroute2 import AsyncIPRoute

from agent.ear import Ear
from agent.segment import NO_DAD, VIP4, VIP6
from lab.kernelcalls import entered, new_network
from vipagent.announcement import AGAIN_S
from vipagent.announcer import Announced, Announcer
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.node import Node
from vipagent.nodeview import Link, LinkIndex, NodeView, Rule, Way
from vipagent.rtnetlink import read_link
from vipagent.succession import key_of
from vipapi import routing
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from vipagent.nodeview import IPAddress

pytestmark = pytest.mark.usefixtures("importable")

WEB = VirtualIPPlan(
    uid="web-uid",
    name="web",
    addresses=(f"{VIP4}/24", f"{VIP6}/64"),
    candidates=(CandidatePlan("node-a", 100),),
    interface="lan0",
    rules=(routing.Rule(100, from_address=str(VIP4)),),
    announcement_count=1,
    announcement_refresh_s=3600,
)
AN_HOUR_S = 3600.0
NEAR, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:99"
LINKS_FILTERS_ADDRESSES_RULES = 0x1 | 0x8 | 0x10 | 0x100 | 0x80  # linux/rtnetlink.h: RTMGRP_…


async def plug_in(route: AsyncIPRoute, *, index: int = 20) -> None:
    """Make lan0 (192.0.2.1/24, 2001:db8::1/64) with its far end far0."""
    await route.link("add", ifname="lan0", kind="veth", peer={"ifname": "far0"}, address=NEAR, index=index)
    for name in ("lan0", "far0"):
        await route.link("set", index=socket.if_nametoindex(name), state="up")
    await own_addresses(route, index)


async def own_addresses(route: AsyncIPRoute, index: int = 20) -> None:
    await route.addr("replace", index=index, address="192.0.2.1", prefixlen=24)
    await route.addr("replace", index=index, address="2001:db8::1", prefixlen=64, flags=NO_DAD)


@pytest.fixture
def node() -> Iterator[None]:
    """Stand on a node with lan0."""

    async def make() -> None:
        async with AsyncIPRoute() as route:
            await plug_in(route)

    network = new_network()
    with entered(network):
        asyncio.run(make())
        yield
    os.close(network)


class Lasting(Kernel):
    """A kernel that takes no address away by itself: nobody renews them here, however slow the machine is."""

    async def bind(self, address: IPAddress, link_index: int, *, lifetime_s: int) -> None:
        await super().bind(address, link_index, lifetime_s=100 * lifetime_s)


class Held:
    """A node that holds WEB and follows the kernel's word; `looked` is set after each of its looks."""

    def __init__(self, node: Node, announcer: Announcer) -> None:
        self.node = node
        self.announcer = announcer
        self.looked = asyncio.Event()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until one of its looks, made because the kernel told it to, has shown that."""
        while not is_so():
            self.looked.clear()
            await self.looked.wait()

    def is_bound(self, index: int = 20) -> bool:
        link = self.node.view.link(index)
        bound = {each.ip for each in link.addresses if each.is_ours} if link else set()
        return bound == {VIP4, VIP6} and self.node.bound(key_of(WEB)) == (str(VIP4), str(VIP6))

    def reason(self) -> str:
        refusal = self.node.obstacles()[WEB.uid]
        return "" if refusal is None else refusal.reason

    def is_ready(self, index: int) -> bool:
        return all(self.announcer.is_ready(index, address) for address in (VIP4, VIP6))


@asynccontextmanager
async def holding(doors: type[Kernel] = Lasting) -> AsyncIterator[Held]:
    with Fence.load() as fence:
        async with asyncio.timeout(60), doors.open() as kernel:
            announcer = Announcer.open()
            node = Node(kernel=kernel, fence=fence, announcer=announcer, look_s=AN_HOUR_S)
            held = Held(node, announcer)
            await node.start_clean([WEB])
            node.open(key_of(WEB), WEB, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 600 * 10**9)
            await node.take(key_of(WEB))
            watching = asyncio.create_task(node.watch(held.looked.set))
            try:
                await held.until(lambda: held.is_bound() and held.is_ready(20))
                yield held
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await node.leave_clean()
                announcer.close()


def run(story: Callable[[Held, AsyncIPRoute], Awaitable[None]], doors: type[Kernel] = Lasting) -> None:
    """Run a test's story with a node that holds WEB and somebody else's hand on the same kernel."""

    async def tell() -> None:
        async with holding(doors) as held, AsyncIPRoute() as others:
            await story(held, others)

    asyncio.run(tell())


@asynccontextmanager
async def listening() -> AsyncIterator[Callable[[Callable[[str, int, str], bool]], Awaitable[list[str]]]]:
    """Give a function that collects what the kernel tells, in its order, until a message fits."""
    async with AsyncIPRoute() as events:
        await events.bind(groups=LINKS_FILTERS_ADDRESSES_RULES)

        async def collect(is_last: Callable[[str, int, str], bool]) -> list[str]:
            told: list[str] = []
            while True:
                async for message in events.get():
                    event, index = str(message.get("event")), int(message.get("index") or 0)
                    address = str(message.get("local") or message.get("address"))
                    told.append(f"{event} {address}" if "ADDR" in event else f"{event} {index}")
                    if is_last(event, index, address):
                        return told

        yield collect


@pytest.mark.parametrize("hand", ["one by one", "flush"])
@pytest.mark.usefixtures("node")
def test_a_removed_address_comes_back_by_the_kernels_word(hand: str) -> None:
    async def remove(others: AsyncIPRoute) -> None:
        if hand == "flush":
            await others.flush_addr(index=20)
            await own_addresses(others)
        else:
            await others.addr("delete", index=20, address=str(VIP4), prefixlen=32)
            await others.addr("delete", index=20, address=str(VIP6), prefixlen=128)

    async def story(held: Held, others: AsyncIPRoute) -> None:
        async with listening() as collect:
            with Ear() as ear:
                await remove(others)
                awaited = {str(VIP4), str(VIP6)}

                def is_last(event: str, _index: int, address: str) -> bool:
                    if event == "RTM_NEWADDR":
                        awaited.discard(address)
                    return not awaited

                told = await collect(is_last)
                for address in (VIP4, VIP6):
                    assert told.index(f"RTM_DELADDR {address}") < told.index(f"RTM_NEWADDR {address}")
                assert await ear.next() == NEAR
        await held.until(held.is_bound)
        assert held.reason() == ""

    run(story)


@pytest.mark.usefixtures("node")
def test_a_removed_rule_comes_back_by_the_kernels_word() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        rule = Rule(VIP4, 100, 1000)
        await held.until(lambda: rule in held.node.view.entries)
        async with listening() as collect:
            await others.rule("del", src=str(VIP4), src_len=32, table=100, priority=1000)
            told = await collect(lambda event, _index, _address: event == "RTM_NEWRULE")
        assert "RTM_DELRULE 0" in told
        await held.until(lambda: rule in held.node.view.entries)

    run(story)


@pytest.mark.usefixtures("node")
def test_a_lost_carrier_is_told_at_once_and_one_that_is_back_is_announced() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        far = socket.if_nametoindex("far0")
        await others.link("set", index=far, state="down")
        await held.until(lambda: held.reason() == "InterfaceDown")
        with Ear() as ear:
            await others.link("set", index=far, state="up")
            assert await ear.next() == NEAR
        await held.until(lambda: held.reason() == "" and held.is_bound())

    run(story)


@pytest.mark.usefixtures("node")
def test_a_carrier_that_flaps_makes_the_node_come_last() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        far = socket.if_nametoindex("far0")
        for _ in range(3):
            assert held.node.doubt(WEB.uid) is None
            await others.link("set", index=far, state="down")
            await held.until(lambda: held.reason() == "InterfaceDown")
            await others.link("set", index=far, state="up")
            await held.until(lambda: held.reason() == "")
        doubt = held.node.doubt(WEB.uid)
        assert doubt is not None
        assert "lan0" in doubt.message

    run(story)


@pytest.mark.usefixtures("node")
def test_a_renamed_interface_is_followed() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        await others.link("set", index=20, state="down")
        await others.link("set", index=20, ifname="old0")
        await others.link("set", index=20, state="up")
        await own_addresses(others)
        await held.until(lambda: held.reason() == "NoInterface")
        refusal = held.node.obstacles()[WEB.uid]
        assert refusal is not None
        assert "no interface lan0" in refusal.message
        await held.until(lambda: "old0" in str(held.node.obstacles()[WEB.uid]))
        await others.link("set", index=20, state="down")
        await others.link("set", index=20, ifname="lan0")
        with Ear() as ear:
            await others.link("set", index=20, state="up")
            await own_addresses(others)
            assert await ear.next() == NEAR
        await held.until(lambda: held.reason() == "" and held.is_bound())
        assert held.node.interface_of(WEB.uid) == "lan0"

    run(story)


@pytest.mark.usefixtures("node")
def test_an_interface_that_is_made_again_is_fenced_before_it_has_the_address() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        async with listening() as collect:
            await others.link("del", index=20)
            await plug_in(others, index=30)
            told = await collect(lambda event, _, address: (event, address) == ("RTM_NEWADDR", str(VIP4)))
        filters = [each for each in told if each == "RTM_NEWTFILTER 30"]
        assert len(filters) == 2
        assert told.index("RTM_DELLINK 20") < told.index("RTM_NEWTFILTER 30")
        await held.until(lambda: held.is_bound(30) and held.is_ready(30))
        assert held.reason() == ""
        with Ear() as ear:
            held.node.announce_again()
            assert await ear.next() == NEAR

    run(story)


@pytest.mark.usefixtures("node")
def test_a_changed_mac_address_is_announced_at_once_and_the_former_one_no_more() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        with Ear() as ear:
            await others.link("set", index=20, address=OTHER)
            assert await ear.next() == OTHER
        assert held.announcer.is_ready(20, VIP6)
        assert not await held.announcer.prepare(
            [Announced(LinkIndex(20), OTHER, ip_address(address)) for address in (str(VIP4), str(VIP6))]
        )

    run(story)


class Bonded(Lasting):
    """A kernel in which lan0 is an active-backup bond: veths, which every kernel has, stand in for one."""

    active_port = 101

    async def observe(self) -> NodeView:
        view = await super().observe()
        return replace(
            view,
            links=tuple(
                replace(link, kind="bond", active_port=LinkIndex(self.active_port))
                if link.name == "lan0"
                else link
                for link in view.links
            ),
        )


@pytest.mark.usefixtures("node")
def test_a_bond_with_another_active_port_is_announced_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        with Ear() as ear:
            await others.link("set", index=20, mtu=1400)
            held.looked.clear()
            await held.looked.wait()
            assert ear.all() == []
            monkeypatch.setattr(Bonded, "active_port", 102)
            await others.link("set", index=20, mtu=1300)
            assert await ear.next() == NEAR

    run(story, Bonded)


@pytest.mark.usefixtures("node")
def test_what_changes_again_and_again_is_announced_at_a_bounded_rate() -> None:
    async def story(held: Held, _others: AsyncIPRoute) -> None:
        index = LinkIndex(20)
        marker = ip_address("192.0.2.77")
        await held.announcer.prepare(
            [Announced(index, NEAR, ip_address(address)) for address in (str(VIP4), str(VIP6), str(marker))]
        )
        with Ear() as ear:
            started_s = time.monotonic()
            for _ in range(500):
                held.node.announce_again()
                await asyncio.sleep(0)
            assert held.announcer.announce(index, [marker]) == ()
            elapsed_s = time.monotonic() - started_s
            heard = ear.all()
        assert heard[-1] == str(marker)
        announcements = heard.count(str(VIP4)) / 2  # a request and a reply each
        assert 1 <= announcements <= 2 + elapsed_s / AGAIN_S

    run(story)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def new_link(index: int, name: str, kind: str, *attributes: bytes, facts: bytes = b"") -> bytes:
    """Encode RTM_NEWLINK without its header (linux/if_link.h); `facts` are those of its kind."""
    up_with_carrier = 0x1 | 0x10000
    info = attribute(1, kind.encode() + b"\0") + (attribute(2, facts) if facts else b"")
    return (
        struct.pack("=BxHiII", 0, 1, index, up_with_carrier, 0)
        + attribute(1, bytes.fromhex("020000000005"))
        + attribute(3, name.encode() + b"\0")
        + b"".join(attributes)
        + attribute(18, info)
    )


# IFLA_BOND_MODE, _ACTIVE_SLAVE and _PRIMARY (linux/if_link.h).
BOND_MODE, ACTIVE_3 = attribute(1, b"\x01"), attribute(2, struct.pack("=I", 3))
PRIMARY_4 = attribute(11, struct.pack("=I", 4))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            new_link(5, "bond0", "bond", facts=BOND_MODE + ACTIVE_3 + PRIMARY_4),
            {"kind": "bond", "active_port": 3},
            id="an active-backup bond whose primary port is not the active one",
        ),
        pytest.param(
            new_link(5, "bond0", "bond", facts=BOND_MODE + PRIMARY_4),
            {"kind": "bond", "active_port": None},
            id="an active-backup bond without a port that has a carrier",
        ),
        pytest.param(
            new_link(5, "bond0", "bond", facts=attribute(1, b"\x04")),
            {"kind": "bond", "active_port": None},
            id="a bond whose ports all carry",
        ),
        pytest.param(
            new_link(5, "bond0.7", "vlan", attribute(5, struct.pack("=I", 4))),
            {"kind": "vlan", "lower": 4},
            id="a VLAN",
        ),
        pytest.param(
            new_link(5, "mv0", "macvlan", attribute(5, struct.pack("=I", 4)), attribute(37, bytes(4))),
            {"kind": "macvlan", "lower": None},
            id="a macvlan on a link of another namespace",
        ),
        pytest.param(
            new_link(5, "veth0", "veth", attribute(5, struct.pack("=I", 4))),
            {"kind": "veth", "lower": None},
            id="a veth, which stands on nothing",
        ),
    ],
)
def test_a_link_says_what_it_stands_on(message: bytes, expected: dict[str, object]) -> None:
    link = read_link(message)
    assert {name: getattr(link, name) for name in expected} == expected
    assert (link.name, link.index, link.mac, link.is_up) == (link.name, 5, "02:00:00:00:00:05", True)


def standing(index: int, kind: str = "", **facts: int | bool | None) -> Link:
    defaults: dict[str, object] = {"is_up": True}
    return Link(f"l{index}", LinkIndex(index), f"02:{index:02}", kind=kind, **(defaults | facts))  # type: ignore[arg-type]


ON = LinkIndex(9)
BY_2 = Way("02:09", frozenset({LinkIndex(2)}))
BOND = standing(4, "bond", active_port=2)
PORTS = (standing(2, master=4), standing(3, master=4))


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        pytest.param((standing(9),), Way("02:09"), id="a plain link"),
        pytest.param((), None, id="none"),
        pytest.param((standing(9, is_up=False),), None, id="one that is down"),
        pytest.param((standing(9, "vlan", lower=2), *PORTS), Way("02:09"), id="a VLAN"),
        pytest.param(
            (standing(9, "vlan", lower=4), BOND, *PORTS),
            BY_2,
            id="a VLAN on a bond",
        ),
        pytest.param(
            (
                standing(9, "bridge"),
                replace(BOND, master=ON),
                *PORTS,
                standing(7, "veth", master=9),
            ),
            BY_2,
            id="a bridge with a bond and a guest",
        ),
        pytest.param(
            (standing(9, "bridge"), replace(BOND, master=ON, is_up=False), *PORTS),
            Way("02:09"),
            id="a bridge with a bond that is down",
        ),
        pytest.param(
            (standing(9, "vlan", lower=8), standing(8, "vlan", lower=9)),
            Way("02:09"),
            id="one in a circle",
        ),
    ],
)
def test_a_link_s_way_out_is_its_mac_address_and_the_active_ports_beneath(
    links: tuple[Link, ...], expected: Way | None
) -> None:
    assert NodeView(links).way(9) == expected
