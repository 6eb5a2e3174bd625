"""The door to what processes and kernels hold: memory, descriptors, threads, kernel objects, API objects.

Everything is read from outside (/proc, netlink, the bpf system call, nft, the API server), but for the number
of asyncio tasks, which only a process itself can tell: keepers and couriers do, with their metrics.

What belongs to a node as a whole is summed over the nodes, for an address, with all that comes with it, is
on one of them at a time. BPF objects are those of this machine that have our names: another lab on it at the
same time is counted too.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import struct
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyroute2 import IPRoute

from lab import kernelcalls
from lab.agents import COURIER_METRICS, KEEPER_METRICS, NAMESPACE
from lab.growth import Kind, Measure, least
from lab.stage import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.stage import Stage
    from lab.topology import Host

READINGS: Final = 3
APART_S: Final = 0.4
"""Between two readings of one sample: a connection, or a thread that waits for a disk, is gone by then."""

KEEPER_TASKS: Final = (KEEPER_METRICS, "vipkeeper_tasks")
COURIER_TASKS: Final = (COURIER_METRICS, "vipkeeper_courier_tasks")
_PROG_NEXT, _MAP_NEXT, _PROG_OPEN, _MAP_OPEN, _DESCRIBE = 11, 12, 13, 14, 15
_PROG_NAME_AT, _MAP_NAME_AT, _NAME_SIZE, _DESCRIPTION_SIZE = 64, 24, 16, 256
OUR_NAMES: Final = ("vipkeeper", "vip_")
_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # the two parents of filters that clsact has
_TIME_WAIT: Final = "06"
_ARENA: Final = 64 << 20  # glibc's HEAP_MAX_SIZE
_KINDS: Final = ("VirtualIP", "VIPNode", "FailoverDomain", "Switchover")


def sample(stage: Stage) -> dict[Measure, float]:
    """Return what is held all the time, as several readings in a row agree on; at rest only."""
    readings = []
    for number in range(READINGS):
        time.sleep(APART_S if number else 0)
        readings.append(
            {
                **_of_processes(stage),
                **_of_kernels(stage),
                **_of_machine(),
                **_of_folders(stage),
            }
        )
    return {**least(readings), **_of_kubernetes(stage)}


def _of_processes(stage: Stage) -> dict[Measure, float]:
    found: dict[Measure, float] = {}
    agents, lab = stage.agents, stage.lab
    doors = [
        *((process, (lab.nodes[node], *KEEPER_TASKS)) for node, process in agents.keepers.items()),
        *((process, (lab.nodes[node], *COURIER_TASKS)) for node, process in agents.couriers.items()),
        *((process, None) for process in agents.controllers),
    ]
    for process, tasks in doors:
        folder = Path(f"/proc/{process.child.pid}")
        memory = numbers_in((folder / "smaps_rollup").read_text())
        found |= {
            Measure(process.name, "own memory, MB", Kind.MEMORY): memory["Anonymous"] / 1024,
            Measure(process.name, "resident, MB", Kind.MEMORY): memory["Rss"] / 1024,
            Measure(process.name, "threads", Kind.COUNT): numbers_in((folder / "status").read_text())[
                "Threads"
            ],
        }
        if tasks is not None:
            found[Measure(process.name, "tasks", Kind.COUNT)] = told(*tasks)
        kinds = Counter(kind_of(target) for target in _descriptors(folder))
        found[Measure(process.name, "descriptors", Kind.COUNT)] = kinds.total()
        for kind, many in kinds.items():
            found[Measure(process.name, f"descriptors: {kind}", Kind.COUNT)] = many
    return found


def numbers_in(text: str) -> dict[str, int]:
    """Return the numbers of lines such as `Rss:  12 kB`; a line that appears again is added."""
    found: Counter[str] = Counter()
    for name, number in re.findall(r"^(\w+):\s+(\d+)\b", text, re.MULTILINE):
        found[name] += int(number)
    return found


def arenas_in(maps: str) -> int:
    """Count the arenas that malloc made for threads, beside its first one: each is an aligned stretch."""
    memory = re.findall(r"^(\w+)-(\w+) (?:rw|--)-p 00000000 00:00 0 *$", maps, re.MULTILINE)
    ends = {int(start, 16): int(end, 16) for start, end in memory}
    found = 0
    for start in (each for each in ends if each % _ARENA == 0):
        end = ends[start]
        while end % _ARENA and end in ends:
            end = ends[end]
        found += end - start >= _ARENA and end % _ARENA == 0
    return found


def _descriptors(process: Path) -> Iterator[str]:
    for each in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            yield str(each.readlink())


def kind_of(target: str) -> str:
    """Return the kind of what a descriptor's link points to: `socket:[123]` is a socket, a path a file."""
    if target.startswith("/"):
        return "file"
    kind, _, rest = target.partition(":")
    return rest.strip("[]") if kind == "anon_inode" else kind


def told(host: Host, port: int, metric: str) -> float:
    """Return what a process of a host tells by a metric without labels; raises `ValueError`."""
    return told_in(answer_of(host, port, "/metrics"), metric)


def answer_of(host: Host, port: int, path: str) -> str:
    """Return what a process of a host answers there by HTTP, its head too; raises `OSError`."""
    with kernelcalls.entered(host.network):
        door = socket.create_connection(("127.0.0.1", port), timeout=10)
    with door, door.makefile("rb") as answer:
        door.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        return answer.read().decode()


