"""The door to the kernel's timer on CLOCK_BOOTTIME: it goes on while the machine is suspended.

The event loop's own timers stand still meanwhile, so what is due by them when the machine wakes up would be
late by as long as it slept. This one is due at once (timerfd_create(2)).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOEXEC_NONBLOCK: Final = os.O_CLOEXEC | os.O_NONBLOCK
_ABSOLUTE: Final = 1
_SECOND: Final = 1_000_000_000


def now_ns() -> int:
    """The time on CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Timer:
    """Calls back at a moment of CLOCK_BOOTTIME; used inside a running event loop. Raises `OSError`."""

    def __init__(self, call_back: Callable[[], None]) -> None:
        self._call_back = call_back
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.timerfd_create(time.CLOCK_BOOTTIME, _CLOEXEC_NONBLOCK)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "the kernel gives no timer")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._ring)

    def set(self, at_ns: int | None) -> None:
        """Call back at that moment instead of the former one; not at all with None."""
        # A moment of 0 would switch the timer off (struct itimerspec: interval, then value).
        seconds, nanoseconds = divmod(0 if at_ns is None else max(1, at_ns), _SECOND)
        moment = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        if self._libc.timerfd_settime(self._descriptor, _ABSOLUTE, moment, None) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses to set a timer")

    def close(self) -> None:
        """Give it back."""
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _ring(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:  # set anew between ringing and being heard
            return
        self._call_back()
