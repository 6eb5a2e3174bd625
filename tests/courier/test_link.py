"""The courier's end of the keeper's socket, against real unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from vipapi import link as lines
from vipapi.link import Vote, Votes, VotesWanted, VoteWanted
from vipapi.nodestatus import Report
from vipcourier import link as link_module
from vipcourier.link import Link

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import pytest


def report(incarnation: int) -> Report:
    return Report(node="a", version="0.1.0", incarnation=incarnation)


def votes(until_ns: int) -> Votes:
    return Votes((Vote("uid", until_ns, term_floor=0, term_ceiling=1000, transitions=1, epoch=1),))


class Keeper:
    """A stand-in for the keeper: serves its socket, keeps the lines it is sent, sends what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path, limit=64 << 20)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    def send(self, line: bytes) -> None:
        for writer in self.writers:
            writer.write(line + b"\n")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(OSError):
            while True:
                await self.reads.wait()
                line = await reader.readline()
                if not line:
                    return
                self.lines.append(line.rstrip(b"\n"))


class Ends:
    """A keeper and a link to it, with everything that the link told."""

    def __init__(self, path: Path) -> None:
        self.keeper = Keeper(path)
        self.reports: list[int] = []
        self.wanted: list[VotesWanted] = []
        self.absences: list[str | None] = []
        self.bad_lines = 0
        self.link = Link(
            path,
            on_report=lambda found: self.reports.append(found.incarnation),
            on_wanted=self.wanted.append,
            on_absence=self.absences.append,
            on_bad_line=self._count,
        )

    def _count(self) -> None:
        self.bad_lines += 1


@contextlib.asynccontextmanager
async def ends(folder: Path) -> AsyncIterator[Ends]:
    both = Ends(folder / "keeper.sock")
    running = asyncio.create_task(both.link.run())
    try:
        yield both
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with contextlib.suppress(AssertionError):
            await both.keeper.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def test_the_newest_plan_is_sent_at_connect_and_at_each_change(tmp_path: Path) -> None:
    async def story() -> None:
        async with ends(tmp_path) as both:
            both.link.offer(b"plan 1")
            both.link.offer(b"plan 2")
            await both.keeper.start()
            await until(lambda: both.keeper.lines == [b"plan 2"])
            both.link.offer(b"plan 3")
            await until(lambda: both.keeper.lines == [b"plan 2", b"plan 3"])

    asyncio.run(story())


def test_a_keeper_that_restarts_gets_the_plan_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with ends(tmp_path) as both:
            both.link.offer(b"plan")
            await until(lambda: bool(both.absences))
            await both.keeper.start()
            await until(lambda: len(both.keeper.lines) == 1)
            await both.keeper.stop()
            await both.keeper.start()
            await until(lambda: len(both.keeper.lines) == 2)
            assert both.absences[0] is not None
            assert "start the keeper, and give both the same socket folder" in both.absences[0]
            assert None in both.absences

    asyncio.run(story())


def test_reports_arrive_in_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with ends(tmp_path) as both:
            await both.keeper.start()
            await until(lambda: bool(both.keeper.writers))
            for number in range(200):
                both.keeper.send(lines.encode(report(number)))
            await until(lambda: len(both.reports) == 200)
            assert both.reports == list(range(200))

    asyncio.run(story())


def test_votes_are_asked_for_and_told_between_plans_and_reports(tmp_path: Path) -> None:
    vote = VoteWanted("uid", "default", "a_1", incarnation=1, term_ceiling=1000, epoch=1, is_needed=True)
    wanted = VotesWanted((vote,))

    async def story() -> None:
        async with ends(tmp_path) as both:
            await both.keeper.start()
            await until(lambda: bool(both.keeper.writers))
            for line in (report(1), wanted, VotesWanted(), report(2)):
                both.keeper.send(lines.encode(line))
            await until(lambda: both.reports == [1, 2])
            assert both.wanted == [wanted, VotesWanted()]
            both.link.offer(b"plan")
            both.link.tell(votes(1))
            both.link.tell(votes(2))
            await until(lambda: both.keeper.lines == [lines.encode(votes(2)), b"plan"])
            both.link.tell(votes(3))
            await until(lambda: both.keeper.lines[2:] == [lines.encode(votes(3))])

    asyncio.run(story())


def test_votes_are_told_to_the_keeper_that_was_there_and_to_no_other(tmp_path: Path) -> None:
    async def story() -> None:
        async with ends(tmp_path) as both:
            both.link.offer(b"plan")
            await until(lambda: bool(both.absences))
            both.link.tell(votes(1))
            await both.keeper.start()
            await until(lambda: both.keeper.lines == [b"plan"])
            both.link.tell(votes(2))
            await until(lambda: both.keeper.lines == [b"plan", lines.encode(votes(2))])
            await both.keeper.stop()
            await both.keeper.start()
            await until(lambda: both.keeper.lines[2:] == [b"plan"])

    asyncio.run(story())


def test_a_line_that_no_keeper_says_is_dropped_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with ends(tmp_path) as both:
            await both.keeper.start()
            await until(lambda: bool(both.keeper.writers))
            for line in (
                b"",
                b"{",
                b"[]",
                b'{"node": 1}',
                lines.encode(votes(1)),
                b"\xff\xfe\x00",
                lines.encode(report(1))[:-9],
            ):
                both.keeper.send(line)
            both.keeper.send(lines.encode(report(2)))
            await until(lambda: both.reports == [2])
            assert both.bad_lines == 7
            assert len(both.keeper.writers) == 1

    asyncio.run(story())


def test_a_line_without_end_ends_the_connection_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "LONGEST_LINE", 1 << 16)

    async def story() -> None:
        async with ends(tmp_path) as both:
            await both.keeper.start()
            await until(lambda: bool(both.keeper.writers))
            both.keeper.send(b"x" * (1 << 18))
            await until(lambda: len(both.keeper.writers) == 2)
            both.keeper.send(lines.encode(report(7)))
            await until(lambda: both.reports == [7])
            assert both.bad_lines == 1

    asyncio.run(story())


def test_a_keeper_that_is_slow_to_read_skips_to_the_newest_plan(tmp_path: Path) -> None:
    async def story() -> None:
        async with ends(tmp_path) as both:
            both.keeper.reads.clear()
            await both.keeper.start()
            await until(lambda: bool(both.keeper.writers))
            for number in range(50):
                both.link.offer(b"%d" % number + b"x" * 1_000_000)
                await asyncio.sleep(0)
            both.keeper.reads.set()
            await until(lambda: bool(both.keeper.lines) and both.keeper.lines[-1].startswith(b"49x"))
            assert len(both.keeper.lines) < 50

    asyncio.run(story())


def test_a_plan_of_many_megabytes_arrives_whole(tmp_path: Path) -> None:
    async def story() -> None:
        async with ends(tmp_path) as both:
            await both.keeper.start()
            both.link.offer(b"y" * (12 << 20))
            await until(lambda: bool(both.keeper.lines))
            assert len(both.keeper.lines[0]) == 12 << 20

    asyncio.run(story())
