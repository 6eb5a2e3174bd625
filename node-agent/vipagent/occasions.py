"""Occasions: whatever calls for a look at everything, gathered so that many are one look.

A look costs some 10 ms where there are hundreds of VirtualIPs, and a dead backend, switch or link has as many
results come in one moment. One look for each would keep the loop from its timers, the renewals among them,
for longer than a lease: everything would be lost, also what the results are not about.

So noting an occasion costs next to nothing. The first is looked into in the loop's next turn, together with
what else this turn has: one change alone waits for nothing. After each look there is a pause of `PAUSE_S` in
which the loop has its turns, so what follows is looked into at most that much later.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S: Final = 0.010


class Occasions:
    """Occasions for one kind of look; used inside a running event loop."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._not_before_s = self._loop.time()
        self._waiting: asyncio.TimerHandle | None = None
        self._is_closed = False

    def note(self) -> None:
        """Look soon."""
        if self._waiting is None and not self._is_closed:
            self._waiting = self._loop.call_at(self._not_before_s, self._work)

    def close(self) -> None:
        """Look no more."""
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _work(self) -> None:
        self._waiting = None
        self._look()
        self._not_before_s = self._loop.time() + PAUSE_S
