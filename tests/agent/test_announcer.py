"""The announcer on a real link: what it prepares and what leaves."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from agent.segment import VIP4, VIP6
from lab.kernelcalls import entered, new_network
from vipagent.announcer import Announced, Announcer, FramesUnavailable
from vipagent.fence import Fence
from vipagent.frames import build
from vipagent.kernel import Kernel
from vipagent.nodeview import GuardRole, LinkIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

MAC = "02:00:00:00:00:01"
GATEWAY4 = ip_address("192.0.2.254")


@pytest.fixture
def wire() -> Iterator[tuple[LinkIndex, socket.socket]]:
    """A link, and the ear at its other end, in a namespace of its own."""
    network = new_network()
    with entered(network), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"}, address=MAC)
        for name in ("eth0", "far0"):
            route.link("set", index=socket.if_nametoindex(name), state="up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear:  # ETH_P_ALL
            ear.bind(("far0", 0))
            ear.settimeout(0)
            yield LinkIndex(socket.if_nametoindex("eth0")), ear
    os.close(network)


def heard(ear: socket.socket) -> set[bytes]:
    frames = set()
    while True:
        try:
            frames.add(ear.recv(2048))
        except BlockingIOError:
            return frames


@pytest.fixture
def announcer() -> Iterator[Announcer]:
    made = Announcer.open()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def test_what_was_prepared_leaves_at_once(wire: tuple[LinkIndex, socket.socket]) -> None:
    index, ear = wire
    announcer = Announcer.open()
    wanted = [Announced(index, MAC, VIP4, GATEWAY4), Announced(index, MAC, VIP6)]
    asyncio.run(announcer.prepare(wanted))
    heard(ear)
    before_ns = time.perf_counter_ns()
    assert announcer.announce(index, [VIP4, VIP6]) == ()
    took_us = (time.perf_counter_ns() - before_ns) / 1000
    sys.stdout.write(f"announced two addresses in {took_us:.0f} us\n")
    ipv4, ipv6 = build(MAC, VIP4, GATEWAY4), build(MAC, VIP6)
    frames = heard(ear)
    assert {*ipv4.frames, *ipv6.frames} <= frames
    assert ipv4.question not in frames
    assert announcer.announce(index, [VIP4], asks_gateway=True) == ()
    assert {*ipv4.frames, ipv4.question} <= heard(ear)
    announcer.close()


def test_what_was_not_prepared_is_told(wire: tuple[LinkIndex, socket.socket], announcer: Announcer) -> None:
    index, _ = wire
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP4)]))
    assert announcer.announce(index, [VIP6, VIP4]) == (VIP6,)
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP6)]))
    assert announcer.announce(index, [VIP4, VIP6]) == (VIP4,)


def test_a_link_with_a_new_mac_address_is_prepared_anew(wire: tuple[LinkIndex, socket.socket]) -> None:
    index, ear = wire
    announcer = Announcer.open()
    for mac in (MAC, "02:00:00:00:00:02"):
        asyncio.run(announcer.prepare([Announced(index, mac, VIP4)]))
        heard(ear)
        assert announcer.announce(index, [VIP4]) == ()
        assert set(build(mac, VIP4).frames) <= heard(ear)
    announcer.close()


def test_a_failed_preparation_says_why_and_loses_nothing(
    wire: tuple[LinkIndex, socket.socket], announcer: Announcer
) -> None:
    index, _ = wire
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP4)]))
    wanted = [Announced(index, MAC, VIP4), Announced(index, "nonsense", VIP6)]
    with pytest.raises(FramesUnavailable, match=r"no frames for 2001:db8::10 \(nonsense\)"):
        asyncio.run(announcer.prepare(wanted))
    assert announcer.announce(index, [VIP4, VIP6]) == (VIP6,)


def test_a_builder_that_cannot_start_is_told() -> None:
    announcer = Announcer.open((sys.executable, "-m", "vipagent.no_such_module"))
    with pytest.raises(
        FramesUnavailable, match=r"the process that builds frames ended with 1: .*no_such_module"
    ):
        asyncio.run(announcer.prepare([Announced(LinkIndex(1), MAC, VIP4)]))
    announcer.close()


def test_a_builder_that_nobody_waits_for_any_more_is_ended() -> None:
    async def story() -> int:
        is_free = threading.Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.ensure_future(asyncio.to_thread(is_free.wait))
        preparing = asyncio.create_task(announcer.prepare([Announced(LinkIndex(1), MAC, VIP4)]))
        await asyncio.sleep(0)
        (child,) = children()
        preparing.cancel()
        await asyncio.sleep(0)
        is_free.set()
        await busy
        with pytest.raises(asyncio.CancelledError):
            await preparing
        return child

    def children() -> list[int]:
        found = Path("/proc/thread-self/children").read_text().split()
        return [int(child) for child in found if child not in before]

    announcer = Announcer.open((sys.executable, "-c", "import time; time.sleep(60)"))
    before: list[str] = []
    before = [str(child) for child in children()]
    child = asyncio.run(story())
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
    announcer.close()


def test_a_closed_fence_or_a_link_that_is_gone_is_a_lost_frame_and_no_exception(
    wire: tuple[LinkIndex, socket.socket],
) -> None:
    async def guard(index: int, fence: Fence) -> None:
        async with Kernel.open() as kernel:
            await kernel.guard(index, fence, GuardRole.CARRIER)

    index, ear = wire
    announcer = Announcer.open()
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP4), Announced(LinkIndex(9999), MAC, VIP6)]))
    with Fence.load() as fence:
        fence.close([VIP4])
        asyncio.run(guard(index, fence))
        heard(ear)
        assert announcer.announce(index, [VIP4]) == (VIP4,)
        assert announcer.announce(9999, [VIP6]) == (VIP6,)
        assert not set(build(MAC, VIP4).frames) & heard(ear)
        fence.admit([VIP4], time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**12)
        assert announcer.announce(index, [VIP4]) == ()
        assert set(build(MAC, VIP4).frames) <= heard(ear)
    announcer.close()
