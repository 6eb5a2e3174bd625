"""Filters: which packets of a closed address the kernel drops; three BPF programs.

Each program looks at one packet, finds the addresses that it speaks for or asks for, and drops the
packet if one of them is *closed*: present in the fence's map with a deadline that is not in the
future of CLOCK_BOOTTIME. An address that is not in the map is none of ours and passes, always; so
does a packet that only mentions a closed address as its peer, so that a standby node can itself be
a client of the address.

| packet | carrier, ingress | carrier, egress | other link, egress |
|---|---|---|---|
| ARP | target closed, unless the sender is the same address | sender closed | sender closed |
| IPv4, IPv6 | destination closed | source closed | source closed and made on this node |
| neighbour solicitation | target closed | | |
| neighbour advertisement | | target closed | target closed |

The exception for ARP lets a new owner's gratuitous ARP (target = sender = the address) in, without
which every other candidate would keep the old owner's MAC address; unsolicited neighbour
advertisements are never dropped on their way in for the same reason.

A *carrier* is a link that an address may be bound on. On the others (the kernel answers ARP for any
of its addresses on any link) nothing that this node itself says may leave, but what it forwards must:
the owner's replies to a pod of this node come in on the carrier and leave on the pod's side with the
address as their source. A packet that came in has an ingress interface; one made here has none.
Carriers stop the forwarded too: a reply that kube-proxy translated back to the address leaves there.

What is covered, and why the rest may pass:
- Offsets count from the network header, so the link's own header (none on a tunnel) never matters. A
  VLAN tag is already out of the packet where tc sees it; a second tag is judged on the VLAN's own link.
- IPv4 options stand behind the addresses and do not move them; every fragment carries the addresses.
- For neighbour discovery up to four IPv6 extension headers (hop-by-hop, routing, destination options) are
  walked. Linux sends it with none; a solicitation behind more passes in, and the answer is still stopped.
- A fragmented neighbour discovery packet passes; the kernel ignores those (RFC 6980).
- A packet too short to hold the field is passed: the kernel itself drops an ARP packet under 28
  bytes, an IP packet without its whole header and a solicitation under 24 bytes, so none is answered.
- A packet whose headers lie in fragments of its buffer is pulled together and read again.
- ARP is read with Ethernet's six-byte hardware addresses; other links cannot be carriers.
"""

from __future__ import annotations

import sys

from vipagent.bytecode import Program, Register, Size

PASS = -1
"""TC_ACT_UNSPEC: no verdict of ours, the next filter decides."""
DROP = 2
"""TC_ACT_SHOT."""

LICENSE = "Dual MIT/GPL"

_R0, _R1, _R2, _R3, _R4, _R5 = (Register(n) for n in range(6))
_PACKET, _NEXT_HEADER, _OFFSET = Register.R6, Register.R7, Register.R8

# struct __sk_buff of linux/bpf.h
_SKB_LENGTH, _SKB_PROTOCOL, _SKB_INGRESS_IFINDEX = 0, 16, 36

# linux/bpf.h: helpers by number
_MAP_LOOKUP, _PULL_DATA, _LOAD_BYTES_RELATIVE, _KTIME_GET_BOOT_NS = 1, 39, 68, 125
_FROM_NETWORK_HEADER = 1
_LONGEST_HEADERS = 256

# On the stack, from its end: the map's key (an IPv6 address, or an IPv4 one mapped into IPv6), an ARP
# sender, and two bytes of an extension header.
_KEY, _KEY_IPV4, _SENDER, _EXTENSION = -16, -4, -24, -32

_ARP_SENDER, _ARP_TARGET = 14, 24
_IPV4_SOURCE, _IPV4_DESTINATION = 12, 16
_IPV6_NEXT_HEADER, _IPV6_SOURCE, _IPV6_DESTINATION, _IPV6_LENGTH = 6, 8, 24, 40
_NDP_TARGET = 8
_HOP_BY_HOP, _ROUTING, _ICMPV6, _DESTINATION_OPTIONS = 0, 43, 58, 60
_SOLICITATION, _ADVERTISEMENT = 135, 136
_EXTENSION_HEADERS = 4


def _big_endian(number: bytes) -> int:
    """Return what the kernel's big-endian field looks like to a load in the machine's byte order."""
    return int.from_bytes(number, sys.byteorder)


