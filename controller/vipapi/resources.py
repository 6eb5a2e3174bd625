"""What the resources of `vipkeeper.io/v1alpha1` say, as typed, frozen structs.

`parse` turns an object as the API server gives it (a dict of JSON) into the struct of its kind. The
schemas in `crds/` and these structs are held to each other field by field by a test. Reading is
tolerant of fields it does not know, so that a controller older than the CRDs still works, and
strict about the type and the choice of those it does.

A spec has no defaults in the API (they would make GitOps diffs). Here an absent field reads as its
effective value, which is what its description promises: `spec.failback.policy` is always there. The
status structs are also what is written back: their absent fields are left out.

`VIPNode.status` is the keeper's report (`vipapi.nodestatus`) without the node's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

import msgspec

from vipapi import bounds
from vipapi.conditions import TYPES, Condition
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.healthchecks import HealthCheck
from vipapi.nodestatus import (
    DomainStatus,
    HoldingStatus,
    InterfaceStatus,
    Problem,
    Report,
    ServiceStatus,
    State,
)
from vipapi.routing import Route, Rule
from vipapi.selectors import LabelSelector
from vipapi.workloads import Hooks, Workload

GROUP = "vipkeeper.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FINALIZER = f"{GROUP}/release"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""The taint by which a person, or a fencing driver, says that a node is off."""

Spec = TypeVar("Spec")


class ObjectMeta(msgspec.Struct, frozen=True, rename="camel"):
    """The part of an object's metadata that decisions need."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}

    @property
    def is_deleting(self) -> bool:
        """Whether somebody asked for the object's deletion."""
        return self.deletion_timestamp is not None


