"""The door to UDP: one socket for each heartbeat address and port, never blocking.

A datagram that could not be sent is a lost datagram, as on any network: it is told, not raised.
Reading is left to the caller, who is told when there is something, so that its clock is read only
after the datagram is in hand (rule 2 of the lease protocol).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipapi.addresses import IPAddress

_BUFFER_BYTES: Final = 1 << 20
_CLASS_SELECTOR_6: Final = 0xC0  # network control (RFC 4594): heartbeats go before bulk traffic
_LARGEST_DATAGRAM: Final = 65_535


class Wire:
    """A UDP socket bound to one address of this node."""

    def __init__(self, address: IPAddress, port: int) -> None:
        """Bind; raises `OSError` while the node does not have the address."""
        self.address = address
        self.port = port
        is_ipv6 = address.version == 6  # noqa: PLR2004 - the version's own name
        self._socket = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.settimeout(0)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            if is_ipv6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _CLASS_SELECTOR_6)
            else:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _CLASS_SELECTOR_6)
            self._socket.bind((str(address), port))
        except OSError:
            self._socket.close()
            raise

    @property
    def bound_port(self) -> int:
        """The port that it is bound to: its own, or the kernel's choice where 0 was asked for."""
        port: int = self._socket.getsockname()[1]
        return port

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def send(self, to: str, datagram: bytes) -> bool:
        """Send to an IP address, at this socket's port; False for a datagram that is lost already."""
        try:
            self._socket.sendto(datagram, (to, self.port))
        except OSError:
            return False
        return True

    def receive(self, take: Callable[[bytes], None], *, at_most: int) -> None:
        """Hand over what has arrived, one datagram at a time, `at_most` so many."""
        for _ in range(at_most):
            try:
                datagram = self._socket.recv(_LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about something we sent: a lost datagram
            take(datagram)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
