"""A node's held addresses on a real kernel: where they are and how they are announced follows the plan."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
import time
from ipaddress import ip_interface
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent import tcx
from agent.segment import VIP4
from lab.kernelcalls import entered, new_network
from vipagent import fences
from vipagent.announcer import Announcer, maker
from vipagent.disk import Disk
from vipagent.fence import Fence
from vipagent.frames import build
from vipagent.kernel import Kernel, KernelRefused
from vipagent.node import LOOK_S, Node
from vipagent.packetfence import MAX_ADDRESSES, TOO_MANY
from vipagent.plan import LIFETIME_S
from vipagent.stock import Built
from vipagent.succession import key_of
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from vipagent.nftfence import NftFence
    from vipagent.nodeview import GuardRole, IPAddress, NodeView

pytestmark = pytest.mark.usefixtures("importable")

WEB = VirtualIPPlan(
    uid="web-uid",
    name="web",
    addresses=(f"{VIP4}/24",),
    candidates=(CandidatePlan("node-a", 100),),
    interface="eth0",
    announcement_count=1,
    announcement_refresh_s=60,
)
ETH_P_ARP = 0x0806
INGRESS = 0xFFFFFFF2


@pytest.fixture
def links() -> Iterator[None]:
    """Stand in a namespace with eth0 (192.0.2.1/24) and eth1 (198.51.100.1/24), up, and their far ends."""
    network = new_network()
    with entered(network), IPRoute() as route:
        for number, address in enumerate(("192.0.2.1", "198.51.100.1")):
            near, far = f"eth{number}", f"far{number}"
            route.link("add", ifname=near, kind="veth", peer={"ifname": far})
            for name in (near, far):
                route.link("set", index=socket.if_nametoindex(name), state="up")
            route.addr("add", index=socket.if_nametoindex(near), address=address, prefixlen=24)
        yield
    os.close(network)


def holding(story: Callable[[Node, bytes], Awaitable[None]], look_s: float = LOOK_S) -> None:
    """Run a test's story with a node that has taken WEB on eth0."""

    async def tell() -> None:
        with Fence.load() as fence:
            async with asyncio.timeout(30), Kernel.open() as kernel:
                announcer = Announcer.open()
                node = Node(kernel=kernel, fence=fence, announcer=announcer, look_s=look_s)
                await node.start_clean([WEB])
                node.open(key_of(WEB), WEB, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9)
                await node.take(key_of(WEB))
                try:
                    await story(node, key_of(WEB))
                finally:
                    await node.leave_clean()
                    announcer.close()

    asyncio.run(tell())


async def until(node: Node, is_so: Callable[[], bool]) -> None:
    await node.look()
    while not is_so():
        await asyncio.sleep(0.02)
        await node.look()


def places(node: Node) -> list[str]:
    return [link.name for link in node.view.links if any(bound.ip == VIP4 for bound in link.addresses)]


@pytest.mark.usefixtures("links")
def test_a_held_address_goes_to_the_interface_that_the_plan_names_now() -> None:
    async def story(node: Node, key: bytes) -> None:
        await until(node, lambda: places(node) == ["eth0"])
        node.plan([msgspec.structs.replace(WEB, interface="eth1")])
        await until(node, lambda: places(node) == ["eth1"])
        assert node.bound(key) == (str(VIP4),)

    holding(story)


class Blinded(Kernel):
    """One that cannot be looked at, or slowly, when a test says so."""

    is_blind = False
    takes_s = 0.0
    looks = 0

    async def observe(self) -> NodeView:
        self.looks += 1
        if self.is_blind:
            raise KernelRefused("cannot look at the kernel: a test says so")
        await asyncio.sleep(self.takes_s)
        return await super().observe()


Change: TypeAlias = "Callable[[], Awaitable[None]]"
Watch: TypeAlias = "asyncio.Task[None]"


def watching(story: Callable[[Blinded, Change, Watch], Awaitable[None]], *, look_s: float) -> None:
    """Run a story with a node that watches, a way to make one more change on it, and its watch."""

    async def tell() -> None:
        with Fence.load() as fence:
            async with asyncio.timeout(30), Blinded.open() as kernel, AsyncIPRoute() as route:
                assert isinstance(kernel, Blinded)
                announcer = Announcer.open()
                node = Node(kernel=kernel, fence=fence, announcer=announcer, look_s=look_s)
                await node.start_clean([])
                mtus = itertools.cycle((1400, 1500))

                async def change() -> None:
                    await route.link("set", index=socket.if_nametoindex("eth1"), mtu=next(mtus))

                watch = asyncio.create_task(node.watch(lambda: None))
                try:
                    await story(kernel, change, watch)
                finally:
                    watch.cancel()
                    await asyncio.gather(watch, return_exceptions=True)
                    await node.leave_clean()
                    announcer.close()

    asyncio.run(tell())


