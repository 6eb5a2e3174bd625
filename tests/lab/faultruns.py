"""One fault done to a service that follows its address, and whether it ended as it must.

The time that it may take follows from what the service's own settings allow: how long it may take to stop,
or how long a leash may take that nobody hears of. A run that takes longer is told as late, for a busy machine
takes longer too; one that takes twice as long did not come back.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lab import copies
from lab.analysis import MILLISECOND
from lab.legacy import running
from lab.servicefaults import Ending, ServiceFault
from lab.site import FAILURES, PERIOD_MS, START_S, STOP_S, TIMEOUT_MS
from lab.stage import HTTP, Outcome
from vipagent.suspects import leash_ns

if TYPE_CHECKING:
    from lab.site import Site

DETECTED_MS = FAILURES * PERIOD_MS + TIMEOUT_MS
# The page's checks, or a lease and the witnesses' grant, whichever is longer.
NOTICED_MS = DETECTED_MS + 500
# Killing what has not ended in time and asking its status hook, and the machine's own hiccups.
KILLED_MS = 2_000
# From "start it" to the first answer: two interpreters and one look at the port.
STARTED_MS = 1_500
LEASH_MS = leash_ns(STOP_S * 1000) / MILLISECOND
UNHEARD_OF_MS = LEASH_MS + 5_000
"""How long a fault that must end nowhere is left before it is mended."""


def limit_ms(fault: ServiceFault) -> float:
    """Return how long the service may be away."""
    gone_ms = LEASH_MS if fault.ending is Ending.LEASHED else STOP_S * 1000
    futile_ms = fault.futile_starts * (START_S + 1 + STOP_S) * 1000
    return NOTICED_MS + gone_ms + KILLED_MS + futile_ms + STARTED_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One fault, done once.

    `elsewhere_ms` is when another node first gave a good answer, after the fault and before it was undone
    where it must end nowhere; `blind_ms` for how long until then some node was not asked. `ran` is what ran
    before and after it, as the locks of the copies say.
    """

    fault: ServiceFault
    owner: str
    outcome: Outcome
    elsewhere_ms: float | None
    blind_ms: float
    ran: tuple[list[str], list[str]]
    doubles: list[copies.Overlap | copies.Collision]

    @property
    def objection(self) -> str | None:
        """Return what of the promise was not kept."""
        if self.doubles:
            return f"two copies at once: {self.doubles}"
        if self.outcome.overlaps or self.outcome.astray:
            return f"the address was on two nodes, or on none for good: {self.outcome}"
        return self._wrong_ending()

    @property
    def is_late(self) -> bool:
        """Tell whether it took longer than the limit, and what the machine itself stood still."""
        if self.fault.ending not in {Ending.TOLD, Ending.LEASHED} or self.elsewhere_ms is None:
            return False
        return self.elsewhere_ms - self.outcome.hiccup_ms >= limit_ms(self.fault)

    def _wrong_ending(self) -> str | None:
        before, after = self.ran
        is_back = self.elsewhere_ms is not None and self.outcome.after is not None
        match self.fault.ending:
            case Ending.STAYS if (self.outcome.after, before) != (self.owner, after):
                return f"it did not stay on {self.owner}: {before} ran, then {after}; {self.outcome}"
            case Ending.NOWHERE if self.elsewhere_ms is not None or self.outcome.after is not None:
                return f"it was started though nobody could know that it was gone: {self.outcome}"
            case Ending.TOLD | Ending.LEASHED if not is_back:
                return f"it did not come back: {self.outcome}"
        return None


def run(site: Site, fault: ServiceFault) -> Run:
    """Commit a fault to the node that runs the service, see how it ends, and undo it."""
    owner = site.stage.owner(site.virtual_ip)
    undo = partial(fault.undo, site, owner)
    before = running(site.shared)
    fault_ns = time.monotonic_ns()
    is_mended_later = fault.ending is Ending.NOWHERE
    patience_ms = UNHEARD_OF_MS if is_mended_later else 2 * limit_ms(fault)
    outcome = site.stage.act(
        site.virtual_ip,
        partial(fault.commit, site, owner),
        reads=HTTP,
        expect=owner.name if fault.ending is Ending.STAYS else None,
        lasts_s=fault.lasts_s,
        undo=None if is_mended_later else undo,
        patience_s=patience_ms / 1000,
    )
    after = running(site.shared)
    attempts = site.watch.attempts(since_ns=fault_ns)
    if is_mended_later:
        undo()
        site.rest()
    first = copies.first_elsewhere(attempts, owner.name, since_ns=fault_ns)
    answered_ns = None if first is None else first.answered_ns
    return Run(
        fault=fault,
        owner=owner.name,
        outcome=outcome,
        elsewhere_ms=None if answered_ns is None else (answered_ns - fault_ns) / MILLISECOND,
        blind_ms=copies.longest_blindness_ms(
            attempts, since_ns=fault_ns, until_ns=answered_ns or time.monotonic_ns()
        ),
        ran=(before, after),
        doubles=site.doubles(since_ns=fault_ns),
    )
