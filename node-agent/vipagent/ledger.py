"""The door to the ledger: what this node has started and not seen stopped, kept for the next keeper.

The plan does not tell: a service that could not be stopped may be planned no more, or for other nodes only,
when a keeper starts, and a mount, a unit, what an agent holds or what a hook had another program start has no
process by which it is found. So each start is written down as it was ordered, and crossed out when nothing of
it is left.

Nobody waits for the disk: the newest state is written by a thread, and what changes meanwhile goes with the
next write. A keeper that is killed in that moment leaves its leash, which stops what it has started by the
lease. The file is written beside the old one and renamed over it, without a sync: it counts for the boot in
which it was written, since what it names does not outlive that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vipagent.probes_threads import Threads
from vipapi import documents
from vipapi.nodeplan import ServicePlan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_AGAIN_S: Final = 1.0
_CLOSE_S: Final = 2.0

_log = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A service as it was started, with what its programs were told; in doubt if it could not be stopped.

    `outlives_processes` is whether hooks have started it, or may have, without a process in its cgroup.
    """

    service: ServicePlan
    environment: dict[str, str] = {}
    is_in_doubt: bool = False
    outlives_processes: bool = False


class _Kept(msgspec.Struct, frozen=True, rename="camel"):
    boot_id: str
    entries: tuple[Entry, ...]


_decoder: Final = msgspec.json.Decoder(_Kept)


class Ledger:
    """The ledger of one keeper. Made anywhere; used inside one event loop, which it never keeps waiting."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Entry] = {}
        self._is_dirty = False
        self._threads: Threads[None] = Threads(1)
        self._writing: asyncio.Task[None] | None = None

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What was started and not seen stopped, by the service's id."""
        return self._entries

    async def load(self) -> None:
        """Read what an earlier keeper of this boot has left; what is damaged is told and passed over."""
        loading: Threads[tuple[Entry, ...]] = Threads(1)
        try:
            kept = await loading.run("ledger", self._read)
        except (OSError, ValueError) as error:
            _log.error(
                "%s cannot be read (%s): what was started before this keeper is known by the plan alone",
                self._path,
                error,
            )
            return
        self._entries = {entry.service.id: entry for entry in kept} | self._entries

    def enter(self, entry: Entry) -> None:
        """It is about to be started, or more is known of it."""
        if self._entries.get(entry.service.id) != entry:
            self._entries[entry.service.id] = entry
            self._write_soon()

    def amend(self, entry: Entry) -> None:
        """More is known of it than when it was entered; of what was not entered nothing is kept."""
        if entry.service.id in self._entries:
            self.enter(entry)

    def cross_out(self, service_id: str) -> None:
        """Nothing of it is left."""
        if self._entries.pop(service_id, None) is not None:
            self._write_soon()

    async def close(self) -> None:
        """Wait until all is written, but not for a disk that hangs."""
        if self._writing is not None:
            await asyncio.wait((self._writing,), timeout=_CLOSE_S)
            self._writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writing

    def _write_soon(self) -> None:
        self._is_dirty = True
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        is_told = False
        while self._is_dirty:
            self._is_dirty = False
            entries = tuple(self._entries.values())
            try:
                await self._threads.run("ledger", partial(self._replace, entries))
            except OSError as error:
                self._is_dirty = True
                if not is_told:
                    _log.error("%s cannot be written (%s): trying again", self._path, error)
                is_told = True
                await asyncio.sleep(_AGAIN_S)

    def _read(self) -> tuple[Entry, ...]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        kept = documents.read(_decoder, content)
        return kept.entries if kept.boot_id == _boot_id() else ()

    def _replace(self, entries: Iterable[Entry]) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(_Kept(_boot_id(), tuple(entries))))
        new.replace(self._path)


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
