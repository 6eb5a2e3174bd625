"""Units of systemd as services: the keeper's side, the leash and a systemd, all real."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.services import (
    DAEMON,
    LEASE,
    SECOND,
    SOON_S,
    Services,
    hook,
    kill_leash,
    leash_of,
    now_ns,
    plan,
    services,
    unit_plan,
)
from lab.systemd import Systemd, for_tests
from vipagent.runs import Outcome
from vipagent.units import Units

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from vipapi.nodeplan import ServicePlan


SLEEPS = "[Service]\nExecStart=/bin/sleep 1000\n"
IGNORES_SIGTERM = "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1000; done'\n"
FAILS = "[Service]\nType=oneshot\nExecStart=/bin/false\n"


@pytest.fixture(scope="module")
def systemd(request: pytest.FixtureRequest) -> Iterator[Systemd]:
    with for_tests(request.config) as started:
        yield started


@pytest.fixture
def install(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Have a unit in the systemd that leashes find."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", systemd.address)

    def add(text: str) -> str:
        name = f"unit-{time.monotonic_ns()}.service"
        systemd.add(name, text)
        return name

    return add


@asynccontextmanager
async def units() -> AsyncIterator[Units]:
    asked = Units()
    try:
        yield asked
    finally:
        await asked.close()


def test_a_unit_of_systemd_is_started_and_stopped(
    tmp_path: Path, cgroup: Path, install: Callable[[str], str]
) -> None:
    async def run() -> None:
        service = unit_plan(unit := install(SLEEPS))
        async with services(tmp_path, cgroup) as node, units() as asked:
            number = await node.started(service)
            assert (await asked.state(unit)).is_active
            await node.stopped(service, number)
            assert (await asked.state(unit)).is_resting

    asyncio.run(run())


def test_a_unit_needs_no_cgroup_of_the_keeper(tmp_path: Path, install: Callable[[str], str]) -> None:
    async def run() -> None:
        service = unit_plan(install(SLEEPS))
        async with services(tmp_path, None) as node:
            await node.stopped(service, await node.started(service))
            assert node.runner.problems() == ()

    asyncio.run(run())


def test_a_unit_that_does_not_start_is_told(
    tmp_path: Path, cgroup: Path, install: Callable[[str], str]
) -> None:
    async def run() -> Outcome:
        service = unit_plan(install(FAILS))
        async with services(tmp_path, cgroup) as node:
            return await node.tried(service)

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert "journalctl -u" in told.message


def test_a_unit_that_dies_is_told(tmp_path: Path, cgroup: Path, install: Callable[[str], str]) -> None:
    async def run() -> Outcome:
        service = unit_plan(unit := install(SLEEPS))
        async with services(tmp_path, cgroup) as node, units() as asked:
            number = await node.started(service)
            await asked.kill(unit)
            told = await node.next()
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told.kind == "Died"
    assert "journalctl -u" in told.message


@pytest.mark.parametrize(
    ("text", "stop_timeout_s", "least_s"),
    [
        pytest.param(SLEEPS, 2 * SOON_S, 0.0, id="orderly-from-the-lease's-end-on"),
        pytest.param(IGNORES_SIGTERM, 2.0, 2.0, id="killed-a-stop-timeout-later"),
    ],
)
def test_a_unit_whose_lease_is_not_renewed_ends(
    *,
    tmp_path: Path,
    cgroup: Path,
    install: Callable[[str], str],
    text: str,
    stop_timeout_s: float,
    least_s: float,
) -> None:
    async def run() -> float:
        service = unit_plan(unit := install(text), stop_timeout_ms=int(1000 * stop_timeout_s))
        async with services(tmp_path, cgroup) as node, units() as asked:
            await node.leased(service)
            assert await node.next() == Outcome(service.id, 2, "Stopped")
            late_s = (now_ns() - node.deadline_ns) / SECOND
            assert (await asked.state(unit)).is_resting
        return late_s

    assert least_s <= asyncio.run(run()) < LEASE / SECOND


def test_a_unit_that_has_lost_its_leash_is_stopped_by_the_next(
    tmp_path: Path, cgroup: Path, install: Callable[[str], str]
) -> None:
    async def run() -> list[str]:
        service = unit_plan(unit := install(SLEEPS))
        async with services(tmp_path, cgroup) as node, units() as asked:
            number = await node.started(service)
            kill_leash(cgroup)
            told = [await node.next()]
            node.runner.stop(service.id, number)
            told.append(await node.next())
            assert (await asked.state(unit)).is_resting
        return [each.kind for each in told]

    assert asyncio.run(run()) == ["Died", "Stopped"]


def test_a_keeper_that_starts_stops_the_planned_units_that_run(
    tmp_path: Path, cgroup: Path, install: Callable[[str], str]
) -> None:
    async def run() -> None:
        service = unit_plan(unit := install(SLEEPS))
        async with services(tmp_path, cgroup) as node, units() as asked:
            await asked.start(unit, 10)
            assert await node.runner.start_clean([service, plan("other")]) == frozenset()
            assert (await asked.state(unit)).is_resting
            await node.stopped(service, await node.started(service))

    asyncio.run(run())


def test_a_unit_that_a_starting_keeper_cannot_stop_in_time_counts_as_running_until_it_has_ended(
    tmp_path: Path, cgroup: Path, install: Callable[[str], str]
) -> None:
    async def run() -> None:
        service = unit_plan(unit := install(IGNORES_SIGTERM), stop_timeout_ms=6000)
        async with services(tmp_path, cgroup) as node, units() as asked:
            await asked.start(unit, 10)
            assert await node.runner.start_clean([service]) == {service.id}
            node.runner.stop(service.id, 0)
            assert (await node.next()).kind == "StopFailed"
            node.start(service)
            assert (await node.next()).kind == "StartFailed"
            assert await node.next() == Outcome(service.id, 0, "Stopped")
            assert (await asked.state(unit)).is_resting

    asyncio.run(run())


async def stays_silent(node: Services, service: ServicePlan, run: int) -> None:
    """Stop a unit of a systemd that does not answer, again and again; each time it is told so in time."""
    for _ in range(3):
        began = time.monotonic()
        node.runner.stop(service.id, run)
        told = await node.next()
        assert told.kind == "StopFailed"
        # The keeper ends the leash ten seconds after the stop timeout, and so everything that this runs.
        assert time.monotonic() - began < service.stop_timeout_ms / 1000 + 8.0


def test_a_unit_that_no_systemd_was_asked_to_start_is_told_and_has_stopped(
    tmp_path: Path, hooks: Path, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        unit, other = unit_plan("silent.service", stop_timeout_ms=500), plan("other")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(other)
            leash = leash_of(cgroup)
            failed = node.start(unit)
            told = await node.next()
            assert told.kind == "StartFailed"
            assert "no systemd can be reached" in told.message
            await node.stopped(unit, failed)
            assert leash_of(cgroup) == leash
            await node.stopped(other, number)

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen(100)
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/silent")
        asyncio.run(run())


def test_a_systemd_that_falls_silent_costs_other_services_nothing(
    tmp_path: Path, hooks: Path, cgroup: Path, install: Callable[[str], str], systemd: Systemd
) -> None:
    assert systemd._cgroup is not None  # noqa: SLF001 - where all of it is
    freezer = systemd._cgroup / "cgroup.freeze"  # noqa: SLF001

    async def run() -> None:
        hook(hooks, "start", DAEMON)
        unit, other = unit_plan(install(SLEEPS), stop_timeout_ms=500), plan("other")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(other)
            leash = leash_of(cgroup)
            first = await node.started(unit)
            freezer.write_text("1")
            try:
                await stays_silent(node, unit, first)
            finally:
                freezer.write_text("0")
            assert await node.next() == Outcome(unit.id, first, "Stopped")  # without being asked again
            assert leash_of(cgroup) == leash
            await node.stopped(other, number)

    asyncio.run(run())
