"""The plan: this node's part of the world, as the courier hands it to the keeper.

The courier writes it whole, as one JSON line, whenever anything in it changes; the keeper stores the
last one on disk and works from it alone. Everything in it is a fact or a standing order that came
from the API server; nothing in it is an event. `format` grows when an older keeper could not read it.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Literal

import msgspec

from vipapi import documents, routing
from vipapi.configuration import Configuration, Member
from vipapi.healthchecks import HealthCheck, Pods
from vipapi.routing import Route, Rule
from vipapi.workloads import Hooks, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 3
MOST_ADDRESSES = 4096
MOST_TERM = 1 << 62
"""As high as keepers can count (`vipagent.messages`)."""
MOST_CEILING = MOST_TERM - (1 << 31)
"""The highest ceiling of terms that is written, and so the highest that is read back."""
MOST_FLOOR = MOST_TERM - (1 << 32)
"""The highest term that is believed to have been where nobody here saw it granted.

Every later term is above it. One that left no room would stop every take-over of its domain for good.
"""
MOST_MS = 1 << 31
MOST_VIRTUAL_IPS = 2500
"""As many of one domain fit into a heartbeat, one node holding them all, whatever the nodes are called.

The controller accepts fewer, `bounds.VIRTUAL_IPS`.
"""


class Timing(msgspec.Struct, frozen=True, rename="camel"):
    """A domain's lease timing, in milliseconds (the lease protocol's heartbeat, T, Tw and silence)."""

    heartbeat_ms: int
    lease_ms: int
    grant_ms: int
    silence_ms: int


class Key(msgspec.Struct, frozen=True, rename="camel"):
    """A heartbeat key; the first of a domain's keys signs, all of them verify."""

    key_id: int
    secret: bytes


class CandidatePlan(msgspec.Struct, frozen=True, rename="camel"):
    """A node that may hold the address, with the priority that its health adds to or takes from."""

    node: str
    priority: int


class ServicePlan(msgspec.Struct, frozen=True, rename="camel"):
    """One service that runs on the node where its VirtualIP is.

    `uid`, `namespace`, `failover` and `generation` are the ServiceFailover's. `is_singleton`: never two
    copies, so a start waits until every other node is known to run none. `is_first`: it starts before the
    addresses are bound and stops after they are gone; otherwise the other way round. `fences`: a node that
    cannot stop it in time restarts itself.
    """

    uid: str
    namespace: str
    failover: str
    name: str
    workload: Workload
    is_singleton: bool = True
    is_first: bool = True
    start_timeout_ms: int = 60_000
    stop_timeout_ms: int = 30_000
    generation: int = 0
    fences: bool = False
    hooks: Hooks = Hooks()

    @property
    def id(self) -> str:
        """What tells it from every other service of the cluster."""
        return f"{self.uid}/{self.name}"

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.namespace}/{self.failover}/{self.name}"


