"""The process that runs hooks: `python -m vipagent.probes_hooks HOOKS_DIR`, started by the keeper.

It speaks JSON lines on its standard input, a socket: `{"run": 7, "hook": "check-disk", "args": [],
"environment": {}}` asks for a run and `{"kill": 7}` ends it; `{"run": 7, "ok": false, "message": "..."}`
answers. The first line that it sends, `{"run": null}`, says that it is up. When the socket closes,
everything that runs is killed and the process ends.

A hook is a file right in the hooks folder. One that is missing, is not executable, or that anybody
on the node could have written (its own permissions or the folder's) is refused with a sentence that
says so. It runs in a process group of its own, with a small fixed environment, nothing on standard
input, and `/` as its folder. However it ends, its whole group is killed; what moved itself into
another session is out of reach, so a hook must not start daemons.

Exit status 0 passes. The last line of its output (of both streams together) is the message; the first
`OUTPUT_BYTES` are kept and the rest is read and dropped, so that a hook that prints without end does
not stand still. No hook waits until the file of another one is read (`forks`). A hook whose last run cannot
be killed (it hangs in the kernel) is not started a second time beside it; nor is, of a hook that is told of a
service, any other for that service.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vipagent import forks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OUTPUT_BYTES = 16 * 1024
_LINE_LENGTH = 300
_QUESTION_BYTES = 1024 * 1024
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
_READ_BYTES = 4096
_KILL_S = 0.25

Run = tuple[str, tuple[str, ...], str]
"""What runs once at a time: a hook with its arguments, or whatever hook is told of a service."""


def refusal(hooks_dir: Path, hook: str) -> str | None:
    """Say why a hook may not be run, None where it may."""
    if not hook or hook.startswith(".") or "/" in hook:
        return f"{hook!r} is not a file name"
    path = hooks_dir / hook
    try:
        folder = hooks_dir.stat()
        file = path.stat()
    except OSError as error:
        return f"{path}: {os.strerror(error.errno or 0)}: put an executable file there"
    if not stat.S_ISREG(file.st_mode):
        return f"{path} is not a file"
    for name, mode in ((hooks_dir, folder.st_mode), (path, file.st_mode)):
        if mode & stat.S_IWOTH:
            return f"{name} can be written by everybody on the node: chmod o-w {name}"
    if not os.access(path, os.X_OK):
        return f"{path} is not executable: chmod +x {path}"
    return None


class Hooks:
    """The hooks that run now."""

    def __init__(self, hooks_dir: Path) -> None:
        self._hooks_dir = hooks_dir
        self._running: dict[Run, asyncio.Future[int]] = {}

    async def run(self, hook: str, args: tuple[str, ...], environment: Mapping[str, str]) -> tuple[bool, str]:
        """Run a hook to its end; cancellation kills it."""
        service = environment.get("VIPKEEPER_SERVICE")
        run: Run = (hook, args, "") if service is None else ("", (), service)
        former = self._running.get(run)
        if former is not None:
            await asyncio.wait([former], timeout=_KILL_S)
            if not former.done():
                return False, f"hook {hook}: its last run was killed and is not gone yet"
        try:
            process = forks.start(
                (str(self._hooks_dir / hook), *args),
                {**ENVIRONMENT, **environment},
                title=f"hook {hook}",
                refusal=lambda: refusal(self._hooks_dir, hook),
            )
        except OSError as error:
            return False, f"hook {hook} cannot be started: {os.strerror(error.errno or 0)}"
        ending = _ending(process.pid)
        self._running[run] = ending
        with _reading(process.output) as output, os.fdopen(process.excuses, "rb") as excuses:
            try:
                status = await asyncio.shield(ending)
            finally:
                if not ending.done():  # so it is not reaped yet; and it may have no group yet
                    os.kill(process.pid, signal.SIGKILL)
                # Also after an orderly end: what it left behind in its group goes with it.
                _kill_group(process.pid)
            excuse = excuses.read().decode(errors="replace")
        if excuse:
            return False, excuse
        line = last_line(bytes(output))
        if status == 0:
            return True, "" if service is None else line
        ended = f"exited with status {status}" if status > 0 else f"was killed by signal {-status}"
        return False, f"hook {hook} {ended}: {line}" if line else f"hook {hook} {ended}"


def _ending(pid: int) -> asyncio.Future[int]:
    """Return a future of the exit status, independent of who still holds the output open."""
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[int] = loop.create_future()
    watching = os.pidfd_open(pid)

    def end() -> None:
        loop.remove_reader(watching)
        os.close(watching)
        ending.set_result(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    loop.add_reader(watching, end)
    return ending


@contextlib.contextmanager
def _reading(pipe: int) -> Iterator[bytearray]:
    """Collect the output while it runs, and what is left of it at the end."""
    loop = asyncio.get_running_loop()
    output = bytearray()
    os.set_blocking(pipe, False)

    def read() -> bool:
        try:
            block = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return False
        output.extend(block[: OUTPUT_BYTES - len(output)])
        if not block:
            loop.remove_reader(pipe)
        return bool(block)

    loop.add_reader(pipe, read)
    try:
        yield output
        # Bounded: something outside the group may go on writing.
        for _ in range(16):
            if not read():
                break
    finally:
        loop.remove_reader(pipe)
        os.close(pipe)


def last_line(output: bytes) -> str:
    """Return the last line that is not empty, bounded and without control characters."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines()]
    line = next((line for line in reversed(lines) if line), "")
    return "".join(character for character in line if character.isprintable())[:_LINE_LENGTH]


def _kill_group(pid: int) -> None:
    # The group outlives its leader where the leader left children; without members it is an error here.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


async def serve(hooks_dir: Path, connection: socket.socket) -> None:
    """Answer questions until the other side closes."""
    reader, writer = await asyncio.open_connection(sock=connection, limit=_QUESTION_BYTES)
    hooks = Hooks(hooks_dir)
    runs: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, question: dict[str, Any]) -> None:
        is_ok, message = await hooks.run(question["hook"], tuple(question["args"]), question["environment"])
        reply: dict[str, Any] = {"run": number, "ok": is_ok, "message": message}
        writer.write(json.dumps(reply).encode() + b"\n")

    def forget(number: int, _: asyncio.Task[None]) -> None:
        del runs[number]

    writer.write(b'{"run": null}\n')
    while line := await reader.readline():
        question = json.loads(line)
        if "kill" in question:
            task = runs.get(question["kill"])
            if task is not None:
                task.cancel()
            continue
        number = int(question["run"])
        runs[number] = asyncio.create_task(answer(number, question))
        # Not in `answer`, which never begins where the run is killed at once.
        runs[number].add_done_callback(partial(forget, number))
    for task in tuple(runs.values()):
        task.cancel()
    await asyncio.gather(*runs.values(), return_exceptions=True)
    writer.close()


def main() -> None:
    """Run as a process of its own, at ordinary priority whatever the keeper's is."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with socket.socket(fileno=os.dup(0)) as connection:
        asyncio.run(serve(Path(sys.argv[1]), connection))


if __name__ == "__main__":
    main()
