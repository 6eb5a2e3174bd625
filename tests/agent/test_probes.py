"""Every probe against the real thing: servers on loopback, the kernel's ICMP, programs on disk."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import IPRoute

from agent.services import Gate
from vipagent.probes import Probes, look
from vipagent.probes_exec import HookRunner
from vipagent.probes_hooks import serve
from vipagent.probes_names import Names, Place
from vipagent.probes_tls import DOUBTFUL_S, STALE_S, Authorities
from vipapi.healthchecks import ICMP, Exec, HTTPGet, HTTPHeader, Link, Probe, TCPSocket

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

    from vipagent.health import Result

    Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


IFA_F_NODAD = 0x02
IN_TIME_S = 10.0
"""What must not last for ever has ended by then, on however busy a machine."""


def ask(
    probe: Probe,
    *,
    hooks_dir: Path,
    timeout_s: float = 5.0,
    gateways: tuple[IPv4Address | IPv6Address, ...] = (),
    names: Names | None = None,
) -> Result:
    """Run one probe in a loop of its own."""

    async def run() -> Result:
        probes = Probes(hooks_dir=hooks_dir, gateways=lambda: gateways, names=names)
        try:
            return await probes.run(probe, timeout_s)
        finally:
            await probes.close()

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a free port of loopback."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def http(
    tmp_path: Path,
    serve: Serve,
    *,
    timeout_s: float = 5.0,
    context: ssl.SSLContext | None = None,
    **fields: Any,
) -> tuple[Result, float]:
    """Probe a server that behaves as `serve`; return the result and the seconds it took."""

    async def run() -> tuple[Result, float]:
        async with serving(serve, context) as port:
            probes = Probes(hooks_dir=tmp_path, gateways=tuple)
            began = time.monotonic()
            probe = HTTPGet(port=port, **fields)
            result = await probes.run(probe, timeout_s)
            return result, time.monotonic() - began

    return asyncio.run(run())


def answering(status: int, body: bytes = b"ok", *, asked: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if asked is not None:
            asked.append(request)
        head = f"HTTP/1.1 {status} Whatever\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return serve


def sending(reply: bytes, *, stays: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        if stays:
            await asyncio.sleep(60)
        writer.close()

    return serve


async def dripping(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 10000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)


async def flooding(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"z" * 65536)
        await writer.drain()


@pytest.mark.parametrize(
    ("status", "expected", "verdict"),
    [
        pytest.param(200, (), "passes", id="200"),
        pytest.param(204, (), "passes", id="204"),
        pytest.param(301, (), "passes", id="a-redirect-is-an-answer"),
        pytest.param(399, (), "passes", id="399"),
        pytest.param(400, (), "fails", id="400"),
        pytest.param(500, (), "fails", id="500"),
        pytest.param(503, (200, 503), "passes", id="503-where-it-is-expected"),
        pytest.param(204, (200,), "fails", id="204-where-only-200-is-expected"),
    ],
)
def test_the_status_decides(tmp_path: Path, status: int, expected: tuple[int, ...], verdict: str) -> None:
    result, _ = http(tmp_path, answering(status, b""), expected_statuses=expected)
    assert ("passes" if result.is_ok else "fails") == verdict
    assert result.message.endswith("" if result.is_ok else f"/: status {status}")


@pytest.mark.parametrize(
    ("body", "pattern", "message"),
    [
        pytest.param(b"state: ready\n", r"state: (ready|busy)", "", id="found"),
        pytest.param(b"a\nready", r"(?m)^ready$", "", id="found-in-a-later-line"),
        pytest.param(b"state: sick", r"ready", "the body does not match bodyRegex", id="not-found"),
        pytest.param(b"\xff\xfe ready", r"ready", "", id="bytes-that-are-not-text"),
        pytest.param(b"", r"ready", "the body does not match bodyRegex", id="empty"),
        pytest.param(b"z" * 200_000 + b"ready", r"ready", "does not match", id="only-the-start-is-read"),
        pytest.param(b"x", r"(", "bodyRegex is not a regular expression", id="broken-pattern"),
        pytest.param(b"a" * 40 + b"b", r"(a+)+$", "make it simpler", id="exponential-pattern"),
        pytest.param(b"a" * 65536, r"a{0,2000}b", "make it simpler", id="quadratic-pattern"),
    ],
)
def test_the_body_decides_where_it_is_asked_for(
    tmp_path: Path, body: bytes, pattern: str, message: str
) -> None:
    result, _ = http(tmp_path, answering(200, body), body_regex=pattern)
    assert result.is_ok is (message == "")
    assert message in result.message


def test_a_hopeless_pattern_does_not_hold_the_loop_up(tmp_path: Path) -> None:
    async def run() -> float:
        worst = 0.0

        async def beat() -> None:
            nonlocal worst
            while True:
                before = time.thread_time()
                await asyncio.sleep(0)
                worst = max(worst, time.thread_time() - before)

        beating = asyncio.create_task(beat())
        async with serving(answering(200, b"a" * 40 + b"b")) as port:
            probes = Probes(hooks_dir=tmp_path, gateways=tuple)
            await probes.run(HTTPGet(port=port, body_regex=r"(a+)+$"), 5.0)
        beating.cancel()
        return worst

    assert asyncio.run(run()) < 0.1
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_request_says_what_it_is_told_to(tmp_path: Path) -> None:
    asked: list[bytes] = []
    headers = (HTTPHeader("X-Probe", "1"), HTTPHeader("Host", "shop.example"))
    http(tmp_path, answering(200, asked=asked), path="/healthz?full=1", headers=headers)
    line, *rest = asked[0].decode().split("\r\n")
    assert line == "GET /healthz?full=1 HTTP/1.1"
    assert "X-Probe: 1" in rest
    assert [header for header in rest if header.lower().startswith("host:")] == ["Host: shop.example"]


def test_a_request_that_is_none_is_told_from_an_answer_that_is_none(tmp_path: Path) -> None:
    result, _ = http(tmp_path, answering(200), headers=(HTTPHeader("X-Probe", "a\nb"),))
    assert "this cannot be asked" in result.message


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        pytest.param(sending(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not HTTP", id="another-protocol"),
        pytest.param(sending(os.urandom(4096)), "not HTTP", id="random-bytes"),
        pytest.param(sending(b""), "not HTTP", id="closes-without-a-word"),
        pytest.param(sending(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000), "not HTTP", id="endless-header"),
        pytest.param(sending(b"HTTP/1.1 200 OK\r\nCont"), "not HTTP", id="cut-in-the-header"),
        pytest.param(dripping, "no answer within 300 ms", id="one-byte-at-a-time"),
        pytest.param(sending(b"", stays=True), "no answer within 300 ms", id="never-answers"),
        pytest.param(
            sending(b"HTTP/1.1 100 Continue\r\n\r\n" * 10, stays=True), "no answer within", id="only-promises"
        ),
    ],
)
def test_an_odd_server_fails_within_the_timeout(tmp_path: Path, serve: Serve, message: str) -> None:
    result, took_s = http(tmp_path, serve, timeout_s=0.3, body_regex="ok")
    assert not result.is_ok
    assert message in result.message
    assert took_s < IN_TIME_S


def test_a_body_without_end_is_read_to_the_bound_only(tmp_path: Path) -> None:
    result, _ = http(tmp_path, flooding, body_regex="ready")
    assert "does not match" in result.message


def test_a_body_in_tiny_chunks_is_put_together(tmp_path: Path) -> None:
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in b"filler " * 300 + b"ready") + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    result, _ = http(tmp_path, sending(head + body), body_regex="r ready$")
    assert result.is_ok


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_a_refused_connection_is_named(tmp_path: Path) -> None:
    port = closed_port()
    result = ask(HTTPGet(port=port), hooks_dir=tmp_path)
    assert result.message == f"http://127.0.0.1:{port}/: Connection refused"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def another_certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return self_signed(tmp_path_factory.mktemp("tls"))


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for service.example, and its key."""
    openssl = shutil.which("openssl")
    assert openssl is not None
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(folder / "key"), "-out", str(folder / "crt"), "-days", "2"]
    command += ["-subj", "/CN=service.example", "-addext", "subjectAltName=DNS:service.example"]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "crt", folder / "key"


