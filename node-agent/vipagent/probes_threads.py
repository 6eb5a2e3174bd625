"""Threads for what may block for ever: a look at a file of a dead file server, the first import of a library.

No timeout ends a system call that hangs in the kernel, so the thread in it is lost until the call returns.
Three rules keep that from becoming anybody else's matter:

- Each look is known by what it is at. While one hangs, whoever asks for the same joins it and starts none.
- At most `limit` threads are under way; what is asked beyond that is refused at once, in words, or waits.
- They are daemon threads: a process that ends does not wait for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class TooManyLooksError(OSError):
    """So many looks hang already that no other is begun."""


class Threads(Generic[T]):
    """Looks of one kind. Made anywhere; used inside one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._under_way: dict[str, asyncio.Future[T]] = {}
        self._turn = asyncio.Lock()

    async def run(self, name: str, look: Callable[[], T]) -> T:
        """Return what `look` does, or what one of that name does that is under way; raises what it raises.

        Who is cancelled leaves the look to itself. Raises `TooManyLooksError` where it cannot begin.
        """
        looking = self._under_way.get(name)
        if looking is None:
            looking = self._begin(name, look)
        return await asyncio.shield(looking)

    async def run_in_turn(self, name: str, look: Callable[[], T]) -> T:
        """As `run`, but what cannot begin waits, the first first, until another look has ended."""
        if name not in self._under_way:
            async with self._turn:
                while name not in self._under_way and len(self._under_way) >= self._limit:
                    await asyncio.wait(self._under_way.values(), return_when=asyncio.FIRST_COMPLETED)
                looking = self._under_way.get(name) or self._begin(name, look)
            return await asyncio.shield(looking)
        return await self.run(name, look)

    def _begin(self, name: str, look: Callable[[], T]) -> asyncio.Future[T]:
        if len(self._under_way) >= self._limit:
            hanging = ", ".join(sorted(self._under_way)[:3])
            raise TooManyLooksError(f"not looked at, for {self._limit} others hang ({hanging}, ...)")
        loop = asyncio.get_running_loop()
        looking: asyncio.Future[T] = loop.create_future()
        # Where everybody who asked has given up, nobody else fetches an error.
        looking.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

        def end(found: T | None, error: BaseException | None) -> None:
            del self._under_way[name]
            if looking.cancelled():
                return
            if error is not None:
                looking.set_exception(error)
            else:
                looking.set_result(found)  # type: ignore[arg-type]  # None only where T has it

        def run() -> None:
            found, failure = None, None
            try:
                found = look()
            except BaseException as error:  # noqa: BLE001 - it is told to whoever asked
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(end, found, failure)

        self._under_way[name] = looking
        try:
            threading.Thread(target=run, name=f"look-{name}", daemon=True).start()
        except RuntimeError as error:
            del self._under_way[name]
            raise TooManyLooksError(f"not looked at: {error}") from error
        return looking
