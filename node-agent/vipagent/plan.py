"""Plan: which fences, addresses and guards are missing on this node, or too many.

What is wanted (the VirtualIPs of the node plan, each held or not) is compared with what is there (the
node view, the fence's addresses, what was read back of each link's guard); the difference is a list
of actions, in the order in which they are safe. It is made anew at every look: an action that failed
is still missing then, and a restarted keeper needs no memory. A look that failed plans nothing.

**Where an address goes.** On the interface that the VirtualIP names, else on the one that has the
address's subnet: an address of its own with the same network, or, where the VirtualIP gives no prefix,
with any network that contains it. Only Ethernet-like links that are no port of a bridge, bond or
team can carry one. Of several the one that already has it stays, then one that is up, then the lowest index.

**Which links are guarded.** Those that could carry an address of a plan, or have one with our mark, as
carriers: no packet of a closed address passes in or out. Every other link may leak too (the kernel
answers ARP for any of its addresses on any link), so it is guarded as other: nothing that this node
itself says for a closed address leaves by it, while what it forwards does, or this node's pods could
not reach the owner. Not guarded: loopback, where kube-proxy answers this node's own programs for service
addresses that another node owns, so a client on the owner itself is answered until the address is unbound;
ports, for the bridge or bond above them is guarded, and a bridge's own guests must reach the owner through
it; and the node's ends of pods' links (veth or netkit without a subnet), for what pods of this very node
see is not on the wire. A link that is guarded no more, as one that became a port, is relieved of the fence:
the next keeper's would not be there, and a dead keeper's passes nothing ever again.

**Whose an address is.** One with our mark that is not held is removed; one of a VirtualIP without our
mark is somebody's own: the reason is AddressInUse, it is never touched, and it is not put under the
fence either, or a VirtualIP with a node's own address would cut that node off. kube-proxy's
`kube-ipvs0` is an exception: it has every service address, on every node, on purpose.

An address is known to the fence from the first look on and closed until a lease opens it, and is
forgotten only once no VirtualIP names it and it was seen to be unbound.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Final

from vipagent import routing
from vipagent.nodeview import (
    BoundAddress,
    GuardRole,
    IPAddress,
    IPInterface,
    Link,
    LinkIndex,
    NodeView,
    Refusal,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vipagent.nodeview import RoutingEntry
    from vipapi.nodeplan import VirtualIPPlan
    from vipapi.routing import Route, Rule

LIFETIME_S: Final = 6
"""How long the kernel keeps an address from its last refresh; it is refreshed when half of it is gone."""

_SERVICE_ADDRESSES_LINK: Final = "kube-ipvs0"
_POD_LINK_KINDS: Final = ("veth", "netkit")


@dataclass(frozen=True, slots=True)
class Claim:
    """A VirtualIP as this node stands to it: its addresses, where they may go, and whether it holds them."""

    uid: str
    name: str
    addresses: tuple[IPInterface, ...]
    interface: str | None = None
    is_held: bool = False
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Close:
    """Make an address known to the fence, closed."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class Guard:
    """Attach the fence to a link."""

    link_index: LinkIndex
    role: GuardRole


@dataclass(frozen=True, slots=True)
class Unbind:
    """Remove an address from a link. Its fence must be closed before."""

    address: IPAddress
    link_index: LinkIndex


@dataclass(frozen=True, slots=True)
class Bind:
    """Add an address to a link, or give it a new lifetime; `is_new` tells which. Its fence is open."""

    address: IPAddress
    link_index: LinkIndex
    is_new: bool


@dataclass(frozen=True, slots=True)
class Unguard:
    """Take off a link that is not to be guarded what a fence of ours left there."""

    link_index: LinkIndex