@pytest.mark.usefixtures("links")
def test_many_changes_do_not_make_a_short_blindness_a_long_one() -> None:
    async def story(kernel: Blinded, change: Change, watch: Watch) -> None:
        kernel.is_blind = True
        before = kernel.looks
        while kernel.looks < before + 50:
            await change()
        kernel.is_blind = False
        await change()
        assert not watch.done()

    watching(story, look_s=3600)


@pytest.mark.usefixtures("links")
def test_a_node_that_cannot_be_looked_at_for_long_is_given_up() -> None:
    async def story(kernel: Blinded, _change: Change, watch: Watch) -> None:
        kernel.is_blind = True
        with pytest.raises(KernelRefused, match="a test says so"):
            await watch

    watching(story, look_s=0.01)


@pytest.mark.usefixtures("links")
def test_looking_leaves_at_least_half_of_the_time_to_what_changes() -> None:
    async def story(kernel: Blinded, change: Change, watch: Watch) -> None:
        kernel.takes_s = 0.08
        before, since_s = kernel.looks, time.monotonic()
        while kernel.looks < before + 10:
            await change()
        assert time.monotonic() - since_s >= 9 * 2 * kernel.takes_s
        assert not watch.done()

    watching(story, look_s=3600)


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("deed", ["a filter", "clsact", "a program before it"])
def test_what_others_do_to_the_fence_is_mended_at_once_and_told(deed: str) -> None:
    async def story(node: Node, _key: bytes) -> None:
        index = socket.if_nametoindex("eth0")
        await until(node, lambda: places(node) == ["eth0"])
        assert node.problems() == ()
        looked = asyncio.Event()
        watching = asyncio.create_task(node.watch(looked.set))
        async with AsyncIPRoute() as route:
            if deed == "a filter":
                await route.tc("del-filter", "bpf", index, 0x76, parent=INGRESS, prio=1)
            elif deed == "clsact":
                await route.tc("del", "clsact", index)
            else:
                tcx.attach_first(index, tcx.INGRESS)
                await route.link("set", index=index, mtu=1400)  # tcx tells nobody; the next look finds it
        while [problem.reason for problem in node.problems()] != ["FenceRemoved"]:
            looked.clear()
            await looked.wait()
        assert not any(node._guards.values())  # noqa: SLF001 - what the fence's last reading was
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    holding(story, look_s=3600)


@pytest.mark.usefixtures("links")
def test_a_link_that_goes_during_a_look_was_not_robbed() -> None:
    class Hasty(Kernel):
        doomed: int | None = None

        async def observe(self) -> NodeView:
            view = await super().observe()
            if self.doomed is not None:
                async with AsyncIPRoute() as route:
                    await route.link("del", index=self.doomed)
                self.doomed = None
            return view

    async def story() -> None:
        with Fence.load() as fence:
            async with asyncio.timeout(30), Hasty.open() as kernel:
                announcer = Announcer.open()
                node = Node(kernel=kernel, fence=fence, announcer=announcer)
                await node.start_clean([WEB])
                await node.look()
                assert node.problems() == ()
                kernel.doomed = socket.if_nametoindex("eth1")
                await node.look()
                assert "FenceRemoved" not in [problem.reason for problem in node.problems()]
                await node.leave_clean()
                announcer.close()

    asyncio.run(story())


@pytest.mark.usefixtures("links")
def test_sets_are_extended_in_one_change_of_the_fence() -> None:
    async def story(node: Node, key: bytes) -> None:
        other = msgspec.structs.replace(WEB, uid="other-uid", addresses=("192.0.2.77/24",))
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        node.open(key_of(other), other, now_ns)
        first = node.extend([key, key_of(other)], now_ns + 90 * 10**9)
        assert first[key_of(other)] == now_ns
        again = node.extend([key_of(other), key], now_ns + 91 * 10**9)
        assert again == dict.fromkeys(first, now_ns + 90 * 10**9)

    holding(story)


