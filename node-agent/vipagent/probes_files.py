"""The door to files that health checks look at: there, a plain file, written lately, and saying what it must.

A file may lie on a server that has died, and then every call on it hangs. So files are looked at in threads
(`probes_threads`), one for each path at most and `LIMIT` at a time, the others in turn; the check fails when
its time is up, and what hangs delays nothing but later looks at the same path. `contentRegex` is searched
for in the first `CONTENT_BYTES`, back in the event loop's thread, where `probes_regex` can bound its time.

Some folders are closed (`CLOSED`, and the keeper's own): the keeper looks as root, and with one expression
after another an author of checks would read its heartbeat key there, or what other processes hold. Where a
path leads is asked before it is opened, and again of what was opened.

A link is followed. A pipe or device is not opened: that could wait, or do something. A path is what the
keeper sees there: one in a Pod needs the node's folder mounted at the same place.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vipagent import probes_regex
from vipagent.health import Result
from vipagent.probes_threads import Threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipapi.healthchecks import File

CONTENT_BYTES: Final = 64 * 1024
LIMIT: Final = 16
CLOSED: Final = (Path("/var/lib/vipkeeper"), Path("/run/vipkeeper"), Path("/proc"), Path("/sys"))
"""Folders that no check may look into."""


class Files:
    """Looks at files. Made anywhere; used inside one event loop."""

    def __init__(self, closed: Iterable[Path] = ()) -> None:
        """`closed`: folders that are closed besides `CLOSED`."""
        self._closed = (*CLOSED, *closed)
        self._threads: Threads[tuple[float, bytes]] = Threads(LIMIT)

    async def look(self, probe: File) -> Result:
        """Judge the file as it is now; waits as long as its disk does, and raises `OSError`."""
        if not probe.path.startswith("/") or "\0" in probe.path:
            return _failed(probe, "this is no absolute path")
        is_read = probe.content_regex is not None
        name = f"{probe.path} (read)" if is_read else probe.path
        written_at, content = await self._threads.run_in_turn(
            name, lambda: self._look(probe.path, is_read=is_read)
        )
        oldest = probe.max_age_seconds
        if oldest is not None and time.time() - written_at > oldest:
            return _failed(probe, f"it was not written for more than {oldest} s")
        if probe.content_regex is not None:
            text = content.decode(errors="replace")
            where = f"file {probe.path}: what it says"
            why_not = probes_regex.mismatch("contentRegex", probe.content_regex, text, where=where)
            return Result(is_ok=why_not is None, message=why_not or "")
        return Result(is_ok=True)

    def _look(self, path: str, *, is_read: bool) -> tuple[float, bytes]:
        """Return when a file was written last, in seconds since 1970, and its beginning if that is wanted."""
        self._admit(path)
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is not a regular file")
        if not is_read:
            return found.st_mtime, b""
        # It may have been replaced by a pipe just now.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb", buffering=0) as opened:  # noqa: PTH123 - a descriptor, no path
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise OSError("it is not a regular file")
            self._admit(f"/proc/self/fd/{descriptor}")
            content = b""
            while len(content) < CONTENT_BYTES and (more := opened.read(CONTENT_BYTES - len(content))):
                content += more
            return found.st_mtime, content

    def _admit(self, path: str) -> None:
        """Raise `OSError` if it leads into a closed folder; the folders may be links themselves."""
        where = Path(path).resolve()
        for folder in self._closed:
            if where.is_relative_to(folder) or where.is_relative_to(folder.resolve()):
                raise OSError(f"it lies in {folder}, where no check may look")


def _failed(probe: File, why: str) -> Result:
    return Result(is_ok=False, message=f"file {probe.path}: {why}")
