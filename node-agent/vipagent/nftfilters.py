"""nftfilters: the fence as nftables: which packets of a closed address are dropped where there is no BPF.

The table of packets is that of `vipagent.filters`. Two tables of ours, both named `vipkeeper`, stand in
the network namespace of the node, and every change is one batch over both:

    netdev   a chain for each direction of each guarded link, first at its hook: what comes in on a carrier
             and leaves by it, and what ARP and neighbour discovery say on other links
    inet     at the hook `output`, last of all: what this node itself makes, whatever link but loopback it
             leaves by. What it forwards, as a router or as a bridge for its guests, never comes there, nor
             does it matter what source NAT makes of a packet: of carriers the egress chain sees that

In both, the map `known` leads from each address to a chain of its own, which says whether it is open:

    the wall clock is between the last change and the deadline,
    and the address is in the set `open`                          → return: the packet goes on
    else                                                          → drop

**Two clocks.** An element of `open` ends by itself, counted by the kernel from when it was put there: the
time that is left is worked out a moment before, and whatever delays the change in between (a process that
is frozen, another program's long reload that has the ruleset locked) would move the end by as much. The
wall clock is the one absolute clock that nftables can compare with; but it can be set. Both must agree: a
late change finds its deadline passed on the wall clock. A clock that is set forward, or back to before the
change, closes an address until the next renewal; one that is set back by less finds the element gone in time.
Only the two at once, a change held up and a clock set back meanwhile by nearly as much, could keep an address
open for longer, by what was left of its lease when the change was begun.

**Ticks.** The kernel counts an element's time in ticks (CONFIG_HZ) and rounds each part of it down, so the
element, not the wall clock, ends an address: up to two ticks and a millisecond before its deadline. Rounding
up would end it on the deadline, and after it where the clock was set back: early is the safe side.

An address without a chain passes: it is none of ours. It fails closed otherwise: no element, no traffic.

The set `gratuitous` has each IPv4 address twice in a row, sender and target of an ARP packet that a new owner
sends: such a packet passes on its way in.

What differs from the programs of `filters`:
- A raw packet socket that sends IP from a closed address by a link that is no carrier is not stopped.
- The node's ends of pods' links are stopped too for what this node itself says.
- nftables walks any number of IPv6 extension headers.
- A tc or XDP program sees what comes in first, and may take it away before the fence. What leaves passes the
  fence before tc, but for what a tc or XDP program redirects to a link, from wherever: that skips egress.
  `kernel.Kernel.guarded` refuses carriers with such programs; those of other links it does not look for.
- What source NAT gives a closed address is stopped on carriers only.
"""

from __future__ import annotations

import sys
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from vipagent.nftables import (
    EGRESS,
    FIRST,
    INET,
    INGRESS,
    KEY,
    LAST,
    MAP,
    NETDEV,
    OUTPUT,
    SCRATCH,
    TIMEOUT,
    WORDS,
    Comparison,
    Header,
    Meta,
    add_base_chain,
    add_chain,
    add_elements,
    add_rule,
    add_set,
    add_table,
    compare,
    delete_chain,
    delete_elements,
    delete_rules,
    delete_table,
    drop,
    element,
    is_element,
    jump,
    jump_by,
    leave_chain,
    load_meta,
    load_payload,
    load_value,
    to_big_endian,
)
from vipagent.nodeview import GuardRole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from vipagent.nodeview import IPAddress

TABLE: Final = "vipkeeper"
FAMILIES: Final = (NETDEV, INET)
KNOWN, OPEN, GRATUITOUS = "known", "open", "gratuitous"

_SHORTEST_MS: Final = 20
"""Less than that is closed: the kernel counts ticks of up to 10 ms, and takes none of them for "for ever"."""

_SINCE, _BEFORE, _TIMEOUT = b"<since->", b"<before>", b"<timeout"
"""Where the numbers go that change with each refresh, eight bytes each: the rest is written only once."""

