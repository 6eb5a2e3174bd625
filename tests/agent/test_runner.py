"""Services run by the keeper's side and the leash, both real: real programs, real cgroups.

Deaths of the leash and of keepers are in `test_runner_deaths`, units of systemd in `test_runner_units`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agent.services import (
    DAEMON,
    DETACHED,
    LEASE,
    LONG,
    SECOND,
    SOON_S,
    STUBBORN,
    Gate,
    Services,
    hook,
    is_gone,
    leash_of,
    now_ns,
    plan,
    service_of,
    services,
    until_exists,
)
from vipagent.runs import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from vipapi.nodeplan import ServicePlan


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


@pytest.mark.parametrize("is_stopping", [False, True], ids=["before it is stopped", "while it is"])
def test_what_was_given_less_time_since_is_killed_by_then(
    *, tmp_path: Path, hooks: Path, cgroup: Path, is_stopping: bool
) -> None:
    async def run() -> float:
        hook(hooks, "start", STUBBORN)
        before, after = plan(stop_timeout_ms=600_000), plan(stop_timeout_ms=500)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(before)
            began = time.monotonic()
            if is_stopping:
                node.runner.stop(before.id, number)
            node.runner.amend(after)
            await node.stopped(after, number)
            return time.monotonic() - began

    assert 0.5 <= asyncio.run(run()) < SOON_S


def test_what_was_given_less_time_since_is_killed_by_then_also_when_its_lease_ends(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> float:
        hook(hooks, "start", STUBBORN)
        before, after = plan(stop_timeout_ms=600_000), plan(stop_timeout_ms=1000)
        async with services(tmp_path, cgroup) as node:
            await node.stopped(after, await node.started(after))
            await node.started(before, for_ns=LEASE)
            node.runner.amend(after)
            await service_of(cgroup).emptied()
            late_s = (now_ns() - node.deadline_ns) / SECOND
            assert await node.next() == Outcome(after.id, 2, "Stopped")
        return late_s

    assert 1.0 <= asyncio.run(run()) < SOON_S


def test_what_was_given_less_time_since_is_killed_by_then_also_where_its_leash_stands_still(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    async def run() -> None:
        hook(hooks, "start", STUBBORN)
        before, after = plan(stop_timeout_ms=600_000), plan(stop_timeout_ms=500)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(before)
            leash = leash_of(cgroup)
            os.kill(leash, signal.SIGSTOP)
            node.runner.stop(before.id, number)
            node.runner.amend(after)
            await asyncio.wait_for(service_of(cgroup).emptied(), SOON_S)
            os.kill(leash, signal.SIGCONT)
            assert await node.next() == Outcome(after.id, number, "Stopped")

    asyncio.run(run())


def test_of_what_does_not_run_nothing_is_amended(tmp_path: Path, hooks: Path, cgroup: Path) -> None:
    async def run() -> None:
        hook(hooks, "start", DAEMON)
        service = plan(stop_timeout_ms=500)
        async with services(tmp_path, cgroup) as node:
            node.runner.amend(service)
            await node.stopped(service, await node.started(service))
            node.runner.amend(service)
            assert node.told.empty()

    asyncio.run(run())


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
            return await node.tried(service)

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
            return await node.tried(service)

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
