"""The door to rtnetlink against a real kernel, in a namespace of its own for each test."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

import pytest
from pyroute2 import AsyncIPRoute, IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from agent import tcx
from agent.segment import NO_DAD, VIP4, VIP6
from lab.kernelcalls import entered, new_network
from vipagent.fence import Fence
from vipagent.kernel import Kernel, KernelRefused
from vipagent.nodeview import GuardRole
from vipagent.packetfence import FenceRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import Any

    from vipagent.fence import Direction
    from vipagent.nodeview import BoundAddress, Link, LinkIndex, NodeView

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
BPF_RET = 0x06  # linux/bpf_common.h: returning 0 drops the message
DONE, INTERRUPTED = 3, 0x10  # linux/netlink.h: NLMSG_DONE, NLM_F_DUMP_INTR
SMALLEST_MTU = 68  # IPv6 needs 1280, and goes where there is less
BOTH = pytest.mark.parametrize("address", [VIP4, VIP6], ids=["IPv4", "IPv6"])
ROLES = pytest.mark.parametrize("role", list(GuardRole), ids=lambda role: role.value)


@pytest.fixture
def node() -> Iterator[None]:
    """Stand in a namespace with eth0 (up, 192.0.2.1/24 and 2001:db8::1/64) and its peer far0 (up)."""
    network = new_network()
    with entered(network), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"}, address="02:00:00:00:00:01")
        index = route.link_lookup(ifname="eth0")[0]
        for each in (index, route.link_lookup(ifname="far0")[0]):
            route.link("set", index=each, state="up")
        route.addr("add", index=index, address="192.0.2.1", prefixlen=24)
        route.addr("add", index=index, address="2001:db8::1", prefixlen=64, flags=NO_DAD)
        yield
    os.close(network)


def run(story: Callable[[Kernel, AsyncIPRoute], Coroutine[Any, Any, None]]) -> None:
    """Run a test's story with the door and, beside it, somebody else's hand on the same kernel."""

    async def tell() -> None:
        async with asyncio.timeout(30), Kernel.open() as kernel, AsyncIPRoute() as others:
            await story(kernel, others)

    asyncio.run(tell())


def named(view: NodeView, name: str) -> Link:
    return next(link for link in view.links if link.name == name)


async def eth0(kernel: Kernel) -> LinkIndex:
    return named(await kernel.observe(), "eth0").index


async def bound(kernel: Kernel, address: object) -> BoundAddress | None:
    addresses = named(await kernel.observe(), "eth0").addresses
    return next((each for each in addresses if each.ip == address), None)


@pytest.mark.usefixtures("node")
def test_a_look_shows_links_addresses_and_gateways() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        await others.link("add", ifname="br0", kind="bridge")
        before = await kernel.observe()
        await others.link("set", index=named(before, "far0").index, master=named(before, "br0").index)
        await others.route("add", dst="default", gateway="192.0.2.254", priority=200)
        await others.route("add", dst="default", gateway="192.0.2.253", priority=100)
        await others.route("add", dst="198.51.100.0/24", gateway="192.0.2.252")
        await others.route("add", dst="default", gateway="2001:db8::fe")
        view = await kernel.observe()
        link = named(view, "eth0")
        assert (link.mac, link.kind, link.is_up, link.is_ethernet, link.is_loopback, link.master) == (
            *("02:00:00:00:00:01", "veth", True, True, False),
            None,
        )
        assert {ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")} <= {
            each.interface for each in link.addresses
        }
        assert not any(each.is_ours for each in link.addresses)
        assert all(each.valid_s is None for each in link.addresses)
        assert named(view, "far0").master == named(view, "br0").index
        assert named(view, "br0").kind == "bridge"
        assert (named(view, "lo").is_loopback, named(view, "lo").is_ethernet) == (True, False)
        assert view.gateway(4) == ip_address("192.0.2.253")
        assert view.gateway(6) == ip_address("2001:db8::fe")
        assert view.gateway(4, link.index) == view.gateway(4)
        assert view.gateway(4, named(view, "br0").index) is None

    run(story)


@pytest.mark.usefixtures("node")
def test_a_default_route_over_several_next_hops_has_a_gateway() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        hops = [{"gateway": "192.0.2.253", "hops": 1}, {"gateway": "192.0.2.254", "hops": 1}]
        await others.route("add", dst="default", family=socket.AF_INET, multipath=hops)
        assert (await kernel.observe()).gateway(4) == ip_address("192.0.2.253")

    run(story)


@pytest.mark.usefixtures("node")
def test_others_go_on_while_thousands_of_addresses_and_routes_are_read() -> None:
    class Large(Kernel):
        """A kernel that has told everything at once, a thousand times as much as this one."""

        told: dict[tuple[int, int], list[bytes]] | None = None

        async def _dump(self, question: Any, kind: int) -> list[bytes]:
            key = kind, question["family"]
            if self.told is None or key not in self.told:
                return await super()._dump(question, kind)
            return self.told[key]

    async def story() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.timeout(30), Large.open() as kernel:
            assert isinstance(kernel, Large)
            small = await kernel.observe()
            questions = {18: ifinfmsg(), 22: ifaddrmsg(), 26: rtmsg(), 34: fibmsg()}  # RTM_GETLINK, …ADDR, …
            told: dict[tuple[int, int], list[bytes]] = {}
            for family in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
                for kind, question in questions.items():
                    question["family"] = family
                    told[kind, family] = await kernel._dump(question, kind)  # noqa: SLF001
            for kind, family in ((22, socket.AF_UNSPEC), (26, socket.AF_INET)):
                told[kind, family] *= 1000
            kernel.told = told
            busy = asyncio.create_task(others())
            assert (await kernel.observe()).gateways == small.gateways
            busy.cancel()
        read = len(told[22, socket.AF_UNSPEC]) + 2 * len(told[26, socket.AF_INET])
        assert turns > read // 1000

    asyncio.run(story())


@pytest.mark.usefixtures("node")
def test_a_link_without_carrier_or_set_down_is_not_up() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        view = await kernel.observe()
        await others.link("set", index=named(view, "far0").index, state="down")
        view = await kernel.observe()
        assert not named(view, "eth0").is_up
        assert not named(view, "far0").is_up

    run(story)


@BOTH
@pytest.mark.usefixtures("node")
def test_a_bound_address_has_our_mark_and_a_life_that_a_refresh_renews(address: Any) -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        for lifetime_s in (3, 30):
            await kernel.bind(address, index, lifetime_s=lifetime_s)
            found = await bound(kernel, address)
            assert found is not None
            assert (found.is_ours, found.is_host, found.valid_s) == (True, True, lifetime_s)

    run(story)


@BOTH
@pytest.mark.usefixtures("node")
def test_an_address_that_nobody_refreshes_goes_by_itself(address: Any) -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        await kernel.bind(address, await eth0(kernel), lifetime_s=1)
        async for _ in kernel.watch():
            if await bound(kernel, address) is None:
                break

    run(story)


@BOTH
@pytest.mark.usefixtures("node")
def test_unbinding_what_is_not_there_is_fine(address: Any) -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        await kernel.bind(address, index, lifetime_s=30)
        await kernel.unbind(address, index)
        assert await bound(kernel, address) is None
        await kernel.unbind(address, index)
        await kernel.unbind(address, 9999)

    run(story)


@BOTH
@pytest.mark.usefixtures("node")
def test_unbinding_on_a_link_that_has_lost_its_ip_is_fine(address: Any) -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        await kernel.bind(address, index, lifetime_s=30)
        await others.link("set", index=index, state="down")
        await others.link("set", index=index, mtu=SMALLEST_MTU)
        await kernel.unbind(address, index)
        assert await bound(kernel, address) is None

    run(story)


class Interrupted(Kernel):
    """A kernel in which so many of the lists that it is asked for change just before their end is told."""

    interruptions = 0
    asked = 0

    def _raw_parser(self, seen: set[int]) -> Callable[[bytes, int, int], Any]:
        self.asked += 1
        parse = super()._raw_parser(seen)

        def parse_interrupted(data: bytes, offset: int, length: int) -> Any:
            told = bytearray(data)
            if struct.unpack_from("=H", data, offset + 4) == (DONE,) and self.interruptions:
                self.interruptions -= 1
                told[offset + 6] |= INTERRUPTED
            return parse(bytes(told), offset, length)

        return parse_interrupted


@pytest.mark.usefixtures("node")
def test_a_list_that_has_changed_by_its_end_is_asked_for_again() -> None:
    async def tell() -> None:
        async with Interrupted.open() as kernel:
            assert isinstance(kernel, Interrupted)
            await kernel.observe()
            without = kernel.asked
            kernel.interruptions = 2
            await kernel.observe()
            assert kernel.asked == 2 * without + 2
            kernel.interruptions = 1000
            with pytest.raises(KernelRefused, match="it changed during each of"):
                await kernel.observe()

    asyncio.run(tell())


@BOTH
@pytest.mark.usefixtures("node")
def test_binding_on_a_link_that_is_gone_says_so(address: Any) -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        with pytest.raises(KernelRefused, match=r"cannot bind .* on link 9999: there is no such link"):
            await kernel.bind(address, 9999, lifetime_s=3)
        await kernel.bind(address, await eth0(kernel), lifetime_s=3)

    run(story)


@pytest.mark.usefixtures("node")
def test_an_address_bound_by_another_hand_is_not_ours() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        await others.addr("add", index=await eth0(kernel), address=str(VIP4), prefixlen=32)
        found = await bound(kernel, VIP4)
        assert found is not None
        assert not found.is_ours

    run(story)


@pytest.mark.usefixtures("node")
def test_our_ipv6_address_answers_at_once_and_is_no_source() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        await kernel.bind(VIP6, index, lifetime_s=30)
        messages = [each async for each in await others.addr("dump", index=index)]
        ours = next(each for each in messages if each.get("address") == str(VIP6))
        tentative, deprecated = 0x40, 0x20
        assert ours.get("flags") & (tentative | deprecated) == deprecated

    run(story)


@ROLES
@pytest.mark.usefixtures("node")
def test_a_guarded_link_reads_back_as_guarded(role: GuardRole) -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        with Fence.load() as fence:
            missing = await kernel.guarded(index, fence, role)
            assert missing is not None
            assert missing.reason == "FenceMissing"
            for _ in range(2):
                await kernel.guard(index, fence, role)
                assert await kernel.guarded(index, fence, role) is None

    run(story)


@pytest.mark.usefixtures("node")
def test_a_link_can_change_its_role() -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        with Fence.load() as fence:
            for role in (*GuardRole, *GuardRole):
                await kernel.guard(index, fence, role)
                assert await kernel.guarded(index, fence, role) is None
                other = next(each for each in GuardRole if each is not role)
                assert await kernel.guarded(index, fence, other) is not None

    run(story)


@pytest.mark.usefixtures("node")
def test_a_new_keepers_fence_takes_the_place_of_the_old_ones() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        with Fence.load() as old, Fence.load() as new:
            await kernel.guard(index, old, GuardRole.CARRIER)
            old.release()
            missing = await kernel.guarded(index, new, GuardRole.CARRIER)
            assert missing is not None
            assert missing.reason == "FenceMissing"
            await kernel.guard(index, new, GuardRole.CARRIER)
            assert await kernel.guarded(index, new, GuardRole.CARRIER) is None
            for parent in (INGRESS, EGRESS):
                assert len(await programs(others, index, parent)) == 1

    run(story)


async def programs(others: AsyncIPRoute, index: int, parent: int) -> list[str]:
    messages = [each async for each in await others.tc("dump-filter", index=index, parent=parent)]
    return [str(each.get_nested("TCA_OPTIONS", "TCA_BPF_NAME")) for each in messages if each["handle"]]


async def attach(others: AsyncIPRoute, index: int, fd: int, *, prio: int = 1, handle: int = 1) -> None:
    await others.tc(
        *("add-filter", "bpf", index, handle),
        parent=INGRESS,
        prio=prio,
        fd=fd,
        name="somebody",
        direct_action=True,
    )


@pytest.mark.usefixtures("node")
def test_filters_of_others_stay_and_run_after_ours() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        await others.tc("add", "clsact", index)
        with Fence.load() as fence:
            await attach(others, index, fence.egress_fd, prio=1)
            await attach(others, index, fence.egress_fd, prio=7)
            await kernel.guard(index, fence, GuardRole.CARRIER)
            assert await kernel.guarded(index, fence, GuardRole.CARRIER) is None
            assert await programs(others, index, INGRESS) == ["vipkeeper-in", "somebody", "somebody"]

    run(story)


@pytest.mark.usefixtures("node")
def test_a_filter_that_slips_in_before_the_fence_is_seen_and_overtaken() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        with Fence.load() as fence:
            for handle in (1, 2, 3):
                await kernel.guard(index, fence, GuardRole.CARRIER)
                await attach(others, index, fence.egress_fd, handle=handle)
                bypassed = await kernel.guarded(index, fence, GuardRole.CARRIER)
                assert bypassed is not None
                assert bypassed.reason == "FenceBypassed"
                assert "somebody" in bypassed.message
            await kernel.guard(index, fence, GuardRole.CARRIER)
            assert await kernel.guarded(index, fence, GuardRole.CARRIER) is None
            assert await programs(others, index, INGRESS) == ["vipkeeper-in"] + ["somebody"] * 3

    run(story)


@pytest.mark.usefixtures("node")
def test_a_tcx_program_before_the_fence_is_seen_and_overtaken() -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        with Fence.load() as fence:
            await kernel.guard(index, fence, GuardRole.CARRIER)
            assert tcx.programs(index, tcx.INGRESS) == []
            for count in (1, 2, 3):
                tcx.attach_first(index, tcx.INGRESS)
                tcx.attach_first(index, tcx.EGRESS)
                bypassed = await kernel.guarded(index, fence, GuardRole.CARRIER)
                assert bypassed is not None
                assert bypassed.reason == "FenceBypassed"
                await kernel.guard(index, fence, GuardRole.CARRIER)
                assert await kernel.guarded(index, fence, GuardRole.CARRIER) is None
                for where, fd in ((tcx.INGRESS, fence.ingress_fd), (tcx.EGRESS, fence.egress_fd)):
                    found = tcx.programs(index, where)
                    assert found[0] == fence.ids[fd]
                    assert len(found) == count + 1

    run(story)


@pytest.mark.usefixtures("node")
def test_tcx_programs_that_cannot_be_listed_are_a_look_that_failed() -> None:
    class Blind(Fence):
        def programs_ahead(self, link_index: int, direction: Direction, program_fd: int) -> int:
            raise FenceRefused(f"a test says so of {link_index}, {direction}, {program_fd}")

    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        with Blind.load() as fence:
            await kernel.guard(index, fence, GuardRole.CARRIER)
            with pytest.raises(KernelRefused, match=r"cannot look at .*: a test says so"):
                await kernel.guarded(index, fence, GuardRole.CARRIER)

    run(story)


@pytest.mark.usefixtures("node")
def test_what_an_earlier_keeper_put_under_tcx_goes_and_what_others_put_there_stays() -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        tcx.attach_first(index, tcx.INGRESS)
        somebody = tcx.programs(index, tcx.INGRESS)
        with Fence.load() as old, Fence.load() as new:
            await kernel.guard(index, old, GuardRole.CARRIER)
            old.release()
            tcx.attach_first(index, tcx.INGRESS)
            somebody = [*tcx.programs(index, tcx.INGRESS)[:1], *somebody]
            await kernel.guard(index, new, GuardRole.CARRIER)
            assert await kernel.guarded(index, new, GuardRole.CARRIER) is None
            assert tcx.programs(index, tcx.INGRESS) == [new.ids[new.ingress_fd], *somebody]
            await kernel.guard(index, new, GuardRole.OTHER)
            assert await kernel.guarded(index, new, GuardRole.OTHER) is None
            assert tcx.programs(index, tcx.INGRESS) == somebody

    run(story)


@pytest.mark.usefixtures("node")
def test_guarding_a_link_that_is_gone_says_so() -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        with Fence.load() as fence:
            with pytest.raises(KernelRefused, match="cannot guard link 9999: there is no such link"):
                await kernel.guard(9999, fence, GuardRole.CARRIER)
            missing = await kernel.guarded(9999, fence, GuardRole.CARRIER)
            assert missing is not None
            assert missing.reason == "FenceMissing"

    run(story)


@pytest.mark.usefixtures("node")
def test_a_kernel_without_tc_s_bpf_is_told_with_the_way_out() -> None:
    class WithoutClassifier(Kernel):
        async def _attach(self, *_arguments: object) -> None:
            raise NetlinkError(errno.ENOENT, "TC classifier not found")

    async def story() -> None:
        async with WithoutClassifier.open() as kernel:
            with Fence.load() as fence, pytest.raises(KernelRefused, match="--fence-backend nftables"):
                await kernel.guard(1, fence, GuardRole.CARRIER)

    asyncio.run(story())


@asynccontextmanager
async def told(kernel: Kernel) -> AsyncIterator[asyncio.Event]:
    """Give an event that is set at each occasion to look again."""
    event = asyncio.Event()

    async def listen() -> None:
        async for _ in kernel.watch():
            event.set()

    task = asyncio.create_task(listen())
    try:
        yield event
    finally:
        task.cancel()


@pytest.mark.usefixtures("node")
def test_every_change_by_another_hand_is_told() -> None:
    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        view = await kernel.observe()
        index, far = named(view, "eth0").index, named(view, "far0").index
        with Fence.load() as fence:
            await kernel.guard(index, fence, GuardRole.CARRIER)
            await kernel.bind(VIP4, index, lifetime_s=30)
            changes: list[Callable[[], Any]] = [
                lambda: others.addr("delete", index=index, address=str(VIP4), prefixlen=32),
                lambda: others.addr("add", index=index, address="192.0.2.7", prefixlen=24),
                lambda: others.addr("add", index=index, address="2001:db8::7", prefixlen=64),
                lambda: others.tc("del-filter", "bpf", index, 0x76, parent=INGRESS, prio=1),
                lambda: others.tc("del", "clsact", index),
                lambda: others.link("set", index=far, state="down"),
                lambda: others.link("add", ifname="br0", kind="bridge"),
                lambda: others.link("del", index=index),
            ]
            async with told(kernel) as news:
                for change in changes:
                    await asyncio.sleep(0)
                    news.clear()
                    await change()
                    await asyncio.wait_for(news.wait(), 5)

    run(story)


@pytest.mark.usefixtures("node")
def test_a_refresh_is_no_news() -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        times_told = 0
        async with told(kernel) as news:
            for _ in range(20):
                news.clear()
                await kernel.bind(VIP4, index, lifetime_s=30)
                await kernel.bind(VIP6, index, lifetime_s=30)
                times_told += news.is_set()
            # Each address once when it was new, and the links' own coming up.
            assert 0 < times_told < 8
            news.clear()
            await kernel.unbind(VIP4, index)
            await asyncio.wait_for(news.wait(), 5)

    run(story)


@pytest.mark.usefixtures("node")
def test_many_hands_at_once_get_each_their_own_answer() -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        addresses = [ip_address(f"192.0.2.{place}") for place in range(100, 130)]
        async with asyncio.TaskGroup() as group:
            for address in addresses:
                group.create_task(kernel.bind(address, index, lifetime_s=30))
                group.create_task(kernel.observe())
        view = await kernel.observe()
        assert {each.ip for each in named(view, "eth0").addresses if each.is_ours} == set(addresses)

    run(story)


@pytest.mark.usefixtures("node")
def test_who_stood_still_does_not_take_that_for_the_kernel_s_silence() -> None:
    async def stand_still() -> None:
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            pass

    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        await asyncio.gather(kernel.observe(), kernel.bind(VIP4, index, lifetime_s=60), stand_still())
        assert await bound(kernel, VIP4) is not None

    run(story)


@pytest.mark.usefixtures("node")
def test_a_thousand_addresses_at_once_are_all_bound_and_unbound_and_looks_meanwhile_are_whole() -> None:
    async def story(kernel: Kernel, _others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        addresses = [ip_address(f"198.51.{100 + number // 250}.{number % 250}") for number in range(1000)]

        async def look_until(changed: asyncio.Task[list[None]]) -> None:
            while not changed.done():
                await kernel.observe()
            await changed

        binding = (kernel.bind(address, index, lifetime_s=60) for address in addresses)
        await look_until(asyncio.ensure_future(asyncio.gather(*binding)))
        view = await kernel.observe()
        assert {each.ip for each in named(view, "eth0").addresses if each.is_ours} == set(addresses)
        unbinding = (kernel.unbind(address, index) for address in addresses)
        await look_until(asyncio.ensure_future(asyncio.gather(*unbinding)))
        view = await kernel.observe()
        assert not any(each.is_ours for each in named(view, "eth0").addresses)

    run(story)


def test_without_the_capability_the_refusal_names_it() -> None:
    trial = """
