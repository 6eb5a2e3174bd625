"""Everything the controller looks at, read into structs at once: the input of every decision.

An object that this version cannot read (written for a newer one, say) is not left out: what it claims
must not be given to somebody else. It stands there with what could be read, and with its problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from vipapi import resources
from vipapi.resources import FailoverDomain, Node, ObjectMeta, Switchover, VIPNode, VirtualIP, VirtualIPSpec

if TYPE_CHECKING:
    import datetime as dt

    from vipapi.nodestatus import DomainStatus, HoldingStatus

Kind = TypeVar("Kind", FailoverDomain, Switchover, VIPNode, Node)


class Moment(NamedTuple):
    """Now: `wall` for what is written, `tick` (seconds on a clock that only grows) for what is waited for."""

    wall: dt.datetime
    tick: float


class Problem(msgspec.Struct, frozen=True):
    """An object that could not be read, and why."""

    kind: str
    name: str
    message: str


class World(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot. `missing_secrets` are names of heartbeat Secrets known not to exist."""

    virtual_ips: tuple[VirtualIP, ...] = ()
    domains: Mapping[str, FailoverDomain] = {}
    switchovers: tuple[Switchover, ...] = ()
    vip_nodes: Mapping[str, VIPNode] = {}
    nodes: Mapping[str, Node] = {}
    missing_secrets: frozenset[str] = frozenset()
    unreadable: Mapping[str, str] = {}
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


def holdings(world: World) -> Mapping[str, Mapping[str, HoldingStatus]]:
    """Return, by VirtualIP UID and node, how each node's keeper stands to it."""
    found: dict[str, dict[str, HoldingStatus]] = {}
    for name, vip_node in world.vip_nodes.items():
        for holding in vip_node.status.virtual_ips:
            found.setdefault(holding.uid, {})[name] = holding
    return found


class Reader:
    """Reads documents into a `World`, and the same version of an object only once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str], Any] = {}

    def read(
        self,
        *,
        virtual_ips: Iterable[Mapping[str, Any]],
        domains: Iterable[Mapping[str, Any]],
        switchovers: Iterable[Mapping[str, Any]],
        vip_nodes: Iterable[Mapping[str, Any]],
        nodes: Iterable[Mapping[str, Any]],
    ) -> World:
        """Return the snapshot; never raises for what an object says."""
        before, self._read = self._read, {}
        problems: list[Problem] = []
        unreadable: dict[str, str] = {}
        read_ips = [self._virtual_ip(document, before, unreadable) for document in virtual_ips]
        return World(
            virtual_ips=tuple(sorted(read_ips, key=lambda ip: ip.metadata.name)),
            domains=_by_name(self._all(FailoverDomain, domains, before, problems)),
            switchovers=tuple(self._all(Switchover, switchovers, before, problems)),
            vip_nodes=_by_name(self._all(VIPNode, vip_nodes, before, problems)),
            nodes=_by_name(self._all(Node, nodes, before, problems)),
            unreadable=unreadable,
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
            try:
                parsed: Kind = before[key] if key in before else resources.parse(kind, document)
            except ValueError as error:
                problems.append(Problem(kind.__name__, document["metadata"]["name"], str(error)))
                continue
            self._read[key] = parsed
            found.append(parsed)
        return found

    def _virtual_ip(
        self, document: Mapping[str, Any], before: Mapping[tuple[str, str], Any], unreadable: dict[str, str]
    ) -> VirtualIP:
        key = _key(document)
        parsed: VirtualIP
        try:
            parsed = before[key] if key in before else resources.parse(VirtualIP, document)
        except ValueError as error:
            unreadable[document["metadata"]["uid"]] = str(error)
            return _remains(document)
        self._read[key] = parsed
        return parsed


def _remains(document: Mapping[str, Any]) -> VirtualIP:
    """What can be read of an unreadable VirtualIP: who it is, which addresses it means, what was decided."""
    spec = document.get("spec")
    addresses = spec.get("addresses") if isinstance(spec, Mapping) else None
    texts = tuple(text for text in addresses or () if isinstance(text, str))
    status = document.get("status") or {}
    try:
        read = msgspec.convert(status, type=resources.VirtualIPStatus)
    except msgspec.ValidationError:
        read = resources.VirtualIPStatus()
    domain = spec.get("domain") if isinstance(spec, Mapping) else None
    return VirtualIP(
        metadata=msgspec.convert(document["metadata"], type=ObjectMeta),
        spec=VirtualIPSpec(addresses=texts, domain=domain if isinstance(domain, str) else "default"),
        status=read,
    )


def _key(document: Mapping[str, Any]) -> tuple[str, str]:
    metadata = document["metadata"]
    return metadata["uid"], metadata["resourceVersion"]


Named = TypeVar("Named", FailoverDomain, VIPNode, Node)


def _by_name(objects: Iterable[Named]) -> Mapping[str, Named]:
    return {obj.metadata.name: obj for obj in objects}
