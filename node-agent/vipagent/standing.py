"""Whether this node could hold a VirtualIP, all things considered: candidacy, health, interface, fence.

The first obstacle is the reason that people read, so obstacles stand in the order in which a person
would remove them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from vipagent.health import LOWEST_SCORE
from vipagent.nodeview import Refusal

if TYPE_CHECKING:
    from vipagent.health import Fitness
    from vipapi.nodeplan import Plan
    from vipapi.nodestatus import CheckStatus

_OUT_OF_SERVICE: Final = Refusal(
    "OutOfService",
    "this Node has the taint node.kubernetes.io/out-of-service, which says that it is off, so others start "
    "its services: remove the taint, for it is on",
)


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


def out_of_service(plan: Plan) -> Refusal | None:
    """Say why a node must hold nothing of which somebody says that it is off: others rely on that."""
    is_named = any(plan.node in domain.out_of_service for domain in plan.domains)
    return _OUT_OF_SERVICE if is_named else None


def stand(
    health: Fitness | None,
    obstacle: Refusal | None,
    *,
    is_witness_only: bool,
    doubt: Refusal | None = None,
) -> Standing:
    """Return the standing; `health` is None where this node is no candidate.

    An obstacle keeps it from holding the address; with a doubt it comes after every other candidate.
    """
    if is_witness_only or health is None:
        return Standing("NotCandidate")
    if obstacle is not None:
        return Standing("Unfit", health.score, obstacle.reason, obstacle.message, health.checks)
    if health.is_fit and doubt is not None:
        return Standing("Fit", LOWEST_SCORE, doubt.reason, doubt.message, health.checks)
    return Standing(health.fit, health.score, health.reason, health.message, health.checks)
