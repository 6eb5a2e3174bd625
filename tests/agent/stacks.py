"""A model of several nodes whose stacks follow one lease, for laws about `vipagent.workload`.

Everything but the stacks is modelled: a lease that passes from node to node, a keeper on each node that may
be frozen, cut off or killed, a leash that starts and stops copies and ends them at the lease's end plus the
stop timeout, whatever became of its keeper, and restarts the node if it cannot, where the service wants that.
Nodes are switched off, and some time later somebody says so. Deeds, outcomes, questions and answers take
their time; outcomes, questions and answers are lost and doubled as well. Each node's clock is a tenth too
fast or too slow.

After every event `_check` compares what really runs with what must be: never two copies of a singleton, and
no copy that its node's stack does not know of. One seed replays a whole history.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from vipagent.runs import Outcome, Start, Stop
from vipagent.workload import Stack
from vipapi.healthchecks import Exec
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Scripts, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

SECOND: Final = 1_000_000_000
_LEASE_NS: Final = 3 * SECOND
_ASK_NS: Final = 2 * SECOND


def service(
    name: str,
    *,
    hook: str = "",
    is_singleton: bool = True,
    is_first: bool = True,
    start_s: int = 60,
    stop_s: int = 30,
    generation: int = 1,
    fences: bool = False,
) -> ServicePlan:
    return ServicePlan(
        uid="u",
        namespace="prod",
        failover="billing",
        name=name,
        workload=Workload(exec=Scripts(start=Exec(hook=hook or f"start-{name}"))),
        is_singleton=is_singleton,
        is_first=is_first,
        start_timeout_ms=start_s * 1000,
        stop_timeout_ms=stop_s * 1000,
        generation=generation,
        fences=fences,
    )


@dataclass(slots=True)
class _Process:
    """What runs of a service; `deadline_ns` is the lease's end by the node's clock, None while it is renewed.

    `keeper` tells the keepers of one node apart.
    """

    service: ServicePlan
    run: int
    keeper: int
    deadline_ns: int | None
    is_alive: bool = True
    is_stopping: bool = False
    is_stuck: bool = False


@dataclass(slots=True)
class _Node:
    """`is_owner` is what its keeper believes; `deadline_ns` is its lease's end, None while it is renewed."""

    name: str
    rate: float
    offset_ns: int
    can_fence: bool = False
    keeper: int = 0
    stack: Stack | None = None
    is_off: bool = False
    is_frozen: bool = False
    is_cut: bool = False
    is_owner: bool = False
    deadline_ns: int | None = None
    is_asking: bool = False
    is_bound: bool = False
    processes: dict[str, _Process] = field(default_factory=dict)
    deeds: list[Start | Stop] = field(default_factory=list)
    carried_out_ns: int = 0

    def clock_ns(self, time_ns: int) -> int:
        return self.offset_ns + int(time_ns * self.rate)

    def time_ns(self, clock_ns: int) -> int:
        """When its clock shows this, or a moment later."""
        return int((clock_ns - self.offset_ns) / self.rate) + 1000

    def spell_ns(self, seconds: float) -> int:
        """How long a time by its clock is."""
        return int(seconds * SECOND / self.rate)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a node said of what it runs, to a keeper's question of a term."""

    sender: str
    vacant: frozenset[str]
    stuck: frozenset[str]
    fencing: Mapping[str, int]
    term: int
    keeper: int