_ARRIVE, _DEPART, _SAY, _MAKE = "arrive", "depart", "say", "make"
_ARP, _IPV4, _IPV6 = b"\x08\x06", b"\x08\x00", b"\x86\xdd"
_MAPPED: Final = b"\x00\x00\xff\xff"
_ICMPV6, _SOLICITATION, _ADVERTISEMENT = b"\x3a", b"\x87", b"\x88"
_ARP_SENDER, _ARP_TARGET = 14, 24
_IPV4_SOURCE, _IPV4_DESTINATION = 12, 16
_IPV6_SOURCE, _IPV6_DESTINATION = 8, 24
_NDP_TARGET: Final = 8
_LOOPBACK: Final = (1).to_bytes(4, sys.byteorder)
"""The index that loopback has in every network namespace, as a packet's link is loaded."""


def key(address: IPAddress) -> bytes:
    """Return an address as the sets have it: 16 bytes, an IPv4 address mapped into IPv6."""
    return bytes(8) + _MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def address_of(packed: bytes) -> IPAddress:
    """Return the address that a key is of."""
    mapped = bytes(8) + _MAPPED
    return IPv4Address(packed[12:]) if packed.startswith(mapped) else IPv6Address(packed)


def chain_of(address: IPAddress) -> str:
    """Name the chain of an address, so that `nft` can read it back too."""
    return f"vip-{address.exploded.replace(':', '-')}"


def timeout_ms(left_ns: int) -> int:
    """Return for how long an element opens an address, never for longer than this; 0 is not at all."""
    left_ms = left_ns // 1_000_000
    return left_ms if left_ms >= _SHORTEST_MS else 0


def install(
    deadlines: Mapping[IPAddress, int],
    guards: Iterable[tuple[int, str, GuardRole]],
    *,
    now_ns: int,
    wall_ns: int,
    table_flags: int = 0,
) -> Iterator[bytes]:
    """Make both tables afresh in place of what is there, with all addresses and guarded links.

    `deadlines` and `now_ns` are CLOCK_BOOTTIME, `wall_ns` is the wall clock at `now_ns`. A link is given by
    its index and name.
    """
    for family in FAMILIES:
        yield from remove(family)
        yield add_table(family, TABLE, flags=table_flags)
        yield add_set(family, TABLE, KNOWN, key_bytes=16, flags=MAP)
        yield add_set(family, TABLE, OPEN, key_bytes=16, flags=TIMEOUT)
    yield add_set(NETDEV, TABLE, GRATUITOUS, key_bytes=8)
    yield from _rules()
    yield from learn(deadlines)
    for address, deadline_ns in deadlines.items():
        yield from admit([address], deadline_ns, now_ns=now_ns, wall_ns=wall_ns)
    for index, name, role in guards:
        yield from guard(index, name, role)


def trial(table_flags: int = 0) -> Iterator[bytes]:
    """Make and remove, in one batch and so unseen, one of everything; on loopback, which every node has."""
    trial = f"{TABLE}-trial"
    yield add_table(NETDEV, trial, flags=table_flags)
    for chain, hook in (("in", INGRESS), ("out", EGRESS)):
        yield add_base_chain(NETDEV, trial, chain, hook=hook, priority=FIRST, link="lo")
    yield add_set(NETDEV, trial, OPEN, key_bytes=16, flags=TIMEOUT)
    yield delete_table(NETDEV, trial)
    yield add_table(INET, trial, flags=table_flags)
    yield add_base_chain(INET, trial, _MAKE, hook=OUTPUT, priority=LAST)
    yield delete_table(INET, trial)


def remove(family: int) -> Iterator[bytes]:
    """Remove our table of a family; one that is not there is made first, so that the batch goes through."""
    yield add_table(family, TABLE)
    yield delete_table(family, TABLE)


