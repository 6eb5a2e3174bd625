"""What a busy machine does to a keeper: processors used up, memory turned over, packets without end.

`python -m lab.burdens KIND ...` goes on until it is killed. KIND is

    cpu
    memory MEGABYTES
    packets HOST...
    throttle PROCESS STOPPED_MS RUNNING_MS

`Burden` has some of them running in a lab while faults are done. `throttle` is what a CPU limit does: the
kernel stops the processes of a cgroup for the rest of each period in which they have used up their share.
Here signals do it, which need no cgroup of any version.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from lab import processes
from lab.measuring import environment
from lab.precision import prefer_precision

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lab.cluster import Lab
    from lab.processes import Process
    from lab.topology import Host

CPU, MEMORY, PACKETS = "cpu", "memory", "packets"
KINDS: Final = (CPU, MEMORY, PACKETS)
MEGABYTE: Final = 1 << 20
MEMORY_MB: Final = 256
PACKETS_A_BURST: Final = 50
BURST_EVERY_S: Final = 0.01
DISCARD: Final = 9
PAGE: Final = 4096


class Burden:
    """Processes that load the machine from `start` to `end`; which, is said by `kinds`."""

    def __init__(self, lab: Lab, kinds: Collection[str]) -> None:
        self._lab = lab
        self._kinds = kinds
        self._running: list[Process] = []

    @property
    def named(self) -> str:
        """Return the kinds as `LOAD` has them, empty if there are none."""
        return ",".join(kind for kind in KINDS if kind in self._kinds)

    def start(self) -> None:
        """Start one burner of the processor for each that there is, and one process of the other kinds."""
        lab = self._lab
        if CPU in self._kinds:
            self._running += [start(lab, lab.host, CPU) for _ in range(os.cpu_count() or 1)]
        if MEMORY in self._kinds:
            self._running.append(start(lab, lab.host, MEMORY, str(MEMORY_MB)))
        if PACKETS in self._kinds:
            hosts = [node.ipv4 for node in lab.nodes.values()]
            self._running.append(start(lab, lab.client, PACKETS, *hosts))

    def end(self) -> None:
        """Kill them; does nothing when they have ended."""
        for process in self._running:
            process.kill()
        self._running.clear()


def start(lab: Lab, host: Host, *arguments: str) -> Process:
    """Start one burden on a host; it is not among the processes that the host's death ends."""
    return processes.start(
        [sys.executable, "-m", "lab.burdens", *arguments],
        name=f"burden-{arguments[0]}",
        network=host.network,
        log=lab.folder / "burdens.log",
        environment=environment(),
    )


def _burn() -> None:
    while True:
        pass


def _turn_over(megabytes: int) -> None:
    """Take memory, write to every page of it, give it back, and begin anew."""
    while True:
        taken = bytearray(megabytes * MEGABYTE)
        taken[::PAGE] = bytes([1]) * (len(taken) // PAGE)
        del taken


def _flood(hosts: Sequence[str]) -> None:
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    content = bytes(64)
    while True:
        for host in hosts:
            for _ in range(PACKETS_A_BURST // len(hosts)):
                with suppress(OSError):
                    door.sendto(content, (host, DISCARD))
        time.sleep(BURST_EVERY_S)


def _throttle(process: int, stopped_s: float, running_s: float) -> None:
    prefer_precision()
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process, signal.SIGSTOP)
            time.sleep(stopped_s)
            os.killpg(process, signal.SIGCONT)
            time.sleep(running_s)


def main(kind: str, arguments: Sequence[str]) -> None:
    match kind:
        case "cpu":
            _burn()
        case "memory":
            _turn_over(int(arguments[0]))
        case "packets":
            _flood(arguments)
        case "throttle":
            process, stopped_ms, running_ms = map(int, arguments)
            _throttle(process, stopped_ms / 1000, running_ms / 1000)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
