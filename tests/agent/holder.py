"""A process that holds both test addresses on eth0 for a while, as a keeper would, and then does nothing.

Arguments: for how many milliseconds the fence is to be open, and which one. Prints the deadline
(CLOCK_BOOTTIME, ns).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import time

from agent.segment import VIP4, VIP6
from vipagent import fences
from vipagent.kernel import Kernel
from vipagent.nodeview import GuardRole


async def hold(open_ms: int, backend: fences.Backend) -> None:
    index = socket.if_nametoindex("eth0")
    fence = fences.load(backend)
    async with Kernel.open() as kernel:
        fence.close([VIP4, VIP6])
        await kernel.guard(index, fence, GuardRole.CARRIER)
        for address in (VIP4, VIP6):
            await kernel.bind(address, index, lifetime_s=60)
        deadline_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + open_ms * 1_000_000
        fence.admit([VIP4, VIP6], deadline_ns)
        sys.stdout.write(f"{deadline_ns}\n")
        sys.stdout.flush()
        signal.pause()


if __name__ == "__main__":
    asyncio.run(hold(int(sys.argv[1]), sys.argv[2]))  # type: ignore[arg-type]
