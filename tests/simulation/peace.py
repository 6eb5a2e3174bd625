"""Long quiet stretches: now and then an owner dies, or the witnesses change, and nothing else may move.

*deaths*: an owner's machine loses power; how long the address was away is noted, by profile and loss, and
the machine comes back. *quiet*: the same on three slow nodes that are left alone for minutes. *replacing*:
the witnesses are replaced, under heavy loss. Between and after, no fence may be closed, no lease released,
no address moved.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from simulation.clock import SECOND
from simulation.faults import Faults
from simulation.mixes import SHAPES, Shape
from simulation.network import Quality
from simulation.world import World
from vipagent.effects import MILLISECOND
from vipagent.seat import Seat
from vipapi.timing import PROFILES

if TYPE_CHECKING:
    from collections.abc import Callable

_LOSSES: Final = (0.0, 0.05, 0.2)
_WIDE: Final = (Shape("abcde", "abc", "abcde"), Shape("abcdefg", "abcde", "abcd"))


class Peace:
    """One run; `outages_ms` is how long addresses were away after deaths."""

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
        self.is_replacing = mix == "replacing"
        profiles = ["Relaxed"] if mix == "quiet" else ["Fast", "Balanced", "Relaxed", "Relaxed"]
        self.profile = profile or self.random.choice(profiles)
        self.quiet_s = (300, 600) if mix == "quiet" else (5, 40)
        self.loss = 0.2 if self.is_replacing else self.random.choice(_LOSSES)
        self.outages_ms: list[float] = []
        self.world = World(seed=f"{mix} {seed}", seat_type=seat_type)
        if alter_world is not None:
            alter_world(self.world)
        shape = self.random.choice({"quiet": SHAPES[:1], "replacing": _WIDE}.get(mix, SHAPES))
        self.faults = Faults(self.world, self.random, shape, self.profile)
        self.timing = PROFILES[self.profile]
        self.world.network.quality = Quality(loss=self.loss)
        for _ in range(self.random.randint(1, 3)):
            self.faults.add_vip()

    def run(self) -> None:
        for machine in self.world.machines.values():
            machine.start()
        self.world.run_for(5 * SECOND)
        for _ in range(self.random.randint(2, 5)):
            if self.is_replacing:
                # a single witness cannot make good what a fifth of all datagrams takes from a lease
                self.faults.change_witnesses(least=3)
            else:
                self._die()
            self._stay(self.random.randint(*self.quiet_s) * SECOND)

    def _die(self) -> None:
        """The machine of an owner loses power, and comes back when all it had is elsewhere."""
        world = self.world
        owners = {
            world.watch.owners(a.partition("/")[0])[0] for vip in self.faults.vips for a in vip.addresses
        }
        owner = self.random.choice(sorted(owners))
        held = [vip for vip in self.faults.vips if world.watch.owners(_first(vip.addresses)) == [owner]]
        opens, died_ns = len(world.watch.opens), world.agenda.now_ns
        world.watch.note(f"{owner} loses power")
        world.machines[owner].power_off()
        world.run_for(10 * self.timing.grant_ms * MILLISECOND)
        for vip in held:
            if not world.watch.owners(_first(vip.addresses)):
                world.watch.fail(f"{vip.name} is nowhere long after {owner} died")
        successions: dict[bytes, int] = {}
        for at_ns, _, opened in world.watch.opens[opens:]:
            successions.setdefault(opened.key, at_ns)
        self.outages_ms += [(at_ns - died_ns) / 1e6 for at_ns in successions.values()]
        world.machines[owner].start()
        world.run_for(3 * SECOND)

    def _stay(self, duration_ns: int) -> None:
        world = self.world
        before = (len(world.watch.opens), world.watch.closes)
        world.run_for(duration_ns)
        if before != (len(world.watch.opens), world.watch.closes):
            world.watch.fail(
                f"something moved in {duration_ns // SECOND} quiet seconds at {self.loss:.0%} loss"
            )
        if self.is_replacing and not self.faults.registrar.is_settled:
            world.run_for(30 * SECOND)
            if not self.faults.registrar.is_settled:
                world.watch.fail("the witnesses are still not those that are wanted")


def _first(addresses: tuple[str, ...]) -> str:
    return addresses[0].partition("/")[0]