@pytest.fixture
def tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_https_without_a_name_asks_for_no_certificate(tmp_path: Path, tls: ssl.SSLContext) -> None:
    result, _ = http(tmp_path, answering(200), scheme="HTTPS", context=tls)
    assert result.is_ok


def test_https_with_a_name_refuses_an_unknown_authority(tmp_path: Path, tls: ssl.SSLContext) -> None:
    fields: dict[str, Any] = {"scheme": "HTTPS", "tls_server_name": "service.example"}
    result, _ = http(tmp_path, answering(200), context=tls, **fields)
    assert "the certificate is not valid for service.example: self-signed certificate" in result.message


class Trust:
    """A trust store with a clock: its authorities may be replaced, or become unreadable."""

    def __init__(self, certificate: Path) -> None:
        self.certificate = certificate
        self.at_s = 1000.0
        self.reads = 0
        self.authorities = Authorities(self._read, lambda: self.at_s)

    def _read(self) -> ssl.SSLContext:
        self.reads += 1
        return ssl.create_default_context(cafile=str(self.certificate))


def trusting(folder: Path, context: ssl.SSLContext, trust: Trust, *steps: Callable[[], None]) -> list[bool]:
    """Probe after each of these steps; return whether it passed."""

    async def run() -> list[bool]:
        found = []
        async with serving(answering(200), context) as port:
            probes = Probes(hooks_dir=folder, gateways=tuple, authorities=trust.authorities)
            probe = HTTPGet(port=port, scheme="HTTPS", tls_server_name="service.example")
            for step in steps:
                step()
                found.append((await probes.run(probe, IN_TIME_S)).is_ok)
        return found

    return asyncio.run(run())


