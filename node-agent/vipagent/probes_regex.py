"""Searches text for a regular expression that a user wrote, and never for long.

A regular expression can take exponential time on forty bytes, and Python's engine knows no limit and lets no
other thread run meanwhile. So an interval timer looks at it every few milliseconds and ends it, by an
exception from the signal's handler, once it has used `REGEX_CPU_S` of this thread's processor time. The
signal is SIGALRM, so it must run in the main thread, which is the event loop's.
"""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

REGEX_CPU_S = 0.004
_LOOK_S = 0.002


class _TooLongError(Exception):
    pass


def mismatch(field: str, pattern: str, text: str, *, where: str) -> str | None:
    """Say why `pattern` is not found in the text; None if it is. `field` is what the user knows it by."""
    try:
        is_found = _search(pattern, text)
    except (re.error, OverflowError) as error:
        return f"{field} is not a regular expression: {error}"
    except RecursionError:
        return f"{field} is nested too deeply: make it simpler"
    except _TooLongError:
        return f"{field} takes more than {REGEX_CPU_S * 1000:.0f} ms on this text: make it simpler"
    return None if is_found else f"{where} does not match {field}"


def _search(pattern: str, text: str) -> bool:
    began = time.thread_time()
    is_searching = True

    def look(_number: int, _frame: FrameType | None) -> None:
        # Again and again: one that was raised while some object was finalised ended nothing.
        if is_searching and time.thread_time() - began > REGEX_CPU_S:
            raise _TooLongError

    before = signal.signal(signal.SIGALRM, look)
    try:
        signal.setitimer(signal.ITIMER_REAL, REGEX_CPU_S, _LOOK_S)
        try:
            return re.search(pattern, text) is not None
        finally:
            is_searching = False
    finally:
        is_searching = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
