"""Announcement: when an address that was taken is told to the network.

At once, and again after 20, 100, 500 and 1,100 ms, for a frame may be lost or meet a switch that has
just opened its port; with a larger count each second after that. Then every `refresh_s`, so that no
neighbour's or switch's table is ever long without it.

The burst begins anew (`again_in_s`) where the network may have forgotten, or learnt something else: the
carrier of the link came back, its MAC address or a bond's active port is another, a peer or the gateway is
heard again that was not. What flaps announces no more often than each `AGAIN_S`.
"""

from __future__ import annotations

from typing import Final

REPEATS_S: Final = (0.0, 0.02, 0.1, 0.5, 1.1)
_FURTHER_S: Final = 1.0
AGAIN_S: Final = 2.0


def due_s(sent: int, *, count: int, refresh_s: int) -> float:
    """Return when the next announcement is due, in seconds after the address was bound.

    `sent` is how many have been; `count` how many belong to the burst (1 or more).
    """
    in_burst = min(sent, count - 1)
    last = len(REPEATS_S) - 1
    burst_s = REPEATS_S[in_burst] if in_burst <= last else REPEATS_S[last] + (in_burst - last) * _FURTHER_S
    return burst_s + (sent - in_burst) * refresh_s


def again_in_s(now_s: float, last_s: float | None) -> float:
    """Return in how many seconds the burst may begin anew that did so at `last_s`; None for never yet."""
    return 0.0 if last_s is None else max(0.0, last_s + AGAIN_S - now_s)
