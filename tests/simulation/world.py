"""A small world in virtual time: production lease and witness code, and everything outside replaced.

Time is a number, the network is a heap of deliveries, a node's clock runs at its own rate, and the
kernel's fence is a deadline on that clock which outlives the process. Around each lease and witness
stands a shell that keeps the real one's contract, and can be stalled between any two effects:

- it lets go of what lapsed before it reads what arrived;
- it reads the clock after a datagram is in hand and before it calls; effects are carried out in order,
  each possibly much later than the clock reading that they rest on;
- Close closes the fence at once, unbinds in its own time, and only then is the lease told `closed`;
- what a keeper says to itself is delivered after a fresh clock reading.

What must never happen is checked at the moment at which it could begin: an overlap begins only where
a fence is opened or extended, and a term counts only where a lease is opened.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND, Close, Extend, LeaseTiming, Open, Order, Phase, Send
from vipagent.lease import Lease
from vipagent.messages import Release, Request
from vipagent.witness import Roster, Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vipagent.effects import Effect
    from vipagent.messages import Key, Message

SECOND: Final = 1000 * MILLISECOND
RATE: Final = 1_000_000
DRIFT_PPM: Final = 100_000
_SOCKET_BUFFER: Final = 500


def profile(heartbeat_ms: int, lease_ms: int, grant_ms: int, silence_ms: int) -> LeaseTiming:
    return LeaseTiming(
        heartbeat_ms * MILLISECOND, lease_ms * MILLISECOND, grant_ms * MILLISECOND, silence_ms * MILLISECOND
    )


PROFILES: Final = {
    "Fast": profile(50, 250, 310, 320),
    "Balanced": profile(100, 400, 500, 600),
    "Relaxed": profile(200, 1000, 1250, 1300),
}


class Broken(AssertionError):  # noqa: N818 - it reads as what happened
    """An invariant does not hold."""


@dataclass(frozen=True, slots=True)
class VIP:
    """A planned VirtualIP: its addresses, its candidates in order, and the operator's standing order."""

    name: str
    addresses: tuple[str, ...]
    order: tuple[str, ...]
    owner: str | None = None
    based_on_term: int = 0
    observed_term: int = 0

    @property
    def key(self) -> Key:
        """Names the address set: another set of addresses is another key."""
        return hashlib.blake2b(repr((self.name, self.addresses)).encode(), digest_size=16).digest()


Plan = tuple[VIP, ...]


@dataclass(slots=True)
class Clock:
    """CLOCK_BOOTTIME of one node; its rate is in parts per million of true time."""

    base_ns: int
    rate_ppm: int = RATE
    since_ns: int = 0

    def read(self, true_ns: int) -> int:
        return self.base_ns + (true_ns - self.since_ns) * self.rate_ppm // RATE

    def when(self, local_ns: int) -> int:
        """The first true time at which it reads that."""
        return self.since_ns - (self.base_ns - local_ns) * RATE // self.rate_ppm

    def slew(self, true_ns: int, rate_ppm: int) -> None:
        self.base_ns, self.since_ns, self.rate_ppm = self.read(true_ns), true_ns, rate_ppm


@dataclass(frozen=True, slots=True)
class Network:
    """How datagrams fare on links that are not cut."""

    loss: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0
    late_ns: int = 100 * MILLISECOND
    least_ns: int = 150_000
    spread_ns: int = 400_000


@dataclass(frozen=True, slots=True)
class Disturbance:
    """How the node's own processes fare: timers that ring late, stalls between effects, slow unbinding."""

    ring_ns: int = 250_000
    unbind_ns: int = 1_000_000
    stall: float = 0.0
    stall_ns: int = 300 * MILLISECOND
    slow_unbind: float = 0.0
    slow_unbind_ns: int = 1500 * MILLISECOND


