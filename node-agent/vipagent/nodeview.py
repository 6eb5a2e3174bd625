"""The node view: what the kernel of this node has, as the pure modules are told it.

`kernel.Kernel.observe` makes one; nothing here asks anything. A view is whole or it is not made at
all: "could not look" is an exception of the door, never an empty view. A node may carry a thousand
addresses, so a view answers who has an address from an index that it makes when first asked.
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

    `master` is the index of the bridge, bond, team or VRF that it belongs to.
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

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """The on-link subnets that the link has by addresses of the node's own."""
        return tuple(
            bound.interface.network for bound in self.addresses if not (bound.is_ours or bound.is_host)
        )


@dataclass(frozen=True, slots=True)
class Gateway:
    """A default route's next hop."""

    address: IPAddress
    link_index: LinkIndex
    metric: int = 0


@dataclass(frozen=True)
class NodeView:
    """Every link with its addresses, and the default gateways, best first."""

    links: tuple[Link, ...]
    gateways: tuple[Gateway, ...] = ()

    def link(self, index: int) -> Link | None:
        """Return the link with this index, if there is one."""
        return self._links.get(index)

    def holders(self, address: IPAddress) -> tuple[tuple[Link, BoundAddress], ...]:
        """Return every link that has an address, ours or not."""
        return self._holders.get(address, ())

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
