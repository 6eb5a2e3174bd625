"""Watches how many copies of a service run: a question to its port on every node, every 5 ms.

`python -m lab.copies FOLDER PORT NODE=ADDRESS...` appends to `FOLDER/NODE.copies`. Each question is a TCP
connection of its own and asks `legacyserver` for its `/copy`: its node and the number of this start.
What nobody answers within a second is given up. A loop that comes late skips the questions that it missed.

`Watch` runs one such process in the network of every node, which asks the node's own loopback: a copy on
a node whose cable is pulled is a copy too, and no fault of the segment keeps this question from it. It can
ask from another host as well, over the wire and past the virtual address.

**What an answer proves.** A connection that was answered proves that this very copy ran at some instant
between question and answer. A connection that came about and was not answered (the copy is frozen, or
was killed before it could speak) proves as much of some copy there, up to when it came about. A
connection that did not come about proves nothing: a port can be closed while the server runs.

A copy that answers twice has run all the time in between, for no two have the same start number. So
two copies surely ran at once where the one had answered before a question was sent that the other answered,
and the other had answered before a question was sent that the one answered. `overlaps` reports just
that: every pair for which no order one after the other agrees with the answers, whatever their delays
were. There is no threshold in it and nothing that a loaded machine could make look worse than it is.

What it can miss is shorter than the time between two questions, or has its port closed. Both are told by the
copies themselves, which lock the disk that they share (`legacyserver`): `collisions_in` reads that.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import sys
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lab import analysis, legacyserver, processes
from lab.analysis import MILLISECOND, Outage
from lab.measuring import environment
from lab.precision import prefer_precision
from lab.records import Probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.topology import Host

INTERVAL_NS = 5 * MILLISECOND
PATIENCE_NS = 1_000 * MILLISECOND
WRITE_EVERY_NS = 20 * MILLISECOND
LOOPBACK = "127.0.0.1"
REQUEST = b"GET /copy HTTP/1.0\r\n\r\n"
# Closed like this the connection leaves nothing behind: 200 of them in a second would use the ports up.
ABORT = struct.pack("ii", 1, 0)
_ATTEMPT = struct.Struct("<QQQI32s")


@dataclass(frozen=True, slots=True)
class Attempt:
    """A connection to the service on a node: when it was sent, when it stood, when it was answered.

    `start` is the number of the start that answered. What never came about is None.
    """

    sent_ns: int
    opened_ns: int | None
    answered_ns: int | None
    node: str
    start: int | None

    def packed(self) -> bytes:
        return _ATTEMPT.pack(
            self.sent_ns, self.opened_ns or 0, self.answered_ns or 0, self.start or 0, self.node.encode()
        )


@dataclass(frozen=True, slots=True)
class Copy:
    """One start of the service; `start` is None for one that took a connection and did not answer.

    It surely ran from `since_ns`, the first time that it was proved to have run already, to `until_ns`, the
    last time that it was proved to run still. Of a copy that was seen once only, `until_ns` is the earlier
    one: it ran at some instant between the two.
    """

    node: str
    start: int | None
    since_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Overlap:
    """A proof that two copies ran at once."""

    one: Copy
    other: Copy

    @property
    def length_ms(self) -> float:
        """Return for how long they did at least; 0 if it is proved of an instant only."""
        until_ns = min(self.one.until_ns, self.other.until_ns)
        return max(0, until_ns - max(self.one.since_ns, self.other.since_ns)) / MILLISECOND


@dataclass(frozen=True, slots=True)
class Collision:
    """A copy found another one running when it started, as it wrote itself; `other` is `NODE.START`."""

    at_ns: int
    node: str
    start: int
    other: str


def attempts_in(path: Path, *, since_ns: int = 0) -> list[Attempt]:
    """Read the attempts that have come to their end so far and were sent since then, in that order."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        count = path.stat().st_size // _ATTEMPT.size

        def sent_ns_of(index: int) -> int:
            return int(_ATTEMPT.unpack(os.pread(file.fileno(), _ATTEMPT.size, index * _ATTEMPT.size))[0])

        first = bisect_left(range(count), since_ns, key=sent_ns_of)
        content = os.pread(file.fileno(), (count - first) * _ATTEMPT.size, first * _ATTEMPT.size)
    return [
        Attempt(sent_ns, opened_ns or None, answered_ns or None, node.rstrip(b"\0").decode(), start or None)
        for sent_ns, opened_ns, answered_ns, start, node in _ATTEMPT.iter_unpack(content)
    ]


