"""Listener: the door to what others on the segment say about addresses of ours.

Three packet sockets for each link that could carry an address: ARP, IPv6 and IPv4, each with a filter in
the kernel (`sieve`) that lets through claims and VRRP adverts and nothing else. They are open for as long as
the link could carry an address, held or not, so that taking one opens nothing and changes no filter. To close
a packet socket is to wait for the kernel, 10 to 20 ms for each; that happens in a thread, and is over later.

**Where in the kernel's path.** A socket for ETH_P_ALL would see frames before tc ingress, and everything
that this node sends as well. These are for one protocol each, so they see what the kernel's own protocols
are about to see: after tc ingress, never our own frames, and, where a link is a port of a bridge or bond, on
the link above. The fence on ingress takes nothing from them that matters: it drops packets *for* a closed
address, while a claim is *from* it, an answer to a probe is for 0.0.0.0, advertisements always pass, and
adverts go to a group. An address whose fence is closed is listened for as well as one that is open.
Firewalls stand behind these sockets, so no rule of theirs hides a claim.

**A flood** is bounded at every step: the filter drops what is not about our addresses; a socket keeps what
fits in its buffer and the kernel counts the rest (`take_losses`). Before the loop turns, all sockets together
read at most `_MOST_AT_ONCE` frames, and none more once those claim `_MOST_CLAIMS` addresses of ours, for a
VRRP advert can claim 255. The socket at which that was reached is not looked at again for `_PAUSE_S`; others
go on in the next turn.

A network card drops groups that nobody asked for, so each link joins VRRP's two by their MAC addresses; that
sends nothing, unlike joining by IP address. A link that goes down and up again, or can carry nothing for a
while, keeps its sockets; one that is made anew has another index, and gets others.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vipagent import sieve
from vipagent.sightings import ARP_PROTOCOL, IPV4_PROTOCOL, IPV6_PROTOCOL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vipagent.nodeview import IPAddress, LinkIndex

_MOST_AT_ONCE: Final = 32
_MOST_CLAIMS: Final = 32
_PAUSE_S: Final = 0.01

# asm-generic/socket.h, linux/if_packet.h
_SO_ATTACH_FILTER: Final = 26
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_STATISTICS = 263, 1, 6
_PACKET_MR_MULTICAST: Final = 0
_TO_THIS_NODE: Final = (0, 1, 2)
"""PACKET_HOST, _BROADCAST and _MULTICAST: not what is another machine's or another VLAN's."""

_VRRP_GROUPS: Final = {
    IPV4_PROTOCOL: bytes.fromhex("01005e000012"),
    IPV6_PROTOCOL: bytes.fromhex("333300000012"),
}
_PROTOCOLS: Final = {4: (ARP_PROTOCOL, IPV4_PROTOCOL), 6: (IPV6_PROTOCOL,)}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Ear:
    """One socket, and the addresses that its filter is for."""

    socket: socket.socket
    protocol: int
    addresses: frozenset[IPAddress] = frozenset()
    pause: asyncio.TimerHandle | None = None


class Listener:
    """The open sockets of a node; used inside a running event loop, in whose thread's network they are."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ears: dict[tuple[LinkIndex, int], _Ear] = {}
        self._heard: Callable[[int, bytes], int] = _unheard
        self._frames_left, self._claims_left = _MOST_AT_ONCE, _MOST_CLAIMS
        self._is_counting = False
        self._losses = 0
        self._listened: Mapping[LinkIndex, frozenset[IPAddress]] | None = {}

    def tell(self, heard: Callable[[int, bytes], int]) -> None:
        """From now on call this with the protocol and the bytes of each frame that comes in.

        It is to return how many addresses of ours the frame claims.
        """
        self._heard = heard

    def listen(self, wanted: Mapping[LinkIndex, frozenset[IPAddress]]) -> None:
        """Listen for these addresses on these links, and for nothing on any other.

        A link where that cannot be is logged, and tried again at the next call; no address waits for it.
        """
        if wanted == self._listened:
            return
        self._listened = dict(wanted)
        keys = {
            (index, protocol): addresses
            for index, addresses in wanted.items()
            for version in {address.version for address in addresses}
            for protocol in _PROTOCOLS[version]
        }
        present = {index for index, _ in socket.if_nameindex()}
        for key in [key for key in self._ears if key[0] not in present]:
            self._loop.run_in_executor(None, self._forget(self._ears.pop(key)).close)
        for key in self._ears.keys() | keys.keys():
            index, protocol = key
            try:
                ear = self._ears.get(key) or self._open(index, protocol)
                self._ears[key] = ear
                _filter(ear, keys.get(key, frozenset()))
            except OSError as error:
                self._listened = None
                _log.warning("Others' claims cannot be heard on link %d: %s; it is tried again", index, error)

    def take_losses(self) -> int:
        """Return how many frames came since the last call and found no room."""
        for ear in self._ears.values():
            self._count(ear)
        losses, self._losses = self._losses, 0
        return losses

    def close(self) -> None:
        """Close every socket."""
        for ear in self._ears.values():
            self._forget(ear).close()
        self._ears.clear()

    def _open(self, index: LinkIndex, protocol: int) -> _Ear:
        # Protocol 0 hears nothing until it is bound, which is after the filter is there.
        ear = _Ear(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0), protocol)
        try:
            ear.socket.settimeout(0)
            _attach(ear.socket, sieve.NOTHING)
            group = _VRRP_GROUPS.get(protocol)
            if group is not None:
                membership = struct.pack("iHH8s", index, _PACKET_MR_MULTICAST, len(group), group)
                ear.socket.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
            ear.socket.bind((socket.if_indextoname(index), protocol))
        except OSError:
            ear.socket.close()
            raise
        self._loop.add_reader(ear.socket, self._read, ear)
        return ear

    def _forget(self, ear: _Ear) -> socket.socket:
        """Hear no more of it; returns the socket that is to be closed."""
        self._count(ear)
        if ear.pause is not None:
            ear.pause.cancel()
        self._loop.remove_reader(ear.socket)
        return ear.socket

    def _read(self, ear: _Ear) -> None:
        if not self._is_counting:
            self._is_counting = True
            self._loop.call_soon(self._count_anew)
        while self._frames_left > 0 and self._claims_left > 0:
            try:
                frame, (_, _, kind, _, _) = ear.socket.recvfrom(sieve.LONGEST_FRAME)
            except OSError:  # nothing more, or the link is down or gone, which the kernel's watch tells
                return
            self._frames_left -= 1
            if kind in _TO_THIS_NODE:
                self._claims_left -= self._heard(ear.protocol, frame)
            if self._frames_left <= 0 or self._claims_left <= 0:
                self._loop.remove_reader(ear.socket)
                ear.pause = self._loop.call_later(_PAUSE_S, self._resume, ear)

    def _count_anew(self) -> None:
        """The loop has turned."""
        self._is_counting = False
        self._frames_left, self._claims_left = _MOST_AT_ONCE, _MOST_CLAIMS

    def _resume(self, ear: _Ear) -> None:
        ear.pause = None
        self._loop.add_reader(ear.socket, self._read, ear)

    def _count(self, ear: _Ear) -> None:
        # struct tpacket_stats: reading it sets it back
        _, dropped = struct.unpack("II", ear.socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._losses += dropped


def _unheard(_protocol: int, _frame: bytes) -> int:
    """Nobody has asked to be told yet."""
    return 0


def _filter(ear: _Ear, addresses: frozenset[IPAddress]) -> None:
    """Give a socket the filter for these addresses, or a coarse one where they are too many."""
    if addresses == ear.addresses:
        return
    program = sieve.exact(ear.protocol, addresses) if addresses else sieve.NOTHING
    _attach(ear.socket, sieve.coarse(ear.protocol, addresses) if program is None else program)
    ear.addresses = addresses


def _attach(ear: socket.socket, program: bytes) -> None:
    """Attach a program, in the place of the one before; raises OSError."""
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog of linux/filter.h
    descriptor = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    ear.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, descriptor)
