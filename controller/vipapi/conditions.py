"""What a condition is, and how a list of them changes from one look to the next.

Conditions are `metav1.Condition`: a list keyed by `type`. `lastTransitionTime` is when the *status*
last changed, so a look that finds the same status keeps it, and an unchanged world writes nothing.
`Reconciling` and `Stalled` are abnormal-true (kstatus): they are in the list only while they are
True, so setting them to anything else takes them out.

`Reason` lists every reason that vipkeeper writes, each with what it means. Reasons are part of the
API: people match on them, so they are added but never renamed.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from vipapi.bounds import CONDITION_TEXT, clip

if TYPE_CHECKING:
    from collections.abc import Iterable

Status = Literal["True", "False", "Unknown"]

ABNORMAL = frozenset({"Reconciling", "Stalled"})
"""Condition types that are present only while they are True."""

TYPES = ABNORMAL | {
    "Accepted", "Bound", "Complete", "Conflict", "Degraded", "Failed", "Owned", "Quorate", "Ready",
    "Redundant", "Steady",
}  # fmt: skip
"""Every type of condition that vipkeeper writes; others in the same list are somebody else's."""


class Condition(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One condition as the API server stores it; `last_transition_time` is in UTC, whole seconds."""

    type: str
    status: Status
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int | None = None


class Reason(enum.StrEnum):
    """Every reason of a condition or a candidate, with what it means."""

    # Conditions of any kind
    PENDING = "Pending"
    """Nobody has looked at the object yet."""
    PROGRESSING = "Progressing"
    """Work on the newest generation is under way."""
    INVALID_SPEC = "InvalidSpec"
    """The spec says something that this version cannot read; the message names the place."""
    UNINSTALLED = "Uninstalled"
    """vipkeeper was uninstalled: nobody looks after the object until it is installed again."""

    # Accepted and Conflict of a VirtualIP
    ACCEPTED = "Accepted"
    """Nothing is in the object's way, in its spec or with others: a VirtualIP has its addresses."""
    ADDRESS_CONFLICT = "AddressConflict"
    """Another VirtualIP has one of the addresses already; this one enters no plan."""
    ADDRESS_NOT_ALLOWED = "AddressNotAllowed"
    """An address lies outside the domain's `allowedAddresses`."""
    DOMAIN_NOT_FOUND = "DomainNotFound"
    """There is no FailoverDomain of the name in `spec.domain`."""
    DOMAIN_DELETING = "DomainDeleting"
    """The FailoverDomain of the name in `spec.domain` is being deleted and takes no new VirtualIP."""
    DOMAIN_FULL = "DomainFull"
    """The FailoverDomain of the name in `spec.domain` has as many VirtualIPs as a node can report on."""
    DOMAIN_UNREADABLE = "DomainUnreadable"
    """The FailoverDomain of the name in `spec.domain` says something that this version cannot read."""
    HOLD_NEEDS_TWO_CANDIDATES = "HoldNeedsTwoCandidates"
    """`onQuorumLoss: Hold` is for exactly two candidates; with more of them it is not in force."""
    DELETING = "Deleting"
    """The object is being deleted and its address is being released."""
    NO_CONFLICT = "NoConflict"
    """Nobody else uses or claims the addresses."""
    FOREIGN_HOST = "ForeignHost"
    """A machine outside vipkeeper has one of the addresses."""
    FOREIGN_VRRP = "ForeignVRRP"
    """A VRRP router (keepalived, a hardware router) announces one of the addresses."""

    # Ready, Owned, Bound, Redundant, Reconciling and Stalled of a VirtualIP
    HELD = "Held"
    """One healthy node holds and announces the addresses."""
    OWNED = "Owned"
    """A majority of the witnesses granted the addresses to one node."""
    NO_OWNER = "NoOwner"
    """The witnesses have granted the addresses to nobody yet."""
    NO_CANDIDATE = "NoCandidate"
    """No node of the domain is a candidate: `candidates` names or selects none."""
    NO_ELIGIBLE_NODE = "NoEligibleNode"
    """There are candidates, but none can hold the addresses now; `status.candidates` says why."""
    NO_SUBNET = "NoSubnet"
    """No candidate has an interface with the addresses' subnet."""
    DOMAIN_NOT_QUORATE = "DomainNotQuorate"
    """The domain has no majority of witnesses, so nobody may hold the addresses."""
    BOUND = "Bound"
    """The owner's kernel shows every address."""
    NOT_BOUND = "NotBound"
    """The owner's kernel does not show every address."""
    STANDBY_AVAILABLE = "StandbyAvailable"
    """At least one other node could take over at once."""
    NO_STANDBY = "NoStandby"
    """No other node could take over: the next failure is an outage."""
    ELECTING = "Electing"
    """The elected node has not taken the addresses yet."""
    MOVING = "Moving"
    """The addresses are on their way from one node to another."""
    RELEASING = "Releasing"
    """The object is being deleted; its owner has not released the addresses yet."""
    OWNER_UNREACHABLE = "OwnerUnreachable"
    """The object is being deleted, but its last owner cannot say that it released the addresses."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is true: no voluntary moves."""

    # The candidates of a VirtualIP
    ELIGIBLE = "Eligible"
    """The node could hold the addresses now."""
    NODE_NOT_FOUND = "NodeNotFound"
    """A candidate or a service names a node that the cluster does not have."""
    NOT_IN_DOMAIN = "NotInDomain"
    """The domain's `nodeSelector` does not select the node."""
    NODE_DELETING = "NodeDeleting"
    """The node is being removed from the cluster."""
    CORDONED = "Cordoned"
    """The node is cordoned or drained."""
    WITNESS_ONLY = "WitnessOnly"
    """The node's keeper votes, but never holds an address."""
    AGENT_MISSING = "AgentMissing"
    """No node-agent of vipkeeper has reported from the node."""
    AGENT_UNREACHABLE = "AgentUnreachable"
    """A majority of the witnesses does not hear the node's keeper."""
    NOT_REPORTED = "NotReported"
    """The node's keeper has not reported on this VirtualIP yet."""
    CHECK_FAILED = "CheckFailed"
    """A required health check fails on the node."""
    CHECK_PENDING = "CheckPending"
    """A required health check has no result on the node yet."""
    NOT_ARMED = "NotArmed"
    """The node could not announce the addresses at once yet."""
    NO_INTERFACE = "NoInterface"
    """No interface of the node has the addresses' subnet, or the named one is not there."""
    INTERFACE_DOWN = "InterfaceDown"
    """The interface that would carry the addresses is down or has no carrier."""
    SERVICE_FAILED = "ServiceFailed"
    """A service died on the node or did not start there; the node is kept off for a while."""
    OUT_OF_SERVICE = "OutOfService"
    """Somebody says that the node is off: it has the taint `node.kubernetes.io/out-of-service`."""
    PEERS_DISAGREE = "PeersDisagree"
    """The standbys do not reach what a check with `observedFrom: Peers` asks for on the node."""

    # Accepted, Ready, Degraded, Reconciling and Stalled of a ServiceFailover
    NAMESPACE_NOT_ALLOWED = "NamespaceNotAllowed"
    """A VirtualIP's `allowedNamespaces` do not name the object's namespace."""
    CANDIDATES_CONFLICT = "CandidatesConflict"
    """A VirtualIP that a service follows names candidates itself."""
    HOLD_CONFLICT = "HoldConflict"
    """A VirtualIP with `onQuorumLoss: Hold` may have two owners, and a service may have only one copy."""
    NODES_DIFFER = "NodesDiffer"
    """Another object's service follows the same VirtualIP with other nodes."""
    WORKLOAD_TAKEN = "WorkloadTaken"
    """Another service has the same workload on a node that both name."""
    SERVICES_ACTIVE = "ServicesActive"
    """Every service is active on the node that owns its VirtualIP."""
    SERVICES_NOT_ACTIVE = "ServicesNotActive"
    """A service is not active on its owner yet; `status.services` says why."""
    STOP_FAILED = "StopFailed"
    """A service could not be stopped on a node and may still run there."""
    SERVICE_NOT_FOUND = "ServiceNotFound"
    """There is no Service of the name in `kubernetesService`."""
    SERVICE_HAS_SELECTOR = "ServiceHasSelector"
    """The Service selects its endpoints itself, so it cannot be made to follow an address."""
    SERVICE_UNFIT = "ServiceUnfit"
    """The Service has no endpoints, not the one port that `port` is for, or one that only Pods can number."""
    FOREIGN_ENDPOINTS = "ForeignEndpoints"
    """The Service has endpoints that somebody else made, so its clients are sent there too."""
    DEPLOYMENT_NOT_FOUND = "DeploymentNotFound"
    """There is no Deployment of the name in `deployment`."""
    STRATEGY_NOT_RECREATE = "StrategyNotRecreate"
    """The Deployment would have two Pods for a moment whenever it gets another owner."""
    FIELD_OWNED = "FieldOwned"
    """Somebody else sets a field that vipkeeper needs; the message names both."""

    # Ready and Quorate of a FailoverDomain
    QUORATE = "Quorate"
    """A majority of the witnesses is there: addresses can be held and can fail over."""
    TOO_FEW_WITNESSES = "TooFewWitnesses"
    """Fewer nodes than `witnesses.count` could be witnesses; none were chosen yet."""
    QUORUM_LOST = "QuorumLost"
    """Half of the chosen witnesses or more are away: addresses are being released."""
    WITNESSES_CHANGING = "WitnessesChanging"
    """Other witnesses take office, step by step; addresses are held and fail over meanwhile."""
    EPOCH_CONFLICT = "EpochConflict"
    """Keepers run a witness configuration that is no part of this domain's history."""
    WITNESS_ADDRESS_CHANGED = "WitnessAddressChanged"
    """A witness's node reports another heartbeat address, and no other node can take its place."""
    IN_USE = "InUse"
    """The object is being deleted, and VirtualIPs still name it."""
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 -- a reason, not a password
    """The Secret with the heartbeat key is not there and could not be made."""

    # Complete and Failed of a Switchover
    WAITING = "Waiting"
    """The move was ordered and is being carried out."""
    MOVED = "Moved"
    """The addresses are on the node that was asked for."""
    ALREADY_THERE = "AlreadyThere"
    """The addresses were on that node when the move was asked for."""
    DRILLED = "Drilled"
    """The addresses were on that node for a while, worked there, and are back where they were."""
    NOT_FAILED = "NotFailed"
    """The move has not failed."""
    VIRTUAL_IP_NOT_FOUND = "VirtualIPNotFound"
    """There is no VirtualIP of the name in a `virtualIPRef`."""
    TARGET_NOT_ELIGIBLE = "TargetNotEligible"
    """The node cannot hold the addresses; the message says why."""
    SUPERSEDED = "Superseded"
    """The addresses went elsewhere, or a newer Switchover took over."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The move did not happen within its time."""

    # Ready of a VIPNode
    AGENT_READY = "AgentReady"
    """The node's keeper runs and reports no problem."""
    AGENT_PROBLEM = "AgentProblem"
    """The node's keeper runs, but something keeps it from its work: see `status.problems`."""
    KEEPER_DISCONNECTED = "KeeperDisconnected"
    """The courier runs, but its keeper does not answer on the socket."""


def find(conditions: Iterable[Condition], kind: str) -> Condition | None:
    """Return the condition of that type, or None."""
    return next((condition for condition in conditions if condition.type == kind), None)


def is_true(conditions: Iterable[Condition], kind: str) -> bool:
    """Whether the condition of that type is there and True."""
    found = find(conditions, kind)
    return found is not None and found.status == "True"


def set_condition(
    conditions: Iterable[Condition],
    kind: str,
    status: Status,
    *,
    reason: str,
    message: str,
    now: datetime,
    generation: int | None = None,
) -> tuple[Condition, ...]:
    """Return the list with this condition in it, in its old place if it was there.

    The time of the last transition stays unless the status is another one. A condition of an
    abnormal-true type whose status is not True is taken out. `now` must know its time zone.
    """
    old = tuple(conditions)
    if kind in ABNORMAL and status != "True":
        return tuple(condition for condition in old if condition.type != kind)
    before = find(old, kind)
    new = Condition(
        type=kind,
        status=status,
        reason=str(reason),
        message=clip(message, CONDITION_TEXT),
        last_transition_time=(
            before.last_transition_time
            if before is not None and before.status == status
            else _whole_seconds(now)
        ),
        observed_generation=generation,
    )
    if before is None:
        return (*old, new)
    return tuple(new if condition.type == kind else condition for condition in old)


def merge(old: Iterable[Condition], new: Iterable[Condition]) -> tuple[Condition, ...]:
    """Return exactly the new conditions, each with the old transition time where its status stayed.

    For a writer that computes all of its conditions afresh at every look: whatever is not in `new`
    is gone, and an abnormal-true condition that is not True is left out.
    """
    before = {condition.type: condition for condition in old}
    merged = []
    for condition in new:
        if condition.type in ABNORMAL and condition.status != "True":
            continue
        was = before.get(condition.type)
        since = (
            was.last_transition_time
            if was is not None and was.status == condition.status
            else _whole_seconds(condition.last_transition_time)
        )
        message = clip(condition.message, CONDITION_TEXT)
        merged.append(msgspec.structs.replace(condition, message=message, last_transition_time=since))
    return tuple(merged)


def _whole_seconds(moment: datetime) -> datetime:
    """metav1.Time is stored in whole seconds; a finer time would differ from what is read back."""
    assert moment.tzinfo is not None
    return moment.astimezone(UTC).replace(microsecond=0)
