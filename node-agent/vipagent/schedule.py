"""Decides when each check is probed next.

Every key (a check) is due once a period, on a grid of its own, so a probe that takes long does not
shift the ones after it. Three rules:

- Keys that are new together start `STAGGER_S` apart, the first at once, and at most one period
  late: 500 checks never fire at one instant, and as each keeps its grid they stay apart.
- A key never overlaps itself. One that is due while its probe still runs starts again when that one
  has finished.
- What was missed is missed. A process that was frozen for ten periods probes each key once, not
  ten times, and each goes on in its own place on the grid.

The caller gives `now`, asks `start(now)` for what is due, says `finish(key, now)`, and sleeps until
`deadline`. All times are seconds of one monotonic clock.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import math
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

K = TypeVar("K", bound="Hashable")

STAGGER_S = 0.002


@dataclasses.dataclass(slots=True)
class _Turn:
    period_s: float
    due: float
    is_running: bool = False
    is_hurried: bool = False
    ticket: int = 0


class Schedule(Generic[K]):
    """Due times of a changing set of keys."""

    def __init__(self) -> None:
        self._turns: dict[K, _Turn] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._tickets = itertools.count(1)
        self._running: set[K] = set()

    @property
    def deadline(self) -> float | None:
        """When the next key that is not running is due, None without one."""
        while self._heap:
            due, ticket, key = self._heap[0]
            turn = self._turns.get(key)
            if turn is not None and turn.ticket == ticket and not turn.is_running:
                return due
            heapq.heappop(self._heap)
        return None

    @property
    def running_count(self) -> int:
        """How many probes are under way, those of keys that are gone included."""
        return len(self._running)

    def update(self, periods_s: Mapping[K, float], *, now: float) -> None:
        """Take the keys that are wanted from now on; those that were there keep their turn."""
        for key in [key for key in self._turns if key not in periods_s]:
            del self._turns[key]
        fresh = 0
        for key, period_s in periods_s.items():
            turn = self._turns.get(key)
            if turn is not None and turn.period_s == period_s:
                continue
            turn = _Turn(period_s=period_s, due=now + min(fresh * STAGGER_S, period_s))
            turn.is_running = key in self._running
            self._turns[key] = turn
            self._queue(key, turn)
            fresh += 1

    def start(self, now: float, *, limit: int) -> list[K]:
        """Return the keys to probe now, the longest due first; at most `limit` are under way."""
        started: list[K] = []
        while len(self._running) < limit:
            due = self.deadline
            if due is None or due > now:
                break
            _, _, key = heapq.heappop(self._heap)
            turn = self._turns[key]
            missed = max(0, math.floor((now - turn.due) / turn.period_s))
            turn.due += (missed + 1) * turn.period_s
            turn.is_running = True
            self._running.add(key)
            started.append(key)
        return started

    def finish(self, key: K, *, now: float) -> None:
        """Say that the key's probe has ended."""
        assert key in self._running, key
        self._running.discard(key)
        turn = self._turns.get(key)
        if turn is None:
            return
        turn.is_running = False
        if turn.is_hurried:
            turn.is_hurried = False
            turn.due = now
        self._queue(key, turn)

    def hurry(self, key: K, *, now: float) -> None:
        """Make the key due at once; one that is under way is probed again as soon as it has finished."""
        turn = self._turns.get(key)
        if turn is None:
            return
        if turn.is_running:
            turn.is_hurried = True
            return
        turn.due = min(now, turn.due)
        self._queue(key, turn)

    def _queue(self, key: K, turn: _Turn) -> None:
        turn.ticket = next(self._tickets)
        if not turn.is_running:
            heapq.heappush(self._heap, (turn.due, turn.ticket, key))
