"""The lab's command: `python -m lab up | demo | bench | compare | scale | faults | endurance | binaries`.

Every subcommand but `compare` first finds the control plane, building it if need be, and then moves into an
enclosure: whichever way the command ends, all that it started ends with it.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lab import binaries, burdens, enclosure
from lab.enclosure import EnclosureRefusedError
from lab.faults import NftMissingError
from lab.gobuilds import BinariesMissingError
from lab.keepalived import KeepalivedMissingError
from lab.processes import ProcessFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
FENCE = "fence"
ADDRESSES, SERVICES, BOTH = "addresses", "services", "both"
TAKE_OVERS = 5000


def main(arguments: Sequence[str]) -> int:
    """Run one subcommand and return the exit status."""
    options = make_parser().parse_args(arguments)
    refusal = nothing_to_do(options) if options.command == "faults" else ""
    if refusal:
        sys.stderr.write(f"{refusal}\n")
        return 2
    if options.command == "compare":
        return _compare(options.record, options.page)
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
    except (
        BinariesMissingError,
        EnclosureRefusedError,
        KeepalivedMissingError,
        NftMissingError,
        ProcessFailedError,
    ) as failure:
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
        return _run_bench(options, found)
    if options.command == "scale":
        from lab.scale import run as run_scale  # noqa: PLC0415

        return run_scale(found, say, only=options.only, runs=options.runs)
    if options.command == "faults":
        return _run_faults(options, found)
    if options.command == "endurance":
        from lab.endurance import run as run_endurance  # noqa: PLC0415

        many, minutes = endured(options)
        return run_endurance(found, say, take_overs=many, soak_minutes=minutes)
    from lab import standing  # noqa: PLC0415

    return standing.run(found, say, nodes=options.nodes, bare=options.bare)


def _run_bench(options: argparse.Namespace, found: binaries.Binaries) -> int:
    """Measure failovers, and keepalived beside them; or the fence."""
    if options.part == FENCE:
        from lab import fencebench  # noqa: PLC0415

        return fencebench.run(say, runs=options.runs)
    from lab import bench  # noqa: PLC0415
    from lab.ledger import Ledger  # noqa: PLC0415

    chosen = bench.plan(
        runs=options.runs,
        only=options.only,
        part=options.part,
        peers_only=options.peers,
        load=options.load,
    )
    with Ledger(options.record) as book:
        return bench.run(found, say, chosen, book)


def _compare(record: Path, page: Path) -> int:
    """Make tables, picture and page of what was measured."""
    from lab import bench  # noqa: PLC0415
    from lab.comparison import PageError  # noqa: PLC0415

    try:
        bench.compare(record, page, say)
    except (OSError, ValueError, PageError) as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


def _run_faults(options: argparse.Namespace, found: binaries.Binaries) -> int:
    """Do the faults to addresses, to services or to both."""
    from lab import addresstable, faulttable  # noqa: PLC0415

    status = 0
    kinds = kinds_with(options)
    if ADDRESSES in kinds:
        suite = addresstable.Suite(
            name=options.fault or "",
            only=options.only,
            times=options.times,
            pairs=options.pairs,
            seed=options.seed,
            load=options.load,
            minutes=options.minutes,
        )
        status |= addresstable.run(found, say, suite)
    if SERVICES in kinds:
        status |= faulttable.run(found, say, times=options.times, busy=options.busy, only=options.only)
    return status


def nothing_to_do(options: argparse.Namespace) -> str:
    """Return why there is no fault to do, empty where there is one."""
    if kinds_with(options):
        return ""
    if options.fault:
        return f"{options.fault} is done to addresses, and KIND={options.kind} leaves those out"
    return (
        f"no fault to {'anything' if options.kind == BOTH else options.kind} has {options.only!r} in its name"
    )


def kinds_with(options: argparse.Namespace) -> list[str]:
    """Return the kinds of faults, of those that are asked for, in which there is one to do."""
    from lab import addressfaults, servicefaults  # noqa: PLC0415

    only = options.only.lower()
    names = {
        ADDRESSES: [options.fault] if options.fault else [fault.name for fault in addressfaults.FAULTS],
        SERVICES: [] if options.fault else [fault.name for fault in servicefaults.FAULTS],
    }
    return [
        kind
        for kind, known in names.items()
        if options.kind in {kind, BOTH} and any(options.fault or only in name.lower() for name in known)
    ]


def endured(options: argparse.Namespace) -> tuple[int, float]:
    """Return how many take-overs and minutes of soak are asked for, by default take-overs alone."""
    minutes: float = options.soak or 0.0
    default = 0 if minutes else TAKE_OVERS
    return default if options.take_overs is None else options.take_overs, minutes


def _leave(number: int, _: object) -> NoReturn:
    with contextlib.suppress(ValueError):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def make_parser() -> argparse.ArgumentParser:
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
    bench.add_argument(
        "--only",
        default="",
        help="only the cases and faults that are called this or else contain it; several with ; between",
        metavar="TEXT",
    )
    bench.add_argument(
        "--part",
        choices=["failovers", "comparison", "both", FENCE],
        default="both",
        help="vipkeeper's own failovers, or keepalived beside it (both); or its packet fence",
    )
    bench.add_argument(
        "--peers",
        type=_peers,
        default="",
        help="only the subjects of the comparison whose name contains this; several with ; between",
        metavar="TEXT",
    )
    bench.add_argument(
        "--load",
        type=_loads,
        default=frozenset(),
        help="what else the machine does meanwhile: cpu,memory,packets or none (none)",
        metavar="KIND,...",
    )
    bench.add_argument(
        "--record", type=Path, help="write every run's figures at the end of it", metavar="FILE"
    )
    compare = commands.add_parser(
        "compare", help="print the tables of what bench has written down, and write picture and page"
    )
    compare.add_argument("record", type=Path, help="what `bench --record` has written", metavar="FILE")
    compare.add_argument(
        "--page",
        type=Path,
        default=ROOT / "docs" / "comparison.md",
        help="the page; the picture stands beside it (docs/comparison.md)",
        metavar="FILE",
    )
    scale = commands.add_parser(
        "scale",
        help="measure the controller with many objects, many addresses on a node that dies, and starts",
    )
    scale.add_argument(
        "--only",
        default="",
        help="only the cases whose name contains this, such as power or start; several with ; between",
        metavar="TEXT",
    )
    scale.add_argument(
        "--runs",
        type=_at_least_one,
        help="how often power is lost (10) and each process is started (3)",
        metavar="N",
    )
    _add_faults(commands)
    endurance = commands.add_parser(
        "endurance", help="see what grows in thousands of take-overs, or whether anything moves in a soak"
    )
    endurance.add_argument(
        "--take-overs",
        type=int,
        help=f"how many take-overs ({TAKE_OVERS}, or none where there is a soak)",
        metavar="N",
    )
    endurance.add_argument(
        "--soak", type=float, help="how many minutes of soak at 1 %% loss (0)", metavar="MINUTES"
    )
    commands.add_parser(
        "binaries", help="find or build etcd, kube-apiserver and kubectl, and print where they are"
    )
    return parser


def _loads(text: str) -> frozenset[str]:
    """Read `--load`."""
    kinds = frozenset(text.split(",")) - {"none"}
    if not kinds <= set(burdens.KINDS):
        raise argparse.ArgumentTypeError(f"{text!r}: loads are {', '.join(burdens.KINDS)} and none")
    return kinds


def _at_least_one(text: str) -> int:
    """Read `--runs`."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: a number from 1 on")
    return int(text)