def told_in(exposition: str, metric: str) -> float:
    """Return the value of a metric without labels from all that a process tells; raises `ValueError`."""
    found = re.search(rf"^{metric} (\S+)$", exposition, re.MULTILINE)
    if found is None:
        raise ValueError(f"a process does not tell {metric}")
    return float(found[1])


def _of_kernels(stage: Stage) -> dict[Measure, float]:
    counts: Counter[str] = Counter()
    for node in stage.lab.nodes.values():
        with kernelcalls.entered(node.network):
            with IPRoute() as netlink:
                links = [each["index"] for each in netlink.get_links()]
                counts["links"] += len(links)
                counts["addresses"] += len(list(netlink.get_addr()))
                counts["routes"] += len(list(netlink.get_routes()))
                counts["rules"] += len(list(netlink.get_rules()))
                counts["neighbours"] += len(list(netlink.get_neighbours()))
                counts["queueing disciplines"] += len(list(netlink.get_qdiscs()))
                counts["tc filters"] += sum(
                    len(list(netlink.get_filters(index=link, parent=parent)))
                    for link in links
                    for parent in (_INGRESS, _EGRESS)
                )
            counts["nft objects"] += _nft_objects()
            for kind in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet", "netlink"):
                lines = Path(f"/proc/thread-self/net/{kind}").read_text().splitlines()[1:]
                counts[f"sockets: {kind}"] += sum(not is_over(line, kind) for line in lines)
    return {Measure("the nodes' kernels", what, Kind.COUNT): many for what, many in counts.items()}


def is_over(line: str, kind: str) -> bool:
    """Tell whether a line of /proc/net is of a TCP connection that has ended and is only remembered."""
    return kind.startswith("tcp") and line.split()[3] == _TIME_WAIT


def _nft_objects() -> int:
    rules = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True).stdout  # noqa: S607
    return things_in(json.loads(rules)["nftables"])


def things_in(value: object) -> int:
    """Count everything in a set of rules: tables, chains, sets, rules, and what these are lists of."""
    if isinstance(value, dict):
        return sum(map(things_in, value.values()))
    return len(value) + sum(map(things_in, value)) if isinstance(value, list) else 0


def _of_machine() -> dict[Measure, float]:
    kinds = (
        ("BPF programs", _PROG_NEXT, _PROG_OPEN, _PROG_NAME_AT),
        ("BPF maps", _MAP_NEXT, _MAP_OPEN, _MAP_NAME_AT),
    )
    return {
        Measure("the machine's kernel", what, Kind.COUNT): sum(
            name.startswith(OUR_NAMES) for name in _bpf_names(after, opening, name_at)
        )
        for what, after, opening, name_at in kinds
    }


def _bpf_names(after: int, opening: int, name_at: int) -> Iterator[str]:
    """Yield the names of all BPF objects of a kind on this machine; raises OSError where it may not ask."""
    number = 0
    while True:
        try:
            _, found = kernelcalls.bpf(after, struct.pack("=III", number, 0, 0))
        except FileNotFoundError:  # that was the last one
            return
        (number,) = struct.unpack_from("=I", found, 4)
        try:
            descriptor, _ = kernelcalls.bpf(opening, struct.pack("=III", number, 0, 0))
        except FileNotFoundError:  # it is gone since
            continue
        description = ctypes.create_string_buffer(_DESCRIPTION_SIZE)
        ask = struct.pack("=IIQ", descriptor, _DESCRIPTION_SIZE, ctypes.addressof(description))
        try:
            kernelcalls.bpf(_DESCRIBE, ask)
        finally:
            os.close(descriptor)
        yield description.raw[name_at : name_at + _NAME_SIZE].split(b"\0")[0].decode()


def _of_folders(stage: Stage) -> dict[Measure, float]:
    files, size = 0, 0
    for node in stage.lab.nodes.values():
        for each in (node.folder / "state").rglob("*"):
            with suppress(FileNotFoundError):  # it was replaced meanwhile
                size += each.stat().st_size
                files += 1
    return {
        Measure("the state folders", "files", Kind.COUNT): files,
        Measure("the state folders", "kB", Kind.DOCUMENT): size / 1024,
    }


def _of_kubernetes(stage: Stage) -> dict[Measure, float]:
    api = stage.lab.plane.api
    found: dict[Measure, float] = {}
    for kind in _KINDS:
        objects = api.list(VERSION, kind)
        found |= {
            Measure("Kubernetes", f"{kind}: objects", Kind.COUNT): len(objects),
            Measure("Kubernetes", f"{kind}: managedFields", Kind.COUNT): sum(
                len(each["metadata"].get("managedFields", ())) for each in objects
            ),
            Measure("Kubernetes", f"{kind}: kB", Kind.DOCUMENT): len(json.dumps(objects)) / 1024,
        }
    for version, kind in (
        ("v1", "ConfigMap"),
        ("v1", "Secret"),
        ("coordination.k8s.io/v1", "Lease"),
    ):
        many = len(api.list(version, kind, namespace=NAMESPACE))
        found[Measure("Kubernetes", f"{kind}: objects", Kind.COUNT)] = many
    # The API server forgets an Event after an hour, so that there are as many as take-overs in an hour.
    events = len(api.list("v1", "Event"))
    found[Measure("Kubernetes", "Event: objects", Kind.TOLD)] = events
    return found


def late_rounds(stage: Stage) -> float:
    """Return how many rounds of all keepers came late since they started."""
    return sum(told(node, KEEPER_METRICS, "vipkeeper_late_rounds_total") for node in stage.lab.nodes.values())
