"""Which services follow a VirtualIP, and which ServiceFailovers may have any follow.

    ServiceFailover ──services[].virtualIPRef──▶ VirtualIP ──allowedNamespaces──▶ whose

A VirtualIP that services follow is held by their nodes only: the primary at priority 100, the first standby
at 99, and so on. In a group that is spread all standbys have 99, so that it is the election that spreads
what one node held over them. So a VirtualIP names no candidates itself, and all the services that share it
name the same nodes in the same order. What breaks such a rule between two objects cannot be refused when it
is written; `judge` says who stays out. Who was accepted stays so before all others, and of the others the
older comes first: a service that runs is not stopped by what somebody else writes. Candidates that a
VirtualIP names, and its `onQuorumLoss: Hold`, keep out who is new; while those follow who were accepted
before, they are not in force (`joined`), and `overruled` says so. Only `allowedNamespaces` take back what
they gave.

The controller and each courier judge for themselves, from the same objects, so they come to the same.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi import conditions
from vipapi.candidates import DEFAULT_PRIORITY
from vipapi.conditions import Reason
from vipapi.resources import Candidate, Service, ServiceFailover

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from vipapi.resources import VirtualIP, VirtualIPSpec

_EPOCH = datetime.fromtimestamp(0, UTC)


class Following(msgspec.Struct, frozen=True):
    """One service that follows a VirtualIP, and the object that it is of."""

    failover: ServiceFailover
    service: Service

    @property
    def title(self) -> str:
        """Its name for people, that of `nodeplan.ServicePlan`."""
        return f"{title(self.failover)}/{self.service.name}"


class Objection(msgspec.Struct, frozen=True):
    """Why a ServiceFailover is not accepted, and what to do about it."""

    reason: str
    message: str


def title(failover: ServiceFailover) -> str:
    """Return its name for people: `namespace/name`."""
    return f"{failover.metadata.namespace}/{failover.metadata.name}"


def followings(virtual_ip_name: str, failovers: Iterable[ServiceFailover]) -> tuple[Following, ...]:
    """Return the services that follow a VirtualIP, in the order in which they start.

    The older object's come first. Give only those that `judge` does not object to.
    """
    return tuple(
        Following(failover, service)
        for failover in sorted(failovers, key=_age)
        for service in failover.spec.services
        if service.virtual_ip_ref.name == virtual_ip_name
    )


def joined(spec: VirtualIPSpec, followings: Sequence[Following]) -> VirtualIPSpec:
    """Return the VirtualIP's spec as it is in force: its services' nodes are its candidates.

    The failback is their object's, the eldest's where there are several. Where a service may have only one
    copy, nobody holds alone. The health checks stay the VirtualIP's own. Without services it is the spec
    itself.
    """
    if not followings:
        return spec
    first = followings[0]
    # Priorities come before the spread, so where it is to decide the standbys have one and the same.
    last = 1 if spec.spread is not None else len(first.service.standbys)
    candidates = tuple(
        Candidate(node_name=node, priority=DEFAULT_PRIORITY - min(place, last))
        for place, node in enumerate(first.service.nodes)
    )
    return msgspec.structs.replace(
        spec,
        candidates=candidates,
        failback=first.failover.spec.failback,
        on_quorum_loss="Release"
        if any(_is_once(each.service) for each in followings)
        else spec.on_quorum_loss,
    )


def judge(
    failovers: Iterable[ServiceFailover], virtual_ips: Mapping[str, VirtualIP], nodes: Collection[str]
) -> Mapping[str, Objection | None]:
    """Return, by ServiceFailover UID, why it is not accepted, or None; VirtualIPs and nodes are by name."""
    leaders: dict[str, Following] = {}
    owners: dict[_Claim, Following] = {}
    verdicts: dict[str, Objection | None] = {}
    for failover in sorted(failovers, key=lambda each: (not _was_accepted(each), _age(each))):
        objection = next(_objections(failover, virtual_ips, nodes, leaders, owners), None)
        verdicts[failover.metadata.uid] = objection
        if objection is None:
            for service in failover.spec.services:
                following = Following(failover, service)
                leaders.setdefault(service.virtual_ip_ref.name, following)
                owners |= dict.fromkeys(_claims(following), following)
    return verdicts


def overruled(failover: ServiceFailover, virtual_ips: Mapping[str, VirtualIP]) -> Objection | None:
    """Return what a VirtualIP says that is not in force while this accepted object's services follow it."""
    for says, what in ((_of_candidates, "these candidates are"), (_of_hold, "Hold is")):
        for service in failover.spec.services:
            virtual_ip = virtual_ips.get(service.virtual_ip_ref.name)
            for found in () if virtual_ip is None else says(failover, service, virtual_ip):
                return Objection(found.reason, f"{found.message}; until then {what} not in force")
    return None


class _Claim(NamedTuple):
    """A workload by its identity, and where it is one of a kind in words."""

    workload: str
    place: str


def _claims(following: Following) -> list[_Claim]:
    """Return what it has for itself: its workload on each of its nodes, or the cluster's in its namespace."""
    service = following.service
    workload = service.workload
    if not workload.is_on_node:
        return [_Claim(workload.identity, f"in the namespace {following.failover.metadata.namespace!r}")]
    return [_Claim(workload.identity, f"on node {node!r}") for node in service.nodes]


