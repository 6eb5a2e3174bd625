"""The programs of a machine, the leash that ends them, and the keeper's side of that: a simulated runner.

A `Copy` is one start of a service. It has the contract of `vipagent.leash`, in the machine's own time:

- nothing is started once the lease's end has come;
- at the lease's end, or when it is asked to, it is stopped, and a stop timeout later it is killed;
- it goes on when its keeper is gone, stands still with its machine, and dies with it;
- a machine that goes on after a pause needs some milliseconds to notice that time is over.

How programs behave is drawn from their `Nature`: how long they take, and whether they fail, hang, die, ignore
SIGTERM, or hang in the kernel when they are killed. The last are ended as far as others are concerned: they
run no code any more. Their node says that it could not stop them, and whoever heard that must wait.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from simulation.clock import SECOND
from vipagent.effects import MILLISECOND
from vipagent.runs import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from simulation.keeper import Keeper
    from simulation.machine import Machine
    from simulation.serving import Loop
    from vipapi.nodeplan import ServicePlan

_KILL_NS: Final = 3 * MILLISECOND
_PIPE_NS: Final = 1 * MILLISECOND
_GONE_NS: Final = 2 * SECOND
_ORDERLY_NS: Final = 4 * SECOND
_LOOK_NS: Final = 20 * MILLISECOND
_LATE_NS: Final = 1 * MILLISECOND


@dataclass(frozen=True, slots=True)
class Nature:
    """How programs behave: the longest that they take, and by which chance one fails in which way."""

    start_ns: int = 400 * MILLISECOND
    stop_ns: int = 500 * MILLISECOND
    start_fails: float = 0.0
    start_hangs: float = 0.0
    dies: float = 0.0
    dies_ns: int = 8 * SECOND
    ignores_stop: float = 0.1
    hangs: float = 0.0
    hangs_ns: int = 15 * SECOND

    @property
    def may_fail(self) -> bool:
        return bool(self.start_fails or self.start_hangs or self.dies or self.hangs)


class Copy:
    """One start of a service, and the leash on it; `deadline_ns` is the memory that it has with its keeper.

    `tenure` is the VirtualIP that it follows, and the term under which it was started.
    `is_running` is whether a process of it is there that may run code, `is_hanging` whether one is there that
    was killed and has not ended.
    """

    def __init__(
        self,
        machine: Machine,
        service: ServicePlan,
        *,
        run: int,
        tenure: tuple[str, int],
        deadline_ns: int,
        tell: Callable[[Copy, str, str], None],
    ) -> None:
        self.machine = machine
        self.service = service
        self.run = run
        self.tenure = tenure
        self.deadline_ns = deadline_ns
        self.is_running = False
        self.is_hanging = False
        self.is_over = False
        self.has_started = False
        self._tell = tell
        self._kill_at_ns: int | None = None
        self._is_killed = False

    @property
    def program(self) -> str:
        """What there must not be two of, by whatever name it goes."""
        scripts = self.service.workload.exec
        assert scripts is not None
        return scripts.start.hook

    @property
    def is_ending(self) -> bool:
        """Whether it is being stopped, was killed, or is gone."""
        return self._kill_at_ns is not None or self._is_killed or self.is_over

    def begin(self) -> None:
        """The order has reached the leash."""
        machine, random = self.machine, self.machine.world.random.random
        nature = machine.world.nature
        machine.copies.append(self)
        if machine.now() >= self.deadline_ns:
            self._say("StartFailed", "the lease has ended before it was started")
            self._finish()
            return
        self.is_running = True
        machine.world.census.began(self)
        self.arm()
        if random() < nature.start_hangs:
            machine.later(self.service.start_timeout_ms * MILLISECOND, self._fail, "it takes too long")
        elif random() < nature.start_fails:
            machine.later(int(random() * nature.start_ns), self._fail, "exit status 1")
        else:
            machine.later(int(random() * nature.start_ns), self._be_up)

    def _fail(self, why: str) -> None:
        if not self.is_ending:
            if self.machine.world.random.random() < 0.5:
                self._vanish()
            self._say("StartFailed", why)

    def _be_up(self) -> None:
        random, nature = self.machine.world.random.random, self.machine.world.nature
        if not self.is_ending:
            self.has_started = True
            self._say("Started")
            if random() < nature.dies:
                self.machine.later(int(random() * nature.dies_ns), self.die)

    def die(self) -> None:
        """By itself: nothing is left of it, or some of its processes."""
        if self.has_started and not self.is_ending:
            if self.machine.world.random.random() < 0.7:
                self._vanish()
            self._say("Died", "exit status 1")

    def ask_to_stop(self) -> None:
        """The keeper says so, or the next keeper's SIGTERM."""
        if self.is_over:
            return
        if self.is_hanging:
            self.machine.later(_GONE_NS, self._complain)
            return
        self._stop(self._asked_ns(self.machine.now()))

    def amend(self, service: ServicePlan) -> None:
        """It is to be ended as this says."""
        if self._kill_at_ns is not None:
            self._kill_at_ns += (service.stop_timeout_ms - self.service.stop_timeout_ms) * MILLISECOND
        self.service = service
        if not self.is_over:
            self.arm()

    def _asked_ns(self, now_ns: int) -> int:
        """From when the stop timeout counts: an order that is read late gives no more time than the lease."""
        return min(now_ns, self.deadline_ns)

    def _stop(self, since_ns: int) -> None:
        if self._kill_at_ns is not None:
            return
        world = self.machine.world
        self._kill_at_ns = since_ns + self.service.stop_timeout_ms * MILLISECOND
        self.arm()
        if not self.is_running or world.random.random() >= world.nature.ignores_stop:
            self.machine.later(int(world.random.random() * world.nature.stop_ns), self._end)

    def arm(self) -> None:
        """Look when the time has come, by the machine's clock."""
        due_ns = self.deadline_ns if self._kill_at_ns is None else self._kill_at_ns
        world = self.machine.world
        wait_ns = max(0, self.machine.clock.when(due_ns) - world.agenda.now_ns)
        self.machine.later(wait_ns + int(world.random.random() * _LATE_NS), self._look)

    def _look(self) -> None:
        if self.is_over or self._is_killed:
            return
        now_ns = self.machine.now()
        if self._kill_at_ns is None:
            if now_ns < self.deadline_ns:
                self.arm()
                return
            self._stop(self.deadline_ns)
        assert self._kill_at_ns is not None
        if now_ns >= self._kill_at_ns:
            self.kill()
        else:
            self.arm()

    def kill(self) -> None:
        """SIGKILL; it may hang in the kernel, and then it has run its last instruction all the same."""
        if self.is_over or self._is_killed:
            return
        self._is_killed = True
        world = self.machine.world
        self.machine.later(int(world.random.random() * _KILL_NS), self._expire)

    def _expire(self) -> None:
        world = self.machine.world
        if self.is_running and world.random.random() < world.nature.hangs:
            self._vanish()
            self.is_hanging = True
            self.machine.later(_GONE_NS, self._complain)
            self.machine.later(int(world.random.random() * world.nature.hangs_ns), self._end)
        else:
            self._end()

    def _complain(self) -> None:
        if not self.is_over:
            self._say("StopFailed", "its processes hang in the kernel")

    def _end(self) -> None:
        if not self.is_over:
            self._finish()

    def _finish(self) -> None:
        self.lose_power()
        self.machine.copies.remove(self)
        self._say("Stopped")

    def _vanish(self) -> None:
        if self.is_running:
            self.is_running = False
            self.machine.world.census.ended(self)

    def lose_power(self) -> None:
        """It is gone, and nobody is told."""
        self._vanish()
        self.is_hanging = False
        self.is_over = True

    def _say(self, kind: str, message: str = "") -> None:
        self._tell(self, kind, message)


