"""The plan: this node's part of the world, as the courier hands it to the keeper.

The courier writes it whole, as one JSON line, whenever anything in it changes; the keeper stores the
last one on disk and works from it alone. Everything in it is a fact or a standing order that came
from the API server; nothing in it is an event. `format` grows when an older keeper could not read it.
"""

from __future__ import annotations

import ipaddress

import msgspec

from vipapi.healthchecks import HealthCheck

FORMAT = 1
MOST_ADDRESSES = 4096


class Member(msgspec.Struct, frozen=True, rename="camel"):
    """A node of a domain and the IP address that its keeper's heartbeats come from and go to."""

    node: str
    address: str


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


class VirtualIPPlan(msgspec.Struct, frozen=True, rename="camel"):
    """One VirtualIP that is to be held: not deleted, not in conflict, inside its domain's bounds.

    `owner` and `succession` are the operator's standing order (the owner first choice, the succession
    those who follow it); they are obeyed only while the lease is at `based_on_term`. `observed_term`
    is the newest term that the API knows of, a floor for the witnesses' memory.
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


class DomainPlan(msgspec.Struct, frozen=True, rename="camel"):
    """One failover domain as this node takes part in it.

    `epoch` and `config_hash` name the witness configuration; with no witnesses yet the epoch is 0 and
    nothing can be held. `uid` is the FailoverDomain's, so that a domain made anew is another domain.
    """

    name: str
    uid: str
    epoch: int
    config_hash: str
    port: int
    timing: Timing
    witnesses: tuple[Member, ...]
    members: tuple[Member, ...]
    keys: tuple[Key, ...]
    virtual_ips: tuple[VirtualIPPlan, ...] = msgspec.field(name="virtualIPs", default=())
    heartbeat_interface: str | None = None


class Plan(msgspec.Struct, frozen=True, rename="camel"):
    """Everything a keeper works from. `node_addresses` are the Node's InternalIPs, preferred first."""

    node: str
    domains: tuple[DomainPlan, ...] = ()
    node_addresses: tuple[str, ...] = ()
    format: int = FORMAT


def encode(plan: Plan) -> bytes:
    """Return the plan as one line of JSON without a newline."""
    return msgspec.json.encode(plan)


def decode(line: bytes) -> Plan:
    """Read a plan.

    Raises `ValueError` (msgspec's errors are ValueErrors) with the place and the reason for anything
    that is not a whole, valid plan of a known format.
    """
    plan = msgspec.json.decode(line, type=Plan)
    _check(plan)
    if plan.format > FORMAT:
        raise ValueError(
            f"plan format {plan.format} is newer than this keeper's {FORMAT}: upgrade the keeper"
        )
    return plan


def _check(plan: Plan) -> None:
    """Raise ValueError for what the types cannot say; what passes can be acted on whole."""
    for text in plan.node_addresses:
        ipaddress.ip_address(text)
    addresses = 0
    for domain in plan.domains:
        for member in (*domain.witnesses, *domain.members):
            ipaddress.ip_address(member.address)
        if not 0 < domain.port < 1 << 16:
            raise ValueError(f"domain {domain.name}: there is no port {domain.port}")
        if any(not 0 < key.key_id < 1 << 8 for key in domain.keys):
            raise ValueError(f"domain {domain.name}: a key's id must be from 1 to 255")
        for vip in domain.virtual_ips:
            if not vip.addresses:
                raise ValueError(f"VirtualIP {vip.name} has no address")
            addresses += len(vip.addresses)
            for text in vip.addresses:
                ipaddress.ip_interface(text)
    if addresses > MOST_ADDRESSES:
        raise ValueError(f"{addresses} addresses are more than the {MOST_ADDRESSES} that one node can guard")
