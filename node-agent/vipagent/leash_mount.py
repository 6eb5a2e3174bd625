"""Workloads that are a mounted file system: mount(8) at the start, umount(8) at the stop.

    start   refused where anything is mounted at the target already; that is not touched
    watch   the kernel's table of mounts (`/proc/self/mountinfo`), which tells of its changes by poll(2), and
            what serves the file system, where that is a process
    stop    unmounted, again and again while it is busy, and never lazily: a file system that is only hidden
            is still written to
            Then it must have gone from the other mount namespaces of the node too: a container that was
            started meanwhile may have a copy of its own, which keeps the file system alive. Then what serves
            it is let end, and asked to
    doubt   a table still has it; what keeps it busy is named, as far as a short look finds it

What is ours is known by the mount's number and its device; a later leash, which has no number, takes for ours
what is mounted at the target from the same source. Neither mount(8) nor umount(8) can be trusted to end soon
(a file server may be away), so they are programs beside the service; killing them ends no user of the file
system. The target is looked at by the new process only, for that too may hang.

Some file systems are a process (FUSE: sshfs, glusterfs, ntfs-3g) or need one (rpc.statd), which mount(8)
leaves running. So mount(8) runs in the service's own cgroup, and what it leaves there belongs to the service.
The leash never kills that as long as it is mounted, not even when the time to stop is over: what it has not
written yet would be lost.

The table may be long, there is one for each container, and anybody may put odd names into that of a mount
namespace of their own. So a line that does not read as one is passed over, and only lines in which the wanted
text stands are read at all.

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
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vipagent.leash_children import Asides, Child, Children, Program
from vipagent.probes_hooks import last_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

    from vipagent.leash_cgroups import Cgroup

_BLOCK: Final = Path("/sys/block")
_AGAIN_S: Final = 0.25
_PACE_S: Final = 0.25
"""The table is read again this long after it was read at the soonest, however often it changes."""
_OWN_END_S: Final = 1.0
"""What served a file system ends by itself when it is unmounted, and may have something to write before."""
_BUSY_LOOK_S: Final = 0.5
_SERVED_LOOK_S: Final = 0.1
"""Shorter than the keeper waits for an answer (`runner`), which would kill what serves the file system."""
_BUSY_SHARE: Final = 32
"""So many processes are looked at in one go before others get their turn."""
_MOST_OPENED: Final = 1000
"""So many descriptors of one process are looked at."""
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


def parse(mountinfo: str, *, having: str = "") -> tuple[Entry, ...]:
    """Read the table, or only the lines in which a text stands."""
    entries = []
    for line in mountinfo.split("\n") if having in mountinfo else ():
        if having in line:
            with contextlib.suppress(ValueError):
                entries.append(_entry(line))
    return tuple(entries)


def _entry(line: str) -> Entry:
    left, _, right = line.partition(" - ")
    number, parent, device, root, target = left.split(" ")[:5]
    fs_type, source = (*right.split(" "), "")[:2]
    return Entry(int(number), int(parent), device, *map(_plain, (root, target, fs_type, source)))


def top(table: Iterable[Entry], target: str) -> Entry | None:
    """Return what is seen at a place, the uppermost where several are mounted there."""
    there = {entry.number: entry for entry in table if entry.target == target}
    for entry in tuple(there.values()):
        there.pop(entry.parent, None)
    return next(iter(there.values()), None)


def is_from(entry: Entry, source: str, table: Iterable[Entry]) -> bool:
    """Tell whether a mount may be one of that source, as mount(8) takes it: a device, a tag or a folder.

    What comes from the network may be shown under another name than it was asked for, and a process that
    serves a file system calls its source what it likes: these are taken for ours where they may be.
    """
    if _bare(entry.source) == _bare(source) or source == _backing(entry.source):
        return True
    tag, _, value = source.partition("=")
    device = f"/dev/disk/{_BY[tag]}/{value}" if tag in _BY else source
    if device.startswith("/dev/"):
        return entry.source.startswith("/dev/") and os.path.realpath(device) == os.path.realpath(entry.source)
    if entry.fs_type.partition(".")[0] == "fuse" or (_is_network(source) and _is_network(entry.source)):
        return True
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


def _bare(source: str) -> str:
    """Return a source without the slashes at its end, which the kernel drops for some."""
    return source.rstrip("/") or source


def _is_network(source: str) -> bool:
    return source.startswith("//") or (":" in source and not source.startswith("/"))


def _plain(field: str) -> str:
    return _ESCAPED.sub(lambda code: chr(int(code[1], 8)), field) if "\\" in field else field


def _as_written(path: str) -> str:
    """Return a path as the table has it."""
    return re.sub(r"[ \t\n\\]", lambda char: f"\\{ord(char[0]):03o}", path)


def _shown(text: str) -> str:
    """Return what others have named in a form that can be told: it need be neither UTF-8 nor one line."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _table(pid: str = "self") -> str:
    # Not in text mode, for which \r ends a line.
    return Path(f"/proc/{pid}/mountinfo").read_bytes().decode(errors="surrogateescape")


