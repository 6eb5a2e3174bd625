"""Processes below the leash: how what a workload consists of is started, and reaped.

    FOLDER/service        what was started and what it left running: the service itself
    FOLDER/stop, status   programs that run beside it to their end (`Asides`); what one leaves is killed

A program is started by a fork that nothing waits for (`forks`), so one that cannot be loaded delays nothing
but its own service. The new process moves itself into its cgroup first, then looks whether the lease still
stands and only then becomes the program. One that is killed in between is killed by its number as well as by
its cgroup, for it may be in neither place that is being looked at.

The output of a service is read as long as it is written, at a bounded pace, and all but the last of it is
dropped: who wants a log writes one. That last line is what is said when the service dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vipagent import forks
from vipagent.probes_hooks import ENVIRONMENT, last_line

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vipagent.forks import Forked
    from vipagent.leash_cgroups import Cgroup

_TAIL_BYTES: Final = 4096
_READ_BYTES: Final = 64 * 1024
_DRAIN_BLOCKS: Final = 16
_PACE_S: Final = 0.02
_KILL_S: Final = 0.25
_NOT_RUN: Final = 126
"""From this exit status on a shell says that it could not run the program, or that a signal ended it."""
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Program:
    """What is started: `path` with its arguments, called `title` when something is said of it.

    `refusal` is asked in the new process whether it may be run. `meanings` are words for exit statuses, and
    `words` finds in the end of the output what to repeat of it.
    """

    title: str
    path: Path | str
    args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    refusal: Callable[[], str | None] = lambda: None
    meanings: Mapping[int, str] = field(default_factory=dict)
    words: Callable[[bytes], str] = last_line


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended.

    `complaint` is None where it passed; `says_no` if it ran to its end and did not. `has_run` is whether it
    was started at all. `status` is its exit status where it had one, and `output` the end of what it printed.
    """

    complaint: str | None
    says_no: bool = False
    has_run: bool = True
    status: int | None = None
    output: str = ""


class _Output:
    """The last of what a program and those that have its output print."""

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe
        self._tail = b""
        self._pausing: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe, False)
        self._loop.add_reader(pipe, self._take)

    def tail(self) -> bytes:
        """Return the end of it so far."""
        for _ in range(_DRAIN_BLOCKS):
            if self._read() == 0:
                break
        return self._tail

    def close(self) -> None:
        """Read no more: from now on who writes is told that nobody listens."""
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        if self._pipe is not None:
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self._pipe = None

    def _take(self) -> None:
        if self._read() == _READ_BYTES and self._pipe is not None:
            # Without a pace, one program that prints without end would keep this process busy with it.
            self._loop.remove_reader(self._pipe)
            self._pausing = self._loop.call_later(_PACE_S, self._go_on)

    def _go_on(self) -> None:
        assert self._pipe is not None
        self._pausing = None
        self._loop.add_reader(self._pipe, self._take)

    def _read(self) -> int:
        if self._pipe is None:
            return 0
        try:
            block = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return 0
        self._tail = (self._tail + block)[-_TAIL_BYTES:]
        if not block:
            self.close()
        return len(block)


class Child:
    """A program that was started; `ended` comes when its own process has ended, whatever it left running."""

    def __init__(self, program: Program, forked: Forked) -> None:
        self.output = _Output(forked.output)
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._program = program
        self._pid = forked.pid
        self._excuses = forked.excuses

    def kill(self) -> None:
        """Kill its own process, wherever it is."""
        if not self.ended.done():  # so it is not reaped yet, and its number is nobody else's
            os.kill(self._pid, signal.SIGKILL)

    def last_words(self) -> str:
        """Return what is to be repeated of its output, and of that of what it left running."""
        return self._program.words(self.output.tail())

    def end(self, status: int) -> None:
        """Take its exit status, as `os.waitstatus_to_exitcode` says it."""
        # What it wrote there before it became the program; the other end closed when it did, or ended.
        excuse = os.read(self._excuses, _TAIL_BYTES).decode(errors="replace")
        os.close(self._excuses)
        self.ended.set_result(Ended(excuse, has_run=False) if excuse else self._judge(status))

    def _judge(self, status: int) -> Ended:
        output = self.output.tail().decode(errors="replace")
        if status == 0:
            return Ended(None, status=0, output=output)
        how = f"exited with status {status}" if status > 0 else f"was killed by signal {-status}"
        meaning = self._program.meanings.get(status)
        words = self.last_words()
        return Ended(
            f"{self._program.title} {how}{f' ({meaning})' if meaning else ''}{': ' if words else ''}{words}",
            says_no=0 < status < _NOT_RUN,
            status=status if status > 0 else None,
            output=output,
        )


