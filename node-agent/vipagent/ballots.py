"""What this node wants to vote with in the API server's name, told to the courier when it has changed.

Time alone can change it: while there is a domain with such a vote, it is looked at again soon.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from vipapi.link import VotesWanted

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_S: Final = 0.020


class Ballots:
    """The wants of all seats; `wanted` tells them and `publish` takes them. For a running event loop."""

    def __init__(self, wanted: Callable[[], VotesWanted], publish: Callable[[VotesWanted], None]) -> None:
        self._wanted = wanted
        self._publish = publish
        self._published = VotesWanted()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Publish what is wanted now, if that is news."""
        wanted = self._wanted()
        if wanted != self._published:
            self._published = wanted
            self._publish(wanted)
        if wanted.wanted and self._timer is None:
            self._timer = self._loop.call_later(_LOOK_S, self._look_again)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_again(self) -> None:
        self._timer = None
        self.look()
