"""Which frames reach a conflict watch, and what becomes of what it decides."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, cast

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether
from scapy.layers.vrrp import VRRPv3

from vipagent.contests import Contests
from vipagent.frames import build
from vipagent.nodeview import Link, LinkIndex, NodeView
from vipagent.sightings import ARP_PROTOCOL, IPV4_PROTOCOL, IPV6_PROTOCOL
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from vipagent.listener import Listener
    from vipagent.node import Node
    from vipapi.nodestatus import Problem

KEY, OTHER = b"key", b"other"
OWN, PORT, FOREIGN = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:66"
SECOND = 1_000_000_000
WEB = VirtualIPPlan(
    uid="web-uid",
    name="contested",
    addresses=("192.0.2.10/24", "2001:db8::10/64"),
    candidates=(CandidatePlan("a", 100),),
)
VIP4, VIP6 = ip_address("192.0.2.10"), ip_address("2001:db8::10")
CLAIM = build(FOREIGN, VIP4).frames[1]
ANSWER = CLAIM[:38] + bytes(4)

VIEW = NodeView((Link("eth0", LinkIndex(2), OWN, is_up=True), Link("eth1", LinkIndex(3), PORT, is_up=True)))


@dataclass
class Around:
    """What stands around the watches: a clock, a node with two links, and the ends of two leases."""

    now_ns: int = 0
    ends_ns: dict[bytes, int] = field(default_factory=lambda: {KEY: 1 << 62, OTHER: 1 << 62})
    said: list[tuple[str, bytes]] = field(default_factory=list)
    changed: list[tuple[bytes, ...]] = field(default_factory=list)
    may_cede: bool = True
    carried: dict[LinkIndex, frozenset[object]] = field(default_factory=dict)
    losses: int = 0
    view: NodeView = VIEW
    heard: Callable[[int, bytes], int] = lambda _protocol, _frame: 0
    asked: set[object] = field(default_factory=set)

    def probe(self, key: bytes, asked: frozenset[object]) -> None:
        self.said.append(("probe", key))
        self.asked |= asked

    def announce(self, key: bytes) -> None:
        self.said.append(("announce", key))

    def tell(self, heard: Callable[[int, bytes], int]) -> None:
        self.heard = heard

    def listen(self, wanted: object) -> None:
        self.listened = wanted

    def take_losses(self) -> int:
        return self.losses

    def contests(self) -> Contests:
        return Contests(
            node=cast("Node", self),
            listener=cast("Listener", self),
            now_ns=lambda: self.now_ns,
            lasts_until=lambda key: self.ends_ns.get(key, 1 << 62),
            may_cede=lambda _: self.may_cede,
            on_change=self.changed.append,
        )

    async def hear(self, frame: bytes, protocol: int = ARP_PROTOCOL, *, after_s: float = 2) -> int:
        self.now_ns += int(after_s * SECOND)
        claims = self.heard(protocol, frame)
        await asyncio.sleep(0)
        return claims

    async def until_probed(self) -> None:
        """Let the watches' timer fire, and do what it wants."""
        self.said.clear()
        while not self.said:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)


def run(story: Callable[[Around, Contests], Awaitable[None]], *, is_open: bool = True) -> None:
    async def tell() -> None:
        around = Around()
        contests = around.contests()
        if is_open:
            contests.open(KEY, WEB, is_first=False)
        await story(around, contests)
        contests.stop()

    asyncio.run(tell())


def claims_counted(kind: str) -> float:
    return REGISTRY.get_sample_value("vipkeeper_foreign_claims_total", {"kind": kind}) or 0


def gauge() -> float | None:
    return REGISTRY.get_sample_value(
        "vipkeeper_virtualip_conflict", {"virtualip": "contested", "reason": "ForeignHost"}
    )


