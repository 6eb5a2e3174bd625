"""The services of this node: joins the `Stack` of each VirtualIP with the runner, and both with the lease.

    lease won ──▶ others asked (Inquire) ──▶ confirmed ──▶ started ──▶ addresses bound and announced
    to leave  ──▶ stopped, under the lease ──▶ vacant ──▶ lease handed over or released
    lapsed    ──▶ fence closed, stopped ──▶ vacant ──▶ `closed`; the leash ends what does not stop in time

It decides nothing: a `Stack` says what to start and stop, the lease says who may. It owns one timer, for
what stacks do by time alone and for asking the other nodes again while they have not answered. What became of
services is told to their hooks (`eventhooks`), for which nobody waits, and counted (`tallies`).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from vipagent.copies import amended
from vipagent.eventhooks import EventHooks, Occasion, no_hooks
from vipagent.messages import Inquire, Vacant
from vipagent.nodeview import Refusal
from vipagent.occasions import Occasions
from vipagent.runs import Runs, Start
from vipagent.suspects import ended_within_ms
from vipagent.tallies import Tallies
from vipagent.workload import Stack
from vipapi.nodestatus import ServiceStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from vipagent.eventhooks import RunHook
    from vipagent.runner import Runner
    from vipagent.runs import Outcome
    from vipapi.nodeplan import ServicePlan, VirtualIPPlan
    from vipapi.nodestatus import Problem

_ASK_S: Final = 0.1
_MOST_PROGRAMS: Final = 4096


class Tenure(NamedTuple):
    """A lease that this node has: from `since_ns` on whatever another node ran has its lease behind it.

    `seen_ns` is the last sign of the former owner.
    """

    term: int
    former: str | None
    deadline_ns: int
    since_ns: int
    is_bound: bool
    seen_ns: int = 0


class _Following:
    """A VirtualIP's services as they stand here.

    `programs` are digests of what the planned services run, by id. `started` are those whose runs the runner
    has not ended, with the time that each may take to stop; `waiting` are told when nothing runs.
    """

    def __init__(self, name: str, stack: Stack) -> None:
        self.stack = stack
        self.name = name
        self.is_planned = True
        self.services: tuple[ServicePlan, ...] = ()
        self.programs: Mapping[str, str] = {}
        self.term: int | None = None
        self.deadline_ns = 0
        self.is_leaving = False
        self.is_bindable = stack.may_bind
        self.is_bound = False
        self.promoted: dict[str, Occasion] = {}
        self.ask_at_s = 0.0
        self.started: dict[str, float] = {}
        self.waiting: list[asyncio.Future[None]] = []

    def alike(self, program: str) -> frozenset[str]:
        """Return the services that run this program here, or may start it, by whatever name."""
        underway = frozenset(each.id for each in self.stack.underway if _program(each) == program)
        if self.term is None:
            return underway
        return underway | {each for each, known in self.programs.items() if known == program}

    def shape(self) -> tuple[object, ...]:
        """All that the lease, the checks and the report depend on."""
        stack = self.stack
        return stack.is_vacant, stack.is_active, stack.obstacle, stack.statuses()


class _Underway:
    """What runs on this node or might, by service and by program, each with the VirtualIPs it follows."""

    def __init__(self, followings: Mapping[str, _Following]) -> None:
        self._following: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._seen: dict[str, set[tuple[str, str]]] = {}
        for uid, following in followings.items():
            self.see(uid, following.stack)

    def see(self, uid: str, stack: Stack) -> None:
        """Take over what of a VirtualIP's services is underway now."""
        now = {("service", each) for each in stack.running}
        now |= {("program", _program(service)) for service in stack.underway}
        for each in self._seen.get(uid, set()) - now:
            self._following[each].discard(uid)
        for each in now:
            self._following[each].add(uid)
        self._seen[uid] = now

    def besides(self, uid: str, following: _Following) -> frozenset[str]:
        """Return which services of a VirtualIP, or their programs by other names, others have underway."""
        own = {uid}
        same = (each for each in following.stack.ids if self._following["service", each] - own)
        renamed = (
            each for each, program in following.programs.items() if self._following["program", program] - own
        )
        return frozenset((*same, *renamed))