def test_a_new_authority_is_trusted_as_soon_as_a_certificate_needs_it(
    tmp_path: Path,
    tls: ssl.SSLContext,
    certificate: tuple[Path, Path],
    another_certificate: tuple[Path, Path],
) -> None:
    trust = Trust(another_certificate[0])

    def rotate() -> None:
        trust.certificate = certificate[0]

    def later() -> None:
        trust.at_s += DOUBTFUL_S

    assert trusting(tmp_path, tls, trust, later, rotate, later, later) == [False, False, True, True]
    assert trust.reads == 2


def test_an_authority_that_is_trusted_no_more_is_forgotten_after_a_while(
    tmp_path: Path,
    tls: ssl.SSLContext,
    certificate: tuple[Path, Path],
    another_certificate: tuple[Path, Path],
) -> None:
    trust = Trust(certificate[0])

    def withdraw() -> None:
        trust.certificate = another_certificate[0]
        trust.at_s += STALE_S - 1

    def later() -> None:
        trust.at_s += 1

    async def run() -> None:
        async with serving(answering(200), tls) as port:
            probes = Probes(hooks_dir=tmp_path, gateways=tuple, authorities=trust.authorities)
            probe = HTTPGet(port=port, scheme="HTTPS", tls_server_name="service.example")
            first = await trust.authorities.context()
            for step in (withdraw, later):
                step()
                assert (await probes.run(probe, IN_TIME_S)).is_ok
            async with asyncio.timeout(IN_TIME_S):
                while await trust.authorities.context() is first:  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0)
            assert not (await probes.run(probe, IN_TIME_S)).is_ok

    asyncio.run(run())
    assert trust.reads == 2


def test_authorities_that_cannot_be_read_leave_those_in_force_that_could(
    tmp_path: Path, tls: ssl.SSLContext, certificate: tuple[Path, Path]
) -> None:
    trust = Trust(certificate[0])

    def lose() -> None:
        trust.certificate = tmp_path / "lost"
        trust.at_s += STALE_S

    def find() -> None:
        trust.certificate = certificate[0]
        trust.at_s += STALE_S

    assert trusting(tmp_path, tls, trust, lambda: None, lose, lose, find) == [True] * 4
    assert trusting(tmp_path, tls, Trust(tmp_path / "lost"), lambda: None) == [False]


