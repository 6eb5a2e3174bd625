"""What becomes of services when the leash or the keeper is killed, stands still, ends, or starts again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from agent.services import (
    DAEMON,
    LEASE,
    MILLISECOND,
    SECOND,
    SOON_S,
    STUBBORN,
    children,
    hook,
    kill_leash,
    leash_of,
    now_ns,
    plan,
    service_of,
    services,
    until_exists,
)
from vipagent.leash_cgroups import Cgroup
from vipagent.ledger import Ledger
from vipagent.runs import Outcome

if TYPE_CHECKING:
    from pathlib import Path


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
            kill_leash(cgroup)
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
            kill_leash(cgroup)
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
        on_outcome=told.put_nowait, ledger=pathlib.Path(folder) / "ledger",
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


async def entries(path: Path) -> list[str]:
    """Whom the next keeper would find in the ledger."""
    ledger = Ledger(path)
    await ledger.load()
    return list(ledger.entries)


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


def test_a_stop_hook_that_was_cut_off_by_a_keeper_that_starts_is_run_again(
    tmp_path: Path, hooks: Path, cgroup: Path
) -> None:
    tries = tmp_path / "tries"
    hook(hooks, "start", DAEMON)
    hook(
        hooks,
        "stop",
        f"test -e {tmp_path}/slow || exit 0; echo x >> {tries}; test $(wc -l < {tries}) -gt 1 || sleep 600",
    )
    process, _ = keeper(tmp_path, cgroup, lease_ms=600_000, stop_timeout_s=60)
    (tmp_path / "slow").touch()

    async def run() -> None:
        while not await entries(tmp_path / "ledger"):  # noqa: ASYNC110 - of a file no event tells
            await asyncio.sleep(0.01)
        kill(process)
        async with services(tmp_path, cgroup, ledger=tmp_path / "ledger") as node:
            assert await node.runner.start_clean() == frozenset()
        assert len(tries.read_text().split()) == 2

    asyncio.run(run())


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
