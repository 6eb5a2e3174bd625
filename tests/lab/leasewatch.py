"""Listens on the bridge to what keepers say about who is to have an address.

`python -m lab.leasewatch FILE` runs in the bridge's network namespace. Datagrams are authenticated but
not secret, so it can tell, with the bridge's own timestamps and without a word from any keeper's log,
when a candidate first asked for an address, when a witness granted it, and when an owner handed over.
Renewals, which are nearly all of the traffic, are left out. It does not check the datagrams' tags.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab import capture
from lab.precision import prefer_precision
from lab.records import Word, line_of
from vipagent import datagrams, messages

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 7946
BEFORE = 14 + 20 + 8  # Ethernet, IPv4 and UDP
FILTER = [
    (capture.LOAD_WORD, 0, 0, capture.PACKET_TYPE),
    (capture.EQUAL, 7, 0, capture.PACKET_OUTGOING),
    (capture.LOAD_HALF, 0, 0, 12),
    (capture.EQUAL, 0, 5, capture.ETH_P_IP),
    (capture.LOAD_BYTE, 0, 0, 23),
    (capture.EQUAL, 0, 3, capture.UDP),
    (capture.LOAD_HALF, 0, 0, 36),
    (capture.EQUAL, 0, 1, PORT),
    (capture.RETURN, 0, 0, capture.MAXIMUM_FRAME),
    (capture.RETURN, 0, 0, 0),
]


def words_in(message: messages.Message) -> Iterator[tuple[str, bytes]]:
    """Yield what a message says, as kind and key."""
    match message:
        case messages.Request():
            yield from (("acquire", want.key) for want in message.wants if not want.is_held)
        case messages.Ack():
            yield from (("granted", granted.key) for granted in message.granted)
        case messages.Prepare():
            yield "prepare", message.key
        case messages.Ready():
            yield "ready", message.key
        case messages.Handover():
            yield "handover", message.key
        case messages.Release():
            yield from (("release", key) for key in message.keys)


def words_of(frame: bytes) -> list[tuple[str, str, bytes]]:
    """Return what a frame's datagram says, as receiver, kind and key; nothing where it cannot be read."""
    length = int.from_bytes(frame[38:40])  # UDP's: an Ethernet frame may be padded
    try:
        to, message = datagrams.overhear(frame[BEFORE : BEFORE - 8 + length])
    except datagrams.DatagramRefused:
        return []
    return [(to, kind, key) for kind, key in words_in(message)]


def main(path: Path) -> None:
    prefer_precision()
    ear = capture.Ear(FILTER)
    granted_by: dict[tuple[str, bytes], set[str]] = {}
    with path.open("ab", buffering=0) as output:
        print("listening", flush=True)  # noqa: T201  # the lab waits for it
        while True:
            at_ns, node, frame = ear.hear()
            for to, kind, key in words_of(frame):
                if kind == "acquire":
                    granted_by[node, key] = set()
                elif kind == "granted":
                    # Renewals are granted too: only the first answer to an acquiring request is news.
                    witnesses = granted_by.get((to, key))
                    if witnesses is None or node in witnesses:
                        continue
                    witnesses.add(node)
                output.write(line_of(Word(at_ns, node, to, kind, key.hex())))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
