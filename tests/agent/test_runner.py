"""Services run by the keeper's side and the leash, both real: real programs, real cgroups, real deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agent.services import (
    DAEMON,
    DETACHED,
    LEASE,
    LONG,
    MILLISECOND,
    SECOND,
    SOON_S,
    STUBBORN,
    Gate,
    Services,
    children,
    hook,
    is_gone,
    now_ns,
    own_cgroup,
    plan,
    service_of,
    services,
    unit_plan,
    until_exists,
)
from lab.systemd import Systemd, for_tests
from vipagent.leash_cgroups import Cgroup
from vipagent.units import Units
from vipagent.workload import Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from vipapi.nodeplan import ServicePlan


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup() as path:
        yield path


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    folder = tmp_path / "hooks"
    folder.mkdir(mode=0o755)
    return folder


def test_a_service_is_started_and_stopped(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        service = plan()
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            assert len(service_of(cgroup).pids()) == 1
            await node.stopped(service, number)
            assert not service_of(cgroup).path.exists()
            again = await node.started(service)
            await node.stopped(service, again)

    asyncio.run(run())


def test_hooks_are_told_whom_they_serve_and_nothing_else(
    tmp_path: Path, hooks: Path, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    hook(hooks, "start", f"env > {tmp_path}/start; {DAEMON}")
    hook(hooks, "stop", f"env > {tmp_path}/stop")

    async def run() -> None:
        service = plan(stop="stop")
        async with services(tmp_path, cgroup) as node:
            await node.stopped(service, await node.started(service))

    asyncio.run(run())
    told = dict(line.split("=", 1) for line in (tmp_path / "start").read_text().splitlines())
    assert {name: value for name, value in told.items() if name.startswith("VIPKEEPER_")} == {
        "VIPKEEPER_SERVICE": "prod/billing/app",
        "VIPKEEPER_NODE": "node-a",
        "VIPKEEPER_TERM": "7",
        "VIPKEEPER_VIRTUAL_IP": "billing",
    }
    assert told.keys() - {"PWD", "_", "SHLVL", "OLDPWD"} == {
        "PATH", "LANG", *(name for name in told if name.startswith("VIPKEEPER_"))
    }  # fmt: skip
    assert sorted((tmp_path / "start").read_text().splitlines()) == sorted(
        (tmp_path / "stop").read_text().splitlines()
    )


def test_hooks_are_ordinary_processes(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    hook(
        hooks,
        "start",
        f"cat /proc/self/status > {tmp_path}/status; ls -l /proc/self/fd > {tmp_path}/fd; {DAEMON}",
    )

    async def run() -> int:
        service = plan()
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            (pid,) = service_of(cgroup).pids()
            policy = os.sched_getscheduler(pid)
            await node.stopped(service, number)
        return policy

    assert asyncio.run(run()) == os.SCHED_OTHER
    status = dict(line.split(":\t", 1) for line in (tmp_path / "status").read_text().splitlines())
    assert status["VmLck"].split() == ["0", "kB"]
    assert int(status["SigBlk"], 16) == 0
    # Its own three, that of the folder that `ls` reads, and no line for "total".
    assert len((tmp_path / "fd").read_text().splitlines()) == 5


def test_a_service_that_forks_and_detaches_itself_is_stopped_with_all_its_processes(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> frozenset[int]:
        hook(hooks, "start", DETACHED)
        service = plan(status="status")
        hook(hooks, "status", f"test $(wc -l < {service_of(cgroup).path}/cgroup.procs) = 2")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            pids = service_of(cgroup).pids()
            await node.stopped(service, number)
        return pids

    pids = asyncio.run(run())
    assert len(pids) == 2
    assert all(is_gone(pid) for pid in pids)


def test_what_ignores_sigterm_is_killed_at_the_stop_timeout(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> float:
        hook(hooks, "start", STUBBORN)
        service = plan(stop_timeout_ms=4000)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            began = time.monotonic()
            await node.stopped(service, number)
            return time.monotonic() - began

    assert 4.0 <= asyncio.run(run()) < SOON_S


def test_the_stop_hook_comes_first_and_sigterm_then(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        log = tmp_path / "log"
        service_hook = f"trap 'echo term >> {log}; exit' TERM; touch {log}; while :; do sleep 0.05; done"
        hook(hooks, "start", f"({service_hook}) &\nwhile ! test -e {log}; do sleep 0.01; done")
        hook(hooks, "stop", f"sleep 0.3; echo hook >> {log}")
        service = plan(stop="stop")
        async with services(tmp_path, cgroup) as node:
            await node.stopped(service, await node.started(service))

    asyncio.run(run())
    assert (tmp_path / "log").read_text().split() == ["hook", "term"]


def test_what_hooks_leave_running_beside_the_service_goes_with_them(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> list[int]:
        hook(hooks, "start", DAEMON)
        hook(hooks, "status", f"setsid sleep 600 & echo $! >> {tmp_path}/pids")
        service = plan(status="status")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            while len(pids := (await until_exists(tmp_path / "pids")).split()) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert not is_gone(next(iter(service_of(cgroup).pids())))
            alive = [pid for pid in map(int, pids[:-1]) if not is_gone(pid)]
            await node.stopped(service, number)
        return alive

    assert asyncio.run(run()) == []


def test_a_service_that_dies_is_told_with_its_last_words(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> Outcome:
        hook(hooks, "start", f"(while ! test -e {tmp_path}/go; do sleep 0.01; done; echo out of disk) &")
        service = plan()
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            (tmp_path / "go").touch()
            told = await node.next()
            await node.stopped(service, number)
        return told

    assert asyncio.run(run()) == Outcome("uid/app", 1, "Died", "it ended: out of disk")


def test_a_service_counts_as_active_only_when_its_status_hook_passes(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        hook(hooks, "status", f"echo asked >> {tmp_path}/asked; test $(wc -l < {tmp_path}/asked) -ge 2")
        service = plan(status="status")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            assert len((tmp_path / "asked").read_text().splitlines()) == 2
            await node.stopped(service, number)

    asyncio.run(run())


def test_a_service_whose_status_hook_never_passes_has_not_started(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> Outcome:
        hook(hooks, "start", DAEMON)
        hook(hooks, "status", "echo no port; exit 1")
        service = plan(status="status", start_timeout_ms=1500)
        async with services(tmp_path, cgroup) as node:
            number = node.start(service)
            told = await node.next()
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert told.message == "it did not work within 1.5 s: hook status exited with status 1: no port"


def test_a_service_whose_status_hook_fails_three_times_has_died(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> tuple[Outcome, int, bool]:
        hook(hooks, "start", DAEMON)
        hook(hooks, "status", f"echo asked >> {tmp_path}/asked; ! test -e {tmp_path}/broken")
        service = plan(status="status")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            (tmp_path / "broken").touch()
            before = len((tmp_path / "asked").read_text().splitlines())
            told = await node.next()
            failures = len((tmp_path / "asked").read_text().splitlines()) - before
            still_runs = service_of(cgroup).is_populated
            await node.stopped(service, number)
        return told, failures, still_runs

    told, failures, still_runs = asyncio.run(run())
    assert told.kind == "Died"
    assert told.message == "it does not work: hook status exited with status 1"
    assert failures == 3
    assert still_runs


@pytest.mark.parametrize(
    ("text", "mode", "folder_mode", "message"),
    [
        pytest.param("exit 3", 0o755, 0o755, "hook start exited with status 3", id="status-3"),
        pytest.param("echo no config; exit 1", 0o755, 0o755, "status 1: no config", id="last-line"),
        pytest.param("kill -9 $$", 0o755, 0o755, "hook start was killed by signal 9", id="killed"),
        pytest.param("sleep 600", 0o755, 0o755, "hook start did not end within 1 s", id="hangs"),
        pytest.param("exit 0", 0o755, 0o755, "left nothing running", id="leaves-nothing"),
        pytest.param("echo no port", 0o755, 0o755, "left nothing running: no port", id="leaves-a-word"),
        pytest.param(None, 0, 0o755, "No such file or directory", id="missing"),
        pytest.param("exit 0", 0o644, 0o755, "is not executable: chmod +x", id="not-executable"),
        pytest.param("exit 0", 0o757, 0o755, "can be written by everybody", id="world-writable"),
        pytest.param("exit 0", 0o755, 0o777, "can be written by everybody", id="folder-world-writable"),
    ],
)
def test_a_start_that_fails_says_why(
    *, tmp_path: Path, hooks: Path, cgroup: Path, text: str | None, mode: int, folder_mode: int, message: str
) -> None:
    async def run() -> Outcome:
        if text is not None:
            hook(hooks, "start", text, mode)
        hooks.chmod(folder_mode)  # noqa: ASYNC240
        service = plan(start_timeout_ms=1000)
        async with services(tmp_path, cgroup) as node:
            number = node.start(service)
            told = await node.next()
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert message in told.message


def test_what_never_started_needs_no_stop_hook_to_be_stopped(tmp_path: Path, cgroup: Path) -> None:
    async def run() -> None:
        service = plan(stop="stop", status="status")
        async with services(tmp_path, cgroup) as node:
            number = node.start(service)
            assert (await node.next()).kind == "StartFailed"
            await node.stopped(service, number)

    asyncio.run(run())


def test_a_start_that_is_stopped_starts_nothing_more(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        hook(
            hooks,
            "start",
            f"touch {tmp_path}/began; echo x > {tmp_path}/began; sleep 1; touch {tmp_path}/late; {DAEMON}",
        )
        hook(hooks, "stop", f"sleep 1.5; echo x > {tmp_path}/stopped")
        service = plan(stop="stop")
        async with services(tmp_path, cgroup) as node:
            number = node.start(service)
            await until_exists(tmp_path / "began")
            await node.stopped(service, number)

    asyncio.run(run())
    assert (tmp_path / "stopped").exists()
    assert not (tmp_path / "late").exists()


def test_a_service_that_prints_without_end_neither_stands_still_nor_delays_others(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> float:
        hook(hooks, "start", DAEMON)
        hook(
            hooks, "flood", f"(head -c 1000000 /dev/zero; echo x > {tmp_path}/printed; exec cat /dev/zero) &"
        )
        loud, other = plan("loud", start="flood"), plan()
        async with services(tmp_path, cgroup) as node:
            first = await node.started(loud)
            await until_exists(tmp_path / "printed")
            began = time.monotonic()
            second = await node.started(other)
            took_s = time.monotonic() - began
            await node.stopped(other, second)
            await node.stopped(loud, first)
        return took_s

    assert asyncio.run(run()) < SOON_S


def test_a_stop_hook_that_hangs_is_killed_and_the_stop_counts_as_failed(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> Outcome:
        hook(hooks, "start", DAEMON)
        hook(hooks, "stop", f"test -e {tmp_path}/repaired || sleep 600")
        service = plan(stop="stop", stop_timeout_ms=3000)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            node.runner.stop(service.id, number)
            told = await node.next()
            assert not service_of(cgroup).is_populated
            (tmp_path / "repaired").touch()
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told == Outcome("uid/app", 1, "StopFailed", "hook stop did not end in time and was killed")


def test_a_stop_hook_that_fails_is_believed_only_with_the_status_hook_against_it(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> Outcome:
        hook(hooks, "start", DAEMON)
        hook(hooks, "stop", "echo cannot unmount; exit 1")
        hook(hooks, "status", f"! test -e {tmp_path}/unmounted")
        service = plan(stop="stop", status="status")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            node.runner.stop(service.id, number)
            told = await node.next()
            (tmp_path / "unmounted").touch()
            assert await node.next() == Outcome(service.id, number, "Stopped")  # without being asked again
        return told

    assert asyncio.run(run()) == Outcome(
        "uid/app", 1, "StopFailed", "hook stop exited with status 1: cannot unmount"
    )


def test_a_stop_that_is_said_twice_is_done_once(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        hook(hooks, "stop", f"echo x >> {tmp_path}/stops; sleep 0.3; exit 1")
        hook(hooks, "status", f"! test -e {tmp_path}/stops")
        service = plan(stop="stop", status="status")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            node.runner.stop(service.id, number)
            await node.stopped(service, number)

    asyncio.run(run())
    assert (tmp_path / "stops").read_text() == "x\n"


def test_every_stop_is_answered(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        service = plan()
        async with services(tmp_path, cgroup) as node:
            await node.stopped(service, 99)
            await node.stopped(service, 0)
            number = await node.started(service)
            await node.stopped(service, 99)
            assert service_of(cgroup).is_populated
            await node.stopped(service, number)
            await node.stopped(service, number)

    asyncio.run(run())


def test_a_service_is_not_started_beside_its_former_run(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> Outcome:
        hook(hooks, "start", DAEMON)
        service = plan()
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            node.start(service)
            told = await node.next()
            await node.stopped(service, number)
        return told

    assert asyncio.run(run()) == Outcome("uid/app", 2, "StartFailed", "its former run has not ended yet")


def test_nothing_is_started_under_a_lease_that_has_ended(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> Outcome:
        hook(hooks, "start", f"touch {tmp_path}/started; {DAEMON}")
        service = plan()
        async with services(tmp_path, cgroup) as node:
            node.start(service, for_ns=-1)
            first, second = await node.next(), await node.next()
            assert second == Outcome(service.id, 1, "Stopped")
        return first

    told = asyncio.run(run())
    assert told == Outcome("uid/app", 1, "StartFailed", "the lease has ended before it was started")
    assert not (tmp_path / "started").exists()


async def start_frozen(node: Services, service: ServicePlan, cgroup: Path) -> int:
    """Start it, and have its start hook stand still at the last moment before it becomes the hook."""
    at = service_of(cgroup, service.name)
    at.make()
    (at.path / "cgroup.freeze").write_text("1")
    number = node.start(service)
    while not at.is_populated:  # noqa: ASYNC110 - the event is for the other direction
        await asyncio.sleep(0.01)
    return number


def test_a_start_that_hangs_until_the_lease_has_ended_comes_to_nothing(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> Outcome:
        hook(hooks, "start", f"touch {tmp_path}/started; {DAEMON}")
        service = plan()
        async with services(tmp_path, cgroup) as node:
            number = await start_frozen(node, service, cgroup)
            node.runner.extend(service.id, now_ns())
            (service_of(cgroup).path / "cgroup.freeze").write_text("0")
            told = await node.next()
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told == Outcome("uid/app", 1, "StartFailed", "the lease has ended before it was started")
    assert not (tmp_path / "started").exists()


def test_a_hook_that_hangs_while_it_is_loaded_delays_no_other_and_can_be_killed(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        hangs, runs = plan("hangs", stop_timeout_ms=500), plan("runs")
        async with services(tmp_path, cgroup) as node:
            first = await start_frozen(node, hangs, cgroup)
            second = await node.started(runs)
            await node.stopped(runs, second)
            await node.stopped(hangs, first)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "stop_timeout_s", "least_s"),
    [
        pytest.param(DAEMON, 2 * SOON_S, 0.0, id="orderly-from-the-lease's-end-on"),
        pytest.param(STUBBORN, 1.0, 1.0, id="killed-a-stop-timeout-later"),
    ],
)
def test_what_is_not_renewed_ends_by_itself(
    *, tmp_path: Path, hooks: Path, cgroup: Path, text: str, stop_timeout_s: float, least_s: float
) -> None:
    async def run() -> float:
        hook(hooks, "start", text)
        service = plan(stop_timeout_ms=int(1000 * stop_timeout_s))
        async with services(tmp_path, cgroup) as node:
            await node.leased(service)
            await service_of(cgroup).emptied()
            late_s = (now_ns() - node.deadline_ns) / SECOND
            assert await node.next() == Outcome(service.id, 2, "Stopped")
        return late_s

    assert least_s <= asyncio.run(run()) < LEASE / SECOND


def test_a_lease_that_is_renewed_keeps_its_service(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        service = plan()
        async with services(tmp_path, cgroup) as node:
            await node.leased(service)
            until_ns = now_ns() + LEASE + SECOND
            while now_ns() < until_ns:
                node.runner.extend(service.id, now_ns() + LEASE)
                await asyncio.sleep(0.05)
            assert node.told.empty()
            assert service_of(cgroup).is_populated
            await node.stopped(service, 2)

    asyncio.run(run())


def test_a_renewal_costs_microseconds(
    tmp_path: Path, hooks: Path, cgroup: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> float:
        hook(hooks, "start", DAEMON)
        service = plan()
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            deadline_ns = now_ns() + LONG
            began = time.thread_time()
            for _ in range(10_000):
                node.runner.extend(service.id, deadline_ns)
            took_s = (time.thread_time() - began) / 10_000
            await node.stopped(service, number)
        return took_s

    took_s = asyncio.run(run())
    with capsys.disabled():
        sys.stdout.write(f"\nextend: {took_s * 1e6:.2f} µs\n")
    assert took_s < 100e-6


def test_fifty_services_start_and_stop_beside_each_other(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        starts, stops = Gate(tmp_path / "starts"), Gate(tmp_path / "stops")
        hook(hooks, "start", f"{starts.hook}; {DAEMON}")
        hook(hooks, "stop", stops.hook)
        hook(hooks, "status", "exit 0")
        fifty = [plan(f"app{n}", stop="stop", status="status") for n in range(50)]
        async with services(tmp_path, cgroup) as node:
            runs = [node.start(service) for service in fifty]
            await starts.open(len(fifty))
            assert {(await node.next()).kind for _ in fifty} == {"Started"}
            for service, number in zip(fifty, runs, strict=True):
                node.runner.stop(service.id, number)
            await stops.open(len(fifty))
            assert {(await node.next()).kind for _ in fifty} == {"Stopped"}

    asyncio.run(run())


def test_without_a_cgroup_every_start_is_refused_and_it_is_a_problem(tmp_path: Path) -> None:
    async def run() -> None:
        async with services(tmp_path, None) as node:
            service = plan()
            assert node.runner.problems() == ()
            assert await node.runner.start_clean() == frozenset()
            node.start(service)
            told = await node.next()
            assert told.kind == "StartFailed"
            (problem,) = node.runner.problems()
            assert problem.reason == "NoCgroup"
            assert problem.message == told.message
            assert "Delegate=yes" in problem.message
            await node.stopped(service, 1)

    asyncio.run(run())


def leash_of(cgroup: Path) -> int:
    (pid,) = (Cgroup(cgroup) / "leash").pids()
    return pid


def test_when_the_leash_is_killed_everything_is_at_once_and_the_next_start_has_a_new_one(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> float:
        hook(hooks, "start", STUBBORN)
        hook(hooks, "slow", f"echo x > {tmp_path}/slow; sleep 600")
        hook(hooks, "stop", f"echo x > {tmp_path}/stop; sleep 600")
        runs, starts, stops = plan("runs"), plan("starts", start="slow"), plan("stops", stop="stop")
        async with services(tmp_path, cgroup) as node:
            await node.started(runs)
            node.runner.stop(stops.id, await node.started(stops))
            node.start(starts)
            await until_exists(tmp_path / "slow")
            await until_exists(tmp_path / "stop")
            began = time.monotonic()
            os.kill(leash_of(cgroup), signal.SIGKILL)
            told = [await node.next() for _ in range(5)]
            took_s = time.monotonic() - began
            assert {(each.service_id, each.kind) for each in told[:2]} == {
                (runs.id, "Died"), (starts.id, "StartFailed")
            }  # fmt: skip
            assert {(each.service_id, each.kind) for each in told[2:]} == {
                (runs.id, "Stopped"), (starts.id, "Stopped"), (stops.id, "Stopped")
            }  # fmt: skip
            again = await node.started(runs)
            node.runner.stop(runs.id, again)
            os.kill(leash_of(cgroup), signal.SIGKILL)
            assert await node.next() == Outcome(runs.id, again, "Stopped")
        return took_s

    assert asyncio.run(run()) < SOON_S


def test_what_a_leash_that_stands_still_does_not_kill_the_keeper_does(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> float:
        hook(hooks, "start", STUBBORN)
        service = plan(stop_timeout_ms=500)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            leash = leash_of(cgroup)
            os.kill(leash, signal.SIGSTOP)
            began = time.monotonic()
            node.runner.stop(service.id, number)
            await service_of(cgroup).emptied()
            took_s = time.monotonic() - began
            os.kill(leash, signal.SIGCONT)
            assert await node.next() == Outcome(service.id, number, "Stopped")
        return took_s

    assert 0.5 <= asyncio.run(run()) < SOON_S


def test_a_leash_that_cannot_start_is_told(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    cgroup.rmdir()
    folder = tmp_path / "no-cgroup"
    folder.write_text("")

    async def run() -> tuple[Outcome, Outcome]:
        hook(hooks, "start", DAEMON)
        async with services(tmp_path, folder) as node:
            node.start(plan())
            return await node.next(), await node.next()

    first, second = asyncio.run(run())
    assert (first.kind, second.kind) == ("StartFailed", "Stopped")
    assert first.message == "the process that services hang on ended: they were killed"


def test_nothing_is_left_when_it_is_closed_in_the_middle_of_everything(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> tuple[set[int], float]:
        hook(hooks, "start", STUBBORN)
        hook(hooks, "slow", f"echo x > {tmp_path}/slow; sleep 600")
        hook(hooks, "stop", f"echo x > {tmp_path}/stop; sleep 600")
        async with services(tmp_path, cgroup) as node:
            await node.started(plan("runs"))
            stops = plan("stops", stop="stop")
            node.runner.stop(stops.id, await node.started(stops))
            node.start(plan("starts", start="slow"))
            await until_exists(tmp_path / "slow")
            await until_exists(tmp_path / "stop")
            began = time.monotonic()
        assert node.told.empty()
        return children(), time.monotonic() - began

    before = children()
    left, took_s = asyncio.run(run())
    assert left <= before
    assert took_s < 4.5, "the leash ends in order, and is not only killed after five seconds"


KEEPER = """
import asyncio, pathlib, sys, time
from agent.services import MILLISECOND, now_ns, plan
from vipagent.runner import Runner

