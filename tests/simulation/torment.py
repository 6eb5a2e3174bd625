"""What befalls a simulated domain: faults drawn from a seed, then peace, and what must hold in each.

A run has three parts. *Torment*: faults of the chosen mix come at random moments, and safety and the
order of terms are checked throughout. *Healing*: everything is mended and, within the time that the
protocol allows, each address must be open on exactly one node. *Peace*: nothing may move, nothing may
be given up, nobody may so much as try.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Final

from simulation.world import (
    DRIFT_PPM,
    PROFILES,
    RATE,
    SECOND,
    VIP,
    Broken,
    Disturbance,
    Network,
    Node,
    Plan,
    World,
)
from vipagent.effects import MILLISECOND
from vipagent.lease import Lease
from vipagent.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipagent.effects import LeaseTiming


@dataclass(frozen=True, slots=True)
class Mix:
    """How often each fault comes (weights), how lossy the network is, and how slow the nodes."""

    faults: dict[str, int]
    network: Network = field(default_factory=Network)
    disturbance: Disturbance = field(default_factory=Disturbance)


_CUTS: Final = {"isolate": 3, "deafen": 2, "mute": 2, "cut_pair": 3, "mend": 5}
_ENDS: Final = {"crash": 3, "power_off": 2, "restart": 6, "resign": 2}
_ORDERS: Final = {"move": 3, "old_order": 1, "sicken": 3, "cure": 4}
_PLANS: Final = {"drop_vip": 1, "add_vip": 2, "swap_addresses": 2, "reorder": 2, "spread_plan": 1}
_BAD: Final = Network(loss=0.15, duplicates=0.1, late=0.1)
_LATE: Final = Network(loss=0.02, duplicates=0.1, late=0.5, late_ns=350 * MILLISECOND)
_CROWDED: Final = Network(loss=0.1, duplicates=0.3, late=0.6, late_ns=70 * MILLISECOND)
_STALE: Final = Network(loss=0.05, duplicates=0.3, late=0.3, late_ns=1500 * MILLISECOND)

MIXES: Final[dict[str, Mix]] = {
    "partitions": Mix(_CUTS, network=Network(loss=0.02)),
    "late": Mix(_CUTS | {"pause": 2, "crash": 1, "restart": 2, "slew": 1}, network=_LATE),
    "crowded": Mix(_CUTS | {"move": 4, "reorder": 4, "resign": 2, "crash": 2, "sicken": 2}, network=_CROWDED),
    "crashes": Mix(_ENDS, network=Network(loss=0.05, late=0.05)),
    "pauses": Mix(
        {"pause": 6, "slew": 1, "mend": 1},
        disturbance=Disturbance(stall=0.0005, slow_unbind=0.2),
    ),
    "stalls": Mix(
        {"move": 8, "resign": 3, "crash": 1, "restart": 1},
        disturbance=Disturbance(stall=0.02, stall_ns=250 * MILLISECOND, slow_unbind=0.1),
    ),
    "moves": Mix(_ORDERS, network=Network(loss=0.05, late=0.05)),
    "plans": Mix(_PLANS | {"crash": 1, "restart": 3, "move": 1}, network=Network(loss=0.03)),
    "stale": Mix(_ORDERS | {"crash": 1, "restart": 2, "pause": 1}, network=_STALE),
    "everything": Mix(
        _CUTS | _ENDS | _ORDERS | _PLANS | {"pause": 3, "slew": 2},
        network=_BAD,
        disturbance=Disturbance(stall=0.0003, slow_unbind=0.1),
    ),
}

_SHAPES: Final = (
    ("abc", "abc", "abc"),
    ("abcde", "abcde", "abcde"),
    ("abw", "abw", "ab"),  # two candidates and a node that is a witness only
    ("abcdef", "abc", "abcdef"),
    ("abvwx", "abvwx", "ab"),
)


class Torment:
    """One run: a world, a random source of its own, and the faults."""

    def __init__(
        self,
        mix: str,
        seed: int,
        *,
        timing: LeaseTiming | None = None,
        lease_type: type[Lease] = Lease,
        witness_type: type[Witness] = Witness,
    ) -> None:
        self.random = Random(f"{mix} {seed}")
        self.mix = MIXES[mix]
        names, witnesses, candidates = self.random.choice(_SHAPES)
        self.world = World(
            seed=seed,
            timing=timing or self.random.choice(list(PROFILES.values())),
            names=names,
            witnesses=witnesses,
            lease_type=lease_type,
            witness_type=witness_type,
        )
        self.candidates = candidates
        self.plan: Plan = ()
        self.born = 0
        for _ in range(self.random.randint(1, 3)):
            self.add_vip()

    # The three parts -----------------------------------------------------------------------------

    def run(self, torment_ns: int = 6 * SECOND, peace_ns: int = SECOND) -> None:
        for node in self.world.nodes.values():
            self.world.after(self.random.randrange(300 * MILLISECOND), node.start)
        self.world.run_for(SECOND)
        self._torment(torment_ns)
        self._heal()
        self._stay(peace_ns)

    def _torment(self, duration_ns: int) -> None:
        self.world.network = self.mix.network
        self.world.disturbance = self.mix.disturbance
        kinds, weights = list(self.mix.faults), list(self.mix.faults.values())
        until_ns = self.world.now_ns + duration_ns
        while self.world.now_ns < until_ns:
            [kind] = self.random.choices(kinds, weights)
            fault: Callable[[], None] = getattr(self, kind)
            fault()
            self.world.run_for(self.random.randrange(600 * MILLISECOND))

    def _heal(self) -> None:
        world, timing = self.world, self.world.timing
        world.note("everything is mended")
        self.mend()
        world.network, world.disturbance = Network(), Disturbance()
        for node in world.nodes.values():
            node.unfit.clear()
            if node.process is not None:
                node.process.frozen_until_ns = world.now_ns
        self.plan = tuple(replace(vip, owner=None) for vip in self.plan)
        world.plan(self.plan)
        # a stray slow unbinding and a stray late datagram may still be on their way
        world.run_for(self.mix.disturbance.slow_unbind_ns + self.mix.network.late_ns)
        for node in world.nodes.values():
            node.start()
            node.judge()
        patience_ns = timing.grant_ns + timing.silence_ns + 3 * timing.heartbeat_ns
        world.run_for(patience_ns * RATE // (RATE - DRIFT_PPM))
        for vip in self.plan:
            for address in vip.addresses:
                owners = world.owners(address)
                if len(owners) != 1:
                    raise Broken(f"{world.now_ns / 1e6:.3f} ms: {address} is open on {owners} after healing")

    def _stay(self, duration_ns: int) -> None:
        world = self.world
        world.run_for(SECOND)  # what was under way when peace came
        before = (len(world.opens), world.closes, world.releases)
        world.run_for(duration_ns)
        after = (len(world.opens), world.closes, world.releases)
        if before != after:
            raise Broken(
                f"{world.now_ns / 1e6:.3f} ms: in peace something moved; "
                f"opens, closes, releases were {before} and are {after}"
            )

    # Faults of the network -----------------------------------------------------------------------

    def _any(self) -> Node:
        return self.random.choice(list(self.world.nodes.values()))

    def isolate(self) -> None:
        self._cut(self._any(), inbound=True, outbound=True)

    def deafen(self) -> None:
        self._cut(self._any(), inbound=True, outbound=False)

    def mute(self) -> None:
        self._cut(self._any(), inbound=False, outbound=True)

    def _cut(self, node: Node, *, inbound: bool, outbound: bool) -> None:
        self.world.note(f"{node.name} is cut off ({inbound=}, {outbound=})")
        self.world.isolate(node.name, inbound=inbound, outbound=outbound)

    def cut_pair(self) -> None:
        one, other = self.random.sample(sorted(self.world.nodes), 2)
        self.world.note(f"{one} to {other} is cut")
        self.world.cut.add((one, other))
        if self.random.random() < 0.5:
            self.world.cut.add((other, one))

    def mend(self) -> None:
        self.world.note("the network is mended")
        self.world.cut.clear()

    # Faults of nodes -----------------------------------------------------------------------------

    def crash(self) -> None:
        node = self._any()
        self.world.note(f"{node.name}'s keeper is killed")
        node.crash()
        if self.random.random() < 0.7:
            self.world.after(self.random.randrange(800 * MILLISECOND), node.start)

    def power_off(self) -> None:
        node = self._any()
        self.world.note(f"{node.name} loses power")
        node.power_off()

    def restart(self) -> None:
        for node in self.world.nodes.values():
            if node.process is None and self.random.random() < 0.7:
                self.world.note(f"{node.name} starts")
                node.start()

    def resign(self) -> None:
        """SIGTERM: hand over, wait until that is seen, stop, start again."""
        node, world = self._any(), self.world
        process = node.process
        if process is None:
            return
        world.note(f"{node.name} resigns")
        node.resign()
        give_up_ns = world.now_ns + 2 * world.timing.grant_ns

        def stop_when_done() -> None:
            if node.process is not process:
                return
            if process.lease.is_at_rest or world.now_ns > give_up_ns:
                node.crash()
                world.after(self.random.randrange(500 * MILLISECOND), node.start)
            else:
                world.after(5 * MILLISECOND, stop_when_done)

        stop_when_done()

    def pause(self) -> None:
        node = self._any()
        if node.process is not None:
            duration_ns = self.random.randrange(20 * MILLISECOND, 3 * SECOND)
            self.world.note(f"{node.name} is stopped for {duration_ns / 1e6:.0f} ms")
            node.process.freeze(duration_ns)

    def slew(self) -> None:
        self._any().clock.slew(self.world.now_ns, self.world.draw_rate_ppm())

    # Orders and fitness --------------------------------------------------------------------------

    def sicken(self) -> None:
        node = self.world.nodes[self.random.choice(self.candidates)]
        if self.plan:
            node.unfit.add(self.random.choice(self.plan).name)
            self.world.note(f"{node.name} is unfit for {sorted(node.unfit)}")
            node.judge()

    def cure(self) -> None:
        for node in self.world.nodes.values():
            if node.unfit and self.random.random() < 0.7:
                node.unfit.clear()
                node.judge()

    def move(self) -> None:
        self._order(0)

    def old_order(self) -> None:
        self._order(1)

    def _order(self, age: int) -> None:
        if not self.plan:
            return
        vip = self.random.choice(self.plan)
        term = self.world.newest_term.get(vip.key, 0)
        target = self.random.choice(self.candidates)
        self.world.note(f"{vip.name} is ordered to {target} at term {term - age}")
        ordered = replace(vip, owner=target, based_on_term=term - age, observed_term=term)
        self._replan(*(ordered if each is vip else each for each in self.plan))

    # Plans ---------------------------------------------------------------------------------------

    def _replan(self, *vips: VIP) -> None:
        self.plan = vips
        self.world.plan(vips, spread_ns=self.random.choice((0, 50, 2000)) * MILLISECOND)

    def _shuffled(self) -> tuple[str, ...]:
        return tuple(self.random.sample(self.candidates, len(self.candidates)))

    def add_vip(self) -> None:
        """A new VirtualIP; perhaps it takes addresses that a deleted one had."""
        taken = {address for vip in self.plan for address in vip.addresses}
        free = [address for n in range(1, 6) if (address := f"192.0.2.{n}") not in taken]
        if free:
            self.born += 1
            addresses = tuple(self.random.sample(free, min(len(free), self.random.randint(1, 2))))
            self._replan(*self.plan, VIP(f"vip-{self.born}", addresses, self._shuffled()))

    def drop_vip(self) -> None:
        if self.plan:
            self._replan(*self.random.sample(self.plan, len(self.plan) - 1))

    def swap_addresses(self) -> None:
        """Two VirtualIPs exchange their addresses in one edit."""
        if len(self.plan) >= 2:
            one, other, *rest = self.random.sample(self.plan, len(self.plan))
            self._replan(
                replace(one, addresses=other.addresses), replace(other, addresses=one.addresses), *rest
            )

    def reorder(self) -> None:
        self._replan(*(replace(vip, order=self._shuffled()) for vip in self.plan))

    def spread_plan(self) -> None:
        self._replan(*self.plan)


def replay(mix: str, seed: int) -> str:
    """The command that shows a run again, line by line."""
    return f"PYTHONPATH=controller:node-agent:tests python -m simulation {mix} {seed}"
