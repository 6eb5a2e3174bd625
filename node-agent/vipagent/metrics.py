"""The door to Prometheus for the keeper: what is measured, under which names.

Label values are bounded: names of VirtualIPs that this node holds and of services that it is planned for, and
fixed words of refusals, reasons and states.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Summary, start_http_server

from vipapi import __version__

_MARGIN_BUCKETS: Final = (0.0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.6, 0.8, 1.0)

lease_margin = Histogram(
    "vipkeeper_lease_margin_seconds",
    "Time that was left of a lease when it was renewed.",
    buckets=_MARGIN_BUCKETS,
)
late_rounds = Counter(
    "vipkeeper_late_rounds_total", "Wake-ups of the lease loop more than 20 ms after they were due."
)
held = Gauge(
    "vipkeeper_virtualip_held", "1 while this node holds the VirtualIP; absent if it does not.", ["virtualip"]
)
term = Gauge(
    "vipkeeper_virtualip_term",
    "The term under which this node holds the VirtualIP; absent if it does not.",
    ["virtualip"],
)
takeovers = Counter("vipkeeper_takeovers_total", "VirtualIPs that came to this node.", ["reason"])
takeover_seconds = Histogram(
    "vipkeeper_takeover_seconds",
    "From the last sign of the former owner until the first announcement.",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0, 2.0, 5.0),
)
refused_datagrams = Counter(
    "vipkeeper_refused_datagrams_total", "Datagrams that were not believed or not for us.", ["refusal"]
)
lost_datagrams = Counter("vipkeeper_lost_datagrams_total", "Datagrams that could not be sent.")
refused_plans = Counter("vipkeeper_refused_plans_total", "Plans that could not be read or kept.", ["reason"])
failed_actions = Counter(
    "vipkeeper_failed_kernel_actions_total", "Kernel actions that failed and are tried again.", ["action"]
)
couriers = Gauge("vipkeeper_couriers", "Couriers that are connected.")
incarnation = Gauge("vipkeeper_keeper_incarnation", "Grows with every start of the keeper.")
event_hooks = Counter(
    "vipkeeper_event_hooks_total",
    "Events that services' hooks were told of, and how those ended.",
    ["event", "result"],
)
_SERVICE: Final = ["namespace", "servicefailover", "service"]
service_state = Gauge(
    "vipkeeper_service_state",
    "1 for the state that the service is in on this node, else 0.",
    [*_SERVICE, "state"],
)
service_starts = Counter("vipkeeper_service_starts_total", "Starts of the service on this node.", _SERVICE)
service_failures = Counter(
    "vipkeeper_service_failures_total",
    "Times that the service did not start, died or failed its checks on this node.",
    _SERVICE,
)
service_stop_failures = Counter(
    "vipkeeper_service_stop_failures_total", "Times that the service could not be stopped.", _SERVICE
)
service_start_seconds = Summary(
    "vipkeeper_service_start_seconds", "From the start of the service until it worked.", _SERVICE
)
service_stop_seconds = Summary(
    "vipkeeper_service_stop_seconds",
    "From being told to stop until nothing was left of the service.",
    _SERVICE,
)
OF_SERVICES: Final = (
    service_starts,
    service_failures,
    service_stop_failures,
    service_start_seconds,
    service_stop_seconds,
)


def took(virtual_ip: str, *, new_term: int, reason: str, seconds: float) -> None:
    """Count a VirtualIP that came to this node."""
    held.labels(virtual_ip).set(1)
    term.labels(virtual_ip).set(new_term)
    takeovers.labels(reason).inc()
    takeover_seconds.observe(seconds)


def left(virtual_ip: str) -> None:
    """Show that a VirtualIP is held here no more."""
    held.remove(virtual_ip)
    term.remove(virtual_ip)


def serve(address: str, port: int) -> None:
    """Serve the metrics over HTTP, in a thread of the library's; raises `OSError`."""
    build = Gauge("vipkeeper_build_info", "1, with the version of the program.", ["component", "version"])
    build.labels("keeper", __version__).set(1)
    start_http_server(port, addr=address)