@pytest.mark.usefixtures("links")
def test_a_held_address_is_announced_as_the_plan_says_now() -> None:
    async def story(node: Node, _key: bytes) -> None:
        hear = asyncio.get_running_loop().sock_recv
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as ear:
            ear.bind(("far0", 0))
            ear.settimeout(0)
            await until(node, lambda: places(node) == ["eth0"])
            built = [await asyncio.wait_for(hear(ear, 2048), 10) for _ in range(2)]
            node.plan([msgspec.structs.replace(WEB, announcement_refresh_s=1)])
            repeated = [await asyncio.wait_for(hear(ear, 2048), 5) for _ in range(2)]
            assert repeated == built

    holding(story)


@pytest.mark.usefixtures("links")
def test_an_address_that_was_announced_here_once_can_be_carried_as_soon_as_it_is_planned(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        with Fence.load() as fence:
            async with asyncio.timeout(30), Kernel.open() as kernel:
                (mac,) = [link.mac for link in (await kernel.observe()).links if link.name == "eth0"]
                made = build(mac, VIP4)
                disk = Disk(tmp_path)
                disk.store_frames([Built(mac, VIP4, None, made.frames, made.probe, None)], maker())
                nothing_is_built = (sys.executable, "-m", "vipagent.no_such_module")
                announcer = Announcer.open(nothing_is_built, disk=disk)
                node = Node(kernel=kernel, fence=fence, announcer=announcer)
                await node.start_clean([WEB])
                assert node.obstacles() == {WEB.uid: None}
                node.plan([])
                await until(node, lambda: not announcer.is_ready(socket.if_nametoindex("eth0"), VIP4))
                node.plan([WEB])
                await node.look()
                assert node.obstacles() == {WEB.uid: None}
                await node.leave_clean()
                announcer.close()

    asyncio.run(story())


class Mute(Kernel):
    """One whose answer to a request to bind is lost when a test says so; a look may pass meanwhile."""

    is_mute = False
    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def bind(self, address: IPAddress, link_index: int, *, lifetime_s: int) -> None:
        await super().bind(address, link_index, lifetime_s=lifetime_s)
        if self.is_mute:
            self.is_mute = False
            if self.meanwhile is not None:
                await self.meanwhile()
            raise KernelRefused(f"cannot bind {address}: a test says that it did not answer")


def muted(folder: Path, story: Callable[[Node, Mute, socket.socket], Awaitable[None]]) -> None:
    """Run a story with a node that can announce WEB at once, and an ear at the far end of its link."""

    async def tell() -> None:
        with Fence.load() as fence, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as ear:
            async with asyncio.timeout(30), Mute.open() as kernel:
                assert isinstance(kernel, Mute)
                (mac,) = [link.mac for link in (await kernel.observe()).links if link.name == "eth0"]
                made = build(mac, VIP4)
                disk = Disk(folder)
                disk.store_frames([Built(mac, VIP4, None, made.frames, made.probe, None)], maker())
                announcer = Announcer.open((sys.executable, "-m", "vipagent.no_such_module"), disk=disk)
                node = Node(kernel=kernel, fence=fence, announcer=announcer)
                await node.start_clean([WEB])
                assert node.obstacles() == {WEB.uid: None}
                ear.bind(("far0", ETH_P_ARP))
                ear.settimeout(0)
                try:
                    await story(node, kernel, ear)
                finally:
                    await node.leave_clean()
                    announcer.close()

    asyncio.run(tell())


async def hear(ear: socket.socket) -> None:
    await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ear, 2048), 5)


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("has_looked", [False, True], ids=["the next look", "a look meanwhile"])
def test_an_address_whose_binding_was_not_answered_is_held_and_announced_once_a_look_shows_it(
    tmp_path: Path, *, has_looked: bool
) -> None:
    async def story(node: Node, kernel: Mute, ear: socket.socket) -> None:
        kernel.is_mute = True
        if has_looked:
            kernel.meanwhile = node.look
        node.open(key_of(WEB), WEB, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9)
        await node.take(key_of(WEB))
        if not has_looked:
            await node.look()
        assert node.obstacles() == {WEB.uid: None}
        await hear(ear)

    muted(tmp_path, story)


