"""Tells Events beside the writes that they belong to, so that what is only news delays no decision.

    tell ──▶ a queue ──▶ one thread ──▶ the API server

Of many addresses that start or move at once the Events would be half of all requests. Here they wait their
turn, one at a time, and come a little after what they tell of, with the time of that. They are lost where
more than `LONGEST` wait, the oldest first, which counts as an error, and where the process ends before they
are told: the log has them. What waits is news only: whole statuses would fill the memory of a big world.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipapi.resources import ObjectMeta
    from vipcontroller.metrics import Result
    from vipcontroller.writes import FinalizerWrite, Kind, StatusWrite, Telling

LONGEST = 10_000
FAREWELL_S = 3.0
"""How long the end of the process waits for what has not been told yet."""

_logger = logging.getLogger("vipcontroller")


class News(NamedTuple):
    """An Event, the object that it is about, and when that happened."""

    kind: Kind
    metadata: ObjectMeta
    telling: Telling
    at: datetime


class Crier:
    """Tells Events by `carry_out`, which may raise anything; `count` hears each one's type and result."""

    def __init__(
        self,
        carry_out: Callable[[News], None],
        *,
        count: Callable[[str, Result], None],
        longest: int = LONGEST,
    ) -> None:
        self._carry_out = carry_out
        self._count = count
        self._longest = longest
        self._waiting: deque[News] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self._until = float("inf")
        self._thread = threading.Thread(target=self._keep_telling, name="crier", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def stop(self, timeout_s: float = FAREWELL_S) -> None:
        """Tell what is waiting, for a little while, and end."""
        with self._changed:
            self._is_stopping, self._until = True, min(self._until, time.monotonic() + timeout_s)
            self._changed.notify_all()
        self._thread.join(timeout_s)
        with self._changed:
            if self._waiting:
                _logger.warning("Events that were not told before the end: %d", len(self._waiting))

    def tell(self, write: StatusWrite | FinalizerWrite) -> None:
        """Have the Events of a write told that has just succeeded; returns at once."""
        now = datetime.now(UTC)
        with self._changed:
            self._waiting.extend(News(write.kind, write.metadata, telling, now) for telling in write.tellings)
            lost = [self._waiting.popleft() for _ in range(len(self._waiting) - self._longest)]
            self._changed.notify_all()
        for news in lost:
            self._count(news.telling.type, "error")

    def _keep_telling(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopping)
                if not self._waiting or time.monotonic() >= self._until:
                    return
                news = self._waiting.popleft()
            try:
                self._carry_out(news)
            except Exception as error:  # noqa: BLE001 - told and counted, and the next Event is no worse for it
                self._count(news.telling.type, "error")
                name = news.metadata.name
                _logger.warning("Could not tell an Event about %s %s: %s", news.kind, name, error)
            else:
                self._count(news.telling.type, "ok")
