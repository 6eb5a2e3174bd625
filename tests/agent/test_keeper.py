"""A whole keeper on a real kernel, alone in a namespace: what it makes of plans, votes and gateways."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent.services import STORY_S
from lab.kernelcalls import entered, new_network
from vipagent.announcer import Announcer
from vipagent.disk import Disk
from vipagent.effects import Send
from vipagent.fence import Fence
from vipagent.keeper import Keeper, now_ns
from vipagent.kernel import Kernel
from vipagent.leash_cgroups import default_cgroup
from vipagent.messages import Config
from vipagent.node import Node
from vipagent.probes import Probes
from vipagent.probes_exec import HookRunner
from vipagent.runner import Runner
from vipagent.seat import Seat
from vipapi import link
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.healthchecks import Exec, HealthCheck, TCPSocket
from vipapi.link import Vote, Votes, VotesWanted
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Plan, ServicePlan, Timing, VirtualIPPlan
from vipapi.nodestatus import DomainStatus, Report, ServiceStatus
from vipapi.workloads import Hooks, Scripts, Workload
from viphealth.conversation import Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from vipagent.readiness import Facts

UID = "domain-uid"
PORT = 7946
WEB = VirtualIPPlan(
    uid="web-uid",
    name="web",
    addresses=("192.0.2.10/24",),
    candidates=(CandidatePlan("a", 100), CandidatePlan("b", 90)),
)
MACHINE = b"machine1"


def configured(
    epoch: int, *nodes: str, has_api_vote: bool = False, former: Configuration | None = None
) -> Configuration:
    members = tuple(Member(node, f"192.0.2.{number}") for number, node in enumerate(nodes, 1))
    made = Configuration(
        epoch=epoch,
        former_hash="" if former is None else former.hash,
        witnesses=WitnessSet(members, has_api_vote=has_api_vote),
    )
    return made.sealed(UID)


FIRST = configured(1, "a")
SECOND = configured(2, "a", former=FIRST)


def planned(configuration: Configuration = FIRST, *vips: VirtualIPPlan) -> DomainPlan:
    return DomainPlan(
        name="default",
        uid=UID,
        port=PORT,
        timing=Timing(100, 400, 500, 600),
        configuration=configuration,
        members=(Member("a", "192.0.2.1"), Member("b", "192.0.2.2")),
        keys=(Key(1, b"k" * 32),),
        virtual_ips=vips,
    )


@dataclass
class Courier:
    """The other end of the keeper's socket: what was said last, of each kind."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    report: Report | None = None
    votes_wanted: VotesWanted = field(default_factory=VotesWanted)
    health: Callable[[], Health] = Health

    def say(self, said: Plan | Votes) -> None:
        self.writer.write(link.encode(said) + b"\n")

    def plan(self, *domains: DomainPlan) -> None:
        self.say(Plan("a", domains, ("192.0.2.1",)))

    async def until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            match link.decode_for_courier(await self.reader.readline()):
                case Report() as report:
                    self.report = report
                case VotesWanted() as wanted:
                    self.votes_wanted = wanted

    def domain(self) -> DomainStatus:
        found = () if self.report is None else self.report.domains
        return found[0] if found else DomainStatus("none", "", "Member")

    def epoch(self) -> int:
        return self.domain().configuration.epoch

    def state(self) -> str:
        return self.report.virtual_ips[0].state if self.report and self.report.virtual_ips else ""

    def fitness(self) -> str:
        return self.report.virtual_ips[0].fitness if self.report and self.report.virtual_ips else ""

    def is_bound(self) -> bool:
        return bool(self.report and self.report.virtual_ips and self.report.virtual_ips[0].bound)

    def service_check_results(self) -> list[str]:
        found = () if self.report is None else self.report.virtual_ips
        return [check.result for vip in found for check in vip.service_checks]

    def complaints(self) -> list[str]:
        """What the first address's failing checks say, by their names."""
        found = () if self.report is None else self.report.virtual_ips[:1]
        checks = [check for vip in found for check in vip.checks if check.result == "Failing"]
        return [check.message for check in sorted(checks, key=lambda check: check.name)]

    def services(self) -> dict[str, ServiceStatus]:
        return {} if self.report is None else {each.name: each for each in self.report.services}

    def service_states(self) -> dict[str, str]:
        return {name: each.state for name, each in self.services().items()}

    def reasons(self) -> set[str]:
        return set() if self.report is None else {problem.reason for problem in self.report.problems}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    """Stand in a namespace with eth0 (192.0.2.1/24) whose far end says nothing."""
    made = new_network()
    with entered(made), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"})
        for name in ("eth0", "far0"):
            route.link("set", index=socket.if_nametoindex(name), state="up")
        route.addr("add", index=socket.if_nametoindex("eth0"), address="192.0.2.1", prefixlen=24)
        yield
    os.close(made)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Courier]:
    """A keeper with its state in a folder, and its courier."""
    with Fence.load() as fence:
        async with Kernel.open() as kernel:
            announcer = Announcer.open()
            node = Node(kernel=kernel, fence=fence, announcer=announcer)
            probes = Probes(hooks_dir=folder, gateways=node.gateways, facts=lambda: keeper.facts)
            event_hooks = HookRunner(folder)
            disk = Disk(folder)
            keeper = Keeper(
                name="a",
                version="test",
                machine=MACHINE,
                incarnation=disk.next_incarnation(),
                is_witness_only=False,
                node=node,
                run_probe=probes.run,
                runner_for=partial(Runner, node="a", hooks_dir=folder, cgroup=default_cgroup("a")),
                run_hook=event_hooks.run,
                disk=disk,
                socket=folder / "keeper.sock",
            )
            stop = asyncio.Event()
            task = asyncio.create_task(keeper.run(stop))
            try:
                await until((folder / "keeper.sock").exists)
                reader, writer = await asyncio.open_unix_connection(folder / "keeper.sock", limit=1 << 20)
                try:
                    yield Courier(reader, writer, health=keeper.health)
                finally:
                    writer.close()
            finally:
                stop.set()
                await task
                announcer.close()
                await probes.close()
                await event_hooks.close()


