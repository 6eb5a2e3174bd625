"""A node that holds an address on a VLAN, on a bond, on both or in a VRF, and what becomes of these links."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Final

import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent.ear import Ear
from agent.segment import VIP4, VLAN_ID, Kind, make_bond, put_into_vrf
from agent.test_links import NEAR, OTHER, Held, listening, own_addresses, run
from lab.kernelcalls import entered, new_network

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("importable")


def of(*kinds: Kind) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=lambda kind: kind.value, indirect=True)


EVERY_KIND = of(Kind.VRF, Kind.VLAN, Kind.BOND, Kind.VLAN_ON_BOND)
BONDED = of(Kind.BOND, Kind.VLAN_ON_BOND)
TAGGED = of(Kind.VLAN, Kind.VLAN_ON_BOND)
INDEX: Final = 20
INGRESS: Final = 0xFFFFFFF2
EGRESS: Final = 0xFFFFFFF3


def index_of(name: str) -> int:
    return socket.if_nametoindex(name)


def up(route: IPRoute, *names: str) -> None:
    for name in names:
        route.link("set", index=index_of(name), state="up")


def tag(route: IPRoute, name: str, lower: str, **facts: object) -> None:
    route.link("add", ifname=name, kind="vlan", link=index_of(lower), vlan_id=VLAN_ID, **facts)
    up(route, name)


def lower_of(kind: Kind) -> str:
    """What the VLAN stands on."""
    return "bond0" if kind.is_bond else "near0"


def far_ends(kind: Kind) -> list[str]:
    return ["far0"] if kind is Kind.VRF else [f"end{number}" for number in range(len(kind.ends))]


def plug_in(route: IPRoute, kind: Kind) -> None:
    """Make lan0 of the near ends of veths, and far0 of the far ones."""
    if kind is Kind.VRF:
        route.link("add", ifname="lan0", kind="veth", peer={"ifname": "far0"}, address=NEAR, index=INDEX)
        put_into_vrf(route, "lan0")
        up(route, "far0", "lan0")
        return
    far = far_ends(kind)
    near = [name.replace("end", "near") for name in far]
    for name, peer in zip(near, far, strict=True):
        route.link("add", ifname=name, kind="veth", peer={"ifname": peer}, address=NEAR)
    upper = far[0]
    if kind.is_bond:
        upper = "switch0" if kind.is_vlan else "far0"
        route.link("add", ifname=upper, kind="bridge")
        for name in far:
            route.link("set", index=index_of(name), master=index_of(upper))
        if kind.is_vlan:
            make_bond(route, "bond0", *near)
        else:
            make_bond(route, "lan0", *near, index=INDEX)
    up(route, *far, upper, lower_of(kind) if kind.is_vlan else "lan0")
    if kind.is_vlan:
        tag(route, "lan0", lower_of(kind), index=INDEX)
        tag(route, "far0", upper)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Stand on a node whose lan0 is of this kind."""

    async def address() -> None:
        async with AsyncIPRoute() as route:
            await own_addresses(route)

    network = new_network()
    with entered(network):
        with IPRoute() as route:
            plug_in(route, request.param)
        asyncio.run(address())
        yield request.param
    os.close(network)


async def fenced(route: AsyncIPRoute, name: str) -> set[str]:
    """Return in which directions the fence judges what passes a link."""
    parents = {"in": INGRESS, "out": EGRESS}
    found = set()
    for direction, parent in parents.items():
        async for _ in await route.get_filters(index=index_of(name), parent=parent):
            found.add(direction)
    return found


@EVERY_KIND
def test_the_link_and_what_it_stands_on_are_fenced_and_no_port(kind: Kind) -> None:
    async def story(_held: Held, others: AsyncIPRoute) -> None:
        assert await fenced(others, "lan0") == {"in", "out"}
        assert await fenced(others, "far0") == (set() if kind is Kind.VRF else {"out"})
        if kind is Kind.VLAN_ON_BOND:
            assert await fenced(others, "bond0") == {"out"}
        if kind.is_bond:
            assert await fenced(others, "near0") == set()

    run(story)


@EVERY_KIND
def test_a_lost_carrier_is_told_at_once_and_one_that_is_back_is_announced(kind: Kind) -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        ends = [index_of(name) for name in far_ends(kind)]
        for end in ends:
            await others.link("set", index=end, state="down")
        await held.until(lambda: held.reason() == "InterfaceDown")
        with Ear() as ear:
            for end in ends:
                await others.link("set", index=end, state="up")
            assert await ear.next() == NEAR
        await held.until(lambda: held.reason() == "" and held.is_bound())

    run(story)


@BONDED
@pytest.mark.usefixtures("kind")
def test_a_bond_with_another_active_port_is_announced_at_once() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        def ports() -> set[int]:
            way = held.node.view.way(INDEX)
            return set() if way is None else set(way.ports)

        assert ports() == {index_of("near0")}
        with Ear() as ear:
            await others.link("set", index=index_of("end0"), state="down")
            assert await ear.next() == NEAR
        await held.until(lambda: ports() == {index_of("near1")})
        assert held.reason() == ""

    run(story)


@BONDED
@pytest.mark.usefixtures("kind")
def test_a_port_that_leaves_its_bond_and_gets_a_subnet_is_fenced() -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        port = index_of("near1")
        async with listening() as collect:
            await others.link("set", index=port, master=0)
            await others.addr("add", index=port, address="198.51.100.1", prefixlen=24)
            await collect(lambda event, index, _address: (event, index) == ("RTM_NEWTFILTER", port))
        assert held.is_bound()

    run(story)


@EVERY_KIND
@pytest.mark.usefixtures("kind")
def test_a_changed_mac_address_is_announced_at_once() -> None:
    async def story(_held: Held, others: AsyncIPRoute) -> None:
        with Ear() as ear:
            await others.link("set", index=INDEX, address=OTHER)
            assert await ear.next() == OTHER

    run(story)


@TAGGED
def test_a_vlan_that_is_made_again_is_fenced_before_it_has_the_address(kind: Kind) -> None:
    async def story(held: Held, others: AsyncIPRoute) -> None:
        lower = index_of(lower_of(kind))
        async with listening() as collect:
            await others.link("del", index=INDEX)
            await others.link("add", ifname="lan0", kind="vlan", link=lower, vlan_id=VLAN_ID, index=30)
            await others.link("set", index=30, state="up")
            await own_addresses(others, 30)
            told = await collect(lambda event, _, address: (event, address) == ("RTM_NEWADDR", str(VIP4)))
        assert len([each for each in told if each == "RTM_NEWTFILTER 30"]) == 2
        assert told.index(f"RTM_DELLINK {INDEX}") < told.index("RTM_NEWTFILTER 30")
        await held.until(lambda: held.is_bound(30) and held.is_ready(30))
        assert held.reason() == ""

    run(story)