def test_https_against_a_plain_server_fails(tmp_path: Path) -> None:
    result, _ = http(tmp_path, answering(200), scheme="HTTPS", timeout_s=1.0)
    assert not result.is_ok


def test_https_to_a_server_that_never_shakes_hands_ends_in_time(tmp_path: Path) -> None:
    result, took_s = http(tmp_path, sending(b"", stays=True), scheme="HTTPS", timeout_s=0.2)
    assert result.message.endswith("no answer within 200 ms")
    assert took_s < IN_TIME_S


def test_tcp_passes_where_somebody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ask(TCPSocket(port=port), hooks_dir=tmp_path).is_ok


def test_tcp_over_ipv6_passes_where_somebody_listens(tmp_path: Path) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        assert ask(TCPSocket(port=port, host="::1"), hooks_dir=tmp_path).is_ok


def test_tcp_fails_where_nobody_listens(tmp_path: Path) -> None:
    port = closed_port()
    result = ask(TCPSocket(port=port), hooks_dir=tmp_path)
    assert result.message == f"127.0.0.1 port {port}: Connection refused"


def test_a_host_that_no_resolver_knows_is_named(tmp_path: Path) -> None:
    result = ask(TCPSocket(port=1, host="does-not-exist.invalid"), hooks_dir=tmp_path, timeout_s=20)
    assert not result.is_ok
    assert "does-not-exist.invalid port 1" in result.message


IPV4, IPV6 = Place(socket.AF_INET, "127.0.0.1"), Place(socket.AF_INET6, "::1")


