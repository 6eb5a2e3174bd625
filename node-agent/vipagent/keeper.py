"""The keeper's shell: it owns the clock, the loop and the wiring, and decides nothing.

One event loop does everything that matters, in this order at every wake: let go of what lapsed, read
what arrived, look at health and kernel, renew (rule 11: renewal *is* this loop; a loop that no longer
turns holds nothing for longer than a lease). Disk, name look-ups and metrics have threads of their own.

    courier ──plan──▶ disk ──▶ seats ──effects──▶ fence, addresses, announcements, datagrams
    checks, netlink ──────────▶ judge ─┘                       every heartbeat ──▶ report ──▶ courier

Effects are carried out in the order in which they come out of the lease. Closing is two steps: the
fence at once, then unbinding in a task, and only then does the lease hear `closed` and release.

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
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from vipagent import epochs, health, lines, metrics, realtime
from vipagent.access import heartbeat_address
from vipagent.checks import Checks
from vipagent.datagrams import LEAST_SECRET, DatagramRefused, domain_tag
from vipagent.disk import PlanUnreadable
from vipagent.effects import MILLISECOND, Adopt, Close, Extend, Open, Phase, Send
from vipagent.memory import Memories
from vipagent.seat import Seat
from vipagent.socketserver import SocketServer
from vipagent.standing import stand
from vipagent.wire import Wire
from vipapi import nodeplan
from vipapi.healthchecks import Link
from vipapi.link import Votes, VotesWanted
from vipapi.nodestatus import DomainStatus, HoldingStatus, Problem, Report, Takeover

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
    from pathlib import Path

    from vipagent.disk import Disk
    from vipagent.effects import Effect
    from vipagent.health import Result
    from vipagent.messages import Key
    from vipagent.node import Node
    from vipagent.standing import Standing
    from vipapi.addresses import IPAddress
    from vipapi.healthchecks import Probe
    from vipapi.nodeplan import DomainPlan, Plan, VirtualIPPlan

_DATAGRAMS_PER_WAKE: Final = 64
_LATE_S: Final = 0.020
_LOOK_S: Final = 0.2
_GARBAGE_S: Final = 10.0
_IDLE_LOOK_S: Final = 1.0
_VOTES_LOOK_S: Final = 0.020
_SLICE_S: Final = 0.002

_log = logging.getLogger(__name__)


def now_ns() -> int:
    """CLOCK_BOOTTIME: it also runs while the machine is suspended, and the fence compares with it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@dataclass(slots=True)