async def keep(folder, cgroup, lease_ms, renewals, stop_timeout_ms):
    told = asyncio.Queue()
    runner = Runner(
        node="node-a", hooks_dir=pathlib.Path(folder) / "hooks", cgroup=pathlib.Path(cgroup),
        on_outcome=told.put_nowait,
    )
    service = plan(stop="stop", stop_timeout_ms=stop_timeout_ms)
    for run in (1, 2):  # the leash takes a while to start: the run that counts begins when it is there
        deadline_ns = now_ns() + (lease_ms if run == 2 else 600_000) * MILLISECOND
        runner.start(service, term=7, run=run, virtual_ip="billing", deadline_ns=deadline_ns)
        assert (await told.get()).kind == "Started"
        if run == 1:
            runner.stop(service.id, run)
            assert (await told.get()).kind == "Stopped"
    for _ in range(renewals):
        deadline_ns = now_ns() + lease_ms * MILLISECOND
        runner.extend(service.id, deadline_ns)
        await asyncio.sleep(0.05)
    print(deadline_ns, flush=True)
    await asyncio.sleep(600)

asyncio.run(keep(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
"""


def keeper(
    folder: Path, cgroup: Path, *, lease_ms: int, renewals: int = 0, stop_timeout_s: float = 1
) -> tuple[subprocess.Popen[str], int]:
    """Start a keeper with one service; return it and when its lease ends."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", KEEPER, str(folder), str(cgroup)),
            *(str(lease_ms), str(renewals), str(int(1000 * stop_timeout_s))),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[str]) -> None:
    with process:
        process.kill()


