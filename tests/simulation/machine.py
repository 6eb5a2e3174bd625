"""One machine: its clock, its kernel's fences, its disk, and the keeper that may or may not run on it.

What dies with what: a killed keeper leaves the fences and the disk; a lost power leaves the disk alone,
and what was on its way to the disk may or may not be there. Every power-on is another `boot`, which is
how witnesses tell a machine from its clone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from simulation.census import GRACE_NS
from simulation.clock import RATE, SECOND, Clock
from simulation.keeper import Keeper
from vipagent.effects import MILLISECOND
from vipapi.nodeplan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from simulation.leash import Copy
    from simulation.network import Parcel
    from simulation.world import World
    from vipagent.messages import Key
    from vipapi.configuration import Configuration
    from vipapi.link import Votes, VotesWanted
    from vipapi.nodeplan import VirtualIPPlan

_THAW_NS: Final = 5 * MILLISECOND
_FULL_DISK_RETRY_NS: Final = 100 * MILLISECOND


class Disk:
    """What survives a power cut: the last plan, configurations, ceilings of terms, the incarnation."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.configurations: dict[str, Configuration] = {}
        self.ceilings: dict[str, int] = {}
        self.incarnation = 0

    def copy(self) -> Disk:
        twin = Disk()
        twin.plan, twin.incarnation = self.plan, self.incarnation
        twin.configurations, twin.ceilings = dict(self.configurations), dict(self.ceilings)
        return twin

    def keep(self, value: Plan | tuple[str, Configuration] | tuple[str, int]) -> None:
        if isinstance(value, Plan):
            self.plan = value
            return
        uid, kept = value
        if isinstance(kept, int):
            self.ceilings[uid] = max(kept, self.ceilings.get(uid, 0))
        elif uid not in self.configurations or kept.epoch > self.configurations[uid].epoch:
            self.configurations[uid] = kept


