"""Tells Events beside the writes that they belong to, so that what is only news delays no decision.

    tell ──▶ a queue ──▶ one thread ──▶ the API server

Of many addresses that start or move at once the Events would be half of all requests. Here they wait their
turn, one at a time, and come a little after what they tell of. They are lost where more than `LONGEST` wait,
the oldest first, and where the process ends without a farewell: the log has them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipcontroller.metrics import Result
    from vipcontroller.writes import FinalizerWrite, StatusWrite, Telling

LONGEST = 10_000
FAREWELL_S = 3.0
"""How long the end of the process waits for what has not been told yet."""

_logger = logging.getLogger("vipcontroller")


class Crier:
    """Tells Events by `carry_out`, which may raise anything; `count` hears each one's type and result."""

    def __init__(
        self,
        carry_out: Callable[[StatusWrite | FinalizerWrite, Telling], None],
        *,
        count: Callable[[str, Result], None],
        longest: int = LONGEST,
    ) -> None:
        self._carry_out = carry_out
        self._count = count
        self._waiting: deque[tuple[StatusWrite | FinalizerWrite, Telling]] = deque(maxlen=longest)
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

    def tell(self, write: StatusWrite | FinalizerWrite) -> None:
        """Have the Events of a write told that succeeded; returns at once."""
        with self._changed:
            self._waiting.extend((write, telling) for telling in write.tellings)
            self._changed.notify_all()

    def _keep_telling(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_stopping)
                if not self._waiting or time.monotonic() >= self._until:
                    return
                write, telling = self._waiting.popleft()
            try:
                self._carry_out(write, telling)
            except Exception as error:  # noqa: BLE001 - told and counted, and the next Event is no worse for it
                self._count(telling.type, "error")
                name = write.metadata.name
                _logger.warning("Could not tell an Event about %s %s: %s", write.kind, name, error)
            else:
                self._count(telling.type, "ok")
