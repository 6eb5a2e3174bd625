"""The scene that a fault to an address is done on: the addresses, who owns one, and what chance decides.

`objects` are applied before. One VirtualIP is looked at while faults are done to its owner; the other one
belongs to another node, which must not notice.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lab import burdens, processes
from lab.measuring import environment
from lab.stage import VERSION

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

    from lab.processes import Process
    from lab.stage import Stage
    from lab.topology import Host

LOOKED_AT: Final = "dual"
"""The VirtualIP that faults are done to, of IPv4 and IPv6."""
BYSTANDER: Final = "calm"
ADDRESSES: Final = {LOOKED_AT: "192.0.2.51", BYSTANDER: "192.0.2.50"}
IPV6_ADDRESSES: Final = {LOOKED_AT: "2001:db8::51"}
NOTICED_S: Final = 15.0
"""A keeper looks after its fence and its addresses every few seconds."""


def manifest(kind: str, name: str, **spec: object) -> Mapping[str, object]:
    return {"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def virtual_ip(name: str) -> Mapping[str, object]:
    """Return the object that a name of `ADDRESSES` stands for."""
    ipv6 = [f"{IPV6_ADDRESSES[name]}/64"] if name in IPV6_ADDRESSES else []
    return manifest("VirtualIP", name, addresses=[f"{ADDRESSES[name]}/24", *ipv6])


def objects(witnesses: int) -> tuple[Mapping[str, object], ...]:
    """Return the domain, with so many places for witnesses, and the VirtualIPs."""
    ranges = ["192.0.2.0/24", "2001:db8::/64"]
    places = {"count": witnesses}
    domain = manifest("FailoverDomain", "default", allowedAddresses=ranges, witnesses=places)
    return (domain, *map(virtual_ip, ADDRESSES))


@dataclass(slots=True, kw_only=True)
class Scene:
    """The stage with an owner on it, and what chooses."""

    stage: Stage
    owner: Host
    chance: random.Random
    failures: list[BaseException]
    """What went wrong in threads; `addressruns` looks."""
    is_alone: bool = True
    """Whether no other fault is done at the same time."""
    started: list[Process] = field(default_factory=list)
    """What the fault started beside vipkeeper; `end` kills what is left of it."""

    @property
    def others(self) -> list[Host]:
        """Every node but the owner, in an order that the seed chose."""
        found = [node for node in self.stage.lab.nodes.values() if node is not self.owner]
        self.chance.shuffle(found)
        return found

    def keeper(self, node: Host) -> Process:
        return self.stage.agents.keepers[node.name]

    def outside(self, module: str, *arguments: str, readiness: str) -> Process:
        """Start one of the lab's own modules in the bridge's namespace."""
        segment = self.stage.lab.segment
        process = processes.start(
            [sys.executable, "-m", f"lab.{module}", *arguments],
            name=module,
            network=segment.network,
            log=segment.folder / f"{module}-{time.monotonic_ns()}.log",
            environment=environment(),
        )
        self.started.append(process)
        process.wait_for_output(readiness, patience_s=20)
        return process

    @contextmanager
    def burdened(self, host: Host, *arguments: str, many: int = 1) -> Iterator[None]:
        """Have so many burdens on a host."""
        mine: list[Process] = []
        try:
            for _ in range(many):
                mine.append(burdens.start(self.stage.lab, host, *arguments))
                self.started.append(mine[-1])
            yield
        finally:
            for process in mine:
                process.kill()

    def end(self) -> None:
        """Kill what the fault started and did not end, because something failed."""
        for process in self.started:
            process.kill()

    @contextmanager
    def repeating(self, deed: Callable[[threading.Event], None]) -> Iterator[None]:
        """Do something again and again in a thread; it is given the event that ends it, to wait at."""
        is_over = threading.Event()

        def repeat() -> None:
            try:
                while not is_over.is_set():
                    deed(is_over)
            except BaseException as failure:  # noqa: BLE001  # told by the run
                self.failures.append(failure)

        thread = threading.Thread(target=repeat)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


Deed = Callable[[Scene], AbstractContextManager[None]]
"""Commits a fault when it is entered and undoes it when it is left."""
