"""Decides what this node's keeper is to know: from the cluster's objects to one `nodeplan.Plan`.

A node takes part in the FailoverDomains whose `nodeSelector` selects it and in those it is a witness of,
also one that is just being replaced. Of each it is told the witness configuration, the members, the keys
and every VirtualIP that may be held: one that the controller has accepted (condition `Accepted`) and that
nobody is deleting; those that somebody is deleting it is told by their UIDs. With a VirtualIP go the
services that follow it (`services`), whose nodes are its candidates then; every node of the domain is told
of them, for one that was a candidate stops them in order only while it knows of them. With a domain go the
nodes that somebody says are off (Kubernetes' taint `out-of-service`). Everything in the plan is sorted, so
that an unchanged world gives an unchanged plan, byte for byte.

A plan that says less than the last one makes keepers let go of addresses. So what can not be read is
not taken for something that is gone. Of every object the last good state is kept, and stands in

- for a VirtualIP, a ServiceFailover or a domain that this version cannot read (written for a newer one, say);
- for a VirtualIP whose newest generation the controller has not accepted yet. What was accepted last also
  stands in `status.inForce`, for a courier that starts meanwhile, or that missed the generation. Where there
  is neither, the newest stands in, but with the addresses of `status.addresses`, which were accepted, in
  place of its own: another VirtualIP may have those. Without any it is left out (for a ServiceFailover
  `services` decides);
- for a heartbeat Secret that is missing or damaged;
- for an `Accepted` that somebody wiped from a status;
- for a domain whose status was wiped, shows a lower epoch than before, or a configuration that its hash
  does not fit (which a hand edited): keepers never go back, so neither does what they are told.

What is really gone is gone: an object that the complete listing does not show, or that is being deleted.
What is in force and could never be read is named (`Planned.unknown`): a keeper may know it from before.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from vipapi import nodeplan, timing
from vipapi.addresses import parse_all
from vipapi.candidates import is_held_alone, nominate, roster
from vipapi.configuration import Configuration, Member, fingerprint
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Plan, Timing, VirtualIPPlan
from vipapi.resources import (
    FailoverDomain,
    FailoverDomainSpec,
    FailoverDomainStatus,
    Node,
    ObjectMeta,
    VirtualIP,
    VirtualIPSpec,
    VirtualIPStatus,
    configuration_of,
)
from vipapi.services import joined
from vipcourier.reading import (
    Reader,
    accepted_generation,
    by_name,
    is_accepted,
    metadata_of,
    outline_of,
    status_of,
)
from vipcourier.services import Failovers, service_checks, service_plans

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vipapi.candidates import Roster
    from vipapi.healthchecks import HealthCheck
    from vipapi.nodeplan import ServicePlan
    from vipapi.resources import DomainNode
    from vipapi.services import Following
    from vipcourier.reading import Document

SHORTEST_KEY = 16
HIGHEST_KEY_ID = 255
KEYS_IN_FORCE = 2


class Sources(NamedTuple):
    """Complete listings of what a plan is made of; the Secrets are those of the operator's namespace."""

    virtual_ips: Sequence[Document]
    failovers: Sequence[Document]
    domains: Sequence[Document]
    nodes: Sequence[Document]
    secrets: Sequence[Document]


class Planned(NamedTuple):
    """A plan, and what could not be used for it, in sentences.

    `unknown` are the UIDs of what is in force and not in the plan, for it cannot be read, and was never: a
    keeper that has it would let it go.
    """

    plan: Plan
    problems: tuple[str, ...]
    unknown: frozenset[str] = frozenset()


class _GoodDomain(NamedTuple):
    spec: FailoverDomainSpec
    timing: Timing
    generation: int


class _Order(NamedTuple):
    """The newest that a domain's status ever told."""

    configuration: Configuration = Configuration()
    members: tuple[Member, ...] = ()


class _GoodVirtualIP(NamedTuple):
    """A spec to go by; of one that is not accepted yet, with the addresses that were accepted before."""

    spec: VirtualIPSpec
    generation: int
    is_accepted: bool


