"""`make bench`, the part about the fence: when it closes, what it costs, and what opens it.

A node and a client, one link between them, each in a network namespace of its own; the node's part is
`lab.fencenode`. The client asks as fast as one processor allows, ARP, neighbour discovery and echoes of both
IP versions in turn. An answer is there before the call that asked returns, for nothing but a pair of virtual
links lies between the two, so the time between two questions is what these figures can tell apart. On a busy
machine it may be late all the same: so the node is asked for an address of its own too, the control.

    last answers   the keeper sets a deadline and is frozen: only the kernel can end it. Runs in which the
                   control was silent for longer than a millisecond are told apart
    refreshes      what one change of the fence costs the keeper, in time and in processor time
    packets        what the fence adds to each packet: to the call that asks and thereby has the answer made,
                   beside a node without a fence; and what the kernel says of the BPF programs
    openings       what others take away of a closed fence, until the keeper has it again
    followers      keepers that take over from each other, with the fence closed all the while
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import random
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute
from rich.console import Console
from rich.table import Table
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from lab import fencenode
from lab.analysis import percentile
from lab.fencenode import BPF, CLSACT, FLUSH, LOOSE, MILLISECOND, NFTABLES, READY, VIPS, boot_ns
from lab.kernelcalls import bpf, entered, new_network
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.nodeview import GuardRole

if TYPE_CHECKING:
    from vipagent.fences import AnyFence

TITLE = "fence"
TITLES: Final = {BPF: "BPF", NFTABLES: "nftables", LOOSE: "nftables before Linux 6.9"}

MOST_TRIES: Final = 3
"""How many runs there are at most for each that counts, where the machine is busy."""
OPEN_MS: Final = 120
BEFORE_NS, AFTER_NS = 30 * MILLISECOND, 10 * MILLISECOND
"""How long before its deadline the client begins to ask, and goes on to ask after it."""
SIZES: Final = (1, 10, 200)
REFRESHES: Final = {BPF: 2000, NFTABLES: 200}
PACKETS_A_SECOND: Final = 10_000
PACKETS: Final = 10_000
QUIET_NS, OPEN_AT_MOST_NS = 60 * MILLISECOND, 30_000 * MILLISECOND
"""A fence that has let nothing by for so long is closed again; one that is open for so long stays open."""
FOLLOWERS: Final = 10

KINDS: Final = ("ARP", "IPv4", "NDP", "IPv6")
CONTROL: Final = "control"
STALL_MS: Final = 1.0

_NODE_MAC, _CLIENT_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
_NODE, _CLIENT = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")
_NODE6, _CLIENT6 = "2001:db8::1", "2001:db8::2"
_NO_DAD: Final = 0x02
_SO_TIMESTAMPNS: Final = 35
_ETH_P_ALL: Final = 3
_OBJECT_INFO, _ENABLE_STATS = 15, 32

Say = Callable[[str], None]


def _questions(vip4: str, vip6: str) -> dict[str, bytes]:
    ether = Ether(src=_CLIENT_MAC, dst=_NODE_MAC)
    group = ether / IPv6(src=_CLIENT6, dst=vip6, hlim=255)
    packets = (
        ether / ARP(op=1, hwsrc=_CLIENT_MAC, psrc=str(_CLIENT), pdst=vip4),
        ether / IP(src=str(_CLIENT), dst=vip4) / ICMP(),
        group / ICMPv6ND_NS(tgt=vip6) / ICMPv6NDOptSrcLLAddr(lladdr=_CLIENT_MAC),
        ether / IPv6(src=_CLIENT6, dst=vip6) / ICMPv6EchoRequest(),
    )
    return dict(zip(KINDS, map(bytes, packets), strict=True))


def _kind(frame: bytes) -> str | None:
    """Return which question a frame answers."""
    vip4, vip6 = (vip.packed for vip in VIPS)
    ethertype, rest = frame[12:14], frame[14:]
    if ethertype == b"\x08\x06" and rest[6:8] == b"\0\2" and rest[14:18] == _NODE.packed:
        return CONTROL
    if ethertype == b"\x08\x06" and rest[6:8] == b"\0\2" and rest[14:18] == vip4:
        return "ARP"
    if ethertype == b"\x08\x00" and rest[9:10] == b"\x01" and rest[12:16] == vip4:
        return "IPv4" if rest[20] == 0 else None
    if ethertype == b"\x86\xdd" and rest[6] == socket.IPPROTO_ICMPV6:
        if rest[40] == 136 and rest[48:64] == vip6:
            return "NDP"
        if rest[40] == 129 and rest[8:24] == vip6:
            return "IPv6"
    return None


@dataclass(slots=True)
class Conversation:
    """What a client asked, and what it was answered: the kind, and when it asked and when that arrived."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    answered: list[tuple[str, int]] = field(default_factory=list)

    def answers(self) -> list[int]:
        """Return when answers arrived, but for the control's."""
        return [at_ns for kind, at_ns in self.answered if kind != CONTROL]


