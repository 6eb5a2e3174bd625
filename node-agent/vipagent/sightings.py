"""Sightings: what a frame from the segment says about who has an address; the pure half of `listener`.

Three kinds of frames tell it, each read to the byte and never further than it is long:

| frame | who has an address | source |
|---|---|---|
| ARP, request or reply | its sender, when its sender address is the address | RFC 826, RFC 5227 2.4 |
| neighbour advertisement | its target link-layer address, or else the frame's source | RFC 4861, 7.2.5 |
| VRRP advert, version 2 or 3 | the router that sent it, for every address in its list | RFC 3768, RFC 5798 |

A question is no claim: who asks *for* an address, or probes whether it is free (an ARP sender of zero, a
solicitation from `::`), does not have it, and the kernel answers if this node does. A VRRP advert of
priority 0 is a router that resigns. Adverts and advertisements come with a hop limit of 255, or somebody
beyond a router made them; ARP does not pass one.

The bytes come from whoever is on the segment. Whatever is wrong with them, the answer is that nothing was
seen. Checksums are not looked at: where the sender is a guest of the same machine the kernel leaves them to
be filled in by hardware that the frame never meets, and who lies about an address can also add.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

    from vipagent.nodeview import IPAddress

ARP_PROTOCOL: Final = 0x0806
IPV4_PROTOCOL: Final = 0x0800
IPV6_PROTOCOL: Final = 0x86DD

_ETHERNET: Final = 14
_ARP_OVER_ETHERNET: Final = bytes.fromhex("000108000604")
_ARP_LENGTH: Final = 28
_NO_ADDRESS: Final = bytes(4)
_LEAST_IPV4_HEADER: Final = 20
_FRAGMENT_BITS: Final = 0x3FFF
_IPV6_HEADER: Final = 40
_HOP_LIMIT: Final = 255
_ICMPV6, _VRRP = 58, 112
_ADVERTISEMENT: Final = 136
_ADVERTISEMENT_LENGTH: Final = 24
_TARGET_LINK_LAYER_ADDRESS: Final = 2
_ETHERNET_OPTION: Final = 8
_VRRP_HEADER: Final = 8
_VRRP_ADVERT: Final = 1
_VRRP_VERSIONS: Final = (2, 3)
_VIRTUAL_ROUTERS: Final = ("00:00:5e:00:01:", "00:00:5e:00:02:")


@dataclass(frozen=True, slots=True)
class Sighting:
    """Somebody has an address: a MAC address, or a VRRP router by its own address and its VRID.

    `is_answer` is that it was said to who had just asked with a probe, so it cannot be older than that.
    """

    address: IPAddress
    mac: str
    router: IPAddress | None = None
    vrid: int | None = None
    is_answer: bool = False


def read(protocol: int, frame: bytes, ours: Container[bytes]) -> tuple[Sighting, ...]:
    """Return what an Ethernet frame of ARP, IPv4 or IPv6 says about who has which of `ours`, each once.

    `ours` are packed addresses. Nothing is made for any other: an advert can name 255 of them.
    """
    body = frame[_ETHERNET:]
    if protocol == ARP_PROTOCOL:
        return _read_arp(body, ours)
    if protocol == IPV4_PROTOCOL:
        return _read_ipv4(frame[6:12], body, ours)
    return _read_ipv6(frame[6:12], body, ours) if protocol == IPV6_PROTOCOL else ()


def _read_arp(body: bytes, ours: Container[bytes]) -> tuple[Sighting, ...]:
    if len(body) < _ARP_LENGTH or body[:6] != _ARP_OVER_ETHERNET:
        return ()
    mac, sender, target = body[8:14], body[14:18], body[24:28]
    if sender == _NO_ADDRESS or sender not in ours:
        return ()
    return (_sighting(IPv4Address(sender), mac, is_answer=target == _NO_ADDRESS),)


def _read_ipv4(source_mac: bytes, body: bytes, ours: Container[bytes]) -> tuple[Sighting, ...]:
    if len(body) < _LEAST_IPV4_HEADER:
        return ()
    header = (body[0] & 0x0F) * 4
    is_fragment = int.from_bytes(body[6:8]) & _FRAGMENT_BITS
    if body[0] >> 4 != 4 or header < _LEAST_IPV4_HEADER or is_fragment:  # noqa: PLR2004 - the IP version
        return ()
    if body[8] != _HOP_LIMIT or body[9] != _VRRP:
        return ()
    end = int.from_bytes(body[2:4])
    return tuple(_read_advert(IPv4Address(body[12:16]), source_mac, body[header:end], ours))


def _read_ipv6(source_mac: bytes, body: bytes, ours: Container[bytes]) -> tuple[Sighting, ...]:
    if len(body) < _IPV6_HEADER or body[0] >> 4 != 6 or body[7] != _HOP_LIMIT:  # noqa: PLR2004 - the IP version
        return ()
    payload = body[_IPV6_HEADER : _IPV6_HEADER + int.from_bytes(body[4:6])]
    if body[6] == _VRRP:
        return tuple(_read_advert(IPv6Address(body[8:24]), source_mac, payload, ours))
    is_advertisement = body[6] == _ICMPV6 and payload[:2] == bytes([_ADVERTISEMENT, 0])
    if not is_advertisement or len(payload) < _ADVERTISEMENT_LENGTH or payload[8:24] not in ours:
        return ()
    mac = _target_link_layer_address(payload[_ADVERTISEMENT_LENGTH:]) or source_mac
    return (_sighting(IPv6Address(payload[8:24]), mac),)


def _target_link_layer_address(options: bytes) -> bytes | None:
    while len(options) >= _ETHERNET_OPTION:
        kind, length = options[0], options[1] * 8
        if length == 0:
            return None
        if kind == _TARGET_LINK_LAYER_ADDRESS and length == _ETHERNET_OPTION:
            return options[2:8]
        options = options[length:]
    return None


def _read_advert(
    router: IPAddress, source_mac: bytes, advert: bytes, ours: Container[bytes]
) -> Iterator[Sighting]:
    if len(advert) < _VRRP_HEADER or advert[0] & 0x0F != _VRRP_ADVERT or advert[0] >> 4 not in _VRRP_VERSIONS:
        return
    vrid, priority, count = advert[1], advert[2], advert[3]
    size = len(router.packed)
    if priority == 0 or len(advert) < _VRRP_HEADER + count * size:
        return
    end = _VRRP_HEADER + count * size
    listed = dict.fromkeys(advert[start : start + size] for start in range(_VRRP_HEADER, end, size))
    for packed in listed:
        if packed in ours:
            yield _sighting(type(router)(packed), source_mac, router=router, vrid=vrid)


def _sighting(
    address: IPAddress,
    mac: bytes,
    *,
    router: IPAddress | None = None,
    vrid: int | None = None,
    is_answer: bool = False,
) -> Sighting:
    text = mac.hex(":")
    if vrid is None and text.startswith(_VIRTUAL_ROUTERS):
        vrid = mac[5]  # RFC 5798, 7.3: a virtual router's MAC address ends with its VRID
    return Sighting(address, text, router, vrid, is_answer)
