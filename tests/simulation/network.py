"""How datagrams fare between machines: lost, doubled, late, overtaken, or cut off one way or both.

A datagram goes to the machine whose address the receiver's name stands for. A clone has the name and not
the address: it is heard and hears nothing. (One that has the address as well is a second witness under one
name, and outside the promise.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vipagent.effects import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from simulation.clock import Agenda
    from simulation.machine import Machine
    from vipagent.effects import Send
    from vipagent.messages import Message, Sender
    from vipapi.configuration import Stamp

    Lean = tuple[Sender, Stamp, Message]
    Parcel = Lean | bytes
    Tap = Callable[[Machine, Send, str, Parcel], bool]


@dataclass(frozen=True, slots=True)
class Quality:
    """How links that are not cut treat datagrams; `late` of them take up to `late_ns` longer."""

    loss: float = 0.0
    duplicates: float = 0.0
    late: float = 0.0
    late_ns: int = 100 * MILLISECOND
    least_ns: int = 150_000
    spread_ns: int = 400_000


class Network:
    """All links. `tap` sees every datagram before its fate, and keeps it if it says True."""

    def __init__(self, agenda: Agenda, random: Random) -> None:
        self.quality = Quality()
        self.cut: set[tuple[str, str]] = set()
        self.tap: Tap | None = None
        self._hosts: dict[str, Machine] = {}
        self._agenda = agenda
        self._random = random

    def attach(self, machine: Machine) -> None:
        self._hosts.setdefault(machine.name, machine)

    def send(self, sender: Machine, send: Send, uid: str, parcel: Parcel) -> None:
        if self.tap is not None and self.tap(sender, send, uid, parcel):
            return
        host = self._hosts.get(send.to)
        if host is None:
            return
        quality, random = self.quality, self._random.random
        if self.cut and (sender.label, host.label) in self.cut:
            return
        if quality.loss and random() < quality.loss:
            return
        self.carry(host, uid, parcel, self._delay_ns())
        if quality.duplicates and random() < quality.duplicates:
            self.carry(host, uid, parcel, self._delay_ns())

    def _delay_ns(self) -> int:
        quality, random = self.quality, self._random.random
        delay_ns = quality.least_ns + int(random() * quality.spread_ns)
        if quality.late and random() < quality.late:
            delay_ns += int(random() * quality.late_ns)
        return delay_ns

    def carry(self, host: Machine, uid: str, parcel: Parcel, delay_ns: int) -> None:
        self._agenda.after(delay_ns, host.hear, uid, parcel)

    def isolate(self, label: str, *, inbound: bool = True, outbound: bool = True) -> None:
        for other in self._hosts:
            if other != label and outbound:
                self.cut.add((label, other))
            if other != label and inbound:
                self.cut.add((other, label))