@dataclass(frozen=True, slots=True)
class Forget:
    """Take an address out of the fence's sight."""

    address: IPAddress


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Remove a route or rule of ours, before its address goes."""

    entry: RoutingEntry


@dataclass(frozen=True, slots=True)
class Install:
    """Add a route or rule, now that its address is bound."""

    entry: RoutingEntry


Action = Close | Guard | Withdraw | Unbind | Bind | Install | Unguard | Forget


def claim(virtual_ip: VirtualIPPlan, *, is_held: bool) -> Claim:
    """Read a VirtualIP of the node plan; raises ValueError for an address that is none."""
    return Claim(
        uid=virtual_ip.uid,
        name=virtual_ip.name,
        addresses=tuple(ip_interface(text) for text in virtual_ip.addresses),
        interface=virtual_ip.interface,
        is_held=is_held,
        routes=virtual_ip.routes,
        rules=virtual_ip.rules,
    )


def place(wanted: Claim, view: NodeView) -> dict[IPAddress, LinkIndex] | Refusal:
    """Return the link that carries each address of a VirtualIP on this node, or why there is none."""
    placed: dict[IPAddress, LinkIndex] = {}
    for address in wanted.addresses:
        foreign = _foreign_holder(address.ip, view)
        if foreign is not None:
            return Refusal(
                "AddressInUse",
                f"{address.ip} is on this node's {foreign.name} already and vipkeeper did not put it there: "
                f"remove it there, or give VirtualIP {wanted.name} another address",
            )
        links = _possible_carriers(wanted, address, view)
        if isinstance(links, Refusal):
            return links
        best = min(
            links, key=lambda link: (not link.is_up, not _has_ours(link, address.ip, view), link.index)
        )
        if not best.is_up:
            return Refusal(
                "InterfaceDown",
                f"{best.name}, which would carry {address.ip}, is down or has no carrier: "
                f"set it up and check its cable",
            )
        placed[address.ip] = best.index
    return placed


def refuse(
    wanted: Claim, view: NodeView, guards: Mapping[tuple[LinkIndex, GuardRole], Refusal | None]
) -> Refusal | None:
    """Return why this node cannot hold a VirtualIP now, None if it can.

    `guards` is what `Kernel.guarded` said of each link in the role that `roles` gives it.
    """
    placed = place(wanted, view)
    if isinstance(placed, Refusal):
        return placed
    for link_index in dict.fromkeys(placed.values()):
        verdict = guards.get((link_index, GuardRole.CARRIER), _NOT_LOOKED)
        if verdict is not None:
            return verdict
    return None


def roles(claims: Iterable[Claim], view: NodeView) -> dict[LinkIndex, GuardRole]:
    """Return which links the fence must be attached to, and how."""
    carriers = {
        link.index
        for wanted in claims
        for address in wanted.addresses
        for link in _links(_possible_carriers(wanted, address, view))
    }
    carriers |= {link.index for link in view.links if any(bound.is_ours for bound in link.addresses)}
    return {
        link.index: GuardRole.CARRIER if link.index in carriers else GuardRole.OTHER
        for link in view.links
        if link.index in carriers or not (link.is_loopback or view.is_port(link) or _is_pod_end(link))
    }


def plan(
    claims: Collection[Claim],
    view: NodeView,
    *,
    fenced: Collection[IPAddress],
    guards: Mapping[tuple[LinkIndex, GuardRole], Refusal | None],
    bare: Collection[LinkIndex],
) -> tuple[Action, ...]:
    """Return what to do, in order: close, guard, withdraw, unbind, bind, install, unguard, forget.

    `fenced` are the addresses that the fence knows, `guards` as for `refuse`, `bare` the links that are known
    to have nothing of a fence. Doing it all leaves nothing to do at the next look but to forget what was
    unbound, and to unguard its link.
    """
    known, ours, guarding = _known(claims), _ours(view), roles(claims, view)
    placed, kept = _placement(claims, view)
    routed = {
        entry: None
        for wanted in claims
        if wanted.is_held and all(address.ip in placed for address in wanted.addresses)
        for entry in routing.entries(wanted, placed)
    }

    closes = [Close(address) for address in unfenced(claims, view, fenced=fenced)]
    attaches = [
        Guard(index, role)
        for index, role in guarding.items()
        if guards.get((index, role), _NOT_LOOKED) is not None
    ]
    unbinds = [
        Unbind(bound.ip, link.index)
        for link in view.links
        for bound in link.addresses
        if bound.is_ours and placed.get(bound.ip, link.index if bound.ip in kept else None) != link.index
    ]
    binds = []
    for address in sorted_addresses(placed):
        index = placed[address]
        bound = _bound(view, address, index)
        if bound is None or bound.valid_s is None or 2 * bound.valid_s <= LIFETIME_S:
            binds.append(Bind(address, index, is_new=bound is None))
    withdrawals = [
        Withdraw(entry)
        for entry in sorted(view.entries, key=repr)
        if entry not in routed and entry.source not in kept
    ]
    installs = [Install(entry) for entry in routed if entry not in view.entries]
    reliefs = [
        Unguard(link.index) for link in view.links if link.index not in guarding and link.index not in bare
    ]
    forgets = [Forget(address) for address in sorted_addresses(set(fenced) - known - ours)]
    return (*closes, *attaches, *withdrawals, *unbinds, *binds, *installs, *reliefs, *forgets)


def unfenced(claims: Iterable[Claim], view: NodeView, *, fenced: Collection[IPAddress]) -> list[IPAddress]:
    """Return which addresses the fence must come to know: of VirtualIPs, and with our mark; nobody else's.

    Those with our mark come first, for the fence may be too small for all.
    """
    ours = _ours(view) - set(fenced)
    planned = _known(claims) - ours - set(fenced)
    others = [address for address in planned if _foreign_holder(address, view) is None]
    return sorted_addresses(ours) + sorted_addresses(others)


def _known(claims: Iterable[Claim]) -> set[IPAddress]:
    return {address.ip for wanted in claims for address in wanted.addresses}


def _ours(view: NodeView) -> set[IPAddress]:
    return {bound.ip for link in view.links for bound in link.addresses if bound.is_ours}


def sorted_addresses(addresses: Iterable[IPAddress]) -> list[IPAddress]:
    """Sort addresses of both IP versions."""
    return sorted(addresses, key=lambda address: (address.version, int(address)))


_NOT_LOOKED: Final = Refusal(
    "FenceMissing", "the link is not guarded by the fence yet: it will be in a moment"
)


def _placement(claims: Iterable[Claim], view: NodeView) -> tuple[dict[IPAddress, LinkIndex], set[IPAddress]]:
    """Return where each held address goes, and the held ones that have no place but are not taken away.

    What becomes of those is the lease's decision: it gives the VirtualIP up, or the link comes back.
    """
    placed: dict[IPAddress, LinkIndex] = {}
    kept: set[IPAddress] = set()
    for wanted in claims:
        if wanted.is_held:
            places = place(wanted, view)
            if isinstance(places, Refusal):
                kept |= {address.ip for address in wanted.addresses}
            else:
                placed |= places
    return placed, kept


def _possible_carriers(wanted: Claim, address: IPInterface, view: NodeView) -> list[Link] | Refusal:
    if wanted.interface is not None:
        return _named_carrier(wanted.interface, address, view)
    has_prefix = address.network.prefixlen < address.max_prefixlen
    found = view.links_on(address.network) if has_prefix else view.links_around(address.ip)
    links = [link for link in found if view.can_carry(link)]
    if links:
        return links
    subnet = f"in {address.network}" if has_prefix else f"with a subnet that contains {address.ip}"
    return Refusal(
        "NoInterface",
        f"no interface of this node has an address {subnet}: give one such an address, correct the prefix "
        "in spec.addresses, or name the interface in spec.interface",
    )


def _named_carrier(name: str, address: IPInterface, view: NodeView) -> list[Link] | Refusal:
    link = view.named(name)
    if link is None:
        return Refusal(
            "NoInterface",
            f"this node has no interface {name} for {address.ip} (it has {view.carriers}): "
            "correct spec.interface, or leave it out where names differ between nodes",
        )
    if view.is_port(link):
        master = view.link(link.master or 0)
        above = "the interface above it" if master is None else master.name
        return Refusal("NoInterface", f"{name} is a port of {above}: name {above} in spec.interface instead")
    if not view.can_carry(link):
        return Refusal(
            "NoInterface", f"{name} has no Ethernet address, so it cannot carry {address.ip}: name another"
        )
    return [link]


def _links(found: list[Link] | Refusal) -> list[Link]:
    return [] if isinstance(found, Refusal) else found


def _is_pod_end(link: Link) -> bool:
    return link.kind in _POD_LINK_KINDS and all(
        bound.is_host or bound.ip.is_link_local for bound in link.addresses
    )


def _has_ours(link: Link, address: IPAddress, view: NodeView) -> bool:
    return any(bound.is_ours and holder is link for holder, bound in view.holders(address))


def _foreign_holder(address: IPAddress, view: NodeView) -> Link | None:
    holders = view.holders(address)
    return next(
        (link for link, bound in holders if link.name != _SERVICE_ADDRESSES_LINK and not bound.is_ours), None
    )


def _bound(view: NodeView, address: IPAddress, link_index: LinkIndex) -> BoundAddress | None:
    holders = view.holders(address)
    return next((bound for link, bound in holders if bound.is_ours and link.index == link_index), None)
