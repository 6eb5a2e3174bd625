"""Routes and rules that come and go with a VirtualIP, as the spec and the node plan say them.

A route's source is the first of the VirtualIP's addresses that is of its destination's IP version; a rule
sends what comes from an address to a routing table (policy routing, `ip rule add from … table …`).
"""

from __future__ import annotations

import ipaddress

import msgspec

MAIN_TABLE = 254


class Route(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A route, on the interface of the address. Without a metric it has the kernel's: 0, or 1024 for IPv6."""

    destination: str
    via: str | None = None
    table: int = MAIN_TABLE
    metric: int | None = None


class Rule(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A rule from one address of the VirtualIP, or from each of them, to a routing table."""

    table: int
    from_address: str | None = msgspec.field(name="from", default=None)
    priority: int = 1000


def check(routes: tuple[Route, ...], rules: tuple[Rule, ...]) -> None:
    """Raise `ValueError` for what is no network or no address."""
    for route in routes:
        destination = ipaddress.ip_network(route.destination)
        if route.via is not None and ipaddress.ip_address(route.via).version != destination.version:
            raise ValueError(f"{route.via} is no next hop to {route.destination}")
    for rule in rules:
        if rule.from_address is not None:
            ipaddress.ip_address(rule.from_address)
