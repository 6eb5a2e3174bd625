"""`make faults` for addresses: all faults of `addressfaults`, alone and in pairs, on a busy machine.

Every run has a seed, and all that chance decides in it follows from the seed and the faults' names. The
report has a line for each fault: how long the client had no answer (the longer silence of the two
addresses of the set) beside the limit that follows from the lease's times and the silence of an address that
never moves, how many of its questions were lost, how often an address changed its owner without a
fault, and the longest proved time with two owners. Two owners, a take-over without a fault, an
address that did not come back and runs that were not done make it fail, and the command that repeats a
run is printed. A limit that was missed is marked, and fails only where it was missed by far (`addressruns`),
for machines are noisy.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lab import addressfaults, addressruns, enclosure
from lab.addressfaults import FAULTS, AddressFault, Layout
from lab.addressscene import ADDRESSES, IPV6_ADDRESSES, objects
from lab.analysis import percentile
from lab.burdens import Burden
from lab.cluster import Lab
from lab.stage import REST_S, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from lab.addressruns import Run
    from lab.binaries import Binaries

TOLD = 6
"""How many owners a line names; two at once make hundreds."""

Say = Callable[[str], None]
Planned = tuple[tuple[AddressFault, ...], int]
"""A fault or a pair, and its seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """What is to be done: `name` is one fault, `one+other` or empty for all; `only` is a part of names.

    Each fault is done `times` times, then `pairs` pairs, with seeds from `seed` on, while `load` goes on;
    nothing is begun after `minutes`.
    """

    name: str = ""
    only: str = ""
    times: int = 1
    pairs: int = 0
    seed: int = 1
    load: frozenset[str] = frozenset()
    minutes: float = 60.0

    def plan(self) -> list[Planned]:
        """Return the faults, or pairs, and their seeds, in the order in which they are done.

        Every fault is done once before any is done again, and the layouts go round with seed and turn, so
        that it is not always the same that time does not suffice for.
        """
        if self.name:
            singles = [addressfaults.chosen(self.name)]
        else:
            singles = [(fault,) for fault in FAULTS if self.only.lower() in fault.name]
        together = list(self._pairs())
        layouts = list(Layout)
        first = self.seed % len(layouts)
        layouts = layouts[first:] + layouts[:first]
        found: list[Planned] = []
        for turn in range(self.times):
            mine = [
                *((faults, self.seed + turn) for faults in singles),
                *(each for number, each in enumerate(together) if number % self.times == turn),
            ]
            # The layout that is up goes on.
            for layout in layouts if turn % 2 == 0 else reversed(layouts):
                found += [each for each in mine if each[0][0].layout is layout]
        return found

    def _pairs(self) -> Iterator[Planned]:
        possible = [
            each for each in addressfaults.pairs() if any(self.only.lower() in one.name for one in each)
        ]
        for number in range(self.pairs if possible else 0):
            yield random.Random(self.seed + number).choice(possible), self.seed + number

    def command(self, run: Run) -> str:
        """Return how a run is repeated."""
        load = f" LOAD={','.join(sorted(self.load))}" if self.load else " LOAD=none"
        return f"make faults FAULT={run.name} SEED={run.seed}{load}"


@dataclass(slots=True, kw_only=True)
class Report:
    """What came of the `planned` runs so far, told as it comes and at the end."""

    suite: Suite
    say: Say
    planned: int
    runs: list[Run] = field(default_factory=list)
    is_stopped: bool = False

    def add(self, run: Run) -> None:
        self.runs.append(run)
        self.say(line_of(run))
        if run.objection:
            self.say(f"    {run.objection}\n    {self.suite.command(run)}")

    def stop(self, reason: str) -> None:
        self.is_stopped = True
        self.say(f"STOPPED: {reason}")

    @property
    def is_well(self) -> bool:
        """Tell whether all was done and every promise was kept."""
        kept = all(run.objection is None for run in self.runs)
        return kept and len(self.runs) == self.planned and not self.is_stopped

    def table(self) -> Table:
        """Return a line for each fault and each pair, in the order in which they were first done."""
        made = Table(title="what each fault cost the client, in ms", title_justify="left")
        made.add_column("fault", overflow="fold")
        made.add_column("must end")
        for column in (
            *("n", "median", "p99", "worst", "limit", "control", "lost"),
            *("take-overs", "two owners"),
        ):
            made.add_column(column, justify="right")
        made.add_column("not as it must be")
        for name in dict.fromkeys(run.name for run in self.runs):
            made.add_row(name, *_figures([run for run in self.runs if run.name == name]))
        return made

    def conclusion(self) -> list[str]:
        """Return what is said under the table: the worst of all, and how to repeat what went wrong."""
        worst_ms = max((run.worst_overlap_ms for run in self.runs), default=0.0)
        take_overs = sum(run.take_overs for run in self.runs)
        machine = sum(run.is_the_machine for run in self.runs)
        lines = [f"worst time with two owners: {worst_ms:.1f} ms; take-overs without a fault: {take_overs}"]
        if machine:
            lines.append(f"in {machine} runs the machine itself stood still for longer than a lease's margin")
        if len(self.runs) < self.planned:
            lines.append(f"not all done: {len(self.runs)} of {self.planned} runs")
        return lines + [f"to repeat: {self.suite.command(run)}" for run in self.runs if run.objection]


