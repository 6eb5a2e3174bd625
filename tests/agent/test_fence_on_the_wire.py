"""The fence between real kernels: who answers whom, and until when, seen from the other end of the wire."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from agent import tcx
from agent.segment import NO_DAD, VIP4, VIP6, ipv4, ipv6, mac, segment
from lab.kernelcalls import entered, new_network
from vipagent import fences
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.nodeview import GuardRole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.segment import Segment
    from vipagent.fences import AnyFence, Backend

OWNER, CLIENT = 1, 99
BACKENDS = pytest.mark.parametrize("backend", ["bpf", "nftables"])
SO_TIMESTAMPNS = 35
ALL_ANSWERS = {"ARP", "IPv4", "NDP", "IPv6"}
# The packets that a prober sends; each has one answer from whoever has the address.
QUESTIONS = [
    bytes(packet)
    for packet in (
        Ether(src=mac(CLIENT), dst="ff:ff:ff:ff:ff:ff")
        / ARP(op=1, hwsrc=mac(CLIENT), psrc=str(ipv4(CLIENT)), pdst=str(VIP4)),
        Ether(src=mac(CLIENT), dst=mac(OWNER)) / IP(src=str(ipv4(CLIENT)), dst=str(VIP4)) / ICMP(),
        Ether(src=mac(CLIENT), dst="33:33:ff:00:00:10")
        / IPv6(src=str(ipv6(CLIENT)), dst="ff02::1:ff00:10", hlim=255)
        / ICMPv6ND_NS(tgt=str(VIP6)),
        Ether(src=mac(CLIENT), dst=mac(OWNER))
        / IPv6(src=str(ipv6(CLIENT)), dst=str(VIP6))
        / ICMPv6EchoRequest(),
    )
]


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def answer_kind(frame: bytes) -> str | None:
    """Return which of the four questions a frame answers."""
    ethertype, rest = frame[12:14], frame[14:]
    if ethertype == b"\x08\x06" and rest[6:8] == b"\0\2" and rest[14:18] == VIP4.packed:
        return "ARP"
    if ethertype == b"\x08\x00" and rest[9:10] == b"\x01" and rest[12:16] == VIP4.packed:
        return "IPv4" if rest[20] == 0 else None
    if ethertype == b"\x86\xdd" and rest[6] == 58 and rest[40] == 136 and rest[48:64] == VIP6.packed:
        return "NDP"
    if ethertype == b"\x86\xdd" and rest[6] == 58 and rest[40] == 129 and rest[8:24] == VIP6.packed:
        return "IPv6"
    return None


def probe(raw: socket.socket, until_ns: int) -> list[tuple[str, int]]:
    """Ask all questions each millisecond; returns what was answered and when it arrived (CLOCK_BOOTTIME)."""
    answers = []
    while (now := boot_ns()) < until_ns:
        for question in QUESTIONS:
            raw.send(question)
        while boot_ns() < now + 1_000_000:
            try:
                frame, ancillary, _, _ = raw.recvmsg(2048, 64)
            except BlockingIOError:
                continue
            kind = answer_kind(frame)
            if kind is not None:
                seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2][:16])
                wall_to_boot = boot_ns() - time.time_ns()
                answers.append((kind, seconds * 10**9 + nanoseconds + wall_to_boot))
    return answers


def open_prober() -> socket.socket:
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    raw.bind(("eth0", 0))
    raw.settimeout(0)
    return raw


@pytest.fixture
def wire() -> Iterator[Segment]:
    with segment(OWNER, CLIENT) as made:
        yield made


@contextmanager
def held(wire: Segment, backend: Backend, *, open_ms: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give a process that holds the addresses, and the deadline of its fence (CLOCK_BOOTTIME, ns)."""
    with wire.inside(OWNER):
        holder = subprocess.Popen(
            [sys.executable, "-m", "agent.holder", str(open_ms), backend],
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
    with holder:
        try:
            assert holder.stdout is not None
            yield holder, int(holder.stdout.readline())
        finally:
            holder.kill()


@pytest.mark.parametrize(
    ("backend", "blow"),
    [
        pytest.param("bpf", signal.SIGCONT, id="alive but late"),
        pytest.param("bpf", signal.SIGSTOP, id="frozen"),
        pytest.param("bpf", signal.SIGKILL, id="killed"),
        pytest.param("nftables", signal.SIGSTOP, id="frozen, nftables"),
        pytest.param("nftables", signal.SIGKILL, id="killed, nftables"),
    ],
)
def test_a_holder_answers_until_its_deadline_and_never_after(
    wire: Segment, backend: Backend, blow: signal.Signals
) -> None:
    with held(wire, backend, open_ms=1000) as (holder, deadline_ns):
        holder.send_signal(blow)
        with wire.inside(CLIENT), open_prober() as raw:
            answers = probe(raw, deadline_ns + 800_000_000)
        with wire.inside(OWNER), IPRoute() as route:
            bound = {message.get("address") for message in route.get_addr()}
    last_ns = {kind: max(stamp for each, stamp in answers if each == kind) for kind, _ in answers}
    early_ms = {kind: (deadline_ns - stamp) / 1e6 for kind, stamp in last_ns.items()}
    sys.stdout.write(f"{blow.name}: last answers before the deadline, ms: {early_ms}\n")
    assert last_ns.keys() == ALL_ANSWERS
    # Both addresses are still bound: it is the fence, and nothing else, that silences the node.
    assert {str(VIP4), str(VIP6)} <= bound
    # A verdict falls before the deadline; a busy machine may take a while to carry the answer over.
    assert max(last_ns.values()) < deadline_ns + 200_000_000
    # It does answer until the deadline, not until long before it.
    assert min(last_ns.values()) > deadline_ns - 500_000_000


@contextmanager
def loaded(backend: Backend, wire: Segment, place: int = OWNER) -> Iterator[AnyFence]:
    """Give the fence of a host; nftables are those of the namespace in which they were opened."""
    with wire.inside(place):
        fence = fences.load(backend)
    with fence:
        yield fence


@BACKENDS
def test_a_closed_fence_silences_and_an_open_one_speaks(wire: Segment, backend: Backend) -> None:
    with loaded(backend, wire) as fence:
        fence.close([VIP4, VIP6])
        with wire.inside(OWNER) as index:
            asyncio.run(bind_both(index, fence))
        with wire.inside(CLIENT), open_prober() as raw:
            assert probe(raw, boot_ns() + 50_000_000) == []
            fence.admit([VIP4, VIP6], boot_ns() + 10**12)
            assert {kind for kind, _ in probe(raw, boot_ns() + 50_000_000)} == ALL_ANSWERS
            fence.close([VIP4])
            time_closed = boot_ns()
            later = [
                kind for kind, stamp in probe(raw, boot_ns() + 50_000_000) if stamp > time_closed + 10**7
            ]
            assert set(later) == {"NDP", "IPv6"}
            fence.forget_all([VIP4])
            assert {kind for kind, _ in probe(raw, boot_ns() + 50_000_000)} == ALL_ANSWERS


async def bind_both(index: int, fence: AnyFence, role: GuardRole = GuardRole.CARRIER) -> None:
    async with Kernel.open() as kernel:
        await kernel.guard(index, fence, role)
        assert await kernel.guarded(index, fence, role) is None
        for address in (VIP4, VIP6):
            await kernel.bind(address, index, lifetime_s=60)


@BACKENDS
def test_another_link_of_a_closed_node_says_nothing_either(wire: Segment, backend: Backend) -> None:
    with loaded(backend, wire) as fence:
        fence.close([VIP4, VIP6])
        with wire.inside(OWNER) as index:
            asyncio.run(bind_both(index, fence, GuardRole.OTHER))
        with wire.inside(CLIENT), open_prober() as raw:
            assert probe(raw, boot_ns() + 50_000_000) == []


def test_a_program_that_lets_everything_past_the_fence_is_overtaken(wire: Segment) -> None:
    with Fence.load() as fence:
        fence.close([VIP4, VIP6])
        with wire.inside(OWNER) as index:
            asyncio.run(bind_both(index, fence))
            tcx.attach_first(index, tcx.INGRESS)
            tcx.attach_first(index, tcx.EGRESS)
        with wire.inside(CLIENT), open_prober() as raw:
            assert {kind for kind, _ in probe(raw, boot_ns() + 50_000_000)} == ALL_ANSWERS
        with wire.inside(OWNER) as index:
            asyncio.run(bind_both(index, fence))
        with wire.inside(CLIENT), open_prober() as raw:
            assert probe(raw, boot_ns() + 50_000_000) == []
            fence.admit([VIP4, VIP6], boot_ns() + 10**12)
            assert {kind for kind, _ in probe(raw, boot_ns() + 50_000_000)} == ALL_ANSWERS


@pytest.mark.parametrize(
    ("arp_ignore", "is_answered"),
    [
        pytest.param(0, True, id="0"),
        pytest.param(1, True, id="1"),
        pytest.param(2, True, id="2"),
        pytest.param(8, False, id="8: what preflight warns of"),
    ],
)
def test_an_owner_answers_arp_or_preflight_warns(
    wire: Segment, arp_ignore: int, *, is_answered: bool
) -> None:
    with Fence.load() as fence:
        fence.admit([VIP4, VIP6], boot_ns() + 10**12)
        with wire.inside(OWNER) as index:
            path = Path("/proc/sys/net/ipv4/conf/eth0/arp_ignore")
            path.write_text(str(arp_ignore), encoding="ascii")
            asyncio.run(bind_both(index, fence))
        with wire.inside(CLIENT), open_prober() as raw:
            assert ("ARP" in {kind for kind, _ in probe(raw, boot_ns() + 50_000_000)}) is is_answered


@contextmanager
def tap(name: str) -> Iterator[int]:
    """Make a link whose packets this process writes, their headers in a fragment of the buffer."""
    node = Path("/dev/net/tun")
    if not node.exists():
        node.parent.mkdir(exist_ok=True)
        os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
    fd = os.open(node, os.O_RDWR | os.O_NONBLOCK)
    set_interface, is_tap, without_header, napi, in_fragments = 0x400454CA, 0x02, 0x1000, 0x10, 0x20
    flags = is_tap | without_header | napi | in_fragments
    fcntl.ioctl(fd, set_interface, struct.pack("16sH22x", name.encode(), flags))
    yield fd
    os.close(fd)


def test_a_packet_whose_headers_are_in_a_fragment_is_judged_too() -> None:
    def is_answered(fd: int) -> bool:
        while select.select([fd], [], [], 0.02)[0]:
            os.read(fd, 2048)
        question = QUESTIONS[0]
        os.writev(fd, [question[:14], question[14:].ljust(46, b"\0")])
        while select.select([fd], [], [], 0.2)[0]:
            if answer_kind(os.read(fd, 2048)) == "ARP":
                return True
        return False

    network = new_network()
    with entered(network), tap("tap0") as fd, Fence.load() as fence, IPRoute() as route:
        index = socket.if_nametoindex("tap0")
        route.link("set", index=index, state="up")
        route.addr("add", index=index, address=str(ipv4(OWNER)), prefixlen=24)
        fence.close([VIP4, VIP6])
        asyncio.run(bind_both(index, fence))
        # Only what comes in is to be stopped by the fence here, and by nothing else.
        for each in route.get_filters(index=index, parent=0xFFFFFFF3):
            if each["handle"]:
                route.tc("del-filter", "bpf", index, each["handle"], parent=0xFFFFFFF3, prio=1)
        assert not is_answered(fd)
        fence.admit([VIP4], boot_ns() + 10**12)
        assert is_answered(fd)
    os.close(network)


async def guard(index: int, fence: AnyFence, role: GuardRole = GuardRole.CARRIER) -> None:
    async with Kernel.open() as kernel:
        await kernel.guard(index, fence, role)


def neighbours() -> dict[str, str]:
    with IPRoute() as route:
        return {
            message.get("dst"): message.get("lladdr")
            for message in route.get_neighbours()
            if message.get("lladdr")
        }


@pytest.fixture(params=["bpf", "nftables"])
def standby(request: pytest.FixtureRequest) -> Iterator[tuple[Segment, AnyFence]]:
    """The owner has the addresses, unfenced; node 2 is a standby whose fence is closed for them."""
    with segment(OWNER, 2, 3) as made, loaded(request.param, made, 2) as fence:
        fence.close([VIP4, VIP6])
        with made.inside(OWNER) as index, IPRoute() as route:
            route.addr("add", index=index, address=str(VIP4), prefixlen=32)
            route.addr("add", index=index, address=str(VIP6), prefixlen=128, flags=NO_DAD)
        with made.inside(2) as index:
            asyncio.run(guard(index, fence))
        yield made, fence


@pytest.mark.parametrize("address", [VIP4, VIP6], ids=["IPv4", "IPv6"])
def test_a_standby_is_a_client_of_the_owner(standby: tuple[Segment, AnyFence], address: object) -> None:
    wire, _ = standby
    with wire.inside(OWNER):
        server = socket.create_server((str(address), 8080), family=_family(address))
    with server, wire.inside(2), socket.create_connection((str(address), 8080), timeout=5) as client:
        connection, peer = server.accept()
        with connection:
            connection.sendall(b"hello")
            assert client.recv(5) == b"hello"
        assert peer[0] in (str(ipv4(2)), str(ipv6(2)))


def _family(address: object) -> socket.AddressFamily:
    return socket.AF_INET if address == VIP4 else socket.AF_INET6


@pytest.mark.parametrize("address", [VIP4, VIP6], ids=["gratuitous ARP", "unsolicited advertisement"])
def test_a_standby_learns_of_a_new_owner(standby: tuple[Segment, AnyFence], address: object) -> None:
    wire, _ = standby
    with wire.inside(2):
        with socket.socket(_family(address), socket.SOCK_DGRAM) as asker:
            asker.sendto(b"", (str(address), 9))
        wait_until(lambda: neighbours().get(str(address)) == mac(OWNER))
    if address == VIP4:
        claim = Ether(src=mac(3), dst="ff:ff:ff:ff:ff:ff") / ARP(
            op=1, hwsrc=mac(3), psrc=str(VIP4), pdst=str(VIP4)
        )
    else:
        claim = (
            Ether(src=mac(3), dst="33:33:00:00:00:01")
            / IPv6(src=str(VIP6), dst="ff02::1", hlim=255)
            / ICMPv6ND_NA(R=0, S=0, O=1, tgt=str(VIP6))
            / ICMPv6NDOptDstLLAddr(lladdr=mac(3))
        )
    with wire.inside(3), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(bytes(claim))
    with wire.inside(2):
        wait_until(lambda: neighbours().get(str(address)) == mac(3))


def wait_until(claim: object) -> None:
    """Look again for up to 5 s; the kernel takes its time to carry and to learn."""
    until_ns = boot_ns() + 5 * 10**9
    while boot_ns() < until_ns:
        if claim():  # type: ignore[operator]
            return
        os.sched_yield()
    pytest.fail("it did not come true within 5 s")


@BACKENDS
def test_a_closed_fence_stops_raw_sockets_with_enobufs(wire: Segment, backend: Backend) -> None:
    frame = bytes(Ether(src=mac(OWNER)) / ARP(op=1, hwsrc=mac(OWNER), psrc=str(VIP4), pdst=str(VIP4)))
    with loaded(backend, wire) as fence, wire.inside(OWNER) as index:
        fence.close([VIP4])
        asyncio.run(guard(index, fence))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
                raw.sendto(frame, ("eth0", 0x0806))
            fence.admit([VIP4], boot_ns() + 10**12)
            assert raw.sendto(frame, ("eth0", 0x0806)) == len(frame)


def test_a_pod_of_a_standby_reaches_the_owner(standby: tuple[Segment, AnyFence]) -> None:
    """The pod's packets are routed by the standby, whose other links are guarded too."""
    wire, fence = standby
    pod = new_network()
    try:
        with wire.inside(2), IPRoute() as route:
            route.link("add", ifname="cni0", kind="veth", peer={"ifname": "eth0", "net_ns_fd": pod})
            inner = route.link_lookup(ifname="cni0")[0]
            route.link("set", index=inner, state="up")
            route.addr("add", index=inner, address="198.51.100.1", prefixlen=24)
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")
            asyncio.run(guard(inner, fence, GuardRole.OTHER))
        with entered(pod), IPRoute() as route:
            index = route.link_lookup(ifname="eth0")[0]
            route.link("set", index=index, state="up")
            route.addr("add", index=index, address="198.51.100.2", prefixlen=24)
            route.route("add", dst="default", gateway="198.51.100.1")
        with wire.inside(OWNER), IPRoute() as route:
            route.route("add", dst="198.51.100.0/24", gateway=str(ipv4(2)))
            server = socket.create_server((str(VIP4), 8080))
        with server, entered(pod), socket.create_connection((str(VIP4), 8080), timeout=5):
            server.accept()[0].close()
    finally:
        os.close(pod)
