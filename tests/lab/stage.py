"""A lab with vipkeeper in it, and faults done to it one at a time: what demonstration and benchmark share.

An **act** is one fault and what it cost. The stage waits until every VirtualIP stands as it should, then
commits the fault, waits until the client is answered by a node that may answer, and works out from the
records alone

    detect       the first word between keepers that the address should move: the owner's `prepare`, or a
                 candidate's request for it
    decide       the answer by which a majority of the witnesses has granted it to the new owner
    bind         the new owner's kernel has the address
    announce     its first gratuitous ARP, seen on the bridge
    first reply  the client's first answer from the new owner
    outage       the client's longest silence, whoever answered before and after it

all but the last in milliseconds after the fault.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lab import analysis
from lab.agents import Agents, start_agents
from lab.analysis import MILLISECOND
from lab.cluster import WEB_PORT, Lab
from lab.measuring import HTTP_INTERVAL_NS, Measurement, start_responder
from vipagent.succession import key_of
from vipapi.nodeplan import VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.processes import Process
    from lab.records import Probe
    from lab.topology import Host

VERSION = "vipkeeper.io/v1alpha1"
PATIENCE_S = 30
AFTERMATH_S = 1.5  # two owners would show while the old one's lease and the clients' caches run out
UDP = "udp"
HTTP = "http"


class NotReadyError(Exception):
    """vipkeeper did not come to rest in time; the message says what was missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Milliseconds after the fault; None for what was not seen."""

    detect: float | None
    decide: float | None
    bind: float | None
    announce: float | None
    first_reply: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one act cost."""

    virtual_ip: str
    before: str
    after: str | None
    outage_ms: float
    hiccup_ms: float
    timeline: Timeline
    overlaps: tuple[analysis.Overlap, ...]

    @property
    def is_safe(self) -> bool:
        """Tell whether the address came back and was never on two nodes."""
        return self.after is not None and not self.overlaps


