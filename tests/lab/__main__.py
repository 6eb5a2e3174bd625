"""The lab's command: `python -m lab up | demo | bench | faults | binaries`.

Every subcommand first finds the control plane, building it if need be, and then moves into an
enclosure: whichever way the command ends, all that it started ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from lab import binaries, enclosure
from lab.enclosure import EnclosureRefusedError
from lab.faults import NftMissingError
from lab.gobuilds import BinariesMissingError
from lab.processes import ProcessFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        found = binaries.locate(say)
        if options.command == "binaries":
            for path in (found.etcd, found.kube_apiserver, found.kubectl):
                say(f"{path} ({found.origin})")
            return 0
        enclosure.enter()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _leave)
        return _run(options, found)
    except (BinariesMissingError, EnclosureRefusedError, NftMissingError, ProcessFailedError) as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _run(options: argparse.Namespace, found: binaries.Binaries) -> int:
    # Imported only when needed: `binaries` runs in places that lack the rest.
    if options.command == "demo":
        from lab.demo import run as run_demo  # noqa: PLC0415

        return run_demo(found, say, keep=options.keep)
    if options.command == "bench":
        from lab.bench import run as run_bench  # noqa: PLC0415

        return run_bench(found, say, runs=options.runs, only=options.only)
    if options.command == "faults":
        from lab.faulttable import run as run_faults  # noqa: PLC0415

        return run_faults(found, say, times=options.times, busy=options.busy, only=options.only)
    from lab import standing  # noqa: PLC0415

    return standing.run(found, say, nodes=options.nodes, bare=options.bare)


def _leave(number: int, _: object) -> NoReturn:
    with contextlib.suppress(ValueError):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab", description="A Kubernetes of real nodes on one machine."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring a lab up, with vipkeeper in it, and keep it until Ctrl-C")
    up.add_argument("--nodes", type=int, default=3, help="how many nodes (3)", metavar="N")
    up.add_argument("--bare", action="store_true", help="the control plane and the nodes only")
    demo = commands.add_parser("demo", help="show eight faults and what each cost a client")
    demo.add_argument("--keep", action="store_true", help="leave the lab running afterwards, until Ctrl-C")
    bench = commands.add_parser(
        "bench", help="measure failovers many times over, and what the processes cost"
    )
    bench.add_argument("--runs", type=int, default=40, help="runs of each case (40)", metavar="N")
    bench.add_argument("--only", default="", help="only the cases whose name contains this", metavar="TEXT")
    faults = commands.add_parser(
        "faults", help="do every fault to a service that follows its address, many times, on a busy machine"
    )
    faults.add_argument("--times", type=int, default=4, help="how often each fault (4)", metavar="N")
    faults.add_argument(
        "--busy", type=int, default=2, help="how many processes use the processor meanwhile (2)", metavar="N"
    )
    faults.add_argument("--only", default="", help="only the faults whose name contains this", metavar="TEXT")
    commands.add_parser(
        "binaries", help="find or build etcd, kube-apiserver and kubectl, and print where they are"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
