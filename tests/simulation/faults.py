"""What can befall a domain: its plan, its witnesses, its votes; each method is one fault, or one mending."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from simulation.clock import SECOND
from simulation.machinefaults import MachineFaults
from simulation.registrar import Registrar
from simulation.voting import Office, Voter
from simulation.world import alter, domain_plan, ranked, virtual_ip, with_vips, witness_set
from vipagent.effects import MILLISECOND
from vipagent.succession import key_of
from vipapi.nodeplan import Key

if TYPE_CHECKING:
    from random import Random

    from simulation.machine import Machine
    from simulation.mixes import Shape
    from simulation.world import World
    from vipapi.nodeplan import DomainPlan, VirtualIPPlan

_MOST_KEYS: Final = 2


class Faults(MachineFaults):
    """One domain of a shape in a world, and everything that may happen to it; `random` chooses whom."""

    def __init__(self, world: World, random: Random, shape: Shape, profile: str) -> None:
        self.world = world
        self.random = random
        self.shape = shape
        for name in shape.names:
            world.add(name)
        domain = domain_plan(shape.names, shape.witnesses, profile=profile, has_api_vote=shape.has_api_vote)
        self.uid = domain.uid
        world.publish(domain)
        self.registrar = Registrar(world, self.uid, spread_ns=200 * MILLISECOND)
        self.office = Office(world)
        self._parted_until_ns = 0
        self.voters = [Voter(machine, self.office) for machine in world.machines.values()]
        self.born = 0
        self.is_over = False

    @property
    def domain(self) -> DomainPlan:
        return self.world.domains[self.uid]

    @property
    def vips(self) -> tuple[VirtualIPPlan, ...]:
        return self.domain.virtual_ips

    def resign(self) -> None:
        """SIGTERM: hand over, wait until that is seen, stop, start again."""
        machine, world = self._any(), self.world
        keeper = machine.keeper
        if keeper is None:
            return
        self._note(f"{machine.label} resigns")
        machine.resign()
        give_up_ns = world.agenda.now_ns + 2 * self.domain.timing.grant_ms * MILLISECOND

        def stop_when_done() -> None:
            if machine.keeper is not keeper:
                return
            if keeper.is_at_rest or world.agenda.now_ns > give_up_ns:
                machine.crash()
                world.agenda.after(self.random.randrange(500 * MILLISECOND), machine.start)
            else:
                world.agenda.after(5 * MILLISECOND, stop_when_done)

        stop_when_done()

    def sicken(self) -> None:
        machine = self.world.machines[self.random.choice(self.shape.candidates)]
        if self.vips:
            machine.unfit.add(self.random.choice(self.vips).name)
            self._note(f"{machine.label} is unfit for {sorted(machine.unfit)}")
            machine.judge()

    def cure(self) -> None:
        for machine in self.world.machines.values():
            if machine.unfit and self.random.random() < 0.7:
                machine.unfit.clear()
                machine.judge()

    def lose_gateway(self) -> None:
        self._any().is_sound = False
        self._judge_all()

    def lose_gateways(self) -> None:
        self._note("the gateway is dead")
        for machine in self.world.machines.values():
            machine.is_sound = False
        self._judge_all()

    def find_gateways(self) -> None:
        for machine in self.world.machines.values():
            machine.is_sound = True
        self._judge_all()

    def _judge_all(self) -> None:
        for machine in self.world.machines.values():
            machine.judge()

    def move(self) -> None:
        self._order(0)

    def old_order(self) -> None:
        self._order(1)

    def _order(self, age: int) -> None:
        if not self.vips:
            return
        vip = self.random.choice(self.vips)
        term = self.world.watch.newest_term.get(key_of(vip), 0)
        target = self.random.choice(self.shape.candidates)
        self._note(f"{vip.name} is ordered to {target} at term {term - age}")
        self._publish(
            alter(self.domain, vip.name, owner=target, based_on_term=max(0, term - age), observed_term=term)
        )

    def _publish(self, domain: DomainPlan) -> None:
        self.world.publish(domain, spread_ns=self.random.choice((0, 50, 2000)) * MILLISECOND)

    def _shuffled(self) -> tuple[str, ...]:
        return tuple(self.random.sample(self.shape.candidates, len(self.shape.candidates)))

    def add_vip(self) -> None:
        """A new VirtualIP; perhaps it takes addresses that a deleted one had."""
        taken = {address for vip in self.vips for address in vip.addresses}
        free = [address for n in range(1, 6) if f"{(address := f'192.0.2.{n}')}/24" not in taken]
        if free:
            self.born += 1
            addresses = self.random.sample(free, min(len(free), self.random.randint(1, 2)))
            new = virtual_ip(f"vip-{self.born}", addresses, self._shuffled())
            self._publish(with_vips(self.domain, *self.vips, new))

    def drop_vip(self) -> None:
        if self.vips:
            staying = self.random.sample(self.vips, len(self.vips) - 1)
            gone = {vip.uid for vip in self.vips} - {vip.uid for vip in staying}
            domain = msgspec.structs.replace(self.domain, deleted=(*self.domain.deleted[-3:], *gone))
            self._publish(with_vips(domain, *staying))

    def swap_addresses(self) -> None:
        """Two VirtualIPs exchange their addresses in one edit."""
        if len(self.vips) >= 2:
            one, other, *rest = self.random.sample(self.vips, len(self.vips))
            replace = msgspec.structs.replace
            self._publish(
                with_vips(
                    self.domain,
                    replace(one, addresses=other.addresses),
                    replace(other, addresses=one.addresses),
                    *rest,
                )
            )

    def reorder(self) -> None:
        reordered = (msgspec.structs.replace(vip, candidates=ranked(self._shuffled())) for vip in self.vips)
        self._publish(with_vips(self.domain, *reordered))

    def spread_plan(self) -> None:
        self._publish(self.domain)

    def rotate_keys(self) -> None:
        """A new key beside the old one, or the old one away: whichever is next, and only one step behind."""
        if any(machine.is_cut_from_api or machine.keeper is None for machine in self.world.machines.values()):
            return
        keys = self.domain.keys
        if len(keys) == _MOST_KEYS:
            keys = keys[:1]
        else:
            number = keys[0].key_id + 1
            keys = (Key(number, f"heartbeat key {number:4}".encode()), *keys)
        self._note(f"keys in force: {[key.key_id for key in keys]}")
        self.world.publish(msgspec.structs.replace(self.domain, keys=keys), spread_ns=500 * MILLISECOND)

    def change_witnesses(self, *, least: int = 1) -> None:
        count = self.random.choice([n for n in (1, 3, 3, 3, 5) if least <= n <= len(self.shape.names)])
        chosen = self.random.sample(self.shape.names, count)
        self._note(f"witnesses wanted: {sorted(chosen)}")
        self.registrar.want(witness_set(chosen))

    def leave_behind(self) -> None:
        """A node is cut off while the witnesses change in haste; then only the former ones hear it again."""
        world, registrar = self.world, self.registrar
        if not registrar.is_settled or world.network.cut:
            return
        former = {member.node for member in self.domain.configuration.witnesses.members}
        others = sorted(set(self.shape.names) - former)
        owners = [owner for vip in self.vips for owner in world.watch.owners(vip.addresses[0][:-3])]
        left = world.machines[self.random.choice(owners or self.shape.candidates)]
        self.isolate_one(left)
        left.is_cut_from_api = left.is_disk_full = True
        registrar.look_ns, registrar.spread_ns = 10 * MILLISECOND, 0
        chosen = self.random.sample(others, min(3, len(others)) - (len(others) == 2))
        self._note(f"witnesses wanted: {sorted(chosen)}, while {left.label} is left behind")
        registrar.want(witness_set(chosen))
        world.agenda.after(
            self.random.randrange(100 * MILLISECOND, 4 * SECOND), self._hear_again, left, former
        )

    def forget_behind(self) -> None:
        """The same, but the disks of the former witnesses are full, and then they lose power."""
        if not self.registrar.is_settled or self.world.network.cut:
            return
        former = [self.world.machines[m.node] for m in self.domain.configuration.witnesses.members]
        for machine in former:
            machine.is_disk_full = True
        self.leave_behind()
        self.world.agenda.after(2 * SECOND, self._forget, former)

    def _forget(self, former: list[Machine]) -> None:
        if self.is_over:
            return
        names = {machine.name for machine in former}
        self._note(f"{sorted(names)} lose power, and reach nobody but themselves")
        self.world.network.cut |= {
            pair
            for one in names
            for other in set(self.shape.names) - names
            for pair in ((one, other), (other, one))
        }
        for machine in former:
            machine.is_cut_from_api = True
            machine.power_off()
            machine.start()

    def usurp(self) -> None:
        """Two nodes lose sight of each other; then the one with the API server's vote loses that as well."""
        if self.world.network.cut:
            return
        self.isolate()
        self.office.is_away, self.office.loss = False, 0.0
        self.office.slowest_ns = self.random.choice((20, 300)) * MILLISECOND
        self.world.agenda.after(self.random.randrange(4000, 6000) * MILLISECOND, self._cut_holder)
        self.world.agenda.after(self.random.randrange(9000, 11000) * MILLISECOND, self._make_good)

    def _cut_holder(self) -> None:
        if self.is_over:
            return
        for machine in self.world.machines.values():
            if _has_vote(machine):
                self._cut_from_api(machine)

    def part_again(self) -> None:
        """Two nodes lose sight of each other, and again when the API server's vote was just given back.

        The courier of the node that held it is heard late meanwhile, and is cut off a moment after that.
        """
        agenda = self.world.agenda
        if self.world.network.cut or agenda.now_ns < self._parted_until_ns:
            return
        self.isolate()
        self.office.is_away, self.office.loss, self.office.slowest_ns = False, 0.0, 20 * MILLISECOND
        meeting_ns = self.random.randrange(4 * SECOND, 6 * SECOND)
        self._parted_until_ns = agenda.now_ns + meeting_ns + 6 * SECOND
        agenda.after(meeting_ns, self._meet)
        agenda.after(meeting_ns + 6 * SECOND, self._make_good)

    def _meet(self) -> None:
        if self.is_over:
            return
        self.mend()
        for voter in self.voters:
            if _has_vote(voter.machine):
                late_ns = self.random.randrange(3 * SECOND)
                self._note(f"{voter.machine.label}'s courier is heard late for {late_ns / 1e6:.0f} ms")
                voter.late_until_ns = self.world.agenda.now_ns + late_ns
                self._part(voter.machine)

    def _part(self, holder: Machine) -> None:
        if self.is_over or holder.keeper is None:
            return
        if all(seat.vote.is_given_back for seat in holder.keeper.seats.values()):
            self.isolate()
            self.world.agenda.after(100 * MILLISECOND, self._cut_from_api, holder)
        else:
            self.world.agenda.after(10 * MILLISECOND, self._part, holder)

    def _cut_from_api(self, machine: Machine) -> None:
        if not self.is_over:
            self._note(f"{machine.label} is cut from the API server")
            machine.is_cut_from_api = True

    def _hear_again(self, left: Machine, former: set[str]) -> None:
        self._note(f"{left.label} reaches {sorted(former)} again")
        cut = self.world.network.cut
        cut -= {pair for pair in cut if left.label in pair and former & set(pair) - {left.label}}
        self.world.agenda.after(self.random.randrange(2 * SECOND), self._make_good)

    def _make_good(self) -> None:
        self.mend()
        self.mend_api()
        self.free_disk()

    def send_registrar_away(self) -> None:
        self.registrar.is_away = True

    def call_registrar(self) -> None:
        self.registrar.is_away = False

    def cut_api(self) -> None:
        machine = self._any()
        self._note(f"{machine.label} is cut from the API server")
        machine.is_cut_from_api = True

    def mend_api(self) -> None:
        for machine in self.world.machines.values():
            if machine.is_cut_from_api:
                self.world.reach_api(machine)

    def lose_api(self) -> None:
        self._note("the API server is away")
        self.office.is_away = True

    def find_api(self) -> None:
        self.office.is_away = False
        self.office.loss = self.random.choice((0.0, 0.0, 0.1, 0.3))
        self.office.slowest_ns = self.random.choice((20, 100, 600)) * MILLISECOND

    def restart_courier(self) -> None:
        self.random.choice(self.voters).forget()


def _has_vote(machine: Machine) -> bool:
    """Tell whether its keeper has the API server's vote of a domain."""
    keeper = machine.keeper
    return keeper is not None and any(seat.vote.transitions(machine.now()) for seat in keeper.seats.values())
