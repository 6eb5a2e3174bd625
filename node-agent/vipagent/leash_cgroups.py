"""The door to cgroups (version 2): where workloads run, so that "stopped" means that no process is left.

A process that forks, detaches itself and changes its session and its group stays in its cgroup all the
same, and `cgroup.kill` ends all of one at once, also what is being forked at that moment. `cgroup.events`
says when it is empty; the kernel tells of its changes by EPOLLPRI, which asyncio's own loop does not ask
for, so each wait has an epoll of its own that stands in the loop's.

No controller is switched on: these cgroups limit nothing, so the rule that only leaves may have processes
does not hold for them, and a keeper may have its own cgroup around them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMOVE_S: Final = 0.01
_REMOVE_TRIES: Final = 20
_NONE: Final = (FileNotFoundError, NotADirectoryError)


class Cgroup:
    """One cgroup with all that are below it; it may not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Cgroup:
        return Cgroup(self.path / name)

    def make(self) -> None:
        """Make it, if it is not there. Raises `OSError`."""
        self.path.mkdir(parents=True, exist_ok=True)

    def enter(self) -> None:
        """Move this process into it. Raises `OSError`."""
        # Not Path.write_text: between fork and exec the less is done, the better.
        procs = os.open(self.path / "cgroup.procs", os.O_WRONLY)
        try:
            os.write(procs, b"0")
        finally:
            os.close(procs)

    @property
    def children(self) -> tuple[Cgroup, ...]:
        """Those right below it."""
        try:
            with os.scandir(self.path) as entries:
                return tuple(self / name for name in sorted(each.name for each in entries if each.is_dir()))
        except OSError:
            return ()

    @property
    def is_populated(self) -> bool:
        """Whether a process is in it or below it. Raises `OSError`; one that does not exist is empty."""
        try:
            events = os.open(self.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except _NONE:
            return False
        try:
            return _is_populated(events)
        finally:
            os.close(events)

    def pids(self) -> frozenset[int]:
        """Return the processes in it and below it; one of another PID namespace has no number here."""
        found: set[int] = set()
        for each in self._tree():
            with contextlib.suppress(OSError):
                found |= {
                    int(pid) for pid in (each.path / "cgroup.procs").read_text(encoding="ascii").split()
                }
        return frozenset(found - {0})

    def kill(self) -> None:
        """Kill everything in it and below it; it takes effect at once on all that can still be reached."""
        with contextlib.suppress(*_NONE):
            (self.path / "cgroup.kill").write_text("1", encoding="ascii")

    def terminate(self) -> None:
        """Ask every process in it and below it to end, also the stopped ones."""
        descriptors = {}
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                descriptors[pid] = os.pidfd_open(pid)
        # Who is still listed had this descriptor's pid all along, or is a newcomer of the same cgroup.
        remaining = self.pids()
        for pid, descriptor in descriptors.items():
            with contextlib.suppress(ProcessLookupError):
                if pid in remaining:
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
                    signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            os.close(descriptor)

    async def emptied(self) -> None:
        """Return when no process is in it or below it. Raises `OSError`."""
        try:
            events = os.open(self.path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        except _NONE:
            return
        try:
            if _is_populated(events):
                await _emptied(events)
        finally:
            os.close(events)

    async def remove(self) -> None:
        """Remove it with all that are below it, as far as they are empty."""
        for _ in range(_REMOVE_TRIES):
            if not self.remove_now():
                return
            await asyncio.sleep(_REMOVE_S)  # the last process has ended, but is not quite gone yet

    def remove_now(self) -> bool:
        """Remove it with all that are below it, as far as they are empty; return whether one is left."""
        for each in self._tree():
            with contextlib.suppress(OSError):
                each.path.rmdir()
        return self.path.exists()

    def _tree(self) -> Iterator[Cgroup]:
        for child in self.children:
            yield from child._tree()  # noqa: SLF001 - its own class
        yield self


def _is_populated(events: int) -> bool:
    try:
        return b"populated 1" in os.pread(events, 4096, 0)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False  # removed meanwhile


async def _emptied(events: int) -> None:
    changed = asyncio.Event()
    loop = asyncio.get_running_loop()
    with select.epoll() as changes:
        changes.register(events, select.EPOLLPRI)
        loop.add_reader(changes.fileno(), changed.set)
        try:
            # Each look takes note of all changes so far; one after it rings again.
            while _is_populated(events):
                changed.clear()
                await changed.wait()
        finally:
            loop.remove_reader(changes.fileno())


def default_cgroup(node: str) -> Path | None:
    """Return a folder of that node's keeper below this process's own cgroup, made; None if it cannot be."""
    own = cgroup_of_this_process()
    if own is None:
        return None
    cgroup = own / f"vipkeeper-{node}"
    try:
        cgroup.mkdir(exist_ok=True)
    except OSError:
        return None
    # Absent before Linux 5.14; not writable where the folder belongs to somebody else.
    return cgroup if os.access(cgroup / "cgroup.kill", os.W_OK) else None


def cgroup_of_this_process() -> Path | None:
    """Return the cgroup that this process is in, as far as that is mounted."""
    mountinfo, cgroup = (Path("/proc/self", name).read_bytes() for name in ("mountinfo", "cgroup"))
    return own_cgroup(os.fsdecode(mountinfo), os.fsdecode(cgroup))


def own_cgroup(mountinfo: str, cgroup: str) -> Path | None:
    """Find a process's cgroup of version 2 in the text of its `mountinfo` and `cgroup` (proc(5)).

    None where there is none, or where it lies outside of what is mounted.
    """
    # Only "\n" ends a line: anybody's mount may have other ends of lines in its name.
    path = next((line.removeprefix("0::") for line in cgroup.split("\n") if line.startswith("0::")), None)
    if path is None:
        return None
    for line in mountinfo.split("\n"):
        mount, _, filesystem = line.partition(" - ")
        if not filesystem.startswith("cgroup2 "):
            continue
        root, point = (_unescape(field) for field in mount.split(" ")[3:5])
        with contextlib.suppress(ValueError):
            return Path(point) / Path(path).relative_to(root)
    return None


def _unescape(field: str) -> str:
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
