"""Whose an address is: which VirtualIPs are accepted, and what is wrong with the others.

An address belongs to one VirtualIP, across all domains. Whoever has it in force keeps it, also against an
older one whose edit names it. What nobody has in force goes to those who were accepted before the others,
and of either to the oldest, by creation time and then by name. A VirtualIP that is being deleted keeps
its addresses until its finalizer is gone, for its owner may still hold them. An object that is not
accepted enters no plan, so the address that was there first keeps working. What a VirtualIP's spec named
before keeps other domains away until the witnesses have buried it (`vipcontroller.retirement`); inside
its own domain the witnesses see to that.

`onQuorumLoss: Hold` is accepted with exactly two candidates. Where more come later (a node joins a domain
whose nodes are all candidates) the object stays accepted, for losing its addresses would be worse, and
Hold is not in force.

A domain takes as many VirtualIPs as the report of a node in it can tell of (`bounds.VIRTUAL_IPS`): of more
nobody would know who has them. Whoever was accepted counts first, and stays.

A FailoverDomain that cannot be read takes no new VirtualIP. Whoever was accepted in it stays so, with the
addresses that are in force: nobody can tell whether it takes others, or how many candidates there are.

An address outside the domain's `allowedAddresses` is refused at any time, also when the range was
narrowed later: the range is a limit on what may be taken over, not advice.

An edit that is not acceptable, or that cannot be read, takes nothing out of force: `hold_back` puts the
spec that was accepted last (`status.inForce`) in its place, for everybody, and its object says what is wrong
with it. Where the status has no such spec (it was too large, or somebody wiped it) the addresses that were
accepted (`status.addresses`) are put in the place of its own. What else was in the spec then only the
couriers know, who remember it: no election is held meanwhile, and the standing order stands. It comes into
force by itself once nothing is in its way, and edits that are fit only together (two objects that exchange
their addresses) do so together.

Whether an edit is held back does not hang on the services that follow: they change nothing of addresses or
domains, and `onQuorumLoss: Hold` keeps none back that was accepted.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi import addresses, conditions
from vipapi.bounds import VIRTUAL_IPS
from vipapi.candidates import MOST_THAT_HOLD, is_held_alone, nominate, roster
from vipapi.conditions import Reason
from vipapi.resources import FINALIZER
from vipcontroller.retirement import bare

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from vipapi.addresses import IPAddress, VirtualAddress
    from vipapi.resources import FailoverDomain, VirtualIP
    from vipcontroller.world import Unread, World

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Verdict(NamedTuple):
    """Whether a VirtualIP is accepted. `rival` names the VirtualIP that has its address, if one has."""

    is_accepted: bool
    reason: str
    message: str
    rival: str | None = None


class _Claim(NamedTuple):
    """The addresses that a VirtualIP wants, and what in itself or its domain forbids them."""

    virtual_ip: VirtualIP
    wanted: tuple[VirtualAddress, ...]
    objection: Verdict | None


_ACCEPTED = Verdict(is_accepted=True, reason=Reason.ACCEPTED, message="the addresses are this object's")


def hold_back(world: World) -> World:
    """Return the same world in which every edit that is not acceptable is undone, with the reason.

    All that can be read are tried at once; what is refused is undone, and the rest tried again, until nothing
    is refused. One whose former addresses are refused as well is left: there is nothing to go back to. An
    object that is being deleted has what it had in force, whatever its spec names by now, and so has one that
    was accepted and cannot be read.
    """
    kept = {
        each.metadata.uid
        for each in world.virtual_ips
        if _was_accepted(each) and (each.metadata.is_deleting or each.metadata.uid in world.unreadable)
    }
    world = _as_before(world, kept)
    edits = {each.metadata.uid: each for each in world.virtual_ips if _is_edit(each)}
    refused = {uid: world.unreadable[uid] for uid in edits.keys() & world.unreadable.keys()}
    verdicts: Mapping[str, Verdict] = {}
    found = set(edits)
    while found:
        verdicts = judge(_undone(world, refused))
        found = {uid for uid in edits if uid not in refused and not verdicts[uid].is_accepted}
        refused |= {uid: _held_back(edits[uid], verdicts[uid]) for uid in found}
    return _undone(world, {uid: why for uid, why in refused.items() if verdicts[uid].is_accepted})


def _is_edit(virtual_ip: VirtualIP) -> bool:
    """Whether the newest generation is another than the one that was accepted, whose addresses are known."""
    metadata = virtual_ip.metadata
    accepted = conditions.find(virtual_ip.status.conditions, "Accepted")
    return (
        accepted is not None
        and accepted.status == "True"
        and (accepted.observed_generation or 0) < metadata.generation
        and not metadata.is_deleting
        and bool(_in_force(virtual_ip))
    )


def _held_back(virtual_ip: VirtualIP, verdict: Verdict) -> str:
    generation = virtual_ip.metadata.generation
    return f"generation {generation} is not acted upon, and what was before goes on: {verdict.message}"


def _undone(world: World, refused: Mapping[str, str]) -> World:
    known = (each.metadata.uid for each in world.virtual_ips if each.status.in_force is not None)
    return msgspec.structs.replace(
        _as_before(world, refused.keys()),
        unreadable={**world.unreadable, **refused},
        undone=frozenset(refused),
        restored=frozenset(known) & refused.keys(),
    )


def _as_before(world: World, uids: Collection[str]) -> World:
    """Return the same world in which these VirtualIPs have the spec, or the addresses, that are in force."""
    if not uids:
        return world
    virtual_ips = (
        _as_it_was(each) if each.metadata.uid in uids and _in_force(each) else each
        for each in world.virtual_ips
    )
    return msgspec.structs.replace(world, virtual_ips=tuple(virtual_ips))


def _as_it_was(virtual_ip: VirtualIP) -> VirtualIP:
    in_force = virtual_ip.status.in_force
    former = virtual_ip.spec if in_force is None else in_force.spec
    spec = msgspec.structs.replace(former, addresses=_known(virtual_ip)[0])
    return msgspec.structs.replace(virtual_ip, spec=spec)


def judge(world: World) -> Mapping[str, Verdict]:
    """Return the verdict on every VirtualIP, by UID."""
    claims = [_claim(virtual_ip, world) for virtual_ip in sorted(world.virtual_ips, key=_seniority)]
    holders = _holders(claims)
    taken: Counter[str] = Counter()
    former = _former(world)
    verdicts: dict[str, Verdict] = {}
    for virtual_ip, wanted, forbidden in claims:
        objection = forbidden or _rivalry(virtual_ip, wanted, holders)
        objection = objection or _aftermath(virtual_ip, wanted, former) or _fullness(virtual_ip, taken)
        objection = objection or _hold(virtual_ip, world) or _ACCEPTED
        if objection.is_accepted:
            taken[virtual_ip.spec.domain] += 1
            holders.update((address.ip, virtual_ip) for address in wanted)
        verdicts[virtual_ip.metadata.uid] = objection
    return verdicts


def _seniority(virtual_ip: VirtualIP) -> tuple[bool, dt.datetime, str]:
    metadata = virtual_ip.metadata
    return not _was_accepted(virtual_ip), metadata.creation_timestamp or _EPOCH, metadata.name


def _was_accepted(virtual_ip: VirtualIP) -> bool:
    if virtual_ip.metadata.is_deleting:
        return FINALIZER in virtual_ip.metadata.finalizers
    return conditions.is_true(virtual_ip.status.conditions, "Accepted")


def _claim(virtual_ip: VirtualIP, world: World) -> _Claim:
    return _Claim(virtual_ip, *_wanted(virtual_ip, world))


def _holders(claims: Sequence[_Claim]) -> dict[IPAddress, VirtualIP]:
    """Return who has an address in force and wants it still; of two, as after a restore, the first."""
    holders: dict[IPAddress, VirtualIP] = {}
    for virtual_ip, wanted, forbidden in claims:
        if forbidden is None and _was_accepted(virtual_ip):
            in_force = {address.ip for address in _in_force(virtual_ip)}
            for address in wanted:
                if address.ip in in_force:
                    holders.setdefault(address.ip, virtual_ip)
    return holders


def _wanted(virtual_ip: VirtualIP, world: World) -> tuple[tuple[VirtualAddress, ...], Verdict | None]:
    """Return the addresses, and what in the object itself or its domain forbids them."""
    try:
        wanted = addresses.parse_all(virtual_ip.spec.addresses)
    except ValueError as error:
        return (), Verdict(is_accepted=False, reason=Reason.INVALID_SPEC, message=f"spec.addresses: {error}")
    if virtual_ip.metadata.is_deleting:
        return wanted, None
    unreadable = world.unreadable.get(virtual_ip.metadata.uid)
    if unreadable is not None and not _was_accepted(virtual_ip):
        return (), Verdict(is_accepted=False, reason=Reason.INVALID_SPEC, message=unreadable)
    unread = world.unread_domains.get(virtual_ip.spec.domain)
    if unread is not None:
        return _in_force(virtual_ip) or wanted, None if _was_accepted(virtual_ip) else _illegible(unread)
    return wanted, _of_domain(virtual_ip, world.domains.get(virtual_ip.spec.domain), wanted)


def _of_domain(
    virtual_ip: VirtualIP, domain: FailoverDomain | None, wanted: tuple[VirtualAddress, ...]
) -> Verdict | None:
    name = virtual_ip.spec.domain
    if domain is None:
        message = (
            f"there is no FailoverDomain {name!r}: create it, or make this VirtualIP in another `domain`"
        )
        return Verdict(is_accepted=False, reason=Reason.DOMAIN_NOT_FOUND, message=message)
    if domain.metadata.is_deleting and not _was_accepted(virtual_ip):
        message = (
            f"FailoverDomain {name!r} is being deleted: delete this VirtualIP, and make it in another "
            "`domain`, or in this one once it was made anew"
        )
        return Verdict(is_accepted=False, reason=Reason.DOMAIN_DELETING, message=message)
    return _out_of_bounds(wanted, domain)


def _in_force(virtual_ip: VirtualIP) -> tuple[VirtualAddress, ...]:
    """Return the addresses that were accepted last; none where the status does not say."""
    return _known(virtual_ip)[1]


def _known(virtual_ip: VirtualIP) -> tuple[tuple[str, ...], tuple[VirtualAddress, ...]]:
    """Return the addresses that were accepted last, as they were spelled and as they were meant."""
    status = virtual_ip.status
    for texts in (status.addresses, () if status.in_force is None else status.in_force.spec.addresses):
        try:
            meant = addresses.parse_all(texts)
        except ValueError:
            continue
        if meant:
            return texts, meant
    return (), ()


def _illegible(unread: Unread) -> Verdict:
    message = (
        f"{unread.problem}; this version of vipkeeper cannot read the domain, and takes no new VirtualIP "
        "there: correct it, or run a version that can read it"
    )
    return Verdict(is_accepted=False, reason=Reason.DOMAIN_UNREADABLE, message=message)


def _out_of_bounds(wanted: tuple[VirtualAddress, ...], domain: FailoverDomain) -> Verdict | None:
    name = domain.metadata.name
    try:
        allowed = tuple(addresses.parse_range(text) for text in domain.spec.allowed_addresses)
    except ValueError as error:
        message = f"`allowedAddresses` of FailoverDomain {name!r}: {error}"
        return Verdict(is_accepted=False, reason=Reason.ADDRESS_NOT_ALLOWED, message=message)
    outside = addresses.outside(wanted, allowed)
    if not outside:
        return None
    message = (
        f"{_list(outside)} outside `allowedAddresses` of FailoverDomain {name!r} ({_list(allowed)}): "
        "use an address inside, or extend the range"
    )
    return Verdict(is_accepted=False, reason=Reason.ADDRESS_NOT_ALLOWED, message=message)


def _rivalry(
    virtual_ip: VirtualIP, wanted: tuple[VirtualAddress, ...], holders: Mapping[IPAddress, VirtualIP]
) -> Verdict | None:
    uid = virtual_ip.metadata.uid
    found = {address.ip: holders.get(address.ip, virtual_ip) for address in wanted}
    taken = [ip for ip, holder in found.items() if holder.metadata.uid != uid]
    if not taken:
        return None
    rival = holders[taken[0]].metadata.name
    message = (
        f"{_list(taken)} belongs to VirtualIP {rival!r}, which had it first and keeps it: "
        "use another address here, or delete one of the two"
    )
    return Verdict(is_accepted=False, reason=Reason.ADDRESS_CONFLICT, message=message, rival=rival)


def _former(world: World) -> Mapping[str, Sequence[VirtualIP]]:
    """Return, by address, the VirtualIPs that had it in force and whose nodes might still use it."""
    found: dict[str, list[VirtualIP]] = {}
    for virtual_ip in world.virtual_ips:
        status = virtual_ip.status
        retired = (each.address for each in status.retired_addresses)
        for address in {*map(bare, status.addresses), *retired}:
            found.setdefault(address, []).append(virtual_ip)
    return found


def _aftermath(
    virtual_ip: VirtualIP, wanted: tuple[VirtualAddress, ...], former: Mapping[str, Sequence[VirtualIP]]
) -> Verdict | None:
    """Return what another domain has still to finish."""
    for address in wanted:
        for other in former.get(str(address.ip), ()):
            if other.metadata.uid != virtual_ip.metadata.uid and other.spec.domain != virtual_ip.spec.domain:
                rival = other.metadata.name
                message = (
                    f"{address.ip} belonged to VirtualIP {rival!r} of FailoverDomain "
                    f"{other.spec.domain!r}, and a majority of that domain's witnesses has not reported yet "
                    "that nobody there uses it: wait, or bring its node-agents back"
                )
                return Verdict(
                    is_accepted=False, reason=Reason.ADDRESS_CONFLICT, message=message, rival=rival
                )
    return None


def _fullness(virtual_ip: VirtualIP, taken: Mapping[str, int]) -> Verdict | None:
    name = virtual_ip.spec.domain
    if taken.get(name, 0) < VIRTUAL_IPS or _was_accepted(virtual_ip):
        return None
    message = (
        f"FailoverDomain {name!r} has {VIRTUAL_IPS} VirtualIPs, as many as a node can report on: put several "
        "addresses into one VirtualIP, make this one in another `domain`, or delete another"
    )
    return Verdict(is_accepted=False, reason=Reason.DOMAIN_FULL, message=message)


def _hold(virtual_ip: VirtualIP, world: World) -> Verdict | None:
    """Return what forbids `onQuorumLoss: Hold`, or only makes it void."""
    spec, domain = virtual_ip.spec, world.domains.get(virtual_ip.spec.domain)
    if spec.on_quorum_loss != "Hold" or virtual_ip.metadata.is_deleting:
        return None
    if domain is None:  # it cannot be read, so what was said stands
        told = conditions.find(virtual_ip.status.conditions, "Accepted")
        return None if told is None else Verdict(is_accepted=True, reason=told.reason, message=told.message)
    candidates = nominate(spec, roster(domain.spec, world.nodes.values()))
    is_accepted = _was_accepted(virtual_ip)
    if len(candidates) == MOST_THAT_HOLD or (is_accepted and is_held_alone(spec, candidates)):
        return None
    names = f" ({_list([nominee.node for nominee in candidates])})" if candidates else ""
    message = (
        f"`onQuorumLoss: Hold` needs exactly two candidates, and {len(candidates)} nodes are{names}: name "
        "two in `candidates`, or make it Release"
    )
    message += "; until then it is not in force" if is_accepted else ""
    return Verdict(is_accepted=is_accepted, reason=Reason.HOLD_NEEDS_TWO_CANDIDATES, message=message)


def _list(items: object) -> str:
    assert isinstance(items, list | tuple)
    return ", ".join(str(item) for item in items)
