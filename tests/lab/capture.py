"""The view from the bridge: which node speaks as the owner of an address, by ARP, NDP and answers to probes.

`python -m lab.capture FILE REPEAT_MS ADDRESS...` runs in the bridge's network namespace and looks only at
frames as they come in from a port, before any fault drops them, so a node that answers is seen even if
nobody hears it. The kernel's receive timestamps are used, and a packet filter leaves everything else out.

An unchanging answerer of probes is written down every `REPEAT_MS` only; every change of answerer is.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab.precision import prefer_precision
from lab.records import Sighting, line_of
from lab.responder import PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

ETH_P_ALL, ETH_P_IP, ETH_P_ARP, ETH_P_IPV6 = 0x0003, 0x0800, 0x0806, 0x86DD
PACKET_OUTGOING = 4
SO_ATTACH_FILTER, SO_TIMESTAMPNS = 26, 35
ARP_REPLY = 2
ICMPV6, UDP, NEIGHBOUR_ADVERT = 58, 17, 136
MAXIMUM_FRAME = 2048
BRIDGE = "segment"
_TIME = struct.Struct("@qq")

# Classic BPF: (code, jump if true, jump if false, constant). Offsets count from the Ethernet header.
LOAD_BYTE, LOAD_HALF, LOAD_WORD = 0x30, 0x28, 0x20
EQUAL, RETURN = 0x15, 0x06
PACKET_TYPE = 0xFFFFF004
FILTER = [
    (LOAD_WORD, 0, 0, PACKET_TYPE),
    (EQUAL, 13, 0, PACKET_OUTGOING),
    (LOAD_HALF, 0, 0, 12),
    (EQUAL, 10, 0, ETH_P_ARP),
    (EQUAL, 0, 4, ETH_P_IP),
    (LOAD_BYTE, 0, 0, 23),
    (EQUAL, 0, 8, UDP),
    (LOAD_HALF, 0, 0, 34),
    (EQUAL, 5, 6, PORT),
    (EQUAL, 0, 5, ETH_P_IPV6),
    (LOAD_BYTE, 0, 0, 20),
    (EQUAL, 2, 0, ICMPV6),
    (LOAD_HALF, 0, 0, 54),
    (EQUAL, 0, 1, PORT),
    (RETURN, 0, 0, 128),
    (RETURN, 0, 0, 0),
]


class Ear:
    """A raw socket that hears the frames of a packet filter on every port of the bridge."""

    def __init__(self, program: Sequence[tuple[int, int, int, int]]) -> None:
        self._door = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        packed = ctypes.create_string_buffer(b"".join(struct.pack("@HBBI", *each) for each in program))
        attachment = struct.pack("@HxxxxxxP", len(program), ctypes.addressof(packed))
        self._door.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attachment)
        self._door.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._door.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._ahead_ns = _wall_clock_ahead_ns()

    def fileno(self) -> int:
        """Return the descriptor to wait at."""
        return self._door.fileno()

    def hear(self) -> tuple[int, str, bytes]:
        """Wait for a frame; return when it came, by which port, and its bytes."""
        while True:
            frame, control, _, (port, *_) = self._door.recvmsg(MAXIMUM_FRAME, 64)
            if port != BRIDGE:
                seconds, nanoseconds = _TIME.unpack(control[0][2][: _TIME.size])
                return seconds * 1_000_000_000 + nanoseconds - self._ahead_ns, port, frame


def _wall_clock_ahead_ns() -> int:
    """Return how far the clock of the kernel's timestamps is ahead of the one that all records use.

    A pause between the two readings would make every sighting early or late; the shortest of many counts.
    """
    readings = [(time.monotonic_ns(), time.time_ns(), time.monotonic_ns()) for _ in range(100)]
    before_ns, wall_ns, after_ns = min(readings, key=lambda reading: reading[2] - reading[0])
    return wall_ns - (before_ns + after_ns) // 2


def claim_in(frame: bytes) -> tuple[str, str] | None:
    """Return how and for which address the frame's sender speaks as an owner, if it does."""
    kind = int.from_bytes(frame[12:14])
    if kind == ETH_P_ARP:
        sender, target = frame[28:32], frame[38:42]
        if sender == target:
            return "arp-announcement", str(ipaddress.IPv4Address(sender))
        is_reply = int.from_bytes(frame[20:22]) == ARP_REPLY
        return ("arp-reply", str(ipaddress.IPv4Address(sender))) if is_reply else None
    if kind == ETH_P_IP:
        return "reply", str(ipaddress.IPv4Address(frame[26:30]))
    if frame[20] == UDP:
        return "reply", str(ipaddress.IPv6Address(frame[22:38]))
    if frame[54] == NEIGHBOUR_ADVERT:
        return "neighbour-advert", str(ipaddress.IPv6Address(frame[62:78]))
    return None


def main(path: Path, repeat_ns: int, addresses: set[str]) -> None:
    prefer_precision()
    ear = Ear(FILTER)
    last: dict[str, tuple[str, int]] = {}
    with path.open("ab", buffering=0) as output:
        print("capturing", flush=True)  # noqa: T201  # the lab waits for it
        while True:
            at_ns, port, frame = ear.hear()
            claim = claim_in(frame)
            if claim is None or claim[1] not in addresses:
                continue
            kind, address = claim
            if kind == "reply":
                node, written_ns = last.get(address, ("", 0))
                if node == port and at_ns - written_ns < repeat_ns:
                    continue
                last[address] = (port, at_ns)
            output.write(line_of(Sighting(at_ns, port, frame[6:12].hex(":"), kind, address)))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) * 1_000_000,
        {str(ipaddress.ip_address(each)) for each in sys.argv[3:]},
    )
