"""Workloads that are a mounted file system: mount(8) at the start, umount(8) at the stop.

    start   refused where anything is mounted at the target already; that is not touched
    watch   the kernel's table of mounts (`/proc/self/mountinfo`), which tells of its changes by poll(2)
    stop    unmounted, again and again while it is busy, and never lazily: a file system that is only hidden
            is still written to
            Then it must have gone from the other mount namespaces of the node too: a container that was
            started meanwhile may have a copy of its own, which keeps the file system alive
    doubt   a table still has it; what keeps it busy is named, as far as a short look finds it

What is ours is known by the mount's number and its device; a later leash, which has no number, takes for ours
what is mounted at the target from the same source. Neither mount(8) nor umount(8) can be trusted to end soon
(a file server may be away), so they are programs beside the service; killing them ends no user of the file
system. The target is looked at by the new process only, for that too may hang.

The mounts are those of the keeper's mount namespace: in a container it needs the node's own, or
`Bidirectional` propagation for the folder in which the targets lie.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vipagent.leash_children import Asides, Children, Program
from vipagent.probes_hooks import last_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

    from vipagent.leash_cgroups import Cgroup

_BLOCK: Final = Path("/sys/block")
_AGAIN_S: Final = 0.25
_BUSY_LOOK_S: Final = 0.5
_BUSY_SHARE: Final = 32
"""So many processes are looked at in one go before others get their turn."""
_MOST_NAMED: Final = 5
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_BY: Final = {
    "UUID": "by-uuid",
    "LABEL": "by-label",
    "PARTUUID": "by-partuuid",
    "PARTLABEL": "by-partlabel",
    "ID": "by-id",
}
_HIDDEN: Final = "something else was mounted over it: unmount that first"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the table of mounts (proc(5)); `root` is what of the file system is mounted."""

    number: int
    parent: int
    device: str
    root: str
    target: str
    fs_type: str
    source: str


def parse(mountinfo: str) -> tuple[Entry, ...]:
    """Read the table."""
    entries = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        number, parent, device, root, target = left.split(" ")[:5]
        fs_type, source = (*right.split(" "), "")[:2]
        entries.append(Entry(int(number), int(parent), device, *map(_plain, (root, target, fs_type, source))))
    return tuple(entries)


def top(table: Iterable[Entry], target: str) -> Entry | None:
    """Return what is seen at a place, the uppermost where several are mounted there."""
    there = {entry.number: entry for entry in table if entry.target == target}
    for entry in tuple(there.values()):
        there.pop(entry.parent, None)
    return next(iter(there.values()), None)


def is_from(entry: Entry, source: str, table: Iterable[Entry]) -> bool:
    """Tell whether a mount may be one of that source, as mount(8) takes it: a device, a tag or a folder."""
    if entry.source == source or source == _backing(entry.source):
        return True
    tag, _, value = source.partition("=")
    device = f"/dev/disk/{_BY[tag]}/{value}" if tag in _BY else source
    if device.startswith("/dev/"):
        return entry.source.startswith("/dev/") and os.path.realpath(device) == os.path.realpath(entry.source)
    if not source.startswith("/"):
        return False
    # A folder mounted elsewhere: it is the same part of the same file system.
    holding = max(
        (each for each in table if each is not entry and Path(source).is_relative_to(each.target)),
        key=lambda each: len(each.target),
        default=None,
    )
    if holding is None or holding.device != entry.device:
        return False
    part = Path(holding.root) / Path(source).relative_to(holding.target)
    return part == Path(entry.root)


def _backing(device: str) -> str | None:
    """Return the file that a loop device shows, None for all others."""
    with contextlib.suppress(OSError):
        return (_BLOCK / Path(device).name / "loop" / "backing_file").read_text(encoding="utf-8").strip()
    return None


def _plain(field: str) -> str:
    return _ESCAPED.sub(lambda code: chr(int(code[1], 8)), field)


