"""Many node-agents in one process, as a real API server and a real controller see them.

`python -m lab.simulated_agents KUBECONFIG DEAD NODES` plays the courier and the keeper of every node that
the file NODES names (`NODE DOMAIN ADDRESS` in each line), under the courier's own rights: it makes the
VIPNodes and applies their status, each by a request of its own, only when it has changed and with the pauses
that couriers make.
Nodes that the file DEAD names, one in each line, are dead: they write nothing, and nobody hears them.

The keepers have no network and no leases. `Troupe` does at once what keepers would do by and by: whoever is
ordered gets an address that nobody holds, and of a dead owner the first living successor gets it under the
next term. What is lost by that: a hundred couriers would have a watch each, and these have one together.
"""

from __future__ import annotations

import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vipapi import conditions, resources
from vipapi.candidates import nominate, roster
from vipapi.nodestatus import DomainStatus, GrantStatus, HoldingStatus, InterfaceStatus, Report, Takeover
from vipapi.resources import FailoverDomain, Node, VIPNodeStatus, VirtualIP, configuration_of
from vipcluster.client import FAILOVER_DOMAINS, NODES, VIP_NODES, VIRTUAL_IPS, ApiError, Conflict, connect
from vipcluster.watch import Watch
from vipcourier.courier import MANAGER, WRITE_PAUSE_S, next_write_pause_s
from vipcourier.status import of_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from vipcluster.client import Cluster

WRITERS = 4
TURN_S = 0.05
IDLE_S = 0.5
STARTED_AT = "2026-01-01T00:00:00.000Z"
INTERFACE = "eth0"


class Post(NamedTuple):
    """Where an agent is: its domain, and the address of its heartbeats."""

    domain: str
    address: str


@dataclass(slots=True)
class Troupe:
    """Keepers on nodes; `grants` are holders with their terms, by VirtualIP UID."""

    posts: Mapping[str, Post]
    dead: AbstractSet[str] = frozenset()
    grants: dict[str, tuple[str, int]] = field(default_factory=dict)

    def obey(self, virtual_ips: Iterable[VirtualIP]) -> None:
        """Have every accepted address held by somebody who lives; nobody holds what is gone."""
        known = set()
        for virtual_ip in virtual_ips:
            if not _is_planned(virtual_ip):
                continue
            uid, order = virtual_ip.metadata.uid, virtual_ip.status.election
            known.add(uid)
            holder, term = self.grants.get(uid, ("", 0))
            if order is None or order.owner is None or (holder and holder not in self.dead):
                continue
            heirs = (node for node in (order.owner, *order.succession) if node not in self.dead)
            heir = next(heirs, None)
            if heir is not None:
                self.grants[uid] = (heir, max(term, virtual_ip.status.term or 0) + 1)
        self.grants = {uid: grant for uid, grant in self.grants.items() if uid in known}

    def reports(
        self,
        domains: Mapping[str, FailoverDomain],
        virtual_ips: Sequence[VirtualIP],
        nodes: Iterable[Node],
    ) -> dict[str, Report]:
        """Return what the keeper of each living node reports, by node; `domains` is by name."""
        planned = [virtual_ip for virtual_ip in virtual_ips if _is_planned(virtual_ip)]
        nodes = tuple(nodes)
        rosters = {name: roster(domain.spec, nodes) for name, domain in domains.items()}
        holdings: dict[str, list[HoldingStatus]] = {}
        for virtual_ip in planned:
            if virtual_ip.spec.domain in rosters:
                for nominee in nominate(virtual_ip.spec, rosters[virtual_ip.spec.domain]):
                    holding = self._holding(nominee.node, nominee.priority, virtual_ip)
                    holdings.setdefault(nominee.node, []).append(holding)
        grants = {
            name: tuple(
                GrantStatus(virtual_ip.metadata.uid, virtual_ip.metadata.name, *grant)
                for virtual_ip in planned
                for grant in (self.grants.get(virtual_ip.metadata.uid),)
                if virtual_ip.spec.domain == name and grant is not None
            )
            for name in domains
        }
        return {
            node: Report(
                node=node,
                version="simulated",
                incarnation=1,
                fence="BPF",
                interfaces=(InterfaceStatus(INTERFACE, "Up", addresses=(f"{post.address}/16",)),),
                domains=self._domain(node, post, domains.get(post.domain), grants),
                virtual_ips=tuple(holdings.get(node, ())),
            )
            for node, post in self.posts.items()
            if node not in self.dead
        }

    def _holding(self, node: str, priority: int, virtual_ip: VirtualIP) -> HoldingStatus:
        uid = virtual_ip.metadata.uid
        holder, term = self.grants.get(uid, ("", 0))
        if holder != node:
            return HoldingStatus(
                uid,
                virtual_ip.metadata.name,
                state="Standby",
                fitness="Fit",
                score=priority,
                interface=INTERFACE,
            )
        return HoldingStatus(
            uid,
            virtual_ip.metadata.name,
            state="Owner",
            fitness="Fit",
            score=priority,
            term=term,
            interface=INTERFACE,
            bound=tuple(_bare(each) for each in virtual_ip.spec.addresses),
            takeover=Takeover("FirstOwner" if term == 1 else "LeaseExpired", STARTED_AT, 412),
        )

    def _domain(
        self,
        node: str,
        post: Post,
        domain: FailoverDomain | None,
        grants: Mapping[str, tuple[GrantStatus, ...]],
    ) -> tuple[DomainStatus, ...]:
        if domain is None:
            return ()
        configuration = configuration_of(domain.status)
        is_witness = node in configuration.witnesses.names
        heard = (
            other
            for other, its in self.posts.items()
            if its.domain == post.domain and other not in self.dead and other != node
        )
        found = DomainStatus(
            name=post.domain,
            uid=domain.metadata.uid,
            role="Witness" if is_witness else "Member",
            heartbeat_address=post.address,
            configuration=configuration,
            reachable_peers=tuple(heard),
            grants=grants[post.domain] if is_witness else (),
            drained_epoch=configuration.epoch,
        )
        return (found,)