def _rules() -> Iterator[bytes]:
    for chain in (_ARRIVE, _DEPART, _SAY):
        yield add_chain(NETDEV, TABLE, chain)
    same = (
        load_payload(Header.NETWORK, _ARP_SENDER, 4, WORDS[0]),
        load_payload(Header.NETWORK, _ARP_TARGET, 4, WORDS[1]),
        is_element(GRATUITOUS, WORDS[0]),
    )
    rules = (
        (_ARRIVE, _ARP, (*same, leave_chain())),
        (_ARRIVE, _ARP, _judge(Header.NETWORK, _ARP_TARGET, 4)),
        (_ARRIVE, _IPV4, _judge(Header.NETWORK, _IPV4_DESTINATION, 4)),
        (_ARRIVE, _IPV6, _judge(Header.NETWORK, _IPV6_DESTINATION, 16)),
        (_ARRIVE, _IPV6, _neighbour_discovery(_SOLICITATION)),
        (_DEPART, _ARP, _judge(Header.NETWORK, _ARP_SENDER, 4)),
        (_DEPART, _IPV4, _judge(Header.NETWORK, _IPV4_SOURCE, 4)),
        (_DEPART, _IPV6, _judge(Header.NETWORK, _IPV6_SOURCE, 16)),
        (_DEPART, _IPV6, _neighbour_discovery(_ADVERTISEMENT)),
        (_SAY, _ARP, _judge(Header.NETWORK, _ARP_SENDER, 4)),
        (_SAY, _IPV6, _neighbour_discovery(_ADVERTISEMENT)),
    )
    for chain, protocol, expressions in rules:
        yield add_rule(NETDEV, TABLE, chain, *_is_protocol(protocol), *expressions)
    yield add_base_chain(INET, TABLE, _MAKE, hook=OUTPUT, priority=LAST)
    for protocol, offset, size in ((_IPV4, _IPV4_SOURCE, 4), (_IPV6, _IPV6_SOURCE, 16)):
        yield add_rule(
            INET,
            TABLE,
            _MAKE,
            *_is_protocol(protocol),
            load_meta(Meta.OUT_LINK, SCRATCH),
            compare(SCRATCH, Comparison.UNEQUAL, _LOOPBACK),
            *_judge(Header.NETWORK, offset, size),
        )


def _is_protocol(protocol: bytes) -> tuple[bytes, bytes]:
    return load_meta(Meta.PROTOCOL, SCRATCH), compare(SCRATCH, Comparison.EQUAL, protocol)


def _judge(header: Header, offset: int, size: int) -> tuple[bytes, ...]:
    if size == len(_MAPPED):
        return (
            load_value(WORDS[0], bytes(4)),
            load_value(WORDS[1], bytes(4)),
            load_value(WORDS[2], _MAPPED),
            load_payload(header, offset, 4, WORDS[3]),
            jump_by(KNOWN, KEY),
        )
    return load_payload(header, offset, size, KEY), jump_by(KNOWN, KEY)


def _neighbour_discovery(kind: bytes) -> tuple[bytes, ...]:
    return (
        load_meta(Meta.TRANSPORT_PROTOCOL, SCRATCH),
        compare(SCRATCH, Comparison.EQUAL, _ICMPV6),
        load_payload(Header.TRANSPORT, 0, 1, SCRATCH),
        compare(SCRATCH, Comparison.EQUAL, kind),
        *_judge(Header.TRANSPORT, _NDP_TARGET, 16),
    )


def learn(addresses: Iterable[IPAddress]) -> Iterator[bytes]:
    """Make addresses known that were not, each with an empty chain: `admit` must follow in the same batch."""
    addresses = list(addresses)
    for family in FAMILIES:
        for address in addresses:
            yield add_chain(family, TABLE, chain_of(address))
        known = (element(key(address), chain=chain_of(address)) for address in addresses)
        yield from add_elements(family, TABLE, KNOWN, known)
    yield from add_elements(NETDEV, TABLE, GRATUITOUS, _gratuitous(addresses))


def _gratuitous(addresses: Iterable[IPAddress]) -> list[bytes]:
    return [element(2 * address.packed) for address in addresses if isinstance(address, IPv4Address)]