class World:
    """Everything there is, and the one who watches it."""

    def __init__(
        self,
        *,
        seed: int,
        timing: LeaseTiming,
        names: Sequence[str],
        witnesses: Sequence[str],
        lease_type: type[Lease] = Lease,
        witness_type: type[Witness] = Witness,
        drift_ppm: int = DRIFT_PPM,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.timing = timing
        self.witnesses = tuple(sorted(witnesses))
        self.lease_type = lease_type
        self.witness_type = witness_type
        self.drift_ppm = drift_ppm
        self.now_ns = 0
        self.network = Network()
        self.cut: set[tuple[str, str]] = set()
        self.tap: Callable[[str, str, Message], bool] | None = None
        self.disturbance = Disturbance()
        self.trace: list[tuple[int, str]] = []
        self.opens: list[tuple[int, str, Open]] = []
        self.closes = 0
        self.releases = 0
        self.newest_term: dict[Key, int] = {}
        self.names: dict[Key, str] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self.nodes = {name: Node(self, name) for name in names}

    # Time ----------------------------------------------------------------------------------------

    def after(self, delay_ns: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now_ns + delay_ns, self._count, action))

    def run_for(self, duration_ns: int) -> None:
        until_ns = self.now_ns + duration_ns
        while self._events and self._events[0][0] <= until_ns:
            self.now_ns, _, action = heapq.heappop(self._events)
            action()
        self.now_ns = until_ns

    def note(self, line: str) -> None:
        self.trace.append((self.now_ns, line))

    def draw_rate_ppm(self) -> int:
        """A clock's rate; the extremes, where the arithmetic is tight, come as often as all the rest."""
        drift_ppm = self.drift_ppm
        between = self.random.randint(-drift_ppm, drift_ppm)
        return RATE + self.random.choice((-drift_ppm, between, between, drift_ppm))

    # Network -------------------------------------------------------------------------------------

    def send(self, sender: str, incarnation: int, receiver: str, message: Message) -> None:
        network, random = self.network, self.random
        if (sender, receiver) in self.cut or receiver not in self.nodes:
            return
        if self.tap is not None and self.tap(sender, receiver, message):
            return
        for _ in range(2 if random.random() < network.duplicates else 1):
            if random.random() < network.loss:
                continue
            delay_ns = network.least_ns + int(random.random() * network.spread_ns)
            if random.random() < network.late:
                delay_ns += int(random.random() * network.late_ns)
            self.carry(sender, incarnation, receiver, message, delay_ns)

    def carry(self, sender: str, incarnation: int, receiver: str, message: Message, delay_ns: int) -> None:
        node = self.nodes[receiver]
        self.after(delay_ns, lambda: node.deliver(sender, incarnation, message))

    def isolate(self, name: str, *, inbound: bool = True, outbound: bool = True) -> None:
        for other in self.nodes:
            if other != name and outbound:
                self.cut.add((name, other))
            if other != name and inbound:
                self.cut.add((other, name))

    # Plan ----------------------------------------------------------------------------------------

    def plan(self, plan: Plan, *, spread_ns: int = 0) -> None:
        """Give every node the plan, each at its own moment; a node never goes back to an older one."""
        self._count += 1
        version = self._count
        for vip in plan:
            self.names[vip.key] = vip.name
        for node in self.nodes.values():
            delay_ns = int(self.random.random() * spread_ns)
            self.after(delay_ns, lambda node=node: node.take_plan(version, plan))  # type: ignore[misc]

    # Watching ------------------------------------------------------------------------------------

    def check_alone(self, node: Node, key: Key, address: str) -> None:
        """Safety: at the moment at which a fence is opened or moved, no other node's is open."""
        for other in self.nodes.values():
            if other is not node and other.is_open(address):
                raise Broken(
                    f"{self.now_ns / 1e6:.3f} ms: {address} is open on {other.name} and on {node.name} "
                    f"({self.names[key]})"
                )

    def check_term(self, node: Node, opened: Open) -> None:
        """Order: terms of successive owners grow."""
        before = self.newest_term.get(opened.key, 0)
        if opened.term <= before:
            raise Broken(
                f"{self.now_ns / 1e6:.3f} ms: {node.name} opens {self.names[opened.key]} under term "
                f"{opened.term}, but term {before} was opened before"
            )
        self.newest_term[opened.key] = opened.term
        self.opens.append((self.now_ns, node.name, opened))

    def check_newest(self, node: Node, key: Key, term: int, deadline_ns: int) -> None:
        """Order, again: once a newer term was opened, an older one is not extended."""
        if node.now() < deadline_ns and 0 < term < self.newest_term[key]:
            raise Broken(
                f"{self.now_ns / 1e6:.3f} ms: {node.name} extends {self.names[key]} under term {term}, but "
                f"term {self.newest_term[key]} was opened before"
            )

    def owners(self, address: str) -> list[str]:
        return [node.name for node in self.nodes.values() if node.is_open(address)]