def run(folder: Path, story: Callable[[Courier], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with asyncio.timeout(STORY_S), running(folder) as courier:
            await story(courier)

    asyncio.run(tell())


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


# Services that follow ----------------------------------------------------------------------------

DAEMON = """#!/bin/sh
echo "$VIPKEEPER_TERM" >> {folder}/$1.started
sleep 600 &
echo $! > {folder}/$1.pid
"""


def service(name: str, **more: object) -> ServicePlan:
    made = ServicePlan(
        uid="sfo-uid",
        namespace="prod",
        failover="shop",
        name=name,
        workload=Workload(exec=Scripts(start=Exec("daemon", (name,)))),
        is_singleton=False,
        start_timeout_ms=5_000,
        stop_timeout_ms=1_000,
    )
    return msgspec.structs.replace(made, **more)


def followed(*services: ServicePlan, checks: tuple[HealthCheck, ...] = ()) -> DomainPlan:
    return planned(FIRST, msgspec.structs.replace(WEB, services=services, service_checks=checks))


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """A folder with a hook that leaves a process behind, and tells of it."""
    hook = tmp_path / "daemon"
    hook.write_text(DAEMON.format(folder=tmp_path))
    hook.chmod(0o700)
    return tmp_path


def is_alive(folder: Path, name: str) -> bool:
    return Path("/proc", (folder / f"{name}.pid").read_text().strip()).exists()


async def addresses() -> list[str]:
    async with AsyncIPRoute() as route:
        return [str(message.get("address")) async for message in await route.addr("dump")]


def test_services_start_before_the_address_is_bound_and_stop_after_it_is_gone(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db"), service("app", is_first=False)))
        await courier.until(lambda: courier.service_states().get("db") == "Starting")
        assert "192.0.2.10" not in await addresses()
        await courier.until(lambda: courier.service_states() == {"db": "Active", "app": "Active"})
        assert "192.0.2.10" in await addresses()
        assert is_alive(hooks, "db")
        assert is_alive(hooks, "app")
        assert courier.services()["db"].term == int((hooks / "db.started").read_text())

    run(hooks, story)
    assert not is_alive(hooks, "db")
    assert not is_alive(hooks, "app")


def test_a_singleton_waits_for_the_other_candidate_s_word_or_the_end_of_its_leash(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db", is_singleton=True)))
        await courier.until(lambda: courier.service_states() == {"db": "Waiting"})
        assert courier.services()["db"].message.startswith("waits for b to confirm")
        await courier.until(lambda: courier.service_states() == {"db": "Active"})

    run(hooks, story)


def test_a_service_that_is_planned_no_more_is_stopped_and_the_address_stays(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db"), service("app")))
        await courier.until(lambda: courier.service_states() == {"db": "Active", "app": "Active"})
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        assert not is_alive(hooks, "app")
        courier.plan(followed())
        await courier.until(lambda: courier.service_states() == {})
        assert not is_alive(hooks, "db")
        assert courier.state() == "Owner"
        assert "192.0.2.10" in await addresses()

    run(hooks, story)


def test_a_service_that_is_planned_for_a_bound_address_is_started_and_the_address_stays(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed())
        await courier.until(courier.is_bound)
        courier.plan(followed(service("db", is_singleton=True)))
        await courier.until(lambda: courier.service_states() == {"db": "Waiting"})
        assert "192.0.2.10" in await addresses()
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        assert "192.0.2.10" in await addresses()

    run(hooks, story)


def test_a_service_that_dies_costs_the_node_the_address_for_a_while(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        os.kill(int((hooks / "db.pid").read_text()), 9)
        await courier.until(lambda: courier.state() == "Standby")
        assert courier.report is not None
        holding = courier.report.virtual_ips[0]
        assert (holding.fitness, holding.reason) == ("Unfit", "ServiceFailed")
        assert "db" in holding.message
        assert "192.0.2.10" not in await addresses()

    run(hooks, story)


def test_a_check_of_active_services_that_fails_moves_them_away(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        page = HealthCheck("page", period_milliseconds=100, tcp_socket=TCPSocket(port=1))
        courier.plan(followed(service("db"), checks=(page,)))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        await courier.until(lambda: courier.service_check_results() != [])
        assert courier.service_check_results() in (["Passing"], ["Failing"])
        await courier.until(lambda: courier.state() == "Standby")
        assert not is_alive(hooks, "db")
        await courier.until(lambda: courier.service_check_results() == [])

    run(hooks, story)


TELL = """#!/bin/sh
echo "$VIPKEEPER_EVENT $VIPKEEPER_SERVICE $VIPKEEPER_NODE $VIPKEEPER_VIRTUAL_IP" >> {folder}/told
"""


def script(folder: Path, name: str, text: str) -> Exec:
    (folder / name).write_text(text)
    (folder / name).chmod(0o700)
    return Exec(name)


def telling(folder: Path) -> ServicePlan:
    """A service whose hooks write down what they are told."""
    tell = (script(folder, "tell", TELL.format(folder=folder)),)
    return service("db", hooks=Hooks(promoted=tell, demoted=tell, faulted=tell))


def kinds_told(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "told").read_text().splitlines()]


async def until_told(courier: Courier, kind: str) -> None:
    def is_told() -> bool:
        status = courier.services().get("db")
        return status is not None and status.hook is not None and status.hook.kind == kind

    await courier.until(is_told)


def test_hooks_are_told_when_the_lease_is_lost(hooks: Path) -> None:
    db = telling(hooks)

    async def story(courier: Courier) -> None:
        courier.plan(followed(db))
        await until_told(courier, "promoted")
        (vip,) = followed(db).virtual_ips
        courier.plan(planned(configured(2, "a", "b", former=FIRST), vip))
        await until_told(courier, "demoted")
        assert courier.state() == "Standby"

    run(hooks, story)
    assert kinds_told(hooks) == ["promoted", "demoted"]


def test_hooks_are_told_when_services_stop_and_start_again_under_one_lease(hooks: Path) -> None:
    well, go = hooks / "well", hooks / "go"
    well.touch()
    scripts = Scripts(
        start=Exec("daemon", ("db",)),
        stop=script(
            hooks, "stop", f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done; kill $(cat {hooks}/db.pid)\n"
        ),
    )
    db = msgspec.structs.replace(telling(hooks), workload=Workload(exec=scripts), stop_timeout_ms=20_000)
    check = HealthCheck(
        "well",
        period_milliseconds=100,
        failure_threshold=1,
        success_threshold=1,
        exec=script(hooks, "look", f"#!/bin/sh\n[ -e {well} ]\n"),
    )
    vip = msgspec.structs.replace(WEB, services=(db,), health_checks=(check,))

    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, vip))
        await until_told(courier, "promoted")
        term = courier.services()["db"].term
        well.unlink()
        await courier.until(lambda: courier.service_states() == {"db": "Stopping"})
        well.touch()
        await courier.until(lambda: courier.fitness() == "Fit")
        go.touch()
        await until_told(courier, "demoted")
        await until_told(courier, "promoted")
        assert courier.services()["db"].term == term

    run(hooks, story)
    assert kinds_told(hooks) == ["promoted", "demoted", "promoted", "demoted"]


def test_hooks_are_told_what_became_of_a_service_also_at_the_keeper_s_end(hooks: Path) -> None:
    told = hooks / "told"
    db = telling(hooks)

    async def story(courier: Courier) -> None:
        courier.plan(followed(db))
        await until_told(courier, "promoted")
        assert "192.0.2.10" in await addresses()
        os.kill(int((hooks / "db.pid").read_text()), 9)
        await until_told(courier, "demoted")
        assert "192.0.2.10" not in await addresses()
        assert courier.service_states() == {"db": "Failed"}
        corrected = msgspec.structs.replace(db, generation=2)
        courier.plan(followed(corrected))
        await until_told(courier, "promoted")

    run(hooks, story)
    kinds = ["promoted", "faulted", "demoted", "promoted", "demoted"]
    assert told.read_text().splitlines() == [f"{kind} prod/shop/db a web" for kind in kinds]


def test_a_node_that_is_said_to_be_off_lets_go_until_that_is_taken_back(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        courier.plan(msgspec.structs.replace(followed(service("db")), out_of_service=("b", "a")))
        await courier.until(lambda: courier.state() == "Standby")
        assert courier.report is not None
        holding = courier.report.virtual_ips[0]
        assert (holding.fitness, holding.reason) == ("Unfit", "OutOfService")
        assert not is_alive(hooks, "db")
        courier.plan(msgspec.structs.replace(followed(service("db")), out_of_service=("b",)))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})

    run(hooks, story)


def test_a_singleton_does_not_wait_for_the_leash_of_a_node_that_is_said_to_be_off(hooks: Path) -> None:
    patient = service("db", is_singleton=True, stop_timeout_ms=600_000)

    async def story(courier: Courier) -> None:
        courier.plan(followed(patient))
        await courier.until(lambda: courier.service_states() == {"db": "Waiting"})
        courier.plan(msgspec.structs.replace(followed(patient), out_of_service=("b",)))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        courier.plan(followed(msgspec.structs.replace(patient, stop_timeout_ms=1_000)))

    run(hooks, story)


def test_what_a_killed_keeper_left_running_is_ended_before_the_next_one_says_a_word(hooks: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})

    cgroup = default_cgroup("a")
    assert cgroup is not None
    left = cgroup / "left%2Fbehind"
    left.mkdir()
    with subprocess.Popen(["/bin/sleep", "600"]) as sleeper:
        (left / "cgroup.procs").write_text(str(sleeper.pid))
        run(hooks, story)
        assert sleeper.wait(5) == -signal.SIGKILL
    assert not left.exists()
