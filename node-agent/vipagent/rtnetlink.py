"""rtnetlink: what the kernel's answers say, read from their bytes, and what asks for an address, written.

pyroute2 decodes every attribute of a link into Python objects, a third of a millisecond each; a node
with a hundred pods would stop the keeper's loop for 30 ms at each look. The few fields that a look
needs are read here directly. To bind one address by it, and to read what the kernel tells of that, takes more
than a millisecond, and a node that takes over 200 of them has no time for that. Layouts: linux/rtnetlink.h,
if_link.h, if_addr.h, pkt_sched.h; all in the machine's byte order.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import TYPE_CHECKING, Final, TypeVar

from vipagent.nodeview import BoundAddress, Gateway, IPAddress, Link, LinkIndex, Route, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping

ADDRESS_MARK: Final = 77
"""IFA_PROTO of our addresses: how a keeper knows its own, also those of the keeper before it.

Our routes and rules have it too, as RTPROT and FRA_PROTOCOL.
"""

_IPV4, _IPV6 = 2, 10
_ETHERNET, _FOR_EVER = 1, 0xFFFFFFFF
_UP, _LOOPBACK, _LOWER_UP = 0x1, 0x8, 0x10000
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 5, 10, 18
_IFLA_LINK_NETNSID, _IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_BOND_ACTIVE_PORT = 37, 1, 2, 2
_STANDING_ON_ANOTHER: Final = ("vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_PROTO = 1, 2, 6, 8, 11
_IFA_F_NODAD, _IFA_F_NOPREFIXROUTE = 0x02, 0x200
_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 4, 5, 6, 9, 15, 18
_RTA_DESTINATION, _RTA_SOURCE = 1, 7
_MAIN_TABLE, _UNICAST = 254, 1
_FRA_SOURCE, _FRA_PRIORITY, _FRA_TABLE, _FRA_PROTOCOL = 2, 6, 15, 21
_TCA_KIND, _TCA_OPTIONS, _TCA_CHAIN = 1, 2, 11
_TCA_BPF_NAME, _TCA_BPF_ID = 7, 11
_NESTED_FLAGS = 0xC000
_MESSAGE_HEADER: Final = 16

T = TypeVar("T")

FILTER_HEADER: Final = 20
"""The size of struct tcmsg, before the attributes of a filter."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A packet filter on a link, in the order in which the kernel runs them."""

    priority: int
    handle: int
    kind: str
    chain: int = 0
    program_name: str = ""
    program_id: int = 0


class Unreadable(ValueError):  # noqa: N818 - it reads as what happened
    """A message that is cut off, or of another shape than is known here."""


def _whole(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Have one kind of error for whatever a message lacks."""

    @functools.wraps(read)
    def reading(body: bytes) -> T:
        try:
            return read(body)
        except (struct.error, LookupError, ValueError) as error:
            why = f"{type(error).__name__}: {error}"
            raise Unreadable(f"a message of rtnetlink cannot be read ({why})") from error

    return reading


@_whole
def read_link(body: bytes) -> Link:
    """Read an RTM_NEWLINK message (without its addresses); raises `Unreadable`."""
    _family, hardware, index, flags, _change = struct.unpack_from("=BxHiII", body)
    attributes = _attributes(body, 16)
    master = attributes.get(_IFLA_MASTER)
    linkinfo = _attributes(attributes.get(_IFLA_LINKINFO, b""), 0)
    kind = _text(linkinfo.get(_IFLA_INFO_KIND, b""))
    lower = active_port = None
    if kind in _STANDING_ON_ANOTHER and _IFLA_LINK_NETNSID not in attributes:
        lower = attributes.get(_IFLA_LINK)
    if kind == "bond":
        active_port = _attributes(linkinfo.get(_IFLA_INFO_DATA, b""), 0).get(_IFLA_BOND_ACTIVE_PORT)
    return Link(
        name=_text(attributes[_IFLA_IFNAME]),
        index=LinkIndex(index),
        mac=attributes.get(_IFLA_ADDRESS, b"").hex(":"),
        is_up=flags & (_UP | _LOWER_UP) == _UP | _LOWER_UP,
        kind=kind,
        is_loopback=bool(flags & _LOOPBACK),
        is_ethernet=hardware == _ETHERNET,
        master=None if master is None else LinkIndex(_number(master)),
        lower=None if lower is None else LinkIndex(_number(lower)),
        active_port=None if active_port is None else LinkIndex(_number(active_port)),
    )


def messages(told: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and body of each message of a datagram; what is cut off is left out."""
    offset = 0
    while offset + _MESSAGE_HEADER <= len(told):
        length, kind = struct.unpack_from("=IH", told, offset)
        if not _MESSAGE_HEADER <= length <= len(told) - offset:
            return
        yield kind, told[offset + _MESSAGE_HEADER : offset + length]
        offset += length + 3 & ~3


def write_address(address: IPAddress, index: int) -> bytes:
    """Return what names an address on a link, as /32 or /128: the body of an RTM_DELADDR message."""
    family = _IPV4 if address.version == 4 else _IPV6  # noqa: PLR2004 - the IP version
    header = struct.pack("=BBBBi", family, address.max_prefixlen, 0, 0, index)
    return header + _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)


