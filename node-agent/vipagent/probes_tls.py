"""The contexts of TLS for health checks: one that verifies nothing, and the node's trusted authorities.

Reading the authorities takes some 20 ms, too long for the event loop: it is done in a thread, and once.
"""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING

from vipagent.probes_threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable


class Authorities:
    """The authorities that the node trusts. Made anywhere; used inside one event loop."""

    def __init__(self, read: Callable[[], ssl.SSLContext] = ssl.create_default_context) -> None:
        self._read = read
        self._threads: Threads[ssl.SSLContext] = Threads(1)
        self._context: ssl.SSLContext | None = None

    async def context(self) -> ssl.SSLContext:
        """Return the context that verifies certificates."""
        if self._context is None:
            self._context = await self._threads.run("trusted authorities", self._read)
        return self._context


@functools.cache
def unverified() -> ssl.SSLContext:
    """Return the context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
