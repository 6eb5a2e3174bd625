"""The processes between the API server and the keepers: couriers with the production planner and votes,
and controllers that run the production `reconcile`, and can be killed between any two writes.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from simulation.store import Mirror, Refused
from vipagent.effects import MILLISECOND, Phase
from vipagent.health import Health, Result, subjects
from vipagent.succession import key_of
from vipapi.nodestatus import DomainStatus, HoldingStatus, Report
from vipapi.resources import VIPNode, parse, to_dict
from vipcontroller.decisions import Memory, reconcile
from vipcontroller.world import Moment, Reader
from vipcontroller.writes import FinalizerWrite, StatusWrite
from vipcourier import status
from vipcourier.planning import Planner, Sources

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.store import Store
    from vipapi.nodeplan import DomainPlan, VirtualIPPlan
    from vipcontroller.writes import Write

_REPORT_NS: Final = 150 * MILLISECOND
_IDLE_NS: Final = 1000 * MILLISECOND
_BEGINNING: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def address_of(name: str) -> str:
    return f"10.0.{ord(name[0])}.{len(name)}"


class Courier:
    """One node's courier and its health checks; it outlives the keeper."""

    def __init__(self, machine: Machine, store: Store) -> None:
        self.machine = machine
        self.store = store
        self.mirror = Mirror(store, ("VirtualIP", "FailoverDomain", "Node", "Secret"), self._plan)
        self._world = machine.world
        self._planner = Planner(machine.name)
        self._version = 0
        self._health = Health()
        machine.is_fit = self._is_fit
        self._world.agenda.after(_REPORT_NS, self._report)

    def restart(self) -> None:
        """It forgets what it saw, and lists everything anew."""
        self._planner = Planner(self.machine.name)
        self.mirror.hear_of("VirtualIP")

    def _plan(self) -> None:
        listed = self.mirror.listed
        sources = Sources(
            virtual_ips=listed("VirtualIP"),
            failovers=(),
            domains=listed("FailoverDomain"),
            nodes=listed("Node"),
            secrets=listed("Secret"),
        )
        plan = self._planner.plan(sources).plan
        if plan == self.machine.offered:
            return
        for domain in plan.domains:
            self._world.watch.names |= {
                key_of(vip): f"{vip.name} in {domain.name}" for vip in domain.virtual_ips
            }
        self._version += 1
        self._health.update(subjects(plan))
        self.machine.offer(self._version, plan)

    def _is_fit(self, vip: VirtualIPPlan) -> bool:
        fitness = self._health.fitness(vip.uid)
        return fitness is not None and fitness.is_fit

    def _probe(self) -> None:
        result = Result(is_ok=not self.machine.unfit, message="it does not answer")
        now = self.machine.now() / 1e9
        news = [self._health.receive(each, result, now=now) for each in self._health.definitions]
        if any(news):
            self.machine.judge()

    def _report(self) -> None:
        """Every moment: probe what is to be probed, and write what the keeper says if it is news."""
        machine, world = self.machine, self._world
        world.agenda.after(_REPORT_NS, self._report)
        keeper = machine.keeper
        if keeper is None or machine.is_paused or keeper.frozen_until_ns > world.agenda.now_ns:
            return
        self._probe()
        if keeper.plan is None or machine.is_cut_from_api or self.store.is_away:
            return
        report = Report(
            node=machine.name,
            version="simulated",
            incarnation=keeper.me.incarnation,
            domains=tuple(self._domain(domain) for domain in keeper.plan.domains),
            virtual_ips=tuple(
                self._holding(domain, vip) for domain in keeper.plan.domains for vip in domain.virtual_ips
            ),
            problems=tuple(p for seat in keeper.seats.values() for p in seat.problems(machine.now())),
        )
        delay_ns = int(world.random.random() * self.mirror.slowest_ns)
        world.agenda.after(delay_ns, self._write, report)

    def _write(self, report: Report) -> None:
        if self.store.is_away or self.machine.is_cut_from_api:
            return
        name = self.machine.name
        if ("VIPNode", name) not in self.store.documents:
            self.store.create("VIPNode", name)
        own = parse(VIPNode, self.store.documents["VIPNode", name])
        now = moment(self._world.agenda.now_ns).wall
        wanted = status.of_report(report, before=own.status, generation=own.metadata.generation, now=now)
        if wanted != own.status:
            self.store.write_status("VIPNode", name, to_dict(wanted))

    def _domain(self, domain: DomainPlan) -> DomainStatus:
        keeper, address = self.machine.keeper, address_of(self.machine.name)
        assert keeper is not None
        seat = keeper.seats.get(domain.uid)
        if seat is None:
            return DomainStatus(name=domain.name, uid=domain.uid, role="Member", heartbeat_address=address)
        return seat.status(heartbeat_address=address, now_ns=self.machine.now())

    def _holding(self, domain: DomainPlan, vip: VirtualIPPlan) -> HoldingStatus:
        keeper, key = self.machine.keeper, key_of(vip)
        assert keeper is not None
        phase = keeper.phase(domain.uid, key)
        is_owner = phase in (Phase.OWNER, Phase.CLOSING)
        fitness = self._health.fitness(vip.uid)
        return HoldingStatus(
            uid=vip.uid,
            name=vip.name,
            state="Owner" if is_owner else "Acquiring" if phase is Phase.ACQUIRING else "Standby",
            fitness="NotCandidate" if fitness is None else fitness.fit,
            score=0 if fitness is None else fitness.score,
            term=keeper.seats[domain.uid].lease.term(key) if is_owner else 0,
            reason="" if fitness is None else fitness.reason,
            bound=vip.addresses if phase is Phase.OWNER else (),
        )


