"""What is said about a ServiceFailover: its whole status, from the verdict, the owners and the reports.

A service's owner is the observed owner of its VirtualIP. Its state is what the owner's keeper reports; of one
that has reported nothing, what another node reports that runs it still. Where a node could not stop it, and
the owner has not started it, that counts before all. The message tells of every node that runs it or has
failed with it. A node that the witnesses do not hear says nothing, unless it is the owner: its last report
may be from before it died, and its leash ends what it had. The conditions sum that up:

| condition | True when |
|---|---|
| Accepted | nothing is in its way, in its spec or with others; couriers plan it only then |
| Ready | every service is active on its owner |
| Degraded | a service has failed, could not be stopped, or has no other node that could take over |
| Stalled | nothing happens until a person changes something (present only then) |
| Reconciling | not Ready and not Stalled, or on its way to another node (present only then) |

Of a workload of the cluster about which nothing has been found out yet, as after a start of the controller,
what the status says stands as long as its owner does, and with it what was in the way.

Of an object that cannot be read, or whose edit is held back, `Accepted` and `inForce` stay as they were, with
the generation that they are about.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from vipapi import conditions
from vipapi.bounds import TEXT, clip
from vipapi.conditions import Condition, Reason
from vipapi.resources import HookState, ServiceFailoverStatus, ServiceState
from vipcontroller import inforce
from vipcontroller.assignments import OBJECTIONS
from vipcontroller.writes import Telling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vipapi.conditions import Status
    from vipapi.nodestatus import ServiceStatus
    from vipapi.resources import InForce, Service, ServiceFailover, ServiceFailoverSpec
    from vipapi.services import Objection
    from vipcontroller.followings import Verdict
    from vipcontroller.observation import Grant

RUNNING = ("Stopping", "Active", "Starting")
"""States in which a service runs, or is about to."""
FAILING = ("StopFailed", "Failed")


class Followed(NamedTuple):
    """A VirtualIP as the services that follow it see it; `standbys` is None where no election was held."""

    observed: Grant | None = None
    elected: str | None = None
    standbys: Sequence[str] | None = None


class Findings(NamedTuple):
    """Everything that a ServiceFailover's status tells.

    `followed` is by VirtualIP name, without those that do not exist; `reports` by service and node; `alive`
    are the nodes that the witnesses hear. `objection` is what keeps the controller from carrying out a
    workload of the cluster; of the services in `unanswered` it has not found out yet how they stand.
    """

    failover: ServiceFailover
    verdict: Verdict
    problem: str | None
    followed: Mapping[str, Followed]
    reports: Mapping[str, Mapping[str, ServiceStatus]]
    alive: frozenset[str]
    objection: Objection | None = None
    unanswered: frozenset[str] = frozenset()

    def of(self, service: Service) -> Followed:
        """Return the VirtualIP that a service follows; nobody owns it for one that is not accepted."""
        if not self.verdict.is_accepted:
            return Followed()
        return self.followed.get(service.virtual_ip_ref.name, Followed())

    def is_open(self, service: Service) -> bool:
        """Whether nobody knows how a service stands by now, and the status says how it did."""
        in_force = self.failover.status.in_force
        is_same = in_force is not None and service in in_force.spec.services
        return is_same and service.name in self.unanswered

    def former(self, service: Service) -> ServiceState | None:
        """Return the state that stands until somebody knows better: of the same owner and term."""
        observed = self.of(service).observed
        grant = (None, None) if observed is None else (observed.holder, observed.term)
        states = (each for each in self.failover.status.services if each.name == service.name)
        state = next(states, None) if self.is_open(service) else None
        return state if state is not None and (state.owner, state.term) == grant else None


class _Finding(NamedTuple):
    status: Status
    reason: str
    message: str


def describe(findings: Findings, now: dt.datetime) -> ServiceFailoverStatus:
    """Return the whole new status."""
    failover = findings.failover
    states = tuple(_state(service, findings) for service in failover.spec.services)
    return ServiceFailoverStatus(
        observed_generation=failover.metadata.generation,
        services=states,
        in_force=_in_force(findings),
        conditions=conditions.merge(failover.status.conditions, _conditions(findings, states, now)),
    )


def tell(findings: Findings, after: ServiceFailoverStatus) -> tuple[Telling, ...]:
    """Return the Events that this change of status is worth."""
    before = findings.failover.status
    tellings = [*_moves(findings, before, after), *_failures(findings, before), *_ended(before, after)]
    for kind, bad in (("Accepted", "False"), ("Stalled", "True"), ("Degraded", "True")):
        telling = _warning(kind, bad, before, after)
        if telling is not None and all(telling.reason != other.reason for other in tellings):
            tellings.append(telling)
    return tuple(tellings)


def _in_force(findings: Findings) -> InForce[ServiceFailoverSpec] | None:
    if not findings.verdict.is_accepted:
        return None
    if findings.problem is not None:
        return findings.failover.status.in_force
    return inforce.of(findings.failover, findings.failover.spec)


def _state(service: Service, findings: Findings) -> ServiceState:
    former = findings.former(service)
    if former is not None:
        return former
    followed = findings.of(service)
    owner = None if followed.observed is None else followed.observed.holder
    own, others = _reports(service.name, owner, findings)
    counts = own
    if own is None or own.state in {"Stopped", "Waiting"}:
        states = FAILING[:1] if own is not None else ("StopFailed", *RUNNING)
        states = states if owner is not None else (*states, "Failed")
        counts = next((report for report in others.values() if report.state in states), own)
    texts = [] if own is None else [own.message]
    if owner is not None and own is None:
        texts = [f"{owner} has not reported on it yet"]
    texts += [_sentence(node, report) for node, report in others.items()]
    return ServiceState(
        name=service.name,
        state="Stopped" if counts is None else counts.state,
        owner=owner,
        term=None if counts is None else counts.term or None,
        since=None if counts is None else _moment(counts.since),
        message=_joined([text for text in texts if text]),
        hooks=_hooks(service, findings),
    )


def _hooks(service: Service, findings: Findings) -> tuple[HookState, ...]:
    """Return the last hook of each node, also of one that reports the service no more: it was told."""
    known = (state for state in findings.failover.status.services if state.name == service.name)
    found = {hook.node_name: hook for state in known for hook in state.hooks}
    for node, report in findings.reports.get(service.name, {}).items():
        if report.hook is not None:
            kind, term, is_ok, message, at = msgspec.structs.astuple(report.hook)
            found[node] = HookState(node, kind, term, is_ok, clip(message, TEXT), at)
    return tuple(found[node] for node in sorted(found.keys() & set(service.nodes)))


def _reports(
    name: str, owner: str | None, findings: Findings
) -> tuple[ServiceStatus | None, Mapping[str, ServiceStatus]]:
    """Return what the owner reports of a service, and by node what others do that run it or failed to.

    What says most comes first: who cannot stop it, who still runs it, and where it failed.
    """
    reports = findings.reports.get(name, {})
    weights = {state: weight for weight, state in enumerate(("StopFailed", *RUNNING, "Failed"))}
    others = [
        (weights[report.state], node)
        for node, report in reports.items()
        if node != owner and node in findings.alive and report.state in weights
    ]
    return None if owner is None else reports.get(owner), {node: reports[node] for _, node in sorted(others)}


def _joined(texts: Sequence[str]) -> str:
    """Return them as one message; where it is too long each is cut, and none loses its head."""
    message = "; ".join(texts)
    if len(message) > TEXT:
        share = max(TEXT // len(texts) - len("; "), 1)
        message = "; ".join(clip(text, share) for text in texts)
    return clip(message, TEXT)


def _sentence(node: str, report: ServiceStatus) -> str:
    return f"{report.state} on {node}" + (f": {report.message}" if report.message else "")


def _moment(text: str) -> dt.datetime | None:
    try:
        moment: dt.datetime = msgspec.convert(text, type=Annotated[dt.datetime, msgspec.Meta(tz=True)])
    except msgspec.ValidationError:
        return None
    return moment


def _conditions(findings: Findings, states: Sequence[ServiceState], now: dt.datetime) -> list[Condition]:
    generation = findings.failover.metadata.generation
    ready, stalled = _ready(findings, states), _stalled(findings, states)
    found = {
        "Ready": stalled._replace(status="False") if stalled is not None else ready,
        "Accepted": _accepted(findings),
        "Degraded": _degraded(findings, states),
    }
    if stalled is not None:
        found["Stalled"] = stalled
    else:
        progress = _progress(findings, ready)
        if progress is not None:
            found["Reconciling"] = progress
    listed = [
        Condition(kind, finding.status, finding.reason, finding.message, now, generation)
        for kind, finding in found.items()
    ]
    accepted = conditions.find(findings.failover.status.conditions, "Accepted")
    if findings.problem is None or not findings.verdict.is_accepted or accepted is None:
        return listed
    return [accepted if condition.type == "Accepted" else condition for condition in listed]


def _accepted(findings: Findings) -> _Finding:
    verdict = findings.verdict
    return _Finding("True" if verdict.is_accepted else "False", verdict.reason, verdict.message)


def _ready(findings: Findings, states: Sequence[ServiceState]) -> _Finding:
    if not findings.verdict.is_accepted:
        return _accepted(findings)
    waiting = [state for state in states if not _is_active(state, findings)]
    if not waiting:
        owners = ", ".join(sorted({state.owner for state in states if state.owner}))
        return _Finding("True", Reason.SERVICES_ACTIVE, f"every service is active, on {owners}")
    reason: str = Reason.SERVICES_NOT_ACTIVE
    if any(state.owner is None for state in waiting):
        reason = Reason.NO_OWNER
    if any(state.state == "Failed" for state in waiting):
        reason = Reason.SERVICE_FAILED
    services = {service.name: service for service in findings.failover.spec.services}
    message = "; ".join(_plight(state, services[state.name]) for state in waiting)
    return _Finding("False", reason, message)


def _is_active(state: ServiceState, findings: Findings) -> bool:
    """Whether its owner runs it: also another node's may be the state that counts."""
    services = (each for each in findings.failover.spec.services if each.name == state.name)
    if any(findings.former(service) is not None for service in services):
        return state.owner is not None and state.state == "Active"
    report = findings.reports.get(state.name, {}).get(state.owner or "")
    return report is not None and report.state == "Active"


