"""The door to systemd, against a real one: asked at its own socket and through a dbus-daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from lab.systemd import Systemd, for_tests
from vipagent.units import SOCKET, SYSTEM_BUS, State, UnitError, Units

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    Install = Callable[[str], str]
    Ask = Callable[[Callable[[Units], Awaitable[None]]], None]

PATIENCE_S = 60
MISSING = "missing.service"
SLEEPS = "[Service]\nExecStart=/bin/sleep 1000\n"
RESTARTS = SLEEPS + "Restart=always\nRestartSec=0\n[Unit]\nStartLimitIntervalSec=0\n"
IGNORES_SIGTERM = """[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'trap "" TERM; systemd-notify --ready; while :; do sleep 1000; done'
TimeoutStopSec=1000
Restart=always
RestartSec=0
"""
LEAVES_A_CHILD = """[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'sleep 1000 & systemd-notify --ready; exec sleep 1000'
KillMode=process
"""


@pytest.fixture(scope="module")
def systemd(request: pytest.FixtureRequest) -> Iterator[Systemd]:
    with for_tests(request.config, bus=True) as started:
        yield started


@pytest.fixture
def install(systemd: Systemd) -> Install:
    def add(text: str) -> str:
        name = f"unit-{time.monotonic_ns()}.service"
        systemd.add(name, text)
        return name

    return add


@pytest.fixture(params=["direct", "bus"])
def ask(systemd: Systemd, request: pytest.FixtureRequest) -> Ask:
    address = systemd.address if request.param == "direct" else systemd.bus_address

    def run(scenario: Callable[[Units], Awaitable[None]]) -> None:
        asyncio.run(_with_units(scenario, address))

    return run


async def _with_units(scenario: Callable[[Units], Awaitable[None]], address: str) -> None:
    units = Units([address])
    try:
        async with asyncio.timeout(PATIENCE_S):
            await scenario(units)
    finally:
        await units.close()


def test_a_started_unit_is_active_and_a_stopped_one_is_empty(ask: Ask, install: Install) -> None:
    unit = install(SLEEPS)

    async def scenario(units: Units) -> None:
        assert await units.state(unit) == State("inactive", "dead")
        await units.start(unit, PATIENCE_S)
        assert await units.state(unit) == State("active", "running")
        assert len(await units.processes(unit)) == 1
        assert await units.stop(unit, PATIENCE_S) == "Stopped"
        assert await units.state(unit) == State("inactive", "dead")
        assert await units.processes(unit) == ()

    ask(scenario)


def test_starting_and_stopping_twice_is_starting_and_stopping_once(ask: Ask, install: Install) -> None:
    unit = install(SLEEPS)

    async def scenario(units: Units) -> None:
        await units.start(unit, PATIENCE_S)
        before = await units.processes(unit)
        await units.start(unit, PATIENCE_S)
        assert await units.processes(unit) == before
        assert await units.stop(unit, PATIENCE_S) == "Stopped"
        assert await units.stop(unit, PATIENCE_S) == "Stopped"
        await units.kill(unit)

    ask(scenario)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("[Service]\nType=oneshot\nExecStart=/bin/sh -c 'exit 3'\n", "exit status 3", id="fails"),
        pytest.param("[Service]\nType=exec\nExecStart=/bin/missing\n", "exit status 203", id="no-program"),
        pytest.param(
            "[Service]\nType=notify\nExecStart=/bin/sh -c 'kill -9 $$$$'\n", "signal", id="killed-by-a-signal"
        ),
        pytest.param(
            "[Service]\nType=oneshot\nExecStart=/bin/true\n", "RemainAfterExit=yes", id="ends-at-once"
        ),
        pytest.param(
            SLEEPS + "[Unit]\nConditionPathExists=/nowhere\n", "Condition...= must hold", id="condition"
        ),
        pytest.param(
            "[Service]\nType=notify\nExecStart=/bin/false\nRestart=always\nRestartSec=1000\n",
            "auto-restart",
            id="would-come-back",
        ),
    ],
)
def test_a_unit_that_fails_to_start_is_told_with_systemds_reason(
    ask: Ask, install: Install, text: str, says: str
) -> None:
    unit = install(text)

    async def scenario(units: Units) -> None:
        with pytest.raises(UnitError) as failure:
            await units.start(unit, PATIENCE_S)
        assert failure.value.reason == "Failed"
        assert says in str(failure.value)
        assert unit in str(failure.value)
        await units.stop(unit, PATIENCE_S)
        assert (await units.state(unit)).is_resting

    ask(scenario)


def test_a_unit_whose_dependency_fails_is_told_so(ask: Ask, install: Install) -> None:
    needed = install("[Service]\nType=oneshot\nExecStart=/bin/false\n")
    unit = install(f"{SLEEPS}[Unit]\nRequires={needed}\nAfter={needed}\n")

    async def scenario(units: Units) -> None:
        with pytest.raises(UnitError, match="list-dependencies"):
            await units.start(unit, PATIENCE_S)

    ask(scenario)


def test_a_unit_that_was_started_too_often_is_told_with_the_remedy(ask: Ask, install: Install) -> None:
    unit = install(f"{SLEEPS}[Unit]\nStartLimitBurst=1\nStartLimitIntervalSec=1000\n")
    # systemd forgets how often it started what nothing refers to.
    other = install(f"{SLEEPS}[Unit]\nWants={unit}\nAfter={unit}\n")

    async def scenario(units: Units) -> None:
        await units.start(other, PATIENCE_S)
        await units.stop(unit, PATIENCE_S)
        with pytest.raises(UnitError, match="reset-failed"):
            await units.start(unit, PATIENCE_S)

    ask(scenario)


def test_a_start_that_takes_too_long_is_told_and_can_be_stopped(ask: Ask, install: Install) -> None:
    unit = install("[Service]\nType=notify\nExecStart=/bin/sleep 1000\nTimeoutStartSec=1000\n")

    async def scenario(units: Units) -> None:
        with pytest.raises(UnitError, match=r"activating \(start\) after 0.2 s") as late:
            await units.start(unit, 0.2)
        assert late.value.reason == "TimedOut"
        assert await units.stop(unit, PATIENCE_S) == "Stopped"
        assert await units.processes(unit) == ()

    ask(scenario)


def test_a_start_that_somebody_takes_back_is_told(ask: Ask, install: Install) -> None:
    unit = install("[Service]\nType=notify\nExecStart=/bin/sleep 1000\nTimeoutStartSec=1000\n")

    async def scenario(units: Units) -> None:
        starting = asyncio.create_task(units.start(unit, PATIENCE_S))
        await units.change(unit, State("inactive", "dead"))
        await units.stop(unit, PATIENCE_S)
        with pytest.raises(UnitError, match="asked for the contrary"):
            await starting

    ask(scenario)


def test_a_unit_that_hangs_on_stop_is_killed_at_the_timeout_and_stays_down(
    ask: Ask, install: Install
) -> None:
    unit = install(IGNORES_SIGTERM)

    async def scenario(units: Units) -> None:
        await units.start(unit, PATIENCE_S)
        assert await units.stop(unit, 0.3) == "Killed"
        assert (await units.state(unit)).is_resting
        assert await units.processes(unit) == ()

    ask(scenario)


def test_a_killed_unit_does_not_come_back_whatever_its_restart_says(ask: Ask, install: Install) -> None:
    unit = install(RESTARTS)

    async def scenario(units: Units) -> None:
        await units.start(unit, PATIENCE_S)
        await units.kill(unit)
        down = await units.state(unit)
        assert down.is_resting
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await units.change(unit, down)

    ask(scenario)


def test_a_unit_that_waits_to_be_restarted_is_not_at_rest_until_it_is_stopped(
    ask: Ask, install: Install
) -> None:
    unit = install("[Service]\nExecStart=/bin/false\nRestart=always\nRestartSec=1000\n")

    async def scenario(units: Units) -> None:
        with contextlib.suppress(UnitError):  # it may have been up for a moment
            await units.start(unit, PATIENCE_S)
        state = await units.state(unit)
        while state.detail != "auto-restart":
            state = await units.change(unit, state)
        assert not state.is_resting
        await units.kill(unit)
        assert (await units.state(unit)).is_resting

    ask(scenario)


def test_a_unit_that_is_queued_to_start_is_not_at_rest_until_it_is_stopped(
    ask: Ask, install: Install
) -> None:
    slow = install("[Service]\nType=notify\nExecStart=/bin/sleep 1000\nTimeoutStartSec=1000\n")
    unit = install(f"{SLEEPS}[Unit]\nWants={slow}\nAfter={slow}\n")

    async def scenario(units: Units) -> None:
        starting = asyncio.create_task(units.start(unit, PATIENCE_S))
        queued = await units.change(unit, State("inactive", "dead"))
        assert queued == State("inactive", "dead", is_queued=True)
        assert not queued.is_resting
        assert await units.stop(unit, PATIENCE_S) == "Stopped"
        assert (await units.state(unit)).is_resting
        with pytest.raises(UnitError, match="asked for the contrary"):
            await starting
        await units.stop(slow, PATIENCE_S)

    ask(scenario)


def test_killing_ends_what_a_unit_runs_after_its_stop_too(ask: Ask, install: Install) -> None:
    unit = install(
        f"{SLEEPS}TimeoutStopSec=1000\nExecStopPost=/bin/sleep 1000\nExecStopPost=/bin/sleep 1000\n"
    )

    async def scenario(units: Units) -> None:
        await units.start(unit, PATIENCE_S)
        await units.kill(unit)
        assert (await units.state(unit)).is_resting
        assert await units.processes(unit) == ()

    ask(scenario)


def test_processes_that_a_stopped_unit_leaves_behind_are_killed_at_the_timeout(
    ask: Ask, install: Install
) -> None:
    unit = install(LEAVES_A_CHILD)

    async def scenario(units: Units) -> None:
        await units.start(unit, PATIENCE_S)
        assert await units.stop(unit, 0.5) == "Killed"
        assert await units.processes(unit) == ()

    ask(scenario)


def test_a_missing_unit_cannot_be_started_and_need_not_be_stopped(ask: Ask) -> None:
    async def scenario(units: Units) -> None:
        with pytest.raises(UnitError, match="is not on this node: install its unit file") as missing:
            await units.start(MISSING, PATIENCE_S)
        assert missing.value.reason == "UnitNotFound"
        assert await units.stop(MISSING, PATIENCE_S) == "Stopped"
        await units.kill(MISSING)
        assert await units.state(MISSING) == State("not-found", "dead")
        assert await units.processes(MISSING) == ()

    ask(scenario)


@pytest.mark.parametrize(
    ("text", "state", "says"),
    [
        pytest.param("", "masked", "masked", id="masked"),
        pytest.param("[Service]\nType=simple\n", "bad-setting", "bad unit file setting", id="bad-setting"),
    ],
)
def test_a_unit_that_systemd_refuses_is_told_in_systemds_words(
    ask: Ask, install: Install, text: str, state: str, says: str
) -> None:
    unit = install(text)

    async def scenario(units: Units) -> None:
        with pytest.raises(UnitError, match=says) as refused:
            await units.start(unit, PATIENCE_S)
        assert refused.value.reason == "Refused"
        assert (await units.state(unit)).name == state
        assert await units.stop(unit, PATIENCE_S) == "Stopped"

    ask(scenario)


@pytest.mark.parametrize(
    ("text", "requests"),
    [
        pytest.param(SLEEPS, [True], id="starts"),
        pytest.param("[Service]\nType=oneshot\nExecStart=/bin/false\n", [True], id="fails"),
        pytest.param("[Service]\n", [True, False], id="bad-setting"),
        pytest.param(SLEEPS + "[Unit]\nRefuseManualStart=yes\n", [True, False], id="refuses"),
        pytest.param(None, [True, False], id="missing"),
    ],
)
def test_it_is_told_whether_systemd_may_have_the_request_for_a_start(
    ask: Ask, install: Install, text: str | None, requests: list[bool]
) -> None:
    unit = MISSING if text is None else install(text)
    told: list[bool] = []

    async def scenario(units: Units) -> None:
        with contextlib.suppress(UnitError):
            await units.start(unit, PATIENCE_S, on_request=told.append)
        await units.kill(unit)

    ask(scenario)
    assert told == requests


def test_what_is_not_a_units_name_is_refused(ask: Ask) -> None:
    async def scenario(units: Units) -> None:
        with pytest.raises(UnitError, match="is not the name of a unit") as refused:
            await units.state("no name")
        assert refused.value.reason == "Refused"

    ask(scenario)


def test_a_unit_that_dies_is_a_change(ask: Ask, install: Install, tmp_path: Path) -> None:
    unit, die = _mortal(install, tmp_path)

    async def scenario(units: Units) -> None:
        await units.start(unit, PATIENCE_S)
        known = await units.state(unit)
        changing = asyncio.create_task(units.change(unit, known))
        await units.state(unit)
        assert not changing.done()
        await asyncio.to_thread(die)
        assert await changing == State("failed", "failed")

    ask(scenario)


def test_a_systemd_that_executes_itself_is_waited_for(ask: Ask, install: Install, tmp_path: Path) -> None:
    unit, die = _mortal(install, tmp_path)
    upgrade = install("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=systemctl daemon-reexec\n")

    async def scenario(units: Units) -> None:
        await units.start(unit, PATIENCE_S)
        changing = asyncio.create_task(units.change(unit, await units.state(unit)))
        await units.start(upgrade, PATIENCE_S)
        assert await units.state(unit) == State("active", "running")
        assert not changing.done()
        await asyncio.to_thread(die)
        assert await changing == State("failed", "failed")

    ask(scenario)


def test_a_change_is_seen_although_the_connection_was_lost_for_a_moment(
    systemd: Systemd, install: Install, tmp_path: Path
) -> None:
    unit, die = _mortal(install, tmp_path)
    door = systemd.address.removeprefix("unix:path=")
    link = tmp_path / "door"
    link.symlink_to(door)

    async def scenario(inside: Units) -> None:
        await inside.start(unit, PATIENCE_S)
        units = Units([f"unix:path={link}"])
        changing = asyncio.create_task(units.change(unit, await units.state(unit)))
        for _ in range(5):
            await inside.state(unit)
        link.unlink()
        await inside.kill("door.service")
        for _ in range(5):
            await inside.state(unit)
        link.symlink_to(door)
        await asyncio.to_thread(die)
        assert await changing == State("failed", "failed")
        await units.close()

    asyncio.run(_with_units(scenario, systemd.bus_address))


def test_without_systemd_it_is_said_what_to_mount(tmp_path: Path) -> None:
    requests: list[bool] = []

    async def scenario(units: Units) -> None:
        for verb in (
            units.state(MISSING),
            units.start(MISSING, 1),
            units.stop(MISSING, 1),
            units.kill(MISSING),
        ):
            with pytest.raises(
                UnitError, match="mount the node's folder /run/systemd or /run/dbus"
            ) as no_bus:
                await verb
            assert no_bus.value.reason == "NoSystemd"
            assert "No such file" in str(no_bus.value)
        with pytest.raises(UnitError):
            await units.start(MISSING, 1, on_request=requests.append)
        assert requests == [], "nothing was asked of it"

    asyncio.run(_with_units(scenario, f"unix:path={tmp_path}/nothing"))


def test_a_socket_that_answers_nothing_is_no_systemd(tmp_path: Path) -> None:
    async def scenario(units: Units) -> None:
        with pytest.raises(UnitError) as no_bus:
            await units.state(MISSING)
        assert no_bus.value.reason == "NoSystemd"

    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/silent")
        silent.listen()
        asyncio.run(_with_units(scenario, f"unix:path={tmp_path}/silent"))


def test_the_next_address_is_tried_when_nobody_is_at_one(systemd: Systemd, tmp_path: Path) -> None:
    async def scenario() -> None:
        units = Units([f"unix:path={tmp_path}/nothing", systemd.bus_address])
        assert (await units.state(MISSING)).name == "not-found"
        await units.close()

    asyncio.run(scenario())


def test_the_environment_names_another_bus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = f"unix:path={tmp_path}/nothing"
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", nowhere)

    async def scenario() -> None:
        with pytest.raises(UnitError) as no_bus:
            await Units().state(MISSING)
        assert nowhere in str(no_bus.value)
        assert SOCKET not in str(no_bus.value)
        assert SYSTEM_BUS not in str(no_bus.value)

    asyncio.run(scenario())


def _mortal(install: Install, folder: Path) -> tuple[str, Callable[[], None]]:
    """Install a unit that runs until the function returned is called, and then fails."""
    fifo = folder / "fifo"
    os.mkfifo(fifo)

    def die() -> None:
        fifo.write_text("now\n")

    return install(f"[Service]\nExecStart=/bin/sh -c 'read word < {fifo}; exit 4'\n"), die