class Cluster:
    """The nodes, their lease and what is on its way."""

    def __init__(self, random: Random, *, nodes: int, services: tuple[ServicePlan, ...]) -> None:
        self._random = random
        self._is_calm = False
        self._loss = random.choice([0.1, 0.9])
        self._lateness = random.choice([0.02, 0.3])
        self._now_ns = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._services = services
        self._term = 0
        self._holder: _Node | None = None
        self._former: str | None = None
        self._free_ns = 0
        self._is_leaving = False
        self._named = frozenset[str]()
        self.starts = 0
        self._nodes = [
            _Node(
                f"node-{name}",
                random.choice([0.9, 1.1]),
                random.randrange(1, 10**6) * SECOND,
                can_fence=random.random() < 0.7,
            )
            for name in "abcd"[:nodes]
        ]
        for node in self._nodes:
            self._boot(node)

    def live(self, actions: int) -> None:
        """Let anything happen, this often."""
        happenings = [
            *[self._leave] * 3,
            *[self._freeze_or_thaw] * 4,
            *[self._cut_or_join] * 4,
            *[self._freeze_for_long] * 3,
            self._stay,
            *[self._kill_or_boot_keeper] * 2,
            self._lose_power,
            self._switch_off,
            self._die,
            self._fail,
            self._replan,
            *[self._hasten] * 3,
        ]
        for _ in range(actions):
            node = self._random.choice([*self._nodes, self._holder or self._nodes[0]])
            self._random.choice(happenings)(node)
            self._check()
            self._pass(int(self._random.choice([0.01, 0.3, 2, 8, 40]) * self._random.random() * SECOND))
            if self._random.random() < 0.5:
                self._take(self._random.choice(self._nodes))

    def calm_down(self) -> None:
        """Let nothing fail from now on, and somebody hold the lease."""
        self._is_calm = True
        for node in self._nodes:
            if node.is_frozen:
                self._freeze_or_thaw(node)
            if node.is_cut:
                self._cut_or_join(node)
            if node.is_off:
                self._switch_on(node)
            if node.stack is None:
                self._boot(node)
            self._stay(node)
            self._assign(node)
        self._pass(60 * SECOND)
        if self._holder is None or self._is_over():
            self._take(self._nodes[0])
        self._pass(1200 * SECOND)

    def is_well(self) -> bool:
        """Whether the holder's services are active and nobody else has any."""
        return all(
            node.stack is not None
            and (node.stack.is_active if node is self._holder else node.stack.is_vacant)
            for node in self._nodes
        )

    def told(self) -> str:
        """Return how every node stands, for a failing test's message."""
        return "\n".join(
            f"{node.name} {'owner' if node is self._holder else ''} {node.stack and node.stack.statuses()}"
            for node in self._nodes
        )

    def _take(self, node: _Node) -> None:
        """Win the lease, if it is nobody's any more."""
        if node.stack is None or node.is_frozen or node.is_cut or not self._is_over():
            return
        former = self._holder.name if self._holder else self._former
        self._term += 1
        self._holder, self._is_leaving = node, False
        node.is_owner, node.deadline_ns = True, None
        now_ns = self._clock_ns(node)
        node.stack.own(self._term, now_ns, now_ns, None if former == node.name else former)
        self._renew(node)
        self._look(node)

    def _leave(self, node: _Node) -> None:
        if node is self._holder and node.stack is not None and not node.is_frozen:
            self._is_leaving = True
            node.stack.leave(self._clock_ns(node))
            self._look(node)

    def _stay(self, node: _Node) -> None:
        if node is self._holder and node.stack is not None and not node.is_frozen:
            self._is_leaving = False
            node.stack.stay(self._clock_ns(node))
            self._look(node)

    def _freeze_or_thaw(self, node: _Node) -> None:
        node.is_frozen = not node.is_frozen
        self._connection_changed(node)

    def _freeze_for_long(self, node: _Node) -> None:
        """Its leash must end what runs, while somebody else may already have the lease."""
        if not node.is_frozen:
            self._freeze_or_thaw(node)
            self._pass(int(60 * self._random.random() * SECOND))

    def _cut_or_join(self, node: _Node) -> None:
        node.is_cut = not node.is_cut
        self._connection_changed(node)

    def _kill_or_boot_keeper(self, node: _Node) -> None:
        if node.stack is None:
            self._boot(node)
        else:
            node.stack = None
            node.is_frozen = False
            self._connection_changed(node)
            self._after(20 * self._random.random(), partial(self._boot_if_down, node))

    def _boot_if_down(self, node: _Node) -> None:
        if node.stack is None:
            self._boot(node)

    def _lose_power(self, node: _Node) -> None:
        node.processes.clear()
        if node.stack is not None:
            self._kill_or_boot_keeper(node)

    def _switch_off(self, node: _Node) -> None:
        """Switch a node off, one at a time; somebody says so, and takes it back before it is on again."""
        if any(each.is_off for each in self._nodes):
            return
        self._lose_power(node)
        node.is_off = True
        self._after(5 * self._random.random(), partial(self._name, node))
        self._after(10 + 100 * self._random.random(), partial(self._switch_on, node))

    def _name(self, node: _Node) -> None:
        if node.is_off:
            self._named = frozenset({node.name})
            for each in self._nodes:
                self._assign(each)

    def _switch_on(self, node: _Node) -> None:
        """Nobody calls it off any more, then it is on."""
        if not node.is_off:
            return
        self._named = frozenset()
        for each in self._nodes:
            self._assign(each)
        if any(each.is_frozen for each in self._nodes):
            self._after(1.0, partial(self._switch_on, node))
        else:
            node.is_off = False
            self._boot(node)

    def _die(self, node: _Node) -> None:
        """A service dies, or its status hook says that it does not work while it goes on."""
        for process in node.processes.values():
            if process.is_alive and not process.is_stopping:
                process.is_alive = self._random.random() < 0.3
                self._tell(node, process, "Died")

    def _fail(self, node: _Node) -> None:
        if node.stack is not None and not node.is_frozen:
            node.stack.fail("no answer", self._clock_ns(node))
            self._look(node)

    def _replan(self, node: _Node) -> None:
        """This node, and only this one for the time being, learns of another plan."""
        order = list(self._services)
        self._random.shuffle(order)
        hook = self._random.choice(["start", "start-anew"])
        keep = self._random.randint(1, len(order))
        others = [service(s.name, hook=hook, stop_s=_stop_s(s), fences=s.fences) for s in order[:keep]]
        self._assign(node, tuple(others))

    def _hasten(self, node: _Node) -> None:  # noqa: ARG002 - it is a plan for all of them
        """Less time to stop, and whether a failure of it ends the node, for all if all can be told.

        What is stopped for other reasons, having been left behind or being of another program, is not told.
        """
        identities = {plan.id: plan.workload.identity for plan in self._services}
        is_known = all(
            process.keeper == each.keeper and process.service.workload.identity == identities[key]
            for each in self._nodes
            for key, process in each.processes.items()
            if process.is_alive
        )
        if not is_known or any(each.stack is None or each.is_frozen for each in self._nodes):
            return
        self._services = tuple(
            service(
                plan.name,
                stop_s=max(1, _stop_s(plan) - self._random.randint(0, 10)),
                fences=self._random.random() < 0.5,
            )
            for plan in self._services
        )
        for each in self._nodes:
            self._assign(each)

    def _boot(self, node: _Node) -> None:
        """A keeper starts: it ends what the one before it left behind, as far as that can be ended."""
        if node.is_off:
            return
        node.keeper += 1
        node.deeds.clear()
        node.carried_out_ns = 0
        left = frozenset(key for key, process in node.processes.items() if process.is_alive)
        is_stuck = any(node.processes[key].is_stuck for key in left) and not self._is_calm
        leftovers = left if is_stuck or self._random.random() < 0.3 else frozenset()
        for key in left - leftovers:
            node.processes[key].is_alive = False
        node.stack = Stack(now_ns=self._clock_ns(node), leftovers=leftovers, can_fence=node.can_fence)
        node.is_owner = False
        if node is self._holder:
            assert node.deadline_ns is not None
            self._free_ns = node.time_ns(node.deadline_ns)
            self._former, self._holder = node.name, None
        self._assign(node)

    def _assign(self, node: _Node, services: tuple[ServicePlan, ...] | None = None) -> None:
        if node.stack is not None and not node.is_frozen:
            others = frozenset(each.name for each in self._nodes if each is not node)
            node.stack.assign(
                self._services if services is None else services,
                others,
                self._clock_ns(node),
                out_of_service=self._named,
            )
            for plan in node.stack.underway:
                process = node.processes.get(plan.id)
                if process is not None and process.keeper == node.keeper:
                    process.service = plan
                    self._leash(node, process)
            self._look(node)

    def _connection_changed(self, node: _Node) -> None:
        """Only an owner that hears others and is heard renews; its leash knows the last deadline."""
        if not node.is_owner:
            return
        self._lapse_if_over(node)
        is_renewing = node.stack is not None and not node.is_frozen and not node.is_cut
        if not is_renewing and node.deadline_ns is None:
            node.deadline_ns = self._clock_ns(node) + _LEASE_NS
            for process in node.processes.values():
                process.deadline_ns = process.deadline_ns or node.deadline_ns
                self._leash(node, process)
            self._at(node.time_ns(node.deadline_ns), partial(self._lapse_if_over, node))
            self._at(node.time_ns(node.deadline_ns), partial(self._take, self._random.choice(self._nodes)))
        elif is_renewing and node.is_owner:
            node.deadline_ns = None
            self._renew(node)

    def _is_over(self) -> bool:
        """Whether the lease is nobody's any more."""
        if self._holder is None:
            return self._now_ns >= self._free_ns
        return self._has_run_out(self._holder)

    def _has_run_out(self, node: _Node) -> bool:
        return node.deadline_ns is not None and self._clock_ns(node) >= node.deadline_ns

    def _lapse_if_over(self, node: _Node) -> None:
        """A keeper lets go of a lease that ran out, before anything else, as soon as it can."""
        if node.stack is not None and node.is_owner and not node.is_frozen and self._has_run_out(node):
            self._release(node)
            self._look(node)

    def _release(self, node: _Node) -> None:
        node.is_owner = False
        if node is self._holder:
            self._former, self._holder = node.name, None
        assert node.stack is not None
        node.stack.lose(self._clock_ns(node))

    def _renew(self, node: _Node) -> None:
        assert node.stack is not None
        for key in node.stack.runs(node.processes):
            node.processes[key].deadline_ns = None

    def _look(self, node: _Node) -> None:
        """What a keeper does at every occasion."""
        stack = node.stack
        assert stack is not None
        self._carry_out(node, stack)
        if not stack.may_bind:
            node.is_bound = False
        elif not node.is_bound:
            node.is_bound = True
            self._at(self._now_ns + self._delay_ns(), partial(self._bound, node))
        self._ask(node, stack)
        deadline_ns = stack.deadline_ns
        if deadline_ns is not None:
            assert deadline_ns > self._clock_ns(node)
            self._at(node.time_ns(deadline_ns), partial(self._wake, node, deadline_ns, node.keeper))

    def _bound(self, node: _Node) -> None:
        if node.stack is not None and node.is_bound:
            node.stack.bound(self._clock_ns(node))
            self._look(node)

    def _wake(self, node: _Node, deadline_ns: int, keeper: int) -> None:
        """Look again when it is due, if nobody has looked since."""
        if node.stack is None or node.keeper != keeper or node.stack.deadline_ns != deadline_ns:
            return
        if node.is_frozen:
            self._after(1.0, partial(self._wake, node, deadline_ns, keeper))
        else:
            self._look(node)

    def _carry_out(self, node: _Node, stack: Stack) -> None:
        for deed in stack.step(self._clock_ns(node)):
            if isinstance(deed, Start):
                assert node.is_owner, f"{node.name} may start nothing"
                assert not self._is_leaving_with(node), f"{node.name} may start nothing any more"
                self.starts += 1
            deadline_ns = node.deadline_ns or self._clock_ns(node) + _LEASE_NS
            node.deeds.append(deed)
            node.carried_out_ns = max(node.carried_out_ns, self._now_ns + self._delay_ns())
            self._at(node.carried_out_ns, partial(self._carry, node, node.keeper, deed, deadline_ns))
        if self._is_leaving_with(node) and stack.is_vacant:
            self._release(node)

    def _is_leaving_with(self, node: _Node) -> bool:
        return node is self._holder and self._is_leaving

    def _ask(self, node: _Node, stack: Stack) -> None:
        if not stack.unconfirmed or node.is_asking:
            return
        node.is_asking = True
        self._at(self._now_ns + _ASK_NS, partial(self._ask_again, node))
        if node is not self._holder or node.is_cut or node.is_frozen:
            return
        for name, ids in stack.unconfirmed.items():
            for _ in range(self._copies_of_a_message(self._loss)):
                other = next(each for each in self._nodes if each.name == name)
                question = partial(self._answer, other, node, ids, self._term, node.keeper)
                self._at(self._now_ns + self._delay_ns(), question)

    def _ask_again(self, node: _Node) -> None:
        node.is_asking = False
        if node.stack is not None:
            self._ask(node, node.stack)

    def _answer(self, node: _Node, asker: _Node, ids: frozenset[str], term: int, keeper: int) -> None:
        if node.stack is None or node.is_cut:
            return
        if node.is_frozen:
            self._after(1.0, partial(self._answer, node, asker, ids, term, keeper))
            return
        self._lapse_if_over(node)
        stack = node.stack
        answer = _Answer(node.name, ids - stack.runs(ids), stack.stuck(ids), stack.fencing(ids), term, keeper)
        for _ in range(self._copies_of_a_message()):
            self._at(self._now_ns + self._delay_ns(), partial(self._hear, asker, answer))

    def _hear(self, node: _Node, answer: _Answer) -> None:
        if node.stack is None or node.is_cut or node.keeper != answer.keeper:
            return
        if node.is_frozen:
            self._after(1.0, partial(self._hear, node, answer))
            return
        self._lapse_if_over(node)
        node.stack.confirm(answer.sender, answer.vacant, self._clock_ns(node), term=answer.term)
        node.stack.deny(
            answer.sender, answer.stuck, self._clock_ns(node), term=answer.term, fencing=answer.fencing
        )
        self._look(node)

    def _carry(self, node: _Node, keeper: int, deed: Start | Stop, deadline_ns: int) -> None:
        if node.keeper != keeper or node.stack is None:
            return
        node.deeds.remove(deed)
        match deed:
            case Start():
                self._start(node, deed, deadline_ns)
            case Stop():
                self._stop(node, deed)

    def _start(self, node: _Node, start: Start, deadline_ns: int) -> None:
        key = start.service.id
        former = node.processes.get(key)
        if (former is not None and former.is_alive) or self._clock_ns(node) >= deadline_ns:
            self._say(node, Outcome(key, start.run, "StartFailed", "too late"))
            return
        is_renewed = node.is_owner and node.deadline_ns is None
        process = _Process(start.service, start.run, node.keeper, None if is_renewed else deadline_ns)
        process.is_stuck = start.service.fences and node.can_fence and self._random.random() < 0.2
        node.processes[key] = process
        self._leash(node, process)
        is_good = self._is_calm or self._random.random() < 0.8
        took_s = self._random.random() * (1 if self._is_calm else 20)
        self._after(took_s, partial(self._started, node, process, is_good=is_good))

    def _started(self, node: _Node, process: _Process, *, is_good: bool) -> None:
        if process.is_alive and not process.is_stopping:
            self._tell(node, process, "Started" if is_good else "StartFailed")

    def _stop(self, node: _Node, stop: Stop) -> None:
        process = node.processes.get(stop.service_id)
        is_meant = (
            process is not None
            and process.is_alive
            and (process.run == stop.run if stop.run else process.keeper != node.keeper)
        )
        if process is None or not is_meant:
            self._say(node, Outcome(stop.service_id, stop.run, "Stopped"))
        elif not process.is_stopping:
            process.is_stopping = True
            took_ns = node.spell_ns(self._random.random() * _stop_s(process.service))
            is_good = self._is_calm or (self._random.random() < 0.8 and not process.is_stuck)
            self._at(self._now_ns + took_ns, partial(self._stopped, node, process, is_good=is_good))

    def _stopped(self, node: _Node, process: _Process, *, is_good: bool) -> None:
        if process.is_alive:
            process.is_alive, process.is_stopping = not is_good, False
            self._tell(node, process, "Stopped" if is_good else "StopFailed")

    def _leash(self, node: _Node, process: _Process) -> None:
        """End it when its lease has been over for as long as a stop may take, if it is over still."""
        if process.deadline_ns is None or not process.is_alive:
            return
        end_ns = process.deadline_ns + _stop_s(process.service) * SECOND
        fence_ns = end_ns + 5 * SECOND
        if process.is_stuck and self._clock_ns(node) >= fence_ns:
            self._lose_power(node)
        elif process.is_stuck and self._clock_ns(node) >= end_ns:
            self._tell(node, process, "StopFailed")
            self._at(node.time_ns(fence_ns), partial(self._leash, node, process))
        elif self._clock_ns(node) >= end_ns:
            process.is_alive = False
            self._tell(node, process, "Stopped")
        else:
            self._at(node.time_ns(end_ns), partial(self._leash, node, process))

    def _tell(self, node: _Node, process: _Process, kind: str) -> None:
        run = process.run if process.keeper == node.keeper else 0
        self._say(node, Outcome(process.service.id, run, kind))  # type: ignore[arg-type]

    def _say(self, node: _Node, outcome: Outcome) -> None:
        for _ in range(self._copies_of_a_message()):
            self._at(self._now_ns + self._delay_ns(), partial(self._receive, node, node.keeper, outcome))

    def _receive(self, node: _Node, keeper: int, outcome: Outcome) -> None:
        if node.stack is None or node.keeper != keeper:
            return
        if node.is_frozen:
            self._after(1.0, partial(self._receive, node, keeper, outcome))
            return
        self._lapse_if_over(node)
        node.stack.receive(outcome, self._clock_ns(node))
        self._look(node)

    def _clock_ns(self, node: _Node) -> int:
        return node.clock_ns(self._now_ns)

    def _at(self, time_ns: int, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(time_ns, self._now_ns), self._count, event))

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        self._at(self._now_ns + int(seconds * SECOND), event)

    def _pass(self, duration_ns: int) -> None:
        end_ns = self._now_ns + duration_ns
        while self._events and self._events[0][0] <= end_ns:
            self._now_ns, _, event = heapq.heappop(self._events)
            event()
            self._check()
        self._now_ns = end_ns

    def _delay_ns(self) -> int:
        is_late = not self._is_calm and self._random.random() < self._lateness
        return int(self._random.random() * (25 if is_late else 0.01) * SECOND)

    def _copies_of_a_message(self, loss: float = 0.1) -> int:
        if self._is_calm:
            return 1
        return 0 if self._random.random() < loss else self._random.choice([1, 1, 1, 2])

    def _check(self) -> None:
        running: dict[str, str] = {}
        for node in self._nodes:
            for key, process in node.processes.items():
                if not process.is_alive:
                    continue
                assert key not in running, f"{key} runs on {running[key]} and {node.name}"
                running[key] = node.name
                if node.stack is not None:
                    assert node.stack.runs([key]), f"{node.name} does not know that {key} runs there"
                    assert not node.stack.is_vacant
            if node.stack is not None:
                for deed in node.deeds:
                    assert isinstance(deed, Stop) or node.stack.runs([deed.service.id])


def _stop_s(plan: ServicePlan) -> int:
    return plan.stop_timeout_ms // 1000