@pytest.mark.usefixtures("links")
def test_a_renewal_that_was_not_answered_leaves_the_node_fit(tmp_path: Path) -> None:
    async def story(node: Node, kernel: Mute, ear: socket.socket) -> None:
        node.open(key_of(WEB), WEB, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9)
        await node.take(key_of(WEB))
        await hear(ear)
        await kernel.bind(VIP4, socket.if_nametoindex("eth0"), lifetime_s=LIFETIME_S // 2)
        kernel.is_mute = True
        await node.look()
        assert not kernel.is_mute
        assert node.obstacles() == {WEB.uid: None}

    muted(tmp_path, story)


@pytest.mark.usefixtures("links")
def test_an_address_that_is_not_bound_and_was_refused_is_an_obstacle(tmp_path: Path) -> None:
    async def story(node: Node, kernel: Mute, _ear: socket.socket) -> None:
        async def remove() -> None:
            await kernel.unbind(VIP4, socket.if_nametoindex("eth0"))

        kernel.is_mute, kernel.meanwhile = True, remove
        node.open(key_of(WEB), WEB, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 60 * 10**9)
        await node.take(key_of(WEB))
        refusal = node.obstacles()[WEB.uid]
        assert refusal is not None
        assert refusal.reason == "BindRefused"

    muted(tmp_path, story)


@pytest.mark.usefixtures("links")
def test_what_fails_at_every_look_is_said_once_and_again_when_it_fails_otherwise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stubborn(Kernel):
        why = "one thing"

        async def guard(self, link_index: int, fence: Fence | NftFence, role: GuardRole) -> None:
            raise KernelRefused(f"cannot guard link {link_index} ({role}, {fences.kind(fence)}): {self.why}")

    def said(why: str) -> int:
        return sum(record.getMessage().endswith(f": {why}; it is tried again") for record in caplog.records)

    async def story() -> None:
        with Fence.load() as fence:
            async with asyncio.timeout(30), Stubborn.open() as kernel:
                assert isinstance(kernel, Stubborn)
                announcer = Announcer.open()
                node = Node(kernel=kernel, fence=fence, announcer=announcer)
                await node.start_clean([])
                for why in ("one thing", "another", "one thing"):
                    kernel.why = why
                    for _ in range(3):
                        await node.look()
                await node.leave_clean()
                announcer.close()

    asyncio.run(story())
    assert (said("one thing"), said("another")) == (2 * 2, 2)


def filling(net: int, count: int) -> VirtualIPPlan:
    """A VirtualIP with many addresses that this node cannot carry: no frames are built for them."""
    return VirtualIPPlan(
        uid=f"{net}-uid",
        name=f"net-{net}",
        addresses=tuple(f"10.{net}.{number >> 8}.{number & 255}" for number in range(count)),
        candidates=(CandidatePlan("node-a", 100),),
        interface="eth9",
    )


def addresses_of(*vips: VirtualIPPlan) -> set[IPAddress]:
    return {ip_interface(text).ip for vip in vips for text in vip.addresses}


@pytest.mark.usefixtures("links")
def test_a_plan_may_take_the_place_of_another_that_filled_the_fence() -> None:
    async def story(node: Node, _key: bytes) -> None:
        fence = node._fence  # noqa: SLF001 - what it knows is what matters
        for net in (1, 2):
            vip = filling(net, MAX_ADDRESSES - 1)
            node.plan([WEB, vip])
            assert fence.addresses == addresses_of(WEB, vip)

    holding(story)


@pytest.mark.usefixtures("links")
def test_what_is_bound_keeps_its_place_in_a_full_fence_and_what_has_none_is_not_taken() -> None:
    async def story(node: Node, key: bytes) -> None:
        fence = node._fence  # noqa: SLF001 - what it knows is what matters
        late = msgspec.structs.replace(WEB, uid="late-uid", addresses=("192.0.2.77/24",))
        vip = filling(1, MAX_ADDRESSES - 1)
        node.plan([vip, late])
        assert fence.addresses == addresses_of(WEB, vip)
        await node.look()
        assert fence.addresses == addresses_of(WEB, vip)
        refusal = node.obstacles()[late.uid]
        assert refusal is not None
        assert (refusal.reason, TOO_MANY in refusal.message) == ("FenceMissing", True)
        node.close(key)
        await node.leave(key)
        await until(node, lambda: fence.addresses == addresses_of(vip, late))
        assert "fence" not in str(node.obstacles()[late.uid])

    holding(story)