_ARP_PROTOCOL = _big_endian(b"\x08\x06")
_IPV4_PROTOCOL = _big_endian(b"\x08\x00")
_IPV6_PROTOCOL = _big_endian(b"\x86\xdd")
_MAPPED = int.from_bytes(b"\x00\x00\xff\xff", sys.byteorder, signed=True)


def ingress(map_fd: int) -> bytes:
    """Return the program for packets that come in on a carrier."""
    program = _begin()
    program.label("arp")
    _fetch(program, _ARP_SENDER, 4, _SENDER)
    _fetch(program, _ARP_TARGET, 4, _KEY_IPV4)
    program.load(_R2, Register.STACK_END, _SENDER, Size.WORD)
    program.load(_R3, Register.STACK_END, _KEY_IPV4, Size.WORD)
    program.jump_if_same(_R2, _R3, "pass")
    _drop_if_ipv4_closed(program)
    program.label("ipv4")
    _fetch(program, _IPV4_DESTINATION, 4, _KEY_IPV4)
    _drop_if_ipv4_closed(program)
    program.label("ipv6")
    _fetch(program, _IPV6_DESTINATION, 16, _KEY)
    _drop_if_closed(program)
    _drop_neighbour_discovery(program, _SOLICITATION)
    return _end(program, map_fd)


def egress(map_fd: int) -> bytes:
    """Return the program for packets that leave by a carrier."""
    program = _begin()
    program.label("arp")
    _fetch(program, _ARP_SENDER, 4, _KEY_IPV4)
    _drop_if_ipv4_closed(program)
    program.label("ipv4")
    _fetch(program, _IPV4_SOURCE, 4, _KEY_IPV4)
    _drop_if_ipv4_closed(program)
    program.label("ipv6")
    _fetch(program, _IPV6_SOURCE, 16, _KEY)
    _drop_if_closed(program)
    _drop_neighbour_discovery(program, _ADVERTISEMENT)
    return _end(program, map_fd)


def other_egress(map_fd: int) -> bytes:
    """Return the program for packets that leave by a link that is no carrier."""
    program = _begin()
    program.label("arp")
    _fetch(program, _ARP_SENDER, 4, _KEY_IPV4)
    _drop_if_ipv4_closed(program)
    program.label("ipv4")
    _pass_if_forwarded(program)
    _fetch(program, _IPV4_SOURCE, 4, _KEY_IPV4)
    _drop_if_ipv4_closed(program)
    program.label("ipv6")
    _pass_if_forwarded(program)
    _fetch(program, _IPV6_SOURCE, 16, _KEY)
    _drop_if_closed(program)
    _drop_neighbour_discovery(program, _ADVERTISEMENT)
    return _end(program, map_fd)


def _begin() -> Program:
    program = Program()
    program.copy(_PACKET, _R1)
    program.load(_R2, _PACKET, _SKB_PROTOCOL, Size.WORD)
    program.jump_if_equal(_R2, _IPV4_PROTOCOL, "ipv4")
    program.jump_if_equal(_R2, _IPV6_PROTOCOL, "ipv6")
    program.jump_if_equal(_R2, _ARP_PROTOCOL, "arp")
    program.jump("pass")
    return program


def _end(program: Program, map_fd: int) -> bytes:
    program.label("pass")
    program.set(_R0, PASS)
    program.exit()
    program.label("drop")
    program.set(_R0, DROP)
    program.exit()
    _define_fetch(program)
    _define_is_closed(program, map_fd)
    return program.encode()


def _fetch(program: Program, offset: int | Register, size: int, into: int) -> None:
    """Copy part of the packet to the stack; a packet that is too short passes."""
    program.copy(_R1, _PACKET)
    if isinstance(offset, Register):
        program.copy(_R2, offset)
    else:
        program.set(_R2, offset)
    program.copy(_R3, Register.STACK_END)
    program.add(_R3, into)
    program.set(_R4, size)
    program.call_own("fetch")
    program.jump_if_not_equal(_R0, 0, "pass")


def _drop_if_ipv4_closed(program: Program) -> None:
    """Judge the IPv4 address in the key's last four bytes; the verdict is final."""
    program.store(Register.STACK_END, _KEY, 0, Size.DOUBLE)
    program.store(Register.STACK_END, _KEY + 8, _MAPPED, Size.WORD)
    _drop_if_closed(program)
    program.jump("pass")


