"""A whole keeper on a real kernel, alone in a namespace: what it makes of plans, votes and gateways."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, ClassVar

import msgspec
import pytest
from pyroute2 import AsyncIPRoute

from agent.ear import Ear
from agent.onekeeper import (
    FIRST,
    MACHINE,
    PORT,
    SECOND,
    UID,
    WEB,
    Courier,
    configured,
    is_alive,
    network,  # noqa: F401 - a fixture that all tests have
    planned,
    run,
    running,
    service,
    until,
)
from agent.services import STORY_S
from vipagent.disk import Disk
from vipagent.effects import Send
from vipagent.keeper import REPORT_S, now_ns
from vipagent.messages import Config
from vipagent.node import Node
from vipagent.seat import Seat
from vipagent.standing import Standing
from vipapi import link
from vipapi.healthchecks import HealthCheck, Link, TCPSocket
from vipapi.link import Vote, Votes, VotesWanted
from vipapi.nodeplan import Timing
from vipapi.nodestatus import Report
from viphealth.conversation import Health

if TYPE_CHECKING:
    from vipagent.messages import Key
    from vipagent.nodeview import Refusal
    from vipagent.readiness import Facts

pytestmark = pytest.mark.usefixtures("importable")


def fill_disk(folder: Path, what: str) -> Path:
    """Have the next file of a kind not fit; returns what to remove to make room."""
    file = next(folder.glob(f"{what}-*"))
    full = file.with_name(f"{file.name}.new")
    full.symlink_to("/dev/full")
    return full


def test_a_lone_witness_takes_what_it_is_planned_to_hold(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        assert courier.domain().configuration == FIRST

    run(tmp_path, story)


def test_many_that_are_taken_at_once_are_told_in_few_reports(tmp_path: Path) -> None:
    """A report goes through everything that is planned: one for each of many would be all that is done."""
    vips = tuple(
        msgspec.structs.replace(
            WEB, uid=f"uid-{number}", name=f"web-{number}", addresses=(f"192.0.2.{number}/24",)
        )
        for number in range(20, 70)
    )

    async def story(courier: Courier) -> None:
        counted = 0

        def all_bound() -> bool:
            nonlocal counted
            counted += 1
            report = courier.report
            return report is not None and sum(bool(held.bound) for held in report.virtual_ips) == len(vips)

        since_s = time.monotonic()
        courier.plan(planned(FIRST, *vips))
        await courier.until(all_bound)
        assert counted <= (time.monotonic() - since_s) / REPORT_S + 3

    run(tmp_path, story)


def test_many_checks_that_fail_at_once_are_judged_together(tmp_path: Path) -> None:
    """A judgement goes through everything: one for each result, and nothing is renewed meanwhile."""
    judged = 0

    class Judged(Node):
        def obstacles(self) -> dict[str, Refusal | None]:
            nonlocal judged
            judged += 1
            return super().obstacles()

    checks = tuple(
        HealthCheck(f"link-{number}", weight=1, link=Link("app0"), period_milliseconds=60_000 + number)
        for number in range(50)
    )

    async def story(courier: Courier) -> None:
        nonlocal judged
        async with AsyncIPRoute() as route:
            await route.link("add", ifname="app0", kind="veth", peer={"ifname": "app1"})
            for name in ("app0", "app1"):
                await route.link("set", index=socket.if_nametoindex(name), state="up")
            courier.plan(planned(FIRST, msgspec.structs.replace(WEB, health_checks=checks)))
            await courier.until(lambda: courier.state() == "Owner" and not courier.complaints())
            before = judged
            await route.link("set", index=socket.if_nametoindex("app0"), state="down")
            await courier.until(lambda: len(courier.complaints()) == len(checks))
            assert judged - before < len(checks) / 2

    run(tmp_path, story, node_type=Judged)


class Followed(Node):
    """A node that remembers whether it has let go of an address set."""

    closed: ClassVar[list[Key]] = []

    def close(self, key: Key) -> None:
        self.closed.append(key)
        super().close(key)


NIC = HealthCheck("nic", link=Link("eth0"), failure_threshold=3)


@pytest.mark.parametrize(
    "checks",
    [
        pytest.param((msgspec.structs.replace(NIC, failure_threshold=5),), id="threshold"),
        pytest.param((msgspec.structs.replace(NIC, period_milliseconds=500),), id="period"),
        pytest.param(
            (NIC, HealthCheck("new", tcp_socket=TCPSocket(1), period_milliseconds=60_000)), id="new"
        ),
    ],
)
def test_an_owner_whose_checks_are_edited_keeps_its_address_and_its_services(
    daemons: Path, checks: tuple[HealthCheck, ...]
) -> None:
    Followed.closed.clear()
    own = msgspec.structs.replace(WEB, services=(service("db"),), health_checks=(NIC,))
    marker = msgspec.structs.replace(WEB, uid="marker-uid", name="marker", addresses=("192.0.2.11/24",))

    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, own))
        await courier.until(lambda: courier.service_states() == {"db": "Active"} and courier.is_bound())
        started = (daemons / "db.pid").read_text()
        courier.plan(planned(FIRST, msgspec.structs.replace(own, health_checks=checks), marker))
        await courier.until(lambda: courier.report is not None and len(courier.report.virtual_ips) > 1)
        await courier.until(lambda: courier.state() != "Owner" or len(courier.held()) > 1)
        assert Followed.closed == []
        assert (courier.state(), courier.fitness(), courier.service_states()) == (
            "Owner",
            "Fit",
            {"db": "Active"},
        )
        assert is_alive(daemons, "db")
        assert (daemons / "db.pid").read_text() == started

    run(daemons, story, node_type=Followed)


def test_an_owner_lets_go_once_a_new_check_has_failed_often_enough(tmp_path: Path) -> None:
    new = HealthCheck("new", tcp_socket=TCPSocket(1), period_milliseconds=100)

    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        courier.plan(planned(FIRST, msgspec.structs.replace(WEB, health_checks=(new,))))
        await courier.until(lambda: courier.state() == "Standby")
        await courier.until(lambda: courier.fitness() == "Unfit")

    run(tmp_path, story)


def test_a_keeper_that_stops_tells_at_last_that_it_holds_nothing(tmp_path: Path) -> None:
    told: list[Report] = []

    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        reader, writer = await asyncio.open_unix_connection(tmp_path / "keeper.sock", limit=1 << 20)

        async def listen() -> None:
            while line := await reader.readline():
                if isinstance(said := link.decode_for_courier(line), Report):
                    told.append(said)
            writer.close()

        listening.append(asyncio.create_task(listen()))

    listening: list[asyncio.Task[None]] = []

    async def tell() -> None:
        async with asyncio.timeout(STORY_S):
            async with running(tmp_path) as courier:
                await story(courier)
            await asyncio.gather(*listening)

    asyncio.run(tell())
    assert [held.state for held in told[-1].virtual_ips] == ["Standby"]


def test_a_keeper_that_renews_too_late_is_not_live_and_one_that_renews_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loop turns, or nobody was answered: what is late is all that it has the loop for."""

    def unsure(_facts: Facts) -> str:
        raise LookupError("odd")

    def in_20_s() -> int:
        return now_ns() + 20_000_000_000

    async def story(courier: Courier) -> None:
        assert courier.health().sick == ""
        with monkeypatch.context() as later:
            later.setattr("vipagent.keeper.now_ns", in_20_s)
            assert courier.health().sick == ""  # without a domain nothing is ever due
        with monkeypatch.context() as broken:
            broken.setattr("vipagent.readiness.missing", unsure)
            # The kubelet would kill who is not live.
            assert courier.health() == Health("", "whether it is ready cannot be told: LookupError('odd')")
        courier.plan(planned(FIRST, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        assert courier.health() == Health()
        with monkeypatch.context() as later:
            later.setattr("vipagent.keeper.now_ns", in_20_s)
            said = courier.health().sick
        found = re.fullmatch(r"its renewals are (\d+) s late", said)
        assert found is not None, said
        assert int(found[1]) >= 19
        assert courier.health().sick == ""

    run(tmp_path, story)


def test_a_plan_never_brings_an_older_configuration_back(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        for configuration, epoch in ((FIRST, 1), (SECOND, 2)):
            courier.plan(planned(configuration))
            await courier.until(lambda: courier.epoch() == epoch)  # noqa: B023 - awaited in this round
        courier.plan(planned(FIRST, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        assert courier.epoch() == 2
        assert courier.reasons() == set()
        courier.plan(planned(configured(2, "a", "b"), WEB))
        await courier.until(lambda: courier.reasons() == {"EpochConflict"})
        assert (courier.epoch(), courier.state()) == (2, "Owner")

    async def after_a_restart(courier: Courier) -> None:
        await courier.until(lambda: courier.epoch() == 2)
        assert courier.domain().configuration == SECOND

    run(tmp_path, story)
    run(tmp_path, after_a_restart)


def test_a_configuration_is_in_force_only_when_it_is_on_disk(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST))
        await courier.until(lambda: courier.epoch() == 1)
        full = fill_disk(tmp_path, "configuration")
        courier.plan(planned(SECOND))
        await courier.until(lambda: courier.reasons() == {"ConfigurationNotKept"})
        assert courier.epoch() == 1
        full.unlink()
        await courier.until(lambda: courier.epoch() == 2)
        assert courier.reasons() == set()

    run(tmp_path, story)


def test_a_peer_can_bring_a_newer_configuration(tmp_path: Path) -> None:
    peer = Seat(
        planned(),
        configured(2, "a", "b", former=FIRST),
        node="b",
        machine=b"machine2",
        incarnation=1,
        random=Random(0),
        now_ns=now_ns(),
        term_ceiling=0,
    )
    peer.assign(planned(), now_ns())
    sealed = peer.seal(Send("a", Config(peer.configuration)))
    assert sealed is not None

    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST))
        await courier.until(lambda: courier.epoch() == 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaking:
            speaking.sendto(sealed[1], ("192.0.2.1", PORT))
        await courier.until(lambda: courier.epoch() == 2)
        assert Disk(tmp_path).load_configuration(UID) == peer.configuration

    run(tmp_path, story)


def test_an_owner_that_hears_a_lost_peer_again_announces_again(tmp_path: Path) -> None:
    peer = Seat(
        planned(),
        FIRST,
        node="b",
        machine=b"machine2",
        incarnation=1,
        random=Random(0),
        now_ns=now_ns(),
        term_ceiling=0,
    )
    peer.assign(planned(), now_ns())

    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, msgspec.structs.replace(WEB, announcement_count=1)))
        await courier.until(lambda: courier.state() == "Owner" and courier.is_bound())
        await courier.until(lambda: courier.domain().reachable_peers == ("a",))
        with Ear() as ear, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaking:
            await asyncio.sleep(0)
            assert ear.all() == []
            sealed = peer.seal(Send("a", Config(peer.configuration)))
            assert sealed is not None
            speaking.sendto(sealed[1], ("192.0.2.1", PORT))
            await ear.next()
        await courier.until(lambda: courier.domain().reachable_peers == ("a", "b"))

    run(tmp_path, story)


def test_a_damaged_configuration_keeps_a_node_out_of_that_domain_until_the_api_speaks(tmp_path: Path) -> None:
    async def before(courier: Courier) -> None:
        courier.plan(planned(SECOND))
        await courier.until(lambda: courier.epoch() == 2)

    async def story(courier: Courier) -> None:
        await courier.until(lambda: courier.reasons() == {"ConfigurationUnreadable"})
        assert courier.epoch() == 0
        courier.plan(planned(SECOND, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        assert courier.reasons() == set()

    run(tmp_path, before)
    next(tmp_path.glob("configuration-*")).write_bytes(b"")
    run(tmp_path, story)


def test_terms_that_cannot_be_kept_are_reported_and_tried_again(tmp_path: Path) -> None:
    async def before(courier: Courier) -> None:
        courier.plan(planned(FIRST))
        await until(lambda: any(tmp_path.glob("terms-*")))

    async def story(courier: Courier) -> None:
        await courier.until(lambda: courier.reasons() == {"TermsNotKept"})
        full.unlink()
        await courier.until(lambda: courier.reasons() == set())

    run(tmp_path, before)
    full = fill_disk(tmp_path, "terms")
    run(tmp_path, story)


def test_the_api_servers_vote_is_asked_for_and_makes_a_majority_of_two(tmp_path: Path) -> None:
    two = configured(1, "a", "b", has_api_vote=True)

    async def story(courier: Courier) -> None:
        courier.plan(planned(two, WEB))
        await courier.until(lambda: any(vote.is_needed for vote in courier.votes_wanted.wanted))
        (wanted,) = courier.votes_wanted.wanted
        assert (wanted.domain_uid, wanted.domain_name) == (UID, "default")
        assert wanted.holder == f"a_{MACHINE.hex()}"
        vote = Vote(
            domain_uid=UID,
            until_ns=now_ns() + 10 * 10**9,
            since_ns=wanted.since_ns,
            term_floor=0,
            term_ceiling=wanted.term_ceiling,
            transitions=1,
            epoch=wanted.epoch,
        )
        courier.say(Votes((vote,)))
        await courier.until(lambda: courier.state() == "Owner")
        assert courier.domain().vote_transitions == 1
        courier.plan(planned(configured(2, "a", former=two), WEB))
        await courier.until(lambda: courier.votes_wanted == VotesWanted())

    run(tmp_path, story)


def _hears_heartbeats() -> bool:
    return any(f":{PORT:04X} " in line for line in Path("/proc/thread-self/net/udp").read_text().splitlines())


def test_a_heartbeat_port_that_another_program_has_is_reported_until_it_is_free(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("192.0.2.1", PORT))
            courier.plan(planned(FIRST, WEB))
            await courier.until(lambda: courier.reasons() == {"HeartbeatRefused"})
        await courier.until(lambda: courier.reasons() == set())

    run(tmp_path, story)


def test_the_standings_of_what_is_deleted_are_forgotten(tmp_path: Path) -> None:
    def standings() -> int:
        gc.collect()
        return sum(isinstance(each, Standing) for each in gc.get_objects())

    async def story(courier: Courier) -> None:
        before = standings()
        for number in range(3):
            vip = msgspec.structs.replace(WEB, uid=f"uid-{number}", name=f"web-{number}")
            courier.plan(planned(FIRST, vip))
            await courier.until(lambda: courier.state() == "Owner")
            assert standings() == before + 1
            courier.plan(planned(FIRST))
            await courier.until(lambda: courier.state() == "")

    run(tmp_path, story)


def test_a_node_that_left_a_domain_lets_go_and_falls_silent(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        without_a = configured(2, "b", former=FIRST)
        courier.plan(planned(without_a, WEB))
        await courier.until(lambda: courier.domain().configuration == without_a)
        assert _hears_heartbeats()
        courier.plan()
        await until(lambda: not _hears_heartbeats())
        async with AsyncIPRoute() as route:
            found = [message.get("address") async for message in await route.addr("dump")]
        assert "192.0.2.10" not in found
        courier.plan(planned(without_a, WEB))
        await until(_hears_heartbeats)

    run(tmp_path, story)


def test_a_gateway_that_falls_silent_makes_the_node_unsound_until_it_answers(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        async with AsyncIPRoute() as route:
            index = socket.if_nametoindex("eth0")
            courier.plan(planned(FIRST, WEB))
            await courier.until(lambda: courier.state() == "Owner")
            assert courier.domain().is_sound
            await route.route("add", dst="default", gateway="192.0.2.254")
            await courier.until(lambda: not courier.domain().is_sound)
            assert courier.state() == "Owner"
            await route.addr("add", index=index, address="192.0.2.254", prefixlen=32)
            await courier.until(lambda: courier.domain().is_sound)
            await route.addr("delete", index=index, address="192.0.2.254", prefixlen=32)
            await courier.until(lambda: not courier.domain().is_sound)
            courier.plan(msgspec.structs.replace(planned(FIRST, WEB), gateway_probe="Off"))
            await courier.until(lambda: courier.domain().is_sound)
            courier.plan(planned(FIRST, WEB))
            await courier.until(lambda: not courier.domain().is_sound)
            await route.route("delete", dst="default", gateway="192.0.2.254")
            await courier.until(lambda: courier.domain().is_sound)

    run(tmp_path, story)


def test_another_timing_is_refused_and_the_old_one_goes_on(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, WEB))
        await courier.until(lambda: courier.state() == "Owner")
        courier.plan(msgspec.structs.replace(planned(SECOND, WEB), timing=Timing(200, 800, 1000, 1200)))
        await courier.until(lambda: courier.reasons() == {"TimingRefused"})
        await courier.until(lambda: courier.epoch() == 2)
        assert courier.state() == "Owner"

    run(tmp_path, story)
