"""The node of the fence's bench: `python -m lab.fencenode hold|stand-by|rob|succeed FENCE...`.

Each is a process of its own in the node's network namespace, told what to do line by line, so that it can be
frozen, killed or on another processor than the client. It prints `ready`, and then an answer to each line:

    hold      a line is for how many ms the addresses are to be open; the answer is the deadline
    stand-by  what a keeper has of its node without any lease, until the lines end
    rob       a line is what to take away of the fence, and when; the answer is when that began and was done
    succeed   a line is how many keepers are to follow each other, each with the next of the fences

Times are CLOCK_BOOTTIME in nanoseconds.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import sys
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute

from vipagent import fences, nftables, realtime
from vipagent.announcer import Announcer
from vipagent.kernel import Kernel
from vipagent.nftables import Message
from vipagent.nftfence import NftFence
from vipagent.node import Node
from vipagent.nodeview import GuardRole
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from vipagent.fences import AnyFence

BPF, NFTABLES, LOOSE = "bpf", "nftables", "nftables-loose"
"""The fences: the last is nftables on a kernel where nobody owns a table."""

VIPS: Final = (ip_address("192.0.2.10"), ip_address("2001:db8::10"))
PLAN: Final = VirtualIPPlan(
    uid="bench",
    name="bench",
    addresses=tuple(f"{vip}/{24 if vip.version == 4 else 64}" for vip in VIPS),
    candidates=(CandidatePlan("node-a", 100),),
    interface="eth0",
)
MILLISECOND: Final = 1_000_000
READY: Final = "ready"
FLUSH, CLSACT = "flush", "clsact"
"""What may be taken away: the ruleset, or the qdisc of the link with both filters that stand in it."""
_NETFILTER: Final = 12
_LONG_S: Final = 3600


def load(name: str) -> AnyFence:
    """Load one of the fences; raises `FenceRefused`."""
    if name == LOOSE:
        return NftFence.load(may_own=False)
    return fences.load("bpf" if name == BPF else "nftables")


def boot_ns() -> int:
    """Read the clock of deadlines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


async def hold(fence: AnyFence) -> None:
    """Hold the addresses as an owner does, and do nothing by oneself."""
    index = socket.if_nametoindex("eth0")
    async with Kernel.open() as kernel:
        fence.close(VIPS)
        await kernel.guard(index, fence, GuardRole.CARRIER)
        for vip in VIPS:
            await kernel.bind(vip, index, lifetime_s=_LONG_S)
    say(READY)
    for line in sys.stdin:
        deadline_ns = boot_ns() + int(line) * MILLISECOND
        fence.admit(VIPS, deadline_ns)
        say(deadline_ns)


async def stand_by(fence: AnyFence) -> None:
    """Keep the fence closed and whole."""
    async with Kernel.open() as kernel:
        announcer = Announcer.open()
        node = Node(kernel=kernel, fence=fence, announcer=announcer)
        await node.start_clean([PLAN])
        realtime.claim_real_time()
        watching = asyncio.create_task(node.watch(lambda: None))
        say(READY)
        await asyncio.to_thread(sys.stdin.read)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        announcer.close()


async def succeed(first: AnyFence, names: list[str]) -> None:
    """Take the fence over from each other, as keepers do at an upgrade: the former one has ended by then."""
    index = socket.if_nametoindex("eth0")
    async with Kernel.open() as kernel:
        fence = first
        fence.close(VIPS)
        await kernel.guard(index, fence, GuardRole.CARRIER)
        say(READY)
        following = itertools.cycle([*names[1:], names[0]])
        for line in sys.stdin:
            for _ in range(int(line)):
                fence.release()
                fence = load(next(following))
                fence.close(VIPS)
                await kernel.guard(index, fence, GuardRole.CARRIER)
                await fences.retire(kernel, fence)
            say(line.strip())


def rob() -> None:
    """Take parts of the fence away."""
    index = socket.if_nametoindex("eth0")
    with IPRoute() as route, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as door:
        door.bind((0, 0))
        say(READY)
        for line in sys.stdin:
            what, at_ns = line.split()
            while boot_ns() < int(at_ns):
                pass
            began_ns = boot_ns()
            if what == FLUSH:
                every_table = nftables.message(10 << 8 | Message.DELETE_TABLE, 0, 0, b"")
                door.send(nftables.batch([every_table]))
                answer = door.recv(1 << 16)
                done_ns = boot_ns()
                require_done(answer)
            else:
                route.tc("del", "clsact", index=index)
                done_ns = boot_ns()
            say(began_ns, done_ns)


def require_done(answer: bytes) -> None:
    """Raise OSError unless an answer of nftables says that it did everything."""
    refusals = [
        refusal
        for kind, _sender, body in nftables.messages_of(answer)
        if (refusal := nftables.refusal_in(kind, body)) is not None
    ]
    if set(refusals) != {0}:
        number = max(refusals, default=errno.EIO)
        raise OSError(number, f"nftables did not do it: {os.strerror(number)}")


def say(*words: object) -> None:
    """Answer the bench."""
    print(*words, flush=True)  # noqa: T201  # the bench reads it


def main() -> None:
    """Be what the first argument says."""
    what, *names = sys.argv[1:]
    if what == "rob":
        rob()
        return
    fence = load(names[0])
    if what == "hold":
        asyncio.run(hold(fence))
    elif what == "stand-by":
        asyncio.run(stand_by(fence))
    else:
        asyncio.run(succeed(fence, names))


if __name__ == "__main__":
    main()