def test_a_foreign_claim_is_answered_by_an_announcement_and_the_next_one_is_told() -> None:
    async def story(around: Around, contests: Contests) -> None:
        await around.hear(CLAIM)
        assert (around.said, contests.conflict(KEY)) == ([("announce", KEY)], None)
        await around.hear(build(FOREIGN, ip_address("2001:db8::10")).frames[0], IPV6_PROTOCOL)
        told: Problem | None = contests.conflict(KEY)
        assert told is not None
        assert told.reason == "ForeignHost"
        assert FOREIGN in told.message
        assert contests.may_bind(KEY)
        assert around.changed == [(KEY,)]
        assert gauge() == 1
        contests.close(KEY)
        assert contests.conflict(KEY) is None
        assert gauge() is None

    run(story)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(build(OWN, ip_address("192.0.2.10")).frames[1], id="its own echo"),
        pytest.param(build(PORT, ip_address("192.0.2.10")).frames[1], id="another of its links"),
        pytest.param(build(FOREIGN, ip_address("192.0.2.11")).frames[1], id="another address"),
        pytest.param(build(FOREIGN, ip_address("192.0.2.10")).probe, id="a probe"),
        pytest.param(CLAIM[:40], id="half a frame"),
    ],
)
def test_a_frame_that_says_nothing_changes_nothing(frame: bytes) -> None:
    async def story(around: Around, _: Contests) -> None:
        await around.hear(frame)
        await around.hear(frame)
        assert around.said == []
        assert around.changed == []

    run(story)


def test_what_is_read_after_the_lease_s_end_is_the_next_owner_s() -> None:
    async def story(around: Around, _: Contests) -> None:
        around.ends_ns[KEY] = 5 * SECOND
        await around.hear(CLAIM, after_s=5)
        assert around.said == []

    run(story)


def test_what_the_former_owner_sent_is_not_counted_as_foreign() -> None:
    async def story(around: Around, _: Contests) -> None:
        before = claims_counted("ARP")
        await around.hear(CLAIM, after_s=0.9)
        assert (around.said, claims_counted("ARP")) == ([], before)
        await around.hear(CLAIM, after_s=0.1)
        assert (around.said, claims_counted("ARP")) == ([("announce", KEY)], before + 1)

    run(story)


def test_a_set_that_was_given_up_is_watched_no_more_and_others_are() -> None:
    async def story(around: Around, contests: Contests) -> None:
        contests.open(OTHER, WEB, is_first=False)  # the same addresses, moved on to another lease
        contests.close(KEY)
        await around.hear(CLAIM)
        assert around.said == [("announce", OTHER)]
        contests.close(OTHER)
        await around.hear(CLAIM)
        assert around.said == [("announce", OTHER)]

    run(story)


def test_what_nobody_held_is_probed_before_it_is_bound() -> None:
    async def story(around: Around, contests: Contests) -> None:
        contests.open(KEY, WEB, is_first=True)
        assert not contests.may_bind(KEY)
        await around.until_probed()
        assert around.said == [("probe", KEY)]
        assert around.asked == {VIP4, VIP6}

    run(story, is_open=False)


def test_of_a_set_that_takes_another_s_place_only_what_is_new_is_probed_for() -> None:
    async def story(around: Around, contests: Contests) -> None:
        contests.plan([replace(WEB, addresses=("192.0.2.10/24",))])
        contests.plan([WEB])
        contests.plan([replace(WEB, owner="a")])
        contests.open(KEY, WEB, is_first=True)
        await around.until_probed()
        assert around.asked == {VIP6}
        await around.hear(ANSWER, after_s=0.01)
        assert contests.conflict(KEY) is None, "it is the old set's owner that answers"
        await around.hear(build(FOREIGN, VIP6).frames[0], IPV6_PROTOCOL, after_s=0.01)
        assert contests.conflict(KEY) is not None

    run(story, is_open=False)


def test_a_set_of_which_nothing_is_new_is_not_probed_for() -> None:
    async def story(_: Around, contests: Contests) -> None:
        contests.plan([WEB])
        fewer = replace(WEB, addresses=("192.0.2.10/24",))
        contests.plan([fewer])
        contests.open(KEY, fewer, is_first=True)
        assert contests.may_bind(KEY)
        contests.plan([])
        contests.plan([WEB])
        contests.open(OTHER, WEB, is_first=True)
        assert not contests.may_bind(OTHER), "another VirtualIP of old"

    run(story, is_open=False)


def test_what_this_keeper_ceded_is_probed_for_when_it_has_the_lease_again() -> None:
    async def story(around: Around, contests: Contests) -> None:
        contests.open(KEY, WEB, is_first=True)
        await around.until_probed()
        await around.hear(ANSWER, after_s=0.01)
        assert around.changed == [(KEY,)]
        contests.close(KEY)
        contests.open(OTHER, WEB, is_first=False)
        assert contests.may_bind(OTHER)
        contests.open(KEY, WEB, is_first=False)
        assert not contests.may_bind(KEY)

    run(story, is_open=False)


