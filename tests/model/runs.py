"""Which searches are made: the rules as they are, in several bounds, and each rule broken."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

SAFETY: Final = "Safety"
ORDER: Final = "Order"

_ONE_TICK: Final = "--lease 1 --grant 1"
_DRIFT: Final = "--slow 3 --lease 2 --grant 3"

SHORT: Final = (
    "lease --rounds 2,1",
    f"lease --rounds 2,2 {_ONE_TICK}",
    f"lease --rounds 2,1 {_ONE_TICK} --keep",
    f"lease --rounds 1,1 {_DRIFT} --kills 0 --restarts 0",
    f"change --set 1 --rounds 1,1 {_ONE_TICK}",
    f"change --set 1 --rounds 1,1 {_ONE_TICK} --whole",
    f"change --set 3 --rounds 1,1 {_ONE_TICK} --terms 1 --kills 0 --restarts 0",
)
"""No violation, in seconds each."""

LONG: Final = (
    f"lease --rounds 2,2 {_ONE_TICK} --keep",
    "lease --rounds 2,2",
    f"lease --rounds 3,2 {_ONE_TICK} --terms 3",
    f"lease --rounds 1,1 {_DRIFT} --kills 1 --restarts 1",
    "change --set 1 --rounds 1,1",
    f"change --set 1 --rounds 2,1 {_ONE_TICK}",
    f"change --set 3 --rounds 1,1 {_ONE_TICK} --kills 0 --restarts 0",
)
"""No violation, in minutes each."""

_LEASE: Final = f"lease --rounds 2,2 {_ONE_TICK}"
_TWO_TICKS: Final = "lease --rounds 1,1"
_CHANGE: Final = f"change --set 1 --rounds 1,1 {_ONE_TICK}"

HARMFUL: Final = {
    "deadline": (f"lease --rounds 1,1 {_ONE_TICK} --without deadline", SAFETY),
    "grant-date": (f"{_TWO_TICKS} --without grant-date", SAFETY),
    "exclusive": (f"{_LEASE} --without exclusive", SAFETY),
    "rates": (f"lease --rounds 1,1 {_DRIFT} --kills 0 --restarts 0 --without rates", SAFETY),
    "majority": (f"{_LEASE} --without majority", SAFETY),
    "former-quorum": (f"{_CHANGE} --without former-quorum", SAFETY),
    "wanted-quorum": (f"{_CHANGE} --without wanted-quorum", ORDER),
    "seal": (f"{_CHANGE} --without seal", ORDER),
    "drain": (f"{_CHANGE} --without drain", SAFETY),
    "floors": (f"{_CHANGE} --without floors", ORDER),
    "attempt": (f"{_CHANGE} --without attempt", ORDER),
    "silence": (f"{_LEASE} --without silence", SAFETY),
    "silence-length": (f"{_TWO_TICKS} --without silence-length", SAFETY),
    "incarnation": (f"lease --rounds 3,1 {_ONE_TICK} --kills 1 --restarts 0 --without incarnation", ORDER),
    "ack-term": (f"{_LEASE} --without ack-term", ORDER),
    "forget": (f"{_LEASE} --without forget", ORDER),
    "close-first": (f"{_LEASE} --without close-first", SAFETY),
    "old-release": (f"{_LEASE} --without old-release", SAFETY),
    "closed-start": (f"{_LEASE} --without closed-start", SAFETY),
    "disk": (f"{_CHANGE} --without disk", ORDER),
    "lapse": ("lease --rounds 2,1 --kills 0 --restarts 0 --without lapse", ORDER),
    "terms": (f"{_LEASE} --without terms", ORDER),
    "term-memory": (f"{_LEASE} --without term-memory", ORDER),
    "fence": (f"{_LEASE} --without fence", SAFETY),
    "absolute": (f"{_LEASE} --without absolute", SAFETY),
    "machine": (f"{_LEASE} --without machine", SAFETY),
}
"""Searches with one rule broken, and what the nearest wrong state violates."""

MASKED: Final = {
    # an ack of a round before the last release names that attempt's term, and the next attempt has another
    "round": f"{_LEASE} --without round",
    # a request older than a release may get a grant, but its ack does not count (rule 6)
    "old-request": f"{_LEASE} --without old-request",
    # consecutive epochs share a set, whoever has heard of which: the wait serves that nobody is disturbed
    "joined": f"{_CHANGE} --whole --kills 0 --without joined",
}
"""Searches with one rule broken that find nothing, because another rule is in the way."""

_SIZE: Final = re.compile(
    r"^(\d+) states, (\d+) transitions, depth (\d+), ([\d.]+) s, (\d+) MB$", re.MULTILINE
)
_REACHED: Final = re.compile(r"^ +(\d+) (.+)$", re.MULTILINE)
_VIOLATION: Final = re.compile(r"^VIOLATION of (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one search printed: `violates` is None after an exhaustive search that found nothing."""

    output: str
    violates: str | None
    states: int
    cpu_s: float
    memory_mb: int
    reached: dict[str, int]

    @property
    def steps(self) -> int:
        """The length of the way to the wrong state; 0 without one."""
        return len(re.findall(r"^ *\d+  t=", self.output, re.MULTILINE))


def search(program: Path, options: str) -> Outcome:
    """Run one search to its end; raises `CalledProcessError` if it could not be finished."""
    ended = subprocess.run([program, *options.split()], capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):
        ended.check_returncode()
    size, violation = _SIZE.search(ended.stdout), _VIOLATION.search(ended.stdout)
    assert size is not None, ended.stdout
    assert (ended.returncode == 1) == (violation is not None), ended.stdout
    return Outcome(
        output=ended.stdout,
        violates=violation[1] if violation else None,
        states=int(size[1]),
        cpu_s=float(size[4]),
        memory_mb=int(size[5]),
        reached={what: int(count) for count, what in _REACHED.findall(ended.stdout)},
    )
