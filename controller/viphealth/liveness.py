"""Whether loops that run in threads still turn: each says so now and then, and may be silent for so long.

A loop of asyncio is not asked in this way: `server.of_loop` asks it for a turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Pulses:
    """When each loop last turned; `limits_s` has their names, and how long each may be silent.

    All are taken to have turned at `now`, when they were begun. Loops beat from threads of their own.
    """

    def __init__(self, limits_s: Mapping[str, float], now: float) -> None:
        self._limits_s = dict(limits_s)
        self._turned_at = dict.fromkeys(limits_s, now)

    def beat(self, name: str, now: float) -> None:
        """That loop turned."""
        assert name in self._limits_s, name
        self._turned_at[name] = now

    def stopped(self, now: float) -> str:
        """Say which loop has been silent for too long; empty while none has."""
        for name, limit_s in self._limits_s.items():
            silent_s = now - self._turned_at[name]
            if silent_s > limit_s:
                return f"the {name} has not turned for {silent_s:.0f} s"
        return ""
