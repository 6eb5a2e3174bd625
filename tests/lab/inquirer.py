"""Asks every node itself whether it answers for an address, past every cache, switch table and announcement.

`python -m lab.inquirer FOLDER INTERVAL_MS MAC,... LABEL=ADDRESS...` appends the answers to
`FOLDER/LABEL.probes`, in the form of `prober`; a question without an answer is not written down. An
ordinary client hears only the node that its neighbour table names, so a node that goes on answering beside a
new owner would be heard by nobody. Here each question is an Ethernet frame to one node's own MAC address, and
every node is asked at that interval. The answer comes back as any other and is read from an ordinary socket.
"""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lab.precision import prefer_precision
from lab.records import Probe
from lab.responder import PORT, QUESTION, read

ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
UDP = 17
# A node that forwards must not pass a question for an address of others on to its owner.
HOPS = 1
_UDP_LENGTH = 8 + QUESTION.size


def checksum(content: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(word for (word,) in struct.iter_unpack("!H", content))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@dataclass(frozen=True, slots=True)
class Question:
    """The frame that asks one node about one address, but for its UDP header and payload."""

    head: bytes
    pseudo_header: bytes
    own_port: int

    def frame(self, sent_ns: int) -> bytes:
        ports_and_length = struct.pack("!HHH", self.own_port, PORT, _UDP_LENGTH)
        payload = QUESTION.pack(sent_ns)
        # RFC 768: a checksum of 0 is sent as all ones.
        summed = checksum(self.pseudo_header + ports_and_length + bytes(2) + payload) or 0xFFFF
        return self.head + ports_and_length + summed.to_bytes(2) + payload


def question(*, own_mac: str, own_address: str, own_port: int, mac: str, address: str) -> Question:
    """Return the question to the node with `mac` about an address."""
    addresses = ipaddress.ip_address(own_address).packed + ipaddress.ip_address(address).packed
    ethernet = bytes.fromhex((mac + own_mac).replace(":", ""))
    pseudo_header = addresses + struct.pack("!HH", UDP, _UDP_LENGTH)
    if ":" in address:
        header = struct.pack("!IHBB", 6 << 28, _UDP_LENGTH, UDP, HOPS) + addresses
        return Question(ethernet + ETH_P_IPV6.to_bytes(2) + header, pseudo_header, own_port)
    before = struct.pack("!BBHHHBB", 0x45, 0, 20 + _UDP_LENGTH, 0, 0, HOPS, UDP)
    header = before + checksum(before + addresses).to_bytes(2) + addresses
    return Question(ethernet + ETH_P_IP.to_bytes(2) + header, pseudo_header, own_port)


def listen(door: socket.socket, outputs: dict[str, BinaryIO]) -> None:
    """Write down every answer that has come."""
    while True:
        try:
            answer, (address, *_) = door.recvfrom(512)
        except BlockingIOError:
            return
        except OSError:
            continue
        received_ns = time.monotonic_ns()
        found = read(answer)
        if found is not None and address in outputs:
            sent_ns, node = found
            outputs[address].write(Probe(sent_ns, received_ns, node).packed())


def main(folder: Path, interval_ns: int, macs: list[str], targets: dict[str, str]) -> None:
    prefer_precision()
    folder.mkdir(parents=True, exist_ok=True)
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    own_mac = link.getsockname()[4].hex(":")
    four, six = _door(socket.AF_INET), _door(socket.AF_INET6)
    outputs: dict[str, BinaryIO] = {
        str(ipaddress.ip_address(address)): (folder / f"{label}.probes").open("ab", buffering=0)
        for label, address in targets.items()
    }
    questions = [
        question(
            own_mac=own_mac,
            own_address=_own_address_towards(address),
            own_port=(six if ":" in address else four).getsockname()[1],
            mac=mac,
            address=address,
        )
        for mac in macs
        for address in outputs
    ]
    next_ask_ns = time.monotonic_ns()
    while True:
        now_ns = time.monotonic_ns()
        if now_ns >= next_ask_ns:
            for each in questions:
                with contextlib.suppress(OSError):
                    link.send(each.frame(time.monotonic_ns()))
            next_ask_ns = max(next_ask_ns + interval_ns, now_ns)
        pause_s = max(0.0, (next_ask_ns - time.monotonic_ns()) / 1e9)
        for ready in select.select([four, six], [], [], pause_s)[0]:
            listen(ready, outputs)


def _door(family: socket.AddressFamily) -> socket.socket:
    door = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    door.bind(("", 0))
    door.settimeout(0)
    return door


def _own_address_towards(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as door:
        door.connect((address, PORT))
        own: str = door.getsockname()[0]
        return own


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        int(sys.argv[2]) * 1_000_000,
        sys.argv[3].split(","),
        dict(each.split("=", 1) for each in sys.argv[4:]),
    )