def _age(failover: ServiceFailover) -> tuple[datetime, str, str]:
    metadata = failover.metadata
    return metadata.creation_timestamp or _EPOCH, metadata.namespace, metadata.name


def _was_accepted(failover: ServiceFailover) -> bool:
    return conditions.is_true(failover.status.conditions, "Accepted")


def _objections(
    failover: ServiceFailover,
    virtual_ips: Mapping[str, VirtualIP],
    nodes: Collection[str],
    leaders: Mapping[str, Following],
    owners: Mapping[_Claim, Following],
) -> Iterator[Objection]:
    """Say everything against it, the most basic first.

    `leaders` are the first accepted service of each VirtualIP, `owners` those that have a workload somewhere.
    """
    services = failover.spec.services
    for service in services:
        if service.virtual_ip_ref.name not in virtual_ips:
            yield _not_found(service)
    # What becomes of a VirtualIP or of a node later is no reason to stop a service that runs.
    is_new = not _was_accepted(failover)
    for refusals in (_of_namespace, _of_candidates, _of_hold) if is_new else (_of_namespace,):
        for service in services:
            yield from refusals(failover, service, virtual_ips[service.virtual_ip_ref.name])
    if is_new:
        for service in services:
            yield from _missing_nodes(service, nodes)
    for service in services:
        leader = leaders.get(service.virtual_ip_ref.name)
        if leader is not None and leader.service.nodes != service.nodes:
            yield _other_nodes(service, leader)
    yield from _taken(failover, owners)


def _objection(service: Service, reason: Reason, message: str) -> Objection:
    return Objection(reason, f"service {service.name!r}: {message}")


def _not_found(service: Service) -> Objection:
    return _objection(
        service,
        Reason.VIRTUAL_IP_NOT_FOUND,
        f"there is no VirtualIP {service.virtual_ip_ref.name!r}: create it, or correct `virtualIPRef`",
    )


def _of_namespace(failover: ServiceFailover, service: Service, virtual_ip: VirtualIP) -> Iterator[Objection]:
    namespace = failover.metadata.namespace
    allowed = virtual_ip.spec.allowed_namespaces
    if allowed is None or namespace not in allowed.names:
        yield _objection(
            service,
            Reason.NAMESPACE_NOT_ALLOWED,
            f"VirtualIP {virtual_ip.metadata.name!r} lets no services of the namespace {namespace!r} follow "
            "it: add the namespace to its `allowedNamespaces.names`, or follow another VirtualIP",
        )


def _of_candidates(_: ServiceFailover, service: Service, virtual_ip: VirtualIP) -> Iterator[Objection]:
    if virtual_ip.spec.candidates:
        yield _objection(
            service,
            Reason.CANDIDATES_CONFLICT,
            f"VirtualIP {virtual_ip.metadata.name!r} names candidates, and so does the service with its "
            "nodes: remove `candidates` from the VirtualIP, or the service from this object",
        )


def _of_hold(_: ServiceFailover, service: Service, virtual_ip: VirtualIP) -> Iterator[Objection]:
    if _is_once(service) and virtual_ip.spec.on_quorum_loss == "Hold":
        yield _objection(
            service,
            Reason.HOLD_CONFLICT,
            f"VirtualIP {virtual_ip.metadata.name!r} has `onQuorumLoss: Hold`, by which two nodes can own it "
            "at once, and there must never be two copies of the service: set `onQuorumLoss: Release` there, "
            "or `singleton: false` here",
        )


def _is_once(service: Service) -> bool:
    """Whether two owners at once would run two copies of what may have only one."""
    return service.singleton and service.workload.is_on_node


def _missing_nodes(service: Service, nodes: Collection[str]) -> Iterator[Objection]:
    for node in service.nodes:
        if node not in nodes:
            field = "primary" if node == service.primary else "standbys"
            yield _objection(
                service,
                Reason.NODE_NOT_FOUND,
                f"the cluster has no node {node!r}: correct `{field}`, or add the node",
            )


def _other_nodes(service: Service, leader: Following) -> Objection:
    primary, standbys = leader.service.primary, ", ".join(leader.service.standbys)
    return _objection(
        service,
        Reason.NODES_DIFFER,
        f"{leader.title!r} follows VirtualIP {service.virtual_ip_ref.name!r} too, with other nodes: write "
        f"the same ones here (`primary: {primary}`, `standbys: [{standbys}]`), or follow another VirtualIP",
    )


def _taken(failover: ServiceFailover, owners: Mapping[_Claim, Following]) -> Iterator[Objection]:
    own: dict[_Claim, Following] = {}
    for service in failover.spec.services:
        following = Following(failover, service)
        for claim in _claims(following):
            owner = owners.get(claim) or own.get(claim)
            own[claim] = following
            if owner is not None:
                yield _objection(
                    service,
                    Reason.WORKLOAD_TAKEN,
                    f"{owner.title!r} has {service.workload.title} {claim.place} already: remove one of the "
                    "two, or give this one a workload of its own",
                )
