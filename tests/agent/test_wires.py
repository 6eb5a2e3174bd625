"""The heartbeat sockets that domains want, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

from vipagent.access import Place
from vipagent.wires import Wires

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

LOOPBACK = ip_address("127.0.0.1")


@contextlib.contextmanager
def taken() -> Iterator[Place]:
    """Have another program use a port meanwhile."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((str(LOOPBACK), 0))
        yield Place(LOOPBACK, other.getsockname()[1])


def test_a_port_that_another_program_has_is_told_once_and_stands_in_the_report_until_it_is_free(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        wires = Wires(lambda _: None, lambda: None)
        with taken() as place:
            wanted = {"one": place, "two": place}
            for _ in range(20):
                wires.keep(wanted)
            (problem,) = wires.problems()
            assert problem.reason == "HeartbeatRefused"
            assert f"127.0.0.1 port {place.port} (Address already in use)" in problem.message
            assert caplog.messages == [problem.message]
            assert not wires.is_open("one")
        wires.keep(wanted)
        assert wires.problems() == ()
        assert wires.is_open("one")
        wires.keep({})

    with caplog.at_level(logging.INFO):
        asyncio.run(story())


def test_another_obstacle_is_told_anew_and_what_nobody_wants_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        wires = Wires(lambda _: None, lambda: None)
        with taken() as place:
            elsewhere = Place(ip_address("192.0.2.77"), 7946)
            for _ in range(3):
                wires.keep({"one": place, "two": elsewhere})
            assert len(caplog.messages) == len(wires.problems()) == 2
            wires.keep({"two": elsewhere})
            assert len(wires.problems()) == 1
            wires.keep({"one": place, "two": elsewhere})
            assert len(caplog.messages) == 3, "it is said again of a place that was not wanted in between"
        wires.keep({})
        assert wires.problems() == ()

    asyncio.run(story())