def test_what_may_have_two_owners_by_the_plan_of_the_moment_is_not_ceded() -> None:
    async def story(around: Around, contests: Contests) -> None:
        contests.open(KEY, WEB, is_first=True)
        around.may_cede = False
        while not around.changed:  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0)
        assert contests.may_bind(KEY)

    run(story, is_open=False)


@pytest.mark.parametrize("first", [KEY, OTHER], ids=["elder", "younger"])
def test_of_two_sets_with_one_address_the_one_that_stays_hears_of_it(first: bytes) -> None:
    """Two domains may have the same address; each of them grants it."""
    mail = replace(WEB, uid="mail-uid", name="mail", addresses=("192.0.2.10/24",))

    async def story(around: Around, contests: Contests) -> None:
        contests.open(OTHER, mail, is_first=False)
        contests.close(first)
        (stays,) = {KEY, OTHER} - {first}
        assert await around.hear(CLAIM) == 1
        assert around.said == [("announce", stays)]
        contests.close(stays)
        assert await around.hear(CLAIM) == 0

    run(story)


MANY = [ip_address(f"198.51.100.{n}") for n in range(1, 241)]


def opened(contests: Contests, *, is_first: bool) -> None:
    for number, address in enumerate(MANY):
        vip = VirtualIPPlan(
            uid=str(number), name=str(number), addresses=(f"{address}/24",), candidates=WEB.candidates
        )
        contests.open(str(number).encode(), vip, is_first=is_first)


def worked(around: Around) -> tuple[int, int]:
    """How often changes were told, and how much was done and told since this was asked last."""
    found = len(around.changed), len(around.said) + sum(map(len, around.changed))
    around.changed.clear()
    around.said.clear()
    return found


async def turns(around: Around) -> list[tuple[int, int]]:
    """What each turn of the loop did, until nothing is left to do."""
    found = []
    while not found or found[-1] != (0, 0) or len(found) < 3:
        await asyncio.sleep(0)
        found.append(worked(around))
    return found


def test_one_advert_about_240_sets_is_defended_and_told_a_few_sets_at_a_time() -> None:
    advert = bytes(
        Ether(src=FOREIGN, dst="01:00:5e:00:00:12")
        / IP(src="192.0.2.7", dst="224.0.0.18", ttl=255, proto=112)
        / VRRPv3(vrid=51, addrlist=[str(address) for address in MANY])
    )

    async def story(around: Around, contests: Contests) -> None:
        opened(contests, is_first=False)
        around.now_ns = 2 * SECOND
        before = claims_counted("VRRP")
        assert around.heard(IPV4_PROTOCOL, advert) == 240
        assert worked(around) == (0, 0), "all that takes long waits for its turn"
        defended = await turns(around)
        assert (sum(told for told, _ in defended), sum(done for _, done in defended)) == (0, 240)
        assert max(done for _, done in defended) == 16
        around.now_ns = 4 * SECOND
        around.heard(IPV4_PROTOCOL, advert)
        told = await turns(around)
        assert (sum(count for count, _ in told), sum(done for _, done in told)) == (15, 240)
        assert max(count for count, _ in told) == 1
        assert claims_counted("VRRP") == before + 2

    run(story, is_open=False)


def test_240_sets_that_were_begun_together_are_bound_a_few_at_a_time_and_told_by_the_turn() -> None:
    async def story(around: Around, contests: Contests) -> None:
        opened(contests, is_first=True)
        for probe in range(4):
            around.now_ns = probe * SECOND // 10
            found: list[tuple[int, int]] = []
            while sum(done for _, done in found) < 240:
                await asyncio.sleep(0)
                found.append(worked(around))
            assert max(done for _, done in found) == 16
        assert sum(told for told, _ in found) == 15
        assert contests.may_bind(b"0")

    run(story, is_open=False)


def test_the_listener_follows_the_node_and_its_losses_are_counted() -> None:
    async def story(around: Around, contests: Contests) -> None:
        before = REGISTRY.get_sample_value("vipkeeper_lost_frames_total") or 0
        around.carried = {LinkIndex(2): frozenset({ip_address("192.0.2.10")})}
        around.losses = 7
        contests.follow()
        assert around.listened == around.carried
        assert REGISTRY.get_sample_value("vipkeeper_lost_frames_total") == before + 7

    run(story)