@pytest.mark.parametrize(
    ("text", "stop_timeout_s", "least_s"),
    [
        pytest.param(DAEMON, 2 * SOON_S, 0.0, id="orderly-from-the-lease's-end-on"),
        pytest.param(STUBBORN, 1.0, 1.0, id="killed-a-stop-timeout-later"),
    ],
)
@pytest.mark.parametrize("renewals", [0, 90])
def test_a_service_outlives_its_killed_keeper_by_its_lease_and_no_longer(
    *,
    tmp_path: Path,
    hooks: Path,
    cgroup: Path,
    text: str,
    stop_timeout_s: float,
    least_s: float,
    renewals: int,
) -> None:
    hook(hooks, "start", text)
    hook(hooks, "stop", f"echo x > {tmp_path}/stopped")
    process, deadline_ns = keeper(
        tmp_path, cgroup, lease_ms=LEASE // MILLISECOND, renewals=renewals, stop_timeout_s=stop_timeout_s
    )
    (tmp_path / "stopped").unlink()
    kill(process)
    assert now_ns() < deadline_ns
    assert service_of(cgroup).is_populated

    async def run() -> float:
        await service_of(cgroup).emptied()
        ended_ns = now_ns()
        await Cgroup(cgroup).emptied()
        while cgroup.exists():  # noqa: ASYNC110, ASYNC240 - there is no event for it
            await asyncio.sleep(0.01)
        return (ended_ns - deadline_ns) / SECOND

    late_s = asyncio.run(run())
    assert least_s <= late_s < LEASE / SECOND
    assert (tmp_path / "stopped").exists()


