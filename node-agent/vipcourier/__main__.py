"""vipkeeper-courier: reads its options and runs the courier.

Exit status: 0 after an orderly stop, 1 when something that it needs is missing (said in the last line
of its log, with the remedy), 2 for unusable options.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path

from vipapi import listen
from vipcluster.client import BadConfiguration, connect
from vipcourier import metrics
from vipcourier.courier import MANAGER, Blind, Courier
from vipcourier.votes import PATIENCE_NS
from viphealth import arenas, ending, server

_log = logging.getLogger("vipcourier")


def main() -> None:
    """Run the courier until SIGTERM or SIGINT."""
    ending.end_at_once()
    options = _parser().parse_args(sys.argv[1:])
    arenas.share_one()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=options.log_level, handlers=[handler])
    try:
        metrics.serve(*options.metrics)
    except OSError as error:
        _log.critical(
            "The metrics cannot be served at %s port %d: %s: give --metrics", *options.metrics, error
        )
        sys.exit(1)
    try:
        asyncio.run(_run(options))
    except (BadConfiguration, Blind, server.CannotServeHealth) as error:
        _log.critical("%s", error)
        sys.exit(1)


class _Lines(logging.Formatter):
    """One line for each message; what `vipcluster` says in the field `error` stands at its end."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.__dict__.get("error")
        line = super().format(record)
        return f"{line}: {error}" if error else line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vipkeeper-courier",
        description="Carries the plan to the keeper and its report to the API server.",
    )
    parser.add_argument("--node", required=True, help="this node's name, as Kubernetes has it")
    parser.add_argument(
        "--socket", type=Path, default=Path("/run/vipkeeper/keeper.sock"), help="where the keeper listens"
    )
    parser.add_argument(
        "--namespace",
        default="vipkeeper-system",
        help="where the heartbeat Secrets and the votes' Leases are",
    )
    parser.add_argument(
        "--metrics", type=listen.parse, default=("127.0.0.1", 9947), help="address:port of the metrics"
    )
    parser.add_argument(
        "--health",
        type=listen.parse,
        help="address:port of /healthz and /readyz, such as 127.0.0.1:9957; absent: not served",
    )
    parser.add_argument(
        "--kubeconfig", help="a kubeconfig; otherwise the pod's service account, or KUBECONFIG"
    )
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    return parser


async def _run(options: argparse.Namespace) -> None:
    cluster = connect(options.kubeconfig, user_agent=MANAGER)
    for_votes = connect(options.kubeconfig, user_agent=MANAGER, timeout_s=PATIENCE_NS / 1e9)
    courier = Courier(
        node=options.node,
        namespace=options.namespace,
        socket=options.socket,
        cluster=cluster,
        for_votes=for_votes,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    metrics.tasks.set_function(lambda: len(asyncio.all_tasks(loop)))
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop.set)
    with contextlib.ExitStack() as stack:
        if options.health is not None:
            stack.enter_context(server.serve(options.health, server.of_loop(loop, courier.health)))
        _log.info("Courier of %s started", options.node)
        await courier.run(stop)
    _log.info("Courier stopped")


if __name__ == "__main__":
    main()
