"""What a restarted keeper knows of what an earlier one has started: the ledger, with real mounts."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import threading
import time
from pathlib import Path, PosixPath
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
import pytest

from agent.services import (
    DAEMON,
    WAIT_S,
    Services,
    hook,
    kill_leash,
    plan,
    services,
    until_exists,
)
from vipagent.leash_cgroups import Cgroup
from vipagent.ledger import Entry, Ledger
from vipagent.runs import Outcome
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Mount, Ocf, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "state" / "services.json"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    while folder.is_mount():
        umount(folder)


def mount_plan(target: Path, **fields: Any) -> ServicePlan:
    workload = Workload(mount=Mount("our-disk", str(target), "tmpfs"))
    return ServicePlan("uid", "prod", "billing", "app", workload, **fields)


def is_mounted(target: Path) -> bool:
    return target.is_mount()


def mount(target: Path) -> None:
    subprocess.run(["/bin/mount", "-t", "tmpfs", "our-disk", target], check=True)


def umount(target: Path) -> None:
    subprocess.run(["/bin/umount", target], check=True)


async def kept(path: Path) -> list[Entry]:
    """What the next keeper would read."""
    ledger = Ledger(path)
    await ledger.load()
    return list(ledger.entries.values())


def move_to_another_boot(ledger: Path) -> None:
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert here in ledger.read_text()
    ledger.write_text(ledger.read_text().replace(here, "another"))


async def leave_in_ledger(path: Path, *entries: Entry) -> None:
    ledger = Ledger(path)
    for entry in entries:
        ledger.enter(entry)
    await ledger.close()


def test_what_runs_stands_in_the_ledger_until_it_has_stopped(
    tmp_path: Path, cgroup: Path, ledger: Path
) -> None:
    async def run() -> None:
        hook(tmp_path / "hooks", "start", DAEMON)
        service, other = plan(), plan("other")
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            number = await node.started(service)
            again = await node.started(other)
            await node.stopped(service, number)
            while [each.service for each in await kept(ledger)] != [other]:  # noqa: ASYNC110 - of a file no event tells
                await asyncio.sleep(0.01)
            await node.stopped(other, again)
        assert await kept(ledger) == []

    asyncio.run(run())


def test_a_restarted_keeper_unmounts_what_is_planned_no_more(
    tmp_path: Path, cgroup: Path, ledger: Path, target: Path
) -> None:
    async def run() -> None:
        service = mount_plan(target)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            await node.started(service)
            kill_leash(cgroup)
        assert is_mounted(target)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == frozenset()
            assert not is_mounted(target)
        assert await kept(ledger) == []

    asyncio.run(run())


def test_what_could_not_be_unmounted_counts_as_left_over_after_each_restart_until_it_is_gone(
    tmp_path: Path, cgroup: Path, ledger: Path, target: Path
) -> None:
    async def run() -> None:
        service = mount_plan(target, stop_timeout_ms=500)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            number = await node.started(service)
            busy = (target / "log").open("w")
            node.runner.stop(service.id, number)
            assert (await node.next()).kind == "StopFailed"
        for _ in range(2):
            async with services(tmp_path, cgroup, ledger=ledger) as node:
                assert await node.runner.start_clean() == {service.id}
                assert node.runner.left == (service,)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == {service.id}
            busy.close()
            umount(target)  # as a person would
            assert await node.next() == Outcome(service.id, 0, "Stopped")
            assert node.runner.left == ()
        assert not is_mounted(target)
        assert await kept(ledger) == []

    asyncio.run(run())


def test_a_stop_hook_that_has_failed_is_run_again_after_a_restart(
    tmp_path: Path, cgroup: Path, ledger: Path
) -> None:
    async def run() -> None:
        hook(tmp_path / "hooks", "start", DAEMON)
        hook(
            tmp_path / "hooks",
            "stop",
            f"test -e {tmp_path}/repaired && echo $VIPKEEPER_TERM > {tmp_path}/said",
        )
        service = plan(stop="stop", stop_timeout_ms=500)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            number = await node.started(service)
            node.runner.stop(service.id, number)
            assert (await node.next()).kind == "StopFailed"
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == {service.id}
        (tmp_path / "repaired").touch()
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == frozenset()
        assert (tmp_path / "said").read_text() == "7\n"
        assert await kept(ledger) == []

    asyncio.run(run())


def test_what_is_left_over_is_stopped_again_and_again_also_by_another_leash(
    tmp_path: Path, cgroup: Path, ledger: Path
) -> None:
    async def run() -> None:
        tries = tmp_path / "tries"
        hook(tmp_path / "hooks", "start", DAEMON)
        hook(tmp_path / "hooks", "stop", f"echo once >> {tries}\ntest -e {tmp_path}/repaired")
        service = plan(stop="stop", stop_timeout_ms=500)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            number = await node.started(service)
            node.runner.stop(service.id, number)
            assert (await node.next()).kind == "StopFailed"
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == {service.id}
            tries.unlink()
            kill_leash(cgroup)
            await until_exists(tries)
            assert node.runner.left == (service,)
            (tmp_path / "repaired").touch()
            assert await node.next() == Outcome(service.id, 0, "Stopped")
            assert node.runner.left == ()
        assert await kept(ledger) == []

    asyncio.run(run())


@pytest.mark.parametrize("status", [None, "status"])
def test_a_service_whose_processes_were_killed_with_its_keeper_is_not_stopped_twice(
    tmp_path: Path, cgroup: Path, ledger: Path, status: str | None
) -> None:
    async def run() -> None:
        hook(tmp_path / "hooks", "start", DAEMON)
        hook(tmp_path / "hooks", "status", "exit 0")
        hook(tmp_path / "hooks", "stop", f"touch {tmp_path}/asked; exit 1")
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            await node.started(plan(stop="stop", status=status))
            kill_leash(cgroup)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == frozenset()
        assert not (tmp_path / "asked").exists()
        assert await kept(ledger) == []

    asyncio.run(run())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """What hooks start and stop without a process of their own, as those of a container do: a file."""
    state = tmp_path / "runs-elsewhere"
    hook(tmp_path / "hooks", "start", f"touch {state}")
    hook(tmp_path / "hooks", "status", f"test -e {state}")
    hook(tmp_path / "hooks", "stop", f"test ! -e {tmp_path}/broken && rm -f {state}")
    return state


def is_there(path: Path) -> bool:
    return path.exists()


def end_by_hand(path: Path) -> None:
    path.unlink()


ELSEWHERE = plan(stop="stop", status="status", stop_timeout_ms=500)


def test_what_has_no_process_is_stopped_by_its_hook_after_keeper_and_leash_have_ended(
    tmp_path: Path, cgroup: Path, ledger: Path, elsewhere: Path
) -> None:
    async def run() -> None:
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            await node.started(ELSEWHERE)
            kill_leash(cgroup)
        assert is_there(elsewhere)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == frozenset()
            assert not is_there(elsewhere)
        assert await kept(ledger) == []

    asyncio.run(run())


def test_what_has_no_process_is_stopped_by_its_hook_when_the_keeper_ends(
    tmp_path: Path, cgroup: Path, elsewhere: Path
) -> None:
    async def run() -> None:
        async with services(tmp_path, cgroup) as node:
            await node.started(ELSEWHERE)
        assert not is_there(elsewhere)

    asyncio.run(run())


def test_a_leash_without_a_keeper_goes_on_until_what_has_no_process_has_stopped(
    tmp_path: Path, cgroup: Path, elsewhere: Path
) -> None:
    async def run() -> None:
        async with services(tmp_path, cgroup) as node:
            await node.started(ELSEWHERE)
            (tmp_path / "broken").touch()
        assert is_there(elsewhere)
        (tmp_path / "broken").unlink()
        await asyncio.wait_for(Cgroup(cgroup).emptied(), WAIT_S)
        assert not is_there(elsewhere)

    asyncio.run(run())


def test_what_has_no_process_counts_as_left_over_while_its_stop_hook_fails_and_its_status_hook_passes(
    tmp_path: Path, cgroup: Path, ledger: Path, elsewhere: Path
) -> None:
    async def run() -> None:
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            await node.started(ELSEWHERE)
            (tmp_path / "broken").touch()
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == {ELSEWHERE.id}
            end_by_hand(elsewhere)
            assert await node.next() == Outcome(ELSEWHERE.id, 0, "Stopped")
        assert await kept(ledger) == []

    asyncio.run(run())


def test_what_has_no_process_is_stopped_by_its_hook_when_the_leash_dies(
    tmp_path: Path, cgroup: Path, elsewhere: Path
) -> None:
    async def run() -> None:
        async with services(tmp_path, cgroup) as node:
            number = await node.started(ELSEWHERE)
            kill_leash(cgroup)
            assert (await node.next()).kind == "Died"
            assert await node.next() == Outcome(ELSEWHERE.id, number, "Stopped")
            assert not is_there(elsewhere)

    asyncio.run(run())


def test_a_start_with_a_status_hook_that_was_cut_off_is_stopped_by_its_hook(
    tmp_path: Path, cgroup: Path, elsewhere: Path
) -> None:
    async def run() -> None:
        hook(tmp_path / "hooks", "start", f"echo x > {elsewhere}; sleep 600")
        async with services(tmp_path, cgroup) as node:
            number = node.start(ELSEWHERE)
            await until_exists(elsewhere)
            kill_leash(cgroup)
            assert (await node.next()).kind == "StartFailed"
            assert await node.next() == Outcome(ELSEWHERE.id, number, "Stopped")
            assert not is_there(elsewhere)

    asyncio.run(run())


def test_a_ledger_from_before_it_told_of_processes_is_understood(
    tmp_path: Path, cgroup: Path, ledger: Path, elsewhere: Path
) -> None:
    elsewhere.touch()

    async def run() -> None:
        await leave_in_ledger(ledger, Entry(ELSEWHERE))
        assert b"outlives" not in msgspec.json.encode(Entry(ELSEWHERE))
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == frozenset()
        assert is_there(elsewhere)

    asyncio.run(run())


AGENT = """
case $1 in
monitor) test -e $OCF_RESKEY_state || exit 7 ;;
start) touch $OCF_RESKEY_state ;;
stop) rm -f $OCF_RESKEY_state ;;
esac
"""


@pytest.mark.parametrize("is_missing", [False, True])
def test_an_agent_that_is_refused_by_now_leaves_what_it_holds_until_it_may_run(
    *, tmp_path: Path, cgroup: Path, ledger: Path, is_missing: bool
) -> None:
    async def run() -> None:
        agents = tmp_path / "ocf" / "resource.d" / "test"
        agents.parent.mkdir(parents=True)
        agent = agents / hook(agents, "Fake", AGENT)
        state = tmp_path / "state-of-it"
        workload = Workload(ocf=Ocf("test", "Fake", {"state": str(state)}))
        service = ServicePlan("uid", "prod", "billing", "app", workload)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            await node.started(service)
            kill_leash(cgroup)
        if is_missing:
            agent.rename(tmp_path / "removed")
        else:
            agent.chmod(0o757)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == {service.id}
            node.runner.stop(service.id, 0)
            told = await node.next()
            assert told.kind == "StopFailed"
            assert "was started by an earlier keeper and cannot be stopped: " in told.message
            assert state.exists()
            if is_missing:
                (tmp_path / "removed").rename(agent)
            else:
                agent.chmod(0o755)
            assert await node.next() == Outcome(service.id, 0, "Stopped")
            assert not state.exists()

    asyncio.run(run())


def test_a_refused_agent_that_this_node_has_not_run_counts_for_nothing(
    tmp_path: Path, cgroup: Path, ledger: Path
) -> None:
    async def run() -> None:
        agents = tmp_path / "ocf" / "resource.d" / "test"
        agents.parent.mkdir(parents=True)
        hook(agents, "Fake", AGENT, 0o757)
        workload = Workload(ocf=Ocf("test", "Fake", {"state": str(tmp_path / "no")}))
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            service = ServicePlan("uid", "prod", "billing", "app", workload)
            assert await node.runner.start_clean([service]) == frozenset()

    asyncio.run(run())


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"bootId": "x", "entries": [{"serv', id="cut-off"),
        pytest.param(b"\xff\xfe", id="no-text"),
        pytest.param(b"[]", id="another-shape"),
        pytest.param(None, id="a-folder"),
    ],
)
def test_a_damaged_ledger_is_told_and_passed_over(
    tmp_path: Path, cgroup: Path, ledger: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    ledger.parent.mkdir()
    if content is None:
        ledger.mkdir()
    else:
        ledger.write_bytes(content)

    async def run() -> None:
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == frozenset()

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert f"{ledger} cannot be read" in caplog.text


def test_what_an_earlier_boot_has_left_counts_for_nothing(
    tmp_path: Path, cgroup: Path, ledger: Path, target: Path
) -> None:
    async def run() -> None:
        await leave_in_ledger(ledger, Entry(mount_plan(target)))
        move_to_another_boot(ledger)
        mount(target)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            assert await node.runner.start_clean() == frozenset()
        assert is_mounted(target)

    asyncio.run(run())


def test_without_a_cgroup_what_the_ledger_names_is_left_over(
    tmp_path: Path, ledger: Path, target: Path
) -> None:
    async def run() -> None:
        service = mount_plan(target)
        await leave_in_ledger(ledger, Entry(service))
        async with services(tmp_path, None, ledger=ledger) as node:
            assert await node.runner.start_clean() == {service.id}
        assert [each.service for each in await kept(ledger)] == [service]

    asyncio.run(run())


def test_a_ledger_that_cannot_be_written_is_told_and_written_later(
    ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        ledger.parent.write_text("in the way")
        keeping = Ledger(ledger)
        keeping.enter(Entry(plan()))
        while "cannot be written" not in caplog.text:  # noqa: ASYNC110 - nor of a log
            await asyncio.sleep(0.01)
        ledger.parent.unlink()
        keeping.enter(Entry(plan("other")))
        await keeping.close()
        assert [each.service.name for each in await kept(ledger)] == ["app", "other"]

    asyncio.run(run())
    assert caplog.text.count("cannot be written") == 1


def test_what_is_left_over_in_two_ways_is_gone_when_both_are(
    tmp_path: Path, cgroup: Path, target: Path
) -> None:
    """Processes of its cgroup that hang for a while, and a file system that it has mounted."""

    async def run() -> None:
        service = mount_plan(target, stop_timeout_ms=500)
        mount(target)
        busy = (target / "log").open("w")
        async with services(tmp_path, cgroup) as node:
            assert await node.runner.start_clean([service]) == {service.id}
            folder = Cgroup(cgroup) / "hangs"
            folder.make()
            node.runner._outlasting.add(service.id)  # noqa: SLF001 - nothing here hangs in the kernel at will
            await node.runner._outlast(service.id, folder)  # noqa: SLF001
            node.runner.stop(service.id, 0)
            assert (await node.next()).kind == "StopFailed"
            busy.close()
            umount(target)
            assert await node.next() == Outcome(service.id, 0, "Stopped")
        assert not is_mounted(target)

    asyncio.run(run())


class HangingPath(PosixPath):
    """A folder of a file server that has died: each look waits for it."""

    is_back = threading.Event()
    looks: ClassVar[list[str]] = []

    def exists(self) -> bool:
        self.looks.append(threading.current_thread().name)
        assert self.is_back.wait(WAIT_S)
        return super().exists()


def test_a_look_that_hangs_starts_no_second_thread_and_delays_nothing(tmp_path: Path, cgroup: Path) -> None:
    HangingPath.is_back.clear()
    HangingPath.looks.clear()

    async def run() -> None:
        hook(tmp_path / "hooks", "start", DAEMON)
        workload = Workload(ocf=Ocf("test", "Missing"))
        node = Services(HangingPath(tmp_path), cgroup)
        try:
            slowest, until = 0.0, time.monotonic() + 4.5
            while time.monotonic() < until:
                began = time.monotonic()
                assert node.runner.refusal(workload) is None
                await asyncio.to_thread(int)
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.05)
            assert slowest < WAIT_S / 3, "the look would hold it up for as long as it hangs"
            assert HangingPath.looks == ["look-test:Missing"]
            service = plan()
            await node.stopped(service, await node.started(service))
            HangingPath.is_back.set()
            while node.runner.refusal(workload) is None:  # noqa: ASYNC110 - it is looked for now and then
                await asyncio.sleep(0.01)
        finally:
            HangingPath.is_back.set()
            await node.runner.close()

    asyncio.run(run())


def test_what_was_amended_is_in_the_ledger_as_it_is_to_be_ended(
    tmp_path: Path, ledger: Path, cgroup: Path
) -> None:
    async def run() -> None:
        hook(tmp_path / "hooks", "start", DAEMON)
        async with services(tmp_path, cgroup, ledger=ledger) as node:
            number = await node.started(plan(stop_timeout_ms=60_000))
            after = plan(stop_timeout_ms=500)
            node.runner.amend(after)
            while (await read(ledger)).get(after.id) != after:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
            await node.stopped(after, number)

    asyncio.run(asyncio.wait_for(run(), WAIT_S))


async def read(path: Path) -> dict[str, ServicePlan]:
    ledger = Ledger(path)
    await ledger.load()
    return {key: entry.service for key, entry in ledger.entries.items()}