def _is_planned(virtual_ip: VirtualIP) -> bool:
    is_accepted = conditions.is_true(virtual_ip.status.conditions, "Accepted")
    return is_accepted and not virtual_ip.metadata.is_deleting


def _bare(address: str) -> str:
    ip = address.partition("/")[0]
    return f"{ip}/{128 if ':' in ip else 32}"


class Rests:
    """The pauses that each courier makes after a write: until when, how long, and whether it was busy."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._busy: set[str] = set()

    def waiting(self, nodes: AbstractSet[str], now_s: float) -> tuple[frozenset[str], float]:
        """Return who of the nodes that have news still pauses, and when the first of them has ended."""
        found = {node: until for node in nodes if (until := self._until.get(node, now_s)) > now_s}
        self._busy |= found.keys()
        return frozenset(found), min(found.values(), default=math.inf)

    def begin(self, node: str, now_s: float) -> None:
        """Let a node pause, which has written just now."""
        last_s = self._pauses.get(node, WRITE_PAUSE_S)
        self._pauses[node] = next_write_pause_s(last_s, is_busy=node in self._busy)
        self._until[node] = now_s + self._pauses[node]
        self._busy.discard(node)


class Couriers:
    """All the couriers: they look at what the API server shows, and write what has changed."""

    def __init__(self, cluster: Cluster, troupe: Troupe) -> None:
        self._cluster = cluster
        self._troupe = troupe
        self._watch = Watch(cluster, (VIRTUAL_IPS, FAILOVER_DOMAINS, NODES))
        self._told: dict[str, Report] = {}
        self._statuses: dict[str, VIPNodeStatus] = {}
        self._parsed: dict[tuple[str, str], VirtualIP] = {}
        self._rests = Rests()
        self._writers = ThreadPoolExecutor(WRITERS)

    def run(self, dead: Path) -> None:
        """Go on for ever."""
        self._watch.start()
        due = math.inf
        while True:
            is_new = self._watch.wait(max(0.0, min(IDLE_S, due - time.monotonic())))
            found = frozenset(dead.read_text().split()) if dead.exists() else frozenset[str]()
            is_due = is_new or found != self._troupe.dead or time.monotonic() >= due
            if self._watch.is_complete and is_due:
                self._troupe.dead = found
                due = self._turn()
            time.sleep(TURN_S)

    def _turn(self) -> float:
        """Let everybody obey and tell; returns when the first of those that rest has something to tell."""
        virtual_ips = self._virtual_ips()
        self._troupe.obey(virtual_ips)
        domains = [resources.parse(FailoverDomain, each) for each in self._watch.documents(FAILOVER_DOMAINS)]
        nodes = [resources.parse(Node, each) for each in self._watch.documents(NODES)]
        reports = self._troupe.reports({each.metadata.name: each for each in domains}, virtual_ips, nodes)
        news = [report for node, report in reports.items() if self._told.get(node) != report]
        waiting, due = self._rests.waiting({report.node for report in news}, time.monotonic())
        list(self._writers.map(self._tell, [report for report in news if report.node not in waiting]))
        return due

    def _virtual_ips(self) -> list[VirtualIP]:
        before, self._parsed = self._parsed, {}
        for document in self._watch.documents(VIRTUAL_IPS):
            key = document["metadata"]["uid"], document["metadata"]["resourceVersion"]
            self._parsed[key] = before.get(key) or resources.parse(VirtualIP, document)
        return list(self._parsed.values())

    def _tell(self, report: Report) -> None:
        node = report.node
        before = self._statuses.get(node)
        try:
            if before is None:
                self._make(node)
                before = VIPNodeStatus()
            status = of_report(report, before=before, generation=1, now=datetime.now(UTC))
            self._cluster.apply_status(VIP_NODES, node, resources.to_dict(status), manager=MANAGER)
        except ApiError as error:
            sys.stderr.write(f"the VIPNode {node} could not be written and is tried again: {error}\n")
            self._watch.wake()
            return
        self._statuses[node], self._told[node] = status, report
        self._rests.begin(node, time.monotonic())

    def _make(self, node: str) -> None:
        try:
            self._cluster.create(VIP_NODES, {"metadata": {"name": node}}, manager=MANAGER)
        except Conflict:
            return  # this process was started again


def posts_in(text: str) -> dict[str, Post]:
    """Read `NODE DOMAIN ADDRESS` lines."""
    found = {}
    for line in text.splitlines():
        node, domain, address = line.split()
        found[node] = Post(domain, address)
    return found


def main(kubeconfig: str, dead: Path, nodes: Path) -> None:
    """Play the agents until killed."""
    cluster = connect(kubeconfig, user_agent="vipkeeper-courier")
    Couriers(cluster, Troupe(posts_in(nodes.read_text()))).run(dead)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
