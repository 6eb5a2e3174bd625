"""What a node should hold against what its kernel has: the rules, and the laws of looking again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.counted import Counted
from vipagent.nodeview import BoundAddress, GuardRole, Link, LinkIndex, NodeView, Refusal, Route, Rule
from vipagent.plan import (
    LIFETIME_S,
    Action,
    Bind,
    Claim,
    Close,
    Forget,
    Guard,
    Install,
    Unbind,
    Unguard,
    Withdraw,
    claim,
    place,
    plan,
    refuse,
    roles,
    unfenced,
)
from vipapi import routing
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.nodeview import IPAddress

UNHURRIED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # the machine may be busy
CARRIER, OTHER = GuardRole.CARRIER, GuardRole.OTHER
VIP = ip_address("192.0.2.10")
WEB = Claim(uid="u1", name="web", addresses=(ip_interface("192.0.2.10/24"),))
HELD = replace(WEB, is_held=True)
ROUTED = replace(WEB, routes=(routing.Route("198.51.100.0/24"),), rules=(routing.Rule(100),))
ROUTING = replace(ROUTED, is_held=True)
ROUTE = Route(ip_network("198.51.100.0/24"), LinkIndex(2), VIP, None, 254, 0)
RULE = Rule(VIP, 100, 1000)


def address(text: str, *, is_ours: bool = False, valid_s: int | None = None) -> BoundAddress:
    return BoundAddress(ip_interface(text), is_ours=is_ours, valid_s=valid_s)


def ours(text: str, valid_s: int = LIFETIME_S) -> BoundAddress:
    return address(text, is_ours=True, valid_s=valid_s)


def link(index: int, name: str, *addresses: BoundAddress, **facts: Any) -> Link:
    defaults: dict[str, Any] = {"mac": f"02:00:00:00:00:{index:02x}", "is_up": True}
    return Link(name=name, index=LinkIndex(index), addresses=addresses, **(defaults | facts))


LO = link(1, "lo", address("127.0.0.1/8"), is_loopback=True, is_ethernet=False)
ETH0 = link(2, "eth0", address("192.0.2.1/24"), address("2001:db8::1/64"))
ETH1 = link(3, "eth1", address("198.51.100.1/24"))
NODE = NodeView((LO, ETH0, ETH1))


def node(*links: Link, entries: Iterable[Route | Rule] = ()) -> NodeView:
    return NodeView((LO, *links), entries=frozenset(entries))


def guarded(view: NodeView, claims: Iterable[Claim]) -> dict[tuple[LinkIndex, GuardRole], Refusal | None]:
    return dict.fromkeys(roles(claims, view).items())


def planned(claims: list[Claim], view: NodeView, fenced: Iterable[IPAddress] = (VIP,)) -> tuple[Action, ...]:
    bare = {each.index for each in view.links}
    return plan(claims, view, fenced=set(fenced), guards=guarded(view, claims), bare=bare)


def test_a_virtual_ip_of_the_node_plan_is_read() -> None:
    virtual_ip = VirtualIPPlan(
        uid="u1",
        name="web",
        addresses=("192.0.2.10/24", "2001:db8::10"),
        candidates=(CandidatePlan("a", 100),),
        interface="eth0",
    )
    assert claim(virtual_ip, is_held=True) == Claim(
        uid="u1",
        name="web",
        addresses=(ip_interface("192.0.2.10/24"), ip_interface("2001:db8::10/128")),
        interface="eth0",
        is_held=True,
    )


@pytest.mark.parametrize(
    ("addresses", "interface", "view", "expected"),
    [
        pytest.param(["192.0.2.10/24"], None, NODE, {"192.0.2.10": 2}, id="the interface with the subnet"),
        pytest.param(
            ["192.0.2.10"], None, NODE, {"192.0.2.10": 2}, id="no prefix: a subnet that contains it"
        ),
        pytest.param(
            ["192.0.2.10/24", "2001:db8::10/64", "198.51.100.9"],
            None,
            NODE,
            {"192.0.2.10": 2, "2001:db8::10": 2, "198.51.100.9": 3},
            id="each address goes where its subnet is",
        ),
        pytest.param(
            ["203.0.113.1"], "eth1", NODE, {"203.0.113.1": 3}, id="a named interface needs no subnet"
        ),
        pytest.param(
            ["192.0.2.10/24"],
            None,
            node(replace(ETH0, is_up=False), link(4, "eth2", address("192.0.2.2/24"))),
            {"192.0.2.10": 4},
            id="of two, the one that is up",
        ),
        pytest.param(
            ["192.0.2.10/24"],
            None,
            node(ETH0, link(4, "eth2", address("192.0.2.2/24"), ours("192.0.2.10/32"))),
            {"192.0.2.10": 4},
            id="of two that are up, the one that has it stays",
        ),
        pytest.param(
            ["192.0.2.10/24"],
            None,
            node(link(5, "vrf0", kind="vrf"), replace(ETH0, master=LinkIndex(5))),
            {"192.0.2.10": 2},
            id="a member of a VRF has addresses of its own",
        ),
        pytest.param(
            ["192.0.2.10/24"],
            None,
            node(ETH0, link(6, "kube-ipvs0", address("192.0.2.10/32"), is_up=False, kind="dummy")),
            {"192.0.2.10": 2},
            id="kube-proxy's service addresses are nobody's own",
        ),
    ],
)
def test_an_address_finds_its_interface(
    addresses: list[str], interface: str | None, view: NodeView, expected: dict[str, int]
) -> None:
    wanted = Claim("u1", "web", tuple(map(ip_interface, addresses)), interface)
    assert place(wanted, view) == {ip_address(text): index for text, index in expected.items()}


@pytest.mark.parametrize(
    ("text", "interface", "view", "reason", "message"),
    [
        pytest.param(
            *("203.0.113.1/24", None, NODE, "NoInterface", "has an address in 203.0.113.0/24"),
            id="no interface has the subnet",
        ),
        pytest.param(
            *("192.0.2.10/23", None, NODE, "NoInterface", "correct the prefix"),
            id="another prefix than the interface's",
        ),
        pytest.param(
            *("203.0.113.1", None, NODE, "NoInterface", "with a subnet that contains 203.0.113.1"),
            id="no prefix and no subnet",
        ),
        pytest.param(
            *("2001:db8::10", None, node(ETH1), "NoInterface", "spec.interface"),
            id="IPv6 on a node without it",
        ),
        pytest.param(
            *("192.0.2.10", None, node(link(2, "eth0", ours("192.0.2.11/32"))), "NoInterface", "subnet"),
            id="our own host addresses are no subnet",
        ),
        pytest.param(
            *("192.0.2.10", "eth9", NODE, "NoInterface", "no interface eth9"),
            id="the named interface is not there",
        ),
        pytest.param(
            *("192.0.2.10", "eth9", NODE, "NoInterface", "it has eth0, eth1"),
            id="and the ones that are there are told",
        ),
        pytest.param(*("192.0.2.10", "lo", NODE, "NoInterface", "no Ethernet address"), id="loopback"),
        pytest.param(
            "192.0.2.10",
            "eth0",
            node(replace(ETH0, master=LinkIndex(7)), link(7, "br0", kind="bridge")),
            "NoInterface",
            "eth0 is a port of br0: name br0",
            id="a port of a bridge",
        ),
        pytest.param(
            "192.0.2.10/24",
            None,
            node(replace(ETH0, is_up=False)),
            "InterfaceDown",
            "eth0, which would carry 192.0.2.10, is down",
            id="the only interface is down",
        ),
        pytest.param(
            "192.0.2.10/24",
            None,
            node(link(2, "eth0", address("192.0.2.10/24"))),
            "AddressInUse",
            "192.0.2.10 is on this node's eth0",
            id="the node's own address",
        ),
        pytest.param(
            "192.0.2.10/24",
            None,
            node(ETH0, link(3, "eth1", address("192.0.2.10/32"))),
            "AddressInUse",
            "on this node's eth1",
            id="somebody bound it on another link",
        ),
    ],
)
def test_a_node_that_cannot_carry_an_address_says_what_to_do(
    text: str, interface: str | None, view: NodeView, reason: str, message: str
) -> None:
    refusal = place(Claim("u1", "web", (ip_interface(text),), interface), view)
    assert isinstance(refusal, Refusal)
    assert refusal.reason == reason
    assert message in refusal.message


@pytest.mark.parametrize("name", ["eth0", "eth9"], ids=["there", "not there"])
def test_many_addresses_that_name_an_interface_do_not_go_through_all_links_each(name: str) -> None:
    links = Counted((LO, ETH0, *(link(10 + number, f"veth{number}") for number in range(300))))
    claims = [
        Claim(f"u{each}", f"vip{each}", (ip_interface(f"192.0.2.{each}"),), name) for each in range(100)
    ]
    roles(claims, NodeView(links))
    assert links.passes < 10


def test_a_node_can_hold_only_behind_the_fence() -> None:
    bypassed = Refusal("FenceBypassed", "somebody")
    key = (ETH0.index, CARRIER)
    assert refuse(WEB, NODE, {key: None}) is None
    assert refuse(WEB, NODE, {key: bypassed}) == bypassed
    for guards in ({}, {(ETH0.index, OTHER): None}, {(ETH1.index, CARRIER): None}):
        missing = refuse(WEB, NODE, guards)
        assert missing is not None
        assert missing.reason == "FenceMissing"
    refusal = refuse(WEB, node(ETH1), {key: None})
    assert refusal is not None
    assert refusal.reason == "NoInterface"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param(link(9, "eth9"), OTHER, id="a link without addresses"),
        pytest.param(link(9, "eth9", is_up=False), OTHER, id="a link that is down"),
        pytest.param(link(9, "wg0", kind="wireguard", is_ethernet=False), OTHER, id="a tunnel"),
        pytest.param(link(9, "cni0", address("10.0.0.1/24"), kind="bridge"), OTHER, id="the pods' bridge"),
        pytest.param(link(9, "eth9", address("192.0.2.2/24")), CARRIER, id="a second link of the subnet"),
        pytest.param(
            link(9, "eth9", ours("203.0.113.9/32")), CARRIER, id="one that still has an address of ours"
        ),
        pytest.param(link(9, "veth9", address("fe80::1/64"), kind="veth"), None, id="a pod's end"),
        pytest.param(link(9, "veth9", address("10.0.0.9/32"), kind="netkit"), None, id="a routed pod's end"),
        pytest.param(link(9, "veth9", address("10.0.0.1/24"), kind="veth"), OTHER, id="a veth with a subnet"),
        pytest.param(link(9, "port9", master=LinkIndex(3)), None, id="a port"),
    ],
)
def test_every_link_has_its_role(extra: Link, expected: GuardRole | None) -> None:
    found = roles([WEB], node(ETH0, ETH1, extra))
    assert found.get(extra.index) == expected
    assert found[ETH0.index] is CARRIER
    assert found[ETH1.index] is OTHER
    assert LO.index not in found


@pytest.mark.parametrize(
    ("claims", "view", "fenced", "expected"),
    [
        pytest.param([WEB], NODE, [], [Close(VIP)], id="a standby closes what it learns of"),
        pytest.param([WEB], NODE, [VIP], [], id="a standby at rest"),
        pytest.param([HELD], NODE, [VIP], [Bind(VIP, ETH0.index, is_new=True)], id="a new owner binds"),
        pytest.param(
            [HELD],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32"))),
            [VIP],
            [],
            id="an owner at rest",
        ),
        pytest.param(
            [HELD],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32", LIFETIME_S // 2 + 1))),
            [VIP],
            [],
            id="an owner with more than half of the lifetime left",
        ),
        pytest.param(
            [HELD],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32", LIFETIME_S // 2))),
            [VIP],
            [Bind(VIP, ETH0.index, is_new=False)],
            id="an owner refreshes",
        ),
        pytest.param(
            [WEB],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32"))),
            [],
            [Close(VIP), Unbind(VIP, ETH0.index)],
            id="a restarted keeper removes what it does not hold",
        ),
        pytest.param(
            [],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32"))),
            [],
            [Close(VIP), Unbind(VIP, ETH0.index)],
            id="also what no plan names any more",
        ),
        pytest.param([], NODE, [VIP], [Forget(VIP)], id="what was unbound is forgotten"),
        pytest.param(
            [HELD],
            node(
                link(2, "eth0", address("192.0.2.1/24"), is_up=False),
                link(3, "eth1", address("192.0.2.2/24")),
            ),
            [VIP],
            [Bind(VIP, ETH1.index, is_new=True)],
            id="an owner moves to the link that is up",
        ),
        pytest.param(
            [HELD],
            node(
                link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32"), is_up=False),
                link(3, "eth1", address("192.0.2.2/24")),
            ),
            [VIP],
            [Unbind(VIP, ETH0.index), Bind(VIP, ETH1.index, is_new=True)],
            id="and leaves nothing behind",
        ),
        pytest.param(
            [HELD],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32", 1), is_up=False)),
            [VIP],
            [],
            id="with no link up, the lease decides what becomes of it",
        ),
        pytest.param(
            [WEB],
            node(link(2, "eth0", address("192.0.2.10/24"))),
            [],
            [],
            id="a node's own address is not put under the fence",
        ),
        pytest.param(
            [HELD],
            node(link(2, "eth0", address("192.0.2.1/24"), address("192.0.2.10/32"))),
            [VIP],
            [],
            id="what somebody else bound is not touched",
        ),
        pytest.param(
            [WEB],
            node(ETH0, link(6, "kube-ipvs0", address("192.0.2.10/32"), is_up=False, kind="dummy")),
            [],
            [Close(VIP)],
            id="kube-proxy's service address is fenced all the same",
        ),
        pytest.param(
            [ROUTING],
            NODE,
            [VIP],
            [Bind(VIP, ETH0.index, is_new=True), Install(ROUTE), Install(RULE)],
            id="routes and rules come after the address",
        ),
        pytest.param(
            [ROUTING],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32")), entries=(ROUTE, RULE)),
            [VIP],
            [],
            id="an owner with its routes at rest",
        ),
        pytest.param(
            [ROUTED],
            node(link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32")), entries=(ROUTE, RULE)),
            [VIP],
            [Withdraw(ROUTE), Withdraw(RULE), Unbind(VIP, ETH0.index)],
            id="routes and rules go before the address",
        ),
        pytest.param(
            [ROUTING],
            node(
                link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32")),
                entries=(replace(ROUTE, source=None), replace(RULE, table=99), RULE),
            ),
            [VIP],
            [Withdraw(replace(ROUTE, source=None)), Withdraw(replace(RULE, table=99)), Install(ROUTE)],
            id="those that are otherwise than wanted are replaced",
        ),
        pytest.param(
            [ROUTING],
            node(
                link(2, "eth0", address("192.0.2.1/24"), ours("192.0.2.10/32", 1), is_up=False),
                entries=(RULE,),
            ),
            [VIP],
            [],
            id="with no link up, routes and rules stay as they are",
        ),
    ],
)
def test_the_difference_is_planned(
    claims: list[Claim], view: NodeView, fenced: list[IPAddress], expected: list[Action]
) -> None:
    assert [each for each in planned(claims, view, fenced) if not isinstance(each, Guard)] == expected


@pytest.mark.parametrize(
    ("view", "fenced", "expected"),
    [
        pytest.param(NODE, (), [VIP], id="of a VirtualIP"),
        pytest.param(NODE, (VIP,), [], id="known already"),
        pytest.param(node(link(2, "eth0", ours("192.0.2.10/32"))), (), [VIP], id="of a VirtualIP, bound"),
        pytest.param(node(link(2, "eth0", address("192.0.2.10/24"))), (), [], id="somebody's own"),
        pytest.param(
            node(link(2, "eth0", ours("192.0.2.99/32"))),
            (VIP,),
            [ip_address("192.0.2.99")],
            id="left by an earlier keeper",
        ),
    ],
)
def test_the_fence_comes_to_know_the_address(
    view: NodeView, fenced: tuple[IPAddress, ...], expected: list[IPAddress]
) -> None:
    assert unfenced([WEB], view, fenced=fenced) == expected


def test_what_is_bound_comes_into_the_fence_before_what_is_only_planned() -> None:
    view = node(link(2, "eth0", address("192.0.2.1/24"), ours("198.51.100.9/32")))
    assert unfenced([WEB], view, fenced=()) == [ip_address("198.51.100.9"), VIP]


def test_links_that_are_not_guarded_are_guarded() -> None:
    missing = Refusal("FenceMissing", "")
    guards = {(ETH0.index, CARRIER): missing, (ETH1.index, CARRIER): None}
    assert plan([WEB], NODE, fenced={VIP}, guards=guards, bare={LO.index}) == (
        Guard(ETH0.index, CARRIER),
        Guard(ETH1.index, OTHER),
    )


def test_links_that_are_not_to_be_guarded_are_relieved_of_the_fence_at_last() -> None:
    port = replace(ETH0, master=ETH1.index, addresses=(ours("192.0.2.10/32"),))
    cases = {port: (), replace(port, addresses=()): (Unguard(port.index),)}
    for seen, expected in cases.items():
        view = node(seen, ETH1)
        actions = plan([], view, fenced={VIP}, guards=guarded(view, []), bare={LO.index})
        assert tuple(each for each in actions if isinstance(each, Unguard)) == expected
    assert planned([], node(replace(port, addresses=()), ETH1)) == (Forget(VIP),)


@dataclass(frozen=True)
class World:
    """A kernel and a fence that do what they are told."""

    view: NodeView
    fenced: frozenset[IPAddress] = frozenset()
    guards: frozenset[tuple[LinkIndex, GuardRole]] = frozenset()
    bare: frozenset[LinkIndex] = frozenset()

    def look(self, claims: list[Claim]) -> tuple[Action, ...]:
        guards = dict.fromkeys(self.guards)
        return plan(claims, self.view, fenced=self.fenced, guards=guards, bare=self.bare)

    def do(self, actions: Iterable[Action]) -> World:
        world = self
        for action in actions:
            world = world.do_one(action)
        return world

    def do_one(self, action: Action) -> World:  # noqa: PLR0911 - one for each kind of action
        match action:
            case Close(closed):
                return replace(self, fenced=self.fenced | {closed})
            case Forget(forgotten):
                return replace(self, fenced=self.fenced - {forgotten})
            case Guard(index, role):
                kept = {each for each in self.guards if each[0] != index}
                return replace(self, guards=frozenset(kept | {(index, role)}), bare=self.bare - {index})
            case Unguard(index):
                kept = {each for each in self.guards if each[0] != index}
                return replace(self, guards=frozenset(kept), bare=self.bare | {index})
            case Bind(each, index):
                fresh = ours(f"{each}/{each.max_prefixlen}")
                return self._with_link(index, lambda bound: (*self._without(bound, each), fresh))
            case Unbind(each, index):
                return self._with_link(index, lambda bound: self._without(bound, each))
            case Install(entry) | Withdraw(entry):
                others = self.view.entries - {entry}
                entries = others | {entry} if isinstance(action, Install) else others
                return replace(self, view=replace(self.view, entries=entries))

    @staticmethod
    def _without(bound: tuple[BoundAddress, ...], gone: IPAddress) -> tuple[BoundAddress, ...]:
        return tuple(each for each in bound if not (each.is_ours and each.ip == gone))

    def _with_link(self, index: LinkIndex, change: Any) -> World:
        links = tuple(
            replace(each, addresses=change(each.addresses)) if each.index == index else each
            for each in self.view.links
        )
        return replace(self, view=replace(self.view, links=links))


TEXTS = ("192.0.2.10/24", "192.0.2.11/24", "192.0.2.12", "2001:db8::10/64", "198.51.100.9/24")


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[Claim], World]:
    claims = [
        Claim(
            uid=f"u{number}",
            name=f"vip{number}",
            addresses=(ip_interface(text),),
            interface=draw(st.sampled_from((None, None, "eth0", "eth1", "eth9"))),
            is_held=draw(st.booleans()),
            routes=draw(st.sampled_from(((), (routing.Route("203.0.113.0/24", metric=number + 1),)))),
            rules=draw(st.sampled_from(((), (routing.Rule(100),)))),
        )
        for number, text in enumerate(TEXTS)
        if draw(st.booleans())
    ]
    links = [LO]
    for index, name in ((2, "eth0"), (3, "eth1"), (4, "eth2"), (5, "br0")):
        bound = [
            address(text)
            for text in (f"192.0.2.{index}/24", f"2001:db8::{index}/64", f"198.51.100.{index}/24")
            if draw(st.booleans())
        ]
        for text in TEXTS:
            interface = ip_interface(text)
            host = f"{interface.ip}/{interface.max_prefixlen}"
            match draw(st.sampled_from(("", "", "", "ours", "foreign"))):
                case "ours":
                    bound.append(ours(host, draw(st.integers(0, LIFETIME_S))))
                case "foreign":
                    bound.append(address(host))
        master = LinkIndex(5) if index < 5 and draw(st.booleans()) and draw(st.booleans()) else None
        links.append(link(index, name, *bound, is_up=draw(st.booleans()), master=master))
    fenced = [ip_interface(text).ip for text in TEXTS if draw(st.booleans())]
    stray = (ROUTE, replace(ROUTE, source=None), replace(ROUTE, table=9), RULE, replace(RULE, table=9))
    entries = frozenset(entry for entry in stray if draw(st.booleans()))
    return claims, World(NodeView(tuple(links), entries=entries), frozenset(fenced))


@UNHURRIED
@given(worlds())
def test_doing_it_all_leaves_nothing_to_do(case: tuple[list[Claim], World]) -> None:
    claims, world = case
    first = world.look(claims)
    world = world.do(first)
    # What was unbound is now seen to be: it is forgotten, and its link may be no carrier any more.
    second = world.look(claims)
    assert not any(isinstance(each, Close | Bind | Unbind | Install | Withdraw) for each in second)
    assert world.do(second).look(claims) == ()


@UNHURRIED
@given(worlds(), st.randoms())
def test_the_order_in_which_things_are_told_changes_nothing(
    case: tuple[list[Claim], World], random: Any
) -> None:
    claims, world = case
    links = list(world.view.links)
    shuffled = list(claims)
    random.shuffle(links)
    random.shuffle(shuffled)
    other = replace(world, view=replace(world.view, links=tuple(links)))
    assert set(other.look(shuffled)) == set(world.look(claims))


@UNHURRIED
@given(worlds(), st.randoms())
def test_an_action_that_fails_is_planned_again(case: tuple[list[Claim], World], random: Any) -> None:
    claims, world = case
    for _ in range(4):
        world = world.do(each for each in world.look(claims) if random.random() < 0.5)
    for _ in range(3):
        world = world.do(world.look(claims))
    assert world.look(claims) == ()


@UNHURRIED
@given(worlds())
def test_nothing_is_bound_that_is_not_held_and_known_to_the_fence(case: tuple[list[Claim], World]) -> None:
    claims, world = case
    held = {each.ip for wanted in claims if wanted.is_held for each in wanted.addresses}
    known = set(world.fenced)
    for action in world.look(claims):
        match action:
            case Close(closed):
                known.add(closed)
            case Bind(each, _):
                assert each in held
                assert each in known
            case Unbind(each, _):
                assert each in known


@UNHURRIED
@given(worlds())
def test_what_others_bound_is_never_closed_or_removed(case: tuple[list[Claim], World]) -> None:
    claims, world = case
    foreign = {each.ip for each_link in world.view.links for each in each_link.addresses if not each.is_ours}
    marked = {each.ip for each_link in world.view.links for each in each_link.addresses if each.is_ours}
    for action in world.look(claims):
        match action:
            case Close(each):
                assert each not in foreign - marked
            case Bind(each, _):
                assert each not in foreign
            case Unbind(each, index):
                on_link = world.view.link(index)
                assert on_link is not None
                assert any(bound.is_ours and bound.ip == each for bound in on_link.addresses)


@UNHURRIED
@given(worlds())
def test_an_address_that_is_bound_is_never_forgotten(case: tuple[list[Claim], World]) -> None:
    claims, world = case
    marked = {each.ip for each_link in world.view.links for each in each_link.addresses if each.is_ours}
    wanted = {each.ip for claimed in claims for each in claimed.addresses}
    for action in world.look(claims):
        if isinstance(action, Forget):
            assert action.address not in marked | wanted
