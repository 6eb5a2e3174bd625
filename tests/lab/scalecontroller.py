"""What `make scale` measures: the controller with many VirtualIPs and a hundred agents.

A real API server has the objects, the real controller runs with the rights that the chart gives it, and the
agents are simulated (`lab.simulated_agents`). For each `Layout` and number of VirtualIPs, in a cluster of
its own:

    first      the controller's start with everything new to it, until every VirtualIP is Ready
    restart    it was stopped, a node that is no witness died, its addresses went elsewhere, and it is
               started again: until every VirtualIP is Ready and names an owner that lives
    idle       after that: memory, CPU and what is written while nothing happens. A kubelet tells its
               node's status every five minutes, and so does the lab for each of the hundred

A time is that of a look at the API server, of which there is one every `LOOK_S`; it contains the start of
Python.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

from rich.table import Table

from lab import counters, enclosure
from lab.agents import CONTROLLER_METRICS, NAMESPACE, RBAC, start_controller
from lab.api import manifests_in
from lab.choice import picked
from lab.cluster import Lab
from lab.measuring import environment
from lab.peers import cpu_s, resident_mb
from lab.stage import NotReadyError
from vipcluster.client import FAILOVER_DOMAINS, NODES, VIP_NODES, VIRTUAL_IPS, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from lab.binaries import Binaries
    from lab.counters import Written
    from lab.processes import Process
    from vipcluster.client import Cluster

AGENTS = 100
FULL = 1_000
LIMIT_S = 10
LIMIT_MB = 200
LOOK_S = 0.25
PATIENCE_S = 240.0
REST_S = 6.0
QUIET_S = 120.0
BASELINE_S = 40.0
KUBELET_S = 300.0
MEMBER_RANGE = "198.18.0.0/15"
IPV6_RANGE = "2001:db8::/32"
EVERY_SIXTH = 5

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a hundred nodes are cut into domains, and how many candidates each VirtualIP names; 0: none."""

    title: str
    domains: int
    named: int = 0

    def domain(self, number: int) -> str:
        """Return the domain of a VirtualIP."""
        return f"rack-{number % self.domains}"

    def candidates(self, number: int) -> list[str]:
        """Return the nodes that a VirtualIP names."""
        return [node_name((number * self.named + step) % AGENTS) for step in range(self.named)]


NAMING = Layout("one domain, 5 candidates named", 1, named=5)
RACKS = Layout("10 domains of 10 nodes", 10)
EVERYBODY = Layout("one domain, every node a candidate", 1)

