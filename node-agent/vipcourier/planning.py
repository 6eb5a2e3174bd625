"""Decides what this node's keeper is to know: from the cluster's objects to one `nodeplan.Plan`.

A node takes part in the FailoverDomains whose `nodeSelector` selects it and in those it is a witness of,
also one that is just being replaced. Of each it is told the witness configuration, the members, the keys
and every VirtualIP that may be held: one that the controller has accepted (condition `Accepted`) and that
nobody is deleting; those that somebody is deleting it is told by their UIDs. Everything in the plan is
sorted, so that an unchanged world gives an unchanged plan, byte for byte.

A plan that says less than the last one makes keepers let go of addresses. So what can not be read is
not taken for something that is gone. Of every object the last good state is kept, and stands in

- for a VirtualIP or a domain that this version cannot read (written for a newer one, say);
- for a VirtualIP whose newest generation the controller has not accepted yet. Where there is no older
  state, as after a restart, the newest stands in, but with the addresses of `status.addresses`, which
  were accepted, in place of its own: another VirtualIP may have those. Without any it is left out;
- for a heartbeat Secret that is missing or damaged;
- for an `Accepted` that somebody wiped from a status;
- for a domain whose status was wiped, shows a lower epoch than before, or a configuration that its hash
  does not fit (which a hand edited): keepers never go back, so neither does what they are told.

What is really gone is gone: an object that the complete listing does not show, or that is being deleted.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from vipapi import conditions, timing
from vipapi.addresses import parse_all
from vipapi.candidates import nominate
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
    parse,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vipapi.resources import DomainNode

Document = dict[str, Any]

SHORTEST_KEY = 16
HIGHEST_KEY_ID = 255
KEYS_IN_FORCE = 2
CANDIDATES_TO_HOLD_ALONE = 2


class Sources(NamedTuple):
    """Complete listings of what a plan is made of; the Secrets are those of the operator's namespace."""

    virtual_ips: Sequence[Document]
    domains: Sequence[Document]
    nodes: Sequence[Document]
    secrets: Sequence[Document]


class Planned(NamedTuple):
    """A plan, and what could not be used for it, in sentences."""

    plan: Plan
    problems: tuple[str, ...]


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


