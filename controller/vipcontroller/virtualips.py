"""What is said about a VirtualIP: its whole status, from the verdict, the election and what is observed.

`owner` and `term` are observed (what a majority of the witnesses granted); `election` is the order,
valid for the term that it names. The conditions sum that up:

| condition | True when |
|---|---|
| Accepted | the addresses are this object's; agents plan it only then |
| Owned | the witnesses granted it to one node |
| Bound | that node's kernel shows every address |
| Redundant | another eligible node could take over at once |
| Conflict | somebody else has one of the addresses |
| Ready | accepted, owned and bound |
| Stalled | nothing happens until a person changes something (present only then) |
| Reconciling | not Ready and not Stalled, or on its way to another node (present only then) |

In a FailoverDomain that cannot be read, and where nobody knows the whole spec that is in force, nothing is
elected: the order and what it was made of stand, and what is observed is told. Of an edit that is held back
`Accepted` and `inForce` stay as they were, with the generation that they are about.

Nothing in it changes while nothing changes: there is no time in it but those of transitions.

That no candidate can hold the addresses is a Warning, `NoEligibleNode`: at once where each has said so. Of a
VirtualIP that nobody has had yet, candidates that are still to report or to get ready are waited for first,
`decisions.ALARM_S` from when keepers may plan it and its domain is quorate: until then it is `NoOwner`.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi import conditions, effective
from vipapi.conditions import Condition, Reason
from vipapi.resources import CandidateStatus, LastFailover, VirtualIPStatus
from vipapi.resources import Election as Order
from vipcontroller import inforce
from vipcontroller.writes import Telling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vipapi.conditions import Status
    from vipapi.election import Candidate, Election
    from vipapi.nodestatus import HoldingStatus
    from vipapi.resources import InForce, VirtualIP, VirtualIPSpec
    from vipcontroller.claims import Verdict
    from vipcontroller.observation import Grant
    from vipcontroller.releases import Hindrance
    from vipcontroller.retirement import Addresses

_LONGEST_MESSAGE = 1024
_WORTH_A_WARNING = (
    ("Accepted", "False"),
    ("Stalled", "True"),
    ("Ready", "False"),
    ("Conflict", "True"),
    ("Redundant", "False"),
)


class Findings(NamedTuple):
    """Everything that a VirtualIP's status tells. `election` is None where none was held.

    `is_early` is that the VirtualIP is new and that candidates will be eligible in a moment, as it seems.
    `domain_problem` is why its domain cannot be read; `is_held_back` that its newest generation is not acted
    upon, with `problem` as the reason; `is_held_alone` that `onQuorumLoss: Hold` is in force. `written` is
    the object's own spec, where it is acted upon.
    """

    virtual_ip: VirtualIP
    verdict: Verdict
    problem: str | None
    is_quorate: bool
    observed: Grant | None
    holdings: Mapping[str, HoldingStatus]
    addresses: Addresses
    candidates: Sequence[Candidate] = ()
    election: Election | None = None
    hindrance: Hindrance | None = None
    is_early: bool = False
    domain_problem: str = ""
    is_held_back: bool = False
    is_held_alone: bool = False
    written: VirtualIPSpec | None = None

    @property
    def is_left(self) -> bool:
        """Whether nobody can tell who should have it, so that the standing order stands."""
        return self.election is None and bool(self.problem or self.domain_problem)


class _Finding(NamedTuple):
    status: Status
    reason: str
    message: str


def describe(findings: Findings, now: dt.datetime) -> VirtualIPStatus:
    """Return the whole new status."""
    virtual_ip, election, observed = findings.virtual_ip, findings.election, findings.observed
    before = virtual_ip.status
    term = max(before.term or 0, 0 if observed is None else observed.term)
    in_force, retired = findings.addresses
    values = effective.of_virtual_ip(virtual_ip.spec, is_held_alone=findings.is_held_alone)
    order, table = (before.election, before.candidates) if findings.is_left else (None, ())
    if election is not None:
        table = _table(election)
        order = Order(based_on_term=term, owner=election.owner, succession=election.succession)
    return VirtualIPStatus(
        observed_generation=virtual_ip.metadata.generation,
        owner=None if observed is None else observed.holder,
        term=term or None,
        addresses=in_force,
        retired_addresses=retired,
        election=order,
        candidates=table,
        last_failover=_last_failover(findings),
        effective=before.effective if findings.is_left and findings.problem else values,
        in_force=_in_force(findings),
        conditions=conditions.merge(before.conditions, _conditions(findings, now)),
    )


def outage_ms(findings: Findings) -> int | None:
    """Return how long the last change of owner took, if its new owner has told."""
    last = _last_failover(findings)
    if last is None or findings.observed is None or last.term != findings.observed.term:
        return None
    return last.duration_milliseconds


def unbound(findings: Findings) -> str:
    """Return why the observed owner's kernel does not show every address; "" if it does."""
    bound = _bound(findings)
    return "" if bound.status == "True" else bound.message


