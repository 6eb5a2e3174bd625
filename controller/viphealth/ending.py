"""How a process ends that is told to before it can do so in order."""

from __future__ import annotations

import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def end_at_once(status: int = 0) -> None:
    """Let SIGTERM end this process with that status from now on, wherever it stands.

    A container's first process gets no signal that it has no handler for: its start could not be ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))


def end_unfinished() -> None:
    """Let SIGTERM end this process as an uncaught one would, for whoever asks whether its work is done."""
    end_at_once(128 + signal.SIGTERM)


def end_by(stop: Callable[[], None]) -> None:
    """Let SIGTERM and SIGINT call `stop` from now on, in a thread of its own.

    A handler runs amidst whatever the main thread is doing, which may have a lock that `stop` waits for.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=stop, name="stop", daemon=True).start())