CASES = (
    *((NAMING, count) for count in (0, 100, 500, FULL)),
    (RACKS, FULL),
    (EVERYBODY, FULL),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one case cost; `written` and `beside` are writes an hour with and without vipkeeper running."""

    layout: Layout
    count: int
    first_s: float
    restart_s: float
    fresh_mb: float
    resident_mb: float
    core_percent: float
    look_ms: float
    written: dict[Written, float] = field(default_factory=dict)
    beside: dict[Written, float] = field(default_factory=dict)


def node_name(number: int) -> str:
    return f"node-{number:03}"


def addresses(number: int) -> list[str]:
    """Return the addresses of a VirtualIP; every sixth has one of IPv6 alone."""
    if number % (EVERY_SIXTH + 1) == EVERY_SIXTH:
        return [f"2001:db8::1:{number:x}/64"]
    return [f"198.18.{number // 250}.{number % 250 + 1}/15"]


def virtual_ip(layout: Layout, number: int) -> Object:
    """Return a VirtualIP as a user makes it."""
    spec: Object = {"addresses": addresses(number), "domain": layout.domain(number)}
    if layout.named:
        spec["candidates"] = [{"nodeName": name} for name in layout.candidates(number)]
    return {"metadata": {"name": f"vip-{number:04}"}, "spec": spec}


def is_settled(found: Object, dead: frozenset[str] = frozenset()) -> bool:
    """Whether a VirtualIP is Ready, as it is specified now, on a node that lives, and on its way nowhere."""
    status = found.get("status", {})
    told = {each["type"]: each["status"] for each in status.get("conditions", ())}
    return (
        status.get("observedGeneration") == found["metadata"]["generation"]
        and told.get("Ready") == "True"
        and "Reconciling" not in told
        and status.get("owner") not in dead
    )


class Crowd:
    """One cluster with its agents."""

    def __init__(self, lab: Lab, layout: Layout) -> None:
        self.lab = lab
        self._layout = layout
        self._dead = lab.folder / "dead"
        self._count = 0
        self._controller: Process | None = None
        self.cluster: Cluster

    def set_up(self, count: int) -> None:
        """Start the API server and the agents, and make all objects; no controller runs yet."""
        self._count = count
        self.lab.start()
        api = self.lab.plane.api
        api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        for manifest in manifests_in(RBAC):
            api.apply(manifest)
        self.cluster = connect(str(self.lab.plane.kubeconfig), user_agent="lab")
        posts = []
        for number in range(AGENTS):
            rack = f"rack-{number * self._layout.domains // AGENTS}"
            self._make(NODES, {"metadata": {"name": node_name(number), "labels": {"rack": rack}}})
            posts.append(f"{node_name(number)} {rack} 198.19.0.{number + 1}\n")
        for number in range(self._layout.domains):
            spec = {
                "nodeSelector": {"matchLabels": {"rack": f"rack-{number}"}},
                "allowedAddresses": [MEMBER_RANGE, IPV6_RANGE],
            }
            self._make(FAILOVER_DOMAINS, {"metadata": {"name": f"rack-{number}"}, "spec": spec})
        nodes = self.lab.folder / "nodes"
        nodes.write_text("".join(posts))
        kubeconfig = self.lab.plane.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-courier")
        self.lab.host.start(
            [sys.executable, "-m", "lab.simulated_agents", kubeconfig, self._dead, nodes],
            name="agents",
            environment=environment(),
        )
        for number in range(count):
            self._make(VIRTUAL_IPS, virtual_ip(self._layout, number))
        self._await("the agents' VIPNodes", lambda: len(self._all_nodes()) == AGENTS)

    def settle(self) -> float:
        """Start the controller, wait until everything is settled, and return the seconds."""
        started_s = time.monotonic()
        self._controller = start_controller(self.lab, 1)
        self._await("a leader", self._leads)
        self._await("all VirtualIPs to be Ready", self._is_settled)
        return time.monotonic() - started_s

    def stop(self) -> None:
        """Stop the controller, as a Deployment does."""
        assert self._controller is not None
        self._controller.terminate()

    def bury(self) -> None:
        """Let the node that has most of all die, among those that are no witnesses, and others take over."""
        witnesses = {
            each["nodeName"]
            for domain in self.cluster.list(FAILOVER_DOMAINS).documents
            for each in domain["status"]["witnesses"]
        }
        held = [each["status"].get("owner") for each in self.cluster.list(VIRTUAL_IPS).documents]
        name = max(
            (node_name(number) for number in range(AGENTS) if node_name(number) not in witnesses),
            key=held.count,
        )
        self._dead.write_text(name)
        self._await("the witnesses to know of a death", partial(self._is_gone, name))

    def resident_mb(self) -> float:
        assert self._controller is not None
        return resident_mb(self._controller.child.pid)

    def idle(self, seconds: float) -> tuple[float, float, dict[Written, float]]:
        """Return per cent of a core, the mean look in ms, and the writes an hour while nothing happens."""
        assert self._controller is not None
        before_s, looks = cpu_s(self._controller.child.pid), self._looks()
        written = self.writes_per_hour(seconds)
        spent_s = cpu_s(self._controller.child.pid) - before_s
        count, sum_s = (now - then for now, then in zip(self._looks(), looks, strict=True))
        return 100 * spent_s / seconds, 1000 * sum_s / max(count, 1), written

    def writes_per_hour(self, seconds: float) -> dict[Written, float]:
        """Return what is written, by kubelets too, which the lab plays."""
        before, started_s = counters.writes(self._apiserver_metrics()), time.monotonic()
        numbers = cycle(range(AGENTS))
        while (left_s := started_s + seconds - time.monotonic()) > 0:
            time.sleep(min(KUBELET_S / AGENTS, left_s))
            self._tell_node(next(numbers))
        return counters.per_hour(
            before, counters.writes(self._apiserver_metrics()), time.monotonic() - started_s
        )

    def _tell_node(self, number: int) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ready = {"type": "Ready", "status": "True", "reason": "Lab", "lastHeartbeatTime": now}
        status = {"status": {"conditions": [ready]}}
        self.lab.plane.api.merge("v1", "Node", node_name(number), status, subresource="/status")

    def _make(self, resource: Any, document: Object) -> None:
        self.cluster.create(resource, document, manager="lab")

    def _all_nodes(self) -> list[Object]:
        return self.cluster.list(VIP_NODES).documents

    def _is_gone(self, node: str) -> bool:
        domains = [
            each
            for found in self._all_nodes()
            if found["metadata"]["name"] != node
            for each in found["status"]["domains"]
        ]
        grants = [grant for each in domains for grant in each.get("grants", ())]
        is_heard = any(node in each.get("reachablePeers", ()) for each in domains)
        return not is_heard and all(grant["holder"] != node for grant in grants)

    def _is_settled(self) -> bool:
        told = [
            value for _, value in counters.samples(self._controller_metrics(), "vipkeeper_virtualip_ready")
        ]
        if len(told) < self._count or not all(told):
            return False  # a list of a thousand objects is not asked for in vain: it takes what is measured
        known = self.cluster.list(VIRTUAL_IPS).documents
        if len(known) != len(told):
            return False
        dead = frozenset(self._dead.read_text().split()) if self._dead.exists() else frozenset[str]()
        domains = self.cluster.list(FAILOVER_DOMAINS).documents
        return all(_is_quorate(each) for each in domains) and all(is_settled(each, dead) for each in known)

    def _leads(self) -> bool:
        return counters.total(self._controller_metrics(), "vipkeeper_controller_leader") == 1

    def _looks(self) -> tuple[float, float]:
        text, name = self._controller_metrics(), "vipkeeper_controller_look_duration_seconds"
        return counters.total(text, f"{name}_count"), counters.total(text, f"{name}_sum")

    def _controller_metrics(self) -> str:
        url = f"http://127.0.0.1:{CONTROLLER_METRICS + 10}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                text: str = answer.read().decode()
        except OSError:
            return ""
        return text

    def _apiserver_metrics(self) -> str:
        _, text = self.lab.plane.api.raw("GET", "/metrics", patience_s=30)
        return text.decode()

    def _await(self, what: str, is_so: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not is_so():
            if time.monotonic() > until_s:
                raise NotReadyError(f"waited {PATIENCE_S:.0f} s for {what}, in vain")
            time.sleep(LOOK_S)


def _is_quorate(domain: Object) -> bool:
    told = {each["type"]: each["status"] for each in domain.get("status", {}).get("conditions", ())}
    return told.get("Quorate") == "True"


def measure(binaries: Binaries, folder: Path, layout: Layout, count: int) -> Outcome:
    """Measure one case; raises `NotReadyError`."""
    lab = Lab(binaries, folder, nodes=0)
    try:
        crowd = Crowd(lab, layout)
        crowd.set_up(count)
        first_s = crowd.settle()
        time.sleep(REST_S)
        fresh_mb = crowd.resident_mb()
        crowd.stop()
        beside = crowd.writes_per_hour(BASELINE_S) if count == FULL else {}
        if count:
            crowd.bury()
        restart_s = crowd.settle()
        time.sleep(REST_S)
        core_percent, look_ms, written = crowd.idle(QUIET_S if count == FULL else REST_S)
        return Outcome(
            layout=layout,
            count=count,
            first_s=first_s,
            restart_s=restart_s,
            fresh_mb=fresh_mb,
            resident_mb=crowd.resident_mb(),
            core_percent=core_percent,
            look_ms=look_ms,
            written=written,
            beside=beside,
        )
    finally:
        lab.close()


def chosen(only: str) -> list[tuple[Layout, int]]:
    """Return the cases that a text picks (`lab.choice`) by layout and number of objects."""
    return picked(only, CASES, lambda case: [f"controller {case[0].title} {case[1]}"])


def run(binaries: Binaries, say: Callable[[str], None], *, only: str) -> tuple[list[Table], bool]:
    """Measure the cases that are chosen; return the tables, and whether everything settled."""
    outcomes, is_settled_always = [], True
    for number, (layout, count) in enumerate(chosen(only)):
        say(f"controller: {count} VirtualIPs, {AGENTS} agents, {layout.title}")
        try:
            outcome = measure(binaries, enclosure.scratch_folder() / f"controller-{number}", layout, count)
        except NotReadyError as failure:
            say(f"  FAILED: {failure}")
            is_settled_always = False
            continue
        say(
            f"  settled in {outcome.first_s:.1f} s, after a restart in {outcome.restart_s:.1f} s, "
            f"{outcome.resident_mb:.0f} MB"
        )
        outcomes.append(outcome)
    return list(tables(outcomes)), is_settled_always


def tables(outcomes: list[Outcome]) -> Iterator[Table]:
    """Yield what was measured."""
    if not outcomes:
        return
    title = (
        f"the controller with {AGENTS} agents: settled ≤ {LIMIT_S} s after start, ≤ {LIMIT_MB} MB at {FULL}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("layout")
    for column in (
        "VirtualIPs",
        "first start s",
        "restart s",
        "MB after first",
        "MB",
        "idle % of a core",
        "look ms",
    ):
        table.add_column(column, justify="right")
    for each in outcomes:
        table.add_row(
            each.layout.title,
            str(each.count),
            f"{each.first_s:.1f}",
            f"{each.restart_s:.1f}",
            f"{each.fresh_mb:.0f}",
            f"{each.resident_mb:.0f}",
            f"{each.core_percent:.1f}",
            f"{each.look_ms:.0f}",
        )
    yield table
    table = Table(
        title=f"requests that write, an hour, while nothing happens, from {QUIET_S:.0f} s (virtualips: 0)",
        title_justify="left",
    )
    for column in ("layout", "resource", "verb"):
        table.add_column(column)
    for column in ("an hour", "without a controller"):
        table.add_column(column, justify="right")
    for each in outcomes:
        for kind in sorted(each.written.keys() | each.beside.keys()):
            rates = (each.written.get(kind, 0), each.beside.get(kind, 0))
            table.add_row(each.layout.title, *kind, *(f"{rate:.0f}" for rate in rates))
        if each.written:
            table.add_section()
    yield table