def moment(now_ns: int) -> Moment:
    return Moment(_BEGINNING + dt.timedelta(microseconds=now_ns // 1000), now_ns / 1e9)


class Controller:
    """One replica. While it leads it decides and writes; killed, it forgets everything."""

    def __init__(self, name: str, store: Store) -> None:
        self.name = name
        self.store = store
        self.is_leading = False
        self.problems: set[str] = set()
        self._world = store.world
        self._life = 0
        self._is_busy = False
        self._has_news = True
        kinds = ("VirtualIP", "FailoverDomain", "Switchover", "VIPNode", "Node")
        self.mirror = Mirror(store, kinds, self._hear)
        self._forget()

    def lead(self) -> None:
        self.is_leading = True
        self._forget()
        self._look(self._life)

    def kill(self) -> None:
        """Whatever it was about to write is not written."""
        self.is_leading = False
        self._forget()

    def _forget(self) -> None:
        self._life += 1
        self._reader = Reader()
        self._memory = Memory()
        self._is_busy = False

    def _hear(self) -> None:
        self._has_news = True
        if self.is_leading and not self._is_busy:
            self._look(self._life)

    def _look(self, life: int) -> None:
        if life != self._life or self._is_busy or not self.is_leading:
            return
        listed = self.mirror.listed
        seen = self._reader.read(
            virtual_ips=listed("VirtualIP"),
            domains=listed("FailoverDomain"),
            switchovers=listed("Switchover"),
            failovers=(),
            vip_nodes=listed("VIPNode"),
            nodes=listed("Node"),
        )
        self._has_news = False
        decisions = reconcile(seen, self._memory, moment(self._world.agenda.now_ns))
        self._memory = decisions.memory
        for problem in decisions.problems:
            self.problems.add(f"{problem.kind} {problem.name}: {problem.message}")
        self._is_busy = True
        self._write(life, list(decisions.writes))

    def _write(self, life: int, writes: list[Write]) -> None:
        """One write after the other, each in its own time."""
        if life != self._life:
            return
        agenda, random = self._world.agenda, self._world.random.random
        if not writes:
            self._is_busy = False
            agenda.after(40 * MILLISECOND if self._has_news else _IDLE_NS, self._look, life)
            return
        agenda.after(int(random() * 15 * MILLISECOND), self._carry_out, life, writes)

    def _carry_out(self, life: int, writes: list[Write]) -> None:
        if life != self._life:
            return
        write, *rest = writes
        try:
            match write:
                case StatusWrite():
                    name, version = write.metadata.name, write.metadata.resource_version
                    self.store.write_status(write.kind, name, to_dict(write.status), version)
                    for telling in write.tellings:
                        self._world.watch.note(f"{self.name}: {write.kind} {name}: {telling.note}")
                case FinalizerWrite():
                    name, version = write.metadata.name, write.metadata.resource_version
                    self.store.write_finalizers(write.kind, name, write.finalizers, version)
        except Refused:
            self._has_news = True
        self._write(life, rest)