def adopt_orphans() -> None:
    """Have what outlives its program become a child of this process: in a container there may be no init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Children:
    """All processes below this one: starts programs, and reaps what ends, also what they left behind.

    Used inside a running event loop of the main thread, of which it takes SIGCHLD.
    """

    def __init__(self) -> None:
        self._children: dict[int, Child] = {}
        self._ordinary_limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = self._ordinary_limits[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self,
        program: Program,
        *,
        cgroup: Cgroup,
        objection: Callable[[], str | None] = lambda: None,
    ) -> Child:
        """Start a program; `objection` is asked at the last moment, in the new process. Raises `OSError`."""
        forked = forks.start(
            (str(program.path), *program.args),
            {**ENVIRONMENT, **program.environment},
            title=program.title,
            refusal=lambda: program.refusal() or objection(),
            settle=lambda: self._settle(cgroup),
        )
        self._children[forked.pid] = child = Child(program, forked)
        return child

    def _settle(self, cgroup: Cgroup) -> None:
        """Go where the new process belongs."""
        cgroup.enter()
        resource.setrlimit(resource.RLIMIT_NOFILE, self._ordinary_limits)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                child.end(os.waitstatus_to_exitcode(status))


class Asides:
    """Programs that run beside a service to their end, each kind in a cgroup of its own below `folder`."""

    def __init__(self, children: Children, folder: Cgroup) -> None:
        self._children = children
        self._folder = folder
        self._running: set[Child] = set()

    async def run(
        self, program: Program, name: str, *, objection: Callable[[], str | None] = lambda: None
    ) -> Ended:
        """Run one to its end, as `name`; however that comes, nothing of it goes on."""
        cgroup = self._folder / name
        try:
            cgroup.make()
            async with asyncio.timeout(_KILL_S):
                await cgroup.emptied()
            child = self._children.start(program, cgroup=cgroup, objection=objection)
        except TimeoutError:
            return Ended(f"{program.title}: its last run was killed and is not gone yet")
        except OSError as error:
            return Ended(f"{program.title} cannot be started: {error}")
        self._running.add(child)
        try:
            return await asyncio.shield(child.ended)
        finally:
            child.kill()
            cgroup.kill()
            child.output.close()
            self._running.discard(child)

    def kill(self) -> None:
        """Kill what runs."""
        for child in self._running:
            child.kill()


class Housed:
    """What a service has in its cgroup: the program that starts it, what that leaves, and programs beside.

    A charge of the leash whose processes all stand there needs no more to be killed and given back.
    """

    def __init__(self, children: Children, folder: Cgroup) -> None:
        self._children = children
        self._asides = Asides(children, folder)
        self._folder = folder
        self._service = folder / "service"
        self._main: Child | None = None
        self._has_processes = False

    def kill(self) -> None:
        """Kill everything of it that is a process."""
        self._folder.kill()
        self._asides.kill()
        if self._main is not None:
            self._main.kill()

    @property
    def has_processes(self) -> bool:
        """Whether the start has left processes of it in its cgroup."""
        return self._has_processes

    async def gone(self) -> None:
        """Return when no process of it is left."""
        await self._folder.emptied()

    async def discard(self) -> None:
        """Give back what it held; nothing of it is left."""
        if self._main is not None:
            self._main.output.close()
        await self._folder.remove()

    @property
    def _hanging(self) -> str | None:
        """Say which of its processes outlast being killed."""
        if not self._folder.is_populated:
            return None
        pids = ", ".join(map(str, sorted(self._folder.pids())))
        return f"it was killed, but its processes {pids} hang in the kernel: see what they wait for"
