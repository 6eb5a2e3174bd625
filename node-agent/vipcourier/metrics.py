"""The door to Prometheus for the courier: what is measured, under which names."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, start_http_server

from vipapi import __version__

keeper_connected = Gauge("vipkeeper_courier_keeper_connected", "1 while the keeper's socket is connected.")
tasks = Gauge("vipkeeper_courier_tasks", "Tasks of the courier's event loop that have not ended.")
plans_sent = Counter("vipkeeper_courier_plans_sent_total", "Plans handed to the keeper.")
plan_bytes = Gauge("vipkeeper_courier_plan_bytes", "Size of the newest plan.")
plan_problems = Gauge("vipkeeper_courier_plan_problems", "Objects that the newest plan could not use.")
reports_received = Counter("vipkeeper_courier_reports_received_total", "Reports that the keeper sent.")
refused_lines = Counter("vipkeeper_courier_refused_lines_total", "Lines of the keeper that were no report.")
reports_applied = Counter("vipkeeper_courier_reports_applied_total", "Writes of the VIPNode's status.")
api_errors = Counter("vipkeeper_courier_api_errors_total", "Requests that the API server refused.", ["error"])
votes_held = Gauge("vipkeeper_courier_votes_held", "API server's votes that this node holds and wants.")
vote_requests = Counter(
    "vipkeeper_courier_vote_requests_total", "Requests for the API server's votes.", ["request"]
)
vote_failures = Counter(
    "vipkeeper_courier_vote_failures_total", "Requests for the API server's votes that gave none.", ["reason"]
)


def serve(address: str, port: int) -> None:
    """Serve the metrics over HTTP, in a thread of the library's; raises `OSError`."""
    build = Gauge("vipkeeper_build_info", "1, with the version of the program.", ["component", "version"])
    build.labels("courier", __version__).set(1)
    start_http_server(port, addr=address)