def _table(pid: str = "self") -> tuple[Entry, ...]:
    return parse(Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape"))


async def _tables() -> AsyncGenerator[tuple[Entry, ...], None]:
    """Return the table, now and after each change of it."""
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    table = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with select.epoll() as changes:
            # In this order: what the table tells of once is told to who asks first.
            loop.add_reader(changes.fileno(), changed.set)
            changes.register(table, select.EPOLLPRI | select.EPOLLERR)
            try:
                while True:
                    changed.clear()
                    yield _table()
                    await changed.wait()
            finally:
                loop.remove_reader(changes.fileno())
    finally:
        os.close(table)


class Mount:
    """One start of a mounted file system: a `leash.Charge`."""

    def __init__(
        self,
        order: Mapping[str, Any],
        *,
        children: Children,
        folder: Cgroup,
        objection: Callable[[], str | None],
        is_left_over: bool,
    ) -> None:
        self._source: str = order["source"]
        self._target: str = order["target"]
        self._fs_type: str | None = order.get("fsType")
        self._options: tuple[str, ...] = tuple(order.get("options", ()))
        self._asides = Asides(children, folder)
        self._folder = folder
        self._objection = objection
        self._is_left_over = is_left_over
        self._has_begun = False
        self._number: tuple[int, str] | None = None
        self._device: str | None = None
        self._complaint: str | None = None

    async def start(self, within_s: float) -> str | None:
        """Mount it, where nothing is mounted yet."""
        try:
            there = top(_table(), self._target)
            if there is not None:
                return (
                    f"{there.source} ({there.fs_type}) is mounted at {self._target} already: unmount it, and "
                    "take it out of /etc/fstab"
                )
            self._has_begun = True
            async with asyncio.timeout(within_s):
                ended = await self._asides.run(self._mount(), "mount", objection=self._objection)
        except TimeoutError:
            return f"mount {self._target} did not end within {within_s:g} s"
        self._has_begun = ended.has_run
        if ended.complaint is not None:
            return ended.complaint
        mounted = top(_table(), self._target)
        if mounted is None:
            return f"mount said that it had mounted {self._target}, but nothing is mounted there"
        self._number = (mounted.number, mounted.device)
        return None

    async def watch(self) -> str:
        """Return when it is not mounted any more, or not to be seen."""
        async with contextlib.aclosing(_tables()) as tables:
            async for table in tables:
                there = top(table, self._target)
                if there is None:
                    return f"{self._target} is not mounted any more: somebody has unmounted it"
                if (there.number, there.device) != self._number:
                    return f"{there.source} ({there.fs_type}) was mounted over {self._target}"
        raise AssertionError("the table is told of without end")

    async def stop(self) -> None:
        """Unmount it, and try again while it is busy."""
        while (ours := self._ours(table := _table())) is not None:
            # Where the same is mounted elsewhere too, as a folder mounted twice is, it may live on.
            is_only = [each.device for each in table].count(ours.device) == 1
            self._device = ours.device if is_only else None
            if top(table, self._target) != ours:
                self._complaint = _HIDDEN
            else:
                ended = await self._asides.run(self._umount(), "umount")
                self._complaint = ended.complaint
                if self._complaint is None:
                    continue
            await asyncio.sleep(_AGAIN_S)
        while await _elsewhere(self._device) is not None:  # noqa: ASYNC110 - no event tells of it here
            await asyncio.sleep(_AGAIN_S)

    async def doubt(self) -> str | None:
        """Say that it is still mounted, and what keeps it so."""
        if self._folder.is_populated:
            pids = ", ".join(map(str, sorted(self._folder.pids())))
            return (
                f"mount or umount of {self._target} was killed, but its processes {pids} hang in the kernel: "
                "see whether what it is mounted from can be reached"
            )
        table = _table()
        if self._ours(table) is None:
            return await _elsewhere(self._device)
        below = [each.target for each in table if each.target.startswith(f"{self._target}/")]
        users = [f"{path} is mounted below it" for path in below] + await _users(self._target)
        named = ", ".join(users[:_MOST_NAMED]) + (" and others" if len(users) > _MOST_NAMED else "")
        return "; ".join(filter(None, (f"{self._target} is still mounted", self._complaint, named)))

    def kill(self) -> None:
        """Kill the programs that mount and unmount."""
        self._folder.kill()
        self._asides.kill()

    async def gone(self) -> None:
        """Return when none of those programs is left."""
        await self._folder.emptied()

    async def discard(self) -> None:
        """Give back what it held; it is not mounted."""
        await self._folder.remove()

    def _ours(self, table: tuple[Entry, ...]) -> Entry | None:
        """Find what this, or an earlier leash, has mounted."""
        if self._number is not None:
            return next((each for each in table if (each.number, each.device) == self._number), None)
        there = reversed([each for each in table if each.target == self._target])
        if self._is_left_over:
            return next((each for each in there if is_from(each, self._source, table)), None)
        # A start that came to no end: nothing was there before it.
        return next(there, None) if self._has_begun else None

    def _mount(self) -> Program:
        kind = [] if self._fs_type is None else ["-t", self._fs_type]
        options = ["-o", ",".join(self._options)] if self._options else []
        args = (*kind, *options, "--", self._source, self._target)
        return Program(
            f"mount {self._target}", "mount", args, refusal=lambda: refusal(self._target), words=words
        )

    def _umount(self) -> Program:
        # Not to be made canonical: that would look at the file system, whose server may be away.
        args = ("--no-canonicalize", "--", self._target)
        return Program(f"umount {self._target}", "umount", args, words=words)


def refusal(target: str) -> str | None:
    """Say why nothing can be mounted there, None where it can."""
    is_in_full = target.startswith("/") and not target.startswith("//") and os.path.normpath(target) == target
    if not is_in_full or target == "/":
        return f"{target!r} is no target: write a folder other than / in full, without `.`, `..` and `//`"
    if not Path(target).is_dir():
        return f"there is no folder {target} on this node to mount at: mkdir -p {target}"
    real = os.path.realpath(target)
    return None if real == target else f"{target} leads to {real}: make that the target"


def words(output: bytes) -> str:
    """Return what mount(8) says, without its own name and its advice to read the kernel's messages."""
    line = last_line(b"\n".join(line for line in output.splitlines() if b"dmesg(1)" not in line))
    return line.removeprefix("mount: ").removeprefix("umount: ")


async def _users(target: str) -> list[str]:
    """Find processes that have something open there, as far as a short look goes."""
    found = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_BUSY_LOOK_S):
            async for pid in _processes():
                if any(path == target or path.startswith(f"{target}/") for path in _opened(pid)):
                    found.append(f"process {pid} ({_name(pid)}) uses it")  # noqa: PERF401 - what is in time
    return found


