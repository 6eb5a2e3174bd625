"""The benchmark's ledger: the figures of every run, a line of JSON each, written down as they come.

A run that is stopped has lost nothing, a second one goes on in the same file, and every table and picture is
made of these lines (`lab.comparison`), at once or a year later. Times are in milliseconds; None stands for a
silence that did not end.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, BinaryIO, Self

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class Machine(msgspec.Struct, frozen=True, kw_only=True, tag="machine"):
    """What was measured on; a run begins with it. `at` is the day, `keepalived` its version or empty."""

    at: str
    processors: int
    kernel: str
    keepalived: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True, tag="settings"):
    """How a subject of the comparison was set up: the text of its configuration, in a language."""

    who: str
    language: str
    text: str


class Failover(msgspec.Struct, frozen=True, kw_only=True, tag="failover"):
    """One failover of vipkeeper's. `overlaps` is how often two nodes were proved to own the address."""

    case: str
    profile: str
    limits: str
    load: str = ""
    number: int
    before: str
    after: str | None
    outage_ms: float | None
    hiccup_ms: float | None
    overlaps: int
    is_safe: bool


class Beside(msgspec.Struct, frozen=True, kw_only=True, tag="beside"):
    """One fault done to a subject of the comparison; for `shared_ms` two nodes owned the address."""

    who: str
    fault: str
    load: str = ""
    number: int
    before: str
    after: str | None
    outage_ms: float | None
    shared_ms: float
    hiccup_ms: float | None
    took_s: float


class Idle(msgspec.Struct, frozen=True, kw_only=True, tag="idle"):
    """What one part of a subject costs while nothing happens; `core` is in per cent of one processor."""

    who: str
    part: str
    resident_mb: float
    core: float


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """Something did not come to rest; the message says what was missing."""

    of: str
    message: str


Entry = Machine | Settings | Failover | Beside | Idle | Failure

OURS = "vipkeeper"


class Ledger:
    """The entries of one run, in memory and at the end of a file, if one is given.

    Use it as a context manager: the file is open from the first to the last entry. A last line that an
    earlier run left cut short is taken off.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[Entry] = []
        self._file = None if path is None else _end_of(path)

    def add(self, entry: Entry) -> None:
        """Write an entry down; it has reached the file when this returns."""
        self.entries.append(entry)
        if self._file is not None:
            self._file.write(msgspec.json.encode(entry) + b"\n")
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def read(path: Path) -> list[Entry]:
    """Return the entries of a file; a last line that was cut short is left out.

    Raises `OSError`, and `ValueError` for a file of anything else.
    """
    lines = path.read_bytes().split(b"\n")
    return [msgspec.json.decode(line, type=Entry) for line in lines[:-1] if line]


def _end_of(path: Path) -> BinaryIO:
    """Open a file behind its last whole line."""
    path.touch()
    file = path.open("r+b")
    file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)
    return file


def finite(length_ms: float) -> float | None:
    """Return a length as it is written down."""
    return None if math.isinf(length_ms) else round(length_ms, 3)


def is_safe(entries: list[Entry]) -> bool:
    """Tell whether vipkeeper kept its promise in all of them: never two owners, and somebody always came."""
    for entry in entries:
        match entry:
            case Failure(of=who) if who.startswith(OURS):
                return False
            case Failover(is_safe=False):
                return False
            case Beside(who=who) if who.startswith(OURS) and (entry.after is None or entry.shared_ms):
                return False
    return True
