"""What a simulated domain goes through: faults drawn from a seed, then peace, and what must hold in each.

A run has three parts. *Torment*: faults of the chosen mix come at random moments, and safety and the
order of terms are checked throughout. *Healing*: everything is mended and, within the time that the
protocol allows, each address must be open on exactly one node. *Peace*: nothing may move, nothing may
be given up, nobody may so much as try.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, ClassVar

import msgspec

from simulation.clock import DRIFT_PPM, RATE, SECOND
from simulation.faults import Faults
from simulation.mixes import MIXES, SHAPES, Mix
from simulation.network import Quality
from simulation.world import Disturbance, World, with_vips
from vipagent.effects import MILLISECOND
from vipagent.seat import Seat
from vipapi.timing import PROFILES
from vipcourier.votes import DURATION_NS

if TYPE_CHECKING:
    from collections.abc import Callable


class Torment:
    """One run: a world, a random source of its own, and the faults."""

    mixes: ClassVar[dict[str, Mix]] = MIXES
    faults_type: ClassVar[type[Faults]] = Faults
    most_ns: ClassVar[int] = 600 * MILLISECOND
    """The longest time between two faults."""

    def __init__(
        self,
        mix: str,
        seed: int,
        *,
        profile: str = "",
        seat_type: type[Seat] = Seat,
        alter_world: Callable[[World], None] | None = None,
    ) -> None:
        self.random = Random(f"{mix} {seed}")
        self.mix = self.mixes[mix]
        self.profile = profile or self.random.choice(list(PROFILES))
        self.world = World(seed=f"{mix} {seed}", seat_type=seat_type, is_sealed=self.mix.is_sealed)
        self.world.watch.is_order_kept = self.mix.is_order_kept
        if alter_world is not None:
            alter_world(self.world)
        shape = self.random.choice(self.mix.shapes or SHAPES)
        self.world.has_services = self.mix.nature is not None
        self.faults = self.faults_type(self.world, self.random, shape, self.profile)
        for _ in range(self.random.randint(1, 3)):
            self.faults.add_vip()

    def run(self, peace_ns: int = SECOND) -> None:
        for machine in self.world.machines.values():
            self.world.agenda.after(self.random.randrange(300 * MILLISECOND), machine.start)
        self.world.run_for(SECOND)
        self._torment(self.mix.torment_s * SECOND)
        self._heal()
        self._check()
        self._stay(peace_ns)

    def _torment(self, duration_ns: int) -> None:
        world = self.world
        world.network.quality, world.disturbance = self.mix.quality, self.mix.disturbance
        kinds, weights = list(self.mix.faults), list(self.mix.faults.values())
        until_ns = world.agenda.now_ns + duration_ns
        while world.agenda.now_ns < until_ns:
            [kind] = self.random.choices(kinds, weights)
            fault: Callable[[], None] = getattr(self.faults, kind)
            fault()
            world.run_for(self.random.randrange(self.most_ns))

    def _heal(self) -> None:
        world, faults = self.world, self.faults
        world.watch.note("everything is mended")
        quality, disturbance = self.mix.quality, self.mix.disturbance
        world.network.quality, world.disturbance = Quality(), Disturbance()
        faults.is_over = True
        faults.mend()
        faults.find_api()
        faults.office.loss, faults.office.slowest_ns = 0.0, 20 * MILLISECOND
        faults.free_disk()
        faults.find_gateways()
        faults.mend_api()
        faults.call_registrar()
        for machine in world.machines.values():
            machine.unfit.clear()
            if machine.keeper is not None:
                machine.keeper.frozen_until_ns = world.agenda.now_ns
        stand_still = [msgspec.structs.replace(vip, owner=None) for vip in faults.vips]
        world.publish(with_vips(faults.domain, *stand_still))
        self._part_with_clones()
        # a slow unbinding, a late datagram, a suspended machine may still be on their way
        world.run_for(max(disturbance.slow_unbind_ns, quality.late_ns, 3 * SECOND))
        for machine in world.machines.values():
            if not machine.label.endswith("'"):
                machine.start()
            machine.judge()

    def _check(self) -> None:
        world = self.world
        world.run_for(self._patience_ns())
        for vip in self.faults.vips:
            for address in vip.addresses:
                owners = world.watch.owners(address.partition("/")[0])
                if len(owners) != 1:
                    world.watch.fail(f"{address} is open on {owners} after healing")

    def _part_with_clones(self) -> None:
        for label, machine in self.world.machines.items():
            if label.endswith("'"):
                machine.power_off()

    def _patience_ns(self) -> int:
        """What liveness allows: Tw, the silence of a restart, three heartbeats, and the API server's vote."""
        timing = self.faults.domain.timing
        patience_ms = timing.grant_ms + timing.silence_ms + 3 * timing.heartbeat_ms
        if self.faults.shape.has_api_vote:
            patience_ms += 2 * DURATION_NS // MILLISECOND
        return patience_ms * MILLISECOND * RATE // (RATE - DRIFT_PPM)

    def _stay(self, duration_ns: int) -> None:
        world = self.world
        deadline_ns = world.agenda.now_ns + 60 * SECOND
        while not self.faults.registrar.is_settled and world.agenda.now_ns < deadline_ns:
            world.run_for(SECOND)
        if not self.faults.registrar.is_settled:
            world.watch.fail("the witnesses are still not those that are wanted")
        world.run_for(SECOND)  # what was under way when peace came
        before = world.watch.moves
        world.run_for(duration_ns)
        if before != world.watch.moves:
            world.watch.fail(
                f"in peace something moved; opens, closes, releases were {before} and are {world.watch.moves}"
            )
