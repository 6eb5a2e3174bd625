"""Everything the controller looks at, read into structs at once: the input of every decision.

A VirtualIP or a ServiceFailover that this version cannot read (written for a newer one, say) is not left
out: what it claims must not be given to somebody else. It stands there with what could be read, field by
field, and with its problem. So does a VIPNode, entry by entry: a node whose agent is newer is no node without
an agent, and what it hears and grants counts. Of a FailoverDomain the spec is all or nothing, for nobody
elects by half of it; but its name and its status are known, and so is what is in force.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from vipapi import conditions, resources
from vipapi.nodestatus import DomainStatus, HoldingStatus, ServiceStatus
from vipapi.resources import (
    FailoverDomain,
    Node,
    ObjectMeta,
    Service,
    ServiceFailover,
    ServiceFailoverSpec,
    ServiceFailoverStatus,
    Switchover,
    VIPNode,
    VIPNodeStatus,
    VirtualIP,
    VirtualIPSpec,
    VirtualIPStatus,
)
from vipcontroller.assignments import Carried

if TYPE_CHECKING:
    import datetime as dt

Kind = TypeVar("Kind", FailoverDomain, Switchover, VIPNode, Node)
Claimant = TypeVar("Claimant", VirtualIP, ServiceFailover)
Struct = TypeVar("Struct", bound=msgspec.Struct)


class Moment(NamedTuple):
    """Now: `wall` for what is written, `tick` (seconds on a clock that only grows) for what is waited for."""

    wall: dt.datetime
    tick: float


class Problem(msgspec.Struct, frozen=True):
    """An object that could not be read, and why."""

    kind: str
    name: str
    message: str


class Unread(msgspec.Struct, frozen=True):
    """A FailoverDomain that could not be read, and why.

    `domain` is the object without its spec; None where its status could not be read either.
    """

    problem: str
    domain: FailoverDomain | None


class World(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot. `missing_secrets` are names of heartbeat Secrets known not to exist.

    `unread_domains` are by name, like `domains`, and none of these.
    `unreadable` says by UID what is wrong with a VirtualIP or a ServiceFailover. `illegible` says, by the UID
    of a ServiceFailover, which VirtualIPs services of it follow whose nodes could not be read. `held_back`
    are ServiceFailovers, by UID, whose newest generation is not acted upon, and nobody knows what was before.
    `undone` are VirtualIPs, by UID, whose newest generation is not acted upon: those of them that are
    `restored` stand here with the whole spec that was accepted last, the others with its addresses only. Of
    those in `unspeakable`, of both kinds, what was before stands in the status, for a newer version to read,
    so that nothing may be written there until an edit is acted upon. `written` are the specs of the
    VirtualIPs that are acted upon as they were written, by UID; in `virtual_ips` they are what the services
    that follow make of them. `carried` is what came of the workloads that the controller carries out itself.
    """

    virtual_ips: tuple[VirtualIP, ...] = ()
    failovers: tuple[ServiceFailover, ...] = ()
    domains: Mapping[str, FailoverDomain] = {}
    unread_domains: Mapping[str, Unread] = {}
    switchovers: tuple[Switchover, ...] = ()
    vip_nodes: Mapping[str, VIPNode] = {}
    nodes: Mapping[str, Node] = {}
    missing_secrets: frozenset[str] = frozenset()
    unreadable: Mapping[str, str] = {}
    illegible: Mapping[str, tuple[str, ...]] = {}
    held_back: frozenset[str] = frozenset()
    unspeakable: frozenset[str] = frozenset()
    undone: frozenset[str] = frozenset()
    restored: frozenset[str] = frozenset()
    written: Mapping[str, VirtualIPSpec] = {}
    carried: Carried = Carried()
    problems: tuple[Problem, ...] = ()

    def domain_report(self, node: str, domain: FailoverDomain) -> DomainStatus | None:
        """What a node reports of exactly this domain, and not of one of the same name before it."""
        vip_node = self.vip_nodes.get(node)
        if vip_node is None:
            return None
        reports = (report for report in vip_node.status.domains if report.uid == domain.metadata.uid)
        return next(reports, None)

    def reports(self, domain: FailoverDomain) -> Mapping[str, DomainStatus]:
        """What every node reports of exactly this domain, by node."""
        found = ((node, self.domain_report(node, domain)) for node in sorted(self.vip_nodes))
        return {node: report for node, report in found if report is not None}

    def lacking(self, secrets: frozenset[str]) -> World:
        """The same world, in which these Secrets do not exist."""
        return msgspec.structs.replace(self, missing_secrets=secrets)

    def with_carried(self, carried: Carried) -> World:
        """The same world, of which the controller's own workloads tell this."""
        return msgspec.structs.replace(self, carried=carried)


