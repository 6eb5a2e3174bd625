"""Routes and rules that come and go with the addresses: decided from a claim, and in a real kernel."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent.segment import NO_DAD, VIP4, VIP6
from lab.kernelcalls import entered, new_network
from vipagent.announcer import Announcer
from vipagent.disk import Disk
from vipagent.fence import Fence
from vipagent.kernel import InTheWay, Kernel
from vipagent.node import Node
from vipagent.nodeview import LinkIndex, Route, Rule
from vipagent.plan import Claim
from vipagent.routing import entries
from vipagent.succession import key_of
from vipagent.sweeping import sweep
from vipapi import routing
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from vipagent.nodeview import IPAddress, RoutingEntry

pytestmark = pytest.mark.usefixtures("importable")


ETH0 = LinkIndex(20)
RTPROT_KERNEL = 2
ROUTES = (
    routing.Route("198.51.100.0/24", via="192.0.2.254"),
    routing.Route("203.0.113.7", table=100, metric=5),
    routing.Route("0.0.0.0/0", via="192.0.2.254", table=100),
    routing.Route("2001:db8:1::/64", via="2001:db8::fe"),
)
RULES = (routing.Rule(100), routing.Rule(101, from_address=str(VIP6), priority=7))
WEB = VirtualIPPlan(
    uid="web-uid",
    name="web",
    addresses=(f"{VIP4}/24", f"{VIP6}/64"),
    candidates=(CandidatePlan("node-a", 100),),
    interface="eth0",
    routes=ROUTES,
    rules=RULES,
)
WANTED: frozenset[RoutingEntry] = frozenset(
    {
        Route(ip_network("198.51.100.0/24"), ETH0, VIP4, ip_address("192.0.2.254"), 254, 0),
        Route(ip_network("203.0.113.7/32"), ETH0, VIP4, None, 100, 5),
        Route(ip_network("0.0.0.0/0"), ETH0, VIP4, ip_address("192.0.2.254"), 100, 0),
        Route(ip_network("2001:db8:1::/64"), ETH0, VIP6, ip_address("2001:db8::fe"), 254, 1024),
        Rule(VIP4, 100, 1000),
        Rule(VIP6, 100, 1000),
        Rule(VIP6, 101, 7),
    }
)


def claim(*addresses: str, **facts: Any) -> Claim:
    return Claim("uid", "web", tuple(map(ip_interface, addresses)), **facts)


def test_a_claim_has_its_routes_and_rules_on_the_links_of_its_addresses() -> None:
    both = claim(f"{VIP4}/24", f"{VIP6}/64", routes=ROUTES, rules=RULES)
    assert frozenset(entries(both, {VIP4: ETH0, VIP6: ETH0})) == WANTED


def test_a_route_is_on_the_link_of_the_first_address_of_its_version() -> None:
    other = ip_address("192.0.2.11")
    two = claim(f"{VIP6}/64", f"{other}/24", f"{VIP4}/24", routes=ROUTES[:1])
    (route,) = entries(two, {VIP6: LinkIndex(1), other: LinkIndex(2), VIP4: LinkIndex(3)})
    assert isinstance(route, Route)
    assert (route.source, route.link_index) == (other, LinkIndex(2))


def test_a_route_of_a_version_without_an_address_and_a_rule_from_another_are_left_out() -> None:
    only = claim(f"{VIP6}/64", routes=ROUTES[:3], rules=(routing.Rule(1, from_address=str(VIP4)),))
    assert entries(only, {VIP6: ETH0}) == ()


@pytest.mark.parametrize(
    ("routes", "rules"),
    [
        pytest.param((routing.Route("192.0.2.1/24"),), (), id="a host of a network"),
        pytest.param(
            (routing.Route("192.0.2.0/24", via="2001:db8::1"),), (), id="another version's next hop"
        ),
        pytest.param((), (routing.Rule(1, from_address="web"),), id="a name"),
    ],
)
def test_what_is_no_route_or_rule_is_refused(
    routes: tuple[routing.Route, ...], rules: tuple[routing.Rule, ...]
) -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2|web"):
        routing.check(routes, rules)


@pytest.fixture
def link() -> Iterator[None]:
    """Stand on a node with eth0 (192.0.2.1/24, 2001:db8::1/64)."""
    network = new_network()
    with entered(network), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"}, index=ETH0)
        for name in ("eth0", "far0"):
            route.link("set", index=socket.if_nametoindex(name), state="up")
        route.addr("add", index=ETH0, address="192.0.2.1", prefixlen=24)
        route.addr("add", index=ETH0, address="2001:db8::1", prefixlen=64, flags=NO_DAD)
        yield
    os.close(network)


@asynccontextmanager
async def doors() -> AsyncIterator[tuple[Kernel, AsyncIPRoute]]:
    async with asyncio.timeout(30), Kernel.open() as kernel, AsyncIPRoute() as others:
        yield kernel, others


@pytest.mark.usefixtures("link")
def test_routes_and_rules_read_back_as_they_were_installed_and_go_alone() -> None:
    async def story() -> None:
        async with doors() as (kernel, others):
            await others.route("add", dst="203.0.113.0/24", gateway="192.0.2.9")
            await others.rule("add", src="192.0.2.1", src_len=32, table=100, priority=900)
            for address in (VIP4, VIP6):
                await kernel.bind(address, ETH0, lifetime_s=60)
            before = await everything(others)
            default = Route(ip_network("0.0.0.0/0"), ETH0, VIP4, ip_address("192.0.2.254"), 254, 50)
            for entry in (*WANTED, default):
                await kernel.install(entry)
            for entry in (*WANTED, default):
                with pytest.raises(InTheWay):
                    await kernel.install(entry)
            view = await kernel.observe()
            assert view.entries == {*WANTED, default}
            assert view.gateways == ()
            for _ in range(2):
                for entry in (*WANTED, default):
                    await kernel.withdraw(entry)
                assert (await kernel.observe()).entries == frozenset()
            assert await everything(others) == before

    asyncio.run(story())


async def everything(others: AsyncIPRoute) -> list[str]:
    """List all routes and rules of whatever hand but the kernel's own, as text."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for command in (others.route, others.rule):
            found += [
                str(sorted((k, str(v)) for k, v in each["attrs"] if k != "RTA_CACHEINFO"))
                async for each in await command("dump", family=family)
                if each.get("proto") != RTPROT_KERNEL
            ]
    return sorted(found)