def _seen(table: str, target: str) -> Entry | None:
    return top(parse(table, having=f" {_as_written(target)} "), target)


async def _tables() -> AsyncGenerator[str, None]:
    """Return the table, now and after each change of it, at a bounded pace."""
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
                    await asyncio.sleep(_PACE_S)
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
        self._children = children
        self._asides = Asides(children, folder)
        self._folder = folder
        self._service = folder / "service"
        self._objection = objection
        self._is_left_over = is_left_over
        self._main: Child | None = None
        self._has_processes = False
        self._number: tuple[int, str] | None = None
        self._device: str | None = None
        self._complaint: str | None = None

    async def start(self, within_s: float) -> str | None:
        """Mount it, where nothing is mounted yet."""
        try:
            there = _seen(_table(), self._target)
            if there is not None:
                return (
                    f"{_name_of(there)} is mounted at {self._target} already: unmount it, and "
                    "take it out of /etc/fstab"
                )
            if self._folder.is_populated:
                return "what an earlier start left is not gone yet"
            async with asyncio.timeout(within_s):
                return await self._start()
        except TimeoutError:
            return f"mount {self._target} did not end within {within_s:g} s"
        except OSError as error:
            return f"its cgroup cannot be used: {error}"
        finally:
            self._end_start()

    async def watch(self) -> str:
        """Return when it is not mounted any more, or not to be seen, or what serves it has ended."""
        watching = [asyncio.ensure_future(self._lost())]
        if self._has_processes:
            watching.append(asyncio.ensure_future(self._unserved()))
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for each in watching:
                each.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def stop(self) -> None:
        """Unmount it, and try again while it is busy; then end what served it."""
        self._end_start()
        while (ours := self._ours(table := _table())) is not None:
            # Where the same is mounted elsewhere too, as a folder mounted twice is, it may live on.
            same = parse(table, having=f" {ours.device} ")
            is_only = [each.device for each in same].count(ours.device) == 1
            self._device = ours.device if is_only else None
            if _seen(table, self._target) != ours:
                self._complaint = _HIDDEN
            else:
                ended = await self._asides.run(self._umount(), "umount")
                self._complaint = ended.complaint
                if self._complaint is None:
                    continue
            await asyncio.sleep(_AGAIN_S)
        while await _elsewhere(self._device) is not None:  # noqa: ASYNC110 - no event tells of it here
            await asyncio.sleep(_AGAIN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OWN_END_S):
                await self._service.emptied()
        self._service.terminate()
        await self._service.emptied()

    async def doubt(self) -> str | None:
        """Say that it is still mounted, and what keeps it so."""
        table = _table()
        is_mounted = self._ours(table) is not None
        hanging = self._mortal(is_mounted=is_mounted)
        if hanging.is_populated:
            pids = ", ".join(map(str, sorted(hanging.pids())))
            return (
                f"mount or umount of {self._target} was killed, but its processes {pids} hang in the kernel: "
                "see whether what it is mounted from can be reached"
            )
        if not is_mounted:
            return await _elsewhere(self._device)
        look_s = _SERVED_LOOK_S if self._service.is_populated else _BUSY_LOOK_S
        start = f"{self._target}/"
        entries = parse(table, having=f" {_as_written(start)}")
        below = [_shown(each.target) for each in entries if each.target.startswith(start)]
        users = [f"{path} is mounted below it" for path in below] + await _users(self._target, look_s)
        named = ", ".join(users[:_MOST_NAMED]) + (" and others" if len(users) > _MOST_NAMED else "")
        return "; ".join(filter(None, (f"{self._target} is still mounted", self._complaint, named)))

    def kill(self) -> None:
        """Kill the programs that mount and unmount, and what serves it unless it is mounted."""
        self._end_start()
        self._mortal(is_mounted=self._ours(_table()) is not None).kill()
        self._asides.kill()

    async def gone(self) -> None:
        """Return when no process of it is left. Raises `TimeoutError` if one serves what is still mounted."""
        await self._mortal(is_mounted=self._ours(_table()) is not None).emptied()
        if self._number is not None and self._folder.is_populated:
            raise TimeoutError

    async def discard(self) -> None:
        """Give back what it held; it is not mounted."""
        if self._main is not None:
            self._main.output.close()
        await self._folder.remove()

    @property
    def may_lack_processes(self) -> bool:
        """Whether it is mounted."""
        return self._ours(_table()) is not None

    @property
    def has_processes(self) -> bool:
        """Whether mount(8) has left processes of it in its cgroup."""
        return self._has_processes

    @property
    def is_started(self) -> bool:
        """Whether mount(8) was run, by this leash or by an earlier one, as far as is known."""
        return self._has_begun or self._is_left_over

    @property
    def _has_begun(self) -> bool:
        """Whether mount(8) was run, as far as is known."""
        if self._main is None:
            return False
        return not self._main.ended.done() or self._main.ended.result().has_run

    async def _start(self) -> str | None:
        self._service.make()
        self._main = self._children.start(self._mount(), cgroup=self._service, objection=self._objection)
        ended = await asyncio.shield(self._main.ended)
        if ended.complaint is not None:
            return ended.complaint
        mounted = _seen(_table(), self._target)
        if mounted is None:
            return f"mount said that it had mounted {self._target}, but nothing is mounted there"
        self._has_processes = self._service.is_populated
        self._number = (mounted.number, mounted.device)
        return None

    def _end_start(self) -> None:
        """Kill what a start that came to no good end has left: it must mount nothing more."""
        if self._main is not None and self._number is None:
            self._main.kill()
            self._service.kill()

    def _mortal(self, *, is_mounted: bool) -> Cgroup:
        """Return what may be killed: all of it, but while it is mounted not what serves it."""
        return self._folder / "umount" if is_mounted and self._number is not None else self._folder

    async def _lost(self) -> str:
        async with contextlib.aclosing(_tables()) as tables:
            async for table in tables:
                if (loss := self._loss(table)) is not None:
                    return loss
        raise AssertionError("the table is told of without end")

    async def _unserved(self) -> str:
        await self._service.emptied()
        assert self._main is not None, "what serves it was started here"
        words = self._main.last_words()
        return self._loss(_table()) or f"what served {self._target} has ended{': ' if words else ''}{words}"

    def _loss(self, table: str) -> str | None:
        """Say why it is not to be seen at its target, None where it is."""
        there = _seen(table, self._target)
        if there is None:
            return f"{self._target} is not mounted any more: somebody has unmounted it"
        if (there.number, there.device) != self._number:
            return f"{_name_of(there)} was mounted over {self._target}"
        return None

    def _ours(self, table: str) -> Entry | None:
        """Find what this, or an earlier leash, has mounted."""
        if self._number is not None:
            same = parse(table, having=f" {self._number[1]} ")
            return next((each for each in same if (each.number, each.device) == self._number), None)
        entries = parse(table, having=f" {_as_written(self._target)} ")
        there = [each for each in reversed(entries) if each.target == self._target]
        if self._is_left_over and there:
            whole = parse(table)
            return next((each for each in there if is_from(each, self._source, whole)), None)
        # A start that came to no end: nothing was there before it.
        return next(iter(there), None) if self._has_begun else None

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


async def _users(target: str, within_s: float) -> list[str]:
    """Find processes that have something open there, as far as a short look goes."""
    found = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            async for pid in _processes():
                if any(path == target or path.startswith(f"{target}/") for path in _opened(pid)):
                    found.append(f"process {pid} ({_name(pid)}) uses it")
                await asyncio.sleep(0)
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
            same = parse(_table(pid), having=f" {device} ")
            found = next((each for each in same if each.device == device), None)
            if found is not None:
                return (
                    f"it was unmounted, but is still mounted at {_shown(found.target)} in the mount "
                    f"namespace of process {pid} ({_name(pid)}): end that, or restart its container"
                )
            await asyncio.sleep(0)
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
    with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/fd") as descriptors:
        links += [each.path for each in islice(descriptors, _MOST_OPENED)]
    for link in links:
        with contextlib.suppress(OSError):
            paths.append(os.readlink(link))  # noqa: PTH115 - a text, which need not be a path
    return paths


def _name(pid: str) -> str:
    with contextlib.suppress(OSError):
        return _shown(Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip())
    return "?"


def _name_of(entry: Entry) -> str:
    return f"{_shown(entry.source)} ({_shown(entry.fs_type)})"
