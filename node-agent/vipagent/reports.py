"""The report, from facts: how this node stands to each domain and each VirtualIP of its plan.

It is published when it differs from the last one, so nothing in it may change that nobody would act on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from vipagent.effects import MILLISECOND, Phase
from vipapi.nodestatus import DomainStatus, HoldingStatus, Report, Takeover

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from vipagent.access import Place
    from vipagent.effects import Origin
    from vipagent.messages import Key
    from vipagent.seats import Seated, Seats
    from vipagent.standing import Standing
    from vipapi.nodeplan import DomainPlan, Plan, VirtualIPPlan
    from vipapi.nodestatus import CheckStatus, InterfaceStatus, Problem, ServiceStatus

_STATES: Final[dict[Phase, Literal["Standby", "Acquiring", "Owner"]]] = {
    Phase.STANDBY: "Standby",
    Phase.ACQUIRING: "Acquiring",
    Phase.OWNER: "Owner",
    Phase.CLOSING: "Owner",
}


@dataclass(frozen=True, slots=True)
class Keeping:
    """What of a keeper never changes while it runs."""

    node: str
    version: str
    incarnation: int
    is_witness_only: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report is about.

    `interface_of` and `service_checks` are asked with a UID, `bound` and `conflict` with a held set's key.
    """

    plan: Plan
    seats: Seats
    places: Mapping[str, Place]
    standings: Mapping[str, Standing]
    takeovers: Mapping[Key, Takeover]
    interfaces: tuple[InterfaceStatus, ...]
    interface_of: Callable[[str], str]
    bound: Callable[[Key], tuple[str, ...]]
    conflict: Callable[[Key], Problem | None]
    service_checks: Callable[[str], tuple[CheckStatus, ...]]
    services: tuple[ServiceStatus, ...]
    problems: tuple[Problem, ...]
    fence: Literal["BPF", "Nftables"]


@dataclass(frozen=True, slots=True)
class Tenure:
    """Where one VirtualIP stands on this node: its lease, what the kernel shows, and how it came here."""

    phase: Phase = Phase.STANDBY
    term: int = 0
    bound: tuple[str, ...] = ()
    takeover: Takeover | None = None
    conflict: Problem | None = None


_NO_TENURE: Final = Tenure()


def report(keeping: Keeping, facts: Facts, now_ns: int) -> Report:
    """Return the whole report."""
    return Report(
        node=keeping.node,
        version=keeping.version,
        incarnation=keeping.incarnation,
        candidacy="WitnessOnly" if keeping.is_witness_only else "Candidate",
        fence=facts.fence,
        interfaces=facts.interfaces,
        domains=tuple(_domain(planned, facts, now_ns) for planned in facts.plan.domains),
        virtual_ips=tuple(
            holding(
                vip,
                facts.standings[vip.uid],
                _tenure(vip, seated, facts),
                interface=facts.interface_of(vip.uid),
                service_checks=facts.service_checks(vip.uid),
            )
            for planned in facts.plan.domains
            for seated in (facts.seats.get(planned.uid),)
            for vip in planned.virtual_ips
            if is_told(facts.standings[vip.uid], _phase(vip, seated))
        ),
        services=facts.services,
        problems=facts.problems,
    )


def has_reunited(former: Report, latter: Report) -> bool:
    """Whether a peer or the gateway is heard that was not before: a partition may have healed.

    Beyond it neighbours and switches may know addresses that this node took meanwhile by where they were.
    """
    known = {domain.uid: domain for domain in former.domains}
    return any(
        set(domain.reachable_peers) - set(before.reachable_peers) or domain.is_sound > before.is_sound
        for domain in latter.domains
        for before in (known.get(domain.uid),)
        if before is not None
    )


def is_told(standing: Standing, phase: Phase) -> bool:
    """Whether anybody would act on it; a big domain has many addresses of which this node is no candidate."""
    return standing.fitness != "NotCandidate" or phase is not Phase.STANDBY


def holding(
    vip: VirtualIPPlan,
    standing: Standing,
    tenure: Tenure,
    *,
    interface: str,
    service_checks: tuple[CheckStatus, ...] = (),
) -> HoldingStatus:
    """Return how this node stands to a VirtualIP; what is being closed is reported as held still."""
    state = _STATES[tenure.phase]
    return HoldingStatus(
        uid=vip.uid,
        name=vip.name,
        state=state,
        fitness=standing.fitness,
        score=standing.score,
        term=tenure.term,
        reason=standing.reason,
        message=standing.message,
        interface=interface,
        bound=tenure.bound,
        checks=standing.checks,
        service_checks=service_checks,
        takeover=tenure.takeover if state == "Owner" else None,
        conflict=tenure.conflict,
    )


def takeover(origin: Origin, *, started_at: datetime, took_ns: int) -> Takeover:
    """Return how an address set came here; `started_at` is in UTC."""
    return Takeover(
        reason=origin.reason,
        started_at=started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        duration_milliseconds=took_ns // MILLISECOND,
        from_node=origin.former,
    )


def _phase(vip: VirtualIPPlan, seated: Seated | None) -> Phase:
    key = None if seated is None else seated.seat.key(vip.uid)
    return Phase.STANDBY if seated is None or key is None else seated.seat.lease.phase(key)


def _tenure(vip: VirtualIPPlan, seated: Seated | None, facts: Facts) -> Tenure:
    key = None if seated is None else seated.seat.key(vip.uid)
    if seated is None or key is None:
        return _NO_TENURE
    lease = seated.seat.lease
    takeover = facts.takeovers.get(key)
    return Tenure(lease.phase(key), lease.term(key), facts.bound(key), takeover, facts.conflict(key))


def _domain(planned: DomainPlan, facts: Facts, now_ns: int) -> DomainStatus:
    seated, place = facts.seats.get(planned.uid), facts.places.get(planned.uid)
    address = "" if place is None else str(place.address)
    if seated is not None:
        return seated.seat.status(heartbeat_address=address, now_ns=now_ns)
    return DomainStatus(name=planned.name, uid=planned.uid, role="Member", heartbeat_address=address)
