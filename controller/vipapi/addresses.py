"""What an address of a VirtualIP means: `192.0.2.10/24` or `2001:db8::10`, and how sets of them relate.

The prefix length names the on-link network, so that the right interface is found node by node; the
address itself is always bound as a single host. Without a prefix length the on-link network is that
one address, and any interface whose own network contains it will do.

`parse` is as strict as the API server's rules for `VirtualIP.spec.addresses`: one spelling for one
address (RFC 5952), unicast, and an address that a host may have within its network.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class VirtualAddress:
    """One address and its on-link network; a host network (/32, /128) where no prefix was given."""

    ip: IPAddress
    network: IPNetwork

    def __str__(self) -> str:
        if self.network.prefixlen == self.ip.max_prefixlen:
            return str(self.ip)
        return f"{self.ip}/{self.network.prefixlen}"


@lru_cache(maxsize=4096)  # the controller reads all addresses at each look
def parse(text: str) -> VirtualAddress:
    """Read `address` or `address/prefix length`; raises `ValueError` that says what to write instead."""
    host, slash, length = text.partition("/")
    ip = _canonical_ip(host)
    if not _is_host_unicast(ip):
        raise ValueError(
            f"{text!r}: must be a unicast address that is neither loopback, link-local nor unspecified"
        )
    if not slash:
        return VirtualAddress(ip, ipaddress.ip_network(ip))
    prefix_length = _prefix_length(length, text, ip)
    network = ipaddress.ip_network((ip, prefix_length), strict=False)
    if not _is_host_of(ip, network):
        raise ValueError(
            f"{text!r}: must not be the first or the last address of its own network {network}: "
            "these belong to the network, not to a host"
        )
    return VirtualAddress(ip, network)


def parse_all(texts: Iterable[str]) -> tuple[VirtualAddress, ...]:
    """Read a VirtualIP's addresses; raises `ValueError` at the first bad or repeated one."""
    addresses: list[VirtualAddress] = []
    for text in texts:
        address = parse(text)
        if any(address.ip == other.ip for other in addresses):
            raise ValueError(f"{text!r}: must not repeat an address of the same VirtualIP")
        addresses.append(address)
    return tuple(addresses)


def parse_range(text: str) -> IPNetwork:
    """Read one of `FailoverDomain.spec.allowedAddresses`: a canonical network without host bits."""
    host, slash, length = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r}: must be a network such as '192.0.2.0/24' or '2001:db8::/64'")
    ip = _canonical_ip(host)
    network = ipaddress.ip_network((ip, _range_length(length, text, ip)), strict=False)
    if network.network_address != ip:
        raise ValueError(f"{text!r}: must not have host bits: write '{network}'")
    return network


def outside(addresses: Iterable[VirtualAddress], allowed: Iterable[IPNetwork]) -> tuple[VirtualAddress, ...]:
    """Return the addresses that lie in none of the allowed ranges; no ranges at all allow every address."""
    ranges = tuple(allowed)
    if not ranges:
        return ()
    return tuple(address for address in addresses if not any(address.ip in network for network in ranges))


def _canonical_ip(host: str) -> IPAddress:
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(
            f"{host!r}: must be an IPv4 or IPv6 address such as '192.0.2.10' or '2001:db8::10'"
        ) from None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            raise ValueError(f"{host!r}: must not have a zone: name the `interface` instead")
        if ip.ipv4_mapped is not None:
            raise ValueError(f"{host!r}: must not be an IPv4-mapped address: write '{ip.ipv4_mapped}'")
    if str(ip) != host:
        raise ValueError(f"{host!r}: must be in canonical form: write '{ip}'")
    return ip


def _is_host_unicast(ip: IPAddress) -> bool:
    is_broadcast = ip == ipaddress.IPv4Address("255.255.255.255")
    return not (ip.is_multicast or ip.is_loopback or ip.is_link_local or ip.is_unspecified or is_broadcast)


def _prefix_length(length: str, text: str, ip: IPAddress) -> int:
    longest = ip.max_prefixlen
    if (
        not (length.isascii() and length.isdigit() and len(length) <= len(str(longest)))
        or length != str(int(length))
        or not 1 <= int(length) <= longest
    ):
        raise ValueError(f"{text!r}: must have a prefix length from 1 to {longest}")
    return int(length)


def _range_length(length: str, text: str, ip: IPAddress) -> int:
    if length == "0":
        return 0
    return _prefix_length(length, text, ip)


def _is_host_of(ip: IPAddress, network: IPNetwork) -> bool:
    # RFC 3021: both addresses of a /31 are hosts; RFC 6164 says the same of a /127.
    if network.prefixlen >= ip.max_prefixlen - 1:
        return True
    if ip == network.network_address:
        return False  # RFC 4291, 2.6.1: for IPv6 this is the routers' anycast address
    return not (isinstance(ip, ipaddress.IPv4Address) and ip == network.broadcast_address)