class Machine:
    """A node of the cluster; `label` tells a clone from the node whose name it has."""

    def __init__(self, world: World, name: str, label: str = "") -> None:
        self.world = world
        self.name = name
        self.label = label or name
        self.clock = Clock(base_ns=world.random.randrange(10**12), rate_ppm=world.draw_rate_ppm())
        self.disk = Disk()
        self.boots = 1
        self.keeper: Keeper | None = None
        self.offered: Plan | None = None
        self.offered_version = -1
        self.votes: Votes | None = None
        self.on_votes_wanted: Callable[[VotesWanted], None] | None = None
        self.on_power_off: Callable[[], None] | None = None
        self.is_cut_from_api = False
        self.unfit: set[str] = set()
        self.is_fit: Callable[[VirtualIPPlan], bool] = lambda vip: vip.name not in self.unfit
        self.is_sound = True
        self.is_paused = False
        self.went_on_ns = -SECOND
        self.ailing: set[str] = set()
        self.copies: list[Copy] = []
        self._asleep: list[tuple[int, Callable[..., object], tuple[Any, ...]]] = []
        self.is_disk_full = False
        self._fenced: dict[Key, tuple[str, ...]] = {}

    @property
    def boot(self) -> bytes:
        return hashlib.blake2b(f"{self.label} {self.boots}".encode(), digest_size=8).digest()

    def now(self) -> int:
        clock = self.clock
        return clock.base_ns + (self.world.agenda.now_ns - clock.since_ns) * clock.rate_ppm // RATE

    def start(self) -> None:
        """A keeper's start: rule 8, then the plan from disk, then the courier's."""
        if self.keeper is not None or self.is_paused:
            return
        if self.world.closes_fences_at_start:
            self._clear_fences()
        self.disk.incarnation += 1
        self.keeper = Keeper(self)
        delay_ns = int(self.world.random.random() * self.world.disturbance.courier_ns)
        self.world.agenda.after(delay_ns, self._connect, self.keeper)

    def _connect(self, keeper: Keeper) -> None:
        """The courier has found the keeper's socket."""
        if keeper is self.keeper and self.offered is not None:
            keeper.take_plan(self.offered)

    def crash(self) -> None:
        """The process is gone (SIGKILL); the kernel's fences stay as they are."""
        if self.keeper is not None:
            self.keeper.is_alive = False
            self.keeper = None

    def power_off(self) -> None:
        self.crash()
        self.boots += 1
        self.votes = None
        for copy in self.copies:
            copy.lose_power()
        self.copies.clear()
        self._clear_fences()
        # CLOCK_BOOTTIME begins anew
        self.clock.base_ns = self.world.random.randrange(10**10)
        self.clock.since_ns = self.world.agenda.now_ns
        if self.on_power_off is not None:
            self.on_power_off()

    def wipe(self) -> None:
        """The machine is installed anew: nothing is on its disk. The incarnation follows the wall clock."""
        self.power_off()
        incarnation = self.disk.incarnation
        self.disk = Disk()
        self.disk.incarnation = incarnation

    def keep(self, keeper: Keeper, value: Any, then: Callable[..., object], *arguments: Any) -> None:
        """Write to the disk, off the keeper's loop; `then` is called when it is safe from a power cut."""
        delay_ns = self.world.disk_delay_ns()
        self.world.agenda.after(delay_ns, self._land, keeper, self.boots, value, then, arguments)

    def _land(
        self,
        keeper: Keeper,
        boots: int,
        value: Any,
        then: Callable[..., object],
        arguments: tuple[Any, ...],
    ) -> None:
        if not keeper.is_alive:
            # what a keeper had under way when it was killed may be there or not
            if boots == self.boots and self.keeper is None and self.world.random.random() < 0.5:
                self.disk.keep(value)
            return
        if self.is_disk_full:
            self.world.agenda.after(_FULL_DISK_RETRY_NS, self._land, keeper, boots, value, then, arguments)
            return
        self.disk.keep(value)
        then(*arguments)

    def later(self, delay_ns: int, action: Callable[..., object], *arguments: Any) -> None:
        """Do it then, in this boot; while the machine stands still nothing is done."""
        self.world.agenda.after(delay_ns, self._do, self.boots, action, arguments)

    def _do(self, boots: int, action: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if boots != self.boots:
            return
        if self.is_paused:
            self._asleep.append((boots, action, arguments))
        else:
            action(*arguments)

    def go_on(self) -> None:
        """After a pause what was due happens within some milliseconds, in order."""
        self.is_paused = False
        self.went_on_ns = self.world.agenda.now_ns
        asleep, self._asleep = self._asleep, []
        delay_ns = 0
        for boots, action, arguments in asleep:
            delay_ns += int(self.world.random.random() * _THAW_NS / len(asleep))
            self.world.agenda.after(delay_ns, self._do, boots, action, arguments)
        if self.copies:
            self.world.agenda.after(GRACE_NS, self.world.census.look_at, self)

    def slew(self, rate_ppm: int) -> None:
        """Its clock runs at another rate from now on, and so do all timers."""
        self.clock.slew(self.world.agenda.now_ns, rate_ppm)
        for copy in self.copies:
            copy.arm()

    def admit(self, key: Key, addresses: Iterable[str], deadline_ns: int) -> None:
        fenced = self._fenced.get(key)
        if fenced is None:
            fenced = self._fenced[key] = tuple(addresses)
        for address in fenced:
            self.world.watch.admit(self, key, address, deadline_ns)

    def shut(self, key: Key) -> None:
        for address in self._fenced.pop(key, ()):
            self.world.watch.shut(self, key, address)

    def _clear_fences(self) -> None:
        for key in list(self._fenced):
            self.shut(key)

    def hear(self, uid: str, parcel: Parcel) -> None:
        if self.keeper is not None:
            self.keeper.hear(uid, parcel)

    def offer(self, version: int, plan: Plan) -> None:
        """The courier has a new plan; it never goes back to an older one."""
        if version <= self.offered_version or self.is_cut_from_api:
            return
        self.offered_version, self.offered = version, plan
        if self.keeper is not None:
            self.keeper.take_plan(plan)

    def hear_votes(self, votes: Votes) -> None:
        """The courier says which votes it holds."""
        self.votes = votes
        if self.keeper is not None:
            self.keeper.take(self.keeper.hear_votes, votes)

    def judge(self) -> None:
        if self.keeper is not None:
            self.keeper.take(self.keeper.judge)

    def resign(self) -> None:
        if self.keeper is not None:
            self.keeper.take(self.keeper.resign)
