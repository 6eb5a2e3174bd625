"""The door to the courier: a unix socket with one JSON line for each thing that is said (`vipapi.link`).

The keeper serves; a courier that comes back is simply the newest. A line that is too long or not a
plan is an error for whoever takes it, not for the connection's neighbours. A courier that does not
read its reports is cut off rather than allowed to fill this process's memory.

Who may connect is the folder's matter: the socket is for its owner and its group, which in a folder with
the setgid bit is the folder's, and otherwise the keeper's own. That is how a courier with a user of its own
gets in (in a pod `fsGroup`, under systemd `Group=`); the keeper needs no right to give files away. Where
that group is root's, the socket is for its owner alone: many programs that are not root have that group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from typing import TYPE_CHECKING, Final

from vipapi.link import encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from vipapi.link import ToCourier

_LONGEST_LINE: Final = 16 << 20
_UNREAD_BYTES: Final = 8 << 20


class SocketServer:
    """Serves couriers: hands every line to `take`, and the newest line of each kind to every courier."""

    def __init__(self, path: Path, take: Callable[[bytes], Awaitable[None]]) -> None:
        self._path = path
        self._take = take
        self._writers: set[asyncio.StreamWriter] = set()
        self._newest: dict[type, bytes] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; replaces the socket of a keeper that is gone. Raises `OSError`."""
        self._path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        folder = self._path.parent.stat()
        group = folder.st_gid if folder.st_mode & stat.S_ISGID else os.getegid()
        mask = os.umask(0o117 if group != 0 else 0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LONGEST_LINE)
        finally:
            os.umask(mask)

    @property
    def couriers(self) -> int:
        """How many couriers are connected."""
        return len(self._writers)

    def publish(self, said: ToCourier) -> None:
        """Send it to whoever is connected, and first thing to whoever comes, unless newer of its kind is."""
        line = self._newest[type(said)] = encode(said) + b"\n"
        for writer in list(self._writers):
            if writer.transport.get_write_buffer_size() > _UNREAD_BYTES:
                writer.transport.abort()
            else:
                writer.write(line)

    async def close(self) -> None:
        """Stop serving and remove the socket."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            # One write: asyncio of Python 3.13 fails when it is to write no lines at all.
            writer.write(b"".join(self._newest.values()))
            while said := await line(reader):
                await self._take(said)
        finally:
            self._writers.discard(writer)
            writer.close()


async def line(reader: asyncio.StreamReader) -> bytes:
    """Read a line; empty if the courier is gone, or sent one beyond every bound: it may come again."""
    try:
        return await reader.readline()
    except (ConnectionError, ValueError):
        return b""