class Candidate(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Nodes that may hold the addresses, by name or by labels; the first entry that fits a node counts."""

    node_name: str | None = None
    node_selector: LabelSelector | None = None
    priority: int = 100

    def __post_init__(self) -> None:
        if (self.node_name is None) == (self.node_selector is None):
            raise ValueError("must have exactly one of `nodeName` and `nodeSelector`")


class Failback(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What happens when a better node is healthy again."""

    policy: Literal["Manual", "Automatic"] = "Manual"
    delay_seconds: int = 300


class Announcement(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """How the network is told where the addresses are."""

    count: int = 5
    refresh_seconds: int = 60


class Spread(msgspec.Struct, frozen=True, rename="camel"):
    """VirtualIPs of one group keep apart while enough nodes are eligible."""

    group: str


class AllowedNamespaces(msgspec.Struct, frozen=True, rename="camel"):
    """Whose ServiceFailovers may use a VirtualIP."""

    names: tuple[str, ...]


class VirtualIPSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the user wants: see the CRD's descriptions. `vipapi.addresses` reads the addresses."""

    addresses: tuple[str, ...]
    domain: str = "default"
    interface: str | None = None
    candidates: tuple[Candidate, ...] = ()
    failback: Failback = Failback()
    health_checks: tuple[HealthCheck, ...] = ()
    announcement: Announcement = Announcement()
    spread: Spread | None = None
    on_quorum_loss: Literal["Release", "Hold"] = "Release"
    suspend: bool = False
    allowed_namespaces: AllowedNamespaces | None = None
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        _check(self.health_checks)
        for check in self.health_checks:
            if check.pods is not None and check.pods.namespace is None:
                raise ValueError(f"the health check `{check.name}` must name the `namespace` of its `pods`")


def _check(health_checks: tuple[HealthCheck, ...]) -> None:
    for check in health_checks:
        if len(check.probes) != 1:
            raise ValueError(
                f"the health check `{check.name}` must have exactly one probe of a kind known here"
            )
        if check.http_get is not None and check.http_get.body_regex is not None:
            _compile(check, "bodyRegex", check.http_get.body_regex)
        if check.file is not None and check.file.content_regex is not None:
            _compile(check, "contentRegex", check.file.content_regex)


def _compile(check: HealthCheck, field: str, expression: str) -> None:
    # The API server reads it as RE2, the keeper as Python's re: a few spellings are only in the first.
    refused = f"the `{field}` of the health check `{check.name}` cannot be used"
    # Both compile these, and Python to something else: a set of these letters, and a bracket behind it.
    named = next((found["named"] for found in _SET.finditer(expression) if found["named"]), None)
    if named is not None:
        raise ValueError(f"{refused}: `{named}` is not known in a set: write \\s, \\d, \\w or the characters")
    try:
        re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{refused}: {error}") from None


class Observed(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What every status of vipkeeper has: the generation that was looked at last, and vipkeeper's conditions.

    Other field managers may have conditions of their own in the list: they are none of ours.
    """

    observed_generation: int = -1
    conditions: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        if any(each.type not in TYPES for each in self.conditions):
            ours = tuple(each for each in self.conditions if each.type in TYPES)
            msgspec.structs.force_setattr(self, "conditions", ours)


class InForce(msgspec.Struct, Generic[Spec], frozen=True, rename="camel"):
    """The newest spec that was accepted, so that who starts while an edit is held back goes on with it."""

    generation: int
    spec: Spec


class Election(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The standing order: obeyed only while the lease is at `based_on_term`."""

    based_on_term: int
    owner: str | None = None
    succession: tuple[str, ...] = ()


class CandidateStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One candidate in the last decision: whether it could hold the addresses, and why."""

    node_name: str
    eligible: bool
    reason: str
    message: str
    score: int | None = None


class LastFailover(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The last change of owner."""

    to: str
    reason: str
    term: int
    started_at: datetime
    duration_milliseconds: int | None = None
    from_node: str | None = msgspec.field(name="from", default=None)


class VirtualIPEffective(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The values in force where the spec says nothing."""

    domain: str
    failback_policy: str
    failback_delay_seconds: int
    announcement_count: int
    announcement_refresh_seconds: int
    on_quorum_loss: str


class RetiredAddress(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An address without prefix length, and the generation at which it went out of force.

    The number only tells one retirement of an address from another, so that an old tombstone is not taken
    for a new one: where a witness reports a tombstone of that generation already, a higher one stands.
    """

    address: str
    generation: int

    def tombstone(self, uid: str) -> str:
        """Return the name under which witnesses bury it for the VirtualIP of that UID."""
        return f"{uid}/{self.address}/{self.generation}"


class VirtualIPStatus(Observed, frozen=True, rename="camel", omit_defaults=True):
    """What the controller found: `owner` and `term` are observed, `election` is the order.

    `addresses` are in force, as the spec spells them; `retired_addresses` were, and a node that missed the
    change may still use them.
    """

    owner: str | None = None
    term: int | None = None
    addresses: tuple[str, ...] = ()
    retired_addresses: tuple[RetiredAddress, ...] = ()
    election: Election | None = None
    candidates: tuple[CandidateStatus, ...] = ()
    last_failover: LastFailover | None = None
    effective: VirtualIPEffective | None = None
    in_force: InForce[VirtualIPSpec] | None = None


class VirtualIP(msgspec.Struct, frozen=True, rename="camel"):
    """One or more addresses that live together on exactly one healthy node."""

    metadata: ObjectMeta
    spec: VirtualIPSpec
    status: VirtualIPStatus = VirtualIPStatus()


class VirtualIPRef(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A VirtualIP by name."""

    name: str


class Service(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A workload that runs where its VirtualIP is: see the CRD's descriptions."""

    name: str
    virtual_ip_ref: VirtualIPRef = msgspec.field(name="virtualIPRef")
    primary: str
    standbys: tuple[str, ...]
    workload: Workload
    after: tuple[str, ...] = ()
    singleton: bool = True
    order: Literal["ServiceFirst", "AddressFirst"] = "ServiceFirst"
    start_timeout_seconds: int = 60
    stop_timeout_seconds: int = 30
    on_stop_failure: Literal["Block", "Fence"] = "Block"
    hooks: Hooks | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that may run it, the preferred first."""
        return (self.primary, *self.standbys)


class ServiceFailoverSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What the user wants: `mode` says how the services share their nodes."""

    mode: Literal["ActiveStandby", "Mutual", "Cluster"]
    services: tuple[Service, ...]
    failback: Failback = Failback()
    health_checks: tuple[HealthCheck, ...] = ()

    def __post_init__(self) -> None:
        _check(self.health_checks)


class HookState(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The last hook of a service that ended on a node, as `nodestatus.HookStatus` has it."""

    node_name: str
    kind: Literal["promoted", "demoted", "faulted"]
    term: int
    is_ok: bool
    message: str = ""
    at: str = ""


class ServiceState(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One service as its owner reports it; without an owner it runs nowhere."""

    name: str
    state: State
    owner: str | None = None
    term: int | None = None
    since: datetime | None = None
    message: str = ""
    hooks: tuple[HookState, ...] = ()


class ServiceFailoverStatus(Observed, frozen=True, rename="camel", omit_defaults=True):
    """What the controller found."""

    services: tuple[ServiceState, ...] = ()
    in_force: InForce[ServiceFailoverSpec] | None = None


class ServiceFailover(msgspec.Struct, frozen=True, rename="camel"):
    """Services that follow their VirtualIPs from node to node."""

    metadata: ObjectMeta
    spec: ServiceFailoverSpec
    status: ServiceFailoverStatus = ServiceFailoverStatus()


class Heartbeat(msgspec.Struct, frozen=True, rename="camel"):
    """Where the keepers talk: an interface (absent: that of the node's InternalIP) and a UDP port."""

    interface: str | None = None
    port: int = 7946


class DomainTiming(msgspec.Struct, frozen=True, rename="camel"):
    """All four lease times in place of a profile; `vipapi.timing` turns either into what is in force."""

    heartbeat_milliseconds: int
    lease_milliseconds: int
    grant_milliseconds: int
    silence_milliseconds: int


class Witnesses(msgspec.Struct, frozen=True, rename="camel"):
    """How many nodes vote, which may, and when one that is silent is replaced.

    `api_server` lets the API server be the third vote where only two nodes can vote.
    """

    count: int = 3
    node_selector: LabelSelector = LabelSelector()
    api_server: bool = True
    replace_after_seconds: int = 60


class Gateway(msgspec.Struct, frozen=True, rename="camel"):
    """Whether nodes look for their gateway, and what an owner that does not reach it does."""

    probe: Literal["Auto", "Off"] = "Auto"
    on_unreachable: Literal["Release", "Ignore"] = "Release"


class HeartbeatKey(msgspec.Struct, frozen=True, rename="camel"):
    """The Secret, in the operator's namespace, whose keys authenticate the heartbeats."""

    secret_name: str = "vipkeeper-heartbeat"  # noqa: S105 -- the Secret's name


class FailoverDomainSpec(msgspec.Struct, frozen=True, rename="camel"):
    """What the user wants of a domain; empty `allowed_addresses` allow every address."""

    node_selector: LabelSelector = LabelSelector()
    allowed_addresses: tuple[str, ...] = ()
    heartbeat: Heartbeat = Heartbeat()
    profile: Literal["Fast", "Balanced", "Relaxed"] | None = None
    timing: DomainTiming | None = None
    witnesses: Witnesses = Witnesses()
    gateway: Gateway = Gateway()
    key: HeartbeatKey = HeartbeatKey()

    def __post_init__(self) -> None:
        if self.profile is not None and self.timing is not None:
            raise ValueError("must have only one of `profile` and `timing`")


class DomainNode(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A node of a domain and the address that its keeper's heartbeats come from and go to."""

    node_name: str
    address: str


class FailoverDomainEffective(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The values in force where the spec says nothing.

    What a version before this one did not write has a default that is never in force.
    """

    heartbeat_port: int
    heartbeat_milliseconds: int
    lease_milliseconds: int
    grant_milliseconds: int
    silence_milliseconds: int
    witness_count: int
    secret_name: str
    witness_replace_after_seconds: int = 0
    api_server_may_vote: bool = False
    gateway_probe: str = ""
    gateway_on_unreachable: str = ""


class FailoverDomainStatus(Observed, frozen=True, rename="camel", omit_defaults=True):
    """What the controller found; epoch 0 (absent) means that no witnesses are chosen yet.

    The witness configuration lies flat in it: `configuration_of` reads it, `with_configuration` writes it.
    """

    epoch: int = 0
    config_hash: str = ""
    former_config_hash: str = ""
    witnesses: tuple[DomainNode, ...] = ()
    api_server_votes: bool = False
    former_witnesses: tuple[DomainNode, ...] = ()
    former_api_server_votes: bool = False
    sealing: bool = False
    members: tuple[DomainNode, ...] = ()
    effective: FailoverDomainEffective | None = None


class FailoverDomain(msgspec.Struct, frozen=True, rename="camel"):
    """Nodes that share a layer-2 segment."""

    metadata: ObjectMeta
    spec: FailoverDomainSpec = FailoverDomainSpec()
    status: FailoverDomainStatus = FailoverDomainStatus()


def configuration_of(status: FailoverDomainStatus) -> Configuration:
    """Return the witness configuration that a domain's status tells."""
    former = _witness_set(status.former_witnesses, has_api_vote=status.former_api_server_votes)
    return Configuration(
        epoch=status.epoch,
        hash=status.config_hash,
        former_hash=status.former_config_hash,
        witnesses=_witness_set(status.witnesses, has_api_vote=status.api_server_votes),
        former=former if former.names else None,
        is_sealing=status.sealing,
    )


def with_configuration(status: FailoverDomainStatus, configuration: Configuration) -> FailoverDomainStatus:
    """Return the status that tells this witness configuration."""
    former = configuration.former or WitnessSet()
    return msgspec.structs.replace(
        status,
        epoch=configuration.epoch,
        config_hash=configuration.hash,
        former_config_hash=configuration.former_hash,
        witnesses=_domain_nodes(configuration.witnesses),
        api_server_votes=configuration.witnesses.has_api_vote,
        former_witnesses=_domain_nodes(former),
        former_api_server_votes=former.has_api_vote,
        sealing=configuration.is_sealing,
    )


def _witness_set(nodes: tuple[DomainNode, ...], *, has_api_vote: bool) -> WitnessSet:
    return WitnessSet(tuple(Member(node.node_name, node.address) for node in nodes), has_api_vote)


def _domain_nodes(witnesses: WitnessSet) -> tuple[DomainNode, ...]:
    return tuple(DomainNode(member.node, member.address) for member in witnesses.members)


class SwitchoverSpec(msgspec.Struct, frozen=True, rename="camel"):
    """One move, or one drill (there and back): which VirtualIP, to which node."""

    to: str
    virtual_ip_ref: VirtualIPRef = msgspec.field(name="virtualIPRef")
    type: Literal["Move", "Drill"] = "Move"


class SwitchoverStatus(Observed, frozen=True, rename="camel", omit_defaults=True):
    """What came of it; the two of the return are a drill's way back."""

    from_node: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    outage_milliseconds: int | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    return_outage_milliseconds: int | None = None
    returned_at: datetime | None = None


class Switchover(msgspec.Struct, frozen=True, rename="camel"):
    """One planned move: requested, carried out, its result kept."""

    metadata: ObjectMeta
    spec: SwitchoverSpec
    status: SwitchoverStatus = SwitchoverStatus()


class VIPNodeStatus(Observed, frozen=True, rename="camel", omit_defaults=True):
    """The keeper's report without the node's name; a fresh object has an empty one."""

    version: str = ""
    incarnation: int = 0
    candidacy: Literal["Candidate", "WitnessOnly"] | None = None
    fence: Literal["BPF", "Nftables"] | None = None
    interfaces: tuple[InterfaceStatus, ...] = ()
    domains: tuple[DomainStatus, ...] = ()
    virtual_ips: tuple[HoldingStatus, ...] = msgspec.field(name="virtualIPs", default=())
    services: tuple[ServiceStatus, ...] = ()
    problems: tuple[Problem, ...] = ()


class VIPNode(msgspec.Struct, frozen=True, rename="camel"):
    """What one node sees and holds; its name is the node's."""

    metadata: ObjectMeta
    status: VIPNodeStatus = VIPNodeStatus()


def node_status(report: Report, *, generation: int, conditions: tuple[Condition, ...]) -> VIPNodeStatus:
    """Return the VIPNode status that tells this report, cut to what the schema can hold."""
    bounded = bounds.fit(report)
    return VIPNodeStatus(
        observed_generation=generation,
        version=bounded.version,
        incarnation=bounded.incarnation,
        candidacy=bounded.candidacy,
        fence=bounded.fence or None,
        interfaces=bounded.interfaces,
        domains=bounded.domains,
        virtual_ips=bounded.virtual_ips,
        services=bounded.services,
        problems=bounded.problems,
        conditions=conditions,
    )


class NodeAddress(msgspec.Struct, frozen=True, rename="camel"):
    """One address that the kubelet reported."""

    type: str
    address: str


class Taint(msgspec.Struct, frozen=True, rename="camel"):
    """A mark on a node."""

    key: str
    effect: str = ""
    value: str = ""


class NodeSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Whether the node is cordoned, and its marks."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeStatus(msgspec.Struct, frozen=True, rename="camel"):
    """The node's addresses."""

    addresses: tuple[NodeAddress, ...] = ()


class Node(msgspec.Struct, frozen=True, rename="camel"):
    """A core/v1 Node, as far as vipkeeper reads it."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_cordoned(self) -> bool:
        """Whether `kubectl cordon` or `drain` was said."""
        return self.spec.unschedulable

    @property
    def is_out_of_service(self) -> bool:
        """Whether somebody said that the node is off; as in Kubernetes, by the taint's key alone."""
        return any(taint.key == OUT_OF_SERVICE for taint in self.spec.taints)

    @property
    def internal_addresses(self) -> tuple[str, ...]:
        """The node's InternalIPs, in the kubelet's order, preferred first."""
        return tuple(entry.address for entry in self.status.addresses if entry.type == "InternalIP")


Resource = VirtualIP | ServiceFailover | FailoverDomain | Switchover | VIPNode | Node
Kind = TypeVar("Kind", VirtualIP, ServiceFailover, FailoverDomain, Switchover, VIPNode, Node)

_SET = re.compile(r"\\.|\[\^?\]?(?:\\.|(?P<named>\[:\^?[a-z]+:\])|[^\]\\])*\]", re.DOTALL)
_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `\$\.?(?P<place>.*)`)?$", re.DOTALL)


def parse(kind: type[Kind], obj: Mapping[str, Any]) -> Kind:
    """Read an object of the API server into the struct of its kind: `parse(VirtualIP, body)`.

    Raises `ValueError` that names the object, the place in it and the reason.
    """
    try:
        return msgspec.convert(_without_nulls(obj), type=kind)
    except msgspec.ValidationError as error:
        found = _PLACE.match(str(error))
        assert found is not None
        place = found["place"] or "the object"
        raise ValueError(f"{kind.__name__} {_name(obj)}: {place}: {found['reason']}") from error


def to_dict(status: msgspec.Struct) -> dict[str, Any]:
    """Return a status struct as JSON-ready dicts and lists, cut to the schema, for a server-side apply."""
    # Through JSON, for to_builtins leaves tuples as they are, and those never equal the server's lists.
    found: dict[str, Any] = bounds.trim(msgspec.json.decode(msgspec.json.encode(status)))
    return found


def _without_nulls(value: Any) -> Any:
    """Kubernetes reads an explicit null as an absent field, and so do we."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _name(obj: Mapping[str, Any]) -> str:
    metadata = obj.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(name := metadata.get("name"), str):
        return "(without a name)"
    namespace = metadata.get("namespace")
    return f"{namespace}/{name}" if isinstance(namespace, str) else name
