"""Bad weather for keepers' datagrams, on any kernel: late, twice, in another order, again, altered, forged.

`python -m lab.weather KIND SEED PORT=MAC...` runs in the bridge's network namespace and hears every datagram
of the lease as it comes in from a port. What it sends goes straight out of the port behind which the
receiver stands, so it is no matter whether the bridge lost the original. The kinds are

    jitter       each comes once, up to 40 ms late      } the lab loses the originals
    reordering   a third comes once, 5 to 60 ms late    }
    duplicates   half of them come again within 30 ms
    replays      each comes again 0.3 to 3 s later, when its round is long over
    truncated    a copy of each, cut anywhere
    flipped      a copy of each with one bit of it turned over
    wrong-key    a copy of each, signed with a key that nobody has

No kernel module is needed. A copy's UDP checksum is 0, "none" (RFC 768): the original's may not have been
filled in yet when it is heard. Altered copies get a new IPv4 header checksum and reach the keeper, which has
to refuse them by itself.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import select
import socket
import struct
import sys
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Final

from lab import capture, leasewatch
from lab.inquirer import checksum
from lab.precision import prefer_precision

REPLACING: Final = frozenset({"jitter", "reordering"})
"""The kinds that send each datagram themselves: without the originals' loss they would come twice."""
KINDS: Final = (*sorted(REPLACING), "duplicates", "replays", "truncated", "flipped", "wrong-key")
_IP: Final = 14
_UDP: Final = 34
_TAG_SIZE: Final = 16
_WRONG_KEY: Final = b"nobody has this key, whoever says"


def fate(kind: str, frame: bytes, chance: random.Random) -> list[tuple[float, bytes]]:
    """Return what becomes of a datagram: seconds from now, and the frame that is sent then."""
    payload = payload_of(frame)
    late_s = 0.0
    match kind:
        case "jitter":
            late_s = chance.uniform(0, 0.04)
        case "reordering" if chance.random() < 1 / 3:
            late_s = chance.uniform(0.005, 0.06)
        case "duplicates":
            if chance.random() < 1 / 2:
                return []
            late_s = chance.uniform(0, 0.03)
        case "replays":
            late_s = chance.uniform(0.3, 3)
        case "truncated":
            payload = payload[: chance.randrange(len(payload))]
        case "flipped":
            payload = _flipped(payload, chance.randrange(8 * len(payload)))
        case "wrong-key":
            payload = _signed(payload[:-_TAG_SIZE], _WRONG_KEY)
    return [(late_s, with_payload(frame, payload))]


def _flipped(content: bytes, bit: int) -> bytes:
    turned = bytearray(content)
    turned[bit // 8] ^= 1 << bit % 8
    return bytes(turned)


def _signed(said: bytes, key: bytes) -> bytes:
    return said + hashlib.blake2b(said, key=key, digest_size=_TAG_SIZE).digest()


def payload_of(frame: bytes) -> bytes:
    """Return what a frame's UDP datagram carries; an Ethernet frame may be padded."""
    length = int.from_bytes(frame[_UDP + 4 : _UDP + 6])
    return frame[_UDP + 8 : _UDP + length]


def with_payload(frame: bytes, payload: bytes) -> bytes:
    """Return the same datagram with another payload, and with lengths and checksums that fit it."""
    header = bytearray(frame[_IP:_UDP])
    header[2:4] = (len(header) + 8 + len(payload)).to_bytes(2)
    header[10:12] = bytes(2)
    header[10:12] = checksum(bytes(header)).to_bytes(2)
    ports = frame[_UDP : _UDP + 4]
    return frame[:_IP] + bytes(header) + ports + struct.pack("!HH", 8 + len(payload), 0) + payload


def main(kind: str, seed: str, ports: dict[bytes, str]) -> None:
    prefer_precision()
    chance = random.Random(seed)
    ear = capture.Ear(leasewatch.FILTER)
    mouth = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    under_way: list[tuple[float, int, str, bytes]] = []
    number = count()
    print("weather", flush=True)  # noqa: T201  # the lab waits for it
    while True:
        pause_s = max(0.0, under_way[0][0] - monotonic()) if under_way else None
        if select.select([ear], [], [], pause_s)[0]:
            _, _, frame = ear.hear()
            to = ports.get(frame[:6])
            if to is not None:
                for late_s, sent in fate(kind, frame, chance):
                    heapq.heappush(under_way, (monotonic() + late_s, next(number), to, sent))
        while under_way and under_way[0][0] <= monotonic():
            _, _, to, sent = heapq.heappop(under_way)
            with suppress(OSError):  # the port is down
                mouth.sendto(sent, (to, 0))


if __name__ == "__main__":
    main(
        sys.argv[1],
        sys.argv[2],
        {
            bytes.fromhex(mac.replace(":", "")): port
            for port, mac in (each.split("=") for each in sys.argv[3:])
        },
    )
