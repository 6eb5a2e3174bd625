"""What other programs answer: health checks' servers, hooks, the kernel; and who asks for our health."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import socket
import struct
import warnings
from functools import partial
from typing import TYPE_CHECKING, Final

from fuzz.target import Choices, Target
from vipagent import probes_grpc, probes_http, probes_icmp, probes_regex, rtnetlink
from vipagent.probes_hooks import last_line
from vipapi.healthchecks import GRPC, HTTPGet
from viphealth.conversation import LONGEST_REQUEST, Health, answer, is_whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from vipagent.health import Result

_LONGEST_MESSAGE: Final = 70_000


class _Nowhere(asyncio.Transport):
    """What takes every byte, until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self._is_closed = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        pass

    def close(self) -> None:
        self._is_closed = True

    def is_closing(self) -> bool:
        return self._is_closed


def _said(
    says: bytes, converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Result]]
) -> Result:
    """Return what is made of a server that says this and closes."""

    async def conversation() -> Result:
        reader = asyncio.StreamReader()
        reader.feed_data(says)
        reader.feed_eof()
        async with to_nowhere(reader) as writer:
            return await converse(reader, writer)

    return asyncio.run(conversation())


@contextlib.asynccontextmanager
async def to_nowhere(reader: asyncio.StreamReader) -> AsyncIterator[asyncio.StreamWriter]:
    """Have a writer that goes with this reader, and whose words nobody hears."""
    protocol = asyncio.StreamReaderProtocol(reader)
    writer = asyncio.StreamWriter(_Nowhere(), protocol, reader, asyncio.get_running_loop())
    try:
        yield writer
    finally:
        writer.close()


def http(data: bytes) -> None:
    """An HTTP server answers a check with this, and with what a pattern is to be found in."""
    choices = Choices(data)
    probe = HTTPGet(80, body_regex=choices.pick((None, "ok", "^[a-z]+$")))
    _judge(_said(choices.rest(), partial(probes_http.converse, probe)))


def grpc(data: bytes) -> None:
    """A gRPC server answers a check with this."""
    _judge(_said(data, partial(probes_grpc.converse, GRPC(50051))))


def _judge(result: Result) -> None:
    assert isinstance(result.message, str)
    assert len(result.message) < _LONGEST_MESSAGE
    assert result.is_ok == (not result.message)


def regex(data: bytes) -> None:
    """A pattern that a user wrote is searched for in what a server said."""
    pattern, _, text = data.decode(errors="replace").partition("\n")
    gc.disable()  # as in a keeper, which collects when nothing is due
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # of what Python's next release might read otherwise
            why_not = probes_regex.mismatch("bodyRegex", pattern, text, where="the body")
    finally:
        gc.enable()
    assert why_not is None or "bodyRegex" in why_not


def echo(data: bytes) -> None:
    """An ICMP packet comes, asked for or not."""
    choices = Choices(data)
    ident = choices.pick((None, 7))
    packet = choices.rest()
    token = probes_icmp.answered(packet, ident=ident)
    assert token is None or (packet.endswith(token) and packet[0] in (0, 129))


def hook(data: bytes) -> None:
    """A hook prints this."""
    line = last_line(data)
    assert len(line) <= 300
    assert line.isprintable()


def health(data: bytes) -> None:
    """Somebody asks how the process is."""
    for state in (Health(), Health(sick="it\nhangs"), Health(unready="x" * 5000)):
        is_whole(data)
        said = answer(data, state)
        head, _, body = said.partition(b"\r\n\r\n")
        status, *headers = head.decode("ascii").split("\r\n")
        assert status.startswith("HTTP/1.1 ")
        assert all(": " in header for header in headers)
        length = next(int(each.partition(": ")[2]) for each in headers if each.startswith("Content-Length"))
        assert len(body) in (0, length)
        assert len(data) <= LONGEST_REQUEST or status.endswith("431 Request Header Fields Too Large")


_READERS: Final[tuple[Callable[[bytes], object], ...]] = (
    rtnetlink.read_link,
    rtnetlink.read_address,
    rtnetlink.read_default_route,
    rtnetlink.read_filter,
)


