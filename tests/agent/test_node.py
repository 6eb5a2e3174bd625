"""A node's held addresses on a real kernel: where they are and how they are announced follows the plan."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from pyroute2 import IPRoute

from agent.segment import VIP4
from lab.kernelcalls import entered, new_network
from vipagent.announcer import Announcer
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.node import Node
from vipagent.succession import key_of
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

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


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


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


def holding(story: Callable[[Node, bytes], Awaitable[None]]) -> None:
    """Run a test's story with a node that has taken WEB on eth0."""

    async def tell() -> None:
        with Fence.load() as fence:
            async with asyncio.timeout(30), Kernel.open() as kernel:
                announcer = Announcer.open()
                node = Node(kernel=kernel, fence=fence, announcer=announcer)
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
