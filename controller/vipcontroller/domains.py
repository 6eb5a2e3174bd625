"""What is said about a FailoverDomain: its members, its witnesses, whether it is quorate.

The witnesses themselves are decided elsewhere (`electorate`); writing them is a compare-and-swap like
every other write, so of two controllers one makes each step. `Quorate` tells of the configuration that
the keepers have had time to hear of, the one in force before this write.

A domain that this version cannot read is left as it is (`leave`): only its conditions change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi import conditions, effective
from vipapi.conditions import Condition, Reason
from vipapi.configuration import API_SERVER
from vipapi.resources import DomainNode, FailoverDomainStatus, configuration_of, with_configuration
from vipcontroller import hold
from vipcontroller.electorate import FIRST_CHOICE_S, Outcome
from vipcontroller.releases import dependents
from vipcontroller.voices import spoken
from vipcontroller.writes import StatusWrite, Telling

if TYPE_CHECKING:
    import datetime as dt

    from vipapi.conditions import Status
    from vipapi.configuration import Configuration, WitnessSet
    from vipapi.resources import FailoverDomain, FailoverDomainEffective
    from vipcontroller.observation import View
    from vipcontroller.world import World


_WORTH_A_WARNING = frozenset({Reason.EPOCH_CONFLICT, Reason.INVALID_SPEC})
"""The reasons to be Stalled that are told by an Event."""

MOST_NAMED = 20
"""How many VirtualIPs a message names."""


class _Quorum(NamedTuple):
    status: Status
    reason: str
    message: str


def decide(
    domain: FailoverDomain, world: World, view: View, outcome: Outcome, now: dt.datetime
) -> StatusWrite | None:
    """Return the domain's new status if it differs."""
    before = domain.status
    values, wrong = _effective(domain)
    quorum = _quorum(domain, world, view, outcome)
    ready, is_missing = quorum, domain.spec.key.secret_name in world.missing_secrets
    if wrong:
        ready = _Quorum("False", Reason.INVALID_SPEC, wrong)
    elif outcome.objection is not None:
        ready = _Quorum("False", *outcome.objection)
    elif is_missing:
        message = (
            f"the Secret {domain.spec.key.secret_name!r} with the heartbeat key is missing and is being made"
        )
        ready = _Quorum("False", Reason.SECRET_NOT_FOUND, message)
    generation = domain.metadata.generation

    def condition(kind: str, status: Status, reason: str, message: str) -> Condition:
        return Condition(kind, status, reason, message, now, generation)

    listed = [condition("Ready", *ready), condition("Quorate", *quorum)]
    change = _change(outcome)
    is_stalled = bool(wrong) or outcome.objection is not None
    if is_stalled:
        listed.append(condition("Stalled", "True", ready.reason, ready.message))
    if domain.metadata.is_deleting:
        listed.append(condition("Reconciling", "True", Reason.IN_USE, _in_use(dependents(domain, world))))
    elif ready.status != "True" and not is_stalled:
        listed.append(condition("Reconciling", "True", ready.reason, ready.message))
    elif change and not is_stalled:
        listed.append(condition("Reconciling", "True", Reason.WITNESSES_CHANGING, change))
    after = with_configuration(
        FailoverDomainStatus(
            observed_generation=generation,
            members=tuple(DomainNode(member.node, member.address) for member in outcome.members),
            effective=values,
            conditions=conditions.merge(before.conditions, listed),
        ),
        outcome.configuration,
    )
    if after == before:
        return None
    tellings = _tellings(domain, after, outcome)
    return StatusWrite(kind="FailoverDomain", metadata=domain.metadata, status=after, tellings=tellings)