def netlink(data: bytes) -> None:
    """The kernel's answer to a look has this body; a newer kernel's may have more, or other lengths."""
    choices = Choices(data)
    read, body = choices.pick(_READERS), choices.rest()
    try:
        found = read(body)
    except rtnetlink.Unreadable:
        return
    assert repr(found)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _netlink_seeds() -> tuple[bytes, ...]:
    link = struct.pack("=BxHiII", 0, 1, 2, 0x10001, 0)
    link += _attribute(3, b"eth0\0") + _attribute(1, bytes(6)) + _attribute(18, _attribute(1, b"vlan\0"))
    link += _attribute(10, struct.pack("=I", 7))
    four = struct.pack("=BBBBi", socket.AF_INET, 32, 0, 0, 2)
    four += _attribute(1, ipaddress.ip_address("192.0.2.10").packed) + _attribute(11, b"\x4d")
    four += _attribute(6, struct.pack("=IIII", 0, 6, 0, 0))
    six = struct.pack("=BBBBi", socket.AF_INET6, 128, 0, 0, 2)
    six += _attribute(1, ipaddress.ip_address("2001:db8::1").packed)
    route = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
    route += _attribute(5, bytes([192, 0, 2, 1])) + _attribute(4, struct.pack("=I", 2))
    hops = struct.pack("=HBBi", 16, 0, 0, 2) + _attribute(5, bytes([192, 0, 2, 1]))
    multipath = route[:12] + _attribute(9, hops)
    via = route[:12] + _attribute(18, struct.pack("=H", socket.AF_INET6) + bytes(16))
    tc = struct.pack("=4xiIII", 2, 1, 0xFFFFFFF2, 1 << 16 | 3)
    tc += _attribute(1, b"bpf\0") + _attribute(2, _attribute(7, b"vipkeeper\0") + _attribute(11, bytes(4)))
    bodies = (
        *((0, body) for body in (link, b"", link[:18])),
        *((1, body) for body in (four, six, four[:8], four[:20])),
        *((2, body) for body in (route, multipath, via, multipath[:18], via[:17])),
        *((3, body) for body in (tc, tc[:30])),
    )
    return tuple(bytes([reader]) + body for reader, body in bodies)


_SETTINGS: Final = b"\0\0\0\x04\0\0\0\0\0"
_HTTP: Final = (
    b"\0HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"\1HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"\2HTTP/1.0 200 OK\r\n\r\nabc",
    b"\1HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n",
    b"\1HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nok",
    b"\1HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
)
_SERVING: Final = (
    _SETTINGS
    + b"\0\0\x13\x01\x04\0\0\0\x01\x88\x5f\x10application/grpc"
    + b"\0\0\x07\0\0\0\0\0\x01\0\0\0\0\x02\x08\x01"
    + b"\0\0\x0f\x01\x05\0\0\0\x01\x40\x0bgrpc-status\x010"
)

TARGETS: Final = (
    Target("http", http, _HTTP),
    Target(
        "grpc",
        grpc,
        (
            _SERVING,
            _SETTINGS,
            _SETTINGS + b"\0\0\x08\x07\0\0\0\0\0" + bytes(8),
            _SERVING.replace(b"application/grpc", b"application\xffgrpc"),
        ),
    ),
    Target(
        "regex",
        regex,
        (
            b"^ok$\nok",
            b"(a+)+$\n" + b"a" * 40 + b"!",
            b"(?P<x>.)(?P=x)\naa",
            b"[\nx",
            b"a{99999999999999999999}\na",
            b"(" * 3000 + b")" * 3000,
        ),
    ),
    Target("echo", echo, (b"\0\0\0\0\0\0\7\0\5\0\5token", b"\1\x81\0\0\0\0\7\0\5\0\5", b"\0\x45")),
    Target("hook", hook, (b"well\n", b"\x1b[31mred\x85\xff\n\n", b"x" * 400)),
    Target("health", health, (b"GET /healthz HTTP/1.1\r\n\r\n", b"HEAD /readyz?x HTTP/1.0\n\n", b"x" * 5000)),
    Target("netlink", netlink, _netlink_seeds()),
)
