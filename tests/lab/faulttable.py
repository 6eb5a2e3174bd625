"""`make faults`: every fault of `servicefaults` many times over, on a busy machine, and what each cost.

Every turn does all faults once, so that each meets what the others left. While a fault runs its course a
few processes do nothing but use the processor. It prints, for each fault, how often two copies ran, for how
long the client had no answer, and what else was not as it must be; any of that makes it fail.

Where only the service itself dies, a good answer from elsewhere may take

    noticing   failureThreshold x period + timeout of the page's check
    stop       what the stop hook took, or its whole time if it was killed
    start      from the start hook's first line to the first status hook that passed

and what vipkeeper adds to that is told beside it.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lab import enclosure, faultruns, legacy, processes
from lab.analysis import MILLISECOND
from lab.cluster import Lab
from lab.faultruns import DETECTED_MS, Run, limit_ms
from lab.processes import ProcessFailedError
from lab.servicefaults import FAULTS, Ending, ServiceFault
from lab.site import STOP_S, site_on
from lab.stage import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.binaries import Binaries
    from lab.legacy import Step
    from lab.processes import Process
    from lab.site import Site
    from lab.topology import Host

BUSY_S = 120
BURN = "import sys, time\nend = time.monotonic() + float(sys.argv[1])\nwhile time.monotonic() < end: pass"

Say = Callable[[str], None]
Results = dict[str, list[tuple[Run, float | None]]]


class Load:
    """Processes that only use the processor, from `start` to `end`, and for two minutes at most."""

    def __init__(self, lab: Lab, count: int) -> None:
        self._lab = lab
        self._count = count
        self._burning: list[Process] = []

    def start(self) -> None:
        self._burning = [
            processes.start(
                [sys.executable, "-c", BURN, str(BUSY_S)],
                name=f"burner-{number}",
                network=self._lab.host.network,
                log=self._lab.folder / "burners.log",
            )
            for number in range(self._count)
        ]

    def end(self) -> None:
        """Kill them; does nothing when they have ended."""
        for process in self._burning:
            process.kill()

    def until_undone(self, fault: ServiceFault) -> ServiceFault:
        """Return a fault that ends the load before it is undone: what mends is not what is looked at."""

        def undo(site: Site, owner: Host) -> None:
            self.end()
            fault.undo(site, owner)

        return replace(fault, undo=undo)


def added_ms(run: Run, stopped: Sequence[Step], started: Sequence[Step]) -> float | None:
    """Return what it took beyond noticing, stop and start; None where the service was not all that died.

    `stopped` is what the hooks of the former owner did since the fault, `started` those of the new one.
    """
    answered_ms, took_ms = run.outcome.timeline.first_reply, start_ms(started)
    if not run.fault.is_death or answered_ms is None or took_ms is None:
        return None
    return answered_ms - DETECTED_MS - stop_ms(stopped) - took_ms


def stop_ms(steps: Sequence[Step]) -> float:
    """Return how long the first stop hook took; 0 if there was none."""
    stops = [step for step in steps if step.hook == legacy.STOP]
    begins = next((step for step in stops if step.status is None), None)
    if begins is None:
        return 0
    ends = next((step for step in stops if step.status is not None), None)
    return STOP_S * 1000 if ends is None else (ends.at_ns - begins.at_ns) / MILLISECOND


def start_ms(steps: Sequence[Step]) -> float | None:
    """Return how long it took from the first start hook's first line until a status hook passed."""
    begins_ns = next((step.at_ns for step in steps if step.hook == legacy.START), None)
    if begins_ns is None:
        return None
    passes = (
        step.at_ns
        for step in steps
        if step.hook == legacy.STATUS and step.status == 0 and step.at_ns > begins_ns
    )
    passed_ns = next(passes, None)
    return None if passed_ns is None else (passed_ns - begins_ns) / MILLISECOND