def write_new_address(address: IPAddress, index: int, *, lifetime_s: int) -> bytes:
    """Return the body of an RTM_NEWADDR message for an address of ours, which brings no subnet along.

    One of IPv6 answers at once and is never chosen as a source.
    """
    is_ipv4 = address.version == 4  # noqa: PLR2004 - the IP version
    flags = _IFA_F_NOPREFIXROUTE if is_ipv4 else _IFA_F_NOPREFIXROUTE | _IFA_F_NODAD
    preferred_s = lifetime_s if is_ipv4 else 0
    return (
        write_address(address, index)
        + _attribute(_IFA_FLAGS, struct.pack("=I", flags))
        + _attribute(_IFA_CACHEINFO, struct.pack("=IIII", preferred_s, lifetime_s, 0, 0))
        + _attribute(_IFA_PROTO, bytes([ADDRESS_MARK]))
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


@_whole
def read_address(body: bytes) -> tuple[LinkIndex, BoundAddress]:
    """Read an RTM_NEWADDR message; raises `Unreadable`."""
    family, prefix, _flags, _scope, index = struct.unpack_from("=BBBBi", body)
    attributes = _attributes(body, 8)
    # On a point-to-point link IFA_ADDRESS is the peer; IFA_LOCAL, where present, is ours.
    packed = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
    cache = attributes.get(_IFA_CACHEINFO)
    valid_s = _FOR_EVER if cache is None else struct.unpack_from("=II", cache)[1]
    interface = IPv4Interface((packed, prefix)) if family == _IPV4 else IPv6Interface((packed, prefix))
    return LinkIndex(index), BoundAddress(
        interface=interface,
        is_ours=attributes.get(_IFA_PROTO, b"\0")[0] == ADDRESS_MARK,
        valid_s=None if valid_s == _FOR_EVER else valid_s,
    )


@_whole
def read_address_event(body: bytes) -> tuple[Hashable, Hashable]:
    """Read an RTM_NEWADDR or RTM_DELADDR message: which address where, and how it is but for its lifetime.

    Raises `Unreadable`.
    """
    _family, prefix, _flags, _scope, index = struct.unpack_from("=BBBBi", body)
    attributes = _attributes(body, 8)
    packed = attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]
    return (index, packed, prefix), (attributes.get(_IFA_FLAGS), attributes.get(_IFA_PROTO))


