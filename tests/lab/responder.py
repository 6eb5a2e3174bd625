"""What stands on every node: answers each UDP probe with the node's name, from the address that was asked.

`python -m lab.responder NODE`. It is bound to the wildcard addresses, as most services are, so it
answers for a virtual address exactly while the kernel delivers and lets out its packets.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys

from lab.precision import prefer_precision

PORT = 7007
IP_PKTINFO = 8
QUESTION = struct.Struct("!Q")
"""A probe: when it was sent."""
_IPV4_INFO = struct.Struct("@I4s4s")
_IPV6_INFO = struct.Struct("@16sI")


def read(answer: bytes) -> tuple[int, str] | None:
    """Return when what is answered here was asked, and by which node; None for what is no such answer.

    Faults alter datagrams and send strange ones, which is said on stderr and ends nobody who measures.
    """
    name = answer[QUESTION.size :]
    if not name or not name.replace(b"-", b"").isalnum():
        sys.stderr.write(f"no answer to a probe: {answer.hex()}\n")
        return None
    (sent_ns,) = QUESTION.unpack_from(answer)
    return sent_ns, name.decode("ascii")


def main(node: str) -> None:
    prefer_precision()
    four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    four.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    four.bind(("", PORT))
    six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    six.bind(("::", PORT))
    name = node.encode()
    while True:
        for door in select.select([four, six], [], [])[0]:
            payload, control, _, asker = door.recvmsg(512, 128)
            # A closed fence refuses the answer: then the probe simply stays unanswered.
            with contextlib.suppress(OSError):
                door.sendmsg([payload + name], [_from_where_it_was_asked(each) for each in control], 0, asker)


def _from_where_it_was_asked(control: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    level, kind, content = control
    if level == socket.IPPROTO_IP:
        _, _, asked = _IPV4_INFO.unpack(content)
        return level, kind, _IPV4_INFO.pack(0, asked, asked)
    asked, _ = _IPV6_INFO.unpack(content)
    return level, kind, _IPV6_INFO.pack(asked, 0)


if __name__ == "__main__":
    main(sys.argv[1])
