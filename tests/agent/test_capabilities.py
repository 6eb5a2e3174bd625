"""With nothing but its three capabilities a keeper can do all that it does to the kernel."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys

from pyroute2 import IPRoute

from lab.kernelcalls import entered, new_network

TRIAL = """
import asyncio, socket, time
from agent import tcx
from agent.segment import VIP4, VIP6
from agent.test_capabilities import keep_only
from vipagent.announcer import Announcer
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.nodeview import GuardRole

async def work():
    index = socket.if_nametoindex("eth0")
    tcx.attach_first(index, tcx.INGRESS)
    keep_only(12, 13, 39)
    async with Kernel.open() as kernel:
        for role in (*GuardRole, *GuardRole):
            fence = Fence.load()
            fence.close([VIP4, VIP6])
            await kernel.guard(index, fence, role)
            assert await kernel.guarded(index, fence, role) is None
        for address in (VIP4, VIP6):
            await kernel.bind(address, index, lifetime_s=3)
            fence.admit([address], time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**9)
            await kernel.unbind(address, index)
            fence.forget(address)
        await kernel.observe()
    Announcer.open().close()

asyncio.run(work())
print("worked")
"""


def keep_only(*capabilities: int) -> None:
    """Give up every capability but these (capset(2), version 3)."""
    kept = sum(1 << each for each in capabilities)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = struct.pack("=Ii", 0x20080522, 0)
    values = struct.pack("=IIIIII", low, low, 0, high, high, 0)
    assert ctypes.CDLL(None).capset(header, values) == 0


def test_three_capabilities_are_enough() -> None:
    network = new_network()
    with entered(network):
        with IPRoute() as route:
            route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"})
        ran = subprocess.run(
            [sys.executable, "-c", TRIAL],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    os.close(network)
    assert (ran.stdout, ran.stderr) == ("worked\n", "")
