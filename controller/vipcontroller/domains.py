"""What is said and decided about a FailoverDomain: its members, its witnesses, whether it is quorate.

Members follow the nodes; witnesses are chosen once, as soon as exactly as many nodes as asked for have
keepers that told their heartbeat address. Writing them is a compare-and-swap like every other write.
A domain whose keepers run a witness configuration that its own status does not know (a restored etcd,
a status wiped by hand) gets no new one: two sets of witnesses for one domain is what must never be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi import conditions, effective
from vipapi.candidates import members
from vipapi.conditions import Condition, Reason
from vipapi.resources import DomainNode, FailoverDomainStatus
from vipcontroller.observation import majority
from vipcontroller.witnesses import FIRST_EPOCH, ZONE_LABEL, Voter, choose, config_hash
from vipcontroller.writes import StatusWrite, Telling

if TYPE_CHECKING:
    import datetime as dt

    from vipapi.conditions import Status
    from vipapi.resources import FailoverDomain, FailoverDomainEffective
    from vipcontroller.observation import View
    from vipcontroller.world import World


class _Configuration(NamedTuple):
    epoch: int = 0
    config_hash: str = ""
    witnesses: tuple[DomainNode, ...] = ()
    objection: str = ""


class _Quorum(NamedTuple):
    status: Status
    reason: str
    message: str


def decide(domain: FailoverDomain, world: World, view: View, now: dt.datetime) -> StatusWrite | None:
    """Return the domain's new status if it differs."""
    before = domain.status
    configuration = _configure(domain, world)
    values, wrong = _effective(domain)
    quorum = _quorum(domain, world, view, configuration)
    is_ready = quorum.status == "True" and not wrong
    missing = domain.spec.key.secret_name in world.missing_secrets
    if wrong:
        ready = _Quorum("False", Reason.INVALID_SPEC, wrong)
    elif missing:
        message = (
            f"the Secret {domain.spec.key.secret_name!r} with the heartbeat key is missing and is being made"
        )
        ready = _Quorum("False", Reason.SECRET_NOT_FOUND, message)
    else:
        ready = quorum
    generation = domain.metadata.generation

    def condition(kind: str, status: Status, reason: str, message: str) -> Condition:
        return Condition(kind, status, reason, message, now, generation)

    listed = [condition("Ready", *ready), condition("Quorate", *quorum)]
    if wrong or configuration.objection:
        listed.append(condition("Stalled", "True", ready.reason, ready.message))
    elif not is_ready or missing:
        listed.append(condition("Reconciling", "True", ready.reason, ready.message))
    after = FailoverDomainStatus(
        observed_generation=generation,
        epoch=configuration.epoch,
        config_hash=configuration.config_hash,
        witnesses=configuration.witnesses,
        members=_members(domain, world),
        effective=values,
        conditions=conditions.merge(before.conditions, listed),
    )
    if after == before:
        return None
    tellings = _tellings(before, after)
    return StatusWrite(kind="FailoverDomain", metadata=domain.metadata, status=after, tellings=tellings)


def _members(domain: FailoverDomain, world: World) -> tuple[DomainNode, ...]:
    found = []
    for node in members(domain.spec, world.nodes.values()):
        report = world.domain_report(node.metadata.name, domain)
        if report is not None and report.heartbeat_address and not node.metadata.is_deleting:
            found.append(DomainNode(node.metadata.name, report.heartbeat_address))
    return tuple(found)


def _configure(domain: FailoverDomain, world: World) -> _Configuration:
    """Keep the witnesses that there are, or choose them."""
    status, uid = domain.status, domain.metadata.uid
    if status.epoch:
        return _Configuration(status.epoch, status.config_hash, status.witnesses)
    selector = domain.spec.witnesses.node_selector
    labels = {name: node.metadata.labels for name, node in world.nodes.items()}
    voters = [
        Voter(member, labels[member.node_name].get(ZONE_LABEL, ""))
        for member in _members(domain, world)
        if selector.matches(labels[member.node_name])
    ]
    chosen = choose(uid, voters, domain.spec.witnesses.count)
    running = _running(domain, world)
    if chosen is None:
        return _Configuration(objection=_unknown(domain) if running else "")
    fingerprint = config_hash(uid, FIRST_EPOCH, chosen)
    if running - {(FIRST_EPOCH, fingerprint)}:
        return _Configuration(objection=_unknown(domain))
    return _Configuration(FIRST_EPOCH, fingerprint, chosen)


def _running(domain: FailoverDomain, world: World) -> set[tuple[int, str]]:
    """Return the witness configurations that keepers of this very domain say they run."""
    reports = (world.domain_report(name, domain) for name in world.vip_nodes)
    return {(report.epoch, report.config_hash) for report in reports if report is not None and report.epoch}


def _unknown(domain: FailoverDomain) -> str:
    return (
        "the keepers run a witness configuration that this object does not know (was etcd restored?): "
        f"stop the node-agents of domain {domain.metadata.name!r} for ten seconds, remove their "
        "/var/lib/vipkeeper and delete their VIPNodes"
    )


def _effective(domain: FailoverDomain) -> tuple[FailoverDomainEffective | None, str]:
    try:
        return effective.of_domain(domain.spec), ""
    except ValueError as error:
        return None, f"spec.timing: {error}"


def _quorum(domain: FailoverDomain, world: World, view: View, configuration: _Configuration) -> _Quorum:
    if configuration.objection:
        return _Quorum("False", Reason.QUORUM_LOST, configuration.objection)
    if not configuration.epoch:
        count, there = domain.spec.witnesses.count, len(_members(domain, world))
        message = (
            f"{count} witnesses are needed and {there} nodes of the domain have a keeper that reported: "
            "run the node-agent on more nodes, check `nodeSelector` and `witnesses.nodeSelector`, or ask for "
            "fewer witnesses"
        )
        return _Quorum("False", Reason.TOO_FEW_WITNESSES, message)
    if not domain.status.epoch:
        return _Quorum("Unknown", Reason.PROGRESSING, "the witnesses were chosen and are being told")
    names = [witness.node_name for witness in configuration.witnesses]
    silent = sorted(set(names) - view.alive)
    if view.is_quorate:
        message = f"{len(names) - len(silent)} of {len(names)} witnesses are there"
        return _Quorum(
            "True", Reason.QUORATE, message + (f"; not heard: {', '.join(silent)}" if silent else "")
        )
    message = (
        f"not heard: {', '.join(silent)}; {majority(len(names))} of {len(names)} witnesses are needed: "
        "bring their nodes and node-agents back, and check that UDP passes between the nodes"
    )
    return _Quorum("False", Reason.QUORUM_LOST, message)


def _tellings(before: FailoverDomainStatus, after: FailoverDomainStatus) -> tuple[Telling, ...]:
    tellings = []
    if after.epoch and not before.epoch:
        names = ", ".join(witness.node_name for witness in after.witnesses)
        note = f"Chose the witnesses {names}"
        tellings.append(Telling(type="Normal", action="ChooseWitnesses", reason="WitnessesChosen", note=note))
    was, quorum = conditions.find(before.conditions, "Quorate"), conditions.find(after.conditions, "Quorate")
    assert quorum is not None
    if quorum.reason == Reason.QUORUM_LOST and (was is None or was.reason != quorum.reason):
        note = f"Lost the quorum: {quorum.message}"
        tellings.append(Telling(type="Warning", action="Observe", reason=quorum.reason, note=note))
    return tuple(tellings)