@_whole
def read_default_route(body: bytes) -> Gateway | None:
    """Read an RTM_NEWROUTE message: the main table's default route with a next hop, else None.

    One of ours is no gateway of the node: it comes and goes with an address. Raises `Unreadable`.
    """
    family, prefix, _source, _tos, table, protocol, _scope, kind = struct.unpack_from("=BBBBBBBB", body)
    if prefix or kind != _UNICAST or table != _MAIN_TABLE or protocol == ADDRESS_MARK:
        return None
    attributes = _attributes(body, 12)
    metric = _number(attributes.get(_RTA_PRIORITY, bytes(4)))
    multipath = attributes.get(_RTA_MULTIPATH)
    if multipath is not None:
        # struct rtnexthop (length, flags, hops, link index), then the next hop's own attributes
        length, _flags, _hops, index = struct.unpack_from("=HBBi", multipath)
        attributes = _attributes(multipath[:length], 8)
    else:
        index = _number(attributes.get(_RTA_OIF, bytes(4)))
    address = _next_hop(family, attributes)
    return None if address is None else Gateway(address, LinkIndex(index), metric)


@_whole
def read_own_route(body: bytes) -> Route | None:
    """Read an RTM_NEWROUTE message: a route with our mark, else None; raises `Unreadable`."""
    family, prefix, _source, _tos, table, protocol, _scope, _kind = struct.unpack_from("=BBBBBBBB", body)
    if protocol != ADDRESS_MARK:
        return None
    attributes = _attributes(body, 12)
    is_ipv6 = family == _IPV6
    destination = attributes.get(_RTA_DESTINATION, bytes(16 if is_ipv6 else 4))
    source = attributes.get(_RTA_SOURCE)
    return Route(
        destination=IPv6Network((destination, prefix)) if is_ipv6 else IPv4Network((destination, prefix)),
        link_index=LinkIndex(_number(attributes.get(_RTA_OIF, bytes(4)))),
        source=None if source is None else _address(family, source),
        via=_next_hop(family, attributes),
        table=_number(attributes[_RTA_TABLE]) if _RTA_TABLE in attributes else table,
        metric=_number(attributes.get(_RTA_PRIORITY, bytes(4))),
    )


@_whole
def read_own_rule(body: bytes) -> Rule | None:
    """Read an RTM_NEWRULE message: a rule from an address with our mark, else None; raises `Unreadable`."""
    family, table = struct.unpack_from("=BxxxB", body)
    attributes = _attributes(body, 12)
    source = attributes.get(_FRA_SOURCE)
    if attributes.get(_FRA_PROTOCOL, b"\0")[0] != ADDRESS_MARK or source is None:
        return None
    return Rule(
        source=_address(family, source),
        table=_number(attributes[_FRA_TABLE]) if _FRA_TABLE in attributes else table,
        priority=_number(attributes.get(_FRA_PRIORITY, bytes(4))),
    )


def _next_hop(family: int, attributes: Mapping[int, bytes]) -> IPAddress | None:
    packed = attributes.get(_RTA_GATEWAY)
    via = attributes.get(_RTA_VIA)
    if packed is None and via is not None:
        (family,) = struct.unpack_from("=H", via)
        packed = via[2:]
    if packed is None:
        return None
    return _address(family, packed)


def _address(family: int, packed: bytes) -> IPAddress:
    return IPv6Address(packed) if family == _IPV6 else IPv4Address(packed)


@_whole
def read_filter(body: bytes) -> Filter:
    """Read an RTM_NEWTFILTER message; raises `Unreadable`."""
    _index, handle, _parent, parameters = struct.unpack_from("=4xiIII", body)
    attributes = _attributes(body, FILTER_HEADER)
    options = attributes.get(_TCA_OPTIONS, b"")
    kind = _text(attributes.get(_TCA_KIND, b""))
    bpf = _attributes(options, 0) if kind == "bpf" else {}
    return Filter(
        priority=parameters >> 16,
        handle=handle,
        kind=kind,
        chain=_number(attributes.get(_TCA_CHAIN, bytes(4))),
        program_name=_text(bpf.get(_TCA_BPF_NAME, b"")),
        program_id=_number(bpf.get(_TCA_BPF_ID, bytes(4))),
    )


def _attributes(body: bytes, offset: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    end = len(body)
    while offset + 4 <= end:
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4:  # noqa: PLR2004 - an attribute's own header
            break
        found[kind & ~_NESTED_FLAGS] = body[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def _number(value: bytes) -> int:
    (number,) = struct.unpack_from("=I", value)
    assert isinstance(number, int), number
    return number


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
