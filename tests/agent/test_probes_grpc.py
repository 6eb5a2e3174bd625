"""The gRPC health check against servers made with h2, as they should be and as they should not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from hypothesis import given
from hypothesis import strategies as st

from vipagent import probes_grpc
from vipagent.probes import Probes
from vipapi.healthchecks import GRPC

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from vipagent.health import Result

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    Answer = Callable[[H2Connection, int], None]

OK_HEADERS = [(":status", "200"), ("content-type", "application/grpc+proto")]
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(5, "big") + message


@contextlib.asynccontextmanager
async def serving(serve: Serve, host: str = "127.0.0.1") -> AsyncIterator[int]:
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await serve(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def speaking(answer: Answer, asked: list[object] | None = None) -> Serve:
    """A server that speaks HTTP/2 and gives this answer to a request that is complete."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        while received := await reader.read(65536):
            for event in connection.receive_data(received):
                if asked is not None and isinstance(event, RequestReceived):
                    asked.append(dict(event.headers))
                elif asked is not None and isinstance(event, DataReceived):
                    asked.append(event.data)
                elif isinstance(event, StreamEnded):
                    answer(connection, event.stream_id)
            writer.write(connection.data_to_send())
            await writer.drain()

    return serve


def telling(message: bytes, *, status: str = "0", framing: Callable[[bytes], bytes] = framed) -> Answer:
    def answer(connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, OK_HEADERS)
        connection.send_data(stream, framing(message))
        connection.send_headers(stream, [("grpc-status", status)], end_stream=True)

    return answer


def trailers_only(status: str, message: str = "") -> Answer:
    def answer(connection: H2Connection, stream: int) -> None:
        told = [("grpc-message", message)] if message else []
        connection.send_headers(stream, [*OK_HEADERS, ("grpc-status", status), *told], end_stream=True)

    return answer


def resetting(connection: H2Connection, stream: int) -> None:
    connection.reset_stream(stream, error_code=2)


def going_away(connection: H2Connection, _stream: int) -> None:
    connection.close_connection(error_code=11)


def silent(_connection: H2Connection, _stream: int) -> None:
    pass


def not_grpc(status: str, kind: str) -> Answer:
    def answer(connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, [(":status", status), ("content-type", kind)], end_stream=True)

    return answer


def half_an_answer(connection: H2Connection, stream: int) -> None:
    connection.send_headers(stream, OK_HEADERS)
    connection.send_data(stream, framed(SERVING), end_stream=True)


def flooding(connection: H2Connection, stream: int) -> None:
    connection.send_headers(stream, OK_HEADERS)
    for _ in range(2):
        connection.send_data(stream, b"x" * 16000)


