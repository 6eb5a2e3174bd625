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

import base64
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lab import analysis
from lab.agents import NAMESPACE, Agents, start_agents, start_courier, start_keeper
from lab.analysis import MILLISECOND
from lab.cluster import WEB_PORT, Lab
from lab.measuring import HTTP_INTERVAL_NS, LAG_NS, Measurement
from vipagent.succession import key_of
from vipapi.nodeplan import VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from lab.processes import Process
    from lab.records import AddressEvent, Probe, Word
    from lab.topology import Host

VERSION = "vipkeeper.io/v1alpha1"
PATIENCE_S = 30
REST_S = 120  # nothing is judged meanwhile, and a busy machine takes long to start everything
AFTERMATH_S = 1.5  # two owners would show while the old one's lease and the clients' caches run out
RECENTLY_NS = 5_000 * MILLISECOND  # who answers now has answered since
UDP = "udp"
HTTP = "http"
IPV6 = "ipv6"
HEARTBEAT_SECRET = "vipkeeper-heartbeat"  # noqa: S105  # a name
KEY_BYTES = 32


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
    """What one act cost. `astray` are addresses of the VirtualIP that ended elsewhere than on `after`.

    `said` is what the keeper of `before` said of the address since the fault (`lab.records.Word`): one that
    is dead or has lost its lease tells nobody to take it (`handover`). `touched` are the nodes that have
    added or removed the address since then.
    """

    virtual_ip: str
    before: str
    after: str | None
    outage_ms: float
    hiccup_ms: float
    timeline: Timeline
    overlaps: tuple[analysis.Overlap, ...]
    astray: tuple[str, ...]
    said: frozenset[str]
    touched: tuple[str, ...]

    @property
    def is_safe(self) -> bool:
        """Tell whether all the addresses came back to one node and were never on two."""
        return self.after is not None and not self.overlaps and not self.astray