class Site:
    """A node and a client, each by the namespace it stands in."""

    def __init__(self) -> None:
        self._node, self._client = new_network(), new_network()
        for network in (self._node, self._client):
            with entered(network):
                for name, value in (("default/accept_dad", "0"), ("all/forwarding", "0")):
                    path = f"/proc/sys/net/ipv6/conf/{name}"
                    with open(path, "w", encoding="ascii") as switch:  # noqa: PTH123
                        switch.write(value)
        with entered(self._client), IPRoute() as route:
            peer = {"ifname": "eth0", "net_ns_fd": self._node, "address": _NODE_MAC}
            route.link("add", ifname="eth0", kind="veth", address=_CLIENT_MAC, peer=peer)
        for network, own4, own6 in ((self._client, _CLIENT, _CLIENT6), (self._node, _NODE, _NODE6)):
            with entered(network), IPRoute() as route:
                [eth0] = route.link_lookup(ifname="eth0")
                route.link("set", index=eth0, state="up")
                route.addr("add", index=eth0, address=str(own4), prefixlen=24)
                route.addr("add", index=eth0, address=own6, prefixlen=64, flags=_NO_DAD)

    @contextmanager
    def node(self) -> Iterator[int]:
        """Stand on the node; gives the index of its link."""
        with entered(self._node):
            yield socket.if_nametoindex("eth0")

    def add_service_addresses(self) -> None:
        """Have the node's kernel know addresses that it does not own, as kube-proxy's IPVS does."""
        with self.node(), IPRoute() as route:
            route.link("add", ifname="kube-ipvs0", kind="bridge")
            [index] = route.link_lookup(ifname="kube-ipvs0")
            for vip in VIPS:
                flags = {} if vip.version == 4 else {"flags": _NO_DAD}
                route.addr("add", index=index, address=str(vip), prefixlen=vip.max_prefixlen, **flags)

    @contextmanager
    def start(self, *arguments: str) -> Iterator[Part]:
        """Run a part of the node; it is ready when this is entered, and ends with it."""
        with entered(self._node):
            child = subprocess.Popen(
                [sys.executable, "-m", "lab.fencenode", *arguments],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        part = Part(child)
        try:
            part.expect(READY)
            yield part
        finally:
            child.kill()
            child.communicate()

    @contextmanager
    def asker(self) -> Iterator[Asker]:
        """Stand at the client's link."""
        with entered(self._client):
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        with raw:
            raw.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
            with entered(self._client):
                raw.bind(("eth0", 0))
            raw.settimeout(0)
            yield Asker(raw)

    def close(self) -> None:
        """Remove both, with all that they have."""
        os.close(self._node)
        os.close(self._client)


class PartEndedError(Exception):
    """A part of the node ended or said something else than it should."""


class Part:
    """A process of the node that is told what to do line by line."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def tell(self, *words: object) -> None:
        """Tell it what to do."""
        assert self._child.stdin is not None
        self._child.stdin.write(" ".join(map(str, words)) + "\n")
        self._child.stdin.flush()

    def answer(self) -> list[int]:
        """Wait for its answer."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise PartEndedError("a part of the fence's bench ended; what it said is above")
        return [int(word) for word in line.split()]

    def expect(self, word: str) -> None:
        """Wait for a word."""
        assert self._child.stdout is not None
        if self._child.stdout.readline().strip() != word:
            raise PartEndedError(f"a part of the fence's bench did not say {word!r}; what it said is above")

    def has_answered(self) -> bool:
        """Whether `answer` would return at once."""
        assert self._child.stdout is not None
        return bool(select.select([self._child.stdout], [], [], 0)[0])

    def freeze(self) -> None:
        """Stop it where it stands."""
        self._child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._child.send_signal(signal.SIGCONT)


class Asker:
    """A client's link."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self._questions = _questions(*map(str, VIPS))
        self._questions[CONTROL] = _questions(str(_NODE), _NODE6)["ARP"]

    def ask_until(self, is_over: Callable[[int], bool]) -> Conversation:
        """Ask everything in turn, as fast as it goes, until this is true of the time, and then once more."""
        told = Conversation()
        frames: list[tuple[bytes, bytes]] = []
        questions = itertools.cycle(self._questions.items())
        is_last = False
        while not is_last or len(told.asked) % len(self._questions):
            is_last = is_over(now_ns := boot_ns())
            kind, question = next(questions)
            told.asked.append((kind, now_ns))
            self._raw.send(question)
            frames += self._received()
        wall_to_boot = max(boot_ns() - time.time_ns() for _ in range(9))  # what comes in between lessens it
        for frame, stamp in frames:
            answer = _kind(frame)
            if answer is not None:
                seconds, nanoseconds = struct.unpack("=qq", stamp)
                told.answered.append((answer, seconds * 10**9 + nanoseconds + wall_to_boot))
        return told

    def cost_ns(self, question: bytes, packets: int) -> list[int]:
        """Return how long each of so many questions took, answer included, at a steady pace."""
        period_ns = 10**9 // PACKETS_A_SECOND
        costs = []
        due_ns = time.perf_counter_ns()
        for _ in range(packets):
            while (began_ns := time.perf_counter_ns()) < due_ns:
                pass
            self._raw.send(question)
            costs.append(time.perf_counter_ns() - began_ns)
            self._received()
            due_ns = max(due_ns + period_ns, began_ns)
        return costs

    def _received(self) -> Iterator[tuple[bytes, bytes]]:
        while True:
            try:
                frame, ancillary, _, _ = self._raw.recvmsg(2048, 64)
            except BlockingIOError:
                return
            yield frame, ancillary[0][2][:16]


def _after(end_ns: int) -> Callable[[int], bool]:
    return lambda now_ns: now_ns > end_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    """The last answer of one kind in one run, and the first question that had none, by the deadline; ms.

    Negative is before it. `asked_ms` is when the last question was asked that was answered. A client that did
    not get the processor in between tells less: `unanswered_ms` may be after the deadline then. `stall_ms` is
    the control's longest silence in the run.
    """

    kind: str
    arrived_ms: float
    asked_ms: float
    unanswered_ms: float
    stall_ms: float


def last_answers(site: Site, fence: str, runs: int) -> list[Last]:
    """Freeze a keeper that holds the addresses, so many times, and listen until its deadline has passed."""
    found: list[Last] = []
    with site.start("hold", fence) as keeper, site.asker() as client:
        for _ in range(MOST_TRIES * runs):
            if sum(each.stall_ms <= STALL_MS for each in found) >= runs * len(KINDS):
                break
            time.sleep(random.random() * 0.02)  # so that not all fall on the same part of a tick
            keeper.tell(OPEN_MS)
            [deadline_ns] = keeper.answer()
            keeper.freeze()
            time.sleep(max(0.0, (deadline_ns - BEFORE_NS - boot_ns()) / 1e9))
            if boot_ns() < deadline_ns - 2 * BEFORE_NS // 3:  # else this machine was too busy
                end_ns = deadline_ns + AFTER_NS
                told = client.ask_until(_after(end_ns))
                found += lasts(told, deadline_ns)
            keeper.thaw()
    if not found:
        raise PartEndedError("the client was too late for every deadline: this machine is too busy")
    return found


def lasts(told: Conversation, deadline_ns: int) -> Iterator[Last]:
    control = sorted(at_ns for each, at_ns in told.answered if each == CONTROL)
    bounds_ns = (told.asked[0][1], *control, told.asked[-1][1])
    stall_ms = max(after - before for before, after in pairwise(bounds_ns)) / MILLISECOND
    for kind in KINDS:
        answers = [at_ns for each, at_ns in told.answered if each == kind]
        asked = [at_ns for each, at_ns in told.asked if each == kind]
        if not answers:
            raise PartEndedError(f"the node did not answer {kind} before its deadline")
        last_ns = max(answers)
        later = [at_ns for at_ns in asked if at_ns > last_ns]
        yield Last(
            kind=kind,
            arrived_ms=(last_ns - deadline_ns) / MILLISECOND,
            asked_ms=(max(at_ns for at_ns in asked if at_ns <= last_ns) - deadline_ns) / MILLISECOND,
            unanswered_ms=(min(later, default=asked[-1]) - deadline_ns) / MILLISECOND,
            stall_ms=stall_ms,
        )


def _table_of_last_answers(results: dict[str, list[Last]]) -> Table:
    table = _table(
        "before the deadline, in ms: a frozen keeper's last answer, and the first question without one",
        ("fence",),
        ("runs", "last: p50", "p99", "earliest", "latest", "none: p50", "p99", "earliest", "apart, p50"),
        ("left out", "asked after it and answered", "limit"),
    )
    for fence, all_lasts in results.items():
        quiet = [each for each in all_lasts if each.stall_ms <= STALL_MS]
        lasts = quiet or all_lasts
        early = [-each.arrived_ms for each in lasts]
        silent = [-each.unanswered_ms for each in lasts]
        gaps = [each.unanswered_ms - each.asked_ms for each in lasts]
        late = sum(each.asked_ms > 0 for each in all_lasts)
        figures = (
            *(percentile(early, 50), percentile(early, 99), max(early), min(early)),
            *(percentile(silent, 50), percentile(silent, 99), max(silent)),
            percentile(gaps, 50),
        )
        table.add_row(
            TITLES[fence],
            str(len(lasts) // len(KINDS)),
            *(f"{each:.3f}" for each in figures),
            str((len(all_lasts) - len(lasts)) // len(KINDS)) if quiet else "none was quiet",
            f"{late} times" if late else "never",
            "≤ 2 ms, never after" if fence == BPF else "never after",
        )
    return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshes:
    """What changes of so many addresses at once cost, each: in time and in processor time, ns."""

    fence: str
    moved: int
    known: int
    wall_ns: Sequence[int]
    cpu_ns: Sequence[int]


def refreshes(site: Site, name: str, runs: int) -> list[Refreshes]:
    """Move the deadlines of 1, 10 and 200 addresses, and of one among 200."""
    vips = [IPv4Address("198.51.100.0") + number for number in range(max(SIZES))]
    found = []
    with site.node(), fencenode.load(name) as fence:
        for moved, known in (*((size, size) for size in SIZES), (1, max(SIZES))):
            fence.close(vips[:known])
            fence.forget_all(vips[known:])
            times = max(20, REFRESHES[name] * runs // 40 // (1 + moved // 10))
            wall, cpu = [], []
            for _ in range(times):
                deadline_ns = boot_ns() + 10**9
                began_ns, began_cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
                fence.admit(vips[:moved], deadline_ns)
                cpu.append(time.thread_time_ns() - began_cpu_ns)
                wall.append(time.perf_counter_ns() - began_ns)
            found.append(Refreshes(fence=name, moved=moved, known=known, wall_ns=wall, cpu_ns=cpu))
        fence.forget_all(vips)
        _remove(fence)
    return found


def _table_of_refreshes(results: list[Refreshes]) -> Table:
    table = _table(
        "one renewal, in µs (time; processor time)",
        ("fence", "addresses"),
        ("renewals", "p50", "p99", "worst", "processor p50", "p99", "an address, p50"),
        ("limit",),
    )
    for each in results:
        wall = [cost / 1000 for cost in each.wall_ns]
        cpu = [cost / 1000 for cost in each.cpu_ns]
        table.add_row(
            TITLES[each.fence],
            f"{each.moved} of {each.known}",
            str(len(wall)),
            *(f"{cost:.1f}" for cost in (percentile(wall, 50), percentile(wall, 99), max(wall))),
            *(f"{cost:.1f}" for cost in (percentile(cpu, 50), percentile(cpu, 99))),
            f"{percentile(wall, 50) / each.moved:.2f}",
            "≤ 10 an address" if each.fence == BPF else "",
        )
    return table


@dataclass(slots=True)
class Packets:
    """What questions to one kind of address cost: the call that asks, and the BPF programs by direction.

    `costs_ns` are by fence, "" without any; `programs` are time and runs, by direction.
    """

    title: str
    costs_ns: dict[str, list[int]] = field(default_factory=dict)
    programs: dict[str, tuple[int, int]] = field(default_factory=dict)


def packets(site: Site, rounds: int) -> list[Packets]:
    """Ask at 10,000 packets a second each way: open and closed addresses among 200, and the node's own."""
    known = [*VIPS, *(IPv4Address("198.51.100.0") + number for number in range(max(SIZES) - len(VIPS)))]
    ours, own = _questions(*map(str, VIPS)), _questions(str(_NODE), _NODE6)
    cases = (
        (Packets("IPv4 of an open address"), ours["IPv4"], True),
        (Packets("IPv6 of an open address"), ours["IPv6"], True),
        (Packets("IPv4 of the node's own address"), own["IPv4"], True),
        (Packets("IPv4 to a closed address"), ours["IPv4"], False),
    )
    with site.asker() as client:
        for _ in range(rounds):
            for name in ("", BPF, NFTABLES):
                with _guarded(site, name, known) as fence:
                    for case, question, is_open in cases:
                        if fence is not None:
                            fence.admit(known, boot_ns() + 3600 * 10**9 if is_open else 0)
                        elif not is_open:
                            continue
                        client.cost_ns(question, PACKETS // 20)
                        with _counted(fence) as programs:
                            costs = client.cost_ns(question, PACKETS)
                        case.costs_ns.setdefault(name, []).extend(costs)
                        for direction, (spent_ns, times) in programs.items():
                            before_ns, before = case.programs.get(direction, (0, 0))
                            case.programs[direction] = before_ns + spent_ns, before + times
    return [case for case, _, _ in cases]


@contextmanager
def _guarded(site: Site, name: str, known: Sequence[object]) -> Iterator[AnyFence | None]:
    """Fence the node's link, whose addresses are bound, or leave it as it is; nothing is left afterwards."""

    async def bind(fence: AnyFence | None) -> None:
        async with Kernel.open() as kernel:
            if fence is not None:
                await kernel.guard(index, fence, GuardRole.CARRIER)
            for vip in VIPS:
                await kernel.bind(vip, index, lifetime_s=3600)

    with site.node() as index:
        if not name:
            asyncio.run(bind(None))
            yield None
            return
        with fencenode.load(name) as fence:
            fence.close(known)  # type: ignore[arg-type]
            asyncio.run(bind(fence))
            yield fence
            _remove(fence)


def _remove(fence: AnyFence) -> None:
    """Take a fence off every link of the node that this thread stands on."""
    if not isinstance(fence, Fence):
        fence.uninstall()
        return

    async def unguard() -> None:
        async with Kernel.open() as kernel:
            for link in (await kernel.observe()).links:
                await kernel.unguard(link.index, fence)

    asyncio.run(unguard())


@contextmanager
def _counted(fence: AnyFence | None) -> Iterator[dict[str, tuple[int, int]]]:
    """Have the kernel count what the programs of a BPF fence cost; ns and runs, once this is left."""
    found: dict[str, tuple[int, int]] = {}
    if not isinstance(fence, Fence):
        yield found
        return
    programs = {"in": fence.ingress_fd, "out": fence.egress_fd}
    counting, _ = bpf(_ENABLE_STATS, struct.pack("=I", 0))
    try:
        before = {direction: _run_time(fd) for direction, fd in programs.items()}
        yield found
        for direction, fd in programs.items():
            spent_ns, times = _run_time(fd)
            found[direction] = spent_ns - before[direction][0], times - before[direction][1]
    finally:
        os.close(counting)


def _run_time(program_fd: int) -> tuple[int, int]:
    """Return for how long a program has run, in ns, and how often (struct bpf_prog_info)."""
    description = ctypes.create_string_buffer(208)
    bpf(_OBJECT_INFO, struct.pack("=IIQ", program_fd, len(description), ctypes.addressof(description)))
    spent_ns, times = struct.unpack_from("=QQ", description, 192)
    return int(spent_ns), int(times)


def _table_of_packets(results: list[Packets]) -> Table:
    table = _table(
        f"one question and its answer, in µs, and of a core at {PACKETS_A_SECOND:,} of each a second",
        ("packets",),
        ("no fence, p50", "BPF, p50", "adds", "of a core", "nftables, p50", "adds", "of a core"),
        ("BPF programs by the kernel's count: in, out, of a core", "limit, BPF"),
    )
    for case in results:
        medians = {name: statistics.median(costs) / 1000 for name, costs in case.costs_ns.items()}
        bare = medians.get("")
        cells = ["" if bare is None else f"{bare:.2f}"]
        for name in (BPF, NFTABLES):
            added = None if bare is None else medians[name] - bare
            cells += [f"{medians[name]:.2f}"]
            cells += ["", ""] if added is None else [f"{added:.2f}", f"{_of_a_core(added):.2f} %"]
        spent = {way: spent_ns / times / 1000 for way, (spent_ns, times) in case.programs.items() if times}
        told = ", ".join(f"{spent[way]:.3f} µs" if way in spent else "none" for way in case.programs)
        together = sum(spent_ns for spent_ns, _ in case.programs.values()) / 1000 / len(case.costs_ns[BPF])
        table.add_row(case.title, *cells, f"{told}, {_of_a_core(together):.2f} %", "< 1 %")
    return table


def _of_a_core(microseconds: float) -> float:
    return microseconds * PACKETS_A_SECOND / 1e6 * 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What one robbery opened: for how long, from its beginning to the last answer; 0 if none came."""

    answers: int
    open_ms: float
    took_ms: float


ROBBERIES: Final = (
    (BPF, CLSACT, "both tc filters, with their clsact"),
    (BPF, FLUSH, "nft flush ruleset"),
    (NFTABLES, FLUSH, "nft flush ruleset"),
    (LOOSE, FLUSH, "nft flush ruleset"),
)


def openings(site: Site, fence: str, what: str, runs: int) -> list[Opening]:
    """Rob a node without a lease of its fence, so many times, while a client asks it."""
    found = []
    with site.start("stand-by", fence), site.start("rob") as robber, site.asker() as client:
        for _ in range(runs):
            time.sleep(0.3 + random.random() * 0.5)
            at_ns = boot_ns() + 20 * MILLISECOND
            robber.tell(what, at_ns)
            answers = client.ask_until(lambda _: robber.has_answered()).answers()
            began_ns, done_ns = robber.answer()
            while more := client.ask_until(_after(boot_ns() + QUIET_NS)).answers():
                answers += more
                if boot_ns() > done_ns + OPEN_AT_MOST_NS:
                    raise PartEndedError("a fence that was robbed did not close again")
            if any(at < began_ns for at in answers):
                raise PartEndedError("a fence that nobody had robbed was open")
            found.append(
                Opening(
                    answers=len(answers),
                    open_ms=(max(answers) - began_ns) / MILLISECOND if answers else 0.0,
                    took_ms=(done_ns - began_ns) / MILLISECOND,
                )
            )
    return found


def _table_of_openings(results: list[tuple[str, str, list[Opening]]]) -> Table:
    table = _table(
        "from the moment something is taken away of a closed fence until the last answer, in ms",
        ("fence", "what is taken away"),
        ("runs", "opened", "p50", "p99", "worst", "taking away, p50"),
        (),
    )
    for fence, title, found in results:
        lengths = [each.open_ms for each in found]
        table.add_row(
            TITLES[fence],
            title,
            str(len(found)),
            f"{sum(each.answers > 0 for each in found)} times",
            *(f"{each:.2f}" for each in (percentile(lengths, 50), percentile(lengths, 99), max(lengths))),
            f"{percentile([each.took_ms for each in found], 50):.2f}",
        )
    return table


SUCCESSIONS: Final[tuple[tuple[str, ...], ...]] = (
    (BPF,),
    (NFTABLES,),
    (LOOSE,),
    (BPF, NFTABLES),
    (LOOSE, BPF),
)


def followers(site: Site, fences: tuple[str, ...], runs: int) -> tuple[int, int, int]:
    """Have keepers follow each other; returns how many did, and a client's questions and answers."""
    asked = answered = 0
    turns = max(1, runs // FOLLOWERS)
    with site.start("succeed", *fences) as keepers, site.asker() as client:
        for _ in range(turns):
            keepers.tell(FOLLOWERS)
            told = client.ask_until(lambda _: keepers.has_answered())
            asked += sum(kind != CONTROL for kind, _ in told.asked)
            answered += len(told.answers())
            keepers.answer()
    return turns * FOLLOWERS, asked, answered


def _table_of_followers(results: list[tuple[tuple[str, ...], tuple[int, int, int]]]) -> Table:
    table = _table(
        "keepers that follow each other, with a closed fence",
        ("fences, by turns",),
        ("keepers", "questions", "answers", "limit"),
        (),
    )
    for fences, figures in results:
        table.add_row(", ".join(TITLES[each] for each in fences), *map(str, figures), "0")
    return table


def _table(title: str, texts: Sequence[str], figures: Sequence[str], notes: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in texts:
        table.add_column(column)
    for column in figures:
        table.add_column(column, justify="right")
    for column in notes:
        table.add_column(column)
    return table


def run(say: Say, *, runs: int) -> int:
    """Measure everything, and print the tables; fails if an answer was there that never may be."""
    began_s = time.monotonic()
    tables, is_safe = [], True
    found: dict[str, list[Last]] = {}
    for fence in (BPF, NFTABLES):
        say(f"  last answers: {TITLES[fence]}")
        with _site() as site:
            found[fence] = last_answers(site, fence, runs)
    is_safe = all(each.asked_ms <= 0 for each_fence in found.values() for each in each_fence)
    tables.append(_table_of_last_answers(found))
    with _site() as site:
        say("  refreshes")
        tables.append(_table_of_refreshes([*refreshes(site, BPF, runs), *refreshes(site, NFTABLES, runs)]))
        say("  packets")
        tables.append(_table_of_packets(packets(site, max(1, runs // 10))))
    robbed = []
    for fence, what, title in ROBBERIES:
        say(f"  openings: {TITLES[fence]}, {title}")
        with _site() as site:
            site.add_service_addresses()
            robbed.append((fence, title, openings(site, fence, what, runs)))
    tables.append(_table_of_openings(robbed))
    followed = []
    for fences in SUCCESSIONS:
        say(f"  followers: {', '.join(TITLES[each] for each in fences)}")
        with _site() as site:
            site.add_service_addresses()
            followed.append((fences, followers(site, fences, runs)))
    is_safe = is_safe and not any(answers for _, (_, _, answers) in followed)
    tables.append(_table_of_followers(followed))
    console = Console(width=170)
    for each in tables:
        console.print(each)
    say(f"{time.monotonic() - began_s:.0f} s in all")
    return 0 if is_safe else 1


@contextmanager
def _site() -> Iterator[Site]:
    site = Site()
    try:
        yield site
    finally:
        site.close()
