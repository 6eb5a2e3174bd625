"""What can befall the network and the machines: each method is one fault, or one mending."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.clock import SECOND
from vipagent.effects import MILLISECOND

if TYPE_CHECKING:
    from random import Random

    from simulation.machine import Machine
    from simulation.mixes import Shape
    from simulation.world import World


class MachineFaults:
    """What happens to the machines of a world; `random` chooses to which."""

    world: World
    random: Random
    shape: Shape

    def _any(self) -> Machine:
        return self.random.choice(list(self.world.machines.values()))

    def _note(self, line: str) -> None:
        self.world.watch.note(line)

    def isolate(self) -> None:
        self.isolate_one(self._any())

    def isolate_one(self, machine: Machine) -> None:
        self._cut(machine, inbound=True, outbound=True)

    def deafen(self) -> None:
        self._cut(self._any(), inbound=True, outbound=False)

    def mute(self) -> None:
        self._cut(self._any(), inbound=False, outbound=True)

    def _cut(self, machine: Machine, *, inbound: bool, outbound: bool) -> None:
        self._note(f"{machine.label} is cut off ({inbound=}, {outbound=})")
        self.world.network.isolate(machine.label, inbound=inbound, outbound=outbound)

    def cut_pair(self) -> None:
        one, other = self.random.sample(sorted(self.world.machines), 2)
        self._note(f"{one} to {other} is cut")
        self.world.network.cut.add((one, other))
        if self.random.random() < 0.5:
            self.world.network.cut.add((other, one))

    def mend(self) -> None:
        if self.world.network.cut:
            self._note("the network is mended")
        self.world.network.cut.clear()

    def crash(self) -> None:
        machine = self._any()
        self._note(f"{machine.label}'s keeper is killed")
        machine.crash()
        if self.random.random() < 0.7:
            self.world.agenda.after(self.random.randrange(800 * MILLISECOND), machine.start)

    def blip(self) -> None:
        """A keeper is killed and comes back at once, as after a crash that systemd noticed."""
        machine = self._any()
        self._note(f"{machine.label}'s keeper is killed for a moment")
        machine.crash()
        self.world.agenda.after(self.random.randrange(30 * MILLISECOND), machine.start)

    def power_off(self) -> None:
        machine = self._any()
        self._note(f"{machine.label} loses power")
        machine.power_off()

    def wipe(self) -> None:
        """One at a time, and it comes back with a fresh listing: more than that is outside the promise."""
        machines = self.world.machines.values()
        if all(machine.keeper is not None for machine in machines):
            machine = self._any()
            self._note(f"{machine.label} is installed anew")
            machine.wipe()

    def restart(self) -> None:
        for machine in self.world.machines.values():
            if machine.keeper is None and self.random.random() < 0.7:
                self._note(f"{machine.label} starts")
                machine.start()

    def pause(self) -> None:
        machine = self._any()
        if machine.keeper is not None:
            duration_ns = self.random.randrange(20 * MILLISECOND, 3 * SECOND)
            self._note(f"{machine.label} is stopped for {duration_ns / 1e6:.0f} ms")
            machine.keeper.freeze(duration_ns)

    def suspend(self) -> None:
        """The whole machine stands still; when it goes on, its clock has jumped to where it belongs."""
        machine, world = self._any(), self.world
        if machine.is_paused:
            return
        duration_ns = self.random.randrange(20 * MILLISECOND, 3 * SECOND)
        self._note(f"{machine.label} is suspended for {duration_ns / 1e6:.0f} ms")
        machine.is_paused = True

        def go_on() -> None:
            machine.go_on()
            self._note(f"{machine.label} goes on")
            world.watch.look_at(machine)
            if machine.keeper is not None:
                machine.keeper.freeze(0)

        world.agenda.after(duration_ns, go_on)

    def slew(self) -> None:
        self._any().slew(self.world.draw_rate_ppm())

    def fill_disk(self) -> None:
        machine = self._any()
        self._note(f"{machine.label}'s disk is full")
        machine.is_disk_full = True

    def free_disk(self) -> None:
        for machine in self.world.machines.values():
            machine.is_disk_full = False

    def clone(self) -> None:
        """A copy of a machine, its disk and its name, with another address: it is heard and hears nothing."""
        world = self.world
        if len(world.machines) > len(self.shape.names):
            return
        original = self._any()
        self._note(f"{original.label} is cloned")
        twin = world.add(original.name, f"{original.label}'")
        twin.disk = original.disk.copy()
        twin.offered, twin.offered_version = original.offered, original.offered_version
        twin.disk.incarnation += self.random.choice((-1, -1, 0, 3))
        twin.start()

    def unclone(self) -> None:
        for label in [label for label in self.world.machines if label.endswith("'")]:
            twin = self.world.machines[label]
            if twin.keeper is not None:
                self._note(f"the clone {label} loses power")
                twin.power_off()
                return
            self._note(f"the clone {label} starts")
            twin.start()
