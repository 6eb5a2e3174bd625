"""With nothing but its few capabilities a keeper can do all that it does to the kernel."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys

import pytest
from pyroute2 import IPRoute

from lab.kernelcalls import entered, new_network

TRIAL = """
import asyncio, socket, sys, time
from agent import tcx
from agent.segment import VIP4, VIP6
from agent.test_capabilities import keep_only
from vipagent.announcer import Announcer
from vipagent import fences
from vipagent.kernel import Kernel
from vipagent.nodeview import GuardRole

async def work():
    index = socket.if_nametoindex("eth0")
    if sys.argv[1] == "bpf":
        tcx.attach_first(index, tcx.INGRESS)
    keep_only(*map(int, sys.argv[2:]))
    async with Kernel.open() as kernel:
        for role in (*GuardRole, *GuardRole):
            fence = fences.load(sys.argv[1])
            fence.close([VIP4, VIP6])
            await kernel.guard(index, fence, role)
            assert await kernel.guarded(index, fence, role) is None
        for address in (VIP4, VIP6):
            await kernel.bind(address, index, lifetime_s=3)
            fence.admit([address], time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**9)
            await kernel.unbind(address, index)
            fence.forget_all([address])
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


@pytest.mark.parametrize(
    "needed",
    [
        pytest.param(("bpf", "12", "13", "39"), id="BPF"),
        pytest.param(("nftables", "12", "13"), id="nftables"),
    ],
)
def test_a_few_capabilities_are_enough(needed: tuple[str, ...]) -> None:
    network = new_network()
    with entered(network):
        with IPRoute() as route:
            route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"})
        ran = subprocess.run(
            [sys.executable, "-c", TRIAL, *needed],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    os.close(network)
    assert (ran.stdout, ran.stderr) == ("worked\n", "")
