"""The node view: what the kernel of this node has, as the pure modules are told it.

`kernel.Kernel.observe` makes one; nothing here asks anything. A view is whole or it is not made at
all: "could not look" is an exception of the door, never an empty view. A node may carry a thousand
addresses and hundreds of links, so a view answers from indices that it makes when first asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network
LinkIndex = NewType("LinkIndex", int)


class GuardRole(Enum):
    """How the fence guards a link: as one that an address may be bound on, or as any other."""

    CARRIER = "carrier"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An expected no: a CamelCase reason and a sentence that says what to do."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class BoundAddress:
    """An address on a link; `is_ours` by its mark, `valid_s` what is left of its life, None for ever."""

    interface: IPInterface
    is_ours: bool
    valid_s: int | None = None

    @property
    def ip(self) -> IPAddress:
        """The address without its prefix."""
        return self.interface.ip

    @property
    def is_host(self) -> bool:
        """Whether it stands alone, without a subnet on the link."""
        return self.interface.network.prefixlen == self.interface.max_prefixlen


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. `is_up` is up by the administrator and with carrier; `kind` is "" for hardware.

    `master` is the index of the bridge, bond, team or VRF that it belongs to, `lower` that of the link that
    a VLAN or macvlan stands on, `active_port` that of the port by which an active-backup bond sends now.
    """

    name: str
    index: LinkIndex
    mac: str
    is_up: bool
    kind: str = ""
    is_loopback: bool = False
    is_ethernet: bool = True
    master: LinkIndex | None = None
    addresses: tuple[BoundAddress, ...] = ()
    lower: LinkIndex | None = None
    active_port: LinkIndex | None = None

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """The on-link subnets that the link has by addresses of the node's own."""
        return tuple(
            bound.interface.network for bound in self.addresses if not (bound.is_ours or bound.is_host)
        )


@dataclass(frozen=True, slots=True)
class Way:
    """How a link's frames leave this node: neighbours know it by the MAC address, switches by the ports.

    `ports` are the active ports of the bonds that it stands on; a change of either has to be announced.
    """

    mac: str
    ports: frozenset[LinkIndex] = frozenset()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A default route's next hop."""

    address: IPAddress
    link_index: LinkIndex
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """A route with our mark; `source` is the address that it is for, None where the kernel has taken that."""

    destination: IPNetwork
    link_index: LinkIndex
    source: IPAddress | None
    via: IPAddress | None
    table: int
    metric: int

    def __str__(self) -> str:
        via = "" if self.via is None else f" via {self.via}"
        return f"route to {self.destination}{via} in table {self.table} with metric {self.metric}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with our mark: what comes from an address is looked up in a table."""

    source: IPAddress
    table: int
    priority: int

    def __str__(self) -> str:
        return f"rule from {self.source} to table {self.table} with priority {self.priority}"


RoutingEntry = Route | Rule


@dataclass(frozen=True)
class NodeView:
    """Every link with its addresses, the default gateways, best first, and routes and rules with our mark."""

    links: tuple[Link, ...]
    gateways: tuple[Gateway, ...] = ()
    entries: frozenset[RoutingEntry] = frozenset()

    def link(self, index: int) -> Link | None:
        """Return the link with this index, if there is one."""
        return self._links.get(index)

    def named(self, name: str) -> Link | None:
        """Return the link with this name, if there is one."""
        return self._by_name.get(name)

    def is_port(self, link: Link) -> bool:
        """Whether packets reach the node through the link's master; a VRF's members keep their own."""
        if link.master is None:
            return False
        master = self.link(link.master)
        return master is None or master.kind != "vrf"

    def can_carry(self, link: Link) -> bool:
        """Whether addresses can be bound on a link."""
        return link.is_ethernet and not link.is_loopback and not self.is_port(link)

    @cached_property
    def carriers(self) -> str:
        """The names of the links that can carry addresses, as people read them."""
        return ", ".join(sorted(link.name for link in self.links if self.can_carry(link))) or "none"

    def holders(self, address: IPAddress) -> tuple[tuple[Link, BoundAddress], ...]:
        """Return every link that has an address, ours or not."""
        return self._holders.get(address, ())

    def way(self, index: int) -> Way | None:
        """Return how a link's frames leave; None while it is down or not there."""
        link = self.link(index)
        if link is None or not link.is_up:
            return None
        ports: set[LinkIndex] = set()
        seen: set[int] = set()
        beneath = [link.index]
        while beneath:
            at = beneath.pop()
            below = self.link(at)
            if below is None or at in seen:
                continue
            seen.add(at)
            if below.active_port is not None:
                ports.add(below.active_port)
            if below.lower is not None:
                beneath.append(below.lower)
            if below.kind == "bridge":
                beneath += [port.index for port in self.links if port.master == at and port.is_up]
        return Way(link.mac, frozenset(ports))

    def gateway(self, version: int, link_index: int | None = None) -> IPAddress | None:
        """Return the best default gateway of IP version 4 or 6, of one link if that is given."""
        for gateway in self.gateways:
            if gateway.address.version == version and link_index in (None, gateway.link_index):
                return gateway.address
        return None

    def links_on(self, network: IPNetwork) -> tuple[Link, ...]:
        """Return the links that have exactly this subnet."""
        return self._by_subnet.get(network, ())

    def links_around(self, address: IPAddress) -> tuple[Link, ...]:
        """Return the links that have a subnet with this address in it."""
        around = [found for network, found in self._by_subnet.items() if address in network]
        return tuple({link.index: link for found in around for link in found}.values())

    @cached_property
    def _links(self) -> Mapping[int, Link]:
        return {link.index: link for link in self.links}

    @cached_property
    def _by_name(self) -> Mapping[str, Link]:
        return {link.name: link for link in self.links}

    @cached_property
    def _by_subnet(self) -> Mapping[IPNetwork, tuple[Link, ...]]:
        found: dict[IPNetwork, tuple[Link, ...]] = {}
        for link in self.links:
            for network in dict.fromkeys(link.subnets):
                found[network] = (*found.get(network, ()), link)
        return found

    @cached_property
    def _holders(self) -> Mapping[IPAddress, tuple[tuple[Link, BoundAddress], ...]]:
        found: dict[IPAddress, tuple[tuple[Link, BoundAddress], ...]] = {}
        for link in self.links:
            for bound in link.addresses:
                found[bound.ip] = (*found.get(bound.ip, ()), (link, bound))
        return found