def _peers(text: str) -> str:
    """Read `--peers`."""
    from lab import peers  # noqa: PLC0415

    if not peers.peers_with(text):
        names = "; ".join(peer.title for peer in peers.PEERS)
        raise argparse.ArgumentTypeError(f"no subject has {text!r} in its name: {names}")
    return text


def _fault(text: str) -> str:
    """Read `--fault`."""
    from lab import addressfaults  # noqa: PLC0415

    try:
        addressfaults.chosen(text)
    except ValueError as unknown:
        raise argparse.ArgumentTypeError(str(unknown)) from unknown
    return text


def _add_faults(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    faults = commands.add_parser(
        "faults", help="do every fault to addresses, and to services that follow them, on a busy machine"
    )
    faults.add_argument(
        "--kind", choices=[ADDRESSES, SERVICES, BOTH], default=BOTH, help="faults to what (both)"
    )
    faults.add_argument("--times", type=int, default=4, help="how often each fault (4)", metavar="N")
    faults.add_argument("--only", default="", help="only the faults whose name contains this", metavar="TEXT")
    faults.add_argument(
        "--fault",
        type=_fault,
        help="one fault to addresses, or two at once",
        metavar="NAME[+NAME]",
    )
    faults.add_argument("--seed", type=int, default=1, help="the first seed (1)", metavar="N")
    faults.add_argument(
        "--pairs", type=int, default=0, help="how many pairs, chosen by seed (0)", metavar="N"
    )
    faults.add_argument(
        "--load",
        type=_loads,
        default=frozenset(burdens.KINDS),
        help="what else the machine does: cpu,memory,packets or none (all three); services: see --busy",
        metavar="KIND,...",
    )
    faults.add_argument(
        "--minutes",
        type=float,
        default=60,
        help="begin no fault to addresses after so long (60)",
        metavar="N",
    )
    faults.add_argument(
        "--busy", type=int, default=2, help="services: how many processes use the processor (2)", metavar="N"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
