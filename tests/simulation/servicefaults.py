"""What can befall services that follow their addresses: programs that fall, and edits of what is planned.

An edit that docs/services.md allows only while all nodes are reachable is made only then, and has reached all
of them before anything else happens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from simulation.clock import SECOND
from simulation.faults import Faults
from simulation.world import alter, ranked, virtual_ip, with_vips
from vipagent.effects import MILLISECOND
from vipapi.healthchecks import Exec
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Scripts, Workload

if TYPE_CHECKING:
    from vipapi.nodeplan import VirtualIPPlan

_STOP_MS: Final = (300, 1000, 3000)
_LONGEST_STOP_MS: Final = 8000
_START_MS: Final = 2000


class ServiceFaults(Faults):
    """One domain whose VirtualIPs are followed by services."""

    def add_vip(self) -> None:
        taken = {address for vip in self.vips for address in vip.addresses}
        free = [address for n in range(1, 4) if f"{(address := f'192.0.2.{n}')}/24" not in taken]
        if not free:
            return
        self.born += 1
        names = ("db", "app")[: self.random.randint(1, 2)]
        services = tuple(self._service(f"{name}-{self.born}") for name in names)
        vip = virtual_ip(f"vip-{self.born}", free[:1], self._shuffled(), services=services)
        self._publish(with_vips(self.domain, *self.vips, vip))

    def _service(self, name: str) -> ServicePlan:
        return ServicePlan(
            uid="uid of billing",
            namespace="prod",
            failover="billing",
            name=name,
            workload=Workload(exec=Scripts(start=Exec(hook=f"start-{name}"))),
            is_first=self.random.random() < 0.7,
            start_timeout_ms=_START_MS,
            stop_timeout_ms=self.random.choice(_STOP_MS),
            generation=1,
        )

    def fall(self) -> None:
        """A program dies by itself."""
        copies = [copy for machine in self.world.machines.values() for copy in machine.copies]
        if copies:
            copy = self.random.choice(copies)
            self._note(f"{copy.program} falls on {copy.machine.label}")
            copy.die()

    def ail(self) -> None:
        """The health checks of services fail on a node."""
        machine = self._any()
        if self.vips:
            machine.ailing.add(self.random.choice(self.vips).uid)
            self._note(f"services ail on {machine.label}")
            machine.judge()

    def recover(self) -> None:
        for machine in self.world.machines.values():
            machine.ailing.clear()

    def kill_leash(self) -> None:
        """Of a keeper that is there to end what the leash ran."""
        machine = self._any()
        keeper = machine.keeper
        if keeper is None or keeper.serving is None or machine.is_paused:
            return
        if keeper.frozen_until_ns <= self.world.agenda.now_ns:
            self._note(f"{machine.label}'s leash is killed")
            keeper.serving.runner.lose_leash()
            self.world.run_for(10 * MILLISECOND)

    @property
    def _is_all_reachable(self) -> bool:
        now_ns = self.world.agenda.now_ns
        return not self.world.network.cut and all(
            machine.keeper is not None
            and machine.keeper.plan == machine.offered
            and machine.keeper.frozen_until_ns <= now_ns
            and not machine.is_paused
            and not machine.is_cut_from_api
            for machine in self.world.machines.values()
        )

    def _edit(self, domain: Any) -> None:
        """Every node has it before anything else happens."""
        self.world.publish(domain, spread_ns=self.random.choice((0, 200)) * MILLISECOND)
        for _ in range(50):
            self.world.run_for(20 * MILLISECOND)
            if self._is_all_reachable:
                return

    def _served(self) -> VirtualIPPlan | None:
        served = [vip for vip in self.vips if vip.services]
        return self.random.choice(served) if served and self._is_all_reachable else None

    def _edit_any(self, what: str, **changes: Any) -> None:
        vip = self._served()
        if vip is not None:
            self._edit_service(vip, self.random.choice(vip.services), what, **changes)

    def _edit_service(self, vip: VirtualIPPlan, one: ServicePlan, what: str, **changes: Any) -> None:
        self._note(f"{one.name} of {vip.name}: {what}")
        edited = msgspec.structs.replace(one, generation=one.generation + 1, **changes)
        services = tuple(edited if each is one else each for each in vip.services)
        self._edit(alter(self.domain, vip.name, services=services))

    def raise_stop_timeout(self) -> None:
        longer_ms = self.random.randrange(_STOP_MS[-1], _LONGEST_STOP_MS)
        self._edit_any(f"stopTimeout {longer_ms} ms", stop_timeout_ms=longer_ms)

    def lower_stop_timeout(self) -> None:
        self._edit_any(f"stopTimeout {_STOP_MS[0]} ms", stop_timeout_ms=_STOP_MS[0])

    def rename_service(self) -> None:
        """The same program by another name."""
        self.born += 1
        self._edit_any("renamed", name=f"renamed-{self.born}")

    def exchange_workload(self) -> None:
        """Another program by the same name."""
        self.born += 1
        workload = Workload(exec=Scripts(start=Exec(hook=f"start-other-{self.born}")))
        self._edit_any("another program", workload=workload)

    def follow_another(self) -> None:
        """A service follows another VirtualIP from now on."""
        vip = self._served()
        others = [each for each in self.vips if vip is not None and each.uid != vip.uid]
        if vip is None or not others:
            return
        target, one = self.random.choice(others), self.random.choice(vip.services)
        self._note(f"{one.name} follows {target.name} instead of {vip.name}")
        staying = tuple(each for each in vip.services if each is not one)
        domain = alter(self.domain, vip.name, services=staying)
        self._edit(alter(domain, target.name, services=(*target.services, one)))

    def drop_service(self) -> None:
        vip = self._served()
        if vip is not None and len(vip.services) > 1:
            one = self.random.choice(vip.services)
            self._note(f"{one.name} of {vip.name} is deleted")
            self._edit(
                alter(self.domain, vip.name, services=tuple(each for each in vip.services if each is not one))
            )

    def add_service(self) -> None:
        if self.vips:
            vip = self.random.choice(self.vips)
            if len(vip.services) <= 2:
                self.born += 1
                new = self._service(f"more-{self.born}")
                self._note(f"{new.name} follows {vip.name}")
                self._publish(alter(self.domain, vip.name, services=(*vip.services, new)))

    def drop_candidate(self) -> None:
        """Allowed while the node is off or reachable."""
        vip = self._served()
        if vip is not None and len(vip.candidates) > 1:
            gone = self.random.choice(vip.candidates)
            self._note(f"{gone.node} is no candidate for {vip.name} any more")
            staying = tuple(each for each in vip.candidates if each is not gone)
            self._edit(alter(self.domain, vip.name, candidates=staying))

    def add_candidate(self) -> None:
        """Whoever hears of it."""
        if self.vips:
            vip = self.random.choice(self.vips)
            there = [each.node for each in vip.candidates]
            missing = sorted(set(self.shape.candidates) - set(there))
            if missing:
                new = self.random.choice(missing)
                self._note(f"{new} is a candidate for {vip.name}")
                self._publish(alter(self.domain, vip.name, candidates=ranked([new, *there])))

    def resign(self) -> None:
        """SIGTERM: stop, hand over, and end what will not stop."""
        machine, world = self._any(), self.world
        keeper = machine.keeper
        if keeper is None or keeper.serving is None:
            return
        serving = keeper.serving
        self._note(f"{machine.label} resigns")
        machine.resign()
        patience_s = serving.workloads.time_to_stop_s()
        give_up_ns = (
            world.agenda.now_ns + 2 * self.domain.timing.grant_ms * MILLISECOND + int(patience_s * SECOND)
        )

        def end() -> None:
            if machine.keeper is keeper:
                machine.crash()
                world.agenda.after(self.random.randrange(500 * MILLISECOND), machine.start)

        def end_when_done() -> None:
            if machine.keeper is not keeper:
                return
            if keeper.is_at_rest or world.agenda.now_ns > give_up_ns:
                serving.loop.drive(serving.runner.close(), end)
            else:
                world.agenda.after(5 * MILLISECOND, end_when_done)

        end_when_done()
