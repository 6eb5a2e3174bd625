"""What the services of this node do, as Prometheus sees it (`metrics`): their states, how often, how long.

A service that this node is planned for is shown with its state, `Stopped` on a standby, and is forgotten when
it is planned no more and has stopped. Times are those of this node's own copies: from the start until it
works, and from being told to stop until nothing of it is left, whatever was tried meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from vipagent import metrics
from vipapi.nodestatus import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.runs import Fault, Outcome
    from vipapi.nodeplan import ServicePlan

_STATES: Final = get_args(State)

Labels = tuple[str, str, str]


def labels(service: ServicePlan) -> Labels:
    """Return what names it in every metric: namespace, ServiceFailover, service."""
    return service.namespace, service.failover, service.name


class Tallies:
    """Counts and times of one node's services. `show` is to be called whenever a state has changed."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[Labels, State]] = {}
        self._started: dict[tuple[str, int], tuple[Labels, int]] = {}
        self._told_to_stop: dict[tuple[str, int], int] = {}

    def start(self, service: ServicePlan, run: int, now_ns: int) -> None:
        """It is being started."""
        metrics.service_starts.labels(*labels(service)).inc()
        self._started[service.id, run] = labels(service), now_ns

    def stop(self, service_id: str, run: int, now_ns: int) -> None:
        """It is told to stop, perhaps once more."""
        self._told_to_stop.setdefault((service_id, run), now_ns)

    def receive(self, outcome: Outcome, now_ns: int) -> None:
        """Take note of what became of a run; what an earlier keeper left behind is not counted."""
        key = outcome.service_id, outcome.run
        named = self._started.get(key)
        if named is not None and outcome.kind == "Started":
            metrics.service_start_seconds.labels(*named[0]).observe((now_ns - named[1]) / 1e9)
        if outcome.kind == "Stopped":
            self._started.pop(key, None)
            since_ns = self._told_to_stop.pop(key, None)
            if named is not None and since_ns is not None:
                metrics.service_stop_seconds.labels(*named[0]).observe((now_ns - since_ns) / 1e9)

    def fail(self, fault: Fault) -> None:
        """Count a failure."""
        metric = metrics.service_stop_failures if fault.is_stop else metrics.service_failures
        metric.labels(*labels(fault.service)).inc()

    def show(self, states: Iterable[tuple[ServicePlan, State]]) -> None:
        """Show these and no others."""
        shown = {service.id: (labels(service), state) for service, state in states}
        for key, (named, state) in shown.items():
            if self._shown.get(key) != (named, state):
                for each in _STATES:
                    metrics.service_state.labels(*named, each).set(each == state)
        kept = {named for named, _ in shown.values()}
        for named, _ in self._shown.values():
            if named not in kept:
                self._forget(named)
        self._shown = shown

    @staticmethod
    def _forget(named: Labels) -> None:
        for each in _STATES:
            metrics.service_state.remove(*named, each)
        for metric in metrics.OF_SERVICES:
            metric.remove(*named)
