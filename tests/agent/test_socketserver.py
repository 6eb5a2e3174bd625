"""The courier's socket: lines in, the newest report out, over a real unix socket."""

import asyncio
import contextlib
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from vipagent.socketserver import SocketServer
from vipapi.link import VotesWanted, VoteWanted, decode_for_courier
from vipapi.nodestatus import Report


def _with_server(
    path: Path, scenario: Callable[[SocketServer, "asyncio.Queue[bytes]"], Awaitable[None]]
) -> None:
    async def run() -> None:
        lines: asyncio.Queue[bytes] = asyncio.Queue()
        server = SocketServer(path, lines.put)
        await server.open()
        try:
            async with asyncio.timeout(10):
                await scenario(server, lines)
        finally:
            await server.close()

    asyncio.run(run())


def test_lines_arrive_whole_and_in_order(tmp_path: Path) -> None:
    async def scenario(_server: SocketServer, lines: "asyncio.Queue[bytes]") -> None:
        _reader, writer = await asyncio.open_unix_connection(tmp_path / "keeper.sock")
        large = b'{"a":"' + b"x" * 300_000 + b'"}\n'
        writer.write(b"{}\n" + large)
        assert [await lines.get(), await lines.get()] == [b"{}\n", large]
        writer.close()

    _with_server(tmp_path / "keeper.sock", scenario)


def _report(version: str) -> Report:
    return Report(node="node-a", version=version, incarnation=1)


def test_who_connects_late_gets_the_newest_of_each_kind_first(tmp_path: Path) -> None:
    vote = VoteWanted("uid", "default", "node-a_0", incarnation=1, term_ceiling=1000, epoch=1, is_needed=True)
    wanted = VotesWanted((vote,))

    async def scenario(server: SocketServer, _lines: "asyncio.Queue[bytes]") -> None:
        for said in (_report("old"), VotesWanted(), _report("new"), wanted):
            server.publish(said)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "keeper.sock")
        first = [decode_for_courier(await reader.readline()) for _ in range(2)]
        assert first == [_report("new"), wanted]
        server.publish(_report("newer"))
        assert decode_for_courier(await reader.readline()) == _report("newer")
        writer.close()

    _with_server(tmp_path / "keeper.sock", scenario)


def test_a_courier_that_breaks_off_leaves_the_next_one_alone(tmp_path: Path) -> None:
    async def scenario(_server: SocketServer, lines: "asyncio.Queue[bytes]") -> None:
        _reader, first = await asyncio.open_unix_connection(tmp_path / "keeper.sock")
        first.write(b"half a li")
        first.transport.abort()
        _reader, second = await asyncio.open_unix_connection(tmp_path / "keeper.sock")
        second.write(b"whole\n")
        heard = await lines.get()
        while heard != b"whole\n":
            heard = await lines.get()
        second.close()

    _with_server(tmp_path / "keeper.sock", scenario)


def test_a_courier_that_does_not_read_is_cut_off(tmp_path: Path) -> None:
    async def scenario(server: SocketServer, _lines: "asyncio.Queue[bytes]") -> None:
        reader, writer = await asyncio.open_unix_connection(tmp_path / "keeper.sock", limit=1)
        server.publish(_report("first"))
        await reader.read(1)
        for _ in range(40):
            server.publish(_report("x" * (1 << 20)))
        received = 0
        with contextlib.suppress(ConnectionError):
            while block := await reader.read(1 << 20):
                received += len(block)
        assert received < 40 << 20
        writer.close()

    _with_server(tmp_path / "keeper.sock", scenario)


@pytest.mark.parametrize(
    ("group", "mode", "wanted"),
    [
        pytest.param(0, 0o755, 0o600, id="roots-folder"),
        pytest.param(0, 0o2750, 0o600, id="roots-group"),
        pytest.param(65532, 0o755, 0o600, id="another-group-which-files-do-not-get"),
        pytest.param(65532, 0o2750, 0o660, id="another-group"),
    ],
)
def test_a_socket_is_never_for_all_that_have_roots_group(
    tmp_path: Path, group: int, mode: int, wanted: int
) -> None:
    path = tmp_path / "deep" / "keeper.sock"
    path.parent.mkdir()
    os.chown(path.parent, 0, group)
    path.parent.chmod(mode)

    async def scenario(_server: SocketServer, _lines: "asyncio.Queue[bytes]") -> None:
        assert stat.S_IMODE(path.stat().st_mode) == wanted

    _with_server(path, scenario)


def test_a_socket_left_by_a_dead_keeper_is_replaced_and_is_for_nobody_but_the_folders_group(
    tmp_path: Path,
) -> None:
    path = tmp_path / "deep" / "keeper.sock"
    path.parent.mkdir()
    os.chown(path.parent, 0, 65532)
    path.parent.chmod(0o2750)  # as a kubelet makes an emptyDir for a pod with fsGroup
    path.touch()

    async def scenario(_server: SocketServer, lines: "asyncio.Queue[bytes]") -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert (path.stat().st_uid, path.stat().st_gid) == (0, 65532)
        _reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"{}\n")
        assert await lines.get() == b"{}\n"
        writer.close()

    _with_server(path, scenario)
    assert not path.exists()