def leave(
    domain: FailoverDomain, problem: str, world: World, view: View, now: dt.datetime
) -> StatusWrite | None:
    """Return the status of a domain whose spec cannot be read, if it differs: with conditions that say so."""
    before, generation = domain.status, domain.metadata.generation
    message = (
        f"{problem}; nothing is decided anew in this domain, and what is in force stays: correct it, or run "
        "a version of vipkeeper that can read it"
    )
    ready = _Quorum("False", Reason.INVALID_SPEC, message)
    listed = {
        "Ready": ready,
        "Quorate": _majority(domain, world, view) if view.configuration.epoch else ready,
        "Stalled": ready._replace(status="True"),
    }
    if domain.metadata.is_deleting:
        listed["Reconciling"] = _Quorum("True", Reason.IN_USE, _in_use(dependents(domain, world)))
    found = [Condition(kind, *finding, now, generation) for kind, finding in listed.items()]
    after = msgspec.structs.replace(
        before, observed_generation=generation, conditions=conditions.merge(before.conditions, found)
    )
    if after == before:
        return None
    tellings = _tellings(domain, after, Outcome(configuration_of(before), ()))
    return StatusWrite(kind="FailoverDomain", metadata=domain.metadata, status=after, tellings=tellings)


def _change(outcome: Outcome) -> str:
    """Return how far a change of the witnesses has come; nothing without one."""
    configuration = outcome.configuration
    if configuration.former is None:
        return f"the witnesses are to change; waiting for {outcome.awaits}" if outcome.awaits else ""
    names = _listed(configuration.former), _listed(configuration.witnesses)
    step = "3 of 4 (sealing)" if configuration.is_sealing else "2 of 4 (joining)"
    waiting = f"; waiting for {outcome.awaits}" if outcome.awaits else ""
    return f"the witnesses change from {names[0]} to {names[1]}, step {step}{waiting}"


def _in_use(virtual_ips: tuple[str, ...]) -> str:
    """Return what a domain that is being deleted waits for."""
    named = ", ".join(virtual_ips[:MOST_NAMED])
    more = len(virtual_ips) - MOST_NAMED
    named += f" and {more} more" if more > 0 else ""
    return (
        "the domain is being deleted and works as before until no VirtualIP names it any more; delete these, "
        f"and wait until they are gone: {named}"
    )


def _effective(domain: FailoverDomain) -> tuple[FailoverDomainEffective | None, str]:
    try:
        return effective.of_domain(domain.spec), ""
    except ValueError as error:
        return None, f"spec.timing: {error}"


def _quorum(domain: FailoverDomain, world: World, view: View, outcome: Outcome) -> _Quorum:
    if outcome.objection is not None and outcome.objection.reason == Reason.QUORUM_LOST:
        return _Quorum("False", *outcome.objection)
    if not outcome.configuration.epoch:
        message = (
            f"{domain.spec.witnesses.count} witnesses are wanted and {len(outcome.members)} nodes of the "
            f"domain have a keeper that reported; after {FIRST_CHOICE_S:g} s fewer will do: run the "
            "node-agent on more nodes, and check `nodeSelector` and `witnesses.nodeSelector`"
        )
        return _Quorum("False", Reason.TOO_FEW_WITNESSES, message)
    if not view.configuration.epoch:
        return _Quorum("Unknown", Reason.PROGRESSING, "the witnesses were chosen and are being told")
    found = _majority(domain, world, view)
    return found._replace(message=found.message + _lack(domain, outcome)) if view.is_quorate else found


def _majority(domain: FailoverDomain, world: World, view: View) -> _Quorum:
    """Return whether a majority of the witnesses in force is there."""
    configuration = view.configuration
    names = [member.node for member in configuration.members]
    silent = [name for name in names if name not in view.alive]
    unheard = f"; not heard: {', '.join(silent)}" if silent else ""
    if view.is_quorate:
        message = f"{len(names) - len(silent)} of {len(names)} witnesses are there{unheard}"
        return _Quorum("True", Reason.QUORATE, message)
    needed = " and of ".join(
        ", ".join(sorted(spoken(voter) for voter in quorum)) for quorum in configuration.quorums
    )
    message = (
        f"there is no majority of {needed}{unheard}: bring their nodes and node-agents back, and check that "
        "UDP passes between the nodes"
    )
    return _Quorum("False", Reason.QUORUM_LOST, message + _held(domain, world))


