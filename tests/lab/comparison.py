"""The benchmark's tables and its page, made of the ledger's entries and of nothing else.

`sheets` gives the tables of a ledger, for the terminal; `part` the same as Markdown, with the settings of all
subjects in full, for the page that tells of the comparison, where it stands between two marks; `panels` gives
what the picture shows.

A machine that itself stands still is no fault of what runs on it: a run in which the control address was
silent for as long, and for longer than at rest, counts as one without an outage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docs.markdown import table
from lab.analysis import percentile
from lab.ledger import Beside, Failover, Failure, Idle, Machine, Settings
from lab.plot import Panel, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.ledger import Entry

BEGIN = "<!-- written by `make comparison` from here -->"
END = "<!-- written by `make comparison` up to here -->"
TITLE = "How long the client had no answer"
_STOOD_STILL_MS = 30.0
_PROBES_MS = 5.0
"""By so much two silences may differ that have one cause: the addresses are asked one after another."""
NOTE = (
    "Every dot is one run, the bar and the figure on the right their median, in milliseconds. Ringed in red: "
    "two nodes answered at once. Hollow: no end."
)


class PageError(Exception):
    """The page has no place for the tables; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table. The first `words` columns hold words, the others figures; rows of one group begin alike."""

    title: str
    words: int
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sheets(entries: Sequence[Entry]) -> list[Sheet]:
    """Return the tables of all that was measured, those that would be empty left out."""
    every = (failovers(entries), beside(entries), idle(entries), failures(entries))
    return [sheet for sheet in every if sheet.rows]


def failovers(entries: Sequence[Entry]) -> Sheet:
    """Return vipkeeper's own failovers, a row for each case, beside the limit it has set itself."""
    groups: dict[tuple[str, str, str, str], list[Failover]] = {}
    for each in entries:
        if isinstance(each, Failover):
            groups.setdefault((each.case, each.profile, each.load, each.limits), []).append(each)
    rows = []
    for (case, profile, load, limits), every in groups.items():
        overlaps = sum(bool(each.overlaps) for each in every)
        unsafe = sum(not each.is_safe for each in every)
        figures = [length(each.outage_ms) for each in every]
        rows.append(
            (
                *(case, profile, load or "none", limits),
                f"{overlaps} times" if overlaps else "never" if not unsafe else f"{unsafe} went astray",
                *(str(len(every)), *_three(figures), _ms(max(length(each.hiccup_ms) for each in every))),
            )
        )
    header = ("case", "profile", "load", "limit", "two owners", "runs", "p50", "p99", "max", "control max")
    return Sheet("vipkeeper: outage of the client in ms", 5, header, tuple(rows))


def beside(entries: Sequence[Entry]) -> Sheet:
    """Return the comparison, a row for each fault and subject."""
    rows = []
    for title, groups in _faults(entries).items():
        for who, every in groups.items():
            shared = [each.shared_ms for each in every]
            rows.append(
                (
                    title,
                    who,
                    str(len(every)),
                    *_three([own_ms(each) for each in every]),
                    _ms(max(length(each.hiccup_ms) for each in every)),
                    str(sum(map(bool, shared))),
                    *(f"{figure:.0f}" for figure in (percentile(shared, 50), max(shared))),
                )
            )
    header = ("fault", "who", "runs", "p50", "p99", "max", "control max")
    owners = ("two owners: times", "p50 ms", "max ms")
    return Sheet("side by side: outage of the client in ms", 2, (*header, *owners), tuple(rows))


def idle(entries: Sequence[Entry]) -> Sheet:
    """Return what every part costs while nothing happens; of several measurements the last one."""
    last = {(each.who, each.part): each for each in entries if isinstance(each, Idle)}
    rows = ((who, part, f"{each.resident_mb:.1f}", f"{each.core:.2f}") for (who, part), each in last.items())
    return Sheet(
        "while nothing happens", 2, ("who", "process", "resident MB", "% of a processor"), tuple(rows)
    )


def failures(entries: Sequence[Entry]) -> Sheet:
    """Return what did not come to rest."""
    rows = ((each.of, each.message) for each in entries if isinstance(each, Failure))
    return Sheet("what did not come to rest", 2, ("what", "why"), tuple(rows))


def panels(entries: Sequence[Entry]) -> list[Panel]:
    """Return the comparison's outages, a panel for each fault; runs with two owners are ringed."""
    return [
        Panel(title, tuple(_row(who, every) for who, every in groups.items()))
        for title, groups in _faults(entries).items()
    ]


def _row(who: str, every: Sequence[Beside]) -> Row:
    return Row(
        who,
        tuple(own_ms(each) for each in every),
        frozenset(number for number, each in enumerate(every) if each.shared_ms),
    )


def part(entries: Sequence[Entry]) -> str:
    """Return what the page says between its marks: on what it was measured, the tables, the settings."""
    machines = dict.fromkeys(told(each) for each in entries if isinstance(each, Machine))
    lines = ["".join(f"{machine}.\n" for machine in machines)]
    shown = (beside(entries), idle(entries), failures(entries))
    lines += [
        f"**{sheet.title[0].upper()}{sheet.title[1:]}**\n\n{table(sheet.header, sheet.rows)}"
        for sheet in shown
        if sheet.rows
    ]
    settings = {each.who: each for each in entries if isinstance(each, Settings)}
    lines += [
        f"**Settings of {who}**\n\n```{each.language}\n{each.text.strip()}\n```\n"
        for who, each in settings.items()
    ]
    return "\n".join(lines)


def told(machine: Machine) -> str:
    """Return a sentence, without its stop, on what was measured on."""
    peer = f", {machine.keepalived}" if machine.keepalived else ""
    return f"Measured on {machine.at}: {machine.processors} processors, {machine.kernel}{peer}"


def filled(page: str, text: str) -> str:
    """Return a page with a text between its marks; raises `PageError`."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise PageError(f"the page needs two lines, with the tables to come between them: {BEGIN} and {END}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def own_ms(run: Beside) -> float:
    """Return for how long the subject had the address away, 0 where it was the machine that stood still."""
    outage_ms, hiccup_ms = length(run.outage_ms), length(run.hiccup_ms)
    if math.isinf(outage_ms) or hiccup_ms <= _STOOD_STILL_MS:
        return outage_ms
    return 0.0 if abs(outage_ms - hiccup_ms) <= _PROBES_MS else outage_ms


def length(length_ms: float | None) -> float:
    """Return a length as it is reckoned with."""
    return math.inf if length_ms is None else length_ms


def _faults(entries: Iterable[Entry]) -> dict[str, dict[str, list[Beside]]]:
    """Return the comparison's runs by fault and by subject, in the order of their first runs."""
    found: dict[str, dict[str, list[Beside]]] = {}
    for each in entries:
        if isinstance(each, Beside):
            title = f"{each.fault} ({each.load} load)" if each.load else each.fault
            found.setdefault(title, {}).setdefault(each.who, []).append(each)
    return found


def _three(lengths_ms: Sequence[float]) -> tuple[str, str, str]:
    return (
        _ms(percentile(lengths_ms, 50)),
        _ms(percentile(lengths_ms, 99)),
        _ms(max(lengths_ms)),
    )


def _ms(length_ms: float) -> str:
    return "no end" if math.isinf(length_ms) else f"{length_ms:.1f}"