def _figures(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the columns of one line but its name."""
    outages = [run.outage_ms for run in runs]
    late = sum(run.is_late for run in runs)
    broken = sum(run.objection is not None for run in runs)
    limit_ms = runs[0].limit_ms
    yield runs[0].ending.value
    yield str(len(runs))
    yield from (_ms(figure) for figure in (percentile(outages, 50), percentile(outages, 99), max(outages)))
    yield "" if limit_ms is None else f"{limit_ms:.0f}" + (f" ({late} late)" if late else "")
    yield _ms(max(run.hiccup_ms for run in runs))
    yield f"{sum(run.lost for run in runs)}/{sum(run.asked for run in runs)}"
    yield str(sum(run.take_overs for run in runs))
    yield f"{max(run.worst_overlap_ms for run in runs):.1f}"
    yield f"{broken} times" if broken else ""


def chance_of(faults: Sequence[AddressFault], seed: int) -> random.Random:
    """Return what decides in a run."""
    return random.Random(f"{seed} {'+'.join(fault.name for fault in faults)}")


def set_up(lab: Lab, layout: Layout = Layout.THREE) -> Stage:
    """Bring up vipkeeper and both VirtualIPs in a lab that is up, and return the stage, at rest."""
    stage = Stage(lab, fence=layout.fence)
    stage.start()
    for each in objects(layout.witnesses):
        lab.plane.api.apply(each)
    stage.watch(ADDRESSES, ipv6=IPV6_ADDRESSES)
    stage.wait_until("all witnesses", lambda: stage.votes() == layout.witnesses, patience_s=REST_S)
    stage.rest(*ADDRESSES)
    return stage


def run(binaries: Binaries, say: Say, suite: Suite) -> int:
    """Do what a suite says and print the report; the exit status is 0 if every promise was kept."""
    plan = suite.plan()
    kinds = ", ".join(sorted(suite.load)) or "nothing"
    say(
        f"{len(plan)} runs of faults to addresses, from seed {suite.seed}; the machine is loaded with {kinds}"
    )
    report = Report(suite=suite, say=say, planned=len(plan))
    started_s = time.monotonic()
    try:
        for layout, mine in itertools.groupby(plan, key=lambda each: each[0][0].layout):
            _do(binaries, layout, list(mine), report, until_s=started_s + 60 * suite.minutes)
    except Exception as failure:  # noqa: BLE001 - the table tells what was done until then
        report.stop(f"{type(failure).__name__}: {failure}")
    except KeyboardInterrupt:
        report.stop("interrupted")
    Console(width=150).print(report.table())
    for line in report.conclusion():
        say(line)
    say(f"{len(report.runs)} of {len(plan)} runs in {time.monotonic() - started_s:.0f} s")
    return 0 if report.is_well else 1


def _do(
    binaries: Binaries,
    layout: Layout,
    plan: Sequence[Planned],
    report: Report,
    *,
    until_s: float,
) -> None:
    """Do the runs of one layout, in a new lab after each from which the old one did not come back."""
    remaining = list(plan)
    number = 0
    while remaining and time.monotonic() < until_s:
        number += 1
        fence = "" if layout.fence == "auto" else f" fenced by {layout.fence}"
        report.say(f"bringing up {layout.nodes} nodes{fence}, two controllers and an API server")
        folder = enclosure.scratch_folder() / f"addresses-{layout.name.lower()}-{len(report.runs)}-{number}"
        lab = Lab(binaries, folder, nodes=layout.nodes)
        try:
            lab.start()
            stage = set_up(lab, layout)
            while remaining and time.monotonic() < until_s:
                faults, seed = remaining.pop(0)
                came = _once(stage, report.suite.load, faults, seed)
                report.add(came)
                if came.trouble:
                    break
        finally:
            lab.close()


def _once(stage: Stage, load: Collection[str], faults: Sequence[AddressFault], seed: int) -> Run:
    burden = Burden(stage.lab, load)
    burden.start()
    try:
        return addressruns.run(stage, faults, chance_of(faults, seed), seed=seed)
    finally:
        burden.end()


def line_of(run: Run) -> str:
    """Return a line that tells a run as soon as it is over."""
    verdict = "NOT AS IT MUST BE" if run.objection else "late" if run.is_late else "well"
    return (
        f"  {run.name} (seed {run.seed}): {' → '.join(run.owners[:TOLD])}, away {_ms(run.outage_ms)}, "
        f"control {_ms(run.hiccup_ms)}, lost {run.lost}/{run.asked}: {verdict}"
    )


def _ms(value: float) -> str:
    return "no end" if value == float("inf") else f"{value:.0f}"
