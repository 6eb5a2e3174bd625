"""The door to prometheus_client: what the controller tells about itself and about its objects.

Only the leader tells of objects: two replicas would tell the same thing twice, and one that led once would
go on telling what was. What one look found is told whole: the gauges are made when somebody asks for them,
so that nobody sees half of them, and an object that is gone is told of no more.

Labels are names of objects and nodes, and fixed words; `namespace` is the object's. Who scrapes this by a
PodMonitor sets `honorLabels`, or else Prometheus renames it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from vipapi import __version__, conditions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vipapi.resources import ServiceFailover, VirtualIP
    from vipcontroller.vitals import Vitals

Result = Literal["ok", "conflict", "error"]

_VIRTUAL_IP: Final = ("virtualip",)
_FAILOVER: Final = ("namespace", "servicefailover")
OF_OBJECTS: Final = {
    "vipkeeper_virtualip_ready": ("1 while the VirtualIP is Ready.", _VIRTUAL_IP),
    "vipkeeper_virtualip_redundant": ("1 while another node could take the VirtualIP over.", _VIRTUAL_IP),
    "vipkeeper_virtualip_owner": (
        "1 for the node that a majority of the witnesses granted the VirtualIP to; absent without an owner.",
        ("virtualip", "node"),
    ),
    "vipkeeper_virtualip_holders": (
        "How many nodes that are heard say that they hold the VirtualIP.",
        _VIRTUAL_IP,
    ),
    "vipkeeper_virtualip_observed_term": (
        "The VirtualIP's term, as its witnesses have it: it grows with each change of owner.",
        _VIRTUAL_IP,
    ),
    "vipkeeper_virtualip_last_failover_duration_seconds": (
        "How long the VirtualIP's last change of owner took.",
        _VIRTUAL_IP,
    ),
    "vipkeeper_servicefailover_ready": (
        "1 while every service of the ServiceFailover is active on its owner.",
        _FAILOVER,
    ),
    "vipkeeper_servicefailover_degraded": (
        "1 while a service of the ServiceFailover has failed, could not be stopped, or has no standby.",
        _FAILOVER,
    ),
    "vipkeeper_domain_witnesses": ("How many votes the FailoverDomain's witnesses have.", ("domain",)),
    "vipkeeper_domain_heard_witnesses": (
        "Votes of the FailoverDomain whose witnesses are heard by a majority.",
        ("domain",),
    ),
    "vipkeeper_domain_spare_witnesses": (
        "How many more witnesses may fall silent before nobody may hold an address there; below 0: now.",
        ("domain",),
    ),
    "vipkeeper_node_agent_heard": (
        "1 while a majority of the FailoverDomain's witnesses hears the node's keeper.",
        ("domain", "node"),
    ),
}
"""Every gauge about objects: what it says, and its labels."""


class _Seen(NamedTuple):
    """What one look of the leader found."""

    virtual_ips: tuple[VirtualIP, ...]
    failovers: tuple[ServiceFailover, ...]
    vitals: Vitals


class _Objects(Collector):
    """Makes the gauges about objects of the last look, each time that somebody asks."""

    def __init__(self) -> None:
        self.seen: _Seen | None = None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        families = {
            name: GaugeMetricFamily(name, text, labels=labels) for name, (text, labels) in OF_OBJECTS.items()
        }
        seen = self.seen  # read once: the controller replaces it in a thread of its own
        if seen is not None:
            for name, labels, value in _samples(seen):
                families[name].add_metric(labels, value)
        yield from families.values()


def _samples(seen: _Seen) -> Iterator[tuple[str, tuple[str, ...], float]]:
    for virtual_ip in seen.virtual_ips:
        name, status = (virtual_ip.metadata.name,), virtual_ip.status
        yield "vipkeeper_virtualip_ready", name, conditions.is_true(status.conditions, "Ready")
        yield "vipkeeper_virtualip_redundant", name, conditions.is_true(status.conditions, "Redundant")
        yield "vipkeeper_virtualip_observed_term", name, status.term or 0
        if status.owner is not None:
            yield "vipkeeper_virtualip_owner", (*name, status.owner), 1
        last = status.last_failover
        if last is not None and last.duration_milliseconds is not None:
            seconds = last.duration_milliseconds / 1000
            yield "vipkeeper_virtualip_last_failover_duration_seconds", name, seconds
    for virtual_ip_name, count in seen.vitals.holders.items():
        yield "vipkeeper_virtualip_holders", (virtual_ip_name,), count
    for failover in seen.failovers:
        title, found = (failover.metadata.namespace, failover.metadata.name), failover.status.conditions
        yield "vipkeeper_servicefailover_ready", title, conditions.is_true(found, "Ready")
        yield "vipkeeper_servicefailover_degraded", title, conditions.is_true(found, "Degraded")
    for domain in seen.vitals.domains:
        yield "vipkeeper_domain_witnesses", (domain.name,), domain.witnesses
        yield "vipkeeper_domain_heard_witnesses", (domain.name,), domain.heard
        if domain.spare is not None:
            yield "vipkeeper_domain_spare_witnesses", (domain.name,), domain.spare
        for node, is_heard in domain.agents.items():
            yield "vipkeeper_node_agent_heard", (domain.name, node), is_heard


class Metrics:
    """Every metric of the process, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._objects = _Objects()
        registry.register(self._objects)
        Gauge(
            "vipkeeper_build_info",
            "1, with the version of the program.",
            ("component", "version"),
            registry=registry,
        ).labels("controller", __version__).set(1)
        self._leader = Gauge("vipkeeper_controller_leader", "1 while this replica leads.", registry=registry)
        self._looks = Histogram(
            "vipkeeper_controller_look_duration_seconds",
            "How long looking at everything and deciding took, without the writes.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
            registry=registry,
        )
        self._writes = Counter(
            "vipkeeper_controller_writes_total",
            "Writes to the API server.",
            ("kind", "result"),
            registry=registry,
        )
        self._events = Counter(
            "vipkeeper_controller_events_total", "Events told.", ("type", "result"), registry=registry
        )
        self._notifications = Counter(
            "vipkeeper_controller_notifications_total",
            "Messages to each notification target: ok, error, or hanging.",
            ("target", "result"),
            registry=registry,
        )
        self._problems = Gauge(
            "vipkeeper_controller_problems",
            "Objects that could not be read or decided.",
            registry=registry,
        )

    def serve(self, address: str, port: int) -> None:
        """Serve `/metrics` from a thread; raises `OSError` when the port cannot be had."""
        start_http_server(port, addr=address, registry=self.registry)

    def looked(self, duration_s: float, *, problems: int) -> None:
        """Count one look."""
        self._looks.observe(duration_s)
        self._problems.set(problems)

    def looked_in_vain(self) -> None:
        """Take note of a look that came to no decision."""
        self._problems.set(1)

    def wrote(self, kind: str, result: Result) -> None:
        """Count one write."""
        self._writes.labels(kind, result).inc()

    def told(self, kind: str, result: Result) -> None:
        """Count one Event."""
        self._events.labels(kind, result).inc()

    def notified(self, target: str, result: str) -> None:
        """Count one message to somebody who is notified."""
        self._notifications.labels(target, result).inc()

    def led(self, *, is_leader: bool) -> None:
        """Tell whether this replica leads; without the lead nothing is told of objects."""
        self._leader.set(int(is_leader))
        if not is_leader:
            self._objects.seen = None
            self._problems.set(0)

    def show(
        self, virtual_ips: Iterable[VirtualIP], failovers: Iterable[ServiceFailover], vitals: Vitals
    ) -> None:
        """Tell how every VirtualIP, every ServiceFailover and every FailoverDomain stands."""
        self._objects.seen = _Seen(tuple(virtual_ips), tuple(failovers), vitals)