async def without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A valid preface, and then pings for ever."""
    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    await reader.read(65536)
    while True:
        for _ in range(100):
            connection.ping(b"12345678")
        writer.write(connection.data_to_send())
        await writer.drain()
        await asyncio.sleep(0)  # draining what was sent at once gives nobody else a turn


async def http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    await asyncio.sleep(60)


async def closing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(10)


async def mute(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def ask_of(port: int, folder: Path, *, timeout_s: float = 10.0, **fields: str) -> Result:
    probes = Probes(hooks_dir=folder, gateways=tuple)
    return await probes.run(GRPC(port=port, **fields), timeout_s)


def ask(serve: Serve, folder: Path, *, timeout_s: float = 10.0, **fields: str) -> Result:
    async def run() -> Result:
        async with serving(serve, fields.get("host", "127.0.0.1")) as port:
            return await ask_of(port, folder, timeout_s=timeout_s, **fields)

    return asyncio.run(run())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_serves_passes(tmp_path: Path, host: str) -> None:
    assert ask(speaking(telling(SERVING)), tmp_path, host=host).is_ok


def test_a_request_is_what_a_grpc_server_expects(tmp_path: Path) -> None:
    asked: list[object] = []
    assert ask(speaking(telling(SERVING), asked), tmp_path, service="shop.Cart").is_ok
    headers, body = asked
    assert isinstance(headers, dict)
    assert headers[":method"] == "POST"
    assert headers[":path"] == "/grpc.health.v1.Health/Check"
    assert (headers["content-type"], headers["te"]) == ("application/grpc", "trailers")
    assert body == b"\0\0\0\0\x0b\x0a\x09shop.Cart"


def test_the_server_as_a_whole_is_asked_for_without_a_service(tmp_path: Path) -> None:
    asked: list[object] = []
    assert ask(speaking(telling(SERVING), asked), tmp_path).is_ok
    assert asked[1] == b"\0\0\0\0\0"


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        pytest.param(speaking(telling(NOT_SERVING)), "NOT_SERVING", id="not-serving"),
        pytest.param(speaking(telling(b"")), "UNKNOWN", id="unknown-is-the-default"),
        pytest.param(speaking(telling(SERVICE_UNKNOWN)), "SERVICE_UNKNOWN", id="service-unknown"),
        pytest.param(speaking(telling(b"\x08\x2a")), "status 42", id="a-status-that-we-do-not-know"),
        pytest.param(speaking(telling(SERVING, status="13")), "grpc-status 13", id="error-after-an-answer"),
        pytest.param(speaking(trailers_only("5")), "knows no service 'shop'", id="no-such-service"),
        pytest.param(speaking(trailers_only("12")), "register grpc.health.v1.Health", id="no-health-service"),
        pytest.param(
            speaking(trailers_only("14", "going%20down")), "grpc-status 14: going down", id="trailers-only"
        ),
        pytest.param(speaking(trailers_only("0")), "it is empty", id="ok-without-an-answer"),
        pytest.param(speaking(half_an_answer), "without a grpc-status", id="no-trailers"),
        pytest.param(speaking(resetting), "reset the request (HTTP/2 error 2)", id="reset"),
        pytest.param(speaking(going_away), "closed the connection (HTTP/2 error 11)", id="goaway"),
        pytest.param(speaking(not_grpc("404", "text/html")), "HTTP status 404", id="another-server"),
        pytest.param(speaking(not_grpc("200", "text/html")), "'text/html'", id="a-web-page"),
        pytest.param(
            speaking(telling(SERVING, framing=lambda m: b"\x01" + framed(m)[1:])),
            "compressed",
            id="compressed",
        ),
        pytest.param(
            speaking(telling(SERVING, framing=lambda m: framed(m)[:-1])), "cut off", id="cut-off-message"
        ),
        pytest.param(speaking(telling(b"\x08")), "a number is cut off", id="cut-off-number"),
        pytest.param(speaking(telling(b"\x12\x7fx")), "a field is cut off", id="cut-off-field"),
        pytest.param(speaking(telling(b"\x08" + b"\xff" * 12)), "too long", id="a-number-without-end"),
        pytest.param(http1, "does not speak HTTP/2", id="http-1"),
        pytest.param(closing, "closed without an answer", id="closes"),
        pytest.param(speaking(flooding), "more than 16384 bytes", id="too-much"),
        pytest.param(without_end, "more than 16384 bytes", id="pings-without-end"),
    ],
)
def test_what_is_not_serving_fails_and_says_why(tmp_path: Path, serve: Serve, message: str) -> None:
    result = ask(serve, tmp_path, service="shop")
    assert not result.is_ok
    assert message in result.message
    assert result.message.startswith("grpc://127.0.0.1:")


@pytest.mark.parametrize("serve", [mute, speaking(silent)], ids=["says-nothing", "never-answers"])
def test_a_server_that_never_answers_fails_in_time(tmp_path: Path, serve: Serve) -> None:
    began = time.monotonic()
    result = ask(serve, tmp_path, timeout_s=0.3)
    assert "no answer within 300 ms" in result.message
    assert time.monotonic() - began < 10


def test_a_closed_port_is_named(tmp_path: Path) -> None:
    async def run() -> Result:
        async with serving(mute) as port:
            pass
        return await ask_of(port, tmp_path)

    assert "Connection refused" in asyncio.run(run()).message


def test_unknown_fields_of_an_answer_are_skipped(tmp_path: Path) -> None:
    message = b"\x12\x03abc" + b"\x1d1234" + b"\x2112345678" + b"\x30\x96\x01" + SERVING
    assert ask(speaking(telling(message)), tmp_path).is_ok


@given(st.binary(max_size=64))
def test_whatever_is_answered_is_read_or_refused(message: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert probes_grpc._response(message) >= 0  # noqa: SLF001 - what a server says is anything at all