@pytest.mark.usefixtures("link")
def test_what_another_put_in_its_place_stays_and_is_told() -> None:
    async def story() -> None:
        async with doors() as (kernel, others):
            await others.route("add", dst="198.51.100.0/24", gateway="192.0.2.9")
            await others.route("add", dst="2001:db8:1::/64", gateway="2001:db8::9")
            await others.rule("add", src=str(VIP4), src_len=32, table=100, priority=1000)
            for address in (VIP4, VIP6):
                await kernel.bind(address, ETH0, lifetime_s=60)
            before = await everything(others)
            in_the_way = [each for each in WANTED if str(each).startswith(("route to 198", "route to 2001"))]
            assert len(in_the_way) == 2
            for entry in in_the_way:
                with pytest.raises(InTheWay) as refused:
                    await kernel.install(entry)
                assert str(refused.value).startswith(f"cannot install the {entry}: another is in its place")
                await kernel.withdraw(entry)
            # A rule of another hand is in nobody's way: the kernel has the same one of each.
            await kernel.install(Rule(VIP4, 100, 1000))
            await kernel.withdraw(Rule(VIP4, 100, 1000))
            assert await everything(others) == before

    asyncio.run(story())


@asynccontextmanager
async def holding() -> AsyncIterator[tuple[Node, AsyncIPRoute]]:
    """A node that has taken WEB, and somebody else's hand."""
    async with doors() as (kernel, others):
        with Fence.load() as fence:
            announcer = Announcer.open()
            node = Node(kernel=kernel, fence=fence, announcer=announcer)
            await node.start_clean([WEB])
            node.open(key_of(WEB), WEB, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 600 * 10**9)
            try:
                yield node, others
            finally:
                await node.leave_clean()
                announcer.close()