def _drop_if_closed(program: Program) -> None:
    program.copy(_R1, Register.STACK_END)
    program.add(_R1, _KEY)
    program.call_own("is_closed")
    program.jump_if_not_equal(_R0, 0, "drop")


def _pass_if_forwarded(program: Program) -> None:
    program.load(_R2, _PACKET, _SKB_INGRESS_IFINDEX, Size.WORD)
    program.jump_if_not_equal(_R2, 0, "pass")


def _drop_neighbour_discovery(program: Program, kind: int) -> None:
    """Walk the extension headers to an ICMPv6 message of this kind and judge its target."""
    _fetch(program, _IPV6_NEXT_HEADER, 1, _EXTENSION)
    program.load(_NEXT_HEADER, Register.STACK_END, _EXTENSION, Size.BYTE)
    program.set(_OFFSET, _IPV6_LENGTH)
    for count in range(_EXTENSION_HEADERS):
        program.jump_if_equal(_NEXT_HEADER, _ICMPV6, "icmpv6")
        for header in (_HOP_BY_HOP, _ROUTING, _DESTINATION_OPTIONS):
            program.jump_if_equal(_NEXT_HEADER, header, f"extension {count}")
        program.jump("pass")
        program.label(f"extension {count}")
        # RFC 8200, 4.3: next header, then the length in eights of bytes beyond the first eight
        _fetch(program, _OFFSET, 2, _EXTENSION)
        program.load(_NEXT_HEADER, Register.STACK_END, _EXTENSION, Size.BYTE)
        program.load(_R2, Register.STACK_END, _EXTENSION + 1, Size.BYTE)
        program.add(_R2, 1)
        program.shift_left(_R2, 3)
        program.add_register(_OFFSET, _R2)
    program.jump_if_not_equal(_NEXT_HEADER, _ICMPV6, "pass")
    program.label("icmpv6")
    _fetch(program, _OFFSET, 1, _EXTENSION)
    program.load(_R2, Register.STACK_END, _EXTENSION, Size.BYTE)
    program.jump_if_not_equal(_R2, kind, "pass")
    program.add(_OFFSET, _NDP_TARGET)
    _fetch(program, _OFFSET, 16, _KEY)
    _drop_if_closed(program)
    program.jump("pass")


def _define_fetch(program: Program) -> None:
    """Define fetch(packet, offset, to, size): 0, or an error if the packet has no such part.

    The helper reads only the buffer's linear part; where that is too short the headers are pulled
    into it and read again.
    """
    packet, offset, to, size = (Register(n) for n in (6, 7, 8, 9))
    program.label("fetch")
    for kept, argument in ((packet, _R1), (offset, _R2), (to, _R3), (size, _R4)):
        program.copy(kept, argument)
    program.set(_R5, _FROM_NETWORK_HEADER)
    program.call(_LOAD_BYTES_RELATIVE)
    program.jump_if_equal(_R0, 0, "fetched")
    program.copy(_R1, packet)
    program.load(_R2, packet, _SKB_LENGTH, Size.WORD)
    program.jump_if_at_most(_R2, _LONGEST_HEADERS, "short packet")
    program.set(_R2, _LONGEST_HEADERS)
    program.label("short packet")
    program.call(_PULL_DATA)
    for argument, kept in ((_R1, packet), (_R2, offset), (_R3, to), (_R4, size)):
        program.copy(argument, kept)
    program.set(_R5, _FROM_NETWORK_HEADER)
    program.call(_LOAD_BYTES_RELATIVE)
    program.label("fetched")
    program.exit()


def _define_is_closed(program: Program, map_fd: int) -> None:
    """Define is_closed(key): 1 if the map has the address with a deadline that has come.

    The clock is read after the deadline, so that a delay in between can only close.
    """
    deadline = Register.R6
    program.label("is_closed")
    program.copy(_R2, _R1)
    program.map_address(_R1, map_fd)
    program.call(_MAP_LOOKUP)
    program.jump_if_equal(_R0, 0, "unknown address")
    program.load(deadline, _R0, 0, Size.DOUBLE)
    program.call(_KTIME_GET_BOOT_NS)
    program.copy(_R2, _R0)
    program.set(_R0, 0)
    program.jump_if_above(deadline, _R2, "unknown address")
    program.set(_R0, 1)
    program.label("unknown address")
    program.exit()