def test_a_keeper_that_starts_has_the_leash_of_the_former_one_stop_its_services(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    hook(hooks, "start", DAEMON)
    hook(hooks, "stop", f"echo x > {tmp_path}/stopped")
    process, _ = keeper(tmp_path, cgroup, lease_ms=600_000)
    (tmp_path / "stopped").unlink()
    kill(process)

    async def run() -> float:
        service = plan()
        async with services(tmp_path, cgroup) as node:
            began = time.monotonic()
            assert await node.runner.start_clean() == frozenset()
            took_s = time.monotonic() - began
            assert not cgroup.exists()  # noqa: ASYNC240
            await node.stopped(service, await node.started(service))
        return took_s

    assert asyncio.run(run()) < 3.9, "it is not killed as one that does not end it is after four seconds"
    assert (tmp_path / "stopped").exists()


def test_a_keeper_that_starts_kills_what_a_former_leash_does_not_end(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    hook(hooks, "start", STUBBORN)
    hook(hooks, "stop", "exit 0")
    process, _ = keeper(tmp_path, cgroup, lease_ms=600_000)
    kill(process)
    os.kill(leash_of(cgroup), signal.SIGSTOP)

    async def run() -> float:
        async with services(tmp_path, cgroup) as node:
            began = time.monotonic()
            assert await node.runner.start_clean() == frozenset()
            return time.monotonic() - began

    assert asyncio.run(run()) < 20.0


def test_a_keeper_that_starts_ends_what_has_no_leash_any_more(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    hook(hooks, "start", STUBBORN)
    hook(hooks, "stop", "exit 0")
    process, _ = keeper(tmp_path, cgroup, lease_ms=600_000)
    leash = leash_of(cgroup)
    process.send_signal(signal.SIGSTOP)
    os.kill(leash, signal.SIGKILL)
    kill(process)
    assert service_of(cgroup).is_populated

    async def run() -> float:
        async with services(tmp_path, cgroup) as node:
            began = time.monotonic()
            assert await node.runner.start_clean() == frozenset()
            return time.monotonic() - began

    assert asyncio.run(run()) < 3.9, "nobody is waited for who could end it in order"


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
            number = node.start(service)
            told = await node.next()
            await node.stopped(service, number)
        return told

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
            os.kill(leash_of(cgroup), signal.SIGKILL)
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