class Node:
    """One machine: its clock, its kernel (the fence), its disk (plan, incarnation, ceiling), its process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.clock = Clock(base_ns=world.random.randrange(10**12), rate_ppm=world.draw_rate_ppm())
        self.fence: dict[tuple[str, Key], int] = {}
        self.plan: Plan = ()
        self.plan_version = 0
        self.incarnation = 0
        self.term_ceiling = 0
        self.unfit: set[str] = set()
        self.process: Process | None = None

    # The machine ---------------------------------------------------------------------------------

    def start(self) -> None:
        """A keeper's start: rule 8, then the plan from disk."""
        if self.process is not None:
            return
        self.fence.clear()
        self.incarnation += 1
        self.process = Process(self)

    def crash(self) -> None:
        """The process is gone (SIGKILL); the kernel's fence stays as it is."""
        if self.process is not None:
            self.process.is_alive = False
            self.process = None

    def power_off(self) -> None:
        self.crash()
        self.fence.clear()

    def now(self) -> int:
        return self.clock.read(self.world.now_ns)

    # The kernel ----------------------------------------------------------------------------------

    def is_open(self, address: str) -> bool:
        now = self.now()
        return any(place == address and now < deadline_ns for (place, _), deadline_ns in self.fence.items())

    def admit(self, key: Key, addresses: Iterable[str], deadline_ns: int) -> None:
        for address in addresses:
            self.fence[(address, key)] = deadline_ns
            if self.now() < deadline_ns:
                self.world.check_alone(self, key, address)

    def shut(self, key: Key) -> None:
        for place in [place for place in self.fence if place[1] == key]:
            del self.fence[place]

    # What reaches it -----------------------------------------------------------------------------

    def deliver(self, sender: str, incarnation: int, message: Message) -> None:
        process = self.process
        if process is not None and len(process.inputs) < _SOCKET_BUFFER:
            process.take(lambda now_ns: process.route(sender, incarnation, message, now_ns))

    def take_plan(self, version: int, plan: Plan) -> None:
        if version <= self.plan_version:
            return
        self.plan, self.plan_version = plan, version
        process = self.process
        if process is not None:
            process.take(process.assign)

    def judge(self) -> None:
        process = self.process
        if process is not None:
            process.take(process.judge)

    def resign(self) -> None:
        process = self.process
        if process is not None:
            process.take(process.resign)


