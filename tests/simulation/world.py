"""A small world in virtual time: production seats, and everything outside replaced.

Time is a number, the network is a heap of deliveries, a machine's clock runs at its own rate, and the
kernel's fence is a deadline on that clock which outlives the process.

Datagrams go in one of two ways. *Lean*: the simulator hands the message over with its sender and the
sender's configuration, which is compared as the codec does; for speed. *Sealed*: real bytes through the
production codec, with keys, replay windows and key rotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

import msgspec

from simulation.census import Census
from simulation.clock import DRIFT_PPM, RATE, Agenda
from simulation.leash import Copy, Nature
from simulation.machine import Machine
from simulation.network import Network
from simulation.watch import Watch
from vipagent.effects import MILLISECOND
from vipagent.seat import Seat
from vipagent.succession import key_of
from vipagent.workloads import Workloads
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Plan, VirtualIPPlan
from vipapi.timing import PROFILES
from vipcourier.votes import Claim

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from simulation.keeper import Keeper

FIRST_KEY: Final = Key(key_id=1, secret=b"first heartbeat key")


@dataclass(frozen=True, slots=True)
class Disturbance:
    """How a machine fares: timers that ring late, stalls between effects, slow unbinding, slow disks."""

    ring_ns: int = 250_000
    unbind_ns: int = 1_000_000
    stall: float = 0.0
    stall_ns: int = 300 * MILLISECOND
    slow_unbind: float = 0.0
    slow_unbind_ns: int = 1500 * MILLISECOND
    disk_ns: int = 30 * MILLISECOND
    slow_disk: float = 0.0
    slow_disk_ns: int = 3000 * MILLISECOND
    courier_ns: int = 50 * MILLISECOND


class World:
    """Everything there is. `machines` are by label; `domains` is what the API would show, by UID.

    With `has_services` keepers run what follows their addresses, with programs of that `nature`.
    """

    def __init__(
        self,
        *,
        seed: int | str,
        seat_type: type[Seat] = Seat,
        drift_ppm: int = DRIFT_PPM,
        is_sealed: bool = False,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.seat_type = seat_type
        self.drift_ppm = drift_ppm
        self.is_sealed = is_sealed
        self.claim_type = Claim
        self.workloads_type = Workloads
        self.has_services = False
        self.nature = Nature()
        self.copy_type = Copy
        self.closes_fences_at_start = True
        self.agenda = Agenda()
        self.network = Network(self.agenda, self.random)
        self.disturbance = Disturbance()
        self.watch = Watch(self.agenda)
        self.census = Census(self.watch)
        self.machines: dict[str, Machine] = {}
        self.domains: dict[str, DomainPlan] = {}
        self._version = 0

    def draw_rate_ppm(self) -> int:
        """A clock's rate; the extremes, where the arithmetic is tight, come as often as all the rest."""
        drift_ppm = self.drift_ppm
        between = self.random.randint(-drift_ppm, drift_ppm)
        return RATE + self.random.choice((-drift_ppm, between, between, drift_ppm))

    def disk_delay_ns(self) -> int:
        disturbance, random = self.disturbance, self.random.random
        delay_ns = int(random() * disturbance.disk_ns)
        if disturbance.slow_disk and random() < disturbance.slow_disk:
            delay_ns += int(random() * disturbance.slow_disk_ns)
        return delay_ns

    def unbind_delay_ns(self) -> int:
        disturbance, random = self.disturbance, self.random.random
        delay_ns = int(random() * disturbance.unbind_ns)
        if disturbance.slow_unbind and random() < disturbance.slow_unbind:
            delay_ns += int(random() * disturbance.slow_unbind_ns)
        return delay_ns

    def keep_configuration(self, keeper: Keeper, uid: str, configuration: Configuration) -> None:
        """Rule 9: a configuration is taken over when the disk has it, not before."""
        keeper.machine.keep(keeper, (uid, configuration), keeper.take, keeper.configure, uid, configuration)

    def add(self, name: str, label: str = "") -> Machine:
        machine = Machine(self, name, label)
        self.machines[machine.label] = machine
        self.network.attach(machine)
        return machine

    def run_for(self, duration_ns: int) -> None:
        self.agenda.run_for(duration_ns)

    def publish(self, *domains: DomainPlan, spread_ns: int = 0) -> None:
        """Let every node have the newest state of these domains, each at its own moment."""
        for domain in domains:
            self.domains[domain.uid] = domain
            self.watch.names |= {key_of(vip): vip.name for vip in domain.virtual_ips}
        self._version += 1
        for machine in self.machines.values():
            delay_ns = int(self.random.random() * spread_ns)
            self.agenda.after(delay_ns, machine.offer, self._version, self.plan_of(machine))

    def reach_api(self, machine: Machine) -> None:
        """The machine's courier reaches the API server again: it lists everything."""
        machine.is_cut_from_api = False
        if self.domains:
            self._version += 1
            machine.offer(self._version, self.plan_of(machine))

    def plan_of(self, machine: Machine) -> Plan:
        return Plan(node=machine.name, domains=tuple(self.domains[uid] for uid in sorted(self.domains)))


def members_of(names: Iterable[str]) -> tuple[Member, ...]:
    return tuple(Member(name, f"10.0.{ord(name[0])}.{len(name)}") for name in sorted(names))


def witness_set(names: Iterable[str], *, has_api_vote: bool = False) -> WitnessSet:
    return WitnessSet(members_of(names), has_api_vote)


def domain_plan(
    names: Iterable[str],
    witnesses: Iterable[str],
    *,
    name: str = "office",
    profile: str = "Balanced",
    has_api_vote: bool = False,
) -> DomainPlan:
    """A domain at its first epoch, without VirtualIPs."""
    uid = f"uid of {name}"
    first = Configuration(epoch=1, witnesses=witness_set(witnesses, has_api_vote=has_api_vote)).sealed(uid)
    return DomainPlan(
        name=name,
        uid=uid,
        port=7946,
        timing=PROFILES[profile],
        configuration=first,
        members=members_of(names),
        keys=(FIRST_KEY,),
    )


def virtual_ip(
    name: str, addresses: Sequence[str], candidates: Iterable[str], **more: object
) -> VirtualIPPlan:
    """A planned VirtualIP; its candidates stand in order."""
    return VirtualIPPlan(
        uid=f"uid of {name}",
        name=name,
        addresses=tuple(f"{address}/24" for address in addresses),
        candidates=ranked(candidates),
        **more,  # type: ignore[arg-type]
    )


def ranked(candidates: Iterable[str]) -> tuple[CandidatePlan, ...]:
    return tuple(CandidatePlan(node, 200 - place) for place, node in enumerate(candidates))


def alter(domain: DomainPlan, name: str, **changes: object) -> DomainPlan:
    """The domain with one VirtualIP changed."""
    return with_vips(
        domain,
        *(msgspec.structs.replace(vip, **changes) if vip.name == name else vip for vip in domain.virtual_ips),
    )


def with_vips(domain: DomainPlan, *vips: VirtualIPPlan) -> DomainPlan:
    return msgspec.structs.replace(domain, virtual_ips=vips)