@pytest.mark.parametrize("places", [(IPV4,), (IPV6, IPV4), (IPV4, IPV6)])
def test_a_name_is_reached_at_the_first_of_its_addresses_that_answers(
    tmp_path: Path, places: tuple[Place, ...]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ask(TCPSocket(port=port, host="web"), hooks_dir=tmp_path, names=Names(lambda _: places)).is_ok


def test_a_name_is_looked_up_by_the_nodes_resolver(tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        assert ask(TCPSocket(port=port, host="localhost"), hooks_dir=tmp_path).is_ok


def test_a_name_none_of_whose_addresses_answers_says_what_each_said(tmp_path: Path) -> None:
    port = closed_port()
    for places, said in (
        ((IPV6, IPV4), "Connection refused"),
        ((), "the name has no address"),
    ):
        result = ask(TCPSocket(port, "web"), hooks_dir=tmp_path, names=Names(lambda _, found=places: found))
        assert result.message == f"web port {port}: {said}"


def test_a_name_is_told_to_the_server_as_it_was_written(tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def run() -> Result:
        async with serving(answering(200, asked=asked)) as port:
            probes = Probes(hooks_dir=tmp_path, gateways=tuple, names=Names(lambda _: (IPV4,)))
            result = await probes.run(HTTPGet(port=port, host="web.example"), 5.0)
            assert f"host: web.example:{port}\r\n".encode() in asked[0].lower()
            return result

    assert asyncio.run(run()).is_ok


def test_names_that_hang_delay_no_other_check_no_thread_and_no_end(tmp_path: Path) -> None:
    let_go = threading.Event()
    looked_up: list[str] = []

    def look_up(host: str) -> tuple[Place, ...]:
        if host != "well.example":
            let_go.wait(IN_TIME_S)
        looked_up.append(host)
        return (IPV4,)

    async def run() -> list[str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            probes = Probes(hooks_dir=tmp_path, gateways=tuple, names=Names(look_up))
            dead = [TCPSocket(port, f"dead-{number}.example") for number in range(40)]
            hanging = await asyncio.gather(*(probes.run(probe, 0.1) for probe in (*dead, *dead)))
            assert (await probes.run(TCPSocket(port, "well.example"), IN_TIME_S)).is_ok
            assert await asyncio.to_thread(looked_up.copy) == ["well.example"]
            return [result.message for result in hanging]

    told = asyncio.run(run())
    assert looked_up == ["well.example"]
    assert told[0].startswith("dead-0.example port ")
    assert {message.partition(": ")[2] for message in told} == {"no answer within 100 ms"}
    let_go.set()


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_an_echo_is_answered_by_the_kernel(tmp_path: Path, target: str) -> None:
    assert ask(ICMP(target=target), hooks_dir=tmp_path).is_ok


def test_many_echoes_at_once_are_told_apart(tmp_path: Path) -> None:
    async def run() -> list[bool]:
        probes = Probes(hooks_dir=tmp_path, gateways=tuple)
        targets = [*(f"127.0.0.{n}" for n in range(1, 100)), "::1", "::1"]
        results = await asyncio.gather(*(probes.run(ICMP(target=target), 2.0) for target in targets))
        await probes.close()
        return [result.is_ok for result in results]

    assert all(asyncio.run(run()))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        pytest.param("gateway", "the node has no default gateway", id="no-gateway"),
        pytest.param("nonsense", "nonsense is not an IP address", id="no-address"),
        pytest.param("fe80::1%no-such", "no interface with this name", id="no-such-interface"),
    ],
)
def test_an_impossible_echo_says_why(tmp_path: Path, target: str, message: str) -> None:
    result = ask(ICMP(target=target), hooks_dir=tmp_path, timeout_s=0.3)
    assert not result.is_ok
    assert message in result.message


def test_the_gateway_answers_where_one_of_several_does(tmp_path: Path) -> None:
    gateways = (ip_address("fe80::1%9999"), ip_address("127.0.0.1"))
    assert ask(ICMP(target="gateway"), hooks_dir=tmp_path, gateways=gateways).is_ok


def test_loopback_is_up() -> None:
    assert look("lo").is_ok


def is_well_soon(interface: str) -> bool:
    """Whether a link has carrier within some seconds: the kernel tells of it in its own time."""
    deadline = time.monotonic() + 10
    while not look(interface).is_ok:
        if time.monotonic() > deadline:
            return False
    return True


@pytest.fixture
def cable() -> Iterator[IPRoute]:
    """Two interfaces, probe0 and probe1, joined by a cable; probe0 has fe80::5."""
    with IPRoute() as kernel:
        kernel.link("add", ifname="probe0", kind="veth", peer="probe1")
        (index,) = kernel.link_lookup(ifname="probe0")
        try:
            for name in ("probe0", "probe1"):
                kernel.link("set", index=kernel.link_lookup(ifname=name)[0], state="up")
            kernel.addr("add", index=index, address="fe80::5", prefixlen=64, flags=IFA_F_NODAD)
            assert is_well_soon("probe0")
            yield kernel
        finally:
            kernel.link("del", index=index)


def test_a_link_has_no_carrier_when_its_other_end_goes_down(cable: IPRoute) -> None:
    cable.link("set", index=cable.link_lookup(ifname="probe1")[0], state="down")
    while look("probe0").is_ok:
        pass  # the kernel tells of it in its own time
    assert look("probe0").message == "interface probe0 has no carrier"
    assert look("probe1").message == "interface probe1 is down"
    cable.link("set", index=cable.link_lookup(ifname="probe1")[0], state="up")
    assert is_well_soon("probe0")


@pytest.mark.usefixtures("cable")
def test_a_gateway_with_a_link_local_address_is_asked_on_its_interface(tmp_path: Path) -> None:
    gateways = (ip_address("fe80::5%probe0"),)
    assert ask(ICMP(target="gateway"), hooks_dir=tmp_path, gateways=gateways).is_ok


@pytest.mark.usefixtures("cable")
def test_a_link_local_address_is_reached_on_its_interface(tmp_path: Path) -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        assert ask(TCPSocket(port=port, host="fe80::5%probe0"), hooks_dir=tmp_path).is_ok


@pytest.mark.usefixtures("cable")
def test_an_echo_that_nobody_answers_fails_in_time(tmp_path: Path) -> None:
    result = ask(ICMP(target="fe80::99%probe0"), hooks_dir=tmp_path, timeout_s=0.2)
    assert result.message == "fe80::99%probe0: no answer within 200 ms"


def test_an_interface_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = ask(Link(interface="nosuch0"), hooks_dir=tmp_path)
    assert result.message == "interface nosuch0: No such device"


def hook(folder: Path, name: str, text: str, mode: int = 0o755) -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return name


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("exit 0", "", id="status-0"),
        pytest.param("echo fine; exit 0", "", id="a-passing-hook-says-nothing"),
        pytest.param("exit 3", "hook h exited with status 3", id="status-3"),
        pytest.param("echo one; echo two >&2; exit 1", "hook h exited with status 1: two", id="last-line"),
        pytest.param(
            "printf 'bad\\033[31m\\n\\n'; exit 1", "hook h exited with status 1: bad[31m", id="clean"
        ),
        pytest.param("kill -9 $$", "hook h was killed by signal 9", id="killed"),
        pytest.param('test -z "$SECRET" -a "$PWD" = / || exit 1', "", id="own-environment-and-folder"),
        pytest.param("read line && exit 1; exit 0", "", id="no-input"),
        pytest.param("test \"$1\" = '/a b' -a \"$2\" = '' || exit 1", "", id="arguments-as-given"),
    ],
)
def test_the_exit_status_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setenv("SECRET", "x")
    hook(tmp_path, "h", f"#!/bin/sh\n{script}\n")
    result = ask(Exec(hook="h", args=("/a b", "")), hooks_dir=tmp_path)
    assert (result.is_ok, result.message) == (message == "", message)


