"""What the far end of a node's link hears of an address: the announcements, by ARP."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Self

from agent.segment import VIP4

ETH_P_ARP = 0x0806


class Ear:
    """What far0 hears of VIP4: the MAC address that each announcement gives it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
        self._socket.bind(("far0", 0))
        self._socket.settimeout(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    async def next(self) -> str:
        """Wait for the next frame that says where VIP4 is."""
        while True:
            try:
                frame = await asyncio.get_running_loop().sock_recv(self._socket, 2048)
            except OSError as told:
                if told.errno == errno.ENETDOWN:  # far0 was down meanwhile: told once, then it hears again
                    continue
                raise
            if frame[28:32] == VIP4.packed:
                assert frame[6:12] == frame[22:28]
                return frame[22:28].hex(":")

    def all(self) -> list[str]:
        """Return what has been heard by now, of any address."""
        heard = []
        while True:
            try:
                heard.append(socket.inet_ntoa(self._socket.recv(2048)[28:32]))
            except BlockingIOError:
                return heard
