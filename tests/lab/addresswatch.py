"""Writes down every address that appears on or vanishes from any node, as the nodes' kernels tell it.

`python -m lab.addresswatch FILE NODE=FD...`, each FD being the node's network namespace. It stands outside
the nodes: killing everything on a node does not stop it, and it listens to the kernel alone.
"""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab import kernelcalls
from lab.precision import prefer_precision
from lab.records import AddressEvent, line_of

if TYPE_CHECKING:
    from collections.abc import Iterator

RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR = 16, 17, 20, 21
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
IFA_ADDRESS, IFA_LOCAL = 1, 2
IFF_LOWER_UP = 0x10000
NETLINK_ROUTE = 0
_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_LINK = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HH")


class Watch:
    """What one node's kernel has told so far. A refreshed address or an unchanged link is no event."""

    def __init__(self, node: str, network: int) -> None:
        self.node = node
        with kernelcalls.entered(network):
            self.door = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.door.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
        self._present: set[str] = set()
        self._is_up: dict[int, bool] = {}

    def read(self) -> Iterator[AddressEvent]:
        content = self.door.recv(1 << 16)
        now_ns = time.monotonic_ns()
        while content:
            length, kind, _, _, _ = _HEADER.unpack_from(content)
            body = content[_HEADER.size : length]
            if kind in {RTM_NEWADDR, RTM_DELADDR}:
                yield from self._address(now_ns, body, is_there=kind == RTM_NEWADDR)
            elif kind == RTM_NEWLINK:
                yield from self._link(now_ns, body)
            content = content[_aligned(length) :]

    def _address(self, now_ns: int, body: bytes, *, is_there: bool) -> Iterator[AddressEvent]:
        _, prefix, _, _, _ = _ADDRESS.unpack_from(body)
        attributes = dict(_attributes(body[_ADDRESS.size :]))
        raw = attributes.get(IFA_LOCAL) or attributes[IFA_ADDRESS]
        address = f"{ipaddress.ip_address(raw)}/{prefix}"
        if is_there == (address in self._present):
            return
        (self._present.add if is_there else self._present.discard)(address)
        yield AddressEvent(now_ns, self.node, "added" if is_there else "removed", address)

    def _link(self, now_ns: int, body: bytes) -> Iterator[AddressEvent]:
        _, _, index, flags, _ = _LINK.unpack_from(body)
        is_up = bool(flags & IFF_LOWER_UP)
        if self._is_up.get(index, True) != is_up:
            yield AddressEvent(now_ns, self.node, "link-up" if is_up else "link-down", "")
        self._is_up[index] = is_up


def _attributes(content: bytes) -> Iterator[tuple[int, bytes]]:
    while content:
        length, kind = _ATTRIBUTE.unpack_from(content)
        yield kind, content[_ATTRIBUTE.size : length]
        content = content[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def main(path: Path, nodes: list[str]) -> None:
    prefer_precision()
    watches = {}
    for each in nodes:
        node, _, descriptor = each.partition("=")
        watch = Watch(node, int(descriptor))
        os.close(int(descriptor))
        watches[watch.door] = watch
    with path.open("ab", buffering=0) as output:
        print("watching", flush=True)  # noqa: T201  # the lab waits for it
        while True:
            for door in select.select(watches, [], [])[0]:
                output.write(b"".join(line_of(event) for event in watches[door].read()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
