"""The thread that is asked for a process's health, against real sockets."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from viphealth import server
from viphealth.conversation import Health
from viphealth.server import MOST, PATIENCE_S, CannotServeHealth, HealthServer, of_loop, serve


def free_port(address: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as taken:
        port: int = taken.getsockname()[1]
    return port


def started(address: str = "127.0.0.1", *, health: Health | None = None) -> HealthServer:
    return serve((address, free_port(address)), lambda: health or Health())


def got(port: int, path: str = "/healthz", address: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    finally:
        connection.close()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::"])
def test_it_answers_at_every_kind_of_address(address: str) -> None:
    with started(address, health=Health(unready="it is starting")) as serving:
        reached = "::1" if address == "::" else address
        assert got(serving.port, "/healthz", reached) == (200, "ok")
        assert got(serving.port, "/readyz", reached) == (503, "it is starting")


def test_all_addresses_of_ipv6_are_those_of_ipv4_too() -> None:
    with started("::") as serving:
        assert got(serving.port, "/healthz", "127.0.0.1") == (200, "ok")


def test_a_port_that_is_taken_is_named_with_what_to_do() -> None:
    with started() as serving:
        port = serving.port
        with pytest.raises(CannotServeHealth) as refused:
            serve(("127.0.0.1", port), Health)
    assert str(refused.value) == (
        f"the health endpoints cannot be served at 127.0.0.1 port {port}: Address already in use: "
        "give --health another address or port"
    )


def test_an_address_that_this_machine_does_not_have_is_refused() -> None:
    with pytest.raises(CannotServeHealth, match=r"at 203\.0\.113\.9 port 9956: Cannot assign"):
        serve(("203.0.113.9", 9956), Health)


def test_who_only_connects_or_speaks_by_drips_keeps_no_probe_out() -> None:
    with started() as serving, ExitStack() as stack:
        for _ in range(3 * MOST):
            slow = stack.enter_context(connected(serving.port))
            slow.sendall(b"GET /hea")
        began = time.monotonic()
        assert got(serving.port) == (200, "ok")
        assert time.monotonic() - began < PATIENCE_S


def test_who_does_not_ask_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE_S", 0.1)
    with started() as serving, connected(serving.port) as slow:
        slow.sendall(b"GET /healthz")
        assert slow.recv(1) == b""


def test_no_more_than_so_many_connections_are_kept() -> None:
    with started() as serving, ExitStack() as stack:
        before = len(list(Path("/proc/self/fd").iterdir()))
        mine = [stack.enter_context(connected(serving.port)) for _ in range(2 * MOST)]
        assert got(serving.port) == (200, "ok")
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= len(mine) + MOST


@pytest.mark.parametrize(
    "rubbish", [b"\x00" * 5000, b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 200 + b"\n\n"]
)
def test_rubbish_is_answered_or_closed_and_others_go_on(rubbish: bytes) -> None:
    with started() as serving:
        with connected(serving.port) as odd:
            odd.sendall(rubbish)
            assert b" 200 " not in odd.recv(100)
        assert got(serving.port) == (200, "ok")


def test_who_is_gone_before_the_answer_harms_nobody() -> None:
    with started() as serving:
        for _ in range(20):
            gone = connected(serving.port)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            gone.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            gone.close()
        assert got(serving.port) == (200, "ok")


def test_many_questions_at_once_are_one_question_to_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FRESH_S", 60.0)
    asked = []
    with serve(("127.0.0.1", free_port()), lambda: asked.append(1) or Health()) as serving:
        for _ in range(10):
            assert got(serving.port) == (200, "ok")
    assert asked == [1]


def test_a_process_that_cannot_say_how_it_is_is_not_live() -> None:
    def broken() -> Health:
        raise LookupError("nobody knows")

    with serve(("127.0.0.1", free_port()), broken) as serving:
        assert got(serving.port) == (503, "it cannot say how it is: LookupError: nobody knows")


def test_a_loop_that_hangs_is_not_live_and_is_again_when_it_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TURN_S", 0.2)
    monkeypatch.setattr(server, "FRESH_S", 0.0)
    hang, hung = threading.Event(), threading.Event()

    def freeze() -> None:
        hung.set()
        hang.wait(30)

    async def tell() -> None:
        loop = asyncio.get_running_loop()
        looked_in: list[int] = []

        def look() -> Health:
            looked_in.append(threading.get_ident())
            return Health()

        with serve(("127.0.0.1", free_port()), of_loop(loop, look)) as serving:
            assert await asyncio.to_thread(got, serving.port) == (200, "ok")
            frozen = loop.run_in_executor(None, answer_while_frozen, serving.port)
            loop.call_soon(freeze)
            assert await frozen == (503, "the event loop has not turned for 0 s")
            monkeypatch.setattr(server, "TURN_S", 10.0)
            assert await asyncio.to_thread(got, serving.port) == (200, "ok")
        assert set(looked_in) == {threading.get_ident()}

    def answer_while_frozen(port: int) -> tuple[int, str]:
        hung.wait(30)
        try:
            return got(port)
        finally:
            hang.set()

    asyncio.run(tell())


def test_a_loop_that_has_ended_is_not_live() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    assert of_loop(loop, Health)() == Health(sick="the event loop has ended")


class StandingLoop(asyncio.SelectorEventLoop):
    """A loop that does not turn, and tells when it was asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked = threading.Event()

    def call_soon_threadsafe(self, *arguments: Any, **more: Any) -> asyncio.Handle:
        self.was_asked.set()
        return super().call_soon_threadsafe(*arguments, **more)


def test_a_loop_that_waits_for_the_servers_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "TURN_S", 60.0)
    loop = StandingLoop()
    question = of_loop(loop, Health)
    with ExitStack() as stack:
        with serve(("127.0.0.1", free_port()), question) as serving:
            client = stack.enter_context(connected(serving.port))
            client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert loop.was_asked.wait(60)
        assert b"the event loop has ended" in client.recv(1000)
    assert question() == Health(sick="the event loop has ended")
    loop.close()


def test_a_look_that_breaks_ends_no_loop() -> None:
    def broken() -> Health:
        raise LookupError("nobody knows")

    async def tell() -> None:
        with pytest.raises(LookupError):
            await asyncio.to_thread(of_loop(asyncio.get_running_loop(), broken))

    asyncio.run(tell())