class Process:
    """The keeper's shell around one lease and one witness: single-threaded, and easily held up."""

    def __init__(self, node: Node) -> None:
        world = node.world
        self.node = node
        self.world = world
        self.is_alive = True
        self.frozen_until_ns = 0
        self.inputs: deque[Callable[[int], list[Effect]]] = deque()
        self._work: deque[Effect] = deque()
        self._armed_ns: int | None = None
        self._addresses: dict[Key, tuple[str, ...]] = {}
        now_ns = node.now()
        self.lease = world.lease_type(
            me=node.name,
            incarnation=node.incarnation,
            witnesses=world.witnesses,
            timing=world.timing,
            random=Random(f"{world.seed} {node.name} {node.incarnation}"),
            now_ns=now_ns,
        )
        is_witness = node.name in world.witnesses
        self.witness = (
            world.witness_type(
                me=node.name, timing=world.timing, now_ns=now_ns, term_ceiling=node.term_ceiling
            )
            if is_witness
            else None
        )
        self._keeping = node.term_ceiling
        self.take(self.assign)

    # Inputs --------------------------------------------------------------------------------------

    def take(self, an_input: Callable[[int], list[Effect]]) -> None:
        self.inputs.append(an_input)
        self._turn()

    def freeze(self, duration_ns: int) -> None:
        """SIGSTOP, a lost processor, a blocking call."""
        self.frozen_until_ns = max(self.frozen_until_ns, self.world.now_ns + duration_ns)
        self.world.after(duration_ns, self._turn)

    def assign(self, now_ns: int) -> list[Effect]:
        plan = self.node.plan
        self._addresses |= {vip.key: vip.addresses for vip in plan}
        if self.witness is not None:
            self.witness.assign(
                {
                    vip.key: Roster(frozenset(vip.addresses), vip.order, vip.owner, vip.observed_term)
                    for vip in plan
                },
                now_ns,
            )
        orders = {vip.key: Order(vip.owner, vip.based_on_term) for vip in plan if self.node.name in vip.order}
        return self.lease.assign(orders, now_ns) + self.judge(now_ns)

    def judge(self, now_ns: int) -> list[Effect]:
        unfit = self.node.unfit
        return self.lease.judge(frozenset(vip.key for vip in self.node.plan if vip.name not in unfit), now_ns)

    def resign(self, now_ns: int) -> list[Effect]:
        return self.lease.resign(now_ns)

    def expire(self, now_ns: int) -> list[Effect]:
        effects = self.lease.expire(now_ns)
        if self.witness is not None:
            effects += self.witness.expire(now_ns)
        return effects

    def route(self, sender: str, incarnation: int, message: Message, now_ns: int) -> list[Effect]:
        if isinstance(message, Request | Release):
            if self.witness is None:
                return []
            return list(self.witness.receive(sender, incarnation, message, now_ns))
        return self.lease.receive(sender, message, now_ns)

    def closed(self, key: Key, now_ns: int) -> list[Effect]:
        return self.lease.closed(key, now_ns)

    # The loop ------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if not self._is_running():
            return
        if not self._work:
            self._work.extend(self.expire(self.node.now()))
        while self._carry_out() and self.inputs:
            self._work.extend(self.inputs.popleft()(self.node.now()))
        if not self._work:
            self._keep_ceiling()
            self._arm()

    def _keep_ceiling(self) -> None:
        """Off the loop: the disk takes its time, and only what it has confirmed is kept."""
        if self.witness is None or self.witness.term_ceiling == self._keeping:
            return
        ceiling = self._keeping = self.witness.term_ceiling
        self.world.after(int(self.world.random.random() * 30 * MILLISECOND), lambda: self._kept(ceiling))

    def _kept(self, ceiling: int) -> None:
        if self.is_alive and self.witness is not None:
            self.node.term_ceiling = max(ceiling, self.node.term_ceiling)
            self.witness.keep(ceiling)

    def _carry_out(self) -> bool:
        """Carry out all effects; False when something held it up before the end."""
        disturbance, random = self.world.disturbance, self.world.random
        while self._work:
            if disturbance.stall and random.random() < disturbance.stall:
                self.freeze(int(random.random() * disturbance.stall_ns))
            if not self._is_running():
                return False
            self._perform(self._work.popleft())
        return True

    def _is_running(self) -> bool:
        return self.is_alive and self.frozen_until_ns <= self.world.now_ns

    def _perform(self, effect: Effect) -> None:
        world, node = self.world, self.node
        match effect:
            case Send(to, message) if to == node.name:
                self._work.extend(self.route(to, node.incarnation, message, node.now()))
            case Send(to, message):
                world.releases += isinstance(message, Release)
                world.send(node.name, node.incarnation, to, message)
            case Extend(key, deadline_ns):
                world.check_newest(node, key, self.lease.term(key), deadline_ns)
                node.admit(key, self._addresses[key], deadline_ns)
            case Open(key, deadline_ns, term, origin):
                world.check_term(node, effect)
                world.note(f"{node.name} opens {world.names[key]}, term {term} ({origin.reason})")
                node.admit(key, self._addresses[key], deadline_ns)
            case Close(key):
                node.shut(key)
                world.closes += 1
                world.note(f"{node.name} closes {world.names[key]}")
                self._unbind(key)

    def _unbind(self, key: Key) -> None:
        disturbance, random = self.world.disturbance, self.world.random
        delay_ns = int(random.random() * disturbance.unbind_ns)
        if random.random() < disturbance.slow_unbind:
            delay_ns += int(random.random() * disturbance.slow_unbind_ns)
        self.world.after(delay_ns, lambda: self.take(lambda now_ns: self.closed(key, now_ns)))

    def _arm(self) -> None:
        due_ns = self.lease.deadline_ns
        if self.witness is not None and self.witness.deadline_ns is not None:
            due_ns = min(due_ns, self.witness.deadline_ns)
        latency_ns = int(self.world.random.random() * self.world.disturbance.ring_ns)
        wake_ns = max(self.world.now_ns, self.node.clock.when(due_ns)) + latency_ns
        if self._armed_ns is not None and self.world.now_ns < self._armed_ns <= wake_ns:
            return
        self._armed_ns = wake_ns
        self.world.after(wake_ns - self.world.now_ns, lambda: self._ring(wake_ns))

    def _ring(self, wake_ns: int) -> None:
        if self._armed_ns == wake_ns:
            self._armed_ns = None
            self._turn()


def alter(plan: Plan, name: str, **changes: object) -> Plan:
    """The plan with one VirtualIP changed."""
    return tuple(replace(vip, **changes) if vip.name == name else vip for vip in plan)  # type: ignore[arg-type]


def phases(world: World, key: Key) -> dict[str, Phase]:
    return {
        name: node.process.lease.phase(key) for name, node in world.nodes.items() if node.process is not None
    }
