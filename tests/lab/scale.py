"""`make scale`: what the controller does and costs with many VirtualIPs and many nodes (`scalecontroller`).

It prints, with the limits that the project has set itself beside the figures, and does not judge, save for
what never settled, which makes it fail.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console

from lab import scalecontroller

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.binaries import Binaries


def run(binaries: Binaries, say: Callable[[str], None], *, only: str) -> int:
    """Measure the cases whose name contains `only`; print the tables."""
    started_s = time.monotonic()
    tables, is_settled = scalecontroller.run(binaries, say, only=only)
    console = Console(width=150)
    for table in tables:
        console.print(table)
    say(f"{time.monotonic() - started_s:.0f} s in all")
    return 0 if is_settled else 1
