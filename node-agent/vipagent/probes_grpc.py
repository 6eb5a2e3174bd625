"""The door to gRPC: one `grpc.health.v1.Health/Check` over cleartext HTTP/2, by h2.

The protocol is gRPC's own for health (github.com/grpc/grpc, doc/health-checking.md; proto/health.proto of
github.com/grpc/grpc-proto), carried as doc/PROTOCOL-HTTP2.md has it. Its two messages have one field each::

    HealthCheckRequest  { string service = 1; }
    HealthCheckResponse { ServingStatus status = 1; }   UNKNOWN 0, SERVING 1, NOT_SERVING 2, SERVICE_UNKNOWN 3

so they are written and read here by hand (protobuf.dev/programming-guides/encoding). SERVING with grpc-status
0 passes and nothing else does. As the kubelet, it speaks HTTP/2 at once, without TLS and without an upgrade.

At most `MOST_BYTES` are read, whatever the server sends. The library is imported with this module, which
`probes` does when the first such check is run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from vipagent.health import Result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from h2.events import Event

    from vipagent.probes_names import Names
    from vipapi.healthchecks import GRPC

MOST_BYTES: Final = 16 * 1024
# A kilobyte can be a hundred frames; in between, the loop has other work.
_READ_BYTES: Final = 1024
# What a server says first is a SETTINGS frame (RFC 9113, 3.4): the type stands behind three bytes of length.
_SETTINGS_AT: Final = 3
_SETTINGS: Final = b"\x04"
_PATH: Final = "/grpc.health.v1.Health/Check"
_PREFIX_BYTES: Final = 5
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BITS: Final = 70
_STATUSES: Final = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING: Final = 1
_NOT_FOUND: Final = "5"
_UNIMPLEMENTED: Final = "12"


def target(probe: GRPC) -> str:
    """Say in a few words what is asked."""
    host = probe.host or "127.0.0.1"
    place = f"grpc://{f'[{host}]' if ':' in host else host}:{probe.port}"
    return f"{place}/{probe.service}" if probe.service else place


@dataclass(slots=True)
class _Answer:
    """What has come of an answer so far."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    has_begun: bool = False
    is_over: bool = False
    broken: str = ""


async def check(probe: GRPC, names: Names) -> Result:
    """Ask once and judge the answer.

    Waits as long as the server takes: the caller bounds the time. Raises `OSError` where there is no
    connection.
    """
    reader, writer = await names.connect(probe.host or "127.0.0.1", probe.port)
    try:
        return await converse(probe, reader, writer)
    finally:
        writer.transport.abort()


async def converse(probe: GRPC, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Result:
    """Ask once over a connection and judge the answer."""
    try:
        answer = await _ask(probe, reader, writer)
    except ProtocolError as error:
        return _failed(probe, f"this does not speak HTTP/2 in clear: {error}")
    except UnicodeDecodeError:
        return _failed(probe, "the headers of its answer are no text")
    why_not = _judge(probe, answer)
    return Result(is_ok=True) if why_not is None else _failed(probe, why_not)


def _failed(probe: GRPC, why: str) -> Result:
    return Result(is_ok=False, message=f"{target(probe)}: {why}")


async def _ask(probe: GRPC, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> _Answer:
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    stream = connection.get_next_available_stream_id()
    host = probe.host or "127.0.0.1"
    connection.send_headers(
        stream,
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", _PATH),
            (":authority", f"{f'[{host}]' if ':' in host else host}:{probe.port}"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "vipkeeper-check"),
        ],
    )
    message = _request(probe.service or "")
    connection.send_data(stream, len(message).to_bytes(_PREFIX_BYTES, "big") + message, end_stream=True)
    writer.write(connection.data_to_send())
    answer = _Answer()
    size = 0
    beginning = b""
    while not (answer.is_over or answer.broken):
        received = await reader.read(_READ_BYTES)
        size += len(received)
        beginning += received[: _SETTINGS_AT + 1 - len(beginning)]
        if not received:
            answer.broken = "closed without an answer"
        elif beginning[_SETTINGS_AT:] not in (b"", _SETTINGS):
            answer.broken = "this does not speak HTTP/2 in clear"
        elif size > MOST_BYTES:
            answer.broken = f"its answer has more than {MOST_BYTES} bytes"
        else:
            _take(answer, connection.receive_data(received))
            writer.write(connection.data_to_send())
            await asyncio.sleep(0)
    return answer


def _take(answer: _Answer, events: Iterable[Event]) -> None:
    for event in events:
        match event:
            case ResponseReceived() | TrailersReceived():
                answer.has_begun = True
                answer.headers |= {str(name): str(value) for name, value in event.headers}
            case DataReceived():
                answer.body += event.data
            case StreamEnded():
                answer.is_over = True
            case StreamReset():
                answer.broken = f"it reset the request (HTTP/2 error {int(event.error_code or 0)})"
            case ConnectionTerminated() if not answer.is_over:
                answer.broken = f"it closed the connection (HTTP/2 error {int(event.error_code or 0)})"


def _judge(probe: GRPC, answer: _Answer) -> str | None:
    """Say why an answer does not pass; None if it does."""
    headers = answer.headers
    if not answer.has_begun or (answer.broken and "grpc-status" not in headers):
        return answer.broken or "closed without an answer"
    status = headers.get("grpc-status")
    if status is None and headers.get(":status") != "200":
        return f"HTTP status {headers.get(':status')}: this is no gRPC server"
    if not headers.get("content-type", "").startswith("application/grpc"):
        return f"it answers {headers.get('content-type', 'without a content-type')!r}: this is no gRPC server"
    if status != "0":
        return _told(probe, status, headers.get("grpc-message", ""))
    try:
        serving = _response(_unframed(answer.body))
    except ValueError as error:
        return f"its answer is no HealthCheckResponse: {error}"
    return None if serving == _SERVING else _STATUSES.get(serving, f"status {serving}")


def _told(probe: GRPC, status: str | None, message: str) -> str:
    if status is None:
        return "it ended without a grpc-status"
    if status == _NOT_FOUND:
        return f"it knows no service {probe.service or ''!r} (grpc-status 5): correct `service`"
    if status == _UNIMPLEMENTED:
        return "it has no health service (grpc-status 12): register grpc.health.v1.Health with it"
    said = unquote(message)[:200]
    return f"grpc-status {status}: {said}" if said else f"grpc-status {status}"


def _request(service: str) -> bytes:
    name = service.encode()
    return b"\x0a" + _varint(len(name)) + name if name else b""


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _unframed(body: bytes) -> bytes:
    """Return the one message of a gRPC body; raises `ValueError`."""
    if len(body) < _PREFIX_BYTES:
        raise ValueError("it is empty")
    if body[0]:
        raise ValueError("it is compressed, which was not asked for")
    if len(body) != _PREFIX_BYTES + int.from_bytes(body[1:_PREFIX_BYTES], "big"):
        raise ValueError("it is cut off, or more than one")
    return body[_PREFIX_BYTES:]


def _response(message: bytes) -> int:
    """Return the status of a HealthCheckResponse; what else stands in it is skipped. Raises `ValueError`."""
    status = at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(message, at)
            status = value if tag >> 3 == 1 else status
        elif kind == _LENGTH:
            length, at = _read_varint(message, at)
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
    if at != len(message):
        raise ValueError("a field is cut off")
    return status


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while shift < _MOST_VARINT_BITS:
        if at >= len(message):
            raise ValueError("a number is cut off")
        byte = message[at]
        number |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return number, at
    raise ValueError("a number is too long")