class Workloads:
    """All services that this node runs or might. Made and used inside a running event loop.

    `on_change` is called soon after something changed that the lease, the checks or the report depend on,
    `on_bindable` at once with the UID of a VirtualIP whose `may_bind` is about to change what runs;
    `ask` is to send an Inquire about a VirtualIP to a node, `run_hook` to run a hook to its end.
    """

    def __init__(
        self,
        *,
        node: str,
        incarnation: int,
        runner: Runner,
        now_ns: Callable[[], int],
        on_change: Callable[[], None],
        on_bindable: Callable[[str], None],
        ask: Callable[[str, str, Inquire], None],
        run_hook: RunHook = no_hooks,
    ) -> None:
        self._node = node
        self._incarnation = incarnation
        self._runner = runner
        self._now_ns = now_ns
        self._on_change = on_change
        self._on_bindable = on_bindable
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._leftovers: frozenset[str] = frozenset()
        self._left: dict[str, str] = {}
        self._runs = Runs()
        self._booted_at = datetime.now(tz=UTC) - timedelta(microseconds=now_ns() // 1000)
        self._followings: dict[str, _Following] = {}
        self._formers: dict[str, dict[str, int]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._shapes: dict[str, tuple[object, ...]] = {}
        self._underway: _Underway | None = None
        self._occasions = Occasions(self.look)
        self._telling: asyncio.Handle | None = None
        self._owed: set[str] = set()
        self._is_excused = asyncio.Event()
        self._tallies = Tallies()
        self._hooks = EventHooks(run_hook, node=node, on_change=self._tell_soon)

    async def start_clean(self, vips: Iterable[VirtualIPPlan]) -> None:
        """End what a former keeper of this node left running; what cannot be ended counts as running.

        `vips` are those of the plan that is on disk. A unit that runs is ended only where it may be ours, or
        where the runner knows that it is, whatever the plan says.
        """
        services = [
            service
            for vip in vips
            if any(candidate.node == self._node for candidate in vip.candidates)
            for service in vip.services
        ]
        self._leftovers = await self._runner.start_clean(services)
        self._left = {service.id: _program(service) for service in self._runner.left}

    async def close(self) -> None:
        """End everything; what was still to be told to hooks has some seconds for it."""
        self._occasions.close()
        for timer in (self._timer, self._telling):
            if timer is not None:
                timer.cancel()
        await self._runner.close()
        await self._hooks.close()

    def assign(
        self,
        vips: Iterable[VirtualIPPlan],
        tenures: Mapping[str, Tenure],
        out_of_service: frozenset[str] = frozenset(),
    ) -> None:
        """Take over the planned VirtualIPs; the services of others are stopped.

        `tenures` are those that this node has, by UID: what is bound already stays so while the first
        services that are to follow it start. Of the nodes `out_of_service` somebody says that they are off.
        """
        now_ns = self._now_ns()
        planned = {vip.uid: vip for vip in vips if vip.services or vip.uid in self._followings}
        for uid, vip in planned.items():
            following = self._followings.get(uid)
            if following is None:
                following = self._followings[uid] = _Following(vip.name, self._stack(vip, now_ns))
                if uid in tenures:
                    self._begin(following, tenures[uid])
            others = frozenset(candidate.node for candidate in vip.candidates) - {self._node}
            following.is_planned = bool(vip.services)
            programs = {service.id: _program(service) for service in vip.services}
            former = {each: self._formers.get(program, {}) for each, program in programs.items()}
            following.stack.assign(vip.services, others, now_ns, out_of_service=out_of_service, former=former)
            self._amend(following)
            following.services, following.programs = vip.services, programs
        self._remember(planned.values())
        for uid in self._followings.keys() - planned.keys():
            self._followings[uid].is_planned = False
            self._followings[uid].services, self._followings[uid].programs = (), {}
            self._followings[uid].stack.assign((), frozenset(), now_ns, out_of_service=out_of_service)
        if self._followings:
            self._runner.prepare()
        self.look()
        self._hooks.keep(
            {service_id for following in self._followings.values() for service_id in following.stack.ids}
        )

    def _amend(self, following: _Following) -> None:
        """Have the leash end what runs as is planned now."""
        for service in following.stack.underway:
            if service.id in following.started:
                following.started[service.id] = service.stop_timeout_ms / 1000
            self._runner.amend(service)
        for left in self._runner.left:
            if left.id in following.stack.planned:
                self._runner.amend(amended(left, following.stack.planned[left.id]))

    def _remember(self, vips: Iterable[VirtualIPPlan]) -> None:
        """Keep who may run each program, for it may be planned anew by another name (see `Stack.assign`)."""
        for vip in vips:
            nodes = {candidate.node for candidate in vip.candidates} - {self._node}
            for service in vip.services:
                program = self._followings[vip.uid].programs[service.id]
                known = self._formers.pop(program, {})
                within_ms = ended_within_ms(service)
                known |= {node: max(within_ms, known.get(node, 0)) for node in nodes}
                self._formers[program] = known
        while len(self._formers) > _MOST_PROGRAMS:
            del self._formers[next(iter(self._formers))]

    def _refusal(self, services: tuple[ServicePlan, ...]) -> Refusal | None:
        for service in services:
            why_not = self._runner.refusal(service.workload)
            if why_not is not None:
                return Refusal("ServiceImpossible", f"{service.title}: {why_not}")
        return None

    def _stack(self, vip: VirtualIPPlan, now_ns: int) -> Stack:
        own = frozenset(service.id for service in vip.services) & self._leftovers
        self._leftovers -= own
        return Stack(now_ns=now_ns, leftovers=own, runs=self._runs, can_fence=self._runner.can_fence)

    def own(self, uid: str, tenure: Tenure) -> None:
        """The lease was won."""
        following = self._followings.get(uid)
        if following is not None:
            self._begin(following, tenure)
            self._look_at(uid)

    def _begin(self, following: _Following, tenure: Tenure) -> None:
        following.term, following.deadline_ns = tenure.term, tenure.deadline_ns
        following.is_leaving, following.ask_at_s = False, 0.0
        former = None if tenure.former == self._node else tenure.former
        now_ns = self._now_ns()
        following.stack.own(tenure.term, tenure.since_ns, now_ns, former, seen_ns=tenure.seen_ns)
        if tenure.is_bound:
            following.is_bound = True
            following.stack.bound(now_ns)

    def extend(self, uid: str, deadline_ns: int) -> None:
        """The lease was renewed: nothing is ended before this and the time to stop have passed."""
        following = self._followings.get(uid)
        if following is not None:
            following.deadline_ns = deadline_ns
            for service_id in following.started:
                self._runner.extend(service_id, deadline_ns)

    def bound(self, uid: str) -> None:
        """The addresses are bound."""
        following = self._followings.get(uid)
        if following is not None:
            following.is_bound = True
            following.stack.bound(self._now_ns())
            self._look_at(uid)

    def unbound(self, uid: str) -> None:
        """The addresses are gone."""
        following = self._followings.get(uid)
        if following is not None:
            following.is_bound = False
            following.stack.unbound(self._now_ns())
            self._look_at(uid)

    def leave(self, uid: str, *, is_leaving: bool) -> None:
        """Whether everything is to stop, because the owner is to be another node."""
        following = self._followings.get(uid)
        if following is None or following.is_leaving == is_leaving:
            return
        following.is_leaving = is_leaving
        (following.stack.leave if is_leaving else following.stack.stay)(self._now_ns())
        self._look_at(uid)

    def lose(self, uid: str) -> None:
        """The lease is over."""
        following = self._followings.get(uid)
        if following is not None:
            following.term = None
            following.stack.lose(self._now_ns())
            self._look_at(uid)

    def fail(self, uid: str, message: str) -> None:
        """The checks of a VirtualIP's active services say that one does not work."""
        self._followings[uid].stack.fail(message, self._now_ns())
        self._look_at(uid)

    def hear(self, node: str, answer: Vacant) -> None:
        """A node has answered an Inquire of this keeper."""
        now_ns = self._now_ns()
        asked = dict(answer.programs)
        told = {*answer.vacant, *answer.running, *answer.stuck}
        concerned = {uid: each for uid, each in self._followings.items() if told & each.programs.keys()}
        for following in concerned.values():
            stack, programs = following.stack, following.programs
            other = {each for each in asked.keys() & programs.keys() if asked[each] != programs[each]}
            stack.confirm(node, set(answer.vacant) - other, now_ns, term=answer.term)
            stack.wait(node, set(answer.running) - other, now_ns, term=answer.term)
            stack.deny(
                node, set(answer.stuck) - other, now_ns, term=answer.term, fencing=dict(answer.fencing)
            )
        self._look_at(*concerned)

    def heard(self, nodes: Collection[str]) -> None:
        """These nodes say something, whatever it is."""
        now_ns = self._now_ns()
        for following in self._followings.values():
            following.stack.heard(nodes, now_ns)

    def receive(self, outcome: Outcome) -> None:
        """The runner tells what became of a service."""
        self._tallies.receive(outcome, self._now_ns())
        concerned = {
            uid: each for uid, each in self._followings.items() if each.stack.has(outcome.service_id)
        }
        for uid, following in concerned.items():
            following.stack.receive(outcome, self._now_ns())
            if outcome.kind == "Stopped" and not following.stack.runs((outcome.service_id,)):
                following.started.pop(outcome.service_id, None)
            if self._underway is not None:
                self._underway.see(uid, following.stack)
        if outcome.kind == "Stopped" and outcome.run == 0:
            self._leftovers -= {outcome.service_id}
            self._left.pop(outcome.service_id, None)
        self._look_at(*concerned)

    def may_bind(self, uid: str) -> bool:
        """Whether the addresses of a VirtualIP may be bound as far as its services go."""
        following = self._followings.get(uid)
        return following is None or following.stack.may_bind

    def obstacle(self, uid: str) -> Refusal | None:
        """Why this node is kept off a VirtualIP for its services' sake."""
        following = self._followings.get(uid)
        return None if following is None else self._refusal(following.services) or following.stack.obstacle

    @property
    def followed(self) -> tuple[str, ...]:
        """The VirtualIPs, by UID, that services follow, or did."""
        return tuple(self._followings)

    @property
    def occupied(self) -> frozenset[str]:
        """The VirtualIPs, by UID, of which services run here or might."""
        return frozenset(uid for uid, each in self._followings.items() if not each.stack.is_vacant)

    @property
    def active(self) -> frozenset[str]:
        """The VirtualIPs, by UID, all of whose services are active here."""
        return frozenset(uid for uid, each in self._followings.items() if each.stack.is_active)

    def answer(self, inquiry: Inquire) -> Vacant:
        """Say what runs here, and what may start at any moment, for this node has its lease."""
        running, stuck, unpromised = (set(self._leftovers) for _ in range(3))
        fencing: dict[str, int] = {}
        programs = dict(zip(inquiry.services, inquiry.programs, strict=False))
        for each in (running, stuck, unpromised):  # what was left goes by another name where it was renamed
            each |= {service for service, program in programs.items() if program in self._left.values()}
        for following in self._followings.values():
            stack = following.stack
            for service in inquiry.services:
                ids = following.alike(programs.get(service, "")) | {service}
                if stack.runs(ids) or (following.term is not None and ids & following.stack.ids):
                    running.add(service)
                hanging, promised = stack.stuck(ids), stack.fencing(ids)
                if hanging:
                    stuck.add(service)
                    fencing[service] = max(fencing.get(service, 0), *promised.values(), 0)
                if hanging - promised.keys():
                    unpromised.add(service)
        asked = inquiry.services
        vacant = tuple(service for service in asked if service not in running)
        self._owed -= {*vacant}
        if not self._owed:
            self._is_excused.set()
        return Vacant(
            incarnation=inquiry.incarnation,
            term=inquiry.term,
            vacant=vacant,
            running=tuple(service for service in asked if service in running - stuck),
            stuck=tuple(service for service in asked if service in stuck),
            fencing=tuple(
                (service, fencing[service]) for service in asked if service in fencing.keys() - unpromised
            ),
            programs=tuple(programs.items()),
        )

    def depart(self) -> None:
        """This keeper is about to hand everything over: whoever goes on waits for its word (`excused`)."""
        owners = (following for following in self._followings.values() if following.term is not None)
        self._owed = {each.id for following in owners for each in following.services if each.is_singleton}
        self._is_excused.clear()

    async def excused(self) -> None:
        """Return when the next owners have been told that nothing runs here any more."""
        if self._owed:
            await self._is_excused.wait()

    def statuses(self) -> tuple[ServiceStatus, ...]:
        """Return those of what this node owns, what else is not plainly stopped, and what hooks know of."""
        return tuple(
            ServiceStatus(
                uid=service.uid,
                name=service.name,
                virtual_ip=following.name,
                state=state,
                term=following.term or 0,
                since=_told(self._booted_at + timedelta(microseconds=since_ns // 1000)),
                message=message,
                hook=hook,
            )
            for following in self._followings.values()
            for service, state, since_ns, message in following.stack.statuses()
            for hook in (self._hooks.status(service.id),)
            if following.term is not None or state != "Stopped" or hook is not None
        )

    def problems(self) -> tuple[Problem, ...]:
        """What keeps services from running on this node at all."""
        return self._runner.problems()

    def time_to_stop_s(self) -> float:
        """How long it may take until nothing runs here, in seconds."""
        return max((sum(each.started.values()) for each in self._followings.values()), default=0.0)

    async def vacated(self, uid: str) -> None:
        """Return when nothing runs of a VirtualIP's services."""
        following = self._followings.get(uid)
        if following is not None and not following.stack.is_vacant:
            waiting: asyncio.Future[None] = self._loop.create_future()
            following.waiting.append(waiting)
            await waiting

    def look(self) -> None:
        """Do what is due, and tell."""
        now_ns = self._now_ns()
        self._underway = None
        for uid, following in list(self._followings.items()):
            self._attend(uid, following, now_ns)
            if following.stack.is_vacant and following.term is None and not following.is_planned:
                del self._followings[uid]
        self._arm(now_ns)
        shapes = {uid: following.shape() for uid, following in self._followings.items()}
        if shapes != self._shapes:
            self._tally()
            self._tell_soon()
        self._shapes = shapes

    def _look_at(self, *uids: str) -> None:
        """Do at once what is due for these VirtualIPs, and soon what follows from it for others.

        Where hundreds fail over at one time, a look at everything for each would hold up their leases.
        """
        now_ns = self._now_ns()
        for uid in uids:
            following = self._followings[uid]
            self._attend(uid, following, now_ns)
            if following.stack.unconfirmed:
                self._inquire(uid, following)
        self._occasions.note()

    def _attend(self, uid: str, following: _Following, now_ns: int) -> None:
        if following.stack.is_vacant:
            self._tell_vacant(following)
            self._tell_hooks(following)  # before it may start again
        self._step(uid, following, now_ns)
        self._tell_hooks(following)

    def _step(self, uid: str, following: _Following, now_ns: int) -> None:
        deeds = following.stack.step(now_ns, self._running_besides(uid, following))
        if following.stack.may_bind != following.is_bindable:
            following.is_bindable = following.stack.may_bind
            self._on_bindable(uid)
        for deed in deeds:
            if isinstance(deed, Start):
                following.started[deed.service.id] = deed.service.stop_timeout_ms / 1000
                self._tallies.start(deed.service, deed.run, now_ns)
                self._runner.start(
                    deed.service,
                    virtual_ip=following.name,
                    term=deed.term,
                    run=deed.run,
                    deadline_ns=following.deadline_ns,
                )
            else:
                self._tallies.stop(deed.service_id, deed.run, now_ns)
                self._runner.stop(deed.service_id, deed.run)
        if deeds and self._underway is not None:
            self._underway.see(uid, following.stack)

    def _running_besides(self, uid: str, following: _Following) -> frozenset[str]:
        if self._underway is None:
            self._underway = _Underway(self._followings)
        ids = following.stack.ids
        left = {program for each, program in self._left.items() if each not in ids}
        renamed = (each for each, program in following.programs.items() if program in left)
        return frozenset(self._leftovers).union(renamed, self._underway.besides(uid, following))

    def _tally(self) -> None:
        followings = self._followings.values()
        self._tallies.show(
            (service, state) for each in followings for service, state, *_ in each.stack.statuses()
        )

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._on_change()

    def _tell_hooks(self, following: _Following) -> None:
        """Tell what became of the services since the last look."""
        stack = following.stack
        for fault in stack.take_faults():
            self._tallies.fail(fault)
            self._hooks.tell(Occasion("faulted", fault.service, fault.term, following.name, fault.message))
        promoted = stack.promoted
        for service_id, service in promoted.items():
            if service_id not in following.promoted:
                assert following.term is not None
                occasion = Occasion("promoted", service, following.term, following.name)
                following.promoted[service_id] = occasion
                self._hooks.tell(occasion)
        for service_id, former in tuple(following.promoted.items()):
            is_let_go = not following.is_bound or following.term not in (None, former.term)
            is_planned_no_more = service_id not in stack.planned and not stack.runs((service_id,))
            if not (is_planned_no_more or (stack.is_vacant and is_let_go)):
                continue
            del following.promoted[service_id]
            newest = stack.planned.get(service_id, former.service)
            self._hooks.tell(replace(former, kind="demoted", service=newest))

    @staticmethod
    def _tell_vacant(following: _Following) -> None:
        waiting, following.waiting = following.waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _arm(self, now_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadlines = (each.stack.deadline_ns for each in self._followings.values())
        due_s = [max(0, deadline_ns - now_ns) / 1e9 for deadline_ns in deadlines if deadline_ns is not None]
        asking = [(uid, each) for uid, each in self._followings.items() if each.stack.unconfirmed]
        due_s += [self._inquire(uid, each) for uid, each in asking]
        if due_s:
            self._timer = self._loop.call_later(min(due_s), self.look)

    def _inquire(self, uid: str, following: _Following) -> float:
        """Ask every node that has not confirmed yet, if it is time; return the seconds until it is again."""
        now_s = self._loop.time()
        if now_s >= following.ask_at_s:
            following.ask_at_s = now_s + _ASK_S
            for node, services in following.stack.unconfirmed.items():
                assert following.term is not None
                asked = tuple(sorted(services))
                programs = tuple(following.programs[service] for service in asked)
                self._ask(uid, node, Inquire(self._incarnation, following.term, asked, programs))
        return following.ask_at_s - now_s


def _program(service: ServicePlan) -> str:
    """Return a digest of what only one service can have on a node."""
    return _digest(service.workload.identity)


@lru_cache(maxsize=_MOST_PROGRAMS)
def _digest(identity: str) -> str:
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()


def _told(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