def hold(story: Callable[[Node, AsyncIPRoute], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with holding() as (node, others):
            await node.take(key_of(WEB))
            await story(node, others)

    asyncio.run(tell())


async def installed(node: Node) -> frozenset[RoutingEntry]:
    await node.look()
    await node.look()
    return node.view.entries


@pytest.mark.usefixtures("link")
def test_routes_and_rules_come_and_go_with_the_addresses() -> None:
    async def story(node: Node, _others: AsyncIPRoute) -> None:
        assert await installed(node) == WANTED
        assert node.problems() == ()
        await node.put_down(key_of(WEB))
        assert await installed(node) == frozenset()
        await node.take(key_of(WEB))
        assert await installed(node) == WANTED
        node.close(key_of(WEB))
        await node.leave(key_of(WEB))
        assert await installed(node) == frozenset()

    hold(story)


@pytest.mark.usefixtures("link")
def test_routes_and_rules_come_after_the_address_and_go_before_it() -> None:
    async def story() -> None:
        async with holding() as (node, _), AsyncIPRoute() as events:
            await events.bind(groups=0x10 | 0x40 | 0x80)  # RTMGRP_IPV4_IFADDR, _IPV4_ROUTE, _IPV4_RULE
            await node.take(key_of(WEB))
            node.close(key_of(WEB))
            await node.leave(key_of(WEB))
            told: list[str] = []
            while "RTM_DELADDR" not in told:
                told += [str(each["event"]) async for each in events.get()]
            wanted = ["RTM_NEWADDR", "RTM_NEWRULE", "RTM_DELRULE", "RTM_DELADDR"]
            assert [each for each in told if each in wanted] == wanted

    asyncio.run(story())


@pytest.mark.usefixtures("link")
def test_no_route_delays_the_announcement() -> None:
    deeds: list[str] = []

    class Noted(Kernel):
        async def bind(self, address: IPAddress, link_index: int, *, lifetime_s: int) -> None:
            await super().bind(address, link_index, lifetime_s=lifetime_s)
            deeds.append("bound")

        async def install(self, entry: RoutingEntry) -> None:
            deeds.append("installed")
            await super().install(entry)

    class Announcing(Announcer):
        def announce(
            self, link_index: int, addresses: Iterable[IPAddress], *, asks_gateway: bool = False
        ) -> tuple[IPAddress, ...]:
            deeds.append("announced")
            return super().announce(link_index, addresses, asks_gateway=asks_gateway)

    async def story() -> None:
        async with asyncio.timeout(30), Noted.open() as kernel:
            with Fence.load() as fence:
                announcer = Announcing.open()
                node = Node(kernel=kernel, fence=fence, announcer=announcer)
                await node.start_clean([WEB])
                node.open(key_of(WEB), WEB, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 600 * 10**9)
                await node.take(key_of(WEB))
                taken = list(dict.fromkeys(deeds))
                await node.leave_clean()
                announcer.close()
        assert taken == ["bound", "announced", "installed"]

    asyncio.run(story())


@pytest.mark.usefixtures("link")
def test_what_others_remove_comes_back() -> None:
    async def story(node: Node, others: AsyncIPRoute) -> None:
        assert await installed(node) == WANTED
        await others.route("del", dst="198.51.100.0/24")
        await others.rule("del", src=str(VIP4), src_len=32, table=100, priority=1000)
        assert await installed(node) == WANTED
        await others.flush_addr(index=ETH0)
        await others.addr("add", index=ETH0, address="192.0.2.1", prefixlen=24)
        await others.addr("add", index=ETH0, address="2001:db8::1", prefixlen=64, flags=NO_DAD)
        assert await installed(node) == WANTED
        assert node.problems() == ()

    hold(story)


@pytest.mark.usefixtures("link")
def test_an_edit_changes_the_routes_of_a_held_set() -> None:
    async def story(node: Node, _others: AsyncIPRoute) -> None:
        assert await installed(node) == WANTED
        node.plan([msgspec.structs.replace(WEB, routes=ROUTES[:1], rules=())])
        assert [str(each) for each in await installed(node)] == [
            "route to 198.51.100.0/24 via 192.0.2.254 in table 254 with metric 0"
        ]

    hold(story)


@pytest.mark.usefixtures("link")
def test_a_route_that_is_in_the_way_is_a_problem_and_no_obstacle() -> None:
    async def story(node: Node, others: AsyncIPRoute) -> None:
        node.plan([msgspec.structs.replace(WEB, routes=(), rules=())])
        assert await installed(node) == frozenset()
        await others.route("add", dst="198.51.100.0/24", gateway="192.0.2.9")
        node.plan([WEB])
        assert await installed(node) == {each for each in WANTED if "198.51.100" not in str(each)}
        (problem,) = node.problems()
        assert problem.reason == "RouteRefused"
        assert "route to 198.51.100.0/24 via 192.0.2.254" in problem.message
        assert node.bound(key_of(WEB)) == (str(VIP4), str(VIP6))
        assert node.obstacles()[WEB.uid] is None
        await others.route("del", dst="198.51.100.0/24", gateway="192.0.2.9")
        assert await installed(node) == WANTED
        assert node.problems() == ()

    hold(story)


async def leave_behind() -> None:
    """Leave what a killed keeper leaves when the kernel has taken its addresses."""
    async with doors() as (kernel, _):
        for address in (VIP4, VIP6):
            await kernel.bind(address, ETH0, lifetime_s=60)
        for entry in WANTED:
            await kernel.install(entry)
        for address in (VIP4, VIP6):
            await kernel.unbind(address, ETH0)
        left = (await kernel.observe()).entries
        assert sorted(map(str, left)) == sorted(str(each) for each in WANTED if "to 198" not in str(each))


@pytest.mark.usefixtures("link")
def test_the_next_keeper_removes_what_a_killed_one_left() -> None:
    async def story() -> None:
        await leave_behind()
        async with holding() as (node, _):
            assert await installed(node) == frozenset()
            await node.take(key_of(WEB))
            assert await installed(node) == WANTED

    asyncio.run(story())


@pytest.mark.usefixtures("link")
def test_a_sweep_removes_our_routes_and_rules_and_no_others(tmp_path: Path) -> None:
    async def story() -> None:
        async with AsyncIPRoute() as others:
            await others.route("add", dst="203.0.113.0/24", gateway="192.0.2.9")
            await others.rule("add", src="192.0.2.1", src_len=32, table=100, priority=900)
            before = await everything(others)
            await leave_behind()
            assert await everything(others) != before
            await sweep(Disk(tmp_path))
            assert await everything(others) == before

    asyncio.run(story())
