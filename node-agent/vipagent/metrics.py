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
    "vipkeeper_virtualip_held",
    "1 while this node owns the VirtualIP and has bound its addresses; absent if it does not.",
    ["virtualip"],
)
term = Gauge(
    "vipkeeper_virtualip_term",
    "The term under which this node owns the VirtualIP whose addresses it has bound; absent if it does not.",
    ["virtualip"],
)
takeovers = Counter("vipkeeper_takeovers_total", "VirtualIPs that came to this node.", ["reason"])
takeover_seconds = Histogram(
    "vipkeeper_takeover_seconds",
    "From the last sign of the former owner, or of another machine with it, until the first announcement.",
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
foreign_claims = Counter(
    "vipkeeper_foreign_claims_total",
    "Frames by which another machine claimed an address while this node had its lease.",
    ["kind"],
)
lost_frames = Counter(
    "vipkeeper_lost_frames_total", "Claims of addresses that came faster than they were read."
)
conflict = Gauge(
    "vipkeeper_virtualip_conflict",
    "1 while a machine outside vipkeeper has an address of the VirtualIP that this node owns; else absent.",
    ["virtualip", "reason"],
)
fence = Gauge("vipkeeper_fence_info", "1, with the kind of the packet fence.", ["kind"])
fence_repairs = Counter(
    "vipkeeper_fence_repairs_total",
    "Times that a part of the fence was made afresh after another program took it away.",
)
tasks = Gauge("vipkeeper_tasks", "Tasks of the keeper's event loop that have not ended.")
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


def holds(virtual_ip: str, new_term: int) -> None:
    """Show that a VirtualIP's addresses are bound here."""
    held.labels(virtual_ip).set(1)
    term.labels(virtual_ip).set(new_term)


def took(*, reason: str, seconds: float) -> None:
    """Count a VirtualIP that came to this node."""
    takeovers.labels(reason).inc()
    takeover_seconds.observe(seconds)


def left(virtual_ip: str) -> None:
    """Show that a VirtualIP's addresses are bound here no more."""
    held.remove(virtual_ip)
    term.remove(virtual_ip)


def serve(address: str, port: int) -> None:
    """Serve the metrics over HTTP, in a thread of the library's; raises `OSError`."""
    build = Gauge("vipkeeper_build_info", "1, with the version of the program.", ["component", "version"])
    build.labels("keeper", __version__).set(1)
    start_http_server(port, addr=address)
