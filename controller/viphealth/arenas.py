"""How a process of many threads keeps what they free: one arena of malloc's for all of them.

glibc gives a thread an arena of its own when it finds the others in use (mallopt(3), M_ARENA_MAX), and what
is freed is used again by its own arena only. Documents that one thread reads and another drops, failover
after failover, so leave ever more free room that nobody uses. One lock for all threads costs nothing where
Python has one already.
"""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # malloc.h


def share_one() -> None:
    """Let all threads of this process share one arena; to be called before the first of them starts.

    Other C libraries than glibc have no arenas, and nothing is done.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