class Stage:
    """A running lab with vipkeeper, its services and its measurement."""

    def __init__(self, lab: Lab, *, aftermath_s: float = AFTERMATH_S) -> None:
        self.lab = lab
        self._aftermath_s = aftermath_s
        self.agents: Agents
        self.measured: Measurement
        self.web: dict[str, Process] = {}
        self._keys: dict[str, bytes] = {}

    def start(self, *, controllers: int = 2) -> None:
        """Start vipkeeper and a web server on every node."""
        self.agents = start_agents(self.lab, controllers=controllers)
        for node in self.lab.nodes.values():
            self.web[node.name] = self.lab.start_webserver(node)

    def watch(self, addresses: dict[str, str], *, urls: dict[str, str] | None = None) -> None:
        """Start measuring; the second client stands on the last node."""
        self.measured = self.lab.measure(addresses)
        self.measured.watch_from(list(self.lab.nodes.values())[-1], interval_ms=10)
        if urls:
            self.measured.request_from(self.lab.client, urls)
        for label in addresses:
            self._keys[label] = self._key(label)

    def status(self, virtual_ip: str) -> dict[str, Any]:
        """Return a VirtualIP's status as the API server has it."""
        found: dict[str, Any] = self.lab.plane.api.get(VERSION, "VirtualIP", virtual_ip).get("status", {})
        return found

    def owner(self, virtual_ip: str) -> Host:
        """Return the node that answers the client now."""
        self.wait_until(f"an answer for {virtual_ip}", lambda: self._newest_answerer(virtual_ip) is not None)
        return self.lab.nodes[self._newest_answerer(virtual_ip) or ""]

    def wait_until(self, what: str, is_so: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
        """Wait for something to become true; raises `NotReadyError`."""
        deadline = time.monotonic() + patience_s
        while not is_so():
            if time.monotonic() > deadline:
                raise NotReadyError(f"waited {patience_s} s for {what}, in vain")
            time.sleep(0.05)

    def rest(self, *virtual_ips: str) -> None:
        """Wait until VirtualIPs are held, with every node of the lab fit to take them over."""
        for name in virtual_ips:
            self.wait_until(f"{name} at rest", partial(self._is_at_rest, name))

    def act(
        self,
        virtual_ip: str,
        fault: Callable[[], None],
        *,
        reads: str = UDP,
        expect: str | None = None,
        lasts_s: float = 0,
        undo: Callable[[], None] | None = None,
        patience_s: float = 15,
    ) -> Outcome:
        """Commit a fault and tell what it cost.

        It is over when another node answers (`expect`, if given), but not before `lasts_s`, and is undone
        then; what happens a little later still counts. `reads` says whose silence is measured: that of
        the client that asks the kernel, or of the one that asks the service.
        """
        before = self.owner(virtual_ip).name
        fault_ns = time.monotonic_ns()
        fault()
        deadline = time.monotonic() + patience_s
        while (
            self._answerer(virtual_ip, reads, fault_ns, before, expect) is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        remaining_s = lasts_s - (time.monotonic_ns() - fault_ns) / 1e9
        time.sleep(max(remaining_s, 0))
        if undo is not None:
            undo()
        time.sleep(self._aftermath_s)
        until_ns = self.measured.settle()
        probes = self._probes(virtual_ip, reads)
        interval_ns = analysis.INTERVAL_NS if reads == UDP else HTTP_INTERVAL_NS
        silence = analysis.longest_silence(
            probes, since_ns=fault_ns, until_ns=until_ns, interval_ns=interval_ns
        )
        after = self._answerer(virtual_ip, reads, fault_ns, before, expect)
        return Outcome(
            virtual_ip=virtual_ip,
            before=before,
            after=after,
            outage_ms=silence.length_ms,
            hiccup_ms=self.measured.hiccup_ms(since_ns=fault_ns, until_ns=until_ns),
            timeline=self._timeline(virtual_ip, probes, fault_ns, after),
            overlaps=tuple(
                each
                for label in self.measured.addresses
                for each in self.measured.overlaps(label, key=self._keys[label])
                if each.end_ns > fault_ns
            ),
        )

    def move(self, virtual_ip: str, to: str) -> None:
        """Ask for a planned move, as a user does; an earlier request for the same move is replaced."""
        name = f"{virtual_ip}-to-{to}-{time.monotonic_ns()}"
        spec = {"virtualIPRef": {"name": virtual_ip}, "to": to}
        switchover = {"apiVersion": VERSION, "kind": "Switchover", "metadata": {"name": name}, "spec": spec}
        self.lab.plane.api.apply(switchover)

    def power_on(self, node: Host) -> None:
        """Give a node that was powered off its link and everything that ran on it."""
        self.lab.segment.mend(node)
        start_responder(node)
        self.web[node.name] = self.lab.start_webserver(node)
        self.agents.restart(node)
        if node is list(self.lab.nodes.values())[-1]:
            self.measured.watch_from(node, interval_ms=10)

    def _probes(self, virtual_ip: str, reads: str) -> list[Probe]:
        return self.measured.probes(virtual_ip if reads == UDP else f"{virtual_ip}-{HTTP}")

    def _newest_answerer(self, virtual_ip: str, *, reads: str = UDP, since_ns: int = 0) -> str | None:
        newest_first = reversed(self._probes(virtual_ip, reads))
        return next((probe.node for probe in newest_first if probe.node and probe.sent_ns > since_ns), None)

    def _answerer(
        self, virtual_ip: str, reads: str, since_ns: int, before: str, expect: str | None
    ) -> str | None:
        """Return the newest answerer since the fault, if it is one that was waited for."""
        newest = self._newest_answerer(virtual_ip, reads=reads, since_ns=since_ns)
        is_awaited = newest == expect if expect else newest != before
        return newest if is_awaited else None

    def _timeline(self, virtual_ip: str, probes: list[Probe], fault_ns: int, after: str | None) -> Timeline:
        address = self.measured.addresses[virtual_ip]
        words = [word for word in self.measured.words(self._keys[virtual_ip]) if word.at_ns > fault_ns]
        asked = [
            word.at_ns
            for word in words
            if word.kind == "prepare" or (word.kind == "acquire" and word.node == after)
        ]
        granted = [word.at_ns for word in words if word.kind == "granted" and word.to == after]
        bound = [
            event.at_ns
            for event in self.measured.address_events(address)
            if event.at_ns > fault_ns and event.event == "added" and event.node == after
        ]
        announced = [
            seen.at_ns
            for seen in self.measured.sightings(address)
            if seen.at_ns > fault_ns and seen.kind == "arp-announcement" and seen.node == after
        ]
        replied = analysis.first_answer_of(probes, after, since_ns=fault_ns) if after else None

        def since_fault(times: list[int]) -> float | None:
            return (min(times) - fault_ns) / MILLISECOND if times else None

        return Timeline(
            detect=since_fault(asked),
            decide=since_fault(granted),
            bind=since_fault(bound),
            announce=since_fault(announced),
            first_reply=since_fault([replied] if replied else []),
        )

    def _is_at_rest(self, virtual_ip: str) -> bool:
        status = self.status(virtual_ip)
        conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
        candidates = status.get("candidates", [])
        return (
            conditions.get("Ready") == "True"
            and status.get("owner") == self._newest_answerer(virtual_ip)
            and len(candidates) == len(self.lab.nodes)
            and all(each["eligible"] for each in candidates)
        )

    def _key(self, label: str) -> bytes:
        """Return the name that keepers have for a VirtualIP's addresses."""
        found = self.lab.plane.api.get(VERSION, "VirtualIP", label)
        addresses = tuple(found["spec"]["addresses"])
        plan = VirtualIPPlan(uid=found["metadata"]["uid"], name=label, addresses=addresses, candidates=())
        return key_of(plan)


def urls_for(addresses: dict[str, str]) -> dict[str, str]:
    """Return the URLs, by the label of their probes, at which the service of each address is asked."""
    return {f"{label}-{HTTP}": f"http://{address}:{WEB_PORT}/" for label, address in addresses.items()}
