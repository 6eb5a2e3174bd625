"""One keeper, all of it real, in a network of its own, and its courier's end of the socket.

Tests import the fixture `network`, which all of them have, and use `importable`: what is started imports too.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent.services import STORY_S
from lab.kernelcalls import entered, new_network
from vipagent.announcer import Announcer
from vipagent.disk import Disk
from vipagent.fence import Fence
from vipagent.keeper import Keeper
from vipagent.kernel import Kernel
from vipagent.leash_cgroups import default_cgroup
from vipagent.listener import Listener
from vipagent.node import Node
from vipagent.probes import Probes
from vipagent.probes_exec import HookRunner
from vipagent.runner import Runner
from vipapi import link
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.healthchecks import Exec, HealthCheck
from vipapi.link import Votes, VotesWanted
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Plan, ServicePlan, Timing, VirtualIPPlan
from vipapi.nodestatus import DomainStatus, Report, ServiceStatus
from vipapi.workloads import Scripts, Workload
from viphealth.conversation import Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


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

    def held(self) -> list[str]:
        """The names of the VirtualIPs whose addresses are bound."""
        found = () if self.report is None else self.report.virtual_ips
        return [vip.name for vip in found if vip.bound]

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
async def running(folder: Path, node_type: type[Node] = Node) -> AsyncIterator[Courier]:
    """A keeper with its state in a folder, and its courier."""
    with Fence.load() as fence:
        async with Kernel.open() as kernel:
            announcer = Announcer.open()
            listener = Listener()
            node = node_type(kernel=kernel, fence=fence, announcer=announcer)
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
                listener=listener,
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
                listener.close()
                await probes.close()
                await event_hooks.close()


def run(folder: Path, story: Callable[[Courier], Awaitable[None]], *, node_type: type[Node] = Node) -> None:
    async def tell() -> None:
        async with asyncio.timeout(STORY_S), running(folder, node_type) as courier:
            await story(courier)

    asyncio.run(tell())


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


def is_alive(folder: Path, name: str) -> bool:
    return Path("/proc", (folder / f"{name}.pid").read_text().strip()).exists()


async def addresses() -> list[str]:
    async with AsyncIPRoute() as route:
        return [str(message.get("address")) async for message in await route.addr("dump")]