class _Held(NamedTuple):
    metadata: ObjectMeta
    good: _GoodVirtualIP
    status: VirtualIPStatus


class _Joint(NamedTuple):
    """What a VirtualIP's plan has of the nodes and of the services that follow it."""

    candidates: tuple[CandidatePlan, ...]
    is_held_alone: bool
    services: tuple[ServicePlan, ...]
    service_checks: tuple[HealthCheck, ...]


class _JointKey(NamedTuple):
    """What a joint is made of, besides the labels of the nodes: UIDs with the generations in force."""

    virtual_ip: tuple[str, int]
    domain: tuple[str, int]
    failovers: tuple[tuple[str, int], ...]


class Planner:
    """Makes the plans of one node; remembers the last good state of each object that still exists."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._reader = Reader()
        self._failovers = Failovers()
        self._domains: dict[str, _GoodDomain] = {}
        self._orders: dict[str, _Order] = {}
        self._virtual_ips: dict[str, _GoodVirtualIP] = {}
        self._keys: dict[str, tuple[Key, ...]] = {}
        self._joints: dict[_JointKey, _Joint] = {}
        self._known_joints: dict[_JointKey, _Joint] = {}
        self._labels: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        self._planned: dict[str, VirtualIPPlan] = {}

    def plan(self, sources: Sources) -> Planned:
        """Return the plan for this world; never raises for what an object says."""
        problems: list[str] = []
        unknown: set[str] = set()
        self._reader.begin()
        nodes = self._read_nodes(sources.nodes, problems)
        own = next((node for node in nodes if node.metadata.name == self._node), None)
        secrets = {secret["metadata"]["name"]: secret for secret in sources.secrets}
        held, virtual_ips = self._read_virtual_ips(sources.virtual_ips, problems, unknown)
        followings = self._failovers.read(
            sources.failovers,
            self._reader,
            virtual_ips=virtual_ips,
            nodes={node.metadata.name for node in nodes},
            problems=problems,
            unknown=unknown,
        )
        deleted = _deleted(sources.virtual_ips)
        out_of_service = tuple(node.metadata.name for node in nodes if node.is_out_of_service)
        domains = []
        good_domains, self._domains = self._domains, {}
        orders, self._orders = self._orders, {}
        good_keys, self._keys = self._keys, {}
        for document in sorted(sources.domains, key=by_name):
            metadata, status, good = self._read_domain(document, good_domains, problems)
            order = _newest(metadata, status, orders.get(metadata.uid, _Order()), problems)
            self._orders[metadata.uid] = order
            if good is None and order.configuration.epoch > 0:
                unknown.add(metadata.uid)
            if good is None or not self._takes_part(own, good.spec, order.configuration):
                continue
            keys, objection = read_keys(secrets.get(good.spec.key.secret_name))
            if objection:
                keys = keys or good_keys.get(metadata.uid, ())
                problems.append(f"Secret {good.spec.key.secret_name}: {objection}")
            self._keys[metadata.uid] = keys
            members = [found for found in held if found.good.spec.domain == metadata.name]
            known = roster(good.spec, nodes)
            domains.append(
                DomainPlan(
                    name=metadata.name,
                    uid=metadata.uid,
                    port=good.spec.heartbeat.port,
                    timing=good.timing,
                    configuration=order.configuration,
                    members=order.members,
                    keys=keys,
                    virtual_ips=tuple(
                        _virtual_ip(
                            found,
                            self._joint(
                                found, followings.get(found.metadata.name, ()), metadata.uid, good, known
                            ),
                        )
                        for found in members
                    ),
                    deleted=deleted.get(metadata.name, ()),
                    heartbeat_interface=good.spec.heartbeat.interface,
                    gateway_probe=_gateway_probe(good.spec),
                    out_of_service=out_of_service,
                )
            )
        planned = self._usable([vip for domain in domains for vip in domain.virtual_ips], problems)
        stated = () if own is None else own.internal_addresses
        problems += [
            f"Node {self._node}: {each!r} among its addresses is no IP address, and is left out"
            for each in stated
            if not _is_address(each)
        ]
        plan = Plan(
            node=self._node,
            domains=tuple(
                msgspec.structs.replace(
                    domain,
                    virtual_ips=tuple(planned[vip.uid] for vip in domain.virtual_ips if vip.uid in planned),
                )
                for domain in domains
            ),
            node_addresses=tuple(filter(_is_address, stated)),
        )
        self._planned = planned
        return Planned(plan, tuple(problems), frozenset(unknown))

    def _usable(self, wanted: Sequence[VirtualIPPlan], problems: list[str]) -> dict[str, VirtualIPPlan]:
        """Return, by UID, those that a keeper can act on; in place of another, what was planned of it before.

        One in a plan would have all of it refused. A service that is wanted twice stays where it was.
        """
        usable: dict[str, VirtualIPPlan] = {}
        services: set[str] = set()
        for vip in sorted(wanted, key=self._newness):
            before = self._planned.get(vip.uid)
            objection = _objection(vip, services)
            if not objection:
                usable[vip.uid] = vip
                continue
            is_kept = before is not None and not _objection(before, services)
            then = "it stays as it was" if is_kept else "it stays out"
            problems.append(f"VirtualIP {vip.name} cannot be planned, and {then}: {objection}")
            if is_kept and before is not None:
                usable[vip.uid] = before
        return usable

    def _newness(self, vip: VirtualIPPlan) -> int:
        """Return when its turn is: first what stays as it was, last what wants services that it had not."""
        before = self._planned.get(vip.uid)
        if before is None:
            return 2
        if before == vip or _objection(vip, set()):
            return 0
        had = {service.id for service in before.services}
        return 1 if had.issuperset(service.id for service in vip.services) else 2

    def _read_nodes(self, documents: Iterable[Document], problems: list[str]) -> list[Node]:
        nodes = []
        for document in sorted(documents, key=by_name):
            try:
                nodes.append(self._reader.read(Node, document))
            except ValueError as error:
                problems.append(str(error))
        labels = [(node.metadata.name, tuple(sorted(node.metadata.labels.items()))) for node in nodes]
        if labels != self._labels:
            self._labels = labels
            self._joints = {}
        self._known_joints, self._joints = self._joints, {}
        return nodes

    def _read_virtual_ips(
        self, documents: Iterable[Document], problems: list[str], unknown: set[str]
    ) -> tuple[list[_Held], dict[str, VirtualIP]]:
        """Return those that may be held, each with the spec that is in force, and all that can be read."""
        before, self._virtual_ips = self._virtual_ips, {}
        found, readable = [], {}
        for document in sorted(documents, key=by_name):
            uid = document["metadata"]["uid"]
            good = before.get(uid)
            try:
                virtual_ip: VirtualIP = self._reader.read(VirtualIP, document)
            except ValueError as error:
                problems.append(str(error))
                metadata, status = outline_of(VirtualIPStatus, document)
                good = _later(good, metadata, status)
            else:
                metadata, status = virtual_ip.metadata, virtual_ip.status
                good = _in_force(virtual_ip, good, problems)
                readable[metadata.name] = virtual_ip
            if metadata.is_deleting or not is_accepted(status.conditions, is_planned=uid in before):
                continue
            if good is None:
                if metadata.name not in readable:
                    unknown.add(uid)
                continue
            self._virtual_ips[uid] = good
            held = _Held(metadata, good, status)
            if _observed_term(held) != (status.term or 0):
                problems.append(
                    f"VirtualIP {metadata.name}: its status.term, {status.term}, is none that keepers can "
                    "have reached and does not count: remove it (kubectl edit --subresource=status)"
                )
            found.append(held)
        return found, readable

    def _read_domain(
        self,
        document: Document,
        before: Mapping[str, _GoodDomain],
        problems: list[str],
    ) -> tuple[ObjectMeta, FailoverDomainStatus, _GoodDomain | None]:
        good = before.get(document["metadata"]["uid"])
        try:
            domain = self._reader.read(FailoverDomain, document)
            times = timing.effective(domain.spec)
            if not 0 < domain.spec.heartbeat.port < 1 << 16:
                raise ValueError(f"there is no port {domain.spec.heartbeat.port}")  # noqa: TRY301
        except ValueError as error:
            problems.append(f"FailoverDomain {document['metadata']['name']}: {error}")
            metadata, status = metadata_of(document), status_of(FailoverDomainStatus, document)
        else:
            metadata, status = domain.metadata, domain.status
            good = _GoodDomain(domain.spec, times, metadata.generation)
        if good is not None:
            self._domains[metadata.uid] = good
        return metadata, status, good

    def _takes_part(self, own: Node | None, spec: FailoverDomainSpec, configuration: Configuration) -> bool:
        if any(witness.node == self._node for witness in configuration.members):
            return True
        return own is not None and spec.node_selector.matches(own.metadata.labels)

    def _joint(
        self,
        found: _Held,
        followings: tuple[Following, ...],
        domain_uid: str,
        domain: _GoodDomain,
        nodes: Roster,
    ) -> _Joint:
        # Labels are matched for every node of the cluster: done again only when something in it changed.
        key = _JointKey(
            virtual_ip=(found.metadata.uid, found.good.generation),
            domain=(domain_uid, domain.generation),
            failovers=tuple(
                (each.failover.metadata.uid, each.failover.metadata.generation) for each in followings
            ),
        )
        joint = self._known_joints.get(key)
        if joint is None:
            spec = joined(found.good.spec, followings)
            nominees = nominate(spec, nodes)
            joint = _Joint(
                candidates=tuple(
                    CandidatePlan(node=nominee.node, priority=nominee.priority)
                    for nominee in nominees
                    if nominee.is_candidate
                ),
                is_held_alone=is_held_alone(spec, nominees),
                services=service_plans(followings),
                service_checks=service_checks(followings),
            )
        self._joints[key] = joint
        return joint


def _virtual_ip(found: _Held, joint: _Joint) -> VirtualIPPlan:
    spec, election = found.good.spec, found.status.election
    return VirtualIPPlan(
        uid=found.metadata.uid,
        name=found.metadata.name,
        addresses=spec.addresses,
        candidates=joint.candidates,
        owner=None if election is None else election.owner,
        succession=() if election is None else election.succession,
        based_on_term=0 if election is None else election.based_on_term,
        observed_term=_observed_term(found),
        interface=spec.interface,
        health_checks=spec.health_checks,
        announcement_count=spec.announcement.count,
        announcement_refresh_s=spec.announcement.refresh_seconds,
        is_held_alone=joint.is_held_alone,
        services=joint.services,
        service_checks=joint.service_checks,
        routes=spec.routes,
        rules=spec.rules,
    )


def _observed_term(found: _Held) -> int:
    """Return the term that the status shows, 0 in place of one that cannot have been."""
    term = found.status.term or 0
    return term if 0 <= term <= nodeplan.MOST_FLOOR else 0


def _newest(
    metadata: ObjectMeta, status: FailoverDomainStatus, before: _Order, problems: list[str]
) -> _Order:
    """Return what the status tells, or what it told before where it would go back."""
    told = configuration_of(status)
    if told.epoch < before.configuration.epoch:
        why = f"its status shows epoch {told.epoch}, and epoch {before.configuration.epoch} was there before"
    elif told.epoch > 0 and told.hash != fingerprint(metadata.uid, told):
        why = f"the configuration of epoch {told.epoch} in its status is not the one that its hash names"
    elif not all(_is_address(member.address) for member in (*told.members, *_members(status.members))):
        why = "a member in its status has no IP address"
    else:
        return _Order(told, _members(status.members))
    problems.append(f"FailoverDomain {metadata.name}: {why}; the witnesses and members stay as they were")
    return before


def _deleted(documents: Iterable[Document]) -> dict[str, tuple[str, ...]]:
    """Return what is to be granted to nobody any more, by domain.

    VirtualIPs that are being deleted, readable or not, by UID; retired addresses of others as
    UID/address/generation.
    """
    found: dict[str, list[str]] = {}
    for document in documents:
        uid = document["metadata"]["uid"]
        status = status_of(VirtualIPStatus, document)
        names = [each.tombstone(uid) for each in status.retired_addresses]
        if document["metadata"].get("deletionTimestamp"):
            names = [uid]
        domain = str((document.get("spec") or {}).get("domain") or "default")
        found.setdefault(domain, []).extend(names)
    return {domain: tuple(sorted(names)) for domain, names in found.items()}


def _objection(vip: VirtualIPPlan, services: set[str]) -> str:
    """Return why it cannot be planned beside these services; if it can, its own are added to them."""
    ids = set(services) if vip.services else services
    try:
        nodeplan.check_virtual_ip(vip, ids)
    except ValueError as error:
        return str(error)
    services |= ids
    return ""


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _gateway_probe(spec: FailoverDomainSpec) -> Literal["Auto", "Off"]:
    return "Off" if spec.gateway.on_unreachable == "Ignore" else spec.gateway.probe


def read_keys(secret: Document | None) -> tuple[tuple[Key, ...], str]:
    """Return the keys of a heartbeat Secret that are in force, newest first, and an objection or "".

    Its data are key ids, 1 to 255, with at least 16 random bytes each; the two highest are in force.
    """
    if secret is None:
        return (), "it does not exist; the controller makes it"
    keys: list[Key] = []
    bad: list[str] = []
    for name, text in sorted((secret.get("data") or {}).items()):
        key_id = int(name) if name.isascii() and name.isdigit() else 0
        try:
            value = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError, TypeError):
            value = b""
        if 1 <= key_id <= HIGHEST_KEY_ID and len(value) >= SHORTEST_KEY:
            keys.append(Key(key_id=key_id, secret=value))
        else:
            bad.append(name)
    keys.sort(key=lambda key: key.key_id, reverse=True)
    if not keys:
        return (), "it has no key; its data must be a number from 1 to 255 with 32 random bytes"
    objection = f"not a number from 1 to 255 with 16 bytes or more: {', '.join(bad)}" if bad else ""
    return tuple(keys[:KEYS_IN_FORCE]), objection


def _in_force(
    virtual_ip: VirtualIP, before: _GoodVirtualIP | None, problems: list[str]
) -> _GoodVirtualIP | None:
    """Return the spec to go by; None if there is nothing yet that anybody accepted."""
    metadata, accepted = virtual_ip.metadata, virtual_ip.status.addresses
    generation = accepted_generation(virtual_ip.status.conditions)
    if generation >= metadata.generation:
        return _GoodVirtualIP(virtual_ip.spec, metadata.generation, is_accepted=True)
    before = _later(before, metadata, virtual_ip.status)
    if generation == 0 or (before is not None and before.is_accepted):
        return before
    try:
        parse_all(accepted)
    except ValueError as error:
        problems.append(f"VirtualIP {metadata.name}: the addresses in its status: {error}")
        return before
    if not accepted:
        problems.append(
            f"VirtualIP {metadata.name}: generation {metadata.generation} is not accepted yet, and its "
            "status does not say which addresses were"
        )
        return before
    spec = msgspec.structs.replace(virtual_ip.spec, addresses=accepted)
    return _GoodVirtualIP(spec, metadata.generation, is_accepted=False)


def _later(
    good: _GoodVirtualIP | None, metadata: ObjectMeta, status: VirtualIPStatus
) -> _GoodVirtualIP | None:
    """Return the later one of a state and what the controller says was accepted last.

    A state of a generation that the object has yet to reach is from before etcd was put back.
    """
    found = status.in_force
    if found is None or accepted_generation(status.conditions) == 0:
        return good
    is_of_now = good is not None and good.is_accepted and good.generation <= metadata.generation
    if good is not None and is_of_now and good.generation >= found.generation:
        return good
    return _GoodVirtualIP(found.spec, found.generation, is_accepted=True)


def _members(nodes: Iterable[DomainNode]) -> tuple[Member, ...]:
    return tuple(
        Member(node=node.node_name, address=node.address)
        for node in sorted(nodes, key=lambda node: node.node_name)
    )
