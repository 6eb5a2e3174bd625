"""The checks of a node as they run: in an event loop whose clock is virtual, with probes that are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from agent.virtualtime import run
from vipagent.checks import Checks
from vipagent.health import Result, Subject
from vipapi.healthchecks import HealthCheck, Link, Probe, TCPSocket

if TYPE_CHECKING:
    import pytest

OK = Result(is_ok=True)
NO = Result(is_ok=False, message="refused")


class World:
    """What the probes find, and when each was probed."""

    def __init__(self, *, lasts_s: float = 0.0) -> None:
        self.lasts_s = lasts_s
        self.answers: dict[str, Result] = {}
        self.probed: list[tuple[float, str]] = []
        self.running = 0
        self.most_running = 0
        self.changes = 0

    async def probe(self, probe: Probe, timeout_s: float) -> Result:
        assert timeout_s > 0
        name = str(probe.port) if isinstance(probe, TCPSocket) else type(probe).__name__
        self.probed.append((round(asyncio.get_running_loop().time(), 3), name))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.lasts_s)
        finally:
            self.running -= 1
        return self.answers.get(name, OK)

    def change(self) -> None:
        self.changes += 1


def tcp(port: int, **fields: Any) -> HealthCheck:
    return HealthCheck(name=f"port-{port}", tcp_socket=TCPSocket(port=port), **fields)


def fit(checks: Checks, uid: str) -> tuple[str, str]:
    fitness = checks.fitness(uid)
    assert fitness is not None
    return fitness.fit, fitness.reason


def test_the_same_check_of_many_addresses_is_one_probe() -> None:
    async def story() -> None:
        world = World()
        checks = Checks(world.probe, on_change=world.change)
        checks.update([Subject(f"u{n}", 100, (tcp(80),)) for n in range(500)])
        assert fit(checks, "u7") == ("Unfit", "CheckPending")
        await asyncio.sleep(0.5)
        assert world.probed == [(0.0, "80")]
        assert {fit(checks, f"u{n}") for n in range(500)} == {("Fit", "")}
        assert world.changes == 1
        await checks.close()

    run(story())


def test_a_dead_service_is_noticed_after_its_threshold_of_periods() -> None:
    async def story() -> None:
        world = World()
        checks = Checks(world.probe, on_change=world.change)
        checks.update([Subject("u", 100, (tcp(80, period_milliseconds=200, failure_threshold=3),))])
        await asyncio.sleep(0.25)
        world.answers["80"] = NO
        await asyncio.sleep(0.5)
        assert fit(checks, "u") == ("Fit", "")
        await asyncio.sleep(0.1)
        assert fit(checks, "u") == ("Unfit", "CheckFailed")
        assert world.changes == 2
        await checks.close()

    run(story())


def test_a_recheck_of_links_sees_a_lost_carrier_at_once() -> None:
    async def story() -> None:
        world = World()
        checks = Checks(world.probe, on_change=world.change)
        nic = HealthCheck(name="nic", link=Link(interface="eth0"), period_milliseconds=60_000)
        checks.update([Subject("u", 100, (nic, tcp(80, period_milliseconds=60_000)))])
        await asyncio.sleep(1.0)
        world.answers["Link"] = NO
        checks.recheck(Link)
        await asyncio.sleep(0.001)
        assert fit(checks, "u") == ("Unfit", "CheckFailed")
        assert [name for _, name in world.probed] == ["Link", "80", "Link"]
        await checks.close()

    run(story())


def test_no_more_than_the_limit_are_probed_at_once_and_all_have_their_turn() -> None:
    async def story() -> None:
        world = World(lasts_s=0.3)
        checks = Checks(world.probe, on_change=world.change, limit=10)
        checks.update([Subject("u", 100, tuple(tcp(port) for port in range(1, 41)))])
        await asyncio.sleep(1.5)
        assert world.most_running == 10
        assert {name for _, name in world.probed} == {str(port) for port in range(1, 41)}
        await checks.close()
        assert world.running == 0

    run(story())


def test_a_probe_that_breaks_is_a_failing_check(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        async def broken(_probe: Probe, _timeout_s: float) -> Result:
            await asyncio.sleep(0)
            raise KeyError("x")

        world = World()
        checks = Checks(broken, on_change=world.change)
        checks.update([Subject("u", 100, (tcp(80),))])
        await asyncio.sleep(0.1)
        fitness = checks.fitness("u")
        assert fitness is not None
        assert "the probe itself broke: KeyError" in fitness.message
        await checks.close()

    run(story())
    assert "broke" in caplog.text


def test_a_check_that_is_not_wanted_any_more_is_not_probed_any_more() -> None:
    async def story() -> None:
        world = World()
        checks = Checks(world.probe, on_change=world.change)
        checks.update([Subject("u", 100, (tcp(80), tcp(81)))])
        await asyncio.sleep(0.5)
        checks.update([Subject("u", 100, (tcp(81),))])
        await asyncio.sleep(2.0)
        assert [name for _, name in world.probed].count("80") == 1
        assert [name for _, name in world.probed].count("81") == 3
        assert fit(checks, "u") == ("Fit", "")
        assert checks.fitness("gone") is None
        await checks.close()

    run(story())


def test_nothing_is_probed_after_the_end() -> None:
    async def story() -> None:
        world = World(lasts_s=5.0)
        checks = Checks(world.probe, on_change=world.change)
        checks.update([Subject("u", 100, (tcp(80),))])
        await asyncio.sleep(1.0)
        await checks.close()
        await asyncio.sleep(20.0)
        assert (world.running, len(world.probed), world.changes) == (0, 1, 0)

    run(story())
