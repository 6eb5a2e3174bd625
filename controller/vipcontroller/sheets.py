"""The fact sheets that the election decides on: one for every candidate of a VirtualIP.

This is where what was reported (VIPNodes), what the cluster says (Nodes) and what a majority of the
witnesses hears come together. A node to which the witnesses granted the address was fit when it took it:
where its own report does not know of that yet, and says that it is getting ready, it is older than they
are, and no reason to move the address away again. Nor is a report that is not there: while a majority of the
witnesses hears the node it has an agent, and until that reports again its score is as good as can be. The
score is the keeper's own; what its failing weighted checks cost is reckoned from the spec, so that a fall by
failure can be told from a low priority.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.candidates import nominate, roster
from vipapi.conditions import Reason
from vipapi.election import Candidate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vipapi.candidates import Nominee, Roster
    from vipapi.healthchecks import HealthCheck
    from vipapi.nodestatus import DomainStatus, HoldingStatus
    from vipapi.resources import FailoverDomain, VirtualIP
    from vipcontroller.observation import Grant, View
    from vipcontroller.world import World

SETTLING = frozenset({Reason.AGENT_UNREACHABLE, Reason.NOT_REPORTED, Reason.CHECK_PENDING, Reason.NOT_ARMED})
"""Obstacles that a fresh address, a fresh domain or a fresh agent gets over by itself."""

HIGHEST_SCORE = 254


class Field(NamedTuple):
    """What is the same for all VirtualIPs of a domain: its nodes, and what they report of it, by node."""

    roster: Roster
    reports: Mapping[str, DomainStatus]


def field(domain: FailoverDomain, world: World) -> Field:
    """Return it, to be used for one look: to find it out takes as long as to elect."""
    return Field(roster(domain.spec, world.nodes.values()), world.reports(domain))


def gather(
    virtual_ip: VirtualIP,
    world: World,
    *,
    field: Field,
    view: View,
    holdings: Mapping[str, HoldingStatus],
    loads: Mapping[str, int],
    observed: Grant | None,
) -> tuple[Candidate, ...]:
    """Return a sheet for each node that the VirtualIP's spec means; `field` is that of its domain.

    `observed` is to whom the witnesses granted it.
    """
    holder = None if observed is None else observed.holder
    return tuple(
        _sheet(
            nominee,
            virtual_ip,
            world,
            field,
            view=view,
            holding=holdings.get(nominee.node),
            loads=loads,
            is_holder=nominee.node == holder,
        )
        for nominee in nominate(virtual_ip.spec, field.roster)
    )


def might_improve(candidates: Sequence[Candidate], checks: Sequence[HealthCheck]) -> bool:
    """Whether a node that is still settling could yet outrank the best eligible one."""
    best = max((candidate.rank_score for candidate in candidates if candidate.is_eligible), default=0)
    return any(
        candidate.obstacle is not None
        and candidate.obstacle.reason in SETTLING
        and _best_score(candidate.priority, checks) >= best
        for candidate in candidates
    )


def _sheet(
    nominee: Nominee,
    virtual_ip: VirtualIP,
    world: World,
    field: Field,
    *,
    view: View,
    holding: HoldingStatus | None,
    loads: Mapping[str, int],
    is_holder: bool,
) -> Candidate:
    node, vip_node = world.nodes.get(nominee.node), world.vip_nodes.get(nominee.node)
    report = field.reports.get(nominee.node)
    is_behind = is_holder and (holding is None or (holding.state != "Owner" and holding.reason in SETTLING))
    is_alive, checks = nominee.node in view.alive, virtual_ip.spec.health_checks
    score = None if holding is None else holding.score or None
    if is_holder and holding is None:
        score = _best_score(nominee.priority, checks)
    return Candidate(
        node=nominee.node,
        priority=nominee.priority,
        score=score,
        lost=0 if holding is None else _lost(checks, holding),
        is_present=nominee.is_present,
        is_deleting=node is not None and node.metadata.is_deleting,
        is_out_of_service=node is not None and node.is_out_of_service,
        is_in_domain=nominee.is_in_domain,
        has_agent=vip_node is not None or (is_holder and is_alive),
        is_alive=is_alive,
        is_witness_only=vip_node is not None and vip_node.status.candidacy == "WitnessOnly",
        is_cordoned=node is not None and node.is_cordoned,
        is_sound=report is None or report.is_sound,
        fitness="Fit" if is_behind else None if holding is None else holding.fitness,
        reason="" if holding is None or is_behind else holding.reason,
        message="" if holding is None or is_behind else holding.message,
        group_load=loads.get(nominee.node, 0),
    )


def _best_score(priority: int, checks: Sequence[HealthCheck]) -> int:
    """Return the score of a node on which every weighted check passes."""
    bonus = sum(check.weight for check in checks if check.weight is not None and check.weight > 0)
    return min(priority + bonus, HIGHEST_SCORE)


def _lost(checks: Sequence[HealthCheck], holding: HoldingStatus) -> int:
    failing = {check.name for check in holding.checks if check.result == "Failing"}
    return sum(abs(check.weight) for check in checks if check.weight is not None and check.name in failing)
