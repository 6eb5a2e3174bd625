"""A server of the old kind, of which no two may ever run: what the lab gives vipkeeper to look after.

`legacyserver.py [--daemon] NODE FOLDER SHARED PORT`. With `--daemon` it forks itself into the background
and leaves a session of its own there. It writes its process id to `FOLDER/server.pid`, and removes the
file only when it ends in order; it opens a TCP port on all addresses; and it speaks HTTP:

    /         its node's name
    /copy     its node's name and its start number, which no other start on this node ever had
    /healthz  its node's name, unless it is sick

Files in `FOLDER` make it misbehave:

    fail-start   it ends with status 1 before it does anything
    slow-start   it runs for so many seconds before it opens its port
    hang         it does not end when it is asked to (SIGTERM)
    crash        it ends by itself, within milliseconds, and leaves its process id behind
    sick         /healthz is answered with status 500

`SHARED` is the disk that all nodes share and that two copies would ruin. Each start takes a lock on a file
of its own there, which the kernel lifts when the process has ended, however it ended, and only then looks
which others are locked. So of two copies that ran at once, be it for a microsecond and with no port open,
at least the later one saw the other, and says so in `SHARED/collisions`; then it goes on, as old
servers do. It needs nothing but Python's own library, for hooks start it with a bare environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

PID_FILE = "server.pid"
STARTS = "starts"
COLLISIONS = "collisions"
WISHES = FAIL_START, SLOW_START, HANG, CRASH, SICK = "fail-start", "slow-start", "hang", "crash", "sick"
CRASHED = 70
LOOK_EVERY_S = 0.02
PATIENCE_S = 5.0
# Who is frozen for seconds while somebody asks every 5 ms must not seem to have closed its port.
BACKLOG = 4096


def daemonize(log: Path) -> None:
    """Go on in the background, as daemon(7) describes for old daemons; the caller's process ends here."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor, stream in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, stream)


def next_start(folder: Path) -> int:
    """Return a number that no start before this one got: the length of a file that each makes longer."""
    with (folder / STARTS).open("ab") as starts:
        fcntl.flock(starts, fcntl.LOCK_EX)
        starts.write(b".")
        starts.flush()
        return starts.tell()


def claim(shared: Path, node: str, start: int) -> int:
    """Lock this copy's file on the shared disk and tell of every other copy that runs.

    Returns the descriptor that holds the lock: never to be closed.
    """
    name = f"{node}.{start}.copy"
    own = os.open(shared / name, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(own, fcntl.LOCK_EX)
    for other in sorted(shared.glob("*.copy")):
        if other.name != name and is_locked(other):
            told = {"at_ns": time.monotonic_ns(), "node": node, "start": start, "other": other.stem}
            with (shared / COLLISIONS).open("ab", buffering=0) as collisions:
                collisions.write(json.dumps(told).encode() + b"\n")
    return own


def is_locked(path: Path) -> bool:
    """Tell whether the copy that this file belongs to runs at this moment."""
    with path.open("rb") as file:
        try:
            # Shared, so that two who look at the same time do not take each other for the copy itself.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def page(target: str, *, node: str, start: int, folder: Path) -> tuple[str, str]:
    """Return the status line's end and the body that a path is answered with."""
    match target.partition("?")[0]:
        case "/healthz" if (folder / SICK).exists():
            return "500 Internal Server Error", "sick"
        case "/" | "/healthz":
            return "200 OK", node
        case "/copy":
            return "200 OK", f"{node} {start}"
    return "404 Not Found", "not found"


async def answer(
    node: str, start: int, folder: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request and close the connection."""
    with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            _, target, _ = head.split("\r\n", 1)[0].split(" ")
            status, body = page(target, node=node, start=start, folder=folder)
            length = f"Content-Length: {len(body) + 1}"
            writer.write(f"HTTP/1.0 {status}\r\nConnection: close\r\n{length}\r\n\r\n{body}\n".encode())
            await writer.drain()
    writer.close()


async def serve(node: str, start: int, folder: Path, port: int) -> None:
    """Serve until the process is ended, by whatever."""
    looking = asyncio.create_task(crash_when_told(folder))
    delay = folder / SLOW_START
    await asyncio.sleep(float(delay.read_text()) if delay.exists() else 0)
    await asyncio.start_server(partial(answer, node, start, folder), None, port, backlog=BACKLOG)
    print(f"{node} serves on port {port}, start {start}", flush=True)  # noqa: T201  # the lab waits for it
    await looking


async def crash_when_told(folder: Path) -> None:
    """End by itself when the file is there."""
    while not (folder / CRASH).exists():  # noqa: ASYNC110  # a file is no event
        await asyncio.sleep(LOOK_EVERY_S)
    os._exit(CRASHED)


def end(folder: Path, *_: object) -> None:
    """End in order, unless told to hang."""
    if not (folder / HANG).exists():
        (folder / PID_FILE).unlink(missing_ok=True)
        os._exit(0)


def main(arguments: list[str]) -> None:
    is_daemon = arguments[:1] == ["--daemon"]
    node, folder_name, shared_name, port = arguments[1:] if is_daemon else arguments
    folder, shared = Path(folder_name), Path(shared_name)
    if (folder / FAIL_START).exists():
        sys.exit("told to fail")
    if is_daemon:
        daemonize(folder / "server.log")
    signal.signal(signal.SIGTERM, partial(end, folder))
    start = next_start(folder)
    claim(shared, node, start)
    (folder / PID_FILE).write_text(f"{os.getpid()}\n")
    # On a busy machine it must not seem sick when only the processor is short.
    gc.disable()
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    asyncio.run(serve(node, start, folder, int(port)))


if __name__ == "__main__":
    main(sys.argv[1:])