def admit(addresses: Iterable[IPAddress], deadline_ns: int, *, now_ns: int, wall_ns: int) -> Iterator[bytes]:
    """Open known addresses until a deadline; one that has come, or as good as, closes them."""
    left_ms = timeout_ms(deadline_ns - now_ns)
    if not left_ms:
        yield from map(_closing, addresses)
        return
    since, before = wall_ns.to_bytes(8, "big"), (wall_ns + deadline_ns - now_ns).to_bytes(8, "big")
    timeout = left_ms.to_bytes(8, "big")
    for address in addresses:
        first, second, third, fourth, fifth, sixth = _opening(address)
        opening = (first, since, second, before, third, timeout)
        yield b"".join((*opening, fourth, since, fifth, before, sixth, timeout))


@cache
def _closing(address: IPAddress) -> bytes:
    chain = chain_of(address)
    bare = [element(key(address))]
    return b"".join(
        each
        for family in FAMILIES
        for each in (
            delete_rules(family, TABLE, chain),
            add_rule(family, TABLE, chain, drop()),
            *_emptied(family, bare),
        )
    )


@cache
def _opening(address: IPAddress) -> tuple[bytes, ...]:
    """Return what opens an address in both families, in pieces; after each comes one of the three numbers."""
    chain = chain_of(address)
    bare = [element(key(address))]
    timed = [element(key(address), timeout_ms=int.from_bytes(_TIMEOUT, "big"))]
    pieces: list[bytes] = []
    for family in FAMILIES:
        text = b"".join(
            (
                *_emptied(family, bare),
                delete_rules(family, TABLE, chain),
                add_rule(family, TABLE, chain, *_is_open(address)),
                add_rule(family, TABLE, chain, drop()),
                *add_elements(family, TABLE, OPEN, timed),
            )
        )
        first, rest = text.split(_SINCE)
        second, rest = rest.split(_BEFORE)
        third, nothing = rest.split(_TIMEOUT)
        assert not nothing, nothing
        pieces += [first, second, third]
    return tuple(pieces)


def _emptied(family: int, bare: list[bytes]) -> Iterator[bytes]:
    """One that ended is no longer there to be deleted, and one that is there would keep its end."""
    yield from add_elements(family, TABLE, OPEN, bare)
    yield from delete_elements(family, TABLE, OPEN, bare)


def _is_open(address: IPAddress) -> tuple[bytes, ...]:
    return (
        load_meta(Meta.WALL_CLOCK_NS, KEY),
        to_big_endian(KEY, 8),
        compare(KEY, Comparison.NOT_LESS, _SINCE),
        compare(KEY, Comparison.LESS, _BEFORE),
        load_value(KEY, key(address)),
        is_element(OPEN, KEY),
        leave_chain(),
    )


def forget(address: IPAddress) -> Iterator[bytes]:
    """Make a known address unknown."""
    for family in FAMILIES:
        yield from delete_elements(family, TABLE, KNOWN, [element(key(address), chain=chain_of(address))])
        yield from _emptied(family, [element(key(address))])
        yield delete_chain(family, TABLE, chain_of(address))
    if elements := _gratuitous([address]):
        yield from delete_elements(NETDEV, TABLE, GRATUITOUS, elements)


def guard_chains(index: int, role: GuardRole) -> dict[str, tuple[int, str]]:
    """Name the chains of a guarded link, each with its hook and where its packets are judged."""
    if role is GuardRole.CARRIER:
        return {f"in-{index}": (INGRESS, _ARRIVE), f"out-{index}": (EGRESS, _DEPART)}
    return {f"other-{index}": (EGRESS, _SAY)}


def guard(index: int, name: str, role: GuardRole) -> Iterator[bytes]:
    """Judge the packets of a link."""
    for chain, (hook, judge) in guard_chains(index, role).items():
        yield add_base_chain(NETDEV, TABLE, chain, hook=hook, priority=FIRST, link=name)
        yield add_rule(NETDEV, TABLE, chain, jump(judge))


def unguard(chains: Iterable[str]) -> Iterator[bytes]:
    """Judge no more of the packets that come to these chains."""
    for chain in chains:
        yield delete_chain(NETDEV, TABLE, chain)
