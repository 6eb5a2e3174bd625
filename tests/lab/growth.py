"""What has grown with the number of take-overs: arithmetic on samples that were taken at rest.

A sample says, after so many take-overs, how much there is of each `Measure`. The first third of the samples
is warm-up, and nothing in it counts: caches fill, allocators find their size. Of the rest

    growth     is the slope of the straight line that fits best (least squares), for 1,000 take-overs
    it rises   where the least of the last third is more than the most of the first third

One that rises has grown. Noise does not rise, for it comes back; what a take-over leaves behind does. Of
whole things none may: one descriptor in a thousand take-overs is a leak. Memory and documents have slack, and
with that a limit:

- Memory: 1 MB for 1,000 take-overs, 1 kB each. A node that takes an address over every hour, which is a
  node in trouble, grows by less than 9 MB in a year.
- Documents: 4 kB for 1,000 take-overs. A list that gained an entry at every tenth would be more; numbers with
  one digit more are less.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

JUDGED_FROM: Final = 6
"""So many samples are needed: two for the warm-up, and then two to compare with two."""


class Kind(Enum):
    """What a measure counts, and how much more of it there may be after 1,000 take-overs."""

    COUNT = 0.0
    MEMORY = 1.0
    DOCUMENT = 4.0
    TOLD = float("inf")

    @property
    def limit(self) -> float:
        """Return the growth for 1,000 take-overs from which on it is growth: things, MB or kB."""
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class Measure:
    """What is counted: things, MB or kB `of` somebody."""

    of: str
    what: str
    kind: Kind

    def __post_init__(self) -> None:
        assert self.of, self
        assert self.what, self


@dataclass(frozen=True, slots=True)
class Sample:
    """What there was at rest after so many take-overs."""

    take_overs: int
    found: Mapping[Measure, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One measure over all samples: the first, the middle and the last, and what 1,000 take-overs add."""

    measure: Measure
    first: float
    middle: float
    last: float
    per_thousand: float
    rises: bool
    is_constant: bool

    @property
    def objection(self) -> str | None:
        """Return what has grown."""
        if not self.rises or self.per_thousand <= self.measure.kind.limit:
            return None
        return (
            f"{self.measure.of}: {self.measure.what} grows by {self.per_thousand:.2f} in 1,000 take-overs, "
            f"from {self.first:g} to {self.last:g}"
        )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the line that fits points best; 0 where they have one x only."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Return how each measure went, in order; one that a sample lacks was 0 then.

    With fewer than `JUDGED_FROM` samples nothing rises.
    """
    measures = sorted(
        {measure for sample in samples for measure in sample.found},
        key=lambda measure: (measure.of, measure.kind.name, measure.what),
    )
    return [_growth(measure, samples) for measure in measures]


def _growth(measure: Measure, samples: Sequence[Sample]) -> Growth:
    points = [(float(sample.take_overs), sample.found.get(measure, 0.0)) for sample in samples]
    values = [value for _, value in points]
    settled = points[len(points) // 3 :]
    third = max(len(settled) // 3, 2)
    early, late = (
        [value for _, value in part] for part in (settled[:third], settled[len(settled) - third :])
    )
    return Growth(
        measure=measure,
        first=values[0],
        middle=values[len(values) // 2],
        last=values[-1],
        per_thousand=1000 * slope(settled),
        rises=len(points) >= JUDGED_FROM and min(late) > max(early),
        is_constant=min(values) == max(values),
    )


def least(readings: Iterable[Mapping[Measure, float]]) -> dict[Measure, float]:
    """Return the least of each measure in readings taken in quick succession: what is there all the time.

    What one of them lacks was not there all the time.
    """
    every = list(readings)
    common = set(every[0]).intersection(*every[1:])
    return {measure: min(each[measure] for each in every) for measure in common}
