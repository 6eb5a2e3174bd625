"""All tests in less time than one pytest needs: `python -m suites`, which is what `make test` runs.

Each folder of tests is a pytest of its own, which moves into an enclosure of its own (`lab.enclosure`), so
that two of them cannot meet. One more than there are processors run side by side, up to `MOST`, for most of
them wait most of the time; the ones that take longest come first. The lab comes last and alone, because its
nodes share the machine: where another process takes a processor away for long enough a lease runs out, as it
would on any such node.

What a pytest prints is shown when it has ended, the lab's as it comes, and at the very end the names of all
that failed, in pytest's own words, and how many passed. SIGTERM and Ctrl-C end every pytest that runs, and
what has been found until then is still said. Said too is how busy the processors were with what is not ours,
before the tests and during the lab's: a lease that runs out on a machine that others use is theirs.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
ALONE = "lab"
LONGEST_FIRST = ("agent", "apiserver", "simulation", "model", "courier", "controller")
ELSEWHERE = ("e2e", "kernels")
"""Not among those of `make test`; pyproject.toml says so too."""
MOST = 4
STAT = Path("/proc/stat")
LOOK_S = 1.0

_COUNT = re.compile(r"(\d+) ([a-z]+)")
_LAST_LINE = re.compile(r"^=+ (.*) in [\d.]+s.* =+$")


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one folder: its exit status, pytest's counts, and a line for each test that failed."""

    status: int
    counts: Counter[str]
    failures: tuple[str, ...]


def folders(tests: Path) -> list[str]:
    """Return the folders that have tests and need not be alone, those that take longest first."""
    found = {path.relative_to(tests).parts[0] for path in tests.glob("*/**/test_*.py")}
    found -= {ALONE, *ELSEWHERE}
    first = [name for name in LONGEST_FIRST if name in found]
    return [*first, *sorted(found.difference(first))]


def read(folder: str, status: int, lines: list[str]) -> Report:
    """Make a report of what pytest printed."""
    totals = [match[1] for line in lines if (match := _LAST_LINE.match(line))][-1:]
    counts = Counter({kind.rstrip("s"): int(many) for many, kind in _COUNT.findall("".join(totals))})
    failures = tuple(line for line in lines if line.startswith(("FAILED tests/", "ERROR tests/")))
    if status and not failures:
        failures = (f"ERROR tests/{folder} - pytest ended with status {status}",)
    return Report(status, counts, failures)


@dataclass(frozen=True, slots=True)
class Processors:
    """What the machine's processors have done since it was started, in ticks (proc(5))."""

    busy: int
    stolen: int
    total: int

    @classmethod
    def read(cls, text: str) -> Processors:
        """Read the text of /proc/stat."""
        user, nice, system, idle, waiting, *interrupts, stolen = map(
            int, text.split("\n", maxsplit=1)[0].split()[1:9]
        )
        busy = user + nice + system + sum(interrupts)
        return cls(busy, stolen, busy + stolen + idle + waiting)

    def since(self, before: Processors) -> str:
        """Return in words what was done in between."""
        total = max(self.total - before.total, 1)
        busy, stolen = self.busy - before.busy, self.stolen - before.stolen
        return f"busy for {busy / total:.0%} of the time, taken away by the host for {stolen / total:.1%}"


class Suites:
    """The pytests of one checkout; `run` may be called from several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._is_ending = False

    def end(self) -> None:
        """End those that run, and let no other one begin."""
        with self._lock:
            self._is_ending = True
            for process in self._running:
                process.terminate()

    def run(self, folder: str) -> Report:
        """Run the tests of one folder and show what pytest prints."""
        lines: list[str] = []
        with self._lock:
            if self._is_ending:
                return read(folder, -signal.SIGTERM, lines)
            process = self._start(folder)
            self._running.add(process)
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if folder == ALONE:
                    _say(lines[-1])
        with self._lock:
            self._running.remove(process)
        if folder != ALONE:
            _say("\n".join(lines))
        return read(folder, process.returncode, lines)

    def _start(self, folder: str) -> subprocess.Popen[str]:
        pytest = Path(sys.executable).with_name("pytest")
        return subprocess.Popen(
            [pytest, "-p", "no:cacheprovider", f"tests/{folder}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._root,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},  # it has its own
            text=True,
            errors="replace",
        )


def summary(reports: list[Report], took_s: float) -> str:
    """Return what is said at the very end."""
    counts: Counter[str] = sum((report.counts for report in reports), Counter())
    failures = [line for report in reports for line in report.failures]
    order = ("failed", "error", "passed")
    kinds = [*(kind for kind in order if counts[kind]), *sorted(counts.keys() - set(order))]
    words = ", ".join(f"{counts[kind]} {kind}" for kind in kinds) or "no tests ran"
    minutes, seconds = divmod(round(took_s), 60)
    took = f"{took_s:.2f}s ({minutes // 60}:{minutes % 60:02}:{seconds:02})"
    title = [" short test summary info ".center(80, "=")] if failures else []
    return "\n".join([*title, *failures, f" {words} in {took} ".center(80, "=")])


def is_well(reports: list[Report]) -> bool:
    """Tell whether nothing failed; a folder of which nothing is collected (pytest's status 5) has failed."""
    return bool(reports) and all(report.status == 0 for report in reports)


def main(root: Path = ROOT) -> int:
    """Run them all and return the exit status."""
    began = time.monotonic()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    suites = Suites(root)
    side_by_side = folders(root / "tests")
    many = min((os.cpu_count() or 1) + 1, MOST)
    _say(f"pytest for each of {', '.join(side_by_side)}, {many} at a time, and then for {ALONE}")
    runs: list[Future[Report]] = []
    reports: list[Report] = []
    try:
        with ThreadPoolExecutor(many) as pool:
            try:
                _say(f"before: the processors were {_processors_during(partial(time.sleep, LOOK_S))}")
                for together in (side_by_side, [ALONE]):
                    runs += [pool.submit(suites.run, folder) for folder in together]
                    during = _processors_during(partial(wait, runs))
                    _say(f"{', '.join(together)}: the processors were {during}")
            except SystemExit:
                pool.shutdown(wait=False, cancel_futures=True)
                suites.end()
                raise
    finally:
        reports += [run.result() for run in runs if not run.cancelled()]
        _say(summary(reports, time.monotonic() - began))
    return 0 if is_well(reports) else 1


def _end(number: int, _frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # the end is under way
    raise SystemExit(128 + number)


def _processors_during(act: Callable[[], object]) -> str:
    before = Processors.read(STAT.read_text())
    act()
    return Processors.read(STAT.read_text()).since(before)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
