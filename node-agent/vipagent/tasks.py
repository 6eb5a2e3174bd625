"""The keeper's tasks, and how it ends when one of them, or a callback of the loop, breaks.

What broke may have left effects undone, and nothing may go on after that: `broken` raises the first error.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Tasks:
    """Tasks for which nobody waits; used inside a running event loop, whose errors it takes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.broken: asyncio.Future[None] = self._loop.create_future()

    def guard_loop(self) -> None:
        """Have every callback of this loop that raises break this."""
        self._loop.set_exception_handler(self._on_loop_error)

    def spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run a coroutine; if it raises, this is broken."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def end(self, error: BaseException) -> None:
        """Break, unless that is so already."""
        if not self.broken.done():
            self.broken.set_exception(error)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.end(error)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or "handle" not in context:
            loop.default_exception_handler(context)
        else:
            self.end(error)