def _plight(state: ServiceState, service: Service) -> str:
    """Return why a service is not active on its owner."""
    owner = f"nobody owns VirtualIP {service.virtual_ip_ref.name!r}"
    if state.owner is not None:
        owner = f"its owner is {state.owner}"
    told = f" ({state.message})" if state.message else ""
    return f"{state.name} is {state.state}, and {owner}{told}"


def _degraded(findings: Findings, states: Sequence[ServiceState]) -> _Finding:
    stuck = _stuck(findings)
    if stuck:
        return _Finding("True", Reason.STOP_FAILED, "; ".join(stuck))
    failed = [state for state in states if state.state == "Failed"]
    if failed:
        message = "; ".join(f"{state.name} failed: {state.message}" for state in failed)
        return _Finding("True", Reason.SERVICE_FAILED, message)
    if not findings.verdict.is_accepted:
        return _Finding("Unknown", findings.verdict.reason, findings.verdict.message)
    names = sorted({service.virtual_ip_ref.name for service in findings.failover.spec.services})
    followed = {name: findings.followed.get(name, Followed()) for name in names}
    unknown = [name for name in names if followed[name].standbys is None]
    if unknown:
        message = f"VirtualIP {', '.join(map(repr, unknown))} is not in force: see its conditions"
        return _Finding("Unknown", Reason.PROGRESSING, message)
    alone = [name for name in names if not followed[name].standbys]
    if alone:
        message = (
            f"no other node could take over what follows VirtualIP {', '.join(map(repr, alone))}, so the "
            "next failure is an outage; its `status.candidates` says why"
        )
        return _Finding("True", Reason.NO_STANDBY, message)
    return _Finding("False", Reason.STANDBY_AVAILABLE, "every service has another node that could take over")


