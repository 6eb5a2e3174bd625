"""Orphans: reaping what nobody waits for, where the keeper is the first process of its container.

Whoever loses its parent becomes a child of the first process of its PID namespace: a hook's helper that
was killed with its group, say. Elsewhere an init reaps it; in a container the keeper is that init, and
what it did not reap would stay, until no process could be made any more.

A child that the keeper started is waited for within milliseconds of its end. So whoever has ended and is
still there a look later is nobody's. That takes no list of children, which others would have to keep, and
no `waitpid(-1)`, which would take their exit statuses from them.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_FIRST: Final = 1


class Orphans:
    """What had ended at the last look."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._ended: frozenset[int] = frozenset()

    def reap(self) -> int:
        """Look, reap what had ended at the look before as well, and return how many; seconds apart."""
        if os.getpid() != _FIRST:
            return 0
        now_ended = frozenset(self._children_that_ended())
        reaped = 0
        for pid in now_ended & self._ended:
            with contextlib.suppress(ChildProcessError):
                reaped += os.waitpid(pid, os.WNOHANG)[0] == pid
        self._ended = now_ended
        return reaped

    def _children_that_ended(self) -> list[int]:
        found = []
        for entry in self._proc.iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    # A name may have spaces and brackets in it; what follows the last bracket has none.
                    _, _, facts = (entry / "stat").read_text(errors="replace").rpartition(")")
                    if facts.split()[:2] == ["Z", str(_FIRST)]:
                        found.append(int(entry.name))
        return found
