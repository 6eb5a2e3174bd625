"""`make scale`: what vipkeeper does and costs with many VirtualIPs and many nodes.

It has three parts, and what is measured in each stands there:

    scalecontroller  the controller, with up to 1,000 VirtualIPs and the agents of a hundred nodes
    scalepower       200 addresses on a node that loses its power
    scalestart       starts and memory of every process, with up to 200 VirtualIPs

It prints, with the limits that the project has set itself beside the figures, and does not judge, save for
what never settled, an address that did not come back and two owners of one, which make it fail.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console

from lab import scalecontroller, scalepower, scalestart

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.binaries import Binaries


def run(binaries: Binaries, say: Callable[[str], None], *, only: str, runs: int | None = None) -> int:
    """Measure the cases whose name `only` picks (`lab.choice`), and print each part's tables when it is over.

    `runs` is how often power is lost and every process started, by default what those parts say.
    """
    parts = (
        partial(scalecontroller.run, only=only),
        partial(scalepower.run, only=only, runs=runs),
        partial(scalestart.run, only=only, runs=runs),
    )
    if not any(part.chosen(only) for part in (scalecontroller, scalepower, scalestart)):
        say(f"nothing to measure has {only!r} in its name")
        return 2
    started_s, is_well = time.monotonic(), True
    console = Console(width=150)
    for part in parts:
        tables, is_part_well = part(binaries, say)
        is_well = is_well and is_part_well
        for table in tables:
            console.print(table)
    say(f"{time.monotonic() - started_s:.0f} s in all")
    return 0 if is_well else 1
