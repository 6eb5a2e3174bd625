"""The contexts of TLS for health checks: one that verifies nothing, and the node's trusted authorities.

Authorities change while the keeper runs: a company's are rotated, one is trusted no more. What was read
`STALE_S` ago is read anew, beside the check that finds it so. Where a certificate is not valid under what was
read `DOUBTFUL_S` ago or before, its check waits for what is trusted now, and asks again. While they cannot be
read, those that could be stay in force.

Reading takes some 20 ms, too long for the event loop: it is done in a thread.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import time
from typing import TYPE_CHECKING, Final

from vipagent.probes_threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable

STALE_S: Final = 300.0
DOUBTFUL_S: Final = 10.0


class Authorities:
    """The authorities that the node trusts. Made anywhere; used inside one event loop."""

    def __init__(
        self,
        read: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._now_s = now_s
        self._threads: Threads[ssl.SSLContext] = Threads(1)
        self._context: ssl.SSLContext | None = None
        self._reading: asyncio.Task[ssl.SSLContext] | None = None
        self._begun_s = 0.0

    async def context(self) -> ssl.SSLContext:
        """Return the context that verifies certificates; only the first is waited for. Raises `OSError`."""
        if self._context is None:
            return await asyncio.shield(self._read_anew())
        if self._age_s() >= STALE_S:
            self._read_anew()
        return self._context

    async def newer(self, than: ssl.SSLContext) -> ssl.SSLContext | None:
        """Return what to verify an invalid certificate with once more; None if nothing is newer."""
        if than is self._context and (self._is_reading() or self._age_s() >= DOUBTFUL_S):
            await asyncio.wait([self._read_anew()])
        return None if than is self._context else self._context

    def _age_s(self) -> float:
        return self._now_s() - self._begun_s

    def _is_reading(self) -> bool:
        return self._reading is not None and not self._reading.done()

    def _read_anew(self) -> asyncio.Task[ssl.SSLContext]:
        if self._reading is None or self._reading.done():
            self._begun_s = self._now_s()
            reading = self._threads.run("trusted authorities", self._read)
            self._reading = asyncio.get_running_loop().create_task(reading)
            self._reading.add_done_callback(self._take)
        return self._reading

    def _take(self, reading: asyncio.Task[ssl.SSLContext]) -> None:
        if not reading.cancelled() and reading.exception() is None:
            self._context = reading.result()


@functools.cache
def unverified() -> ssl.SSLContext:
    """Return the context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
