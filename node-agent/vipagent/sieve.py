"""Sieve: the classic BPF programs that let through to `listener` only frames about our addresses.

They run in the kernel for every frame of their protocol on a link, so that a flood about other addresses
costs the keeper nothing. A sorted list of addresses becomes a tree of comparisons: three hundred addresses
are about ten steps. For IPv6 only the last 32 bits of the target are compared; who reads compares the rest.

| protocol | what passes |
|---|---|
| ARP | the sender's address is one of ours: a claim. Questions for ours, of which there are many, do not |
| IPv6 | neighbour advertisements for one of ours, and VRRP |
| IPv4 | VRRP |

VRRP adverts carry lists, which such a program cannot search: all of them pass, and there are few.

The kernel charges a program to its socket, twice while one replaces another, and makes two instructions of
one that compares with a high address; `MOST_INSTRUCTIONS` fits into the 20,480 bytes that
`net.core.optmem_max` has been for long. What passes with more addresses than that (`coarse`) is everything
between the lowest and the highest of them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from vipagent.sightings import ARP_PROTOCOL, IPV4_PROTOCOL, IPV6_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.nodeview import IPAddress

LONGEST_FRAME: Final = 1600
"""How many bytes of a frame are kept: a VRRP advert with 255 IPv4 addresses has up to 1,070."""
MOST_INSTRUCTIONS: Final = 600

Instruction = tuple[int, int, int, int]

# linux/bpf_common.h
_LOAD_WORD, _LOAD_BYTE = 0x20, 0x30
_JUMP, _JUMP_IF_EQUAL, _JUMP_IF_GREATER, _JUMP_IF_AT_LEAST = 0x05, 0x15, 0x25, 0x35
_RETURN = 0x06

_ARP_SENDER: Final = 14 + 14
_IPV4_HEADER_PROTOCOL: Final = 14 + 9
_IPV6_NEXT_HEADER: Final = 14 + 6
_ICMPV6_TYPE: Final = 14 + 40
_TARGET_LAST_WORD: Final = 14 + 40 + 8 + 12
_ICMPV6, _VRRP, _ADVERTISEMENT = 58, 112, 136
_LEAF: Final = 8

_SEARCHED: Final = {ARP_PROTOCOL: 4, IPV6_PROTOCOL: 6}
"""The IP version of the addresses that a protocol's frames are searched for."""

_PASS: Final[Instruction] = (_RETURN, 0, 0, LONGEST_FRAME)
_DROP: Final[Instruction] = (_RETURN, 0, 0, 0)


def exact(protocol: int, addresses: Iterable[IPAddress]) -> bytes | None:
    """Return the program for one protocol as an array of `struct sock_filter`; None if it gets too long."""
    words = _words(protocol, addresses)
    instructions = [*_HEADS[protocol], *(_search(words) if words else [_DROP])]
    return _encode(instructions) if len(instructions) <= MOST_INSTRUCTIONS else None


def coarse(protocol: int, addresses: Iterable[IPAddress]) -> bytes:
    """Return a short program that lets through all that `exact` does, and what lies between."""
    words = _words(protocol, addresses)
    if not words:
        return _encode([*_HEADS[protocol], _DROP])
    between = [(_JUMP_IF_AT_LEAST, 0, 1, words[0]), (_JUMP_IF_GREATER, 0, 1, words[-1])]
    return _encode([*_HEADS[protocol], *between, _DROP, _PASS])


def _words(protocol: int, addresses: Iterable[IPAddress]) -> list[int]:
    version = _SEARCHED.get(protocol)
    return sorted({int(address) & 0xFFFFFFFF for address in addresses if address.version == version})


def _encode(instructions: list[Instruction]) -> bytes:
    return b"".join(struct.pack("=HBBI", *each) for each in instructions)


_HEADS: Final[dict[int, list[Instruction]]] = {
    ARP_PROTOCOL: [(_LOAD_WORD, 0, 0, _ARP_SENDER)],
    IPV4_PROTOCOL: [(_LOAD_BYTE, 0, 0, _IPV4_HEADER_PROTOCOL), (_JUMP_IF_EQUAL, 0, 1, _VRRP), _PASS],
    IPV6_PROTOCOL: [
        (_LOAD_BYTE, 0, 0, _IPV6_NEXT_HEADER),
        (_JUMP_IF_EQUAL, 0, 1, _VRRP),
        _PASS,
        (_JUMP_IF_EQUAL, 1, 0, _ICMPV6),
        _DROP,
        (_LOAD_BYTE, 0, 0, _ICMPV6_TYPE),
        (_JUMP_IF_EQUAL, 1, 0, _ADVERTISEMENT),
        _DROP,
        (_LOAD_WORD, 0, 0, _TARGET_LAST_WORD),
    ],
}


def _search(words: list[int]) -> list[Instruction]:
    """Return instructions that pass a packet whose loaded word is one of these, and drop any other."""
    if len(words) <= _LEAF:
        steps = [(_JUMP_IF_EQUAL, len(words) - place, 0, word) for place, word in enumerate(words)]
        return [*steps, _DROP, _PASS]
    middle = len(words) // 2
    lower, upper = _search(words[:middle]), _search(words[middle:])
    return [(_JUMP_IF_AT_LEAST, 0, 1, words[middle]), (_JUMP, 0, 0, len(lower)), *lower, *upper]


NOTHING: Final = _encode([_DROP])
"""The program that lets nothing through."""
