"""The client: asks addresses every few milliseconds by UDP and writes down who answered, and when.

`python -m lab.prober FOLDER INTERVAL_MS LABEL=ADDRESS...` appends to `FOLDER/LABEL.probes`. All
addresses are asked in one loop by one process: if the machine hiccups, it does so for the control
address beside the virtual one too, and `analysis` can tell the two apart. A probe is written down when
it was answered or a second after it was sent. A loop that comes late skips the probes that it missed.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lab.precision import prefer_precision
from lab.records import Probe
from lab.responder import PORT, QUESTION, read

PATIENCE_NS = 1_000_000_000
WRITE_EVERY_NS = 20_000_000


@dataclass(slots=True)
class Target:
    """One address that is asked, and the probes of it that are not written down yet."""

    door: socket.socket
    output: BinaryIO
    waiting: deque[int] = field(default_factory=deque)
    answers: dict[int, tuple[int, str]] = field(default_factory=dict)

    def ask(self) -> None:
        sent_ns = time.monotonic_ns()
        self.waiting.append(sent_ns)
        # What the kernel says about an earlier probe (no route to host) is not about this one.
        with contextlib.suppress(OSError):
            self.door.send(QUESTION.pack(sent_ns))

    def listen(self) -> None:
        while True:
            try:
                answer = self.door.recv(512)
            except BlockingIOError:
                return
            except OSError:
                continue
            received_ns = time.monotonic_ns()
            if (found := read(answer)) is not None:
                sent_ns, node = found
                self.answers.setdefault(sent_ns, (received_ns, node))

    def write(self, now_ns: int) -> None:
        records = []
        while self.waiting:
            sent_ns = self.waiting[0]
            answer = self.answers.pop(sent_ns, None)
            if answer is None and now_ns - sent_ns < PATIENCE_NS:
                break
            self.waiting.popleft()
            answered_ns, node = answer or (None, None)
            records.append(Probe(sent_ns, answered_ns, node).packed())
        self.output.write(b"".join(records))


def main(folder: Path, interval_ns: int, targets: list[str]) -> None:
    prefer_precision()
    folder.mkdir(parents=True, exist_ok=True)
    asked = [_target(folder, *each.split("=", 1)) for each in targets]
    doors = {target.door: target for target in asked}
    next_ask_ns = next_write_ns = time.monotonic_ns()
    while True:
        now_ns = time.monotonic_ns()
        if now_ns >= next_ask_ns:
            for target in asked:
                target.ask()
            next_ask_ns = max(next_ask_ns + interval_ns, now_ns)
        if now_ns >= next_write_ns:
            for target in asked:
                target.write(now_ns)
            next_write_ns = now_ns + WRITE_EVERY_NS
        pause_s = max(0.0, (next_ask_ns - time.monotonic_ns()) / 1e9)
        for door in select.select(doors, [], [], pause_s)[0]:
            doors[door].listen()


def _target(folder: Path, label: str, address: str) -> Target:
    door = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    door.settimeout(0)
    door.connect((address, PORT))
    return Target(door, (folder / f"{label}.probes").open("ab", buffering=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) * 1_000_000, sys.argv[3:])