def test_output_without_end_is_read_and_dropped(tmp_path: Path) -> None:
    hook(tmp_path, "h", "#!/bin/sh\nhead -c 3000000 /dev/zero | tr '\\0' x\nexit 1\n")
    result = ask(Exec(hook="h"), hooks_dir=tmp_path)
    assert result.message.startswith("hook h exited with status 1: xxx")
    assert len(result.message) < 400


@pytest.mark.parametrize(
    ("name", "mode", "folder_mode", "message"),
    [
        pytest.param("missing", None, 0o755, "No such file or directory", id="missing"),
        pytest.param("h", 0o644, 0o755, "is not executable: chmod +x", id="not-executable"),
        pytest.param("h", 0o757, 0o755, "can be written by everybody", id="world-writable"),
        pytest.param("h", 0o755, 0o777, "can be written by everybody", id="folder-world-writable"),
        pytest.param("../h", 0o755, 0o755, "is not a file name", id="outside-the-folder"),
        pytest.param(".", 0o755, 0o755, "is not a file name", id="the-folder-itself"),
    ],
)
def test_a_hook_that_may_not_run_says_what_to_do(
    tmp_path: Path, name: str, mode: int | None, folder_mode: int, message: str
) -> None:
    if mode is not None:
        hook(tmp_path, "h", "#!/bin/sh\n", mode)
    tmp_path.chmod(folder_mode)
    result = ask(Exec(hook=name), hooks_dir=tmp_path)
    assert not result.is_ok
    assert message in result.message


def test_a_script_without_an_interpreter_line_says_so(tmp_path: Path) -> None:
    hook(tmp_path, "h", "exit 0\n")
    result = ask(Exec(hook="h"), hooks_dir=tmp_path)
    assert "Exec format error (a script needs a first line such as #!/bin/sh)" in result.message


