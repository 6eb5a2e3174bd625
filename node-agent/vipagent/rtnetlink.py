"""rtnetlink: what the kernel's answers say, read from their bytes.

pyroute2 decodes every attribute of a link into Python objects, a third of a millisecond each; a node
with a hundred pods would stop the keeper's loop for 30 ms at each look. The few fields that a look
needs are read here directly. Layouts: linux/rtnetlink.h, if_link.h, if_addr.h, pkt_sched.h; all
in the machine's byte order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TYPE_CHECKING, Final

from vipagent.nodeview import BoundAddress, Gateway, IPAddress, Link, LinkIndex

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDRESS_MARK: Final = 77
"""IFA_PROTO of our addresses: how a keeper knows its own, also those of the keeper before it."""

_IPV4, _IPV6 = 2, 10
_ETHERNET, _FOR_EVER = 1, 0xFFFFFFFF
_UP, _LOOPBACK, _LOWER_UP = 0x1, 0x8, 0x10000
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_INFO_KIND = 1, 3, 10, 18, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_PROTO = 1, 2, 6, 11
_RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 4, 5, 6, 9, 15, 18
_MAIN_TABLE, _UNICAST = 254, 1
_TCA_KIND, _TCA_OPTIONS, _TCA_CHAIN = 1, 2, 11
_TCA_BPF_NAME, _TCA_BPF_ID = 7, 11
_NESTED_FLAGS = 0xC000

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


def read_link(body: bytes) -> Link:
    """Read an RTM_NEWLINK message (without its addresses)."""
    _family, hardware, index, flags, _change = struct.unpack_from("=BxHiII", body)
    attributes = _attributes(body, 16)
    master = attributes.get(_IFLA_MASTER)
    linkinfo = _attributes(attributes.get(_IFLA_LINKINFO, b""), 0)
    return Link(
        name=_text(attributes[_IFLA_IFNAME]),
        index=LinkIndex(index),
        mac=attributes.get(_IFLA_ADDRESS, b"").hex(":"),
        is_up=flags & (_UP | _LOWER_UP) == _UP | _LOWER_UP,
        kind=_text(linkinfo.get(_IFLA_INFO_KIND, b"")),
        is_loopback=bool(flags & _LOOPBACK),
        is_ethernet=hardware == _ETHERNET,
        master=None if master is None else LinkIndex(_number(master)),
    )


def read_address(body: bytes) -> tuple[LinkIndex, BoundAddress]:
    """Read an RTM_NEWADDR message."""
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


def read_default_route(body: bytes) -> Gateway | None:
    """Read an RTM_NEWROUTE message: the main table's default route with a next hop, else None."""
    family, prefix, _source, _tos, table, _protocol, _scope, kind = struct.unpack_from("=BBBBBBBB", body)
    if prefix or kind != _UNICAST or table != _MAIN_TABLE:
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


def _next_hop(family: int, attributes: Mapping[int, bytes]) -> IPAddress | None:
    packed = attributes.get(_RTA_GATEWAY)
    via = attributes.get(_RTA_VIA)
    if packed is None and via is not None:
        (family,) = struct.unpack_from("=H", via)
        packed = via[2:]
    if packed is None:
        return None
    return IPv6Address(packed) if family == _IPV6 else IPv4Address(packed)


def read_filter(body: bytes) -> Filter:
    """Read an RTM_NEWTFILTER message."""
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