async def _elsewhere(device: str | None) -> str | None:
    """Say in which other mount namespace a file system is still mounted, None where none is found."""
    if device is None:
        return None
    seen = {os.readlink("/proc/self/ns/mnt")}  # noqa: PTH115
    async for pid in _processes():
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115
            if namespace in seen:
                continue
            seen.add(namespace)
            found = next((each for each in _table(pid) if each.device == device), None)
            if found is not None:
                return (
                    f"it was unmounted, but is still mounted at {found.target} in the mount namespace of "
                    f"process {pid} ({_name(pid)}): end that, or restart its container"
                )
    return None


async def _processes() -> AsyncGenerator[str, None]:
    """Go through all processes, the oldest numbers first; others get their turn in between."""
    for looked, pid in enumerate(sorted(filter(str.isdigit, os.listdir("/proc")), key=int)):  # noqa: PTH208
        if looked % _BUSY_SHARE == 0:
            await asyncio.sleep(0)
        yield pid


def _opened(pid: str) -> list[str]:
    """Return where a process stands and what it has open; links of /proc are read without going there."""
    links = [f"/proc/{pid}/{name}" for name in ("cwd", "root", "exe")]
    paths = []
    with contextlib.suppress(OSError):
        links += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]  # noqa: PTH208
    for link in links:
        with contextlib.suppress(OSError):
            paths.append(os.readlink(link))  # noqa: PTH115 - a text, which need not be a path
    return paths


def _name(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return "?"