def tell(before: VirtualIPStatus, after: VirtualIPStatus, election: Election | None) -> tuple[Telling, ...]:
    """Return the Events that this change of status is worth."""
    tellings = []
    order, old_order = after.election, before.election
    if (
        election is not None
        and election.cause
        and order is not None
        and order.owner != (None if old_order is None else old_order.owner)
    ):
        note = f"Elected {order.owner}: {election.message}"
        tellings.append(Telling(type="Normal", action="Elect", reason=election.cause, note=note))
    last = after.last_failover
    if last is not None and (before.last_failover is None or last.term > before.last_failover.term):
        took = "" if last.duration_milliseconds is None else f", which took {last.duration_milliseconds} ms"
        note = (
            f"Moved from {last.from_node or 'nobody'} to {last.to} with term {last.term}{took}: {last.reason}"
        )
        tellings.append(Telling(type="Normal", action="Move", reason="OwnerChanged", note=note))
    for kind, bad in _WORTH_A_WARNING:
        telling = _warning(kind, bad, before, after)
        if telling is not None and all(telling.note != other.note for other in tellings):
            tellings.append(telling)
    return tuple(tellings)


def _warning(kind: str, bad: str, before: VirtualIPStatus, after: VirtualIPStatus) -> Telling | None:
    """Return a Warning for a condition that has turned bad, or bad for another reason."""
    was, now = conditions.find(before.conditions, kind), conditions.find(after.conditions, kind)
    if (
        now is None
        or now.status != bad
        or (was is not None and (was.status, was.reason) == (bad, now.reason))
    ):
        return None
    if kind == "Ready" and now.reason != Reason.NO_ELIGIBLE_NODE:
        return None
    if kind == "Redundant" and (was is None or was.status != "True"):
        return None
    return Telling(type="Warning", action="Observe", reason=now.reason, note=now.message)


def _in_force(findings: Findings) -> InForce[VirtualIPSpec] | None:
    virtual_ip, spec = findings.virtual_ip, findings.written
    if not findings.verdict.is_accepted:
        return None
    if spec is None or virtual_ip.metadata.is_deleting:
        return virtual_ip.status.in_force
    return inforce.of(virtual_ip, spec)


def _table(election: Election) -> tuple[CandidateStatus, ...]:
    return tuple(
        CandidateStatus(
            node_name=row.node,
            eligible=row.eligible,
            reason=str(row.reason),
            message=row.message[:_LONGEST_MESSAGE],
            score=row.score,
        )
        for row in election.table
    )


def _last_failover(findings: Findings) -> LastFailover | None:
    """Return how the observed owner says it got the address; until it has said, what was there before."""
    before, observed = findings.virtual_ip.status.last_failover, findings.observed
    holding = None if observed is None else findings.holdings.get(observed.holder)
    if observed is None or holding is None or holding.takeover is None or holding.term != observed.term:
        return before
    takeover = holding.takeover
    if before is not None and before.term > observed.term:
        return before
    try:
        return LastFailover(
            to=observed.holder,
            reason=takeover.reason,
            term=observed.term,
            started_at=msgspec.convert(takeover.started_at, type=dt.datetime),
            duration_milliseconds=max(takeover.duration_milliseconds, 0),
            from_node=takeover.from_node,
        )
    except msgspec.ValidationError:
        return before


