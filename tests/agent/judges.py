"""Judges: each kind of fence, asked what it does with one frame; the answers are the kernel's.

BPF programs can be tried without sending anything. Of nftables only packets can be asked, so `NftJudge` has
links of its own: what is let in on eth0 is forwarded to eth2 and seen at its far end, and a sender is
told when what it sends is stopped.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pyroute2 import IPRoute

from lab.kernelcalls import entered, new_network
from vipagent.fence import Fence
from vipagent.nftfence import NftFence
from vipagent.nodeview import GuardRole

if TYPE_CHECKING:
    from collections.abc import Iterator

Verdict = Literal["pass", "drop"]
_EVERYTHING = 3
_IPV6_RECVERR = 25
_NONSENSE = (errno.EINVAL, errno.ENETUNREACH, errno.EACCES)
"""What the kernel says of a packet that no fence has to stop: no route, a broadcast, a wrong length."""
_END = bytes(12) + b"\x88\xb5" + b"that was all".ljust(46, b"\0")
_LET_IN = """
table netdev judge {
    chain in { type filter hook ingress device "eth0" priority 0; fwd to "eth2"; }
}
"""


class Judge(Protocol):
    """A fence, and what it does with a frame at a place: `ingress`, `egress` or `other_egress`."""

    @property
    def fence(self) -> Fence | NftFence: ...

    def verdict(self, place: str, frame: bytes) -> Verdict: ...


class BpfJudge:
    def __init__(self, fence: Fence) -> None:
        self.fence = fence

    def verdict(self, place: str, frame: bytes, *, ingress_ifindex: int = 0) -> Verdict:
        program_fd = {
            "ingress": self.fence.ingress_fd,
            "egress": self.fence.egress_fd,
            "other_egress": self.fence.other_egress_fd,
        }[place]
        return self.fence.verdict(program_fd, frame, ingress_ifindex=ingress_ifindex)


class NftJudge:
    def __init__(self, fence: NftFence, stack: ExitStack) -> None:
        self.fence = fence
        self._other = socket.if_nametoindex("eth1")
        self._packets = {name: stack.enter_context(_on(name)) for name in ("eth0", "eth1", "far0", "far2")}
        self._ipv4 = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        self._ipv6 = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW))
        self._ipv6.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)  # be told of what the link's queue drops
        for each in (self._ipv4, self._ipv6):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth1")

    def verdict(self, place: str, frame: bytes) -> Verdict:
        if place == "ingress":
            return self._let_in(frame)
        if place == "egress":
            return _sent(self._packets["eth0"], frame)
        payload = frame[14:]
        if frame[12:14] == b"\x08\x00" and payload[:1] >= b"\x45":
            return _sent(self._ipv4, payload, (str(IPv4Address(payload[16:20])), 0))
        if frame[12:14] == b"\x86\xdd" and payload[:1] == b"\x60":
            return _sent(self._ipv6, payload, (str(IPv6Address(payload[24:40])), 0, 0, self._other))
        return _sent(self._packets["eth1"], frame)

    def _let_in(self, frame: bytes) -> Verdict:
        far, seen = self._packets["far0"], self._packets["far2"]
        far.send(frame)
        far.send(_END)
        verdict: Verdict = "drop"
        while (heard := seen.recv(4096)) != _END:
            assert heard
            verdict = "pass"
        return verdict


def _on(name: str) -> socket.socket:
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packets.bind((name, _EVERYTHING))
    packets.settimeout(10)
    return packets


def _sent(door: socket.socket, data: bytes, to: tuple[str | int, ...] | None = None) -> Verdict:
    try:
        if to is None:
            door.send(data)
        else:
            door.sendto(data, to)
    except OSError as refused:
        if refused.errno in (errno.ENOBUFS, errno.EPERM):
            return "drop"
        if refused.errno not in _NONSENSE:
            raise
    return "pass"


@contextmanager
def judge(backend: str) -> Iterator[Judge]:
    """Give a judge; the one of nftables keeps the caller in a network namespace of its own."""
    if backend == "bpf":
        with Fence.load() as fence:
            yield BpfJudge(fence)
        return
    network = new_network()
    processors = os.sched_getaffinity(0)
    # What one processor sends arrives in order.
    os.sched_setaffinity(0, {min(processors)})
    try:
        with entered(network), ExitStack() as stack:
            _set_up()
            fence = stack.enter_context(NftFence.load())
            fence.guard(socket.if_nametoindex("eth0"), GuardRole.CARRIER)
            fence.guard(socket.if_nametoindex("eth1"), GuardRole.OTHER)
            yield NftJudge(fence, stack)
    finally:
        os.sched_setaffinity(0, processors)
        os.close(network)


def _set_up() -> None:
    conf = Path("/proc/sys/net/ipv6/conf")
    with IPRoute() as route:
        for number in range(3):
            route.link("add", ifname=f"eth{number}", kind="veth", peer={"ifname": f"far{number}"})
            for name in (f"eth{number}", f"far{number}"):
                if name != "eth1":
                    (conf / name / "disable_ipv6").write_text("1", encoding="ascii")
                route.link("set", index=socket.if_nametoindex(name), state="up")
        other = socket.if_nametoindex("eth1")
        route.addr("add", index=other, address="192.0.2.1", prefixlen=24)
        route.addr("add", index=other, address="2001:db8::1", prefixlen=64, flags=0x02)
    subprocess.run([shutil.which("nft") or "nft", "-f", "-"], input=_LET_IN, text=True, check=True)
