"""The full stack: an API store, controllers, couriers and keepers, all running the production decisions.

Two domains lie over the same nodes, so that a VirtualIP can be deleted in one and its address be made
anew in the other: on no two nodes may it ever be open. Controllers are killed between any two writes, two
may believe that they lead, mirrors stand still, nodes come and go, and etcd may be restored.
"""

from __future__ import annotations

import base64
from random import Random
from typing import TYPE_CHECKING, Any, Final

from simulation.clock import SECOND
from simulation.machinefaults import MachineFaults
from simulation.mixes import STACKS, Shape
from simulation.network import Quality
from simulation.offices import Controller, Courier, address_of
from simulation.store import Refused, Store
from simulation.voting import Office, Voter
from simulation.world import Disturbance, World
from vipagent.effects import MILLISECOND
from vipagent.seat import Seat

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.store import Document

_DOMAINS: Final = ("office", "shop")
_SHAPES: Final = (Shape("abc", "", ""), Shape("abcd", "", ""), Shape("abcde", "", ""), Shape("ab", "", ""))
_PATIENCE_S: Final = 90


class Cluster(MachineFaults):
    """One run of a whole cluster."""

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
        self.mix = STACKS[mix]
        self.profile = profile or self.random.choice(["Fast", "Balanced", "Balanced", "Relaxed"])
        self.shape = self.random.choice(self.mix.shapes or _SHAPES)
        self.world = World(seed=f"{mix} {seed}", seat_type=seat_type, is_sealed=self.random.random() < 0.25)
        if alter_world is not None:
            alter_world(self.world)
        self.store = Store(self.world)
        self.office = Office(self.world)
        self.couriers: dict[str, Courier] = {}
        self.voters: list[Voter] = []
        self.names = sorted(self.shape.names)
        self.born = 0
        self.keys = {"1": _secret(1)}
        self.store.create("Secret", "vipkeeper-heartbeat", data=self.keys)
        for domain in _DOMAINS[: self.mix.domains]:
            witnesses = {"count": self.random.choice((3, 3, 5)), "replaceAfterSeconds": 2}
            self.store.create(
                "FailoverDomain", domain, spec={"profile": self.profile, "witnesses": witnesses}
            )
        for name in self.names:
            self.join(name)
        self.controllers = [Controller("one", self.store), Controller("two", self.store)]
        for _ in range(2):
            self.make_vip()
        self.snapshot = dict(self.store.documents)

    def join(self, name: str) -> None:
        """A new node: its object, its machine, its courier."""
        addresses = [{"type": "InternalIP", "address": address_of(name)}]
        self.store.create("Node", name, spec={}, status={"addresses": addresses})
        machine = self.world.add(name)
        self.couriers[name] = Courier(machine, self.store)
        self.voters.append(Voter(machine, self.office))
        self.world.agenda.after(self.random.randrange(300 * MILLISECOND), machine.start)

    def run(self) -> None:
        world = self.world
        self.controllers[0].lead()
        world.run_for(20 * SECOND)
        world.network.quality, world.disturbance = self.mix.quality, self.mix.disturbance
        kinds, weights = list(self.mix.faults), list(self.mix.faults.values())
        until_ns = world.agenda.now_ns + 20 * SECOND
        while world.agenda.now_ns < until_ns:
            [kind] = self.random.choices(kinds, weights)
            getattr(self, kind)()
            world.run_for(self.random.randrange(1500 * MILLISECOND))
        self._heal()
        self._judge()

    def _heal(self) -> None:
        world = self.world
        world.watch.note("everything is mended")
        world.network.quality, world.disturbance = Quality(), Disturbance()
        self.mend()
        self.find_api()
        self.office.loss = 0.0
        self.free_mirrors()
        self.free_disk()
        self.mend_api()
        world.run_for(4 * SECOND)  # changes of leadership that are under way
        for controller in self.controllers:
            controller.kill()
        self.controllers[0].lead()
        for machine in world.machines.values():
            machine.unfit.clear()
            if machine.name in self.names:
                machine.start()

    def _judge(self) -> None:
        world = self.world
        for _ in range(_PATIENCE_S):
            world.run_for(SECOND)
            wrong = self._wrong()
            if not wrong:
                break
        else:
            world.watch.fail(f"long after everything was mended: {wrong}")
        world.run_for(10 * SECOND)
        before = world.watch.moves
        world.run_for(5 * SECOND)
        if before != world.watch.moves:
            world.watch.fail("in peace something moved")
        problems = set().union(*(controller.problems for controller in self.controllers))
        if problems:
            world.watch.fail(f"a controller could not decide: {min(problems)}")

    def _wrong(self) -> str:
        for vip in self.store.listed("VirtualIP"):
            name = vip["metadata"]["name"]
            if "deletionTimestamp" in vip["metadata"]:
                return f"{name} is still being deleted"
            for address in vip["spec"]["addresses"]:
                owners = self.world.watch.owners(address.partition("/")[0])
                if len(owners) != 1:
                    return f"{address} of {name} is open on {owners}"
        for domain in self.store.listed("FailoverDomain"):
            if domain["status"].get("formerWitnesses") or domain["status"].get("formerApiServerVotes"):
                return f"the witnesses of {domain['metadata']['name']} still change"
        return ""

    def lose_api(self) -> None:
        self._note("the API server is away")
        self.store.is_away = self.office.is_away = True

    def find_api(self) -> None:
        self.store.is_away = self.office.is_away = False

    def cut_api(self) -> None:
        machine = self._any()
        self._note(f"{machine.label} is cut from the API server")
        machine.is_cut_from_api = self.couriers[machine.name].mirror.is_cut = True

    def mend_api(self) -> None:
        for name, courier in self.couriers.items():
            courier.mirror.is_cut = False
            machine = self.world.machines[name]
            if machine.is_cut_from_api:
                machine.is_cut_from_api = False
                courier.restart()

    def stick_mirror(self) -> None:
        """Somebody's watch stands still, while its writes go through."""
        mirrors = self.store.mirrors
        mirror = self.random.choice(mirrors)
        mirror.is_cut = True
        mirror.slowest_ns = self.random.choice((30, 300, 2000)) * MILLISECOND

    def free_mirrors(self) -> None:
        for mirror in self.store.mirrors:
            mirror.is_cut, mirror.slowest_ns = False, 30 * MILLISECOND

    def restart_courier(self) -> None:
        self.random.choice(self.voters).forget()
        self.random.choice(sorted(self.couriers.items()))[1].restart()

    def kill_controller(self) -> None:
        """Another replica leads, at once or after a while."""
        self.controllers.reverse()
        leader, former = self.controllers
        self._note(f"controller {former.name} is killed")
        former.kill()
        self.world.agenda.after(self.random.randrange(2 * SECOND), leader.lead)

    def lead_twice(self) -> None:
        """The one that led goes on for a while, as it has not noticed yet."""
        self.controllers.reverse()
        leader, former = self.controllers
        self._note(f"controller {leader.name} leads, {former.name} has not noticed")
        leader.lead()
        self.world.agenda.after(self.random.randrange(3 * SECOND), former.kill)

    def restore_etcd(self) -> None:
        self._note("etcd is restored")
        self.store.restore(self.snapshot)

    def back_etcd_up(self) -> None:
        self.snapshot = dict(self.store.documents)

    def make_vip(self) -> None:
        taken = {a for vip in self.store.listed("VirtualIP") for a in vip["spec"]["addresses"]}
        free = [address for n in range(1, 4) if (address := f"192.0.2.{n}/24") not in taken]
        if free:
            self._make_vip(self.random.choice(free), self.random.choice(_DOMAINS[: self.mix.domains]))

    def _make_vip(self, address: str, domain: str) -> None:
        self.born += 1
        checks = [{"name": "answers", "tcpSocket": {"port": 80}}]
        spec: dict[str, Any] = {"addresses": [address], "domain": domain, "healthChecks": checks}
        self.store.create("VirtualIP", f"vip-{self.born}", spec=spec)

    def drop_vip(self) -> None:
        vips = self.store.listed("VirtualIP")
        if vips:
            name = self.random.choice(vips)["metadata"]["name"]
            self._note(f"{name} is deleted")
            self.store.delete("VirtualIP", name)

    def rebear(self) -> None:
        """A VirtualIP is deleted and its address at once made anew in the other domain."""
        vips = [vip for vip in self.store.listed("VirtualIP") if "deletionTimestamp" not in vip["metadata"]]
        if not vips:
            return
        vip: Document = self.random.choice(vips)
        name, spec = vip["metadata"]["name"], vip["spec"]
        other = next((domain for domain in _DOMAINS if domain != spec["domain"]), _DOMAINS[0])
        self._note(f"{name} is deleted, and its address made anew in {other}")
        self.store.delete("VirtualIP", name)
        self._make_vip(spec["addresses"][0], other)

    def rebear_cut_off(self) -> None:
        """The same, while the owner hears nothing of it."""
        owners = [o for n in range(1, 4) for o in self.world.watch.owners(f"192.0.2.{n}")]
        if owners:
            machine = self.world.machines[self.random.choice(owners)]
            machine.is_cut_from_api = self.couriers[machine.name].mirror.is_cut = True
            self._note(f"{machine.label} is cut from the API server")
            if self.random.random() < 0.5:
                self.isolate_one(machine)
        self.rebear()

    def move(self) -> None:
        vips = self.store.listed("VirtualIP")
        if vips:
            self.born += 1
            reference = {"name": self.random.choice(vips)["metadata"]["name"]}
            spec = {"virtualIPRef": reference, "to": self.random.choice(self.names)}
            self.store.create("Switchover", f"move-{self.born}", spec=spec)

    def sicken(self) -> None:
        self._any().unfit.add("everything")

    def cure(self) -> None:
        for machine in self.world.machines.values():
            machine.unfit.clear()

    def grow(self) -> None:
        if len(self.names) < 5:
            name = next(letter for letter in "abcdefghijkl" if letter not in self.world.machines)
            self.names.append(name)
            self._note(f"{name} joins")
            self.join(name)

    def shrink(self) -> None:
        """A node is taken out for good, its machine, then its objects; when nobody waits for the last one."""
        if len(self.names) > 3 and not self._awaits_the_dead():
            name = self.names.pop(self.random.randrange(len(self.names)))
            self._note(f"{name} leaves")
            self.world.machines[name].power_off()
            for kind in ("Node", "VIPNode"):
                self.store.delete(kind, name)

    def _awaits_the_dead(self) -> bool:
        """Whether a witness is not there now: to take out another could cost the majority for good."""
        domains = self.store.listed("FailoverDomain")
        status = [domain.get("status", {}) for domain in domains]
        if any(one.get("formerWitnesses") for one in status):
            return True
        voting = {member["nodeName"] for one in status for member in one.get("witnesses", ())}
        there = {name for name in self.names if self.world.machines[name].keeper is not None}
        return not voting <= there

    def restart(self) -> None:
        for name in self.names:
            machine = self.world.machines[name]
            if machine.keeper is None and self.random.random() < 0.7:
                machine.start()

    def rotate_keys(self) -> None:
        """The next key beside the newest, if everybody has that one."""
        if any(
            m.is_cut_from_api or m.keeper is None
            for m in self.world.machines.values()
            if m.name in self.names
        ):
            return
        newest = max(int(number) for number in self.keys)
        self.keys = {str(number): _secret(number) for number in (newest, newest + 1)}
        try:
            self.store.edit("Secret", "vipkeeper-heartbeat", data=self.keys)
        except Refused:
            return


def _secret(number: int) -> str:
    return base64.b64encode(f"heartbeat key {number:6}".encode()).decode()
