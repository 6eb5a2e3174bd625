"""A keeper with services that follow its address: when they run, and what their hooks are told."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.onekeeper import (
    FIRST,
    WEB,
    Courier,
    addresses,
    configured,
    followed,
    is_alive,
    network,  # noqa: F401 - a fixture that all tests have
    planned,
    run,
    service,
    until,
)
from vipagent.leash_cgroups import default_cgroup
from vipapi.healthchecks import Exec, HealthCheck, TCPSocket
from vipapi.workloads import Hooks, Scripts, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from vipapi.nodeplan import ServicePlan

pytestmark = pytest.mark.usefixtures("importable")


def test_services_start_before_the_address_is_bound_and_stop_after_it_is_gone(daemons: Path) -> None:
    go = daemons / "go"
    wait = f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done; exec {daemons}/daemon db\n"
    held_up = service("db", workload=Workload(exec=Scripts(start=script(daemons, "held-up", wait))))

    async def story(courier: Courier) -> None:
        courier.plan(followed(held_up, service("app", is_first=False)))
        await courier.until(lambda: courier.service_states().get("db") == "Starting")
        assert "192.0.2.10" not in await addresses()
        go.touch()
        await courier.until(lambda: courier.service_states() == {"db": "Active", "app": "Active"})
        await courier.until(courier.is_bound)
        assert "192.0.2.10" in await addresses()
        assert is_alive(daemons, "db")
        assert is_alive(daemons, "app")
        assert courier.services()["db"].term == int((daemons / "db.started").read_text())

    run(daemons, story)
    assert not is_alive(daemons, "db")
    assert not is_alive(daemons, "app")


def test_a_singleton_waits_for_the_other_candidate_s_word_or_the_end_of_its_leash(daemons: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db", is_singleton=True)))
        await courier.until(lambda: courier.service_states() == {"db": "Waiting"})
        assert courier.services()["db"].message.startswith("waits for b to confirm")
        await courier.until(lambda: courier.service_states() == {"db": "Active"})

    run(daemons, story)


def test_a_service_that_is_planned_no_more_is_stopped_and_the_address_stays(daemons: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db"), service("app")))
        await courier.until(lambda: courier.service_states() == {"db": "Active", "app": "Active"})
        await courier.until(courier.is_bound)
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        assert not is_alive(daemons, "app")
        courier.plan(followed())
        await courier.until(lambda: courier.service_states() == {})
        assert not is_alive(daemons, "db")
        assert courier.state() == "Owner"
        assert "192.0.2.10" in await addresses()

    run(daemons, story)


def test_a_service_that_is_planned_for_a_bound_address_is_started_and_the_address_stays(
    daemons: Path,
) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed())
        await courier.until(courier.is_bound)
        courier.plan(followed(service("db", is_singleton=True)))
        await courier.until(lambda: courier.service_states() == {"db": "Waiting"})
        assert "192.0.2.10" in await addresses()
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        assert "192.0.2.10" in await addresses()

    run(daemons, story)


def test_a_service_that_dies_costs_the_node_the_address_for_a_while(daemons: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        os.kill(int((daemons / "db.pid").read_text()), 9)
        await courier.until(lambda: courier.state() == "Standby")
        assert courier.report is not None
        holding = courier.report.virtual_ips[0]
        assert (holding.fitness, holding.reason) == ("Unfit", "ServiceFailed")
        assert "db" in holding.message
        assert "192.0.2.10" not in await addresses()

    run(daemons, story)


def test_a_check_of_active_services_that_fails_moves_them_away(daemons: Path) -> None:
    async def story(courier: Courier) -> None:
        page = HealthCheck("page", period_milliseconds=100, tcp_socket=TCPSocket(port=1))
        courier.plan(followed(service("db"), checks=(page,)))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        await courier.until(lambda: courier.service_check_results() != [])
        assert courier.service_check_results() in (["Passing"], ["Failing"])
        await courier.until(lambda: courier.state() == "Standby")
        assert not is_alive(daemons, "db")
        await courier.until(lambda: courier.service_check_results() == [])

    run(daemons, story)


TELL = """#!/bin/sh
echo "$VIPKEEPER_EVENT $VIPKEEPER_SERVICE $VIPKEEPER_NODE $VIPKEEPER_VIRTUAL_IP" >> {folder}/told
"""


def script(folder: Path, name: str, text: str) -> Exec:
    (folder / name).write_text(text)
    (folder / name).chmod(0o700)
    return Exec(name)


def telling(folder: Path) -> ServicePlan:
    """A service whose hooks write down what they are told."""
    tell = (script(folder, "tell", TELL.format(folder=folder)),)
    return service("db", hooks=Hooks(promoted=tell, demoted=tell, faulted=tell))


def kinds_told(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / "told").read_text().splitlines()]


async def until_told(courier: Courier, kind: str) -> None:
    def is_told() -> bool:
        status = courier.services().get("db")
        return status is not None and status.hook is not None and status.hook.kind == kind

    await courier.until(is_told)


def test_hooks_are_told_when_the_lease_is_lost(daemons: Path) -> None:
    db = telling(daemons)

    async def story(courier: Courier) -> None:
        courier.plan(followed(db))
        await until_told(courier, "promoted")
        (vip,) = followed(db).virtual_ips
        courier.plan(planned(configured(2, "a", "b", former=FIRST), vip))
        await until_told(courier, "demoted")
        assert courier.state() == "Standby"

    run(daemons, story)
    assert kinds_told(daemons) == ["promoted", "demoted"]


def test_hooks_are_told_when_services_stop_and_start_again_under_one_lease(daemons: Path) -> None:
    well, go = daemons / "well", daemons / "go"
    well.touch()
    scripts = Scripts(
        start=Exec("daemon", ("db",)),
        stop=script(
            daemons,
            "stop",
            f"#!/bin/sh\nuntil [ -e {go} ]; do sleep 0.05; done; kill $(cat {daemons}/db.pid)\n",
        ),
    )
    db = msgspec.structs.replace(telling(daemons), workload=Workload(exec=scripts), stop_timeout_ms=20_000)
    check = HealthCheck(
        "well",
        period_milliseconds=100,
        failure_threshold=1,
        success_threshold=1,
        exec=script(daemons, "look", f"#!/bin/sh\n[ -e {well} ]\n"),
    )
    vip = msgspec.structs.replace(WEB, services=(db,), health_checks=(check,))

    async def story(courier: Courier) -> None:
        courier.plan(planned(FIRST, vip))
        await until_told(courier, "promoted")
        term = courier.services()["db"].term
        well.unlink()
        await courier.until(lambda: courier.service_states() == {"db": "Stopping"})
        well.touch()
        await courier.until(lambda: courier.fitness() == "Fit")
        go.touch()
        await until(lambda: kinds_told(daemons) == ["promoted", "demoted", "promoted"])
        assert courier.services()["db"].term == term

    run(daemons, story)
    assert kinds_told(daemons) == ["promoted", "demoted", "promoted", "demoted"]


def test_hooks_are_told_what_became_of_a_service_also_at_the_keeper_s_end(daemons: Path) -> None:
    told = daemons / "told"
    db = telling(daemons)

    async def story(courier: Courier) -> None:
        courier.plan(followed(db))
        await until_told(courier, "promoted")
        await courier.until(courier.is_bound)
        assert "192.0.2.10" in await addresses()
        os.kill(int((daemons / "db.pid").read_text()), 9)
        await until_told(courier, "demoted")
        assert "192.0.2.10" not in await addresses()
        assert courier.service_states() == {"db": "Failed"}
        corrected = msgspec.structs.replace(db, generation=2)
        courier.plan(followed(corrected))
        await until_told(courier, "promoted")

    run(daemons, story)
    kinds = ["promoted", "faulted", "demoted", "promoted", "demoted"]
    assert told.read_text().splitlines() == [f"{kind} prod/shop/db a web" for kind in kinds]


def test_a_node_that_is_said_to_be_off_lets_go_until_that_is_taken_back(daemons: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        courier.plan(msgspec.structs.replace(followed(service("db")), out_of_service=("b", "a")))
        await courier.until(lambda: courier.state() == "Standby")
        assert courier.report is not None
        holding = courier.report.virtual_ips[0]
        assert (holding.fitness, holding.reason) == ("Unfit", "OutOfService")
        assert not is_alive(daemons, "db")
        courier.plan(msgspec.structs.replace(followed(service("db")), out_of_service=("b",)))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})

    run(daemons, story)


def test_a_singleton_does_not_wait_for_the_leash_of_a_node_that_is_said_to_be_off(daemons: Path) -> None:
    patient = service("db", is_singleton=True, stop_timeout_ms=600_000)

    async def story(courier: Courier) -> None:
        courier.plan(followed(patient))
        await courier.until(lambda: courier.service_states() == {"db": "Waiting"})
        courier.plan(msgspec.structs.replace(followed(patient), out_of_service=("b",)))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})
        courier.plan(followed(msgspec.structs.replace(patient, stop_timeout_ms=1_000)))

    run(daemons, story)


def test_what_a_killed_keeper_left_running_is_ended_before_the_next_one_says_a_word(daemons: Path) -> None:
    async def story(courier: Courier) -> None:
        courier.plan(followed(service("db")))
        await courier.until(lambda: courier.service_states() == {"db": "Active"})

    cgroup = default_cgroup("a")
    assert cgroup is not None
    left = cgroup / "left%2Fbehind"
    left.mkdir()
    with subprocess.Popen(["/bin/sleep", "600"]) as sleeper:
        (left / "cgroup.procs").write_text(str(sleeper.pid))
        run(daemons, story)
        assert sleeper.wait(5) == -signal.SIGKILL
    assert not left.exists()
