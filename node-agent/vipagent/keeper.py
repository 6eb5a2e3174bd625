"""The keeper's shell: it owns the clock, the loop and the wiring, and decides nothing.

One event loop does everything that matters, in this order at every wake: let go of what lapsed, read
what arrived, look at health and kernel, renew (rule 11: renewal *is* this loop; a loop that no longer
turns holds nothing for longer than a lease). Disk, name look-ups and metrics have threads of their own.

    courier ──plan──▶ disk ──▶ seats ──effects──▶ fence, addresses, announcements, datagrams
    checks, netlink ──────────▶ judge ─┘  ▲             │      every heartbeat ──▶ report ──▶ courier
                                 services ┴─────────────┘

Effects are carried out in the order in which they come out of the lease. Closing is two steps: the
fence at once, then unbinding in a task, and only then, with every service that followed the address set
known to be stopped, does the lease hear `closed` and release.

A witness configuration may come with a plan or from a peer. Either way it is offered, kept on disk, and
only then taken over; one that cannot be kept stays offered, is a problem in the report, and is tried
again at every idle look. So is a plan. Votes of the API server come in between, and wait for no disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from vipagent import access, health, lines, metrics, readiness, realtime, reports, standing
from vipagent.ballots import Ballots
from vipagent.bindings import Bindings
from vipagent.checks import Checks
from vipagent.contests import Contests
from vipagent.datagrams import DatagramRefused, domain_tag
from vipagent.effects import Adopt, Close, Extend, Inquired, Observed, Open, Send, Told
from vipagent.intake import Intake
from vipagent.memory import Memories
from vipagent.observing import Observing
from vipagent.occasions import Occasions
from vipagent.orphans import Orphans
from vipagent.reports import Facts, Keeping
from vipagent.seats import Seats
from vipagent.socketserver import SocketServer
from vipagent.standing import stand
from vipagent.tasks import Tasks
from vipagent.wires import Wires
from vipagent.workloads import Workloads
from vipapi import nodeplan
from vipapi.healthchecks import Link, Pods
from vipapi.link import Votes
from viphealth.conversation import Health

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable
    from pathlib import Path

    from vipagent.access import Place
    from vipagent.disk import Disk
    from vipagent.effects import Effect
    from vipagent.eventhooks import RunHook
    from vipagent.health import Result
    from vipagent.listener import Listener
    from vipagent.messages import Inquire, Key
    from vipagent.node import Node
    from vipagent.runner import Runner
    from vipagent.runs import Outcome
    from vipagent.seats import Seated
    from vipagent.standing import Standing
    from vipapi.healthchecks import Probe
    from vipapi.nodeplan import DomainPlan, Plan, PodsFact
    from vipapi.nodestatus import CheckStatus, Problem, Report

_LATE_S: Final = 0.020
_LOOK_S: Final = 0.2
_GARBAGE_S: Final = 10.0
_IDLE_LOOK_S: Final = 1.0
REPORT_S: Final = 0.1
_FAREWELL_S: Final = 2.0
_OVERDUE_S: Final = 5.0

_log = logging.getLogger(__name__)


def now_ns() -> int:
    """CLOCK_BOOTTIME: it also runs while the machine is suspended, and the fence compares with it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class RunnerFor(Protocol):
    """Makes the runner of a node's services."""

    def __call__(self, *, on_outcome: Callable[[Outcome], None]) -> Runner:
        """Return one that tells outcomes by a call from the loop."""