def collisions_in(shared: Path, *, since_ns: int = 0) -> list[Collision]:
    """Read what the copies themselves told since then, from the folder that they share."""
    path = shared / legacyserver.COLLISIONS
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = (Collision(**json.loads(line)) for line in lines)
    return [each for each in found if each.at_ns >= since_ns]


def copies_seen(attempts: Iterable[Attempt]) -> list[Copy]:
    """Return every copy that is proved to have run, in the order in which they were first seen.

    Each connection that was not answered is told as a copy of its own.
    """
    silent: list[Copy] = []
    named: dict[tuple[str, int], Copy] = {}
    for each in attempts:
        if each.answered_ns is not None and each.start is not None:
            known = named.get((each.node, each.start))
            named[each.node, each.start] = Copy(
                each.node,
                each.start,
                min(known.since_ns, each.answered_ns) if known else each.answered_ns,
                max(known.until_ns, each.sent_ns) if known else each.sent_ns,
            )
        elif each.opened_ns is not None:
            silent.append(Copy(each.node, None, each.opened_ns, each.sent_ns))
    return sorted([*named.values(), *silent], key=lambda copy: copy.since_ns)


def overlaps(attempts: Iterable[Attempt]) -> list[Overlap]:
    """Return the proofs that two copies ran at once, wherever they did; one for each pair.

    A copy that does not say which one it is may be any of its node, so it is a proof against those of other
    nodes only, and one proof is enough for each of them.
    """
    copies = copies_seen(attempts)
    named = [copy for copy in copies if copy.start is not None]
    found = [Overlap(*pair) for pair in combinations(named, 2) if _ran_at_once(*pair)]
    for copy in named:
        silent: dict[str, Copy] = {}
        for each in copies:
            if each.start is None and each.node != copy.node and _ran_at_once(copy, each):
                silent.setdefault(each.node, each)
        found += [Overlap(copy, each) for each in silent.values()]
    return found


def _ran_at_once(one: Copy, other: Copy) -> bool:
    """Tell whether neither can have ended before the other began."""
    return one.until_ns > other.since_ns and other.until_ns > one.since_ns


def absence(attempts: Iterable[Attempt], *, since_ns: int, until_ns: int) -> Outage:
    """Return the longest time in a stretch in which no copy anywhere answered."""
    answered = [
        Probe(each.sent_ns, each.answered_ns, each.node) for each in attempts if each.answered_ns is not None
    ]
    return analysis.longest_silence(answered, since_ns=since_ns, until_ns=until_ns, interval_ns=INTERVAL_NS)


def first_elsewhere(attempts: Iterable[Attempt], node: str, *, since_ns: int) -> Attempt | None:
    """Return the first answer from another node to a question that was sent since then."""
    found = (
        each
        for each in attempts
        if each.answered_ns is not None and each.node != node and each.sent_ns >= since_ns
    )
    return min(found, key=lambda each: each.answered_ns or 0, default=None)


def longest_blindness_ms(attempts: Iterable[Attempt], *, since_ns: int, until_ns: int) -> float:
    """Return for how long in a stretch of time some node was not asked: how much may have stayed unseen.

    Who it is about are the nodes in `attempts`: give those from before the stretch, too.
    """
    questions: dict[str, list[int]] = {}
    for each in attempts:
        questions.setdefault(each.node, []).append(each.sent_ns)
    longest_ns = 0
    for times in questions.values():
        within = sorted(at_ns for at_ns in times if since_ns < at_ns < until_ns)
        longest_ns = max(longest_ns, *(new - old for old, new in pairwise([since_ns, *within, until_ns])))
    return longest_ns / MILLISECOND


@dataclass(slots=True, kw_only=True)
class Watch:
    """Asks the nodes of a lab for copies; everything is written under `folder`, a folder for each vantage."""

    folder: Path
    port: int
    started: dict[str, processes.Process] = field(default_factory=dict)

    def watch(self, *nodes: Host) -> None:
        """Start to ask nodes from within; to be said again when a node was switched on."""
        for node in nodes:
            self._start(node, {node.name: LOOPBACK})

    def watch_from(self, vantage: Host, *nodes: Host) -> None:
        """Start to ask nodes from another host, each at its own address."""
        self._start(vantage, {node.name: node.ipv4 for node in nodes})

    def attempts(self, *, vantage: str = "*", since_ns: int = 0) -> list[Attempt]:
        """Return what was sent since then, from everywhere or from one host."""
        files = sorted(self.folder.glob(f"{vantage}/*.copies"))
        return [attempt for file in files for attempt in attempts_in(file, since_ns=since_ns)]

    def stop(self) -> None:
        """Stop asking; what was written stays."""
        for process in self.started.values():
            process.kill()

    def _start(self, vantage: Host, asked: dict[str, str]) -> None:
        if former := self.started.get(vantage.name):
            former.kill()
        targets = [f"{node}={address}" for node, address in asked.items()]
        # Not the host's own: who switches a node off must not switch off what looks at it.
        process = processes.start(
            [sys.executable, "-m", "lab.copies", self.folder / vantage.name, str(self.port), *targets],
            name=f"copies-{vantage.name}",
            network=vantage.network,
            log=self.folder / f"{vantage.name}.log",
            environment=environment(),
        )
        self.started[vantage.name] = process
        process.wait_for_output("asking", patience_s=20)