def _conditions(findings: Findings, now: dt.datetime) -> list[Condition]:
    generation = findings.virtual_ip.metadata.generation
    found = {
        "Accepted": _accepted(findings),
        "Owned": _owned(findings),
        "Bound": _bound(findings),
        "Redundant": _redundant(findings),
        "Conflict": _conflict(findings),
    }
    stalled = _stalled(findings)
    ready = stalled or _ready(found)
    found = {"Ready": ready, **found}
    if stalled is not None:
        found["Stalled"] = _Finding("True", stalled.reason, stalled.message)
    else:
        progress = _progress(findings, ready)
        if progress is not None:
            found["Reconciling"] = progress
    listed = [
        Condition(kind, finding.status, finding.reason, finding.message, now, generation)
        for kind, finding in found.items()
    ]
    accepted = conditions.find(findings.virtual_ip.status.conditions, "Accepted")
    if not findings.is_held_back or accepted is None:
        return listed
    # The generation that it names is the one that couriers plan.
    return [accepted if condition.type == "Accepted" else condition for condition in listed]


def _accepted(findings: Findings) -> _Finding:
    verdict = findings.verdict
    if findings.virtual_ip.metadata.is_deleting:
        return _Finding("False", Reason.DELETING, "the object is being deleted and its addresses released")
    return _Finding("True" if verdict.is_accepted else "False", verdict.reason, verdict.message)


def _owned(findings: Findings) -> _Finding:
    observed = findings.observed
    if observed is not None:
        message = f"the witnesses granted the addresses to {observed.holder} with term {observed.term}"
        return _Finding("True", Reason.OWNED, message)
    if findings.verdict.is_accepted and not findings.is_quorate:
        domain = findings.virtual_ip.spec.domain
        message = f"FailoverDomain {domain!r} is not quorate: see its conditions"
        if findings.is_held_alone:
            message += "; by `onQuorumLoss: Hold` a candidate that hears no other witness keeps the addresses"
        return _Finding("False", Reason.DOMAIN_NOT_QUORATE, message)
    if findings.is_early:
        message = "no candidate has got ready yet; `status.candidates` says what each waits for"
        return _Finding("False", Reason.NO_OWNER, message)
    if findings.candidates and not any(candidate.is_eligible for candidate in findings.candidates):
        message = "no candidate can hold the addresses now; `status.candidates` says why"
        return _Finding("False", Reason.NO_ELIGIBLE_NODE, message)
    return _Finding("False", Reason.NO_OWNER, "the witnesses have granted the addresses to nobody")


def _bound(findings: Findings) -> _Finding:
    observed = findings.observed
    if observed is None:
        return _Finding("False", Reason.NO_OWNER, "nobody owns the addresses")
    holding = findings.holdings.get(observed.holder)
    shown = set() if holding is None else {_ip(text) for text in holding.bound}
    missing = [text for text in findings.virtual_ip.spec.addresses if _ip(text) not in shown]
    if missing and holding is not None and holding.conflict is not None:
        message = f"{observed.holder} sees that {holding.conflict.message}"
        return _Finding("False", holding.conflict.reason, message)
    if missing or holding is None:
        # Of a spec that cannot be read the addresses may be unknown.
        lacking = ", ".join(missing) or "the addresses"
        return _Finding("False", Reason.NOT_BOUND, f"the kernel of {observed.holder} lacks {lacking}")
    return _Finding(
        "True", Reason.BOUND, f"{observed.holder} has every address on {holding.interface or 'its link'}"
    )


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | str:
    try:
        return ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        return text


def standbys(findings: Findings) -> tuple[str, ...]:
    """Return the nodes that could take over at once, the preferred first."""
    election = findings.election
    owner = findings.observed.holder if findings.observed is not None else None
    if election is not None:
        owner = owner or election.owner
    eligible = {c.node for c in findings.candidates if c.is_eligible and c.node != owner}
    known = [] if election is None else [node for node in election.succession if node in eligible]
    return (*known, *sorted(eligible.difference(known)))


