"""The door to the keeper: a client of its unix socket, with the lines of `vipapi.link`.

It connects and connects again for as long as it runs. The newest plan is sent at every connect and at
every change; plans in between are skipped while the keeper is slow to read. Votes are sent once each,
before a plan that waits too, and only to the keeper that was connected when they were told. A line that
is neither a report nor a list of wanted votes is told and dropped; one longer than `LONGEST_LINE` ends
the connection, for its end cannot be known.

`on_report` gets every report, `on_wanted` every list of wanted votes. `on_absence` gets, whenever there
is no connection, a sentence that says why and what to look at, and None as soon as there is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from vipapi import link
from vipapi.nodestatus import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vipapi.link import Votes, VotesWanted

LONGEST_LINE = 16 << 20
FIRST_RETRY_S = 0.05
LAST_RETRY_S = 1.0
SEND_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


class Link:
    """One courier's connection to its node's keeper."""

    def __init__(
        self,
        socket: Path,
        *,
        on_report: Callable[[Report], None],
        on_wanted: Callable[[VotesWanted], None],
        on_absence: Callable[[str | None], None],
        on_sent: Callable[[], None] = lambda: None,
        on_bad_line: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = socket
        self._on_report = on_report
        self._on_wanted = on_wanted
        self._on_absence = on_absence
        self._on_sent = on_sent
        self._on_bad_line = on_bad_line
        self._plan: bytes | None = None
        self._unsent_plan: bytes | None = None
        self._unsent_votes: bytes | None = None
        self._has_line = asyncio.Event()

    def offer(self, plan: bytes) -> None:
        """Make this line the plan that the keeper is to have; sending it twice is no harm."""
        self._plan = self._unsent_plan = plan
        self._has_line.set()

    def tell(self, votes: Votes) -> None:
        """Send these votes to the keeper that is connected now; to none if none is."""
        self._unsent_votes = link.encode(votes)
        self._has_line.set()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        retry_s = FIRST_RETRY_S
        told = ""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=LONGEST_LINE)
            except OSError as error:
                why = self._remedy(error)
                if why != told:
                    _log.warning("No keeper: %s", why)
                    told = why
            else:
                _log.info("Connected to the keeper at %s", self._socket)
                self._on_absence(None)
                retry_s, told = FIRST_RETRY_S, ""
                why = await self._talk(reader, writer)
                _log.warning("Lost the keeper: %s", why)
            self._on_absence(why)
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Exchange lines until the connection ends; return why it did."""
        self._unsent_plan, self._unsent_votes = self._plan, None
        self._has_line.set()
        sides = {asyncio.create_task(self._listen(reader)), asyncio.create_task(self._send(writer))}
        try:
            done, _ = await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            writer.transport.abort()

    async def _listen(self, reader: asyncio.StreamReader) -> str:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                self._on_bad_line()
                return f"it sent a line longer than {LONGEST_LINE} bytes"
            except OSError as error:
                return f"the connection broke: {error}"
            if not line.endswith(b"\n"):
                return "it closed the connection: it restarts, or its container does"
            try:
                said = link.decode_for_courier(line)
            except ValueError as error:
                self._on_bad_line()
                _log.error(
                    "The keeper sent a line that is none of ours (are both of one version?): %s", error
                )
                continue
            if isinstance(said, Report):
                self._on_report(said)
            else:
                self._on_wanted(said)

    async def _send(self, writer: asyncio.StreamWriter) -> str:
        while True:
            await self._has_line.wait()
            self._has_line.clear()
            votes, self._unsent_votes = self._unsent_votes, None
            plan, self._unsent_plan = self._unsent_plan, None
            try:
                # One write: asyncio of Python 3.13 fails when it is to write no lines at all.
                writer.write(b"".join(line + b"\n" for line in (votes, plan) if line is not None))
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await writer.drain()
            except TimeoutError:
                return f"it has not read a line for {SEND_TIMEOUT_S:.0f} s: it hangs or is stopped"
            except OSError as error:
                return f"the connection broke: {error}"
            if plan is not None:
                self._on_sent()

    def _remedy(self, error: OSError) -> str:
        said = os.strerror(error.errno or 0)
        if isinstance(error, FileNotFoundError):
            remedy = "start the keeper, and give both the same socket folder"
        elif isinstance(error, PermissionError):
            remedy = "the courier must run as the same user as the keeper"
        elif isinstance(error, ConnectionRefusedError):
            remedy = "the keeper that made it is gone: start the keeper"
        else:
            remedy = "look at the keeper's log"
        return f"{self._socket}: {said}: {remedy}"