def _lack(domain: FailoverDomain, outcome: Outcome) -> str:
    """Return what more nodes, or the API server's vote, would make better."""
    spec, witnesses = domain.spec.witnesses, outcome.configuration.witnesses
    if witnesses.has_api_vote:
        return "; the API server votes where one is lost"
    if len(witnesses.names) >= spec.count:
        return ""
    lack = f"; {spec.count} are wanted: run the node-agent on more nodes"
    if len(witnesses.names) > 1:
        return lack
    if not spec.api_server:
        lack += ", or let the API server vote with two (`witnesses.apiServer`)"
    return f"{lack}; until then the loss of {_listed(witnesses)} is an outage, that of another node is not"


def _held(domain: FailoverDomain, world: World) -> str:
    """Return what becomes of the addresses that are held without a quorum."""
    held = [
        virtual_ip.metadata.name
        for virtual_ip in world.virtual_ips
        if virtual_ip.spec.domain == domain.metadata.name
        and conditions.is_true(virtual_ip.status.conditions, "Accepted")
        and hold.is_in_force(virtual_ip, world)
    ]
    if not held:
        return ""
    return (
        f"; addresses are released, but by `onQuorumLoss: Hold` those of {', '.join(held)} stay with a "
        "candidate that hears no other witness, and two that are cut off from each other may both have them"
    )


def _listed(witnesses: WitnessSet) -> str:
    return ", ".join(
        spoken(name) for name in sorted(witnesses.names, key=lambda name: (name == API_SERVER, name))
    )


def _tellings(domain: FailoverDomain, after: FailoverDomainStatus, outcome: Outcome) -> tuple[Telling, ...]:
    before = domain.status
    tellings = _told_of_witnesses(configuration_of(before), outcome)
    was, quorum = conditions.find(before.conditions, "Quorate"), conditions.find(after.conditions, "Quorate")
    assert quorum is not None
    if quorum.reason == Reason.QUORUM_LOST and (was is None or was.reason != quorum.reason):
        note = f"Lost the quorum: {quorum.message}"
        tellings.append(Telling(type="Warning", action="Observe", reason=quorum.reason, note=note))
    stalled = conditions.find(after.conditions, "Stalled")
    told = conditions.find(before.conditions, "Stalled")
    if stalled is not None and stalled.reason in _WORTH_A_WARNING and told is None:
        tellings.append(
            Telling(type="Warning", action="Observe", reason=stalled.reason, note=stalled.message)
        )
    return tuple(tellings)


def _told_of_witnesses(before: Configuration, outcome: Outcome) -> list[Telling]:
    """Return the Events that a step of the configuration is worth."""
    after = outcome.configuration
    if (after.epoch, after.hash) == (before.epoch, before.hash):
        return []
    names = _listed(after.witnesses)

    def telling(reason: str, action: str, note: str) -> Telling:
        return Telling(type="Normal", action=action, reason=reason, note=note)

    if outcome.is_adopted:
        note = f"Adopted epoch {after.epoch} with the witnesses {names}, which their keepers run"
        return [telling("WitnessesAdopted", "AdoptWitnesses", note)]
    if not before.epoch:
        return [telling("WitnessesChosen", "ChooseWitnesses", f"Chose the witnesses {names}")]
    if after.former is None:
        note = f"Changed the witnesses to {names} with epoch {after.epoch}"
        return [telling("WitnessesChanged", "ChangeWitnesses", note)]
    if after.is_sealing:
        return []
    leaving = sorted(before.witnesses.names - after.witnesses.names - {API_SERVER})
    found = [
        telling("WitnessReplaced", "ReplaceWitness", f"Replacing the witness {name}: {outcome.lost[name]}")
        for name in leaving
        if name in outcome.lost
    ]
    note = f"Changing the witnesses from {_listed(after.former)} to {names}, from epoch {after.epoch} on"
    return [*found, telling("WitnessesChanging", "ChangeWitnesses", note)]
