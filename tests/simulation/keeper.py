"""The keeper's shell, simulated: production seats, and a loop around them that is easily held up.

It keeps the real shell's contract, and can be stalled between any two effects:

- it reads the clock after a datagram is in hand and before it calls; effects are carried out in order,
  each possibly much later than the clock reading that they rest on;
- when both a timer and a datagram are due, either may come first;
- Close closes the fence at once, unbinds in its own time, and only then is the lease told `closed`;
- what a keeper says to itself is delivered after a fresh clock reading;
- plans, configurations and ceilings are acted on when the disk has them;
- where services follow addresses (`serving.py`), a lease is `closed` when those have stopped, and nothing is
  said before what a former keeper left behind is ended.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from simulation.serving import Serving
from vipagent.datagrams import DatagramRefused, Envelope, domain_tag
from vipagent.effects import Adopt, Close, Extend, Inquired, Open, Phase, Send, Told
from vipagent.messages import Release, Sender
from vipagent.succession import key_of
from vipapi.configuration import Relation, Stamp, relation
from vipapi.link import VotesWanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from simulation.machine import Machine
    from simulation.network import Parcel
    from vipagent.effects import Effect
    from vipagent.messages import Key
    from vipagent.seat import Seat
    from vipapi.configuration import Configuration
    from vipapi.link import Votes
    from vipapi.nodeplan import DomainPlan, Plan

_SOCKET_BUFFER: Final = 500
_NEVER_NS: Final = 1 << 63


class Keeper:
    """One process: single-threaded."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.world = machine.world
        self.is_alive = True
        self.frozen_until_ns = 0
        self.seats: dict[str, Seat] = {}
        self.plan: Plan | None = None
        self.refused: dict[str, int] = {}
        self.me: Sender = Sender(machine.name, machine.boot, machine.disk.incarnation)
        self._domains: dict[str, DomainPlan] = {}
        self._stamps: dict[str, Stamp] = {}
        self._inputs: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._work: deque[tuple[Seat, Effect]] = deque()
        self._has_rung = False
        self._armed_ns = 0
        self._due_ns = -1
        self._addresses: dict[Key, tuple[str, ...]] = {}
        self._ceilings: dict[str, int] = {}
        self._adopting: dict[str, int] = {}
        self._next_plan: Plan | None = None
        self._is_keeping_plan = False
        self._has_api_votes = False
        self._votes_wanted = VotesWanted()
        self.serving = Serving(self) if self.world.has_services else None
        self._is_clean = self.serving is None
        if self.serving is None:
            self._begin()
        else:
            self.serving.start_clean(machine.disk.plan, self._begin)

    def _begin(self) -> None:
        self._is_clean = True
        if self.machine.disk.plan is not None:
            self.take(self._apply, self.machine.disk.plan)
        if self._next_plan is not None:
            self._keep_plan()

    def take(self, action: Callable[..., None], *arguments: Any) -> None:
        """Call `action(now_ns, *arguments)` in the loop."""
        self._inputs.append((action, arguments))
        self._turn()

    def soon(self, action: Callable[..., None], *arguments: Any) -> None:
        """The same from within the loop, when what is under way is over."""
        self._inputs.append((action, arguments))

    def hear(self, uid: str, parcel: Parcel) -> None:
        if len(self._inputs) < _SOCKET_BUFFER:
            self._inputs.append((self._receive, (uid, parcel)))
            self._turn()

    def freeze(self, duration_ns: int) -> None:
        """SIGSTOP, a lost processor, a blocking call."""
        self.frozen_until_ns = max(self.frozen_until_ns, self.world.agenda.now_ns + duration_ns)
        self.world.agenda.after(duration_ns, self._turn)

    def take_plan(self, plan: Plan) -> None:
        """Rule 9: on the disk first. What comes meanwhile replaces what is waiting."""
        self._next_plan = plan
        if not self._is_keeping_plan and self.is_alive and self._is_clean:
            self._keep_plan()

    def judge(self, now_ns: int) -> None:
        if self.serving is not None:
            self.serving.fail_where_sick()
        for seat in self.seats.values():
            self._judge(seat, now_ns)

    def resign(self, now_ns: int) -> None:
        for seat in self.seats.values():
            self._push(seat, seat.lease.resign(now_ns))

    def hear_votes(self, now_ns: int, votes: Votes) -> None:
        by_uid = {vote.domain_uid: vote for vote in votes.votes}
        for uid, seat in self.seats.items():
            seat.hear_votes(by_uid.get(uid), now_ns)
            if seat.vote.transitions(now_ns):
                self._hold_alone(uid)
        for answer in votes.answers:
            if answer.domain_uid in self.seats:
                self.seats[answer.domain_uid].hear_api_server(answer.at_ns)

    def _hold_alone(self, uid: str) -> None:
        """It has the API server's vote of a domain: at that moment no other keeper may have it."""
        for other in self.world.machines.values():
            seat = None if other.keeper is None or other.is_paused else other.keeper.seats.get(uid)
            if other is not self.machine and seat is not None and seat.vote.transitions(other.now()):
                self.world.watch.fail(
                    f"the API server's vote is with {other.label} and with {self.machine.label}"
                )

    @property
    def is_at_rest(self) -> bool:
        return all(seat.lease.is_at_rest for seat in self.seats.values())

    def _keep_plan(self) -> None:
        plan, self._next_plan = self._next_plan, None
        self._is_keeping_plan = plan is not None
        if plan is not None:
            self.machine.keep(self, plan, self._plan_kept, plan)

    def _plan_kept(self, plan: Plan) -> None:
        self.take(self._apply, plan)
        self._keep_plan()

    def _apply(self, now_ns: int, plan: Plan) -> None:
        self.plan = plan
        if self.serving is not None:
            self.serving.assign(plan)
        self._domains |= {domain.uid: domain for domain in plan.domains}
        for domain in plan.domains:
            self._addresses |= {
                key_of(vip): tuple(a.partition("/")[0] for a in vip.addresses) for vip in domain.virtual_ips
            }
            seat = self.seats.get(domain.uid)
            if seat is not None:
                self._push(seat, seat.assign(domain, now_ns))
                self._judge(seat, now_ns)
            elif domain.uid in self.machine.disk.configurations:
                self._sit(domain, now_ns)
            if domain.configuration.epoch:
                self._adopt(domain.uid, domain.configuration)
        staying = {domain.uid for domain in plan.domains}
        for uid, seat in self.seats.items():
            if uid not in staying:
                left = msgspec.structs.replace(seat.domain, virtual_ips=(), deleted=())
                self._push(seat, seat.assign(left, now_ns))

    def _sit(self, domain: DomainPlan, now_ns: int) -> None:
        machine, uid = self.machine, domain.uid
        configuration = machine.disk.configurations[uid]
        seat = self.seats[uid] = self.world.seat_type(
            domain,
            configuration,
            node=machine.name,
            machine=self.me.machine,
            incarnation=self.me.incarnation,
            random=Random(f"{self.world.seed} {machine.label} {self.me.incarnation} {uid}"),
            now_ns=now_ns,
            term_ceiling=machine.disk.ceilings.get(uid, 0),
        )
        self._ceilings[uid] = -1
        self._stamp(seat)
        self._push(seat, seat.assign(domain, now_ns))
        if machine.votes is not None:
            self.hear_votes(now_ns, machine.votes)
        self._judge(seat, now_ns)

    def _judge(self, seat: Seat, now_ns: int) -> None:
        machine = self.machine
        fit = [vip.uid for vip in seat.domain.virtual_ips if machine.is_fit(vip)]
        if self.serving is None:
            self._push(seat, seat.judge(fit, now_ns, is_sound=machine.is_sound))
            return
        workloads = self.serving.workloads
        able = [uid for uid in fit if workloads.obstacle(uid) is None]
        self._push(
            seat, seat.judge(able, now_ns, is_sound=machine.is_sound, occupied_uids=workloads.occupied)
        )

    def _adopt(self, uid: str, configuration: Configuration) -> None:
        """Keep a newer configuration on disk, then take it over."""
        kept = self.machine.disk.configurations.get(uid)
        known = max(self._adopting.get(uid, 0), 0 if kept is None else kept.epoch)
        if configuration.epoch > known:
            self._adopting[uid] = configuration.epoch
            self.world.keep_configuration(self, uid, configuration)

    def configure(self, now_ns: int, uid: str, configuration: Configuration) -> None:
        seat, domain = self.seats.get(uid), self._domains.get(uid)
        if seat is None:
            if domain is not None:
                self._sit(domain, now_ns)
        elif configuration.epoch > seat.configuration.epoch:
            effects = seat.configure(configuration, now_ns)
            self._stamp(seat)
            self._push(seat, effects)

    def _stamp(self, seat: Seat) -> None:
        configuration = seat.configuration
        self._stamps[seat.domain.uid] = Stamp(
            configuration.epoch, configuration.hash.encode(), configuration.former_hash.encode()
        )
        self._has_api_votes = any(
            "@api-server" in quorum for each in self.seats.values() for quorum in each.configuration.quorums
        )
        self.world.watch.note(f"{self.machine.label} is at epoch {configuration.epoch}")

    def _push(self, seat: Seat, effects: Iterable[Effect]) -> None:
        for effect in effects:
            self._work.append((seat, effect))

    def _turn(self) -> None:
        agenda, machine, inputs = self.world.agenda, self.machine, self._inputs
        while True:
            if not self.is_alive or self.frozen_until_ns > agenda.now_ns or machine.is_paused:
                return
            if self._work and not self._carry_out():
                return
            if self._has_rung and (not inputs or self.world.random.random() < 0.5):
                self._has_rung = False
                for seat in self.seats.values():
                    self._push(seat, seat.expire(machine.now()))
            elif inputs:
                action, arguments = inputs.popleft()
                action(machine.now(), *arguments)
            elif self.serving is not None and not self._has_followed():
                continue
            else:
                break
        self._keep_ceilings()
        if self._has_api_votes:
            self._want_votes()
        self._arm()

    def _has_followed(self) -> bool:
        """Whether services are as the leases want them: if not, there is work."""
        assert self.serving is not None
        self.serving.follow()
        return not self._work and not self._inputs

    def _carry_out(self) -> bool:
        """Carry out all effects; False when something held it up before the end."""
        stall, random = self.world.disturbance.stall, self.world.random.random
        work = self._work
        while work:
            if stall:
                if random() < stall:
                    self.freeze(int(random() * self.world.disturbance.stall_ns))
                if not self.is_alive or self.frozen_until_ns > self.world.agenda.now_ns:
                    return False
            self._perform(*work.popleft())
        return True

    def _perform(self, seat: Seat, effect: Effect) -> None:
        if isinstance(effect, Send):
            if seat.is_local(effect):
                self._push(seat, seat.deliver(effect, self.machine.now()))
            else:
                self._send(seat, effect)
        elif isinstance(effect, Inquired | Told):
            if self.serving is not None:
                self._push(seat, self.serving.converse(effect))
        elif isinstance(effect, Adopt):
            self._adopt(seat.domain.uid, effect.configuration)
        else:
            self._guard(seat, effect)

    def _guard(self, seat: Seat, effect: Effect) -> None:
        """Open, move or close a fence, and let what follows the address set know."""
        world, machine = self.world, self.machine
        if isinstance(effect, Extend):
            world.watch.extended(machine, effect.key, seat.lease.term(effect.key), effect.deadline_ns)
            machine.admit(effect.key, self._addresses[effect.key], effect.deadline_ns)
            if self.serving is not None:
                self.serving.extend(effect.key, effect.deadline_ns)
        elif isinstance(effect, Open):
            world.watch.opened(machine, effect)
            machine.admit(effect.key, self._addresses[effect.key], effect.deadline_ns)
            if self.serving is not None:
                self.serving.own(seat, effect)
        elif isinstance(effect, Close):
            machine.shut(effect.key)
            world.watch.closes += 1
            world.watch.note(f"{machine.label} closes {world.watch.names[effect.key]}")
            uid = None if self.serving is None else self.serving.lose(effect.key)
            world.agenda.after(world.unbind_delay_ns(), self.take, self._unbound, seat, effect.key, uid)

    def _unbound(self, now_ns: int, seat: Seat, key: Key, uid: str | None) -> None:
        if self.serving is None or uid is None:
            self._push(seat, seat.lease.closed(key, now_ns))
        else:
            self.serving.unbound(uid)
            self.serving.when_vacated(
                uid, lambda: self._push(seat, seat.lease.closed(key, self.machine.now()))
            )

    def _keep_ceilings(self) -> None:
        """Off the loop: the disk takes its time, and only what it has confirmed is kept."""
        for uid, seat in self.seats.items():
            ceiling = seat.witness.term_ceiling
            if ceiling != self._ceilings[uid]:
                self._ceilings[uid] = ceiling
                self.machine.keep(self, (uid, ceiling), seat.witness.keep, ceiling)

    def _want_votes(self) -> None:
        now_ns = self.machine.now()
        asked = (seat.vote_wanted(now_ns) for seat in self.seats.values())
        wanted = VotesWanted(tuple(each for each in asked if each is not None))
        if wanted != self._votes_wanted:
            self._votes_wanted = wanted
            if self.machine.on_votes_wanted is not None:
                self.machine.on_votes_wanted(wanted)

    def _arm(self) -> None:
        due_ns = min([seat.deadline_ns for seat in self.seats.values()], default=_NEVER_NS)
        agenda = self.world.agenda
        if due_ns == _NEVER_NS or (due_ns == self._due_ns and self._armed_ns > agenda.now_ns):
            return
        self._due_ns = due_ns
        latency_ns = int(self.world.random.random() * self.world.disturbance.ring_ns)
        wake_ns = max(agenda.now_ns, self.machine.clock.when(due_ns)) + latency_ns
        if agenda.now_ns < self._armed_ns <= wake_ns:
            return
        self._armed_ns = wake_ns
        agenda.after(wake_ns - agenda.now_ns, self._ring, wake_ns)

    def _ring(self, wake_ns: int) -> None:
        if self._armed_ns == wake_ns:
            self._armed_ns = 0
            self._has_rung = True
            self._turn()

    def say(self, seat: Seat, send: Send) -> None:
        """What services have to ask leaves with everything else."""
        self._push(seat, [send])

    def note(self, line: str) -> None:
        self.world.watch.note(f"{self.machine.label} {line}")

    def _send(self, seat: Seat, send: Send) -> None:
        world, uid = self.world, seat.domain.uid
        world.watch.releases += isinstance(send.message, Release)
        if not world.is_sealed:
            world.network.send(self.machine, send, uid, (self.me, self._stamps[uid], send.message))
            return
        sealed = seat.seal(send)
        if sealed is not None:
            world.network.send(self.machine, send, uid, sealed[1])

    def _receive(self, now_ns: int, uid: str, parcel: Parcel) -> None:
        if isinstance(parcel, bytes):
            self._open(now_ns, parcel)
            return
        seat = self.seats.get(uid)
        if seat is None:
            return
        sender, stamp, message = parcel
        own = self._stamps[uid]
        how = Relation.SAME if stamp == own else relation(own, stamp)
        self._push(seat, seat.hear(Envelope(sender, how, message), now_ns))

    def _open(self, now_ns: int, datagram: bytes) -> None:
        tag = domain_tag(datagram)
        for seat in self.seats.values():
            if seat.tag == tag:
                try:
                    self._push(seat, seat.receive(datagram, now_ns))
                except DatagramRefused as refused:
                    self.refused[refused.refusal] = self.refused.get(refused.refusal, 0) + 1

    def phase(self, uid: str, key: Key) -> Phase:
        return self.seats[uid].lease.phase(key) if uid in self.seats else Phase.STANDBY
