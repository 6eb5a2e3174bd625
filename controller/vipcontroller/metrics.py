"""The door to prometheus_client: what the controller tells about itself and about its objects.

Only the leader tells of objects, so that two replicas do not tell the same thing twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from vipapi import conditions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipapi.resources import ServiceFailover, VirtualIP

Result = Literal["ok", "conflict", "error"]


class Metrics:
    """Every metric of the process, on a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._leader = Gauge(
            "vipkeeper_controller_leader", "1 while this replica leads.", registry=self._registry
        )
        self._looks = Histogram(
            "vipkeeper_controller_look_duration_seconds",
            "How long looking at everything and deciding took, without the writes.",
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
            registry=self._registry,
        )
        self._writes = Counter(
            "vipkeeper_controller_writes_total",
            "Writes to the API server.",
            ("kind", "result"),
            registry=self._registry,
        )
        self._events = Counter(
            "vipkeeper_controller_events_total", "Events told.", ("type", "result"), registry=self._registry
        )
        self._notifications = Counter(
            "vipkeeper_controller_notifications_total",
            "Messages to each notification target: ok, error, or hanging.",
            ("target", "result"),
            registry=self._registry,
        )
        self._problems = Gauge(
            "vipkeeper_controller_problems",
            "Objects that could not be read or decided.",
            registry=self._registry,
        )
        self._ready = Gauge(
            "vipkeeper_virtualip_ready", "1 while the VirtualIP is Ready.", ("name",), registry=self._registry
        )
        self._redundant = Gauge(
            "vipkeeper_virtualip_redundant",
            "1 while another node could take the VirtualIP over.",
            ("name",),
            registry=self._registry,
        )
        self._term = Gauge(
            "vipkeeper_virtualip_term", "The VirtualIP's term.", ("name",), registry=self._registry
        )
        self._outage = Gauge(
            "vipkeeper_virtualip_last_failover_duration_seconds",
            "How long the VirtualIP's last change of owner took.",
            ("name",),
            registry=self._registry,
        )

        self._services_ready = Gauge(
            "vipkeeper_servicefailover_ready",
            "1 while every service of the ServiceFailover is active on its owner.",
            ("namespace", "name"),
            registry=self._registry,
        )
        self._services_degraded = Gauge(
            "vipkeeper_servicefailover_degraded",
            "1 while a service of the ServiceFailover has failed, could not be stopped, or has no standby.",
            ("namespace", "name"),
            registry=self._registry,
        )

    def serve(self, address: str, port: int) -> None:
        """Serve `/metrics` from a thread; raises `OSError` when the port cannot be had."""
        start_http_server(port, addr=address, registry=self._registry)

    def looked(self, duration_s: float, *, problems: int) -> None:
        """Count one look."""
        self._looks.observe(duration_s)
        self._problems.set(problems)

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
            self._forget()

    def show(self, virtual_ips: Iterable[VirtualIP], failovers: Iterable[ServiceFailover]) -> None:
        """Tell how every VirtualIP and every ServiceFailover stands."""
        self._forget()
        for virtual_ip in virtual_ips:
            name, status = virtual_ip.metadata.name, virtual_ip.status
            self._ready.labels(name).set(int(conditions.is_true(status.conditions, "Ready")))
            self._redundant.labels(name).set(int(conditions.is_true(status.conditions, "Redundant")))
            self._term.labels(name).set(status.term or 0)
            last = status.last_failover
            if last is not None and last.duration_milliseconds is not None:
                self._outage.labels(name).set(last.duration_milliseconds / 1000)

        for failover in failovers:
            labels, found = (failover.metadata.namespace, failover.metadata.name), failover.status.conditions
            self._services_ready.labels(*labels).set(int(conditions.is_true(found, "Ready")))
            self._services_degraded.labels(*labels).set(int(conditions.is_true(found, "Degraded")))

    def _forget(self) -> None:
        of_addresses = (self._ready, self._redundant, self._term, self._outage)
        for gauge in (*of_addresses, self._services_ready, self._services_degraded):
            gauge.clear()
