"""Virtual time: an agenda of what happens when, and clocks that run at rates of their own."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vipagent.effects import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND: Final = 1000 * MILLISECOND
HOUR: Final = 3600 * SECOND
RATE: Final = 1_000_000
DRIFT_PPM: Final = 100_000


class Agenda:
    """True time, and everything that is still to happen, in order."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.events = 0
        self._count = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []

    def after(self, delay_ns: int, action: Callable[..., object], *arguments: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (self.now_ns + delay_ns, self._count, action, arguments))

    def run_for(self, duration_ns: int) -> None:
        until_ns = self.now_ns + duration_ns
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until_ns:
            self.now_ns, _, action, arguments = pop(heap)
            self.events += 1
            action(*arguments)
        self.now_ns = until_ns


@dataclass(slots=True)
class Clock:
    """CLOCK_BOOTTIME of one machine; its rate is in parts per million of true time."""

    base_ns: int
    rate_ppm: int = RATE
    since_ns: int = 0

    def read(self, true_ns: int) -> int:
        return self.base_ns + (true_ns - self.since_ns) * self.rate_ppm // RATE

    def when(self, local_ns: int) -> int:
        """The first true time at which it reads that."""
        return self.since_ns - (self.base_ns - local_ns) * RATE // self.rate_ppm

    def slew(self, true_ns: int, rate_ppm: int) -> None:
        self.base_ns, self.since_ns, self.rate_ppm = self.read(true_ns), true_ns, rate_ppm