class Keeper:
    """One node's keeper. Everything it is given is open and belongs to the caller."""

    def __init__(
        self,
        *,
        name: str,
        version: str,
        machine: bytes,
        incarnation: int,
        is_witness_only: bool,
        node: Node,
        listener: Listener,
        run_probe: Callable[[Probe, float], Awaitable[Result]],
        runner_for: RunnerFor,
        run_hook: RunHook,
        disk: Disk,
        socket: Path,
    ) -> None:
        self._keeping = Keeping(name, version, incarnation, is_witness_only)
        self._node = node
        self._occasions = Occasions(self._look)
        self._service_occasions = Occasions(self._look_at_services)
        self._checks = Checks(run_probe, on_change=self._occasions.note)
        self._server = SocketServer(socket, self.take_line)
        self._memories = Memories(disk)
        self._intake = Intake(node=name, disk=disk, memories=self._memories, apply=self._apply)
        self._seats = Seats(node=name, machine=machine, incarnation=incarnation, random=Random())
        self._contests = Contests(
            node=node,
            listener=listener,
            now_ns=now_ns,
            lasts_until=lambda key: self._bindings.lasts_until_ns(key),  # noqa: PLW0108 - made below
            may_cede=lambda key: self._bindings.may_cede(key),  # noqa: PLW0108 - made below
            on_change=lambda keys: self._bindings.contests_changed(keys),  # noqa: PLW0108 - made below
        )
        self._ballots = Ballots(lambda: self._seats.votes_wanted(now_ns()), self._server.publish)
        self._wires = Wires(self._take_datagram, self._arm)
        self._workloads = Workloads(
            node=name,
            incarnation=incarnation,
            runner=runner_for(on_outcome=self._on_outcome),
            now_ns=now_ns,
            on_change=self._service_occasions.note,
            on_bindable=lambda uid: self._bindings.workloads_changed(uid),  # noqa: PLW0108 - made below
            ask=self._inquire,
            run_hook=run_hook,
        )
        self._tasks = Tasks()
        self._bindings = Bindings(
            node=node,
            workloads=self._workloads,
            contests=self._contests,
            tasks=self._tasks,
            now_ns=now_ns,
            on_left=self._on_left,
            on_change=self._report_soon,
        )
        self._observing = Observing(
            node=name,
            incarnation=incarnation,
            seats=self._seats,
            held=self._bindings.held,
            active=lambda: self._workloads.active,
            fitness=self._checks.fitness,
            send=self._send,
            on_subjects=self._update_checks,
            on_change=self._occasions.note,
        )
        self._loop = asyncio.get_running_loop()
        self._plan = nodeplan.Plan(node=name)
        self._applying = asyncio.Lock()
        self._domain_problems: tuple[Problem, ...] = ()
        self._has_gateway = False
        self._places: dict[str, Place] = {}
        self._standings: dict[str, Standing] = {}
        self._orphans = Orphans()
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._reporting: asyncio.TimerHandle | None = None
        self._reported_s = 0.0
        self._last_report: Report | None = None
        self._started_ns = now_ns()
        self._is_serving = False
        self._is_stopping = False
        self._readiness = readiness.Readiness()
        self._rested = asyncio.Event()

    @property
    def facts(self) -> tuple[PodsFact, ...]:
        """What the courier found of Pods, as the plan that is acted on has it."""
        return self._plan.facts

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then hand everything over. Raises if a part of it broke."""
        self._tasks.guard_loop()
        plan = self._intake.load()
        await self._node.start_clean(vip for domain in plan.domains for vip in domain.virtual_ips)
        await self._workloads.start_clean(vip for domain in plan.domains for vip in domain.virtual_ips)
        await self._memories.settle(plan.domains, is_from_disk=True)
        await self._apply(plan)
        await self._server.open()
        self._is_serving = True
        parts: list[asyncio.Future[None]] = [
            self._tasks.broken,
            *map(
                self._loop.create_task,
                (
                    self._node.watch(self._on_kernel_change),
                    self._look_again_and_again(),
                    self._observing.run(),
                    _wait(stop),
                ),
            ),
        ]
        try:
            ended, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in ended:
                part.result()
            await self._hand_over()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
            self._disconnect()
            await self._workloads.close()
            await self._checks.close()
            await self._server.close()
            await self._node.leave_clean()

    async def _hand_over(self) -> None:
        """Give everything to the best standbys; done when the witnesses know, or when Tw has passed.

        And when the next owners know that no service runs here: nobody could tell them afterwards.
        """
        _log.info("Handing over before stopping")
        self._is_stopping = True
        self._workloads.depart()
        self._intake.close()
        for seated in self._seats:
            self._perform(seated, seated.seat.lease.resign(now_ns()))
        self._arm()
        longest_ms = max((s.seat.domain.timing.grant_ms for s in self._seats), default=0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * longest_ms / 1000 + self._workloads.time_to_stop_s()):
                await self._rested.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._workloads.excused()
        self._report()

    async def _look_again_and_again(self) -> None:
        """Report what has changed, try what was not there before, and tidy up when nothing is due."""
        collect_at = self._loop.time() + _GARBAGE_S
        garbage = realtime.GarbageCollector()
        idle_look_at = self._loop.time()
        former_pulses: list[Hashable] = []
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._loop.time() >= idle_look_at:
                idle_look_at = self._loop.time() + _IDLE_LOOK_S
                self._connect()
                metrics.couriers.set(self._server.couriers)
                if self._intake.is_waiting:
                    self._tasks.spawn(self._intake.take())
                await self._take_over_configurations()
                await self._keep_terms(tries_again=True)
                self._report_soon()
            await self._keep_terms(tries_again=False)
            if self._loop.time() >= collect_at:
                garbage.collect()
                self._orphans.reap()
                collect_at = self._loop.time() + _GARBAGE_S
            pulses = [seated.seat.pulse(now_ns()) for seated in self._seats]
            if pulses != former_pulses:
                self._report_soon()
            former_pulses = pulses

    async def _keep_terms(self, *, tries_again: bool) -> None:
        """Keep on disk, off the renewal path, how high the witnesses' terms may go (rule 14a)."""
        for seated in self._seats:
            ceiling = seated.seat.witness.term_ceiling
            if await self._memories.keep_terms(seated.seat.domain.uid, ceiling, tries_again=tries_again):
                seated.seat.witness.keep(ceiling)

    async def take_line(self, line: bytes) -> None:
        """Take what a courier says: votes at once, a plan in a task of its own, for it waits for the disk."""
        try:
            said = lines.outline(line)
        except ValueError as error:
            self._intake.refuse("PlanRefused", f"the courier's line was refused: {error}")
            return
        if isinstance(said, Votes):
            self._seats.hear_votes(said, now_ns())
            self._arm()
        else:
            self._intake.offer(said, line)
            self._tasks.spawn(self._intake.take())

    async def _apply(self, plan: Plan) -> None:
        async with self._applying:
            await self._act_on(plan)

    async def _take_over_configurations(self) -> None:
        """Keep what was offered, and look at the plan again: some of it may have waited for that."""
        if await self._memories.keep_configurations():
            async with self._applying:
                await self._act_on(self._plan)

    async def _act_on(self, plan: Plan) -> None:
        """Act on a plan that is on disk, part by part: a large one takes longer than a renewal may wait.

        It is reported when all of it is acted on. Until then what is planned no more has its standing still.
        """
        if not self._is_stopping:
            self._node.plan(vip for domain in plan.domains for vip in domain.virtual_ips)
            self._contests.plan(vip for domain in plan.domains for vip in domain.virtual_ips)
            self._workloads.assign(
                (vip for domain in plan.domains for vip in domain.virtual_ips),
                self._bindings.tenures,
                frozenset(node for domain in plan.domains for node in domain.out_of_service),
            )
            self._configure()
        problems: list[Problem | None] = []
        for domain in plan.domains:
            await asyncio.sleep(0)
            if self._is_stopping:
                return
            problems.append(self._sit(domain))
        for seated in self._seats.left({domain.uid for domain in plan.domains}):
            self._perform(seated, self._seats.leave(seated, now_ns()))
        await asyncio.sleep(0)
        if not self._is_stopping:
            has_news_of_pods = plan.facts != self._plan.facts
            self._plan = plan
            self._domain_problems = tuple(problem for problem in problems if problem is not None)
            self._observing.assign(vip for domain in plan.domains for vip in domain.virtual_ips)
            self._update_checks()
            self._forget_standings()
            if has_news_of_pods:
                self._checks.recheck(Pods)
            self._look()

    def _forget_standings(self) -> None:
        """Keep those of what is planned, or was and is judged still."""
        domains = (*self._plan.domains, *(seated.seat.domain for seated in self._seats))
        staying = {vip.uid for domain in domains for vip in domain.virtual_ips}
        self._standings = {uid: standing for uid, standing in self._standings.items() if uid in staying}

    def _update_checks(self) -> None:
        self._has_gateway = bool(self._node.gateways())
        if not self._keeping.is_witness_only:
            self._checks.update(
                (
                    *health.subjects(self._plan),
                    *health.service_subjects(self._plan, self._workloads.active),
                    *self._observing.subjects(),
                ),
                health.node_checks(self._plan, has_gateway=self._has_gateway),
            )

    def _configure(self) -> None:
        """Take over the configurations that are on disk."""
        for seated in self._seats:
            kept = self._memories[seated.seat.domain.uid].configuration
            if kept.epoch > seated.seat.configuration.epoch:
                self._perform(seated, seated.seat.configure(kept, now_ns()))

    def _sit(self, domain: DomainPlan) -> Problem | None:
        memory = self._memories[domain.uid]
        seated, effects, problem = self._seats.sit(
            domain, memory.configuration, term_ceiling=memory.term_ceiling, now_ns=now_ns()
        )
        if seated is not None:
            self._perform(seated, effects)
        return problem

    def _connect(self) -> None:
        """Give each seat the socket of this node's heartbeat address; again and again until it has one."""
        self._places = access.places(self._plan, self._seats, self._node.view)
        speaking = {seated.seat.domain.uid for seated in self._seats.speaking()}
        self._wires.keep({uid: place for uid, place in self._places.items() if uid in speaking})
        for seated in self._seats:
            place = self._places.get(seated.seat.domain.uid)
            seated.seat.stand_at(None if place is None else str(place.address))

    def _disconnect(self) -> None:
        """Hear and say nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reporting is not None:
            self._reporting.cancel()
        self._occasions.close()
        self._service_occasions.close()
        self._contests.stop()
        self._ballots.close()
        self._wires.keep({})

    def _take_datagram(self, datagram: bytes) -> None:
        tag = domain_tag(datagram)
        seated = self._seats.addressed(tag)
        if seated is None:
            metrics.refused_datagrams.labels("NotOurs" if tag is None else "Domain").inc()
            return
        try:
            effects = seated.seat.receive(datagram, now_ns())
        except DatagramRefused as refused:
            metrics.refused_datagrams.labels(refused.refusal).inc()
            return
        self._perform(seated, effects)

    def _arm(self) -> None:
        """Set the one timer to the earliest deadline of all seats; tell when all is given up at the end."""
        if self._is_stopping and self._seats.is_at_rest:
            self._rested.set()
        self._bindings.follow()
        due_ns = self._seats.deadline_ns
        self._ballots.look()
        if due_ns is None or (self._timer is not None and due_ns == self._due_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_ns = due_ns
        self._timer = self._loop.call_later(max(0, due_ns - now_ns()) / 1e9, self._wake)

    def _wake(self) -> None:
        self._timer = None
        if now_ns() - self._due_ns > _LATE_S * 1e9:
            metrics.late_rounds.inc()
        for seated in self._seats.speaking():
            self._perform(seated, seated.seat.expire(now_ns()))
        self._arm()

    def _on_kernel_change(self) -> None:
        if bool(self._node.gateways()) != self._has_gateway:
            self._update_checks()
        self._checks.recheck(Link)
        self._occasions.note()

    def _look(self) -> None:
        """The plan, health or the kernel's state has changed: look at everything again."""
        self._connect()
        self._judge()
        self._contests.follow()
        self._report_soon()

    def _judge(self) -> None:
        off = standing.out_of_service(self._plan)
        self._standings |= {
            uid: self._observing.regard(
                uid,
                stand(
                    self._checks.fitness(uid, is_held=self._bindings.is_held(uid)),
                    off or obstacle or self._workloads.obstacle(uid) or self._observing.obstacle(uid),
                    is_witness_only=self._keeping.is_witness_only,
                    doubt=self._node.doubt(uid),
                ),
            )
            for uid, obstacle in self._node.obstacles().items()
        }
        for uid in self._workloads.active:
            fitness = self._checks.fitness(health.of_services(uid))
            if fitness is not None and fitness.reason == "CheckFailed":
                self._workloads.fail(uid, fitness.message)
        occupied = self._workloads.occupied
        for seated in self._seats:
            domain = seated.seat.domain
            fit = [vip.uid for vip in domain.virtual_ips if self._standings[vip.uid].is_fit]
            is_sound = domain.gateway_probe == "Off" or not self._checks.is_failing(health.GATEWAY)
            self._perform(seated, seated.seat.judge(fit, now_ns(), is_sound=is_sound, occupied_uids=occupied))
        self._arm()

    def _perform(self, seated: Seated, effects: list[Effect]) -> None:
        """Carry effects out, in order; what cannot be carried out ends the keeper."""
        try:
            self._carry_out(seated, effects)
        except BaseException as error:
            self._tasks.end(error)
            raise

    def _extend(self, first: Extend, queue: deque[Effect]) -> None:
        """Extend what a round extends to one deadline, in one change: nftables take long for each."""
        keys = [first.key]
        while queue and isinstance(more := queue[0], Extend) and more.deadline_ns == first.deadline_ns:
            keys.append(more.key)
            queue.popleft()
        self._bindings.extend(keys, first.deadline_ns)

    def _carry_out(self, seated: Seated, effects: list[Effect]) -> None:
        queue = deque(effects)
        while queue:
            match queue.popleft():
                case Send() as send if seated.seat.is_local(send):
                    queue.extend(seated.seat.deliver(send, now_ns()))
                case Send() as send:
                    self._send(seated, send)
                case Extend() as first:
                    self._extend(first, queue)
                case Open() as opened:
                    self._bindings.open(seated, opened)
                case Close(key):
                    self._bindings.close(key)
                case Inquired() | Told() | Observed() as said:
                    queue.extend(self._converse(seated, said))
                case Adopt(configuration):
                    if self._memories.offer(seated.seat.domain.uid, configuration):
                        self._tasks.spawn(self._take_over_configurations())

    def _send(self, seated: Seated, send: Send) -> None:
        sealed = seated.seat.seal(send)
        if sealed is None or not self._wires.send(seated.seat.domain.uid, *sealed):
            metrics.lost_datagrams.inc()

    def _on_left(self, seated: Seated, key: Key) -> None:
        self._perform(seated, seated.seat.lease.closed(key, now_ns()))
        self._arm()
        vip = seated.seat.vip(key)
        if vip is not None and self._checks.is_presumed(vip.uid):
            self._occasions.note()

    def _converse(self, seated: Seated, said: Inquired | Told | Observed) -> list[Effect]:
        """Tell another node what runs here, or hear what runs there, or what is seen from there."""
        match said:
            case Inquired():
                return [Send(said.node, self._workloads.answer(said.inquiry))]
            case Told():
                self._workloads.hear(said.node, said.answer)
            case Observed():
                self._observing.hear(seated, said)
        return []

    def _on_outcome(self, outcome: Outcome) -> None:
        self._workloads.receive(outcome)

    def _look_at_services(self) -> None:
        """What runs has changed: the lease, the addresses, the checks and the report may have to follow."""
        self._update_checks()
        self._judge()
        self._report_soon()

    def _inquire(self, uid: str, node: str, inquiry: Inquire) -> None:
        for seated in self._bindings.seated(uid):
            self._send(seated, Send(node, inquiry))

    def health(self) -> Health:
        """Say how this keeper is, to be called from its loop.

        Live is whose loop turns (it just did) and renews in time; a look that waits for a disk is no matter.
        """
        due_ns = self._seats.deadline_ns
        overdue_s = 0.0 if due_ns is None else (now_ns() - due_ns) / 1e9
        sick = f"its renewals are {overdue_s:.0f} s late" if overdue_s > _OVERDUE_S else ""
        try:
            lacking = self._readiness.missing(self._doing, is_stopping=self._is_stopping)
        except Exception as error:  # noqa: BLE001 - unready, not unhealthy: the kubelet is not to kill who renews
            _log.exception("Whether this keeper is ready cannot be told")
            lacking = f"whether it is ready cannot be told: {error!r}"
        return Health(sick, lacking)

    def _doing(self) -> readiness.Facts:
        now = now_ns()
        return readiness.Facts(
            is_serving=self._is_serving,
            has_plan=self._intake.has_plan,
            problem=self._intake.problem,
            parts=(self._part(domain, now) for domain in self._plan.domains),
            standings={
                vip.name: self._standings[vip.uid]
                for domain in self._plan.domains
                for vip in domain.virtual_ips
                if vip.uid in self._standings
            },
            age_s=(now - self._started_ns) / 1e9,
        )

    def _part(self, domain: DomainPlan, now: int) -> readiness.Part:
        seated = self._seats.get(domain.uid)
        if seated is None:
            has_witnesses = domain.configuration.epoch > 0
            return readiness.Part(domain=domain.name, has_witnesses=has_witnesses, is_seated=False)
        return readiness.Part(
            domain=domain.name,
            has_wire=self._wires.is_open(domain.uid),
            is_speaking=not seated.seat.witness.is_silent,
            is_answered=seated.seat.is_answered(now),
        )

    def _report_soon(self) -> None:
        """Report what changes, at most every `REPORT_S`: a report goes through everything."""
        if self._reporting is None:
            self._reporting = self._loop.call_at(self._reported_s + REPORT_S, self._report)

    def _report(self) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
            self._reporting = None
        self._reported_s = self._loop.time()
        facts = Facts(
            plan=self._plan,
            seats=self._seats,
            places=self._places,
            standings=self._standings,
            takeovers=self._bindings.takeovers,
            interfaces=self._node.interfaces(),
            interface_of=self._node.interface_of,
            bound=self._node.bound,
            conflict=self._contests.conflict,
            service_checks=self._service_checks,
            services=self._workloads.statuses(),
            problems=self._problems(),
            fence=self._node.fence(),
        )
        report = reports.report(self._keeping, facts, now_ns())
        self._workloads.heard({peer for domain in report.domains for peer in domain.reachable_peers})
        if report != self._last_report:
            if self._last_report is not None and reports.has_reunited(self._last_report, report):
                self._node.announce_again()
            self._last_report = report
            self._server.publish(report)

    def _service_checks(self, uid: str) -> tuple[CheckStatus, ...]:
        fitness = self._checks.fitness(health.of_services(uid))
        return () if fitness is None else fitness.checks

    def _problems(self) -> tuple[Problem, ...]:
        own = () if self._intake.problem is None else (self._intake.problem,)
        memories = (self._memories[domain.uid] for domain in self._plan.domains)
        return (
            *own,
            *self._domain_problems,
            *self._wires.problems(),
            *(problem for memory in memories for problem in memory.problems.values()),
            *(problem for seated in self._seats.speaking() for problem in seated.seat.problems(now_ns())),
            *self._node.problems(),
            *self._workloads.problems(),
        )


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
