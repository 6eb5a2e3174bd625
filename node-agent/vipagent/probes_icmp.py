"""The door to ICMP: echo requests over IPv4 and IPv6, any number of them at once.

One raw socket for each family is opened at the first ping and stays; the kernel passes it echo
replies only (ICMP_FILTER, ICMP6_FILTER). Where raw sockets are refused, the unprivileged ping socket
(`net.ipv4.ping_group_range`) does; its kernel replaces the identifier by one of its own.

A reply belongs to a ping when sequence number and a random token in the payload agree, and, on a
raw socket, the identifier as well (RFC 792, RFC 4443). It is not asked from which address a reply
came: a router may answer from another one of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

from vipagent.health import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

_ICMP_FILTER = 1
_ICMP6_FILTER = 1
_SOL_RAW = 255
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_ECHO6_REQUEST, _ECHO6_REPLY = 128, 129
_HEADER = struct.Struct("!BBHHH")
_TOKEN_BYTES = 8
_REFUSED = (
    "the node refuses ICMP sockets: give the keeper the capability NET_RAW, "
    "or its group a place in sysctl net.ipv4.ping_group_range"
)


class Echo:
    """Pings. Made anywhere; used inside one event loop."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._ident = secrets.randbelow(0x10000)
        self._numbers = itertools.count(1)
        self._waiting: dict[bytes, asyncio.Future[None]] = {}

    async def ping(self, targets: Sequence[str]) -> Result:
        """Ask every address at once and return as soon as one answers; waits for ever if none does."""
        addresses = []
        for target in targets:
            try:
                addresses.append(ip_address(target))
            except ValueError:
                return Result(is_ok=False, message=f"{target} is not an IP address")
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tokens: list[bytes] = []
        errors: list[str] = []
        try:
            for address in addresses:
                number = next(self._numbers) & 0xFFFF
                token = number.to_bytes(2, "big") + secrets.token_bytes(_TOKEN_BYTES)
                tokens.append(token)
                self._waiting[token] = answer
                try:
                    self._send(address, number, token)
                except OSError as error:
                    errors.append(f"{address}: {error.args[-1]}")
            if len(errors) == len(addresses):
                return Result(is_ok=False, message="; ".join(errors))
            await answer
        finally:
            for token in tokens:
                del self._waiting[token]
        return Result(is_ok=True)

    def close(self) -> None:
        """Close the sockets; pings under way get no answer any more."""
        for listening in self._sockets.values():
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _send(self, address: IPv4Address | IPv6Address, number: int, token: bytes) -> None:
        sending = self._socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)  # noqa: PLR2004
        if isinstance(address, IPv4Address):
            sending.sendto(_echo_request(_ECHO_REQUEST, self._ident, number, token), (str(address), 0))
            return
        scope = address.scope_id
        index = 0 if scope is None else _interface_index(scope)
        bare = str(address).partition("%")[0]
        sending.sendto(
            _echo_request(_ECHO6_REQUEST, self._ident, number, token),
            (bare, 0, 0, index),
        )

    def _socket(self, family: int) -> socket.socket:
        opened = self._sockets.get(family)
        if opened is None:
            opened = self._sockets[family] = _open(family)
            asyncio.get_running_loop().add_reader(opened, self._read, opened)
        return opened

    def _read(self, listening: socket.socket) -> None:
        # A bounded number a turn, so that a flood of foreign replies cannot hold the loop up.
        for _ in range(64):
            try:
                packet = listening.recv(2048)
            except OSError:
                return
            is_raw = listening.type == socket.SOCK_RAW
            if is_raw and listening.family == socket.AF_INET:
                packet = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
            token = answered(packet, ident=self._ident if is_raw else None)
            answer = None if token is None else self._waiting.get(token)
            if answer is not None and not answer.done():
                answer.set_result(None)


def answered(packet: bytes, *, ident: int | None) -> bytes | None:
    """Return the token of the ping that an ICMP packet answers; None if it answers none.

    `ident` is the identifier that it must have, where the kernel does not see to that.
    """
    if len(packet) < _HEADER.size:
        return None
    kind, _, _, theirs, number = _HEADER.unpack_from(packet)
    if kind not in {_ECHO_REPLY, _ECHO6_REPLY} or ident not in (None, theirs):
        return None
    token = packet[_HEADER.size :]
    return token if token[:2] == number.to_bytes(2, "big") else None


def _open(family: int) -> socket.socket:
    is_v4 = family == socket.AF_INET
    protocol = socket.IPPROTO_ICMP if is_v4 else socket.IPPROTO_ICMPV6
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        opened = socket.socket(family, socket.SOCK_RAW | flags, protocol)
    except PermissionError:
        try:
            return socket.socket(family, socket.SOCK_DGRAM | flags, protocol)
        except PermissionError as error:
            raise PermissionError(error.errno, _REFUSED) from error
    if is_v4:
        opened.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << _ECHO_REPLY) & 0xFFFFFFFF))
    else:
        blocked = [0xFFFFFFFF] * 8
        blocked[_ECHO6_REPLY >> 5] &= ~(1 << (_ECHO6_REPLY & 31))
        opened.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, struct.pack("=8I", *blocked))
    return opened


def _interface_index(scope: str) -> int:
    return int(scope) if scope.isdigit() else socket.if_nametoindex(scope)


def _echo_request(kind: int, ident: int, number: int, token: bytes) -> bytes:
    # The kernel fills in ICMPv6 checksums, which cover the addresses; those of ICMP are ours.
    checksum = 0
    if kind == _ECHO_REQUEST:
        checksum = _checksum(_HEADER.pack(kind, 0, 0, ident, number) + token)
    return _HEADER.pack(kind, 0, checksum, ident, number) + token


def _checksum(packet: bytes) -> int:
    # RFC 1071: the ones' complement of the ones' complement sum of 16-bit words.
    assert len(packet) % 2 == 0
    total: int = sum(word for (word,) in struct.iter_unpack("!H", packet))
    while total > 0xFFFF:  # noqa: PLR2004 - 16 bits
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