def run(binaries: Binaries, say: Say, *, times: int, busy: int, only: str) -> int:
    """Do all faults, or those whose name contains `only`, that often; print the table."""
    chosen = [fault for fault in FAULTS if only.lower() in fault.name.lower()]
    busy = min(busy, 2 * (os.cpu_count() or 1))
    say(f"{len(chosen)} faults, {times} times each, beside {busy} processes that only use the processor")
    started_s = time.monotonic()
    results: Results = {fault.name: [] for fault in chosen}
    with Lab(binaries, enclosure.scratch_folder() / "faults") as lab:
        site = site_on(lab)
        for each in site.installed.values():
            each.trace()
        load = Load(lab, busy)
        is_done = _repeat(site, chosen, load, results, say, times=times)
        doubles = site.doubles(since_ns=site.since_ns)
        site.watch.stop()
    Console(width=150).print(_table(chosen, results))
    say(f"two copies at once, between the faults too: {doubles or 'never'}")
    say(f"{sum(map(len, results.values()))} faults in {time.monotonic() - started_s:.0f} s")
    is_kept = all(run.objection is None for runs in results.values() for run, _ in runs)
    return 0 if is_done and is_kept and not doubles else 1


def _repeat(
    site: Site, chosen: Sequence[ServiceFault], load: Load, results: Results, say: Say, *, times: int
) -> bool:
    """Do all faults that often; returns False where the lab could not go on, or should not."""
    for turn in range(1, times + 1):
        for fault in chosen:
            try:
                run, added = _once(site, fault, load)
            except (NotReadyError, ProcessFailedError, KeyboardInterrupt) as reason:
                say(f"STOPPED at {fault.name}: {str(reason) or 'interrupted'}")
                return False
            results[fault.name].append((run, added))
            doubt = f"  late, not asked for {run.blind_ms:.0f} ms" if run.is_late else ""
            if run.objection is not None:
                doubt = f"  NOT AS IT MUST BE: {run.objection}"
            say(f"  {turn}/{times} {fault.name}: away for {run.outcome.outage_ms:.0f} ms{doubt}")
    return True


def _once(site: Site, fault: ServiceFault, load: Load) -> tuple[Run, float | None]:
    site.restore()
    site.forgive()
    site.rest()
    since_ns = time.monotonic_ns()
    load.start()
    try:
        run = faultruns.run(site, load.until_undone(fault))
    finally:
        load.end()
    stopped = site.installed[run.owner].steps(since_ns=since_ns)
    started = [] if run.outcome.after is None else site.installed[run.outcome.after].steps(since_ns=since_ns)
    return run, added_ms(run, stopped, started)


def _table(chosen: Sequence[ServiceFault], results: Results) -> Table:
    table = Table(title="what each fault cost, in ms", title_justify="left")
    table.add_column("fault")
    table.add_column("must end")
    for column in ("times", "outage p50", "max", "added p50", "max", "limit"):
        table.add_column(column, justify="right")
    table.add_column("two copies")
    table.add_column("not as it must be")
    for fault in chosen:
        runs = [run for run, _ in results[fault.name]]
        if not runs:
            continue
        outages = [run.outcome.outage_ms for run in runs]
        is_back = fault.ending is not Ending.NOWHERE
        added = [each for _, each in results[fault.name] if each is not None]
        doubles = sum(bool(run.doubles) for run in runs)
        objections = sum(run.objection is not None for run in runs)
        late = sum(run.is_late for run in runs)
        table.add_row(
            fault.name,
            fault.ending.value,
            str(len(runs)),
            *((f"{statistics.median(outages):.0f}", f"{max(outages):.0f}") if is_back else ("", "")),
            *((f"{statistics.median(added):.0f}", f"{max(added):.0f}") if added else ("", "")),
            (f"{limit_ms(fault):.0f}" + (f" ({late} late)" if late else "")) if is_back else "",
            f"{doubles} times" if doubles else "never",
            f"{objections} times" if objections else "",
        )
    return table
