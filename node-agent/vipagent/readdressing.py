"""Readdressing: the frames of an announcement for another MAC address, without building them anew.

A link's MAC address may change under a held address (a bond or a bridge with another port, an operator).
From that moment each neighbour sends to a MAC address that nobody has, and building frames takes a second
and more (`vipagent.frames`). Where the MAC address stands in them is fixed: as the Ethernet source, and as
ARP's sender hardware address or in the one option of a neighbour advertisement or solicitation; a probe
for an IPv6 address has no option.
"""

from __future__ import annotations

import struct
from typing import Final

_ARP: Final = b"\x08\x06"
_ICMPV6: Final = 58
_ETHERNET_SOURCE, _ETHERNET_TYPE, _ARP_SENDER = slice(6, 12), slice(12, 14), slice(22, 28)
_IPV6_ADDRESSES, _ICMPV6_START, _CHECKSUM, _OPTION_MAC = slice(22, 54), 54, slice(56, 58), slice(80, 86)


def readdressed(frame: bytes, mac: str) -> bytes:
    """Return a frame of `vipagent.frames` as it is for another MAC address, `02:00:…`."""
    packed = bytes.fromhex(mac.replace(":", ""))
    changed = bytearray(frame)
    changed[_ETHERNET_SOURCE] = packed
    if changed[_ETHERNET_TYPE] == _ARP:
        changed[_ARP_SENDER] = packed
    elif len(changed) >= _OPTION_MAC.stop:
        changed[_OPTION_MAC] = packed
        changed[_CHECKSUM] = bytes(2)
        changed[_CHECKSUM] = _icmpv6_checksum(bytes(changed))
    return bytes(changed)


def _icmpv6_checksum(frame: bytes) -> bytes:
    """Return the checksum of RFC 4443, 2.3 over a frame whose checksum is 0."""
    message = frame[_ICMPV6_START:]
    summed = frame[_IPV6_ADDRESSES] + struct.pack("!II", len(message), _ICMPV6) + message
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