class Runner:
    """What a keeper knows of its copies; it has the contract of `vipagent.runner`."""

    can_fence = False

    def __init__(self, keeper: Keeper, loop: Loop, on_outcome: Callable[[Outcome], None]) -> None:
        self._keeper = keeper
        self._machine = keeper.machine
        self._loop = loop
        self._on_outcome = on_outcome
        self._runs: dict[int, Copy] = {}
        self._by_id: dict[str, Copy] = {}
        self._leftovers: dict[str, Copy] = {}
        self._unwritten: deque[Callable[[], None]] = deque()
        self._unread: deque[Callable[[], None]] = deque()
        self._unheard: deque[tuple[Copy, Any, str]] = deque()

    left: tuple[ServicePlan, ...] = ()

    async def start_clean(self, services: Iterable[ServicePlan] = ()) -> frozenset[str]:  # noqa: ARG002 - no units here
        """Have the former leash stop everything, then kill it; return what hangs.

        It ends when it has read all that its keeper had written.
        """
        for copy in self._machine.copies:
            copy.ask_to_stop()
        await self._loop.sleep(2 * _PIPE_NS)
        await self._emptied(_ORDERLY_NS)
        for copy in self._machine.copies:
            copy.kill()
        await self._emptied(_GONE_NS)
        self._leftovers = {copy.service.id: copy for copy in self._machine.copies}
        self._watch_leftovers()
        return frozenset(self._leftovers)

    async def _emptied(self, within_ns: int) -> None:
        until_ns = self._machine.now() + within_ns
        while self._machine.copies and self._machine.now() < until_ns:
            await self._loop.sleep(_LOOK_NS)

    def _watch_leftovers(self) -> None:
        for service_id, copy in list(self._leftovers.items()):
            if copy.is_over:
                del self._leftovers[service_id]
                self._tell(Outcome(service_id, 0, "Stopped"))
        if self._leftovers:
            self._loop.call_later(_LOOK_NS / SECOND, self._watch_leftovers)

    async def close(self) -> None:
        """Kill what still runs."""
        for copy in self._machine.copies:
            copy.kill()
        await self._emptied(_GONE_NS)

    def refusal(self, workload: object) -> str | None:  # noqa: ARG002 - it can run any
        """Say why this node cannot run such a workload."""
        return None

    def prepare(self) -> None:
        """Nothing is to be done in advance."""

    def problems(self) -> tuple[Any, ...]:
        """Nothing keeps this node from running services."""
        return ()

    def start(self, service: ServicePlan, *, term: int, run: int, virtual_ip: str, deadline_ns: int) -> None:
        """Start a service under a lease that stands until `deadline_ns` by the machine's clock."""
        self._keeper.note(f"starts {service.name} of {virtual_ip} in term {term}")
        if service.id in self._leftovers or service.id in self._by_id:
            self._tell(Outcome(service.id, run, "StartFailed", "its former run has not ended yet"))
            return
        copy = self._machine.world.copy_type(
            self._machine,
            service,
            run=run,
            tenure=(virtual_ip, term),
            deadline_ns=deadline_ns,
            tell=self._hear,
        )
        self._runs[run] = self._by_id[service.id] = copy
        self._order(copy.begin)

    def extend(self, service_id: str, deadline_ns: int) -> None:
        """The lease was renewed: one number in memory."""
        copy = self._by_id.get(service_id)
        if copy is not None:
            copy.deadline_ns = deadline_ns

    def amend(self, service: ServicePlan) -> None:
        """What runs of it is to be ended as this says."""
        copy = self._by_id.get(service.id)
        if copy is not None and copy.service != service:
            self._order(partial(copy.amend, service))

    def stop(self, service_id: str, run: int) -> None:
        """Stop that run."""
        self._keeper.note(f"stops {service_id}")
        copy = self._runs.get(run)
        if copy is not None:
            self._look_above(copy)
            self._order(copy.ask_to_stop)
        elif run == 0 and service_id in self._leftovers:
            self._tell(Outcome(service_id, run, "StopFailed", "it hangs in the kernel"))
        else:
            self._tell(Outcome(service_id, run, "Stopped"))

    def _look_above(self, copy: Copy) -> None:
        """What an address stands on is not stopped for another owner while the address is bound."""
        serving = self._keeper.serving
        assert serving is not None
        if copy.service.is_first and copy.has_started and serving.is_bound_and_leaving(copy.tenure[0]):
            self._machine.world.watch.fail(
                f"{copy.program} is stopped on {self._machine.label} beneath its address"
            )

    def lose_leash(self) -> None:
        """The leash was killed: all that it ran is, and told to have died."""
        for copy in list(self._runs.values()):
            if copy.has_started:
                self._hear(copy, "Died", "the process that services hang on ended")
            copy.kill()

    def _order(self, action: Callable[[], None]) -> None:
        """It is written when the keeper goes on, should it stand still just now; and read in order."""
        keeper = self._keeper
        disturbance, random = self._machine.world.disturbance, self._machine.world.random.random
        if disturbance.stall and random() < 20 * disturbance.stall:
            keeper.freeze(int(random() * disturbance.stall_ns))
        self._unwritten.append(action)
        self._write()

    def _write(self) -> None:
        machine = self._machine
        held_up_ns = self._keeper.frozen_until_ns - machine.world.agenda.now_ns
        if held_up_ns > 0:
            machine.later(held_up_ns, self._write)
            return
        while self._unwritten and self._keeper.is_alive:
            self._unread.append(self._unwritten.popleft())
            machine.later(int(machine.world.random.random() * _PIPE_NS), self._read)

    def _read(self) -> None:
        self._unread.popleft()()

    def _hear(self, copy: Copy, kind: Any, message: str) -> None:
        self._unheard.append((copy, kind, message))
        self._machine.later(int(self._machine.world.random.random() * _PIPE_NS), self._pass_on)

    def _pass_on(self) -> None:
        said = self._unheard.popleft()
        if self._keeper.is_alive:
            self._keeper.take(self._take, *said)

    def _take(self, _: int, copy: Copy, kind: Any, message: str) -> None:
        if copy.run not in self._runs:
            return
        if kind == "Stopped":
            del self._runs[copy.run], self._by_id[copy.service.id]
        self._on_outcome(Outcome(copy.service.id, copy.run, kind, message))

    def _tell(self, outcome: Outcome) -> None:
        self._loop.call_soon(self._on_outcome, outcome)
