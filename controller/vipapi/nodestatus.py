"""The report: what one node sees, does and grants; it is the status of that node's VIPNode.

The keeper writes it whole to the courier, as one JSON line, on change only; the courier adds
conditions and applies it as `VIPNode.status`. So it holds no heartbeats and no counters: a field
changes only when something that a person or the operator would act on has changed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from vipapi import documents
from vipapi.configuration import Configuration


class InterfaceStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A network interface of the node that could carry an address. Addresses are `address/prefix`."""

    name: str
    link: Literal["Up", "Down"]
    mac_address: str = ""
    addresses: tuple[str, ...] = ()


class CheckStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Where one health check stands on this node; `message` says why it fails."""

    name: str
    result: Literal["Passing", "Failing", "Unknown"]
    message: str = ""


class Takeover(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How this node came to hold an address.

    `started_at` is wall-clock time, RFC 3339 in UTC. `duration_milliseconds` runs from the last sign
    of the old owner (its last renewal that a witness told of, or its release) until the first
    announcement left; and not from before a machine outside vipkeeper gave the address up.
    """

    reason: str
    started_at: str
    duration_milliseconds: int
    from_node: str | None = msgspec.field(name="from", default=None)


class Problem(msgspec.Struct, frozen=True, rename="camel"):
    """Something that is in this keeper's way, and what to do about it."""

    reason: str
    message: str


class HoldingStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One VirtualIP as this node's keeper stands to it.

    `fitness` is whether this node could hold it now; `reason` and `message` say why not. `score` is
    the candidate's priority with its weighted checks, 1 to 254. `bound` is what the kernel shows.
    `service_checks` are those of the services that follow it, which only the owner runs. `conflict` tells of
    a machine outside vipkeeper that has one of the addresses, which only the owner knows.
    """

    uid: str
    name: str
    state: Literal["Standby", "Acquiring", "Owner"]
    fitness: Literal["Fit", "Unfit", "NotCandidate"]
    score: int = 0
    term: int = 0
    reason: str = ""
    message: str = ""
    interface: str = ""
    bound: tuple[str, ...] = ()
    checks: tuple[CheckStatus, ...] = ()
    takeover: Takeover | None = None
    service_checks: tuple[CheckStatus, ...] = ()
    conflict: Problem | None = None


State = Literal["Stopped", "Waiting", "Starting", "Active", "Stopping", "Failed", "StopFailed"]
"""How a service stands on a node.

Waiting: the node has the lease, and something else comes first (the old copy, or a service before it).
Failed: it died or did not start, and is kept off for a while. StopFailed: it may still run.
"""


class HookStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The last hook of a service that ended; `at` is wall-clock time, RFC 3339 in UTC."""

    kind: Literal["promoted", "demoted", "faulted"]
    term: int
    is_ok: bool
    message: str = ""
    at: str = ""


class ServiceStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One service of a ServiceFailover on this node, or what is left of one.

    `uid` is the ServiceFailover's, `name` the service's, `virtual_ip` the name of the VirtualIP that it
    follows. `since` is wall-clock time, RFC 3339 in UTC.
    """

    uid: str
    name: str
    virtual_ip: str = msgspec.field(name="virtualIP")
    state: State
    term: int = 0
    since: str = ""
    message: str = ""
    hook: HookStatus | None = None


class GrantStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What this node, as a witness, has granted: who holds the VirtualIP and under which term."""

    uid: str
    name: str
    holder: str
    term: int


class DomainStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """This node in one domain: its witness role, whom it hears, and what it granted.

    `behind` are peers that are heard and still at an older epoch. `drained_epoch` is the newest epoch
    that is on this node's disk with every grant over that was made before; `term_floor` a number that it
    asks every new term to be above, also after a restart. `tombstones` are those of the
    plan's `deleted` that it grants to nobody. `vote_transitions` is 0 where it does not hold the API server's
    vote. `is_sound` is whether it can reach its gateway.
    """

    name: str
    uid: str
    role: Literal["Witness", "Member"]
    heartbeat_address: str = ""
    configuration: Configuration = Configuration()
    reachable_peers: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    grants: tuple[GrantStatus, ...] = ()
    drained_epoch: int = 0
    term_floor: int = 0
    tombstones: tuple[str, ...] = ()
    vote_transitions: int = 0
    is_sound: bool = True


class Report(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, tag="report"):
    """What one keeper reports. `incarnation` grows with every start of the keeper.

    `candidacy` is `WitnessOnly` for a keeper that never holds an address. `fence` is what keeps addresses
    silent that it does not hold; empty for a keeper that does not tell. `services` are those of the
    VirtualIPs that it owns, and whatever else is not plainly stopped.
    """

    node: str
    version: str
    incarnation: int
    candidacy: Literal["Candidate", "WitnessOnly"] = "Candidate"
    fence: Literal["", "BPF", "Nftables"] = ""
    interfaces: tuple[InterfaceStatus, ...] = ()
    domains: tuple[DomainStatus, ...] = ()
    virtual_ips: tuple[HoldingStatus, ...] = msgspec.field(name="virtualIPs", default=())
    services: tuple[ServiceStatus, ...] = ()
    problems: tuple[Problem, ...] = ()


_decoder = msgspec.json.Decoder(Report)


def encode(report: Report) -> bytes:
    """Return the report as one line of JSON without a newline."""
    return msgspec.json.encode(report)


def decode(line: bytes) -> Report:
    """Read a report; raises `ValueError` with the place and the reason."""
    return documents.read(_decoder, line)