class Stage:
    """A running lab with vipkeeper, its services and its measurement.

    `fence` is what the keepers keep addresses silent with.
    """

    def __init__(self, lab: Lab, *, aftermath_s: float = AFTERMATH_S, fence: str = "auto") -> None:
        self.lab = lab
        self._fence = fence
        self._aftermath_s = aftermath_s
        self.agents: Agents
        self.measured: Measurement
        self.web: dict[str, Process] = {}
        self._keys: dict[str, bytes] = {}

    def start(
        self,
        *,
        controllers: int = 2,
        witness_only: Collection[str] = (),
        notifications: Path | None = None,
    ) -> None:
        """Start vipkeeper and a web server on every node; the nodes named `witness_only` hold nothing."""
        self.agents = start_agents(
            self.lab,
            controllers=controllers,
            witness_only=witness_only,
            notifications=notifications,
            fence=self._fence,
        )
        for node in self.lab.nodes.values():
            self.web[node.name] = self.lab.start_webserver(node)

    def watch(
        self,
        addresses: dict[str, str],
        *,
        ipv6: Mapping[str, str] | None = None,
        urls: dict[str, str] | None = None,
    ) -> None:
        """Start measuring; the second client stands on the last node.

        `addresses` and `ipv6` give an address for the name of its VirtualIP; a second one is measured and
        judged like the first, and an act that `reads` it tells its silence.
        """
        seconds = {_label(name, IPV6): address for name, address in (ipv6 or {}).items()}
        self.measured = self.lab.measure({**addresses, **seconds})
        self.measured.watch_from(self._second_client, interval_ms=10)
        if urls:
            self.measured.request_from(self.lab.client, urls)
        for label in addresses:
            self._keys[label] = self.key(label)

    def status(self, virtual_ip: str) -> dict[str, Any]:
        """Return a VirtualIP's status as the API server has it."""
        found: dict[str, Any] = self.lab.plane.api.get(VERSION, "VirtualIP", virtual_ip).get("status", {})
        return found

    def incarnation(self, node: Host) -> int:
        """Return which start of its keeper a node's newest report is of."""
        found: int = self.lab.plane.api.get(VERSION, "VIPNode", node.name)["status"]["incarnation"]
        return found

    def has_restarted(self, node: Host, before: int) -> bool:
        """Tell whether a node has reported a later start of its keeper than one of before."""
        return self.incarnation(node) > before

    def owner(self, virtual_ip: str) -> Host:
        """Return the node that answers the client now."""
        found: list[str] = []

        def is_answered() -> bool:
            answerer = self._newest_answerer(virtual_ip)
            found.extend([] if answerer is None else [answerer])
            return bool(found)

        self.wait_until(f"an answer for {virtual_ip}", is_answered)
        return self.lab.nodes[found[0]]

    def answerer(self, virtual_ip: str, *, since_ns: int) -> str | None:
        """Return the node that answered the client last, by questions since then; None where nobody did."""
        return self._newest_answerer(virtual_ip, since_ns=since_ns)

    def wait_until(self, what: str, is_so: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
        """Wait for something to become true; raises `NotReadyError`."""
        deadline = time.monotonic() + patience_s
        while not is_so():
            if time.monotonic() > deadline:
                raise NotReadyError(f"waited {patience_s} s for {what}, in vain")
            time.sleep(0.05)

    def rest(self, *virtual_ips: str, candidates: Collection[str] | None = None) -> None:
        """Wait until VirtualIPs are held, with every one of their candidates fit to take them over.

        Those are, if they are not named, all nodes of the lab but those that only vote.
        """
        wanted = set(self.lab.nodes if candidates is None else candidates) - self.agents.witness_only
        for name in virtual_ips:
            try:
                self.wait_until(f"{name} at rest", partial(self._is_at_rest, name, wanted), patience_s=REST_S)
            except NotReadyError as failure:
                answerer = self._newest_answerer(name)
                raise NotReadyError(
                    f"{failure}: {answerer} answers; the status is {self.status(name)}"
                ) from failure

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
        lawful_returns: int = 0,
        outside_the_promise: Collection[str] = (),
    ) -> Outcome:
        """Commit a fault and tell what it cost.

        It is over when another node answers (`expect`, if given), but not before `lasts_s`, and is undone
        then; what happens a little later still counts. `reads` says whose silence is measured: that of
        the client that asks the kernel, of the one that asks it by IPv6, or of the one that asks the service.
        A fault that itself asks the address away and back within a second says how often
        (`lawful_returns`): any other quick return is told as an overlap (`lab.analysis`). Of addresses that
        are `outside_the_promise`, with `onQuorumLoss: Hold`, no overlap is told.
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
        probes = self._probes(virtual_ip, reads, since_ns=fault_ns - LAG_NS)
        interval_ns = HTTP_INTERVAL_NS if reads == HTTP else analysis.INTERVAL_NS
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
                if label not in outside_the_promise
                for each in self.measured.overlaps(label, since_ns=fault_ns, lawful_returns=lawful_returns)
            ),
            astray=tuple(
                label
                for label in (virtual_ip, _label(virtual_ip, IPV6))
                if label in self.measured.addresses
                and after is not None
                and self._newest_answerer_in(label, since_ns=fault_ns) != after
            ),
            said=frozenset(
                word.kind for word in self._words(virtual_ip, since_ns=fault_ns) if word.node == before
            ),
            touched=tuple(
                sorted({event.node for event in self._address_events(virtual_ip, since_ns=fault_ns)})
            ),
        )

    def move(self, virtual_ip: str, to: str) -> None:
        """Ask for a planned move, as a user does; an earlier request for the same move is replaced."""
        name = f"{virtual_ip}-to-{to}-{time.monotonic_ns()}"
        spec = {"virtualIPRef": {"name": virtual_ip}, "to": to}
        switchover = {"apiVersion": VERSION, "kind": "Switchover", "metadata": {"name": name}, "spec": spec}
        self.lab.plane.api.apply(switchover)

    def forget_moves(self) -> None:
        """Delete every request for a planned move, so that nothing follows from it any more."""
        for each in self.lab.plane.api.list(VERSION, "Switchover"):
            self.lab.plane.api.delete(VERSION, "Switchover", each["metadata"]["name"])

    def edit(self, virtual_ip: str, changes: Mapping[str, object]) -> None:
        """Change a VirtualIP's spec, as `kubectl patch --type=merge` does."""
        self.lab.plane.api.merge(VERSION, "VirtualIP", virtual_ip, {"spec": changes})

    def delete(self, virtual_ip: str) -> None:
        """Ask for a VirtualIP's end; `is_gone` tells when it has come."""
        self.lab.plane.api.delete(VERSION, "VirtualIP", virtual_ip)

    def is_gone(self, virtual_ip: str) -> bool:
        """Tell whether a VirtualIP does not exist, its finalizer being gone too."""
        found = self.lab.plane.api.list(VERSION, "VirtualIP")
        return all(each["metadata"]["name"] != virtual_ip for each in found)

    def key_ids(self) -> set[int]:
        """Return the ids of the heartbeat keys in the Secret."""
        found = self.lab.plane.api.get("v1", "Secret", HEARTBEAT_SECRET, namespace=NAMESPACE)
        return set(map(int, found["data"]))

    def add_key(self, key_id: int) -> None:
        """Add a heartbeat key to the Secret, as the first step of a rotation."""
        self._patch_keys({str(key_id): base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()})

    def remove_key(self, key_id: int) -> None:
        """Remove a heartbeat key from the Secret, as the last step of a rotation."""
        self._patch_keys({str(key_id): None})

    def power_off(self, node: Host) -> None:
        """Pull a node's plug."""
        self.lab.power_off(node)

    def power_on(self, node: Host) -> None:
        """Boot a node that was powered off, and start everything that ran on it; no API server is needed."""
        self.lab.power_on(node)
        self.measured.watch_kernels([node])
        self.web[node.name] = self.lab.start_webserver(node)
        self.agents.restart(node)
        if node is self._second_client:
            self.measured.watch_from(node, interval_ms=10)

    def clone(self, node: Host) -> Host:
        """Start a second host that takes itself for a node: same name, same plan and epochs, same rights.

        Its kubelet, which takes itself for the node's too, has told its addresses. It answers probes with a
        name of its own, so two owners of one name are two.
        """
        twin = self.lab.add_twin(node)
        self.measured.watch_kernels([twin])
        self.measured.inquire([twin])
        self.lab.tell_addresses(node.name, twin)
        start_keeper(twin, node=node.name, witness_only=node.name in self.agents.witness_only)
        start_courier(self.lab, twin, node=node.name)
        return twin

    @property
    def _second_client(self) -> Host:
        return list(self.lab.nodes.values())[-1]

    def _patch_keys(self, changes: Mapping[str, str | None]) -> None:
        self.lab.plane.api.merge("v1", "Secret", HEARTBEAT_SECRET, {"data": changes}, namespace=NAMESPACE)

    def _probes(self, virtual_ip: str, reads: str, *, since_ns: int = 0) -> list[Probe]:
        return self.measured.probes(_label(virtual_ip, reads), since_ns=since_ns)

    def _newest_answerer(self, virtual_ip: str, *, reads: str = UDP, since_ns: int = 0) -> str | None:
        return self._newest_answerer_in(_label(virtual_ip, reads), since_ns=since_ns)

    def _newest_answerer_in(self, label: str, *, since_ns: int) -> str | None:
        recent_ns = max(since_ns, time.monotonic_ns() - RECENTLY_NS)
        newest_first = reversed(self.measured.probes(label, since_ns=recent_ns))
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
        words = self._words(virtual_ip, since_ns=fault_ns)
        asked = [
            word.at_ns
            for word in words
            if word.kind == "prepare" or (word.kind == "acquire" and word.node == after)
        ]
        granted = [word.at_ns for word in words if word.kind == "granted" and word.to == after]
        bound = [
            event.at_ns
            for event in self._address_events(virtual_ip, since_ns=fault_ns)
            if event.event == "added" and event.node == after
        ]
        announced = [
            seen.at_ns
            for seen in self.measured.sightings(address, since_ns=fault_ns)
            if seen.kind == "arp-announcement" and seen.node == after
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

    def _words(self, virtual_ip: str, *, since_ns: int) -> list[Word]:
        return [word for word in self.measured.words(self._keys[virtual_ip]) if word.at_ns > since_ns]

    def _address_events(self, virtual_ip: str, *, since_ns: int) -> list[AddressEvent]:
        events = self.measured.address_events(self.measured.addresses[virtual_ip])
        return [event for event in events if event.at_ns > since_ns]

    def _is_at_rest(self, virtual_ip: str, wanted: Collection[str]) -> bool:
        status = self.status(virtual_ip)
        conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
        fit = {each["nodeName"] for each in status.get("candidates", []) if each["eligible"]}
        return (
            conditions.get("Ready") == "True"
            and status.get("owner") == self._newest_answerer(virtual_ip)
            and fit.issuperset(wanted)
        )

    def votes(self) -> int:
        """Return how many vote in the domain, the API server among them; 0 while they are being changed."""
        status = self.lab.plane.api.get(VERSION, "FailoverDomain", "default").get("status", {})
        conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
        if conditions.get("Quorate") != "True" or "formerWitnesses" in status:
            return 0
        return len(status["witnesses"]) + bool(status.get("apiServerVotes"))

    def key(self, label: str) -> bytes:
        """Return the name that keepers have for a VirtualIP's addresses, as it is now."""
        found = self.lab.plane.api.get(VERSION, "VirtualIP", label)
        addresses = tuple(found["spec"]["addresses"])
        plan = VirtualIPPlan(uid=found["metadata"]["uid"], name=label, addresses=addresses, candidates=())
        return key_of(plan)


def _label(virtual_ip: str, reads: str) -> str:
    """Return under which name the probes of one way to a VirtualIP are written down."""
    return virtual_ip if reads == UDP else f"{virtual_ip}-{reads}"


def urls_for(addresses: dict[str, str]) -> dict[str, str]:
    """Return the URLs, by the label of their probes, at which the service of each address is asked."""
    return {_label(name, HTTP): f"http://{address}:{WEB_PORT}/" for name, address in addresses.items()}