class _Seated:
    """A seat with the socket that its datagrams go through, if there is one yet."""

    seat: Seat
    wire: Wire | None = None
    has_left: bool = False

    @property
    def has_api_vote(self) -> bool:
        """Whether the API server votes in the domain."""
        configuration = self.seat.configuration
        former = configuration.former
        return configuration.witnesses.has_api_vote or (former is not None and former.has_api_vote)

    def is_silent(self, node: str) -> bool:
        """Whether this node has left the domain, votes there no more, and has let everything go."""
        return (
            self.has_left
            and self.seat.lease.is_at_rest
            and all(member.node != node for member in self.seat.configuration.members)
        )


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
        run_probe: Callable[[Probe, float], Awaitable[Result]],
        disk: Disk,
        socket: Path,
    ) -> None:
        self._name = name
        self._version = version
        self._machine = machine
        self._incarnation = incarnation
        self._is_witness_only = is_witness_only
        self._node = node
        self._checks = Checks(run_probe, on_change=self._on_change)
        self._disk = disk
        self._server = SocketServer(socket, self.take_line)
        self._loop = asyncio.get_running_loop()
        self._random = Random()
        self._plan = nodeplan.Plan(node=name)
        self._plan_line = b""
        self._offered_plan: tuple[lines.PlanOutline, bytes] | None = None
        self._is_taking = False
        self._plan_problem: Problem | None = None
        self._domain_problems: tuple[Problem, ...] = ()
        self._memories = Memories(disk)
        self._has_gateway = False
        self._votes_wanted = VotesWanted()
        self._votes_timer: asyncio.TimerHandle | None = None
        self._seats: dict[str, _Seated] = {}
        self._wires: dict[tuple[IPAddress, int], Wire] = {}
        self._heartbeat_addresses: dict[str, str] = {}
        self._standings: dict[str, Standing] = {}
        self._takeovers: dict[Key, Takeover] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._last_report: Report | None = None
        self._is_stopping = False
        self._rested = asyncio.Event()
        self._broken: asyncio.Future[None] = self._loop.create_future()

    # Life ----------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then hand everything over. Raises if a part of it broke."""
        self._loop.set_exception_handler(self._on_loop_error)
        plan = self._load_plan()
        await self._node.start_clean(vip for domain in plan.domains for vip in domain.virtual_ips)
        await self._memories.settle(plan.domains, is_from_disk=True)
        self._apply(plan)
        await self._server.open()
        parts: list[asyncio.Future[None]] = [
            self._broken,
            *map(
                self._loop.create_task,
                (self._node.watch(self._on_kernel_change), self._look_again_and_again(), _wait(stop)),
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
            await self._checks.close()
            await self._server.close()
            await self._node.leave_clean()

    def _load_plan(self) -> Plan:
        try:
            plan = self._disk.load_plan()
        except PlanUnreadable as unreadable:
            self._plan_problem = Problem("PlanUnreadable", str(unreadable))
        else:
            if plan is None:
                return self._plan
            if plan.node == self._name:
                return plan
            message = f"the stored plan is for node {plan.node!r}, this is {self._name!r}: it is not used"
            self._plan_problem = Problem("PlanUnreadable", message)
        _log.error("%s", self._plan_problem.message)
        return self._plan

    async def _hand_over(self) -> None:
        """Give everything to the best standbys; done when the witnesses know, or when Tw has passed."""
        _log.info("Handing over before stopping")
        self._is_stopping = True
        for seated in self._seats.values():
            self._perform(seated, seated.seat.lease.resign(now_ns()))
        self._arm()
        longest_ms = max((s.seat.domain.timing.grant_ms for s in self._seats.values()), default=0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * longest_ms / 1000):
                await self._rested.wait()

    async def _look_again_and_again(self) -> None:
        """Report what has changed, try what was not there before, and collect garbage when nothing is due."""
        collect_at = self._loop.time() + _GARBAGE_S
        idle_look_at = self._loop.time()
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._loop.time() >= idle_look_at:
                idle_look_at = self._loop.time() + _IDLE_LOOK_S
                self._connect()
                metrics.couriers.set(self._server.couriers)
                self._take_offered_plan()
                await self._take_over_configurations()
                await self._keep_terms(tries_again=True)
            await self._keep_terms(tries_again=False)
            if self._loop.time() >= collect_at:
                realtime.collect_garbage()
                collect_at = self._loop.time() + _GARBAGE_S
            self._report()

    async def _keep_terms(self, *, tries_again: bool) -> None:
        """Keep on disk, off the renewal path, how high the witnesses' terms may go (rule 14a)."""
        for uid, seated in list(self._seats.items()):
            ceiling = seated.seat.witness.term_ceiling
            if await self._memories.keep_terms(uid, ceiling, tries_again=tries_again):
                seated.seat.witness.keep(ceiling)

    # What the courier says -----------------------------------------------------------------------

    async def take_line(self, line: bytes) -> None:
        """Take what a courier says: votes at once, a plan in a task of its own, for it waits for the disk."""
        try:
            said = lines.outline(line)
        except ValueError as error:
            self._refuse_plan("PlanRefused", f"the courier's line was refused: {error}")
            return
        if isinstance(said, Votes):
            self._hear_votes(said)
        else:
            self._offered_plan = said, line
            self._take_offered_plan()

    def _hear_votes(self, said: Votes) -> None:
        votes = {vote.domain_uid: vote for vote in said.votes}
        for uid, seated in self._seats.items():
            seated.seat.hear_votes(votes.get(uid), now_ns())
        for answer in said.answers:
            if answer.domain_uid in self._seats:
                self._seats[answer.domain_uid].seat.hear_api_server(answer.at_ns)
        self._arm()

    def _take_offered_plan(self) -> None:
        if self._offered_plan is not None and not self._is_taking:
            self._is_taking = True
            self._spawn(self._take_plans())

    async def _take_plans(self) -> None:
        """Take the newest plan that was offered; one that could not be kept stays offered."""
        try:
            while (offered := self._offered_plan) is not None and not self._is_stopping:
                is_done = await self._take_plan(*offered)
                if self._offered_plan is offered:
                    if not is_done:
                        return
                    self._offered_plan = None
        finally:
            self._is_taking = False

    async def _take_plan(self, sketch: lines.PlanOutline, line: bytes) -> bool:
        """Read a plan, keep it on disk, then act on it (rule 9); False if it could not be kept."""
        if line == self._plan_line:
            self._plan_problem = None
            return True
        try:
            plan = await _slice_by_slice(lines.read(sketch))
            if plan.node != self._name:
                raise ValueError(f"it is for node {plan.node!r}, this is {self._name!r}")  # noqa: TRY301
        except ValueError as error:
            self._refuse_plan("PlanRefused", f"the courier's plan was refused: {error}")
            return True
        try:
            await asyncio.to_thread(self._disk.store_plan, line)
        except OSError as error:
            self._refuse_plan(
                "PlanNotKept",
                f"the plan could not be kept on disk ({error}): free space or mend the folder",
            )
            return False
        await self._memories.settle(plan.domains, is_from_disk=False)
        if not self._is_stopping:
            self._plan_problem = None
            self._plan_line = line
            self._apply(plan)
        return True

    def _refuse_plan(self, reason: str, message: str) -> None:
        metrics.refused_plans.labels(reason).inc()
        problem = Problem(reason, message)
        if problem != self._plan_problem:
            _log.error("%s; what was planned before goes on", message)
            self._plan_problem = problem
        self._report()

    # Plan ----------------------------------------------------------------------------------------

    def _apply(self, plan: Plan) -> None:
        self._plan = plan
        self._node.plan(vip for domain in plan.domains for vip in domain.virtual_ips)
        self._update_checks()
        self._configure()
        problems = (self._seat(domain) for domain in plan.domains)
        self._domain_problems = tuple(problem for problem in problems if problem is not None)
        self._leave_domains({domain.uid for domain in plan.domains})
        self._connect()
        self._judge()
        self._report()

    def _update_checks(self) -> None:
        self._has_gateway = bool(self._node.gateways())
        if not self._is_witness_only:
            self._checks.update(
                health.subjects(self._plan), health.node_checks(self._plan, has_gateway=self._has_gateway)
            )

    async def _take_over_configurations(self) -> None:
        """Keep what was offered, and look at the plan again: some of it may have waited for that."""
        if await self._memories.keep_configurations() and not self._is_stopping:
            self._apply(self._plan)

    def _configure(self) -> None:
        """Take over the configurations that are on disk."""
        for uid, seated in self._seats.items():
            kept = self._memories[uid].configuration
            if kept.epoch > seated.seat.configuration.epoch:
                self._perform(seated, seated.seat.configure(kept, now_ns()))

    def _seat(self, domain: DomainPlan) -> Problem | None:
        """Take part in a domain as planned; says why if that cannot be, and goes on with what was."""
        memory, seated = self._memories[domain.uid], self._seats.get(domain.uid)
        before = seated.seat.domain if seated is not None else None
        problem = epochs.differ(domain, memory.configuration)
        if not domain.keys or any(len(key.secret) < LEAST_SECRET for key in domain.keys):
            problem = Problem(
                "NoHeartbeatKey",
                f"domain {domain.name} has no heartbeat key, or one under {LEAST_SECRET} bytes: "
                "mend its Secret, or delete it and the controller makes it anew",
            )
            if before is None:
                return problem if memory.configuration.epoch else None
            domain = msgspec.structs.replace(domain, keys=before.keys)
        if before is not None and domain.timing != before.timing:
            problem = Problem(
                "TimingRefused",
                f"domain {domain.name} came with another timing, which its keepers cannot change while they "
                "hold addresses: the old one goes on until the node-agents of all its nodes were stopped at "
                "one time and are started again",
            )
            domain = msgspec.structs.replace(domain, timing=before.timing)
        if not memory.configuration.epoch:
            return problem
        if seated is None:
            seat = Seat(
                domain,
                memory.configuration,
                node=self._name,
                machine=self._machine,
                incarnation=self._incarnation,
                random=self._random,
                now_ns=now_ns(),
                term_ceiling=memory.term_ceiling,
            )
            seated = self._seats[domain.uid] = _Seated(seat)
        seated.has_left = False
        self._perform(seated, seated.seat.assign(domain, now_ns()))
        return problem

    def _leave_domains(self, staying: set[str]) -> None:
        """Give up every address of a domain that this node has left.

        Its seat stays: if the domain comes back, rounds and sequence numbers must go on where they were.
        When all is given up it is silent, unless its configuration still counts on this node's vote.
        """
        for uid, seated in self._seats.items():
            if uid not in staying:
                seated.has_left = True
                empty = msgspec.structs.replace(seated.seat.domain, virtual_ips=())
                self._perform(seated, seated.seat.assign(empty, now_ns()))

    # Wires ---------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Give each seat the socket of this node's heartbeat address; again and again until it has one."""
        used = set()
        left = {uid: seated.seat.domain for uid, seated in self._seats.items()}
        for domain in (left | {domain.uid: domain for domain in self._plan.domains}).values():
            seated = self._seats.get(domain.uid)
            address = heartbeat_address(
                domain,
                domain.configuration if seated is None else seated.seat.configuration,
                node=self._name,
                node_addresses=self._plan.node_addresses,
                view=self._node.view,
            )
            if address is None:
                self._heartbeat_addresses.pop(domain.uid, None)
                continue
            self._heartbeat_addresses[domain.uid] = str(address)
            if seated is None:
                continue
            if seated.is_silent(self._name):
                seated.wire = None
                continue
            used.add((address, domain.port))
            seated.wire = self._wire(address, domain.port)
        for place in set(self._wires) - used:
            self._loop.remove_reader(self._wires[place].fileno())
            self._wires.pop(place).close()

    def _disconnect(self) -> None:
        """Hear and say nothing more."""
        for timer in (self._timer, self._votes_timer):
            if timer is not None:
                timer.cancel()
        for wire in self._wires.values():
            self._loop.remove_reader(wire.fileno())
            wire.close()
        self._wires.clear()
        for seated in self._seats.values():
            seated.wire = None

    def _wire(self, address: IPAddress, port: int) -> Wire | None:
        wire = self._wires.get((address, port))
        if wire is None:
            try:
                wire = Wire(address, port)
            except OSError as error:
                _log.warning("Heartbeats cannot use %s port %d: %s", address, port, error)
                return None
            self._wires[(address, port)] = wire
            self._loop.add_reader(wire.fileno(), self._read, wire)
        return wire

    def _read(self, wire: Wire) -> None:
        wire.receive(self._take_datagram, at_most=_DATAGRAMS_PER_WAKE)
        self._arm()

    def _take_datagram(self, datagram: bytes) -> None:
        tag = domain_tag(datagram)
        seated = next((s for s in self._speaking() if s.seat.tag == tag), None)
        if seated is None:
            metrics.refused_datagrams.labels("NotOurs" if tag is None else "Domain").inc()
            return
        try:
            effects = seated.seat.receive(datagram, now_ns())
        except DatagramRefused as refused:
            metrics.refused_datagrams.labels(refused.refusal).inc()
            return
        self._perform(seated, effects)

    # The loop ------------------------------------------------------------------------------------

    def _speaking(self) -> Iterator[_Seated]:
        """The seats whose domains this node has something to do with."""
        return (seated for seated in self._seats.values() if not seated.is_silent(self._name))

    def _arm(self) -> None:
        """Set the one timer to the earliest deadline of all seats; tell when all is given up at the end."""
        if self._is_stopping and all(seated.seat.lease.is_at_rest for seated in self._seats.values()):
            self._rested.set()
        due_ns = min((seated.seat.deadline_ns for seated in self._speaking()), default=None)
        self._want_votes()
        if due_ns is None or (self._timer is not None and due_ns == self._due_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_ns = due_ns
        self._timer = self._loop.call_later(max(0, due_ns - now_ns()) / 1e9, self._wake)

    def _want_votes(self) -> None:
        """Tell the courier which votes of the API server are wanted, if that has changed.

        Time alone can change it: a domain that has such a vote is looked at again soon.
        """
        found = (seated.seat.vote_wanted(now_ns()) for seated in self._speaking() if seated.has_api_vote)
        wanted = VotesWanted(tuple(vote for vote in found if vote is not None))
        if wanted != self._votes_wanted:
            self._votes_wanted = wanted
            self._server.publish(wanted)
        if wanted.wanted and self._votes_timer is None:
            self._votes_timer = self._loop.call_later(_VOTES_LOOK_S, self._look_at_votes)

    def _look_at_votes(self) -> None:
        self._votes_timer = None
        self._want_votes()

    def _wake(self) -> None:
        self._timer = None
        if now_ns() - self._due_ns > _LATE_S * 1e9:
            metrics.late_rounds.inc()
        for seated in list(self._speaking()):
            self._perform(seated, seated.seat.expire(now_ns()))
        self._arm()

    def _on_kernel_change(self) -> None:
        if bool(self._node.gateways()) != self._has_gateway:
            self._update_checks()
        self._checks.recheck(Link)
        self._on_change()

    def _on_change(self) -> None:
        """Health or the kernel's state has changed: look at everything again."""
        self._connect()
        self._judge()
        self._report()

    def _judge(self) -> None:
        for domain in self._plan.domains:
            for vip in domain.virtual_ips:
                self._standings[vip.uid] = stand(
                    self._checks.fitness(vip.uid),
                    self._node.obstacle(vip.uid),
                    is_witness_only=self._is_witness_only,
                )
        for seated in self._seats.values():
            fit = [vip.uid for vip in seated.seat.domain.virtual_ips if self._standings[vip.uid].is_fit]
            is_sound = seated.seat.domain.gateway_probe == "Off" or not self._checks.is_failing(
                health.GATEWAY
            )
            self._perform(seated, seated.seat.judge(fit, now_ns(), is_sound=is_sound))
        self._arm()

    def _perform(self, seated: _Seated, effects: list[Effect]) -> None:
        """Carry effects out, in order; what cannot be carried out ends the keeper."""
        try:
            self._carry_out(seated, effects)
        except BaseException as error:
            self._break(error)
            raise

    def _carry_out(self, seated: _Seated, effects: list[Effect]) -> None:
        queue = deque(effects)
        while queue:
            match queue.popleft():
                case Send() as send if seated.seat.is_local(send):
                    queue.extend(seated.seat.deliver(send, now_ns()))
                case Send() as send:
                    self._send(seated, send)
                case Extend(key, deadline_ns):
                    former_deadline_ns = self._node.extend(key, deadline_ns)
                    metrics.lease_margin.observe((former_deadline_ns - now_ns()) / 1e9)
                case Open() as opened:
                    vip = seated.seat.vip(opened.key)
                    assert vip is not None, opened
                    self._node.open(opened.key, vip, opened.deadline_ns)
                    self._spawn(self._take(seated, vip, opened))
                case Close(key):
                    self._node.close(key)
                    self._spawn(self._leave(seated, key))

                case Adopt(configuration):
                    if self._memories.offer(seated.seat.domain.uid, configuration):
                        self._spawn(self._take_over_configurations())

    def _send(self, seated: _Seated, send: Send) -> None:
        sealed = seated.seat.seal(send) if seated.wire is not None else None
        if sealed is None or seated.wire is None or not seated.wire.send(*sealed):
            metrics.lost_datagrams.inc()

    async def _take(self, seated: _Seated, vip: VirtualIPPlan, opened: Open) -> None:
        """Bind and announce what the lease has won."""
        started_at = datetime.now(tz=UTC)
        await self._node.take(opened.key)
        if seated.seat.lease.phase(opened.key) is not Phase.OWNER:
            return
        origin = opened.origin
        took_ns = now_ns() - origin.since_ns
        self._takeovers[opened.key] = Takeover(
            reason=origin.reason,
            started_at=started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            duration_milliseconds=took_ns // MILLISECOND,
            from_node=origin.former,
        )
        metrics.held.labels(vip.name).set(1)
        metrics.term.labels(vip.name).set(opened.term)
        metrics.takeovers.labels(origin.reason).inc()
        metrics.takeover_seconds.observe(took_ns / 1e9)
        _log.info(
            "Took %s in term %d from %s (%s) in %d ms",
            vip.name, opened.term, origin.former, origin.reason, took_ns // MILLISECOND,
        )  # fmt: skip
        self._report()

    async def _leave(self, seated: _Seated, key: Key) -> None:
        """Unbind what the lease has lost, then let it say so."""
        name = await self._node.leave(key)
        self._takeovers.pop(key, None)
        metrics.held.labels(name).set(0)
        metrics.term.labels(name).set(0)
        _log.info("Left %s", name)
        self._perform(seated, seated.seat.lease.closed(key, now_ns()))
        self._arm()
        self._report()

    def _spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._break(error)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback of ours that raised may have left effects undone: nothing may go on after that."""
        error = context.get("exception")
        if error is None or "handle" not in context:
            loop.default_exception_handler(context)
        else:
            self._break(error)

    def _break(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)

    # Report --------------------------------------------------------------------------------------

    def _report(self) -> None:
        report = Report(
            node=self._name,
            version=self._version,
            incarnation=self._incarnation,
            candidacy="WitnessOnly" if self._is_witness_only else "Candidate",
            interfaces=self._node.interfaces(),
            domains=tuple(self._domain_status(domain) for domain in self._plan.domains),
            virtual_ips=tuple(
                self._holding_status(domain, vip)
                for domain in self._plan.domains
                for vip in domain.virtual_ips
            ),
            problems=self._problems(),
        )
        if report != self._last_report:
            self._last_report = report
            self._server.publish(report)

    def _problems(self) -> tuple[Problem, ...]:
        own = () if self._plan_problem is None else (self._plan_problem,)
        memories = (self._memories[domain.uid] for domain in self._plan.domains)
        return (
            *own,
            *self._domain_problems,
            *(problem for memory in memories for problem in memory.problems.values()),
            *(problem for seated in self._speaking() for problem in seated.seat.problems(now_ns())),
            *self._node.problems(),
        )

    def _domain_status(self, domain: DomainPlan) -> DomainStatus:
        seated = self._seats.get(domain.uid)
        address = self._heartbeat_addresses.get(domain.uid, "")
        if seated is None:
            return DomainStatus(name=domain.name, uid=domain.uid, role="Member", heartbeat_address=address)
        return seated.seat.status(heartbeat_address=address, now_ns=now_ns())

    def _holding_status(self, domain: DomainPlan, vip: VirtualIPPlan) -> HoldingStatus:
        standing = self._standings[vip.uid]
        seated = self._seats.get(domain.uid)
        phase, term = Phase.STANDBY, 0
        bound: tuple[str, ...] = ()
        takeover: Takeover | None = None
        if seated is not None and (key := seated.seat.key(vip.uid)) is not None:
            phase, term = seated.seat.lease.phase(key), seated.seat.lease.term(key)
            bound, takeover = self._node.bound(key), self._takeovers.get(key)
        is_owner = phase in (Phase.OWNER, Phase.CLOSING)
        return HoldingStatus(
            uid=vip.uid,
            name=vip.name,
            state="Owner" if is_owner else "Acquiring" if phase is Phase.ACQUIRING else "Standby",
            fitness=standing.fitness,
            score=standing.score,
            term=term,
            reason=standing.reason,
            message=standing.message,
            interface=self._node.interface_of(vip.uid),
            bound=bound,
            checks=standing.checks,
            takeover=takeover if is_owner else None,
        )


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _slice_by_slice(steps: Generator[None, None, Plan]) -> Plan:
    """Drive what is done in steps, and give the loop its turn in between."""
    clock = asyncio.get_running_loop().time
    try:
        while True:
            end_s = clock() + _SLICE_S
            while clock() < end_s:
                next(steps)
            await asyncio.sleep(0)
    except StopIteration as done:
        plan: Plan = done.value
        return plan
