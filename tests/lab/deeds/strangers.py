"""Others lay hands on the address: somebody on the owner removes it, another machine on the LAN uses it."""

from __future__ import annotations

import errno
import socket
import struct
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute, NetlinkError

from lab import kernelcalls
from lab.addressscene import ADDRESSES, LOOKED_AT

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from lab.addressscene import Scene

STRANGER: Final = 77


@contextmanager
def address_removed(scene: Scene) -> Iterator[None]:
    """Somebody else removes the owner's address, three times."""
    for _ in range(3):
        with kernelcalls.entered(scene.owner.network), IPRoute() as netlink:
            [eth0] = netlink.link_lookup(ifname="eth0")
            try:
                netlink.addr("del", index=eth0, address=ADDRESSES[LOOKED_AT], prefixlen=32)
            except NetlinkError as refused:
                if refused.code != errno.EADDRNOTAVAIL:  # it was gone already
                    raise
        time.sleep(0.3)
    yield


@contextmanager
def used_by_a_stranger(scene: Scene) -> Iterator[None]:
    """A host that is none of ours has the address too, and says so twice a second."""
    lab = scene.stage.lab
    address = ADDRESSES[LOOKED_AT]
    stranger = lab.segment.add("stranger", STRANGER)
    with kernelcalls.entered(stranger.network), IPRoute() as netlink:
        [eth0] = netlink.link_lookup(ifname="eth0")
        netlink.addr("add", index=eth0, address=address, prefixlen=32)
    announcement = gratuitous_arp(stranger.mac, address)

    def announce(is_over: threading.Event) -> None:
        with kernelcalls.entered(stranger.network):
            link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with link:
            link.sendto(announcement, ("eth0", 0))
        is_over.wait(0.5)

    with scene.repeating(announce):
        yield
    lab.remove_twin(stranger)


def gratuitous_arp(mac: str, address: str) -> bytes:
    """Return the frame by which a host tells everybody that it has an address (RFC 5227, 3)."""
    own, claimed = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    head = b"\xff" * 6 + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    return head + own + claimed + bytes(6) + claimed