import asyncio, ctypes, os
from ipaddress import ip_address
from vipagent.kernel import Kernel, KernelRefused
assert ctypes.CDLL(None).capset(b"\\x22\\x05\\x08\\x20" + bytes(4), bytes(24)) == 0
async def main():
    async with Kernel.open() as kernel:
        await kernel.observe()
        try: await kernel.bind(ip_address("192.0.2.10"), 1, lifetime_s=3)
        except KernelRefused as refused: print(refused)
asyncio.run(main())
"""
    network = new_network()
    with entered(network):
        ran = subprocess.run(
            [sys.executable, "-c", trial],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    os.close(network)
    assert "the capability NET_ADMIN" in ran.stdout


@pytest.mark.usefixtures("node")
def test_a_watcher_that_was_told_too_much_looks_again_and_goes_on() -> None:
    def change_much() -> None:
        """Make more changes than the watcher's socket can hold while its loop does not run."""
        with IPRoute() as route:
            index = route.link_lookup(ifname="eth0")[0]
            for count in range(1000):
                route.link("set", index=index, mtu=1400 + count % 2)

    async def story(kernel: Kernel, others: AsyncIPRoute) -> None:
        index = await eth0(kernel)
        async with told(kernel) as news:
            await asyncio.sleep(0)
            hand = threading.Thread(target=change_much)
            hand.start()
            hand.join()  # on purpose in the way of the loop
            await asyncio.wait_for(news.wait(), 5)
            while news.is_set():
                news.clear()
                await asyncio.sleep(0.05)
            await others.addr("add", index=index, address="192.0.2.7", prefixlen=24)
            await asyncio.wait_for(news.wait(), 5)

    run(story)


