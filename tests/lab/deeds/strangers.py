"""Others lay hands on the address: somebody on the owner removes it, another machine on the LAN uses it."""

from __future__ import annotations

import errno
import socket
import struct
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute, NetlinkError

from lab import kernelcalls
from lab.addressscene import ADDRESSES, LOOKED_AT, NOTICED_S

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from lab.addressscene import Scene
    from lab.topology import Host

STRANGER: Final = 77


@contextmanager
def address_removed(scene: Scene) -> Iterator[None]:
    """Somebody else removes the owner's address, three times; it must be back before it is removed again.

    Whether it may be back on another node is for the judge to say. Where another fault is done as well, what
    is gone already may be that one's.
    """
    nodes = scene.stage.lab.nodes.values()
    for _ in range(3):
        if scene.is_alone:
            scene.stage.wait_until(
                "the address that was removed", lambda: any(map(_has_address, nodes)), patience_s=NOTICED_S
            )
            if not _has_address(scene.owner):
                break
        with kernelcalls.entered(scene.owner.network), IPRoute() as netlink:
            [eth0] = netlink.link_lookup(ifname="eth0")
            try:
                netlink.addr("del", index=eth0, address=ADDRESSES[LOOKED_AT], prefixlen=32)
            except NetlinkError as refused:
                if scene.is_alone or refused.code != errno.EADDRNOTAVAIL:
                    raise
        time.sleep(0.3)
    yield


def _has_address(node: Host) -> bool:
    with kernelcalls.entered(node.network), IPRoute() as netlink:
        return bool(list(netlink.get_addr(address=ADDRESSES[LOOKED_AT])))


@contextmanager
def used_by_a_stranger(scene: Scene) -> Iterator[None]:
    """A host that is none of ours has the address too, and says so twice a second."""
    lab = scene.stage.lab
    address = ADDRESSES[LOOKED_AT]
    stranger = lab.segment.add("stranger", STRANGER)
    announcement = gratuitous_arp(stranger.mac, address)

    def announce(is_over: threading.Event) -> None:
        with kernelcalls.entered(stranger.network):
            link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        with link:
            link.sendto(announcement, ("eth0", 0))
        is_over.wait(0.5)

    with ExitStack() as undoing:
        undoing.callback(lab.remove_twin, stranger)
        with kernelcalls.entered(stranger.network), IPRoute() as netlink:
            [eth0] = netlink.link_lookup(ifname="eth0")
            netlink.addr("add", index=eth0, address=address, prefixlen=32)
        undoing.enter_context(scene.repeating(announce))
        yield


def gratuitous_arp(mac: str, address: str) -> bytes:
    """Return the frame by which a host tells everybody that it has an address (RFC 5227, 3)."""
    own, claimed = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    head = b"\xff" * 6 + own + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1)
    return head + own + claimed + bytes(6) + claimed
