"""Stock: frames that were built once, for an address and the MAC address of a link; their bytes never change.

Building costs a second and more (`vipagent.frames`), and a node that has no frames for an address does not
take it. So what was built outlives the VirtualIP it was built for, and on disk the keeper too. Of
`MOST_ADDRESSES` the ones that were not wanted for longest go first.

A file is one line that names its format, its maker (which builder made the frames) and the digest of the
rest, and the rest. One of another format or maker is of no use, and that is all. Any other that this module
did not write is damaged: a frame that is not of that MAC address and that address would tell the network
something else, so each is read again, by who reads the frames of others (`sightings`) and by its bytes.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Final

import msgspec

from vipagent import sightings
from vipagent.readdressing import readdressed
from vipapi import documents

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.nodeview import IPAddress

MOST_ADDRESSES: Final = 1024
MOST_BYTES: Final = 1 << 20
_NAME: Final = b"vipkeeper-frames/"
_FORMAT: Final = _NAME + b"1"
_MAC: Final = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_ARP_HEAD: Final = bytes.fromhex("0806 0001 0800 0604")
_ARP_REQUEST: Final = _ARP_HEAD + b"\0\1"
_ARP_LENGTH, _NDP_LENGTH, _NDP_PROBE_LENGTH = 42, 86, 78
_EVERYONE, _ALL_NODES = b"\xff" * 6, bytes.fromhex("333300000001")
_SOLICITATION: Final = bytes([135, 0])
_SOURCE_OPTION: Final = bytes([1, 1])
_ICMPV6_AND_HOP_LIMIT: Final = bytes([58, 255])


@dataclass(frozen=True, slots=True)
class Built:
    """What `vipagent.frames` built; `question` is to `gateway`, and there is one where that is."""

    mac: str
    address: IPAddress
    gateway: IPAddress | None
    frames: tuple[bytes, ...]
    probe: bytes
    question: bytes | None


class _Row(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    mac: str
    address: str
    gateway: str | None
    frames: tuple[bytes, ...]
    probe: bytes
    question: bytes | None


_rows = msgspec.json.Decoder(tuple[_Row, ...])


class Stock:
    """What was built, the one that was wanted last at the end."""

    def __init__(self, built: Iterable[Built] = ()) -> None:
        self._built: dict[tuple[str, IPAddress], Built] = {}
        for each in built:
            self.keep(each)

    @property
    def all(self) -> tuple[Built, ...]:
        """Everything that is in stock."""
        return tuple(self._built.values())

    def find(self, mac: str, address: IPAddress) -> Built | None:
        """Return what was built for an address on a link with this MAC address."""
        built = self._built.pop((mac, address), None)
        if built is not None:
            self._built[mac, address] = built
        return built

    def keep(self, built: Built) -> bool:
        """Keep it instead of an older one; whether that is news. What a file would not be believed is not."""
        if not is_sound(built):
            return False
        is_news = self.find(built.mac, built.address) != built
        self._built[built.mac, built.address] = built
        while len(self._built) > MOST_ADDRESSES:
            del self._built[next(iter(self._built))]
        return is_news


def encode(built: Iterable[Built], maker: str) -> bytes:
    """Return the content of a file; `maker` is text without spaces."""
    rows = tuple(
        _Row(
            each.mac,
            str(each.address),
            None if each.gateway is None else str(each.gateway),
            each.frames,
            each.probe,
            each.question,
        )
        for each in built
    )
    body = msgspec.json.encode(rows)
    return b" ".join((_FORMAT, maker.encode(), _digest(body))) + b"\n" + body


def decode(content: bytes, maker: str) -> tuple[Built, ...]:
    """Return what a file has, nothing if it is of another format or maker; raises `ValueError`."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} bytes")
    head, _, body = content.partition(b"\n")
    if not head.startswith(_NAME):
        raise ValueError("it does not begin as one of these does")
    if not head.startswith(b" ".join((_FORMAT, maker.encode(), b""))):
        return ()
    if head.rpartition(b" ")[2] != _digest(body):
        raise ValueError("its digest is another")
    rows = documents.read(_rows, body)
    if len(rows) > MOST_ADDRESSES:
        raise ValueError(f"it has more than {MOST_ADDRESSES} addresses")
    return tuple(_read(row) for row in rows)


def _read(row: _Row) -> Built:
    built = Built(
        row.mac,
        ip_address(row.address),
        None if row.gateway is None else ip_address(row.gateway),
        row.frames,
        row.probe,
        row.question,
    )
    if not is_sound(built):
        raise ValueError(f"it has frames for {row.address} on {row.mac} that are not")
    return built


def is_sound(built: Built) -> bool:
    """Whether all frames have the shape that they are built in, for this MAC address and address."""
    if not _MAC.fullmatch(built.mac) or (built.gateway is None) != (built.question is None):
        return False
    return _is_sound_arp(built) if isinstance(built.address, IPv4Address) else _is_sound_ndp(built)


def _is_sound_arp(built: Built) -> bool:
    address, mac = built.address.packed, _packed(built.mac)
    return (
        [_arp_target(frame) for frame in built.frames] == [address, address]
        and all(_claims(built, frame, sightings.ARP_PROTOCOL) for frame in built.frames)
        and _arp_target(built.probe) == address
        and built.probe[6:32] == mac + _ARP_REQUEST + mac + bytes(4)
        and (
            built.gateway is None
            or built.question is None
            or (
                _arp_target(built.question) == built.gateway.packed
                and built.question[12:22] == _ARP_REQUEST
                and _claims(built, built.question, sightings.ARP_PROTOCOL)
            )
        )
    )


def _arp_target(frame: bytes) -> bytes:
    """Return whom a broadcast frame of ARP is about, nothing for any other frame."""
    is_arp = len(frame) == _ARP_LENGTH and frame[:6] == _EVERYONE and frame[12:20] == _ARP_HEAD
    return frame[38:42] if is_arp else b""


def _is_sound_ndp(built: Built) -> bool:
    address, mac = built.address.packed, _packed(built.mac)
    return (
        [frame[:6] for frame in built.frames] == [_ALL_NODES]
        and all(len(frame) == _NDP_LENGTH for frame in built.frames)
        and all(_claims(built, frame, sightings.IPV6_PROTOCOL) for frame in built.frames)
        and len(built.probe) == _NDP_PROBE_LENGTH
        and built.probe[6:12] == mac
        and _solicits(built.probe, source=bytes(16), target=address)
        and (
            built.gateway is None
            or built.question is None
            or (
                len(built.question) == _NDP_LENGTH
                and built.question[78:80] == _SOURCE_OPTION
                and _solicits(built.question, source=address, target=built.gateway.packed)
                and readdressed(built.question, built.mac) == built.question
            )
        )
    )


def _solicits(frame: bytes, *, source: bytes, target: bytes) -> bool:
    return (
        frame[12:14] == b"\x86\xdd"
        and frame[20:22] == _ICMPV6_AND_HOP_LIMIT
        and frame[22:38] == source
        and frame[54:56] == _SOLICITATION
        and frame[62:78] == target
    )


def _claims(built: Built, frame: bytes, protocol: int) -> bool:
    """Whether a frame says that this MAC address has the address, in all places where one stands in it."""
    if frame[12:14] != protocol.to_bytes(2) or readdressed(frame, built.mac) != frame:
        return False
    found = sightings.read(protocol, frame, {built.address.packed})
    return [(each.address, each.mac) for each in found] == [(built.address, built.mac)]


def _packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16).hexdigest().encode()
