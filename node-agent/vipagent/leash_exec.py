"""Workloads that hooks start: what a start hook leaves running in its cgroup is the service.

    FOLDER/service   the start hook and what it left
    FOLDER/stop      the stop hook
    FOLDER/status    the status hook; like the stop hook's, what it leaves behind is killed

A hook is started by a fork that nothing waits for: what may hang with the disk that the hook lies on
(looking whether it may be run, loading it) is done by the new process, so a hook delays nothing but its
own service. That process moves itself into its cgroup first, then looks whether the lease still stands and
only then becomes the hook. One that is killed in between is killed by its number as well as by its cgroup,
for it may be in neither place that is being looked at.

The output of a service is read as long as it is written, at a bounded pace, and all but the last of it is
dropped: who wants a log writes one. That last line is what is said when the service dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import resource
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from vipagent.probes_hooks import ENVIRONMENT, last_line, refusal, why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from vipagent.leash_cgroups import Cgroup

_TAIL_BYTES: Final = 4096
_READ_BYTES: Final = 64 * 1024
_PACE_S: Final = 0.02
_STATUS_S: Final = 5.0
_STATUS_PERIOD_S: Final = 1.0
_STATUS_FALL: Final = 3
_KILL_S: Final = 0.25
_NOT_RUN: Final = 126
"""From this exit status on a shell says that it could not run the program, or that a signal ended it."""
_REFUSED: Final = 127
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, slots=True)
class Ended:
    """How a hook ended.

    `complaint` is None where it passed; `says_no` if it ran to its end and did not. `has_run` is whether it
    was started at all.
    """

    complaint: str | None
    says_no: bool = False
    has_run: bool = True


@dataclass(frozen=True, slots=True)
class Hook:
    """A program of the hooks folder with its arguments."""

    name: str
    args: tuple[str, ...]

    @classmethod
    def read(cls, order: Mapping[str, Any] | None) -> Self | None:
        """Read what the keeper sends, or none."""
        return None if order is None else cls(order["hook"], tuple(order.get("args", ())))


class _Output:
    """The last of what a hook and those that have its output print."""

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe
        self._tail = b""
        self._pausing: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe, False)
        self._loop.add_reader(pipe, self._take)

    def last_line(self) -> str:
        """Return the last line so far."""
        self._read()
        return last_line(self._tail)

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
    """A hook that was started; `ended` comes when its own process has ended, whatever it left running."""

    def __init__(self, hook: Hook, pid: int, output: int, excuses: int) -> None:
        self.output = _Output(output)
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._hook = hook
        self._pid = pid
        self._excuses = excuses

    def kill(self) -> None:
        """Kill its own process, wherever it is."""
        if not self.ended.done():  # so it is not reaped yet, and its number is nobody else's
            os.kill(self._pid, signal.SIGKILL)

    def end(self, status: int) -> None:
        """Take its exit status, as `os.waitstatus_to_exitcode` says it."""
        # What it wrote there before it became the hook; the other end closed when it did, or ended.
        excuse = os.read(self._excuses, _TAIL_BYTES).decode(errors="replace")
        os.close(self._excuses)
        self.ended.set_result(Ended(excuse, has_run=False) if excuse else self._judge(status))

    def _judge(self, status: int) -> Ended:
        if status == 0:
            return Ended(None)
        how = f"exited with status {status}" if status > 0 else f"was killed by signal {-status}"
        line = self.output.last_line()
        complaint = f"hook {self._hook.name} {how}{': ' if line else ''}{line}"
        return Ended(complaint, says_no=0 < status < _NOT_RUN)


def adopt_orphans() -> None:
    """Have what outlives its hook become a child of this process: in a container there may be no init."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Children:
    """All processes below this one: starts hooks, and reaps what ends, also what hooks left behind.

    Used inside a running event loop of the main thread, of which it takes SIGCHLD.
    """

    def __init__(self, hooks_dir: Path) -> None:
        self._hooks_dir = hooks_dir
        self._children: dict[int, Child] = {}
        self._ordinary_limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = self._ordinary_limits[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(
        self,
        hook: Hook,
        *,
        cgroup: Cgroup,
        environment: Mapping[str, str],
        objection: Callable[[], str | None] = lambda: None,
    ) -> Child:
        """Start a hook; `objection` is asked at the last moment, in the new process. Raises `OSError`."""
        output, printed = os.pipe()
        excuses, excused = os.pipe()
        # Nothing may be handled twice: until it is a process of its own, the child has this one's handlers.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._become(hook, cgroup, environment, objection, printed=printed, excused=excused)
        except OSError:
            os.close(output)
            os.close(excuses)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
            os.close(printed)
            os.close(excused)
        self._children[pid] = child = Child(hook, pid, output, excuses)
        return child

    def _become(
        self,
        hook: Hook,
        cgroup: Cgroup,
        environment: Mapping[str, str],
        objection: Callable[[], str | None],
        *,
        printed: int,
        excused: int,
    ) -> NoReturn:
        """Become the hook, in the new process; where that is refused, leave word and end."""
        path = self._hooks_dir / hook.name
        try:
            signal.set_wakeup_fd(-1)
            for signum in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(signum, signal.SIG_DFL)
            os.setsid()
            os.chdir("/")
            cgroup.enter()
            nothing = os.open(os.devnull, os.O_RDONLY)
            for descriptor, standard in ((nothing, 0), (printed, 1), (printed, 2)):
                os.dup2(descriptor, standard)
            # Also what exec would close: it may never come to that, and the keeper must see the leash's end.
            for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not paths
                if descriptor not in (0, 1, 2, excused):
                    with contextlib.suppress(OSError):  # the one of that listing
                        os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._ordinary_limits)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            excuse = refusal(self._hooks_dir, hook.name) or objection()
            if excuse is None:
                os.execve(path, [str(path), *hook.args], {**ENVIRONMENT, **environment})  # noqa: S606 - no shell
        except OSError as error:
            excuse = f"hook {hook.name} cannot be started: {why_not(error)}"
        except BaseException as error:  # noqa: BLE001 - whatever it is, it must not run on as a second leash
            excuse = f"hook {hook.name} cannot be started: {type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            os.write(excused, (excuse or "").encode(errors="replace"))
        os._exit(_REFUSED)

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


