"""A whole keeper on a real kernel beside a foreign host that has the address it is to hold."""

from __future__ import annotations

import asyncio
import socket
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from prometheus_client import REGISTRY

from agent.onekeeper import (
    FIRST,
    WEB,
    Courier,
    addresses,
    followed,
    network,  # noqa: F401 - a fixture that all tests have
    planned,
    run,
    service,
    until,
)
from vipagent.effects import MILLISECOND
from vipagent.frames import build
from vipagent.keeper import now_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from vipapi.nodestatus import Takeover

pytestmark = pytest.mark.usefixtures("importable")

FOREIGN = "02:00:00:00:00:66"
ADDRESS = IPv4Address("192.0.2.10")
NOBODY = bytes(4)


@contextmanager
def other_end(answers: Callable[[], bool]) -> Iterator[list[str]]:
    """Stand at the other end of the keeper's link; gives what its ARP frames about the address were.

    While it `answers` it does so to probes, as a host does that has the address.
    """
    claim = build(FOREIGN, ADDRESS).frames[1]
    seen: list[str] = []

    def read() -> None:
        frame = raw.recv(2048)
        if frame[28:32] == ADDRESS.packed:
            seen.append("claim")
        elif frame[28:32] == NOBODY and frame[38:42] == ADDRESS.packed:
            seen.append("probe")
            if answers():
                raw.send(claim[:38] + NOBODY)

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as raw:
        raw.bind(("far0", 0x0806))
        loop = asyncio.get_running_loop()
        loop.add_reader(raw, read)
        try:
            yield seen
        finally:
            loop.remove_reader(raw)


def conflict(courier: Courier) -> str:
    held = courier.report.virtual_ips if courier.report is not None else ()
    return "" if not held or held[0].conflict is None else held[0].conflict.message


def test_an_address_that_a_foreign_host_has_is_owned_and_not_bound(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        with other_end(lambda: True) as seen:
            courier.plan(planned(FIRST, WEB))
            await courier.until(lambda: bool(conflict(courier)))
            assert FOREIGN in conflict(courier)
            assert (courier.state(), courier.fitness(), courier.is_bound()) == ("Owner", "Fit", False)
            assert set(seen) == {"probe"}

    run(tmp_path, story)


def test_an_address_that_nobody_has_is_bound_after_three_probes(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        with other_end(lambda: False) as seen:
            courier.plan(planned(FIRST, WEB))
            await until(lambda: "claim" in seen)
            assert seen[:4] == ["probe", "probe", "probe", "claim"]
            await courier.until(courier.is_bound)
            assert conflict(courier) == ""

    run(tmp_path, story)


def takeover(courier: Courier) -> Takeover | None:
    held = courier.report.virtual_ips if courier.report is not None else ()
    return held[0].takeover if held else None


def held() -> float | None:
    return REGISTRY.get_sample_value("vipkeeper_virtualip_held", {"virtualip": "web"})


def test_an_address_whose_services_all_start_behind_it_is_bound_and_they_start(daemons: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("app", is_first=False)))
        await courier.until(lambda: courier.service_states() == {"app": "Active"})
        await courier.until(courier.is_bound)

    run(daemons, story)


def test_the_time_of_another_machine_is_no_part_of_the_takeover(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vipagent.conflicts._DEFEND_NS", 300 * MILLISECOND)
    monkeypatch.setattr("vipagent.conflicts._ASK_NS", 50 * MILLISECOND)

    async def story(courier: Courier) -> None:
        has_it = True
        with other_end(lambda: has_it) as seen:
            courier.plan(planned(FIRST, WEB))
            await courier.until(lambda: bool(conflict(courier)))
            assert held() is None
            await until(lambda: seen.count("probe") >= 25)
            has_it, given_up_ns = False, now_ns()
            await courier.until(courier.is_bound)
            await courier.until(lambda: takeover(courier) is not None)
            told = takeover(courier)
            assert told is not None
            assert told.duration_milliseconds <= (now_ns() - given_up_ns) / MILLISECOND
            assert (held(), conflict(courier)) == (1, "")

    run(tmp_path, story)


def test_an_address_is_put_down_before_a_machine_that_goes_on_and_what_is_behind_it_waits(
    daemons: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SETTLING", "VERIFY", "ASK"):
        monkeypatch.setattr(f"vipagent.conflicts._{name}_NS", 50 * MILLISECOND)
    monkeypatch.setattr("vipagent.conflicts._DEFEND_NS", 300 * MILLISECOND)
    monkeypatch.setattr("vipagent.conflicts._PERSISTENCE_NS", 0)

    async def story(courier: Courier) -> None:
        has_it = False
        with other_end(lambda: has_it):
            courier.plan(followed(service("app", is_first=False)))
            await courier.until(lambda: courier.is_bound() and courier.service_states() == {"app": "Active"})
            has_it = True
            await courier.until(lambda: bool(conflict(courier)) and not courier.is_bound())
            assert "192.0.2.10" not in await addresses()
            await until(lambda: held() is None)
            courier.plan(followed(service("app", is_first=False), service("late", is_first=False)))
            await courier.until(lambda: "late" in courier.services())
            assert courier.service_states() == {"app": "Active", "late": "Waiting"}
            assert courier.services()["late"].message == "starts when the addresses are bound"
            assert (courier.state(), courier.fitness()) == ("Owner", "Fit")
            has_it = False
            await courier.until(lambda: courier.service_states() == {"app": "Active", "late": "Active"})
            assert (courier.is_bound(), conflict(courier)) == (True, "")

    run(daemons, story)
