"""The door to /proc: which programs this node runs, for the checks that want one running.

An *executable* is a path or a name. A path is that of the program that a process runs (`/proc/PID/exe`), as
the process sees it: in a container, inside that. A name is the last part of such a path, or what the kernel
calls the process (proc(5), `comm`: of a script with a `#!` line, the script's name, cut off after 15
letters). A program that was replaced on disk since its start still counts; a zombie and the kernel's own
threads never do. Only processes of the PID namespace that the keeper lives in can be seen.

One look at all processes takes milliseconds on a busy node, so it is made in a thread, and whoever asks
within `FRESH_S` of it has what it found.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vipagent.health import Result
from vipagent.probes_threads import Threads

if TYPE_CHECKING:
    from pathlib import Path

    from vipapi.healthchecks import Process

FRESH_S: Final = 0.2
_DELETED: Final = " (deleted)"


@dataclass(frozen=True, slots=True)
class Running:
    """How many processes run each program, by path and by name; the path of `hidden` ones is unknown."""

    paths: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    hidden: int = 0


class Processes:
    """Looks at the processes of this node. Made anywhere; used inside one event loop."""

    def __init__(self, proc: Path) -> None:
        self._proc = str(proc)
        self._threads: Threads[Running] = Threads(1)
        self._found: tuple[float, Running] | None = None

    async def look(self, probe: Process) -> Result:
        """Judge how many processes run the executable; raises `OSError` if there is no looking."""
        executable = probe.executable
        if not executable or ("/" in executable and not executable.startswith("/")):
            message = f"process {executable!r}: write an absolute path, or a name without a slash"
            return Result(is_ok=False, message=message)
        running = await self._look()
        is_path = executable.startswith("/")
        count = (running.paths if is_path else running.names)[executable]
        wanted = 1 if probe.at_least is None else probe.at_least
        if count >= wanted:
            return Result(is_ok=True)
        message = f"process {executable}: none runs" if not count else _too_few(executable, count, wanted)
        if is_path and running.hidden:
            message += "; of some it cannot be seen: give the keeper SYS_PTRACE, or check a name"
        return Result(is_ok=False, message=message)

    async def _look(self) -> Running:
        now = asyncio.get_running_loop().time
        if self._found is None or now() - self._found[0] > FRESH_S:
            began = now()
            running = await self._threads.run(self._proc, lambda: _scan(self._proc))
            self._found = (began, running)
        return self._found[1]


def _too_few(executable: str, count: int, wanted: int) -> str:
    return f"process {executable}: {count} run, {wanted} are wanted"


def _scan(proc: str) -> Running:
    running = Running()
    hidden = 0
    for pid in os.listdir(proc):  # noqa: PTH208 - of a thousand processes a `Path` each costs as much again
        if not pid.isdigit():
            continue
        try:
            hidden += _count(f"{proc}/{pid}", running)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended, or is a zombie, or the kernel's own
    return Running(running.paths, running.names, hidden)


def _count(folder: str, running: Running) -> bool:
    """Count one process; return whether its path is hidden. Raises `OSError` for what is none."""
    path = None
    with contextlib.suppress(PermissionError):
        path = os.readlink(f"{folder}/exe").removesuffix(_DELETED)  # noqa: PTH115
    with open(f"{folder}/stat", "rb") as opened:  # noqa: PTH123
        said = opened.read()
    # The name stands in parentheses, and may have some itself; the state follows it.
    name, _, rest = said.partition(b"(")[2].rpartition(b")")
    if rest.split()[:1] in ([b"Z"], [b"X"]):
        return False
    names = {name.decode(errors="replace")}
    if path is not None:
        running.paths[path] += 1
        names.add(path.rpartition("/")[2])
    for each in names:
        running.names[each] += 1
    return path is None