class Scripts:
    """One start of a workload that hooks start, watch and stop: a `leash.Charge`."""

    def __init__(
        self,
        order: Mapping[str, Any],
        *,
        children: Children,
        folder: Cgroup,
        environment: Mapping[str, str],
        objection: Callable[[], str | None],
    ) -> None:
        start = Hook.read(order["start"])
        assert start is not None
        self._start = start
        self._stop = Hook.read(order.get("stop"))
        self._status = Hook.read(order.get("status"))
        self._children = children
        self._folder = folder
        self._service = folder / "service"
        self._environment = environment
        self._objection = objection
        self._main: Child | None = None
        self._besides: set[Child] = set()
        self._has_processes = False
        self._doubt = None if self._stop is None else f"hook {self._stop.name} has not run yet"

    async def start(self, within_s: float) -> str | None:
        """Run the start hook, then the status hook until it passes."""
        waiting_for = f"hook {self._start.name} did not end within {within_s:g} s"
        try:
            async with asyncio.timeout(within_s):
                complaint = await self._run_start()
                while complaint is None and self._status is not None:
                    status = await self._ask(self._status)
                    if status.complaint is None:
                        break
                    waiting_for = f"it did not work within {within_s:g} s: {status.complaint}"
                    await asyncio.sleep(_STATUS_PERIOD_S)
        except TimeoutError:
            return waiting_for
        except OSError as error:
            return f"its cgroup cannot be used: {error}"
        self._has_processes = self._service.is_populated
        if complaint is None and self._status is None and not self._has_processes:
            return (
                f"hook {self._start.name} left nothing running{self._last_words()}; what works without "
                "a process of its own needs a status hook"
            )
        return complaint

    async def watch(self) -> str:
        """Return why it does not work any more: it has ended, or its status hook failed too often."""
        watching = [asyncio.ensure_future(self._fail())]
        if self._has_processes:
            watching.append(asyncio.ensure_future(self._end()))
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for each in watching:
                each.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def stop(self) -> None:
        """Run the stop hook, ask what is left to end, and return when nothing is."""
        if self._main is not None:
            self._main.kill()  # a start hook that still runs must start nothing more
        if self._stop is not None and self._has_begun:
            self._doubt = f"hook {self._stop.name} did not end in time and was killed"
            self._doubt = (await self._beside(self._stop, "stop")).complaint
        self._service.terminate()
        await self._service.emptied()

    async def doubt(self) -> str | None:
        """Say why it may still run, None where it is known to be stopped."""
        if self._folder.is_populated:
            pids = ", ".join(map(str, sorted(self._folder.pids())))
            return f"it was killed, but its processes {pids} hang in the kernel: see what they wait for"
        if not self._has_begun:
            return None
        if self._doubt is not None and self._status is not None and (await self._ask(self._status)).says_no:
            self._doubt = None
        return self._doubt

    def kill(self) -> None:
        """Kill everything of it, hooks too."""
        self._folder.kill()
        for child in (self._main, *self._besides):
            if child is not None:
                child.kill()

    async def gone(self) -> None:
        """Return when no process of it is left."""
        await self._folder.emptied()

    async def discard(self) -> None:
        """Give back what it held; nothing of it is left."""
        if self._main is not None:
            self._main.output.close()
        await self._folder.remove()

    @property
    def _has_begun(self) -> bool:
        """Whether the start hook was run, as far as is known."""
        if self._main is None:
            return False
        return not self._main.ended.done() or self._main.ended.result().has_run

    async def _run_start(self) -> str | None:
        if self._folder.is_populated:
            return "what an earlier start left is not gone yet"
        self._service.make()
        self._main = self._children.start(
            self._start, cgroup=self._service, environment=self._environment, objection=self._objection
        )
        return (await asyncio.shield(self._main.ended)).complaint

    async def _fail(self) -> str:
        failures = 0
        while self._status is not None:
            await asyncio.sleep(_STATUS_PERIOD_S)
            ended = await self._ask(self._status)
            failures = 0 if ended.complaint is None else failures + 1
            if failures == _STATUS_FALL:
                return f"it does not work: {ended.complaint}"
        forever: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await forever

    async def _end(self) -> str:
        await self._service.emptied()
        return f"it ended{self._last_words()}"

    def _last_words(self) -> str:
        line = "" if self._main is None else self._main.output.last_line()
        return f": {line}" if line else ""

    async def _ask(self, status: Hook) -> Ended:
        try:
            async with asyncio.timeout(_STATUS_S):
                return await self._beside(status, "status")
        except TimeoutError:
            return Ended(f"hook {status.name} did not end within {_STATUS_S:g} s and was killed")

    async def _beside(self, hook: Hook, name: str) -> Ended:
        """Run a hook in a cgroup of its own to its end; however that comes, nothing of it goes on."""
        cgroup = self._folder / name
        try:
            cgroup.make()
            async with asyncio.timeout(_KILL_S):
                await cgroup.emptied()
            child = self._children.start(hook, cgroup=cgroup, environment=self._environment)
        except TimeoutError:
            return Ended(f"hook {hook.name}: its last run was killed and is not gone yet")
        except OSError as error:
            return Ended(f"hook {hook.name} cannot be started: {error}")
        self._besides.add(child)
        try:
            return await asyncio.shield(child.ended)
        finally:
            child.kill()
            cgroup.kill()
            child.output.close()
            self._besides.discard(child)