def holdings(world: World) -> Mapping[str, Mapping[str, HoldingStatus]]:
    """Return, by VirtualIP UID and node, how each node's keeper stands to it."""
    found: dict[str, dict[str, HoldingStatus]] = {}
    for name, vip_node in world.vip_nodes.items():
        for holding in vip_node.status.virtual_ips:
            found.setdefault(holding.uid, {})[name] = holding
    return found


def running(world: World) -> Mapping[str, Mapping[str, Mapping[str, ServiceStatus]]]:
    """Return, by ServiceFailover UID, service and node, how the services stand on each node."""
    found: dict[str, dict[str, dict[str, ServiceStatus]]] = {
        uid: {name: dict(reports) for name, reports in of_failover.items()}
        for uid, of_failover in world.carried.reports.items()
    }
    for node, vip_node in world.vip_nodes.items():
        for service in vip_node.status.services:
            found.setdefault(service.uid, {}).setdefault(service.name, {})[node] = service
    return found


class _Found(NamedTuple):
    """What an object was read as, if it was, and what could not be read of it."""

    parsed: Any
    problem: str = ""


class Reader:
    """Reads documents into a `World`, and the same version of an object only once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str], Any] = {}

    def read(
        self,
        *,
        virtual_ips: Iterable[Mapping[str, Any]],
        failovers: Iterable[Mapping[str, Any]],
        domains: Iterable[Mapping[str, Any]],
        switchovers: Iterable[Mapping[str, Any]],
        vip_nodes: Iterable[Mapping[str, Any]],
        nodes: Iterable[Mapping[str, Any]],
    ) -> World:
        """Return the snapshot; never raises for what an object says."""
        before, self._read = self._read, {}
        problems: list[Problem] = []
        unreadable: dict[str, str] = {}
        illegible: dict[str, tuple[str, ...]] = {}
        unspeakable: set[str] = set()
        listed = {document["metadata"]["name"]: document for document in domains}
        read_domains = _by_name(self._all(FailoverDomain, listed.values(), before, problems))
        unread_domains = {
            each.name: Unread(each.message, _without_spec(listed[each.name])) for each in problems
        }
        read_ips = [self._virtual_ip(each, before, unreadable, unspeakable) for each in virtual_ips]
        read = [self._failover(each, before, unreadable, illegible, unspeakable) for each in failovers]
        return World(
            virtual_ips=tuple(sorted(read_ips, key=lambda ip: ip.metadata.name)),
            failovers=tuple(sorted(read, key=lambda each: (each.metadata.namespace, each.metadata.name))),
            domains=read_domains,
            unread_domains=unread_domains,
            switchovers=tuple(self._all(Switchover, switchovers, before, problems)),
            vip_nodes=_by_name(self._all(VIPNode, vip_nodes, before, problems)),
            nodes=_by_name(self._all(Node, nodes, before, problems)),
            unreadable=unreadable,
            illegible=illegible,
            unspeakable=frozenset(unspeakable),
            problems=tuple(problems),
        )

    def _all(
        self,
        kind: type[Kind],
        documents: Iterable[Mapping[str, Any]],
        before: Mapping[tuple[str, str], Any],
        problems: list[Problem],
    ) -> list[Kind]:
        found: list[Kind] = []
        for document in documents:
            key = _key(document)
            each: _Found = before.get(key) or _find(kind, document)
            self._read[key] = each
            if each.problem:
                problems.append(Problem(kind.__name__, document["metadata"]["name"], each.problem))
            if each.parsed is not None:
                found.append(each.parsed)
        return found

    def _virtual_ip(
        self,
        document: Mapping[str, Any],
        before: Mapping[tuple[str, str], Any],
        unreadable: dict[str, str],
        unspeakable: set[str],
    ) -> VirtualIP:
        key = _key(document)
        parsed: VirtualIP
        try:
            parsed = before[key] if key in before else resources.parse(VirtualIP, document)
        except ValueError as error:
            uid = document["metadata"]["uid"]
            readable = _without_in_force(VirtualIP, document)
            parsed = _remains(document) if readable is None else readable
            if readable is None:
                unreadable[uid] = str(error)
            if _unread_in_force(document, parsed) is not None:
                unspeakable.add(uid)
            return parsed
        self._read[key] = parsed
        return parsed

    def _failover(
        self,
        document: Mapping[str, Any],
        before: Mapping[tuple[str, str], Any],
        unreadable: dict[str, str],
        illegible: dict[str, tuple[str, ...]],
        unspeakable: set[str],
    ) -> ServiceFailover:
        key = _key(document)
        parsed: ServiceFailover
        try:
            parsed = before[key] if key in before else resources.parse(ServiceFailover, document)
        except ValueError as error:
            uid = document["metadata"]["uid"]
            lost: tuple[str, ...] = ()
            readable = _without_in_force(ServiceFailover, document)
            if readable is None:
                unreadable[uid] = str(error)
                readable, lost = _remains_of_failover(document)
            parsed = readable
            in_force = _unread_in_force(document, parsed)
            if in_force is not None:
                unspeakable.add(uid)
                lost = (*lost, *_followed(in_force))
            if lost:
                illegible[uid] = lost
            return parsed
        self._read[key] = parsed
        return parsed


def _find(kind: type[Kind], document: Mapping[str, Any]) -> _Found:
    try:
        return _Found(resources.parse(kind, document))
    except ValueError as error:
        remains = _REMAINS.get(kind)
        return _Found(None if remains is None else remains(document), str(error))


def _without_spec(document: Mapping[str, Any]) -> FailoverDomain | None:
    try:
        return resources.parse(FailoverDomain, {**document, "spec": {}})
    except ValueError:
        return None


def _remains_of_node(document: Mapping[str, Any]) -> VIPNode:
    """What can be read of an unreadable VIPNode.

    Of a domain's report that is all or nothing, but for the role, by which nothing is decided: whom a witness
    is not known to hear, or what to have granted, it would speak against.
    """
    status = _mapping(document.get("status"))
    reports = ({**_mapping(each), "role": "Member"} for each in _list(status.get("domains")))
    lists = {
        "domains": [each for each in reports if _is_legible(DomainStatus, each)],
        "virtualIPs": _legible_entries(HoldingStatus, status.get("virtualIPs")),
        "services": _legible_entries(ServiceStatus, status.get("services")),
    }
    return VIPNode(
        metadata=msgspec.convert(document["metadata"], type=ObjectMeta),
        status=_legible(VIPNodeStatus, {}, {**status, **lists}),
    )


_REMAINS: Final[Mapping[type[msgspec.Struct], Callable[[Mapping[str, Any]], msgspec.Struct]]] = {
    VIPNode: _remains_of_node,
}


def _legible_entries(kind: type[msgspec.Struct], entries: object) -> list[Mapping[str, Any]]:
    """Return what can be read of the entries of a list, without those that say too little to be one."""
    needed = {field.encode_name for field in msgspec.structs.fields(kind) if field.required}
    found = []
    for each in map(_mapping, _list(entries)):
        skeleton = {name: each[name] for name in needed & each.keys()}
        if _is_legible(kind, skeleton):
            found.append(each if _is_legible(kind, each) else _legible_fields(kind, skeleton, each))
    return found


def _remains(document: Mapping[str, Any]) -> VirtualIP:
    """What can be read of an unreadable VirtualIP: who it is, which addresses it means, what was decided."""
    spec = _mapping(document.get("spec"))
    texts = [text for text in _list(spec.get("addresses")) if isinstance(text, str)]
    return VirtualIP(
        metadata=msgspec.convert(document["metadata"], type=ObjectMeta),
        spec=_legible(VirtualIPSpec, {"addresses": texts}, spec),
        status=_status(VirtualIPStatus, document),
    )


def _remains_of_failover(document: Mapping[str, Any]) -> tuple[ServiceFailover, tuple[str, ...]]:
    """What can be read of an unreadable ServiceFailover, and whom its unreadable services follow."""
    spec, uid = _mapping(document.get("spec")), document["metadata"]["uid"]
    services: list[Mapping[str, Any]] = []
    lost: list[str] = []
    for each in map(_mapping, _list(spec.get("services"))):
        # No other service has this workload, so nobody is refused for its sake.
        skeleton = {name: each.get(name) for name in ("name", "virtualIPRef", "primary", "standbys")}
        skeleton["workload"] = {"systemd": {"unit": f"{uid}/{each.get('name')}"}}
        try:
            msgspec.convert(skeleton, type=Service)
        except msgspec.ValidationError:
            lost.append(str(_mapping(each.get("virtualIPRef")).get("name")))
        else:
            services.append(_legible_fields(Service, skeleton, each))
    failover = ServiceFailover(
        metadata=msgspec.convert(document["metadata"], type=ObjectMeta),
        spec=_legible(ServiceFailoverSpec, {"mode": "Cluster", "services": services}, spec),
        status=_status(ServiceFailoverStatus, document),
    )
    return failover, tuple(lost)


def _without_in_force(kind: type[Claimant], document: Mapping[str, Any]) -> Claimant | None:
    """Return an object of which only the spec that is in force cannot be read."""
    status = _mapping(document.get("status"))
    rest = {name: value for name, value in status.items() if name != "inForce"}
    try:
        return resources.parse(kind, {**document, "status": rest})
    except ValueError:
        return None


def _unread_in_force(
    document: Mapping[str, Any], remains: VirtualIP | ServiceFailover
) -> Mapping[str, Any] | None:
    """Return the spec that is in force, where only the status has it, and illegibly."""
    found = _mapping(document.get("status")).get("inForce")
    accepted = conditions.find(remains.status.conditions, "Accepted")
    if not found or remains.status.in_force is not None or accepted is None or accepted.status != "True":
        return None
    if (accepted.observed_generation or 0) >= remains.metadata.generation:
        return None
    return _mapping(_mapping(found).get("spec"))


def _followed(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the VirtualIPs that the services of a spec that cannot be read follow."""
    references = (_mapping(_mapping(each).get("virtualIPRef")) for each in _list(spec.get("services")))
    return tuple(str(reference.get("name")) for reference in references)