def is_gone(pid: int) -> bool:
    """Whether a process is gone or only waits to be reaped."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def pids_in(path: Path, count: int) -> list[int]:
    while True:
        with contextlib.suppress(FileNotFoundError):
            pids = [int(word) for word in path.read_text().split()]  # noqa: ASYNC240
            if len(pids) >= count:
                return pids
        await asyncio.sleep(0.01)


async def all_gone(pids: list[int]) -> bool:
    for _ in range(300):
        if all(is_gone(pid) for pid in pids):
            return True
        await asyncio.sleep(0.01)
    return False


HANGING = """#!/bin/sh
trap '' TERM INT HUP
sleep 600 &
echo $$ >> {pids}
echo $! >> {pids}
wait
sleep 600
"""


def test_a_hook_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    async def run() -> tuple[Result, float, bool]:
        probes = Probes(hooks_dir=tmp_path, gateways=tuple)
        hook(tmp_path, "h", HANGING.format(pids=tmp_path / "pids"))
        await probes.run(Exec(hook="missing"), 10.0)
        began = time.monotonic()
        result = await probes.run(Exec(hook="h"), 0.5)
        took_s = time.monotonic() - began
        gone = await all_gone(await pids_in(tmp_path / "pids", 2))
        await probes.close()
        return result, took_s, gone

    result, took_s, gone = asyncio.run(run())
    assert result.message == "hook h did not end within 500 ms and was killed"
    assert took_s < IN_TIME_S
    assert gone


def test_what_a_hook_leaves_behind_goes_with_it(tmp_path: Path) -> None:
    async def run() -> tuple[Result, bool]:
        probes = Probes(hooks_dir=tmp_path, gateways=tuple)
        hook(tmp_path, "h", f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/pids\nexit 0\n")
        result = await probes.run(Exec(hook="h"), 5.0)
        gone = await all_gone(await pids_in(tmp_path / "pids", 1))
        await probes.close()
        return result, gone

    result, gone = asyncio.run(run())
    assert result.is_ok
    assert gone


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Have whoever opens a file wait, as for a disk that hangs: a lease on it is not given back."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # told of who waits by a signal that does no harm
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(file)


def test_a_hook_whose_file_hangs_delays_no_other_and_can_be_killed(tmp_path: Path) -> None:
    async def run() -> tuple[Result, Result, Result]:
        probes = Probes(hooks_dir=tmp_path, gateways=tuple)
        await probes.run(Exec(hook=hook(tmp_path, "ok", "#!/bin/sh\n")), IN_TIME_S)
        with unreadable(tmp_path / hook(tmp_path, "h", "#!/bin/sh\n")):
            hanging = asyncio.create_task(probes.run(Exec(hook="h"), IN_TIME_S))
            await asyncio.sleep(0)
            other = await probes.run(Exec(hook="ok"), IN_TIME_S / 2)
            hung = await hanging
        again = await probes.run(Exec(hook="h"), IN_TIME_S)
        await probes.close()
        return other, hung, again

    other, hung, again = asyncio.run(run())
    assert other.is_ok, other.message
    assert hung.message == "hook h did not end within 10000 ms and was killed"
    assert again.is_ok, again.message


def test_a_process_that_listens_no_more_is_started_again_before_what_it_is_to_read_piles_up(
    tmp_path: Path,
) -> None:
    async def run() -> tuple[list[Result], Result]:
        hook(tmp_path, "ok", "#!/bin/sh\n")
        runner, before = HookRunner(tmp_path), set(children())
        await runner.ready()
        (process,) = set(children()) - before
        os.kill(process, signal.SIGSTOP)
        long = Exec(hook="ok", args=("x" * 64 * 1024,))
        runs = [runner.run(long) for _ in range(40)]
        lost = await asyncio.wait_for(asyncio.gather(*runs), IN_TIME_S)
        again = await runner.run(Exec(hook="ok"))
        await runner.close()
        return lost, again

    lost, again = asyncio.run(run())
    assert {each.message for each in lost} == {"the process that runs hooks ended; it is started again"}
    assert again.is_ok


def test_of_a_hook_that_is_killed_before_it_begins_nothing_is_kept(tmp_path: Path) -> None:
    async def run() -> int:
        ours, theirs = socket.socketpair()
        serving = asyncio.create_task(serve(tmp_path, theirs))
        reader, writer = await asyncio.open_connection(sock=ours)
        await reader.readline()
        question = '{{"run": {}, "hook": "none", "args": [], "environment": {{}}}}\n'
        killed = "".join(f'{question.format(each)}{{"kill": {each}}}\n' for each in range(100))
        writer.write(f"{killed}{question.format(100)}".encode())
        assert b'"run": 100' in await reader.readline()
        kept = sum(isinstance(each, asyncio.Task) and each.cancelled() for each in gc.get_objects())
        writer.close()
        await writer.wait_closed()
        await serving
        return kept

    gc.collect()
    assert asyncio.run(run()) <= 1, "the one that it has spoken of last"


def test_a_killed_hook_is_run_again_at_the_next_turn(tmp_path: Path) -> None:
    async def run() -> list[str]:
        probes = Probes(hooks_dir=tmp_path, gateways=tuple)
        hook(tmp_path, "h", "#!/bin/sh\nsleep 600\n")
        await probes.run(Exec(hook="missing"), 10.0)
        messages = [(await probes.run(Exec(hook="h"), 0.1)).message for _ in range(3)]
        await probes.close()
        return messages

    assert set(asyncio.run(run())) == {"hook h did not end within 100 ms and was killed"}


def test_hooks_run_beside_each_other(tmp_path: Path) -> None:
    async def run() -> list[Result]:
        probes, gate = Probes(hooks_dir=tmp_path, gateways=tuple), Gate(tmp_path / "all")
        hook(tmp_path, "h", f"#!/bin/sh\n{gate.hook}\n")
        runs = [asyncio.create_task(probes.run(Exec(hook="h", args=(str(n),)), 60.0)) for n in range(10)]
        await gate.open(len(runs))
        results = await asyncio.gather(*runs)
        await probes.close()
        return results

    assert all(result.is_ok for result in asyncio.run(run()))


def children() -> list[int]:
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:  # noqa: PTH123
        return [int(word) for word in file.read().split()]


def test_the_process_that_runs_hooks_is_started_again_when_it_dies(tmp_path: Path) -> None:
    async def run() -> tuple[Result, Result, bool]:
        probes = Probes(hooks_dir=tmp_path, gateways=tuple)
        hook(tmp_path, "h", HANGING.format(pids=tmp_path / "pids"))
        hook(tmp_path, "ok", "#!/bin/sh\nexit 0\n")
        before = set(children())
        hanging = asyncio.create_task(probes.run(Exec(hook="h"), 20.0))
        await pids_in(tmp_path / "pids", 2)
        (runner,) = set(children()) - before
        os.kill(runner, signal.SIGKILL)
        lost = await hanging
        again = await probes.run(Exec(hook="ok"), 20.0)
        pids = await pids_in(tmp_path / "pids", 2)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await probes.close()
        return lost, again, set(children()) <= before

    lost, again, is_clean = asyncio.run(run())
    assert lost.message == "the process that runs hooks ended; it is started again"
    assert again.is_ok
    assert is_clean


def test_hooks_end_with_the_keeper(tmp_path: Path) -> None:
    hook(tmp_path, "h", HANGING.format(pids=tmp_path / "pids"))

    async def run() -> list[int]:
        probes = Probes(hooks_dir=tmp_path, gateways=tuple)
        running = asyncio.create_task(probes.run(Exec(hook="h"), 20.0))
        pids = await pids_in(tmp_path / "pids", 2)
        await probes.close()
        await running
        return pids

    pids = asyncio.run(run())
    assert asyncio.run(all_gone(pids))


KEEPER = """
import asyncio, pathlib, sys
from vipagent.probes import Probes
from vipapi.healthchecks import Exec
probes = Probes(hooks_dir=pathlib.Path(sys.argv[1]), gateways=tuple)
asyncio.run(probes.run(Exec(hook="h"), 60.0))
"""


def test_hooks_end_with_a_keeper_that_is_killed(tmp_path: Path) -> None:
    hook(tmp_path, "h", HANGING.format(pids=tmp_path / "pids"))
    with subprocess.Popen([sys.executable, "-c", KEEPER, str(tmp_path)]) as keeper:
        pids = asyncio.run(pids_in(tmp_path / "pids", 2))
        keeper.kill()
    assert asyncio.run(all_gone(pids))
