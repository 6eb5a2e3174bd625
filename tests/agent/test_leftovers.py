"""Links that stop being guarded: what a fence of ours left on them goes, on a real kernel."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent.segment import VIP4, can_speak
from lab.kernelcalls import entered, new_network
from vipagent import fences
from vipagent.announcer import Announcer
from vipagent.kernel import Kernel, KernelRefused
from vipagent.node import Node
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from vipagent.fences import AnyFence, Backend

pytestmark = pytest.mark.usefixtures("importable", "links")

WEB = VirtualIPPlan(
    uid="web-uid", name="web", addresses=(f"{VIP4}/24",), candidates=(CandidatePlan("node-a", 100),)
)
BACKENDS = pytest.mark.parametrize("backend", ["bpf", "nftables"])


@pytest.fixture
def links() -> Iterator[None]:
    """Stand in a namespace with eth0 (192.0.2.1/24), up, and a pod's link without an address."""
    network = new_network()
    with entered(network), IPRoute() as route:
        for near, far in (("eth0", "far0"), ("pod0", "inner0")):
            route.link("add", ifname=near, kind="veth", peer={"ifname": far})
            for name in (near, far):
                route.link("set", index=socket.if_nametoindex(name), state="up")
        route.addr("add", index=socket.if_nametoindex("eth0"), address="192.0.2.1", prefixlen=24)
        yield
    os.close(network)


async def become_a_port() -> None:
    """Make eth0 a port of a bridge that has its address from now on."""
    async with AsyncIPRoute() as route:
        await route.link("add", ifname="br0", kind="bridge")
        eth0, br0 = socket.if_nametoindex("eth0"), socket.if_nametoindex("br0")
        await route.addr("del", index=eth0, address="192.0.2.1", prefixlen=24)
        await route.link("set", index=eth0, master=br0)
        await route.link("set", index=br0, state="up")
        await route.addr("add", index=br0, address="192.0.2.1", prefixlen=24)


async def leave_the_bridge() -> None:
    async with AsyncIPRoute() as route:
        eth0 = socket.if_nametoindex("eth0")
        await route.link("set", index=eth0, master=0)
        await route.link("del", index=socket.if_nametoindex("br0"))
        await route.addr("add", index=eth0, address="192.0.2.1", prefixlen=24)


class Counted(Kernel):
    """Counts how often a link is relieved of what is left on it; refuses it when a test says so."""

    asked: tuple[int, ...] = ()
    refuses = False

    async def unguard(self, link_index: int, fence: AnyFence | None) -> bool:
        self.asked += (link_index,)
        if self.refuses:
            raise KernelRefused(f"cannot unguard link {link_index}: a test says so")
        return await super().unguard(link_index, fence)


def keep(backend: Backend, story: Callable[[Node, Counted], Awaitable[None]]) -> None:
    """Run a story with a keeper's node to whose plan WEB belongs; it leaves its fence behind."""

    async def tell() -> None:
        with fences.load(backend) as fence:
            async with asyncio.timeout(60), Counted.open() as kernel:
                assert isinstance(kernel, Counted)
                announcer = Announcer.open()
                node = Node(kernel=kernel, fence=fence, announcer=announcer)
                try:
                    await node.start_clean([WEB])
                    await node.look()
                    kernel.asked = ()
                    await story(node, kernel)
                finally:
                    await node.leave_clean()
                    announcer.close()

    asyncio.run(tell())


@BACKENDS
def test_a_link_that_becomes_a_port_is_guarded_no_more_and_again_when_it_is_none(backend: Backend) -> None:
    async def story(node: Node, _kernel: Counted) -> None:
        assert not can_speak("eth0")
        await become_a_port()
        await node.look()
        assert (can_speak("eth0"), can_speak("br0")) == (True, False)
        await leave_the_bridge()
        await node.look()
        assert not can_speak("eth0")

    keep(backend, story)


@BACKENDS
def test_a_new_keeper_takes_the_old_ones_fence_off_links_that_it_does_not_guard(backend: Backend) -> None:
    async def old(_node: Node, _kernel: Counted) -> None:
        assert not can_speak("eth0")

    async def new(_node: Node, _kernel: Counted) -> None:
        assert (can_speak("eth0"), can_speak("br0")) == (True, False)

    keep(backend, old)
    asyncio.run(become_a_port())
    assert not can_speak("eth0")
    keep(backend, new)


@BACKENDS
def test_a_look_asks_nothing_of_links_that_are_known_to_be_bare(backend: Backend) -> None:
    async def story(node: Node, kernel: Counted) -> None:
        await node.look()
        assert kernel.asked == ()
        await become_a_port()
        for _ in range(3):
            await node.look()
        assert kernel.asked == (socket.if_nametoindex("eth0"),)

    keep(backend, story)


def test_a_fence_that_cannot_be_taken_off_is_a_problem_until_it_is() -> None:
    async def story(node: Node, kernel: Counted) -> None:
        await become_a_port()
        kernel.refuses = True
        await node.look()
        assert [each.reason for each in node.problems()] == ["FenceLeftOver"]
        kernel.refuses = False
        await node.look()
        assert node.problems() == ()
        assert can_speak("eth0")

    keep("bpf", story)