class VirtualIPPlan(msgspec.Struct, frozen=True, rename="camel"):
    """One VirtualIP that is to be held: not deleted, not in conflict, inside its domain's bounds.

    `owner` and `succession` are the operator's standing order (the owner first choice, the succession
    those who follow it); they are obeyed only while the lease is at `based_on_term`. `observed_term`
    is the newest term that the API knows of, a floor for the witnesses' memory. `is_held_alone`
    (`onQuorumLoss: Hold`) lets a candidate that hears no other witness go on with its own vote.
    `services` are in the order in which they start; `service_checks` are run on the owner only, while its
    services are active. `routes` and `rules` come and go with the addresses.
    """

    uid: str
    name: str
    addresses: tuple[str, ...]
    candidates: tuple[CandidatePlan, ...]
    owner: str | None = None
    succession: tuple[str, ...] = ()
    based_on_term: int = 0
    observed_term: int = 0
    interface: str | None = None
    health_checks: tuple[HealthCheck, ...] = ()
    announcement_count: int = 5
    announcement_refresh_s: int = 60
    is_held_alone: bool = False
    services: tuple[ServicePlan, ...] = ()
    service_checks: tuple[HealthCheck, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()


class DomainPlan(msgspec.Struct, frozen=True, rename="camel"):
    """One failover domain as this node takes part in it.

    With no witnesses yet the configuration's epoch is 0 and nothing can be held. `uid` is the
    FailoverDomain's, so that a domain made anew is another domain. `deleted` is what this node, as a
    witness, grants to nobody any more: VirtualIPs that are being deleted, by UID, and addresses that the
    specs of others no longer name, as `UID/address/generation`. `out_of_service` are nodes that somebody says
    are off, by Kubernetes' own taint: nothing runs there any more.
    """

    name: str
    uid: str
    port: int
    timing: Timing
    configuration: Configuration
    members: tuple[Member, ...]
    keys: tuple[Key, ...]
    virtual_ips: tuple[VirtualIPPlan, ...] = msgspec.field(name="virtualIPs", default=())
    deleted: tuple[str, ...] = ()
    heartbeat_interface: str | None = None
    gateway_probe: Literal["Auto", "Off"] = "Auto"
    out_of_service: tuple[str, ...] = ()


class PodsFact(msgspec.Struct, frozen=True, rename="camel"):
    """What the courier found of the Pods that a health check asks for; `message` says why it is not well."""

    pods: Pods
    is_ok: bool
    message: str = ""


class Plan(msgspec.Struct, frozen=True, rename="camel", tag="plan"):
    """Everything a keeper works from. `node_addresses` are the Node's InternalIPs, preferred first.

    `facts` are the last that the courier found; while the API server is away they stay as they were.
    """

    node: str
    domains: tuple[DomainPlan, ...] = ()
    node_addresses: tuple[str, ...] = ()
    facts: tuple[PodsFact, ...] = ()
    format: int = FORMAT


_decoder = msgspec.json.Decoder(Plan)


def encode(plan: Plan) -> bytes:
    """Return the plan as one line of JSON without a newline."""
    return msgspec.json.encode(plan)


def decode(line: bytes) -> Plan:
    """Read a plan.

    Raises `ValueError` (msgspec's errors are ValueErrors) with the place and the reason for anything
    that is not a whole, valid plan of a known format.
    """
    plan = documents.read(_decoder, line)
    check(plan)
    return plan


def check(plan: Plan) -> None:
    """Raise `ValueError` for what the types cannot say; what passes can be acted on whole."""
    for _ in checks(plan):
        pass


def checks(plan: Plan) -> Iterator[None]:
    """Check a plan as `check` does, in steps, for those who must not be busy for long."""
    if plan.format > FORMAT:
        raise ValueError(
            f"plan format {plan.format} is newer than this keeper's {FORMAT}: upgrade the keeper"
        )
    for text in plan.node_addresses:
        ipaddress.ip_address(text)
    addresses = 0
    services: set[str] = set()
    for domain in plan.domains:
        _check_domain(domain)
        for vip in domain.virtual_ips:
            yield
            check_virtual_ip(vip, services)
            addresses += len(vip.addresses)
    if addresses > MOST_ADDRESSES:
        raise ValueError(f"{addresses} addresses are more than the {MOST_ADDRESSES} that one node can guard")


def _check_domain(domain: DomainPlan) -> None:
    for member in (*domain.configuration.members, *domain.members):
        ipaddress.ip_address(member.address)
    if not 0 < domain.port < 1 << 16:
        raise ValueError(f"domain {domain.name}: there is no port {domain.port}")
    if any(not 0 < key.key_id < 1 << 8 for key in domain.keys):
        raise ValueError(f"domain {domain.name}: a key's id must be from 1 to 255")
    if not all(0 < milliseconds <= MOST_MS for milliseconds in msgspec.structs.astuple(domain.timing)):
        raise ValueError(f"domain {domain.name}: there is no such timing as {domain.timing}")
    if len(domain.virtual_ips) > MOST_VIRTUAL_IPS:
        raise ValueError(
            f"domain {domain.name}: {len(domain.virtual_ips)} VirtualIPs are more than the "
            f"{MOST_VIRTUAL_IPS} that fit into its heartbeats: spread them over domains"
        )


def check_virtual_ip(vip: VirtualIPPlan, services: set[str]) -> None:
    """Raise `ValueError` if one cannot be acted on; `services` are the ids of those before, and grow."""
    _check_addresses(vip)
    _check_services(vip.services, services)
    _check_times(vip)
    for each in (*vip.health_checks, *vip.service_checks):
        _check_probe(vip, each)


def _check_addresses(vip: VirtualIPPlan) -> None:
    if not vip.addresses:
        raise ValueError(f"VirtualIP {vip.name} has no address")
    for text in vip.addresses:
        ipaddress.ip_interface(text)
    routing.check(vip.routes, vip.rules)


def _check_times(vip: VirtualIPPlan) -> None:
    if vip.announcement_count < 1 or vip.announcement_refresh_s < 1:
        raise ValueError(f"VirtualIP {vip.name} is to be announced without a pause, or never")
    if not 0 <= vip.observed_term <= MOST_FLOOR:
        raise ValueError(
            f"VirtualIP {vip.name} was observed at a term that there is not: {vip.observed_term}"
        )


def _check_probe(vip: VirtualIPPlan, check: HealthCheck) -> None:
    if len(check.probes) != 1:
        raise ValueError(
            f"VirtualIP {vip.name}: the health check {check.name} has no probe that this keeper knows, or "
            "several: upgrade the keeper"
        )
    if not 0 < check.period_ms <= MOST_MS or not 0 < check.timeout_ms <= MOST_MS:
        raise ValueError(f"VirtualIP {vip.name}: the health check {check.name} has no usable times")


def _check_services(services: tuple[ServicePlan, ...], seen: set[str]) -> None:
    for service in services:
        if service.id in seen:
            raise ValueError(f"the service {service.title} is in the plan twice")
        seen.add(service.id)
        if not service.workload.is_on_node:
            raise ValueError(f"the service {service.title} is the cluster's, and no keeper runs it")
        if service.start_timeout_ms <= 0 or service.stop_timeout_ms <= 0:
            raise ValueError(f"the service {service.title} has no time to start or to stop")
