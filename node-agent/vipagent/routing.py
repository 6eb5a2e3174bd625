"""Routing: which routes and rules a held VirtualIP needs on this node.

As keepalived's virtual routes and virtual rules. They are installed once the addresses are bound, for a
route's source has to be there, and announced, for no route may delay that; and withdrawn before they go.
All bear our mark (`rtnetlink.ADDRESS_MARK`), by which a keeper knows its own. Those of others are never
touched, and one that is in the way is told and does not cost the node the addresses: the other nodes may
have it in their way too.

When a keeper dies, the kernel takes IPv4 routes of the main table with the addresses. What else there is
stays: rules, routes of other tables, and IPv6 routes, then without a source. The next keeper removes it
when it starts, or `vipkeeper-keeper --clean`.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from vipagent.nodeview import Route, Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipagent.nodeview import IPAddress, LinkIndex, RoutingEntry
    from vipagent.plan import Claim

_METRICS: Final = {4: 0, 6: 1024}
"""What the kernel takes a metric of 0 for, by IP version."""


def entries(wanted: Claim, placed: Mapping[IPAddress, LinkIndex]) -> tuple[RoutingEntry, ...]:
    """Return the routes and rules of a VirtualIP whose addresses are on these links, in the spec's order.

    A route to a destination of an IP version of which it has no address is left out.
    """
    found: list[RoutingEntry] = []
    for route in wanted.routes:
        destination = ip_network(route.destination)
        source = next((a.ip for a in wanted.addresses if a.version == destination.version), None)
        if source is not None:
            found.append(
                Route(
                    destination=destination,
                    link_index=placed[source],
                    source=source,
                    via=None if route.via is None else ip_address(route.via),
                    table=route.table,
                    metric=route.metric or _METRICS[destination.version],
                )
            )
    for rule in wanted.rules:
        chosen = None if rule.from_address is None else ip_address(rule.from_address)
        found += [
            Rule(address.ip, rule.table, rule.priority)
            for address in wanted.addresses
            if chosen in (None, address.ip)
        ]
    return tuple(found)