def _legible(kind: type[Struct], skeleton: Mapping[str, Any], document: Mapping[str, Any]) -> Struct:
    """Read a document as far as it can be: the skeleton, and over it each field that does no harm."""
    return msgspec.convert(_legible_fields(kind, skeleton, document), type=kind)


def _legible_fields(
    kind: type[Struct], skeleton: Mapping[str, Any], document: Mapping[str, Any]
) -> Mapping[str, Any]:
    found = dict(skeleton)
    for name, value in document.items():
        attempt = found | {name: value}
        if _is_legible(kind, attempt):
            found = attempt
    return found


def _is_legible(kind: type[msgspec.Struct], document: Mapping[str, Any]) -> bool:
    try:
        msgspec.convert(document, type=kind)
    except msgspec.ValidationError:
        return False
    return True


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _status(kind: type[Struct], document: Mapping[str, Any]) -> Struct:
    return _legible(kind, {}, _mapping(document.get("status")))


def _key(document: Mapping[str, Any]) -> tuple[str, str]:
    metadata = document["metadata"]
    return metadata["uid"], metadata["resourceVersion"]


Named = TypeVar("Named", FailoverDomain, VIPNode, Node)


def _by_name(objects: Iterable[Named]) -> Mapping[str, Named]:
    return {obj.metadata.name: obj for obj in objects}