@contextmanager
def deafened(route: AsyncIPRoute) -> Iterator[None]:
    """Have the kernel drop every answer on its way into the socket, as it does where the buffer is full."""
    nothing = ctypes.create_string_buffer(struct.pack("HBBI", BPF_RET, 0, 0, 0))
    program = struct.pack("HL", 1, ctypes.addressof(nothing))
    route.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    try:
        yield
    finally:
        route.socket.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


@pytest.mark.usefixtures("node")
def test_a_lost_answer_is_a_refusal_after_a_second_and_the_next_question_is_answered() -> None:
    async def story() -> None:
        async with asyncio.timeout(10), AsyncIPRoute() as route:
            kernel = Kernel(route, events)
            index, fence = await eth0(kernel), Fence.load()
            await kernel.bind(VIP4, index, lifetime_s=60)
            with deafened(route):
                outcomes = await asyncio.gather(
                    kernel.unbind(VIP4, index),
                    kernel.bind(VIP6, index, lifetime_s=60),
                    kernel.guard(index, fence, GuardRole.CARRIER),
                    kernel.observe(),
                    return_exceptions=True,
                )
            assert [type(outcome) for outcome in outcomes] == [KernelRefused] * 4
            assert all("it did not answer within 1 s" in str(outcome) for outcome in outcomes)
            await kernel.unbind(VIP4, index)
            assert await bound(kernel, VIP4) is None
            assert await bound(kernel, VIP6) is not None
            fence.release()

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as events:
        asyncio.run(story())
