"""Tells a story: commands to a simulated domain, and what they print.

A story is a text file. A line that starts with `$ ` is a command, a line that starts with two spaces
is what the command before it prints, and everything else is prose. The nodes run the production seats;
their clocks agree, every datagram takes one millisecond, nothing takes time on a node, and time stands
still between commands, so a story reads the same every time.

    nodes a b c [witnesses a b c] [with the API vote] [sealed]    make the domain, start every keeper
                                    (Balanced profile; sealed: real bytes, keys and replay windows)
    vip NAME [candidates a b c] [at ADDRESS] [held alone]   plan a VirtualIP; candidates stand in order
    delete NAME                     the VirtualIP is being deleted
    run N ms                        let time pass; prints who opens and closes, and when
    show                            every node's side of every VirtualIP, and what the witnesses grant
    epochs                          what every node reports of the witness configuration
    witnesses a b d                 the witnesses that are wanted; the epochs follow by themselves
    order NAME to NODE at term N    the operator's standing order
    unfit NODE / fit NODE           health
    gateway lost by NODE|all / gateway back
    power off NODE / kill NODE      the machine, or its keeper alone (the kernel keeps its fence)
    start NODE / stop NODE for N ms (SIGSTOP) / resign NODE (SIGTERM)
    fill the disk of NODE / free the disk of NODE
    clone NODE                      a copy of the machine, disk and name and all; both run
    cut NODE [inbound|outbound] / mend / cut NODE from the API / mend the API
    API away / API back             the API server's vote
    keys N [N]                      the heartbeat keys in force, newest first
    refusals                        which datagrams were refused, and how many
    listen / ignore                 whether `run` also prints the datagrams of moment: all but renewals
    hold Ack to NODE / deliver      keep datagrams of a kind back, then let them arrive
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from scenarios.words import say
from simulation.network import Quality
from simulation.registrar import Registrar, told
from simulation.voting import Office, Voter
from simulation.world import Disturbance, World, alter, domain_plan, virtual_ip, with_vips, witness_set
from vipagent.effects import MILLISECOND, Phase
from vipagent.succession import key_of
from vipapi.nodeplan import Key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simulation.machine import Machine
    from simulation.network import Parcel
    from vipagent.effects import Send
    from vipapi.nodeplan import DomainPlan, VirtualIPPlan

_NETWORK: Final = Quality(least_ns=MILLISECOND, spread_ns=0)
_SHELL: Final = Disturbance(ring_ns=0, unbind_ns=0, disk_ns=0, courier_ns=0)


def retell(text: str) -> str:
    """The same story with what its commands print now."""
    teller = _Teller()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            lines += [line, *(f"  {said}" for said in teller.obey(line.removeprefix("$ ").split()))]
        elif not line.startswith("  "):
            lines.append(line)
    return "\n".join(lines) + "\n"


@dataclass(slots=True)
class _Held:
    kind: str
    receiver: str
    datagrams: list[tuple[str, Parcel]]


class _Teller:
    def __init__(self) -> None:
        self._world = World(seed=0)
        self._uid = ""
        self._registrar = Registrar(self._world, "")
        self._office = Office(self._world)
        self._held: _Held | None = None
        self._is_listening = False

    @property
    def _domain(self) -> DomainPlan:
        return self._world.domains[self._uid]

    def obey(self, words: list[str]) -> Iterator[str]:
        """Carry out one command and yield the lines that it prints."""
        heard = len(self._world.watch.trace)
        match words:
            case ["nodes", *rest]:
                self._make(rest)
                return
            case ["show"]:
                yield from self._show()
            case ["epochs"]:
                yield from self._epochs()
            case ["refusals"]:
                yield from self._refusals()
            case _:
                if not (self._plan(words) or self._harm(words) or self._post(words)):
                    raise ValueError(f"no such command: {' '.join(words)}")
        for at_ns, line in self._world.watch.trace[heard:]:
            yield f"{at_ns / 1e6:5.0f} ms  {line}"

    def _plan(self, words: list[str]) -> bool:
        """What people want of the domain."""
        match words:
            case ["vip", name, *rest]:
                self._add(name, rest)
            case ["delete", name]:
                gone = next(vip for vip in self._domain.virtual_ips if vip.name == name)
                staying = (vip for vip in self._domain.virtual_ips if vip is not gone)
                domain = msgspec.structs.replace(self._domain, deleted=(*self._domain.deleted, gone.uid))
                self._publish(with_vips(domain, *staying))
            case ["witnesses", *names]:
                self._registrar.want(witness_set(names))
                self._world.run_for(0)
            case ["order", name, "to", node, "at", "term", term]:
                self._publish(alter(self._domain, name, owner=node, based_on_term=int(term)))
            case ["keys", *numbers]:
                keys = tuple(Key(int(number), f"heartbeat key {number:>4}".encode()) for number in numbers)
                self._publish(msgspec.structs.replace(self._domain, keys=keys))
            case _:
                return False
        return True

    def _harm(self, words: list[str]) -> bool:  # noqa: C901, PLR0912 - it is a table
        """What befalls machines."""
        world, machines = self._world, self._world.machines
        match words:
            case ["unfit" | "fit" as fitness, node]:
                unfit = {vip.name for vip in self._domain.virtual_ips} if fitness == "unfit" else set()
                machines[node].unfit = unfit
                machines[node].judge()
            case ["gateway", "lost", "by", node]:
                for machine in machines.values():
                    machine.is_sound &= node not in (machine.label, "all")
                    machine.judge()
            case ["gateway", "back"]:
                for machine in machines.values():
                    machine.is_sound = True
                    machine.judge()
            case ["power", "off", node]:
                machines[node].power_off()
            case ["kill", node]:
                machines[node].crash()
            case ["start", node]:
                machines[node].start()
            case ["stop", node, "for", duration_ms, "ms"]:
                keeper = machines[node].keeper
                assert keeper is not None
                keeper.freeze(int(duration_ms) * MILLISECOND)
            case ["resign", node]:
                machines[node].resign()
            case ["fill" | "free" as verb, "the", "disk", "of", node]:
                machines[node].is_disk_full = verb == "fill"
            case ["clone", node]:
                twin = world.add(node, f"{node}'")
                twin.disk, twin.offered = machines[node].disk.copy(), machines[node].offered
                twin.start()
            case _:
                return False
        return True

    def _post(self, words: list[str]) -> bool:  # noqa: C901 - it is a table
        """What befalls datagrams, the way to the API server, and time."""
        world = self._world
        match words:
            case ["run", duration_ms, "ms"]:
                world.run_for(int(duration_ms) * MILLISECOND)
            case ["cut", node, "from", "the", "API"]:
                world.machines[node].is_cut_from_api = True
            case ["mend", "the", "API"]:
                for machine in world.machines.values():
                    world.reach_api(machine)
                world.run_for(0)
            case ["API", "away" | "back" as where]:
                self._office.is_away = where == "away"
            case ["cut", node, *way]:
                world.network.isolate(node, inbound=way != ["outbound"], outbound=way != ["inbound"])
            case ["mend"]:
                world.network.cut.clear()
            case ["listen" | "ignore" as verb]:
                self._is_listening = verb == "listen"
            case ["hold", kind, "to", node]:
                self._held = _Held(kind, node, [])
            case ["deliver"]:
                self._deliver()
            case _:
                return False
        return True

    def _make(self, words: list[str]) -> None:
        text = " ".join(words)
        is_sealed, has_api_vote = "sealed" in text, "with the API vote" in text
        names, _, witnesses = (
            text.replace("sealed", "").replace("with the API vote", "").partition("witnesses")
        )
        world = self._world = World(seed=0, drift_ppm=0, is_sealed=is_sealed)
        world.network.quality, world.disturbance = _NETWORK, _SHELL
        world.network.tap = self._tap
        self._office = Office(world)
        self._office.slowest_ns = 0
        for name in names.split():
            Voter(world.add(name), self._office)
        domain = domain_plan(names.split(), (witnesses or names).split(), has_api_vote=has_api_vote)
        self._uid = domain.uid
        self._registrar = Registrar(world, domain.uid)
        self._publish(domain)
        for machine in world.machines.values():
            machine.disk.plan = machine.offered
            machine.disk.configurations[domain.uid] = domain.configuration
            machine.start()
        world.run_for(0)

    def _add(self, name: str, words: list[str]) -> None:
        is_held_alone = words[-2:] == ["held", "alone"]
        words = words[:-2] if is_held_alone else words
        place = words.index("at") if "at" in words else len(words)
        candidates = words[1:place] if words[:1] == ["candidates"] else list(self._world.machines)
        address = words[place + 1] if place < len(words) else f"192.0.2.{len(self._domain.virtual_ips) + 1}"
        new = virtual_ip(name, (address,), candidates, is_held_alone=is_held_alone)
        if is_held_alone:
            self._world.watch.is_strict = self._world.watch.is_order_kept = False
        self._publish(with_vips(self._domain, *self._domain.virtual_ips, new))

    def _publish(self, domain: DomainPlan) -> None:
        self._world.publish(domain)
        self._world.run_for(0)

    def _show(self) -> Iterator[str]:
        for machine in self._world.machines.values():
            if machine.keeper is None:
                yield f"{machine.label} is down"
            for vip in self._domain.virtual_ips:
                parts = list(self._sides(machine, vip))
                if parts:
                    yield f"{machine.label}  {vip.name}: {'; '.join(parts)}"

    def _sides(self, machine: Machine, vip: VirtualIPPlan) -> Iterator[str]:
        key, now_ns = key_of(vip), machine.now()
        seat = machine.keeper.seats[self._uid] if machine.keeper is not None else None
        if seat is not None and any(candidate.node == machine.name for candidate in vip.candidates):
            phase = seat.lease.phase(key)
            yield phase.value + (f", term {seat.lease.term(key)}" if phase is Phase.OWNER else "")
        address = vip.addresses[0].partition("/")[0]
        left_ns = self._world.watch.open_until_ns(machine, key, address) - now_ns
        if left_ns > 0:
            yield f"fence open for {left_ns / 1e6:.0f} ms"
        grant = seat.witness.grants.get(key) if seat is not None else None
        if grant is not None:
            yield f"grants it to {grant.holder} for {(grant.until_ns - now_ns) / 1e6:.0f} ms"

    def _epochs(self) -> Iterator[str]:
        for machine in self._world.machines.values():
            if machine.keeper is None:
                yield f"{machine.label} is down"
                continue
            seat = machine.keeper.seats[self._uid]
            status = seat.status(heartbeat_address="", now_ns=machine.now())
            line = f"{machine.label}  epoch {status.configuration.epoch}: {told(status.configuration)}"
            line += f"; drained {status.drained_epoch}, floor {status.term_floor}"
            line += f"; behind: {' '.join(status.behind)}" if status.behind else ""
            line += f"; deleted and granted to nobody: {len(status.tombstones)}" if status.tombstones else ""
            yield line
            for problem in seat.problems(machine.now()):
                yield f"   {problem.reason}: {problem.message}"

    def _refusals(self) -> Iterator[str]:
        for machine in self._world.machines.values():
            if machine.keeper is not None:
                counted = sorted(machine.keeper.refused.items())
                yield f"{machine.label}  " + (
                    ", ".join(f"{word} {count}" for word, count in counted) or "none"
                )

    def _tap(self, sender: Machine, send: Send, uid: str, parcel: Parcel) -> bool:
        held = self._held
        is_held = held is not None and (held.kind, held.receiver) == (type(send.message).__name__, send.to)
        if is_held and held is not None:
            held.datagrams.append((uid, parcel))
        said = say(send.message, self._world.watch)
        if self._is_listening and said:
            kept = " (held back)" if is_held else ""
            self._world.watch.note(f"{sender.label} → {send.to}: {said}{kept}")
        return is_held

    def _deliver(self) -> None:
        held, self._held = self._held, None
        assert held is not None
        for uid, parcel in held.datagrams:
            self._world.network.carry(self._world.machines[held.receiver], uid, parcel, MILLISECOND)
