"""Which of this node's addresses its heartbeats come from, in one domain.

The interface that the domain names, else the Node's InternalIPs in their order. An address that the
members already know stays, as long as the node has it: peers send there. Addresses of ours are
virtual, and IPv6 link-local ones need a scope; neither is ever a heartbeat address.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vipagent.nodeview import IPAddress, NodeView
    from vipagent.seats import Seats
    from vipapi.configuration import Configuration
    from vipapi.nodeplan import DomainPlan, Plan


class Place(NamedTuple):
    """Where heartbeats come from and go to: an address of this node, and a port."""

    address: IPAddress
    port: int


def places(plan: Plan, seats: Seats, view: NodeView) -> dict[str, Place]:
    """Return the heartbeats' place in each domain that has one, planned or left, by the domain's UID."""
    domains = {seated.seat.domain.uid: seated.seat.domain for seated in seats}
    domains |= {domain.uid: domain for domain in plan.domains}
    found: dict[str, Place] = {}
    for uid, domain in domains.items():
        seated = seats.get(uid)
        address = heartbeat_address(
            domain,
            domain.configuration if seated is None else seated.seat.configuration,
            node=plan.node,
            node_addresses=plan.node_addresses,
            view=view,
        )
        if address is not None:
            found[uid] = Place(address, domain.port)
    return found


def heartbeat_address(
    domain: DomainPlan,
    configuration: Configuration,
    *,
    node: str,
    node_addresses: tuple[str, ...],
    view: NodeView,
) -> IPAddress | None:
    """Return the address to bind to and report; None while the node has none that would do.

    `configuration` is the one in force, which need not be the plan's.
    """
    interface = domain.heartbeat_interface
    if interface is None:
        preferred = [ipaddress.ip_address(address) for address in node_addresses]
    else:
        link = view.named(interface)
        addresses = () if link is None else link.addresses
        preferred = sorted((bound.ip for bound in addresses), key=lambda ip: ip.version)
    known = [
        ipaddress.ip_address(member.address)
        for member in (*configuration.members, *domain.members)
        if member.node == node
    ]
    return next((ip for ip in (*known, *preferred) if _is_usable(ip, interface, view)), None)


def _is_usable(address: IPAddress, interface: str | None, view: NodeView) -> bool:
    if address.is_loopback or address.is_link_local:
        return False
    return any(not bound.is_ours and interface in (None, link.name) for link, bound in view.holders(address))
