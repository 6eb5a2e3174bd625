"""Which ServiceFailovers are in force, and what their services make of the VirtualIPs that they follow.

`vipapi.services` decides both, from objects that can be read. Here stands what becomes of the others. One
that is being deleted is in force no more, nor is one that cannot be read and never was accepted. One that
was stays so, with what could be read of it; where that leaves out the nodes of a service, no election is
held for the service's VirtualIP, and its standing order stands. Likewise a VirtualIP that cannot be read
lets go of nobody who follows it: what it says of namespaces may be what could not be read.

An edit that is not acceptable, or that cannot be read, takes nothing out of force either: `hold_back` puts
the spec that was accepted last (`status.inForce`) in its place, for everybody, and its object says what is
wrong with the edit. What is in force is never changed by an edit of something else, so an edit is judged
against all that is in force, and edits that are fit only together (two objects that get other nodes, say)
come into force together. Where the status has no such spec (it was too large, or somebody wiped it), nobody
knows what runs but the couriers, who remember it: no election is held for the VirtualIPs that the object
names, and their standing order stands.

A VirtualIP is elected by its joined spec, so `join` puts that in place of its own, for everybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi import conditions, services
from vipapi.conditions import Reason
from vipapi.resources import AllowedNamespaces, ServiceFailover

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from vipapi.resources import VirtualIP
    from vipcontroller.world import World


class Verdict(NamedTuple):
    """Whether a ServiceFailover is accepted."""

    is_accepted: bool
    reason: str
    message: str


_ACCEPTED = Verdict(is_accepted=True, reason=Reason.ACCEPTED, message="the services follow their VirtualIPs")


def hold_back(world: World) -> World:
    """Return the same world in which every edit that is not acceptable is undone, with the reason."""
    edits = {each.metadata.uid: each for each in world.failovers if _is_edit(each)}
    if not edits:
        return world
    refused = _refused(world, edits)
    unreadable = {**world.unreadable, **refused}
    kept = edits.keys() & unreadable.keys()
    undone = {uid for uid in kept if edits[uid].status.in_force is not None}
    unknown = refused.keys() - undone
    acted_upon = edits.keys() - kept
    illegible = {
        uid: names for uid, names in world.illegible.items() if uid not in undone and uid not in acted_upon
    }
    for uid in unknown:
        named = (service.virtual_ip_ref.name for service in edits[uid].spec.services)
        illegible[uid] = (*illegible.get(uid, ()), *named)
    return msgspec.structs.replace(
        world,
        failovers=tuple(_in_force(each) if each.metadata.uid in undone else each for each in world.failovers),
        unreadable=unreadable,
        illegible=illegible,
        held_back=frozenset(unknown | (world.unspeakable & kept)),
    )


def _is_edit(failover: ServiceFailover) -> bool:
    """Whether the newest generation is another than the one that was accepted."""
    accepted = conditions.find(failover.status.conditions, "Accepted")
    return (
        accepted is not None
        and accepted.status == "True"
        and (accepted.observed_generation or 0) < failover.metadata.generation
        and not failover.metadata.is_deleting
    )


def _in_force(failover: ServiceFailover) -> ServiceFailover:
    in_force = failover.status.in_force
    return failover if in_force is None else msgspec.structs.replace(failover, spec=in_force.spec)


def _refused(world: World, edits: Mapping[str, ServiceFailover]) -> dict[str, str]:
    """Return the edits that are not acceptable, by UID, each with why.

    All are tried at once, behind everything that is in force; what is refused is undone, and the rest tried
    again, until nothing is refused.
    """
    # Who waits behind what runs is nobody's obstacle: else it would keep that from being edited for ever.
    standing = {
        each.metadata.uid: _in_force(each)
        for each in world.failovers
        if _was_accepted(each) and _unfit(each, world) is None
    }
    virtual_ips = _virtual_ips(world, [*standing.values(), *edits.values()])
    virtual_ips = {**virtual_ips, **_overruled(virtual_ips, standing.values())}
    tried = {
        uid: ServiceFailover(each.metadata, each.spec)
        for uid, each in edits.items()
        if uid not in world.unreadable
    }
    # A node that was removed from the cluster since is no reason to refuse an edit of something else.
    known = (each.status.in_force.spec for each in edits.values() if each.status.in_force is not None)
    nodes = {node for spec in known for service in spec.services for node in service.nodes}
    nodes |= world.nodes.keys()
    refused: dict[str, str] = {}
    while tried:
        objections = services.judge({**standing, **tried}.values(), virtual_ips, nodes)
        found = {uid: objection for uid in tried if (objection := objections[uid]) is not None}
        if not found:
            break
        for uid, objection in found.items():
            generation = tried.pop(uid).metadata.generation
            refused[uid] = (
                f"generation {generation} is not acted upon, and what was before goes on: {objection.message}"
            )
    return refused


def _overruled(
    virtual_ips: Mapping[str, VirtualIP], standing: Collection[ServiceFailover]
) -> Mapping[str, VirtualIP]:
    """Return those that services follow, without what is not in force for that: it hinders no edit either."""
    names = {service.virtual_ip_ref.name for each in standing for service in each.spec.services}
    found = {}
    for name in names & virtual_ips.keys():
        virtual_ip = virtual_ips[name]
        spec = services.joined(virtual_ip.spec, services.followings(name, standing))
        found[name] = msgspec.structs.replace(virtual_ip, spec=msgspec.structs.replace(spec, candidates=()))
    return found


def judge(world: World) -> Mapping[str, Verdict]:
    """Return the verdict on every ServiceFailover, by UID."""
    verdicts = {failover.metadata.uid: _unfit(failover, world) for failover in world.failovers}
    fit = [failover for failover in world.failovers if verdicts[failover.metadata.uid] is None]
    virtual_ips = _virtual_ips(world, fit)
    objections = services.judge(fit, virtual_ips, world.nodes.keys())
    for failover in fit:
        uid = failover.metadata.uid
        objection, is_accepted = objections[uid], False
        if objection is None or uid in world.held_back:
            objection, is_accepted = services.overruled(failover, virtual_ips), True
        if objection is not None:
            verdicts[uid] = Verdict(is_accepted, objection.reason, objection.message)
    return {uid: verdict or _ACCEPTED for uid, verdict in verdicts.items()}


def join(world: World, verdicts: Mapping[str, Verdict]) -> World:
    """Return the same world with each VirtualIP's spec as its services make it.

    Whose services cannot be read goes on by its standing order, so it is not `restored` either.
    """
    following: dict[str, dict[str, ServiceFailover]] = {}
    illegible: dict[str, str] = {}
    for failover in world.failovers:
        uid = failover.metadata.uid
        if verdicts[uid].is_accepted:
            for service in failover.spec.services:
                following.setdefault(service.virtual_ip_ref.name, {})[uid] = failover
            illegible.update(dict.fromkeys(world.illegible.get(uid, ()), world.unreadable.get(uid, "")))
    virtual_ips = tuple(
        _joined(virtual_ip, following.get(virtual_ip.metadata.name, {})) for virtual_ip in world.virtual_ips
    )
    unread = {
        each.metadata.uid: illegible[each.metadata.name]
        for each in virtual_ips
        if each.metadata.name in illegible
    }
    return msgspec.structs.replace(
        world,
        virtual_ips=virtual_ips,
        unreadable={**unread, **world.unreadable},
        restored=world.restored - unread.keys(),
        written={
            each.metadata.uid: each.spec
            for each in world.virtual_ips
            if each.metadata.uid not in world.unreadable
        },
    )


def _joined(virtual_ip: VirtualIP, failovers: Mapping[str, ServiceFailover]) -> VirtualIP:
    if not failovers:
        return virtual_ip
    found = services.followings(virtual_ip.metadata.name, failovers.values())
    return msgspec.structs.replace(virtual_ip, spec=services.joined(virtual_ip.spec, found))


def _unfit(failover: ServiceFailover, world: World) -> Verdict | None:
    """Return what keeps an object out before anything is compared."""
    if failover.metadata.is_deleting:
        message = "the object is being deleted and its services are being stopped"
        return Verdict(is_accepted=False, reason=Reason.DELETING, message=message)
    problem = world.unreadable.get(failover.metadata.uid)
    if problem is not None and not _was_accepted(failover):
        return Verdict(is_accepted=False, reason=Reason.INVALID_SPEC, message=problem)
    return None


def _was_accepted(failover: ServiceFailover) -> bool:
    return conditions.is_true(failover.status.conditions, "Accepted")


def _virtual_ips(world: World, failovers: list[ServiceFailover]) -> Mapping[str, VirtualIP]:
    """Return the VirtualIPs by name; those that cannot be read let in whoever follows them already."""
    found = {virtual_ip.metadata.name: virtual_ip for virtual_ip in world.virtual_ips}
    for failover in failovers if world.unreadable else ():
        for service in failover.spec.services if _was_accepted(failover) else ():
            virtual_ip = found.get(service.virtual_ip_ref.name)
            if virtual_ip is not None and virtual_ip.metadata.uid in world.unreadable:
                found[virtual_ip.metadata.name] = _allowing(virtual_ip, failover.metadata.namespace)
    return found


def _allowing(virtual_ip: VirtualIP, namespace: str) -> VirtualIP:
    allowed = virtual_ip.spec.allowed_namespaces
    names = {*(() if allowed is None else allowed.names), namespace}
    spec = msgspec.structs.replace(
        virtual_ip.spec, allowed_namespaces=AllowedNamespaces(names=tuple(sorted(names)))
    )
    return msgspec.structs.replace(virtual_ip, spec=spec)