class Planner:
    """Makes the plans of one node; remembers the last good state of each object that still exists."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._parsed: dict[tuple[str, str], Any] = {}
        self._domains: dict[str, _GoodDomain] = {}
        self._orders: dict[str, _Order] = {}
        self._virtual_ips: dict[str, _GoodVirtualIP] = {}
        self._keys: dict[str, tuple[Key, ...]] = {}
        self._nominees: dict[tuple[str, int, str, int], tuple[CandidatePlan, ...]] = {}
        self._known_nominees: dict[tuple[str, int, str, int], tuple[CandidatePlan, ...]] = {}
        self._labels: list[tuple[str, tuple[tuple[str, str], ...]]] = []

    def plan(self, sources: Sources) -> Planned:
        """Return the plan for this world; never raises for what an object says."""
        problems: list[str] = []
        parsed, self._parsed = self._parsed, {}
        nodes = self._read_nodes(sources.nodes, parsed, problems)
        own = next((node for node in nodes if node.metadata.name == self._node), None)
        secrets = {secret["metadata"]["name"]: secret for secret in sources.secrets}
        held = self._read_virtual_ips(sources.virtual_ips, parsed, problems)
        deleted = _deleted(sources.virtual_ips)
        domains = []
        good_domains, self._domains = self._domains, {}
        orders, self._orders = self._orders, {}
        good_keys, self._keys = self._keys, {}
        for document in sorted(sources.domains, key=_name):
            metadata, status, good = self._read_domain(document, parsed, good_domains, problems)
            order = _newest(metadata, status, orders.get(metadata.uid, _Order()), problems)
            self._orders[metadata.uid] = order
            if good is None or not self._takes_part(own, good.spec, order.configuration):
                continue
            keys, objection = read_keys(secrets.get(good.spec.key.secret_name))
            if objection:
                keys = keys or good_keys.get(metadata.uid, ())
                problems.append(f"Secret {good.spec.key.secret_name}: {objection}")
            self._keys[metadata.uid] = keys
            members = [found for found in held if found.good.spec.domain == metadata.name]
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
                        _virtual_ip(found, self._candidates(found, metadata.uid, good, nodes))
                        for found in members
                    ),
                    deleted=deleted.get(metadata.name, ()),
                    heartbeat_interface=good.spec.heartbeat.interface,
                    gateway_probe=_gateway_probe(good.spec),
                )
            )
        plan = Plan(
            node=self._node,
            domains=tuple(domains),
            node_addresses=() if own is None else own.internal_addresses,
        )
        return Planned(plan, tuple(problems))

    def _read_nodes(
        self, documents: Iterable[Document], parsed: Mapping[tuple[str, str], Any], problems: list[str]
    ) -> list[Node]:
        nodes = []
        for document in sorted(documents, key=_name):
            try:
                nodes.append(self._parse(Node, document, parsed))
            except ValueError as error:
                problems.append(str(error))
        labels = [(node.metadata.name, tuple(sorted(node.metadata.labels.items()))) for node in nodes]
        if labels != self._labels:
            self._labels = labels
            self._nominees = {}
        self._known_nominees, self._nominees = self._nominees, {}
        return nodes

    def _read_virtual_ips(
        self, documents: Iterable[Document], parsed: Mapping[tuple[str, str], Any], problems: list[str]
    ) -> list[_Held]:
        """Return those that may be held, each with the spec that is in force."""
        before, self._virtual_ips = self._virtual_ips, {}
        found = []
        for document in sorted(documents, key=_name):
            uid = document["metadata"]["uid"]
            good = before.get(uid)
            try:
                virtual_ip = self._parse(VirtualIP, document, parsed)
            except ValueError as error:
                problems.append(str(error))
                metadata, status = _metadata(document), _status(VirtualIPStatus, document)
            else:
                metadata, status = virtual_ip.metadata, virtual_ip.status
                good = _in_force(virtual_ip, good, problems)
            if good is None or metadata.is_deleting or not _is_accepted(status, is_planned=uid in before):
                continue
            self._virtual_ips[uid] = good
            found.append(_Held(metadata, good, status))
        return found

    def _read_domain(
        self,
        document: Document,
        parsed: Mapping[tuple[str, str], Any],
        before: Mapping[str, _GoodDomain],
        problems: list[str],
    ) -> tuple[ObjectMeta, FailoverDomainStatus, _GoodDomain | None]:
        good = before.get(document["metadata"]["uid"])
        try:
            domain = self._parse(FailoverDomain, document, parsed)
            times = timing.effective(domain.spec)
        except ValueError as error:
            problems.append(f"FailoverDomain {document['metadata']['name']}: {error}")
            metadata, status = _metadata(document), _status(FailoverDomainStatus, document)
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

    def _candidates(
        self, found: _Held, domain_uid: str, domain: _GoodDomain, nodes: Sequence[Node]
    ) -> tuple[CandidatePlan, ...]:
        # Labels are matched for every node of the cluster: done again only when something in it changed.
        key = (found.metadata.uid, found.good.generation, domain_uid, domain.generation)
        candidates = self._known_nominees.get(key)
        if candidates is None:
            candidates = tuple(
                CandidatePlan(node=nominee.node, priority=nominee.priority)
                for nominee in nominate(found.good.spec, domain.spec, nodes)
                if nominee.is_candidate
            )
        self._nominees[key] = candidates
        return candidates

    def _parse(self, kind: type[Any], document: Document, parsed: Mapping[tuple[str, str], Any]) -> Any:
        metadata = document["metadata"]
        key = (metadata["uid"], metadata["resourceVersion"])
        found = parsed[key] if key in parsed else parse(kind, document)
        self._parsed[key] = found
        return found


def _virtual_ip(found: _Held, candidates: tuple[CandidatePlan, ...]) -> VirtualIPPlan:
    spec, election = found.good.spec, found.status.election
    return VirtualIPPlan(
        uid=found.metadata.uid,
        name=found.metadata.name,
        addresses=spec.addresses,
        candidates=candidates,
        owner=None if election is None else election.owner,
        succession=() if election is None else election.succession,
        based_on_term=0 if election is None else election.based_on_term,
        observed_term=found.status.term or 0,
        interface=spec.interface,
        health_checks=spec.health_checks,
        announcement_count=spec.announcement.count,
        announcement_refresh_s=spec.announcement.refresh_seconds,
        is_held_alone=spec.on_quorum_loss == "Hold" and len(candidates) == CANDIDATES_TO_HOLD_ALONE,
    )


def _newest(
    metadata: ObjectMeta, status: FailoverDomainStatus, before: _Order, problems: list[str]
) -> _Order:
    """Return what the status tells, or what it told before where it would go back."""
    told = configuration_of(status)
    if told.epoch < before.configuration.epoch:
        why = f"its status shows epoch {told.epoch}, and epoch {before.configuration.epoch} was there before"
    elif told.epoch > 0 and told.hash != fingerprint(metadata.uid, told):
        why = f"the configuration of epoch {told.epoch} in its status is not the one that its hash names"
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
        status = _status(VirtualIPStatus, document)
        names = [each.tombstone(uid) for each in status.retired_addresses]
        if document["metadata"].get("deletionTimestamp"):
            names = [uid]
        domain = str((document.get("spec") or {}).get("domain") or "default")
        found.setdefault(domain, []).extend(names)
    return {domain: tuple(sorted(names)) for domain, names in found.items()}


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


def _is_accepted(status: VirtualIPStatus, *, is_planned: bool) -> bool:
    """Whether the controller let the object in, and has not said otherwise since."""
    condition = conditions.find(status.conditions, "Accepted")
    if condition is None or condition.status == "Unknown":
        return is_planned
    return condition.status == "True"


def _in_force(
    virtual_ip: VirtualIP, before: _GoodVirtualIP | None, problems: list[str]
) -> _GoodVirtualIP | None:
    """Return the spec to go by; None if there is nothing yet that anybody accepted."""
    metadata, accepted = virtual_ip.metadata, virtual_ip.status.addresses
    generation = _accepted_generation(virtual_ip.status)
    if generation >= metadata.generation:
        return _GoodVirtualIP(virtual_ip.spec, metadata.generation, is_accepted=True)
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


def _accepted_generation(status: VirtualIPStatus) -> int:
    """Return the newest generation that the controller accepted, 0 if it does not say so of any."""
    condition = conditions.find(status.conditions, "Accepted")
    if condition is None or condition.status != "True":
        return 0
    return condition.observed_generation or 0


def _members(nodes: Iterable[DomainNode]) -> tuple[Member, ...]:
    return tuple(
        Member(node=node.node_name, address=node.address)
        for node in sorted(nodes, key=lambda node: node.node_name)
    )


def _metadata(document: Document) -> ObjectMeta:
    return msgspec.convert(document["metadata"], type=ObjectMeta)


def _status(kind: type[Any], document: Document) -> Any:
    try:
        return msgspec.convert(document.get("status") or {}, type=kind)
    except msgspec.ValidationError:
        return kind()


def _name(document: Document) -> str:
    name: str = document["metadata"]["name"]
    return name
