"""Whether this node could hold a VirtualIP, all things considered: candidacy, health, interface, fence.

The first obstacle is the reason that people read, so obstacles stand in the order in which a person
would remove them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vipagent.health import Fitness
    from vipagent.nodeview import Refusal
    from vipapi.nodestatus import CheckStatus


@dataclass(frozen=True, slots=True)
class Standing:
    """This node's fitness for one VirtualIP, as it is reported."""

    fitness: Literal["Fit", "Unfit", "NotCandidate"]
    score: int = 0
    reason: str = ""
    message: str = ""
    checks: tuple[CheckStatus, ...] = ()

    @property
    def is_fit(self) -> bool:
        """Whether this node may hold the address now."""
        return self.fitness == "Fit"


def stand(health: Fitness | None, obstacle: Refusal | None, *, is_witness_only: bool) -> Standing:
    """Return the standing; `health` is None where this node is no candidate."""
    if is_witness_only or health is None:
        return Standing("NotCandidate")
    if obstacle is not None:
        return Standing("Unfit", health.score, obstacle.reason, obstacle.message, health.checks)
    return Standing(health.fit, health.score, health.reason, health.message, health.checks)
