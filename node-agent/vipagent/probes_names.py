"""Connects to hosts by address or by name: the door to the node's resolver.

A resolver whose name server drops what it is asked waits for longer than any check, and nothing ends that. So
names are looked up in threads of their own (`probes_threads`), each name in one at most, and a name that
hangs delays no other, nothing else that needs a thread, and not the end of the process. Beyond `LIMIT` names
at a time the next waits for its turn, which counts as time of its check.

An address needs no thread. Of a name's addresses the first that answers is taken, in the resolver's order.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, NamedTuple

from vipagent.probes_threads import Threads

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

LIMIT: Final = 64


class Place(NamedTuple):
    """An address of a host, and what else a socket is told of one: a flow, a link-local one's interface."""

    family: socket.AddressFamily
    address: str
    more: tuple[int, ...] = ()


def look_up(host: str) -> tuple[Place, ...]:
    """Ask the node's resolver; raises `OSError`, and waits as long as it does."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return tuple(
        Place(family, str(address[0]), tuple(int(each) for each in address[2:]))
        for family, _, _, _, address in found
    )


class Names:
    """Connections to hosts. Made anywhere; used inside one event loop."""

    def __init__(self, look_up: Callable[[str], tuple[Place, ...]] = look_up) -> None:
        self._look_up = look_up
        self._threads: Threads[tuple[Place, ...]] = Threads(LIMIT)

    async def connect(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect by TCP, and TLS where there is a context for it; raises `OSError`.

        Waits as long as the resolver and the host do: the caller bounds the time.
        """
        connected = await _connect_to_first(await self._places(host), port)
        return await asyncio.open_connection(
            sock=connected, ssl=tls, server_hostname=(server_name or host) if tls else None
        )

    async def _places(self, host: str) -> tuple[Place, ...]:
        try:
            address = ip_address(host)
        except ValueError:
            address = None
        # The name of an interface in an address is for the resolver, too.
        if address is None or (isinstance(address, IPv6Address) and address.scope_id is not None):
            return await self._threads.run_in_turn(host, lambda: self._look_up(host))
        return (Place(socket.AF_INET if address.version == 4 else socket.AF_INET6, host),)  # noqa: PLR2004


async def _connect_to_first(places: tuple[Place, ...], port: int) -> socket.socket:
    errors: list[OSError] = []
    for place in places:
        try:
            return await _connect(place, port)
        except OSError as error:
            errors.append(error)
    if len({error.errno for error in errors}) == 1:
        raise errors[0]
    raise OSError("; ".join(str(error) for error in errors) or "the name has no address")


async def _connect(place: Place, port: int) -> socket.socket:
    connecting = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)  # noqa: FBT003 - the socket module's own
        await asyncio.get_running_loop().sock_connect(connecting, (place.address, port, *place.more))
    except BaseException:
        connecting.close()
        raise
    return connecting
