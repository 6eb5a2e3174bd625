"""The door to hooks: the keeper's side of the process that runs them.

The keeper itself starts no hook. To start a program a process must wait until the new one has been
loaded from its disk, and a check's program may lie on a disk that hangs; a keeper that waits does not
renew its leases. So hooks are run by a small process of their own (`probes_hooks`), started at the
first exec check, asked over a socket pair with one JSON line per run, and started again should it die or
listen no more: what it has not read fills the keeper's locked memory.
It ends with the keeper, also after a kill -9 of that, and takes the running hooks with it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import sys
from typing import TYPE_CHECKING

from vipagent import realtime
from vipagent.health import Result

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from pathlib import Path

    from vipapi.healthchecks import Exec

_log = logging.getLogger(__name__)
_REPLY_BYTES = 16 * 1024
_START_S = 20.0
_BACKLOG_BYTES = 256 * 1024


class HookRunner:
    """Runs hooks of one folder. Made anywhere; used inside one event loop."""

    def __init__(self, hooks_dir: Path) -> None:
        self._hooks_dir = hooks_dir
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Result]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._is_up = asyncio.Event()

    async def ready(self) -> None:
        """Have the process running; a start takes some 70 ms, more on a busy node, and is no hook's fault.

        Raises `OSError` where it does not start.
        """
        await self._connected()
        try:
            async with asyncio.timeout(_START_S):
                await self._is_up.wait()
        except TimeoutError:
            raise ConnectionError("the process that runs hooks does not start") from None

    async def run(self, probe: Exec, environment: Mapping[str, str] | None = None) -> Result:
        """Run the hook and return how it ended; cancellation kills its whole process group.

        One that is told of a service (`VIPKEEPER_SERVICE`) says something when it passes, too.
        """
        writer = await self._connected()
        number = next(self._numbers)
        ending: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[number] = ending
        try:
            question = {"run": number, "hook": probe.hook, "args": probe.args}
            self._ask(writer, {**question, "environment": dict(environment or {})})
            return await ending
        except asyncio.CancelledError:
            self._ask(writer, {"kill": number})
            raise
        finally:
            del self._waiting[number]

    async def close(self) -> None:
        """End the process and with it all hooks."""
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._starting:
            if self._writer is None:
                ours, theirs = socket.socketpair()
                with theirs:
                    self._process = _start(theirs, self._hooks_dir)
                reader, writer = await asyncio.open_connection(sock=ours, limit=_REPLY_BYTES)
                self._listener = asyncio.create_task(self._listen(reader, writer, self._process))
                self._writer = writer
            return self._writer

    def _ask(self, writer: asyncio.StreamWriter, question: dict[str, object]) -> None:
        if writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > _BACKLOG_BYTES:
            _log.warning("the process that runs hooks does not listen: it is killed and started again")
            assert self._process is not None
            self._process.kill()
            writer.transport.abort()
            return
        writer.write(json.dumps(question).encode() + b"\n")

    async def _listen(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        process: subprocess.Popen[bytes],
    ) -> None:
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                if answer["run"] is None:
                    self._is_up.set()
                    continue
                ending = self._waiting.get(answer["run"])
                if ending is not None and not ending.done():
                    ending.set_result(Result(is_ok=answer["ok"], message=answer["message"]))
        except OSError:
            _log.warning("the connection to the process that runs hooks broke")
        finally:
            self._writer = None
            self._is_up.set()  # who waited for it runs into its end
            self._is_up = asyncio.Event()
            # It kills what runs and ends when the connection closes.
            writer.transport.abort()
            for ending in self._waiting.values():
                if not ending.done():
                    message = "the process that runs hooks ended; it is started again"
                    ending.set_result(Result(is_ok=False, message=message))
            await realtime.reap(process)


def _start(theirs: socket.socket, hooks_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vipagent.probes_hooks", str(hooks_dir)]
    return realtime.spawn(command, stdin=theirs.fileno(), start_new_session=True)