def _stuck(findings: Findings) -> list[str]:
    """Return which services could not be stopped where, also those that the spec no longer names."""
    owners = {}
    for service in findings.failover.spec.services:
        observed = findings.of(service).observed
        owners[service.name] = None if observed is None else observed.holder
    return [
        f"{name} could not be stopped on {node}" + (f": {report.message}" if report.message else "")
        for name, reports in sorted(findings.reports.items())
        for node, report in sorted(reports.items())
        if report.state == "StopFailed" and (node in findings.alive or node == owners.get(name))
    ]


def _stalled(findings: Findings, states: Sequence[ServiceState]) -> _Finding | None:
    """Return what only a person can change."""
    if not findings.verdict.is_accepted:
        # A deletion goes on by itself.
        if findings.verdict.reason == Reason.DELETING:
            return None
        return _Finding("True", findings.verdict.reason, findings.verdict.message)
    if findings.problem is not None:
        return _Finding("True", Reason.INVALID_SPEC, findings.problem)
    objection = _in_the_way(findings)
    if objection is not None:
        return objection
    if any(state.state == "StopFailed" and not _is_active(state, findings) for state in states):
        message = (
            f"{'; '.join(_stuck(findings))}. It may run there still: end its processes on that node, which "
            "is noticed at once, or switch the node off"
        )
        return _Finding("True", Reason.STOP_FAILED, message)
    return None


def _in_the_way(findings: Findings) -> _Finding | None:
    """Return what keeps a workload of the cluster from being carried out, or did when that was last known."""
    former = conditions.find(findings.failover.status.conditions, "Stalled")
    is_open = any(findings.is_open(service) for service in findings.failover.spec.services)
    if is_open and former is not None and former.reason in OBJECTIONS:
        return _Finding("True", former.reason, former.message)
    if findings.objection is None:
        return None
    return _Finding("True", findings.objection.reason, findings.objection.message)