@dataclass(slots=True, eq=False)
class Connection:
    """One question, under way; `is_over` when it was answered, refused or given up."""

    door: socket.socket
    node: str
    sent_ns: int
    opened_ns: int | None = None
    answered_ns: int | None = None
    start: int | None = None
    received: bytes = b""
    is_over: bool = False

    def advance(self) -> None:
        """Do what can be done without waiting."""
        try:
            if self.opened_ns is None:
                self.door.send(REQUEST)
                self.opened_ns = time.monotonic_ns()
            block = self.door.recv(512)
        except BlockingIOError:
            return
        except OSError:
            self.end()
            return
        self.received += block
        if self.received.endswith(b"\n") and b"\r\n\r\n" in self.received:
            self._understand(time.monotonic_ns())
        elif not block:
            self.end()

    def end(self) -> None:
        """Let the connection go."""
        self.is_over = True
        self.door.close()

    def attempt(self) -> Attempt:
        return Attempt(self.sent_ns, self.opened_ns, self.answered_ns, self.node, self.start)

    def _understand(self, now_ns: int) -> None:
        head, _, body = self.received.partition(b"\r\n\r\n")
        if not body:
            return  # the header's own end
        assert b" 200 " in head, f"{self.node} answered {self.received!r}"
        node, start = body.decode().split()
        assert node == self.node, f"{self.node} was asked and {node} answered"
        self.start, self.answered_ns = int(start), now_ns
        self.end()


@dataclass(slots=True)
class Target:
    """A node that is asked, and its questions that are not written down yet."""

    node: str
    address: tuple[str, int]
    output: BinaryIO
    waiting: deque[Connection] = field(default_factory=deque)

    def ask(self) -> Connection:
        """Send a question."""
        door = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        connection = Connection(door, self.node, time.monotonic_ns())
        self.waiting.append(connection)
        refusal = door.connect_ex(self.address)
        if refusal in {0, errno.EINPROGRESS}:
            connection.advance()
        else:
            connection.end()
        return connection

    def write(self, now_ns: int) -> None:
        """Write down what is over, in the order in which it was sent; give up what takes too long."""
        records = []
        while self.waiting:
            first = self.waiting[0]
            if not first.is_over and now_ns - first.sent_ns < PATIENCE_NS:
                break
            first.end()
            records.append(self.waiting.popleft().attempt().packed())
        self.output.write(b"".join(records))


def main(folder: Path, port: int, asked: Sequence[str]) -> None:
    prefer_precision()
    folder.mkdir(parents=True, exist_ok=True)
    targets = []
    for each in asked:
        node, address = each.split("=", 1)
        output = (folder / f"{node}.copies").open("ab", buffering=0)
        targets.append(Target(node, (address, port), output))
    under_way: dict[int, Connection] = {}
    ready = select.epoll()
    print("asking", flush=True)  # noqa: T201  # the lab waits for it
    next_ask_ns = next_write_ns = time.monotonic_ns()
    while True:
        now_ns = time.monotonic_ns()
        if now_ns >= next_ask_ns:
            for target in targets:
                connection = target.ask()
                if not connection.is_over:
                    number = connection.door.fileno()
                    under_way[number] = connection
                    # Edge-triggered, and once for both: a connection can be written to when it stands.
                    ready.register(number, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
            next_ask_ns = max(next_ask_ns + INTERVAL_NS, now_ns)
        if now_ns >= next_write_ns:
            for target in targets:
                target.write(now_ns)
            next_write_ns = now_ns + WRITE_EVERY_NS
        pause_s = max(0.0, (next_ask_ns - time.monotonic_ns()) / 1e9)
        for number, _ in ready.poll(pause_s):
            under_way[number].advance()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