def _redundant(findings: Findings) -> _Finding:
    before = conditions.find(findings.virtual_ip.status.conditions, "Redundant")
    if findings.is_left and before is not None:
        return _Finding(before.status, before.reason, before.message)
    found = standbys(findings)
    if found:
        return _Finding("True", Reason.STANDBY_AVAILABLE, f"could take over: {', '.join(found)}")
    message = "no other node could take over, so the next failure is an outage; `status.candidates` says why"
    return _Finding("False", Reason.NO_STANDBY, message)


def _conflict(findings: Findings) -> _Finding:
    verdict = findings.verdict
    if verdict.reason == Reason.ADDRESS_CONFLICT:
        return _Finding("True", verdict.reason, verdict.message)
    observed = findings.observed
    holding = None if observed is None else findings.holdings.get(observed.holder)
    if observed is not None and holding is not None and holding.conflict is not None:
        message = f"{observed.holder} sees that {holding.conflict.message}"
        return _Finding("True", holding.conflict.reason, message)
    return _Finding("False", Reason.NO_CONFLICT, "nobody else uses or claims the addresses")


def _stalled(findings: Findings) -> _Finding | None:
    """Return what only a person can change, as the Ready condition says it."""
    verdict, hindrance = findings.verdict, findings.hindrance
    if findings.virtual_ip.metadata.is_deleting:
        is_stalled = hindrance is not None and hindrance.is_stalled
        return _Finding("False", hindrance.reason, hindrance.message) if hindrance and is_stalled else None
    if findings.problem:
        return _Finding("False", Reason.INVALID_SPEC, findings.problem)
    if not verdict.is_accepted:
        return _Finding("False", verdict.reason, verdict.message)
    if findings.observed is not None:
        return None
    if findings.domain_problem:
        message = f"{findings.domain_problem}; nobody is elected until this version can read the domain"
        return _Finding("False", Reason.DOMAIN_UNREADABLE, message)
    return _misfit(findings)


def _misfit(findings: Findings) -> _Finding | None:
    """Return what in the spec keeps every node from being a candidate at all."""
    if not findings.candidates:
        domain = findings.virtual_ip.spec.domain
        message = (
            f"no node is a candidate: make `candidates` name or select nodes of FailoverDomain {domain!r}, "
            "or check the domain's `nodeSelector`"
        )
        return _Finding("False", Reason.NO_CANDIDATE, message)
    if all(_lacks_interface(candidate) for candidate in findings.candidates):
        named = findings.virtual_ip.spec.interface
        if named is not None:
            message = (
                f"no candidate can use the interface {named!r}: correct `spec.interface`, or leave it out; "
                "`status.candidates` says why"
            )
            return _Finding("False", Reason.NO_INTERFACE, message)
        wanted = ", ".join(findings.virtual_ip.spec.addresses)
        message = (
            f"no candidate has an interface with the subnet of {wanted}: correct the prefix length, name an "
            "`interface`, or give a candidate an address of that subnet"
        )
        return _Finding("False", Reason.NO_SUBNET, message)
    return None


def _lacks_interface(candidate: Candidate) -> bool:
    return candidate.obstacle is not None and candidate.obstacle.reason == Reason.NO_INTERFACE


def _ready(found: Mapping[str, _Finding]) -> _Finding:
    for kind in ("Accepted", "Owned", "Bound"):
        if found[kind].status != "True":
            return _Finding("False", found[kind].reason, found[kind].message)
    return _Finding("True", Reason.HELD, found["Bound"].message)


def _progress(findings: Findings, ready: _Finding) -> _Finding | None:
    """Return what is going on, as the Reconciling condition says it; None when nothing is."""
    election, observed = findings.election, findings.observed
    wanted = None if election is None else election.owner
    if observed is not None and wanted is not None and wanted != observed.holder:
        return _Finding("True", Reason.MOVING, f"on the way from {observed.holder} to {wanted}")
    if ready.status == "True":
        return None
    if findings.hindrance is not None:
        return _Finding("True", findings.hindrance.reason, findings.hindrance.message)
    if observed is None and wanted is not None:
        return _Finding("True", Reason.ELECTING, f"{wanted} was elected and has not taken the addresses yet")
    return _Finding("True", Reason.PROGRESSING, ready.message)