def _progress(findings: Findings, ready: _Finding) -> _Finding | None:
    """Return what is going on, as the Reconciling condition says it; None when nothing is."""
    if findings.verdict.reason == Reason.DELETING:
        return _Finding("True", Reason.DELETING, findings.verdict.message)
    moves = [
        f"VirtualIP {name!r} is on the way from {followed.observed.holder} to {followed.elected}"
        for name, followed in sorted(findings.followed.items())
        if followed.observed is not None and followed.elected not in {None, followed.observed.holder}
    ]
    if moves:
        return _Finding("True", Reason.MOVING, "; ".join(moves))
    if ready.status == "True":
        return None
    return _Finding("True", Reason.PROGRESSING, ready.message)


def _moves(findings: Findings, before: ServiceFailoverStatus, after: ServiceFailoverStatus) -> list[Telling]:
    """Return one Event for the services of a VirtualIP that have another owner, or none any more."""
    if not findings.verdict.is_accepted:
        return []
    owned = {state.name: state.owner for state in before.services}
    states = {state.name: state for state in after.services}
    moved: dict[str, list[str]] = {}
    for service in findings.failover.spec.services:
        if owned.get(service.name) != states[service.name].owner:
            moved.setdefault(service.virtual_ip_ref.name, []).append(service.name)
    tellings = []
    for name, services in sorted(moved.items()):
        observed = findings.followed.get(name, Followed()).observed
        former = owned.get(services[0])
        what = f"{', '.join(services)}: "
        if observed is None:
            note = f"{what}nobody owns VirtualIP {name!r} any more; it was {former}"
            tellings.append(Telling(type="Warning", action="Observe", reason=Reason.NO_OWNER, note=note))
            continue
        note = f"{what}moved from {former or 'nobody'} to {observed.holder} with term {observed.term}"
        tellings.append(Telling(type="Normal", action="Move", reason="OwnerChanged", note=note))
    return tellings


def _failures(findings: Findings, before: ServiceFailoverStatus) -> list[Telling]:
    """Return an Event for each node on which a service has failed, or could not be stopped, since."""
    known = {state.name: state for state in before.services}
    tellings = []
    for service in findings.failover.spec.services:
        observed = findings.of(service).observed
        owner = None if observed is None else observed.holder
        own, others = _reports(service.name, owner, findings)
        reports = dict(others) if own is None or owner is None else {owner: own, **others}
        for node, report in reports.items():
            if report.state in FAILING and not _was_told(known.get(service.name), node, report):
                reason = Reason.STOP_FAILED if report.state == "StopFailed" else Reason.SERVICE_FAILED
                note = f"{service.name}: {_sentence(node, report)}"
                tellings.append(Telling(type="Warning", action="Observe", reason=reason, note=note))
    return tellings


def _ended(before: ServiceFailoverStatus, after: ServiceFailoverStatus) -> list[Telling]:
    """Return an Event for each hook that has ended since."""
    known = {(state.name, hook) for state in before.services for hook in state.hooks}
    tellings = []
    for state in after.services:
        for hook in state.hooks:
            if (state.name, hook) in known:
                continue
            how = "ended well" if hook.is_ok else "failed"
            note = f"{state.name}: its {hook.kind} hook {how} on {hook.node_name} with term {hook.term}"
            note += f": {hook.message}" if hook.message else ""
            if hook.is_ok:
                tellings.append(Telling(type="Normal", action="Run", reason="HookEnded", note=note))
            else:
                tellings.append(Telling(type="Warning", action="Run", reason="HookFailed", note=note))
    return tellings


def _was_told(known: ServiceState | None, node: str, report: ServiceStatus) -> bool:
    """Whether the status showed this failure already, of its owner then or in its message."""
    if known is None:
        return False
    if known.owner == node and known.state == report.state:
        return True
    # `_sentence` with another message, or none, but of this node and state, and not of node-10 for node-1.
    head = f"{report.state} on {node}"
    return any(text == head or text.startswith(f"{head}: ") for text in known.message.split("; "))


def _warning(
    kind: str, bad: str, before: ServiceFailoverStatus, after: ServiceFailoverStatus
) -> Telling | None:
    """Return a Warning for a condition that has turned bad, or bad for another reason."""
    was, now = conditions.find(before.conditions, kind), conditions.find(after.conditions, kind)
    if now is None or now.status != bad or now.reason == Reason.DELETING:
        return None
    if was is not None and (was.status, was.reason) == (bad, now.reason):
        return None
    if kind == "Degraded" and (was is None or was.status != "False"):
        return None
    return Telling(type="Warning", action="Observe", reason=now.reason, note=now.message)
