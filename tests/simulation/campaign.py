"""A campaign: many seeds over all mixes, on all processors, and what came of them in one table.

Seed n runs the mix whose turn it is; with `--mix` all seeds run those named. Interrupted, it prints what
was done so far. A seed that broke is printed with the command that replays it, and the rest goes on.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from simulation.clock import HOUR
from simulation.runs import NAMES, make, replay

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future

_BATCH: Final = 5
_TELL_S: Final = 30.0


@dataclass(slots=True)
class Tally:
    """What a number of seeds of one mix came to; `outages_ms` by profile and loss."""

    seeds: int = 0
    events: int = 0
    simulated_ns: int = 0
    takeovers: int = 0
    worst_overlap_ns: int = 0
    cpu_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    outages_ms: dict[tuple[str, float], list[float]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.events += other.events
        self.simulated_ns += other.simulated_ns
        self.takeovers += other.takeovers
        self.worst_overlap_ns = max(self.worst_overlap_ns, other.worst_overlap_ns)
        self.cpu_s += other.cpu_s
        self.broken += other.broken
        for place, outages_ms in other.outages_ms.items():
            self.outages_ms.setdefault(place, []).extend(outages_ms)


def tally(mix: str, seeds: Sequence[int]) -> Tally:
    """Run these seeds, in this process."""
    found = Tally()
    for seed in seeds:
        began_s = time.process_time()
        run = make(mix, seed)
        try:
            run.run()
        except Exception as error:  # noqa: BLE001 - whatever broke is told with its seed
            found.broken.append(f"{mix} {seed}: {type(error).__name__}: {error}\n    {replay(mix, seed)}")
        world = run.world
        found.seeds += 1
        found.events += world.agenda.events
        found.simulated_ns += world.agenda.now_ns
        found.takeovers += len(world.watch.opens)
        found.worst_overlap_ns = max(found.worst_overlap_ns, world.watch.worst_overlap_ns)
        place = (run.profile, getattr(run, "loss", 0.0))
        outages_ms = getattr(run, "outages_ms", [])
        if outages_ms:
            found.outages_ms.setdefault(place, []).extend(outages_ms)
        found.cpu_s += time.process_time() - began_s
    return found


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run(mixes: Sequence[str], seeds: Iterable[int], jobs: int) -> tuple[dict[str, Tally], bool]:
    """Run a campaign; returns what came of it by mix, and whether it came to its end."""
    work: dict[str, list[int]] = defaultdict(list)
    for seed in seeds:
        work[mixes[seed % len(mixes)]].append(seed)
    batches = [
        (mix, numbers[first : first + _BATCH])
        for mix, numbers in work.items()
        for first in range(0, len(numbers), _BATCH)
    ]
    batches.sort(key=lambda batch: batch[1])  # every mix has its turn early, should somebody interrupt
    found: dict[str, Tally] = {mix: Tally() for mix in mixes}
    told_s = time.monotonic()
    with ProcessPoolExecutor(jobs, initializer=_ignore_interrupts) as pool:
        futures: dict[Future[Tally], str] = {pool.submit(tally, *batch): batch[0] for batch in batches}
        try:
            for future in as_completed(futures):
                one = future.result()
                found[futures[future]].add(one)
                for line in one.broken:
                    _say(f"BROKEN  {line}")
                if time.monotonic() - told_s > _TELL_S:
                    told_s = time.monotonic()
                    _say(_summary(found))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            return found, False
    return found, True


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _summary(found: dict[str, Tally]) -> str:
    total = Tally()
    for each in found.values():
        total.add(each)
    return _row("so far", total)


def _row(name: str, one: Tally) -> str:
    rate = one.events / one.cpu_s if one.cpu_s else 0
    return (
        f"{name:12} {one.seeds:7,} {one.events:13,} {one.simulated_ns / HOUR:8.2f} h {one.takeovers:9,} "
        f"{one.worst_overlap_ns / 1e6:7.3f} ms {len(one.broken):6} {one.cpu_s:8.0f} s {rate:8,.0f}/s"
    )


def report(found: dict[str, Tally]) -> str:
    """The campaign's table, and how long addresses were away after deaths."""
    total = Tally()
    lines = [
        (
            f"{'mix':12} {'seeds':>7} {'events':>13} {'simulated':>10} {'takeovers':>9} {'overlap':>10} "
            f"{'broken':>6} {'CPU':>10} {'events':>10}"
        )
    ]
    for mix, one in found.items():
        if one.seeds:
            lines.append(_row(mix, one))
            total.add(one)
    lines.append(_row("all", total))
    for (profile, loss), outages_ms in sorted(total.outages_ms.items()):
        ordered = sorted(outages_ms)
        lines.append(
            f"node death, {profile}, {loss:.0%} loss: {len(ordered):,} times, "
            f"half within {ordered[len(ordered) // 2]:.0f} ms, "
            f"99 of 100 within {ordered[len(ordered) * 99 // 100]:.0f} ms, all within {ordered[-1]:.0f} ms"
        )
    lines += [f"BROKEN  {line}" for line in total.broken]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """`--seeds FIRST:LAST [--mix MIX,MIX] [--jobs N]`; the last seed is not run. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="simulation campaign", description="Run many seeds.")
    parser.add_argument("--seeds", default="0:2000", help="FIRST:LAST; the last one is not run")
    parser.add_argument("--mix", default=",".join(NAMES), help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    options = parser.parse_args(arguments)
    first, _, last = options.seeds.partition(":")
    mixes = options.mix.split(",")
    unknown = set(mixes) - set(NAMES)
    if unknown:
        parser.error(f"no such mix: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began_s = time.monotonic()
    found, is_whole = run(mixes, range(int(first), int(last)), options.jobs)
    _say(report(found))
    _say(f"{'' if is_whole else 'interrupted after '}{(time.monotonic() - began_s) / 60:.1f} minutes")
    return 1 if any(one.broken for one in found.values()) else 0 if is_whole else 130
