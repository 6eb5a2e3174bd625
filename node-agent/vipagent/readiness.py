"""Whether this keeper does its part, so that the next one may be restarted: what `/readyz` says.

A roll-out of the DaemonSet goes from node to node, and takes the next keeper away when this one is ready. So
ready means that what the next one hands over can come here, and that it finds its majority without waiting:

1. the courier's socket is served, and the keeper is not about to stop;
2. it has a plan, from its disk or from the courier, and the newest one was neither refused nor lost;
3. in each domain of the plan that has witnesses
   - it takes part: it has a key, a configuration, and its heartbeats have an address and a socket;
   - its witness speaks again: a restarted one is silent for longer than any grant that it may have forgotten
     (rule 5), and a majority without its vote would need all the others;
   - a majority of the witnesses, itself among them, has answered it lately: they know of it, under
     the same configuration and the same key. The API server's vote counts for nothing here;
4. for `STARTING_S` after its start, nothing that a start is to blame for keeps it from holding an address:
   checks without a first result, announcements that are still being built;
5. and, for `SETTLING_S`, nothing else does either. After that a failing check, a missing interface or a
   service that is kept off is the node's business, as it was before: a roll-out that waited for it would
   never end, and a node whose application is down would have a pod that is not ready.

A node that is witness only needs 1 to 3. None of this asks for an API server, nor for a courier: a keeper
with a plan on its disk and peers that answer is ready.

Once ready, it stays so until it stops (`Readiness`). The DaemonSet's controller deletes every old pod that is
not ready at once, whatever `maxUnavailable` says: if those whose majority is gone said so here, a roll-out in
a domain of two nodes would take the second keeper away while the first is restarted, and one domain without a
majority would have the keepers of all others restarted together. What paces a roll-out is the new pod, which
was not ready yet. A lost majority is told by the VIPNode and by the alerts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vipagent.standing import Standing
    from vipapi.nodestatus import Problem

SETTLING_S: Final = 60.0
STARTING_S: Final = 180.0
STOPPING: Final = "it hands its addresses over, and stops"
_OF_THE_START: Final = frozenset({"CheckPending", "NotArmed"})
_MOST_NAMES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """How this keeper stands to one domain of its plan.

    `has_witnesses` is whether the domain has any yet; `is_speaking` whether its own witness is; `is_answered`
    whether a majority answers.
    """

    domain: str
    has_witnesses: bool = True
    is_seated: bool = True
    has_wire: bool = True
    is_speaking: bool = True
    is_answered: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What there is to know; `standings` are by the names of VirtualIPs, `age_s` is since the start."""

    is_serving: bool
    has_plan: bool
    problem: Problem | None
    parts: Iterable[Part]
    standings: Mapping[str, Standing]
    age_s: float


class Readiness:
    """What `/readyz` says through a keeper's life: once ready, only its own end makes it unready."""

    def __init__(self) -> None:
        self._was_ready = False

    def missing(self, look: Callable[[], Facts], *, is_stopping: bool) -> str:
        """Return what this keeper still lacks, in words; empty if it is ready."""
        if is_stopping:
            return STOPPING
        if self._was_ready:
            return ""
        lacking = missing(look())
        self._was_ready = not lacking
        return lacking


def missing(facts: Facts) -> str:
    """Return what this keeper lacks now, in words; empty if it is ready."""
    if not facts.is_serving:
        return "it is starting"
    if facts.problem is not None:
        return f"{facts.problem.reason}: {facts.problem.message}"
    if not facts.has_plan:
        return "it has no plan, neither on its disk nor from a courier"
    lacking = next(filter(None, map(_lacking, facts.parts)), "")
    return lacking or _unfit(facts)


def _lacking(part: Part) -> str:
    if not part.has_witnesses:
        return ""
    if not part.is_seated:
        return f"it has no part in domain {part.domain}: its VIPNode says why"
    if not part.has_wire:
        return f"its heartbeats of domain {part.domain} have no address or no socket on this node"
    if not part.is_speaking:
        return f"its witness of domain {part.domain} is silent still after the start"
    if not part.is_answered:
        return f"no majority of the witnesses of domain {part.domain} answers it"
    return ""


def _unfit(facts: Facts) -> str:
    is_settling, is_starting = facts.age_s < SETTLING_S, facts.age_s < STARTING_S
    unfit = [
        f"{name} ({standing.reason})"
        for name, standing in facts.standings.items()
        if standing.fitness == "Unfit" and (is_settling or (is_starting and standing.reason in _OF_THE_START))
    ]
    if not unfit:
        return ""
    more = f" and {len(unfit) - _MOST_NAMES} more" if len(unfit) > _MOST_NAMES else ""
    return f"it could not hold {', '.join(unfit[:_MOST_NAMES])}{more} yet"
