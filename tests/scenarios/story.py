"""Tells a story: commands to a simulated domain, and what they print.

A story is a text file. A line that starts with `$ ` is a command, a line that starts with two spaces
is what the command before it prints, and everything else is prose. The nodes run the production lease
and witness; their clocks agree, every datagram takes one millisecond, nothing takes time on a node, and
time stands still between commands, so a story reads the same every time.

    nodes a b c [witnesses a b c]   make the domain and start every keeper (Balanced profile)
    vip NAME [candidates a b c] [at ADDRESS]      plan a VirtualIP; candidates stand in order
    run N ms                        let time pass; prints who opens and closes, and when
    show                            every node's side of every VirtualIP, and what the witnesses grant
    order NAME to NODE at term N    the operator's standing order
    unfit NODE / fit NODE           health
    power off NODE / kill NODE      the machine, or its keeper alone (the kernel keeps its fence)
    start NODE / stop NODE for N ms (SIGSTOP) / resign NODE (SIGTERM)
    cut NODE [inbound|outbound] / mend
    listen / ignore                 whether `run` also prints the datagrams of moment: all but renewals
    hold Ack to NODE / deliver      keep datagrams of a kind back, then let them arrive
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simulation.world import PROFILES, VIP, Disturbance, Network, World, alter
from vipagent.effects import MILLISECOND, Phase
from vipagent.messages import Ack, Handover, Message, Offer, Prepare, Ready, Release, Released, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETWORK: Final = Network(least_ns=MILLISECOND, spread_ns=0)
_SHELL: Final = Disturbance(ring_ns=0, unbind_ns=0)


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
    datagrams: list[tuple[str, int, Message]]


class _Teller:
    def __init__(self) -> None:
        self._world = World(seed=0, timing=PROFILES["Balanced"], names=(), witnesses=())
        self._held: _Held | None = None
        self._is_listening = False
        self._plan: tuple[VIP, ...] = ()

    def obey(self, words: list[str]) -> Iterator[str]:  # noqa: C901, PLR0912 - it is a table
        """Carry out one command and yield the lines that it prints."""
        world = self._world
        heard = len(world.trace)
        match words:
            case ["nodes", *names]:
                self._make(names)
                return
            case ["vip", name, *rest]:
                self._add(name, rest)
            case ["run", duration_ms, "ms"]:
                world.run_for(int(duration_ms) * MILLISECOND)
            case ["show"]:
                yield from self._show()
            case ["order", name, "to", node, "at", "term", term]:
                self._replan(alter(self._plan, name, owner=node, based_on_term=int(term)))
            case ["unfit" | "fit" as fitness, node]:
                unfit = {vip.name for vip in self._plan} if fitness == "unfit" else set()
                world.nodes[node].unfit = unfit
                world.nodes[node].judge()
            case ["power", "off", node]:
                world.nodes[node].power_off()
            case ["kill", node]:
                world.nodes[node].crash()
            case ["start", node]:
                world.nodes[node].start()
            case ["stop", node, "for", duration_ms, "ms"]:
                process = world.nodes[node].process
                assert process is not None
                process.freeze(int(duration_ms) * MILLISECOND)
            case ["resign", node]:
                world.nodes[node].resign()
            case ["cut", node, *direction]:
                world.isolate(node, inbound=direction != ["outbound"], outbound=direction != ["inbound"])
            case ["mend"]:
                world.cut.clear()
            case ["listen"]:
                self._is_listening = True
            case ["ignore"]:
                self._is_listening = False
            case ["hold", kind, "to", node]:
                self._held = _Held(kind, node, [])
            case ["deliver"]:
                self._deliver()
            case _:
                raise ValueError(f"no such command: {' '.join(words)}")
        for at_ns, line in world.trace[heard:]:
            yield f"{at_ns / 1e6:5.0f} ms  {line}"

    def _make(self, words: list[str]) -> None:
        names, _, witnesses = " ".join(words).partition(" witnesses ")
        self._world = World(
            seed=0,
            timing=PROFILES["Balanced"],
            names=names.split(),
            witnesses=(witnesses or names).split(),
            drift_ppm=0,
        )
        self._world.network, self._world.disturbance = _NETWORK, _SHELL
        self._world.tap = self._tap
        for node in self._world.nodes.values():
            node.start()

    def _add(self, name: str, words: list[str]) -> None:
        candidates = words[words.index("candidates") + 1 :] if "candidates" in words else []
        if "at" in candidates:
            candidates = candidates[: candidates.index("at")]
        address = words[words.index("at") + 1] if "at" in words else f"192.0.2.{len(self._plan) + 1}"
        order = tuple(candidates or self._world.nodes)
        self._replan((*self._plan, VIP(name, (address,), order)))

    def _replan(self, plan: tuple[VIP, ...]) -> None:
        self._plan = plan
        self._world.plan(plan)
        self._world.run_for(0)

    def _show(self) -> Iterator[str]:
        for node in self._world.nodes.values():
            now_ns = node.now()
            if node.process is None:
                yield f"{node.name} is down"
            for vip in self._plan:
                parts = []
                if node.process is not None and node.name in vip.order:
                    phase = node.process.lease.phase(vip.key)
                    term = f", term {node.process.lease.term(vip.key)}" if phase is Phase.OWNER else ""
                    parts.append(f"{phase.value}{term}")
                left_ns = node.fence.get((vip.addresses[0], vip.key), 0) - now_ns
                if left_ns > 0:
                    parts.append(f"fence open for {left_ns / 1e6:.0f} ms")
                witness = node.process.witness if node.process is not None else None
                grant = witness.grants.get(vip.key) if witness is not None else None
                if grant is not None:
                    left_ms = (grant.until_ns - now_ns) / 1e6
                    parts.append(f"grants it to {grant.holder} for {left_ms:.0f} ms")
                if parts:
                    yield f"{node.name}  {vip.name}: {'; '.join(parts)}"

    # Datagrams -----------------------------------------------------------------------------------

    def _tap(self, sender: str, receiver: str, message: Message) -> bool:
        held = self._held
        is_held = held is not None and (held.kind, held.receiver) == (type(message).__name__, receiver)
        if is_held and held is not None:
            held.datagrams.append((sender, self._world.nodes[sender].incarnation, message))
        told = self._tell(message)
        if self._is_listening and told:
            kept = " (held back)" if is_held else ""
            self._world.note(f"{sender} → {receiver}: {told}{kept}")
        return is_held

    def _deliver(self) -> None:
        held, self._held = self._held, None
        assert held is not None
        for sender, incarnation, message in held.datagrams:
            self._world.carry(sender, incarnation, held.receiver, message, MILLISECOND)

    def _tell(self, message: Message) -> str:  # noqa: PLR0911 - it is a table
        """The datagram in words; nothing for what every heartbeat says again."""
        names = self._world.names
        match message:
            case Request(wants=wants):
                asked = [want for want in wants if not want.is_held]
                return ", ".join(f"wants {names[want.key]} under term {want.term}" for want in asked)
            case Ack(granted=granted, denied=denied):
                said = [f"grants {names[g.key]} under term {g.term}" for g in granted]
                said += [f"denies {names[d.key]}, {d.holder or 'a higher term'} has it" for d in denied]
                return ", ".join(said) if denied or not self._is_renewal(message) else ""
            case Release(key=key, successor=successor):
                return f"releases {names[key]}" + (f" for {successor}" if successor else "")
            case Released(key=key):
                return f"has seen the release of {names[key]}"
            case Offer(free=free):
                return ", ".join(f"offers {names[f.key]}, rank {f.rank}" for f in free)
            case Prepare(key=key):
                return f"could you take {names[key]}?"
            case Ready(key=key):
                return f"ready for {names[key]}"
            case Handover(key=key):
                return f"{names[key]} is yours"

    def _is_renewal(self, ack: Ack) -> bool:
        """Whether everything that is granted was opened under that term before."""
        return all(self._world.newest_term.get(g.key) == g.term for g in ack.granted)
