"""Services that are mounted file systems: real mounts, in the mount namespace of the tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.services import hook, own_cgroup, services, until_exists
from vipagent.leash_cgroups import Cgroup
from vipagent.leash_mount import Entry, is_from, parse, refusal, top
from vipagent.workload import Outcome
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Mount, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

TMPFS = "our-disk"
"""A tmpfs can be called anything."""


def mount_plan(
    target: Path | str, source: str = TMPFS, fs_type: str | None = "tmpfs", *options: str, **fields: Any
) -> ServicePlan:
    workload = Workload(mount=Mount(source, str(target), fs_type, options))
    return ServicePlan("uid", "prod", "billing", "app", workload, **fields)


def mounted(target: Path) -> list[Entry]:
    """What is mounted there, the lowest first."""
    return [entry for entry in parse(Path("/proc/self/mountinfo").read_text()) if entry.target == str(target)]


def mount(*args: str | Path) -> None:
    subprocess.run(["/bin/mount", *args], check=True)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup() as path:
        yield path


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount at, with a space in its name; whatever is mounted there at the end goes."""
    folder = tmp_path / "shared disk"
    folder.mkdir()
    yield folder
    for _ in mounted(folder):
        subprocess.run(["/bin/umount", "--recursive", folder], check=True)


def test_a_file_system_is_mounted_with_its_options_and_unmounted(
    tmp_path: Path, cgroup: Path, target: Path
) -> None:
    async def run() -> None:
        service = mount_plan(target, TMPFS, "tmpfs", "ro", "size=64k,mode=700")
        async with services(tmp_path, cgroup) as node:
            for _ in range(2):
                number = await node.started(service)
                (entry,) = mounted(target)
                assert (entry.fs_type, entry.source) == ("tmpfs", TMPFS)
                assert os.statvfs(target).f_flag & os.ST_RDONLY
                assert os.stat(target).st_mode & 0o777 == 0o700  # noqa: PTH116
                await node.stopped(service, number)
                assert not mounted(target)

    asyncio.run(run())


def test_a_folder_is_mounted_elsewhere_without_a_type(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> None:
        source = tmp_path / "source"
        source.mkdir()
        (source / "file").touch()
        service = mount_plan(target, str(source), None, "bind")
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            assert (target / "file").exists()
            await node.stopped(service, number)
            assert not (target / "file").exists()
            assert (source / "file").exists()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "source", "fs_type", "options", "message"),
    [
        pytest.param("missing", TMPFS, "tmpfs", (), "there is no folder ", id="no-target"),
        pytest.param("file", TMPFS, "tmpfs", (), "there is no folder ", id="target-is-a-file"),
        pytest.param("link", TMPFS, "tmpfs", (), "make that the target", id="target-is-a-link"),
        pytest.param("shared disk", TMPFS, "nofs", (), "exited with status 32: /", id="no-such-type"),
        pytest.param("shared disk", "/dev/nowhere", "ext4", (), "/dev/nowhere", id="no-such-device"),
        pytest.param("shared disk", "UUID=none", None, (), "UUID=none", id="no-such-tag"),
        pytest.param("shared disk", TMPFS, "tmpfs", ("size=x",), "exited with status 32: /", id="bad-option"),
        pytest.param("shared disk", "--help", "ext4", (), "--help", id="source-like-an-option"),
    ],
)
def test_what_cannot_be_mounted_says_why(
    *, tmp_path: Path, cgroup: Path, target: Path, name: str, source: str, fs_type: str | None,
    options: tuple[str, ...], message: str
) -> None:  # fmt: skip
    async def run() -> Outcome:
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to(target)
        service = mount_plan(tmp_path / name, source, fs_type, *options)
        async with services(tmp_path, cgroup) as node:
            number = node.start(service)
            told = await node.next()
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert message in told.message
    assert not mounted(target)


@pytest.mark.parametrize(
    "target", ["", "relative", "/", "/a/../b", "/a//b", "/a/", "//a", "/a/.", "--help"], ids=repr
)
def test_a_target_that_is_not_written_in_full_is_refused(target: str) -> None:
    assert "is no target" in (refusal(target) or "")


def test_what_others_have_mounted_at_the_target_is_not_touched(
    tmp_path: Path, cgroup: Path, target: Path
) -> None:
    async def run() -> Outcome:
        mount("-t", "tmpfs", "theirs", target)
        before = mounted(target)
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            assert await node.runner.start_clean([service]) == frozenset()
            number = node.start(service)
            told = await node.next()
            await node.stopped(service, number)
        assert mounted(target) == before
        return told

    assert asyncio.run(run()) == Outcome(
        "uid/app",
        1,
        "StartFailed",
        f"theirs (tmpfs) is mounted at {target} already: unmount it, and take it out of /etc/fstab",
    )


def test_what_others_unmount_has_died(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> tuple[Outcome, float]:
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            began = time.monotonic()
            subprocess.run(["/bin/umount", target], check=True)  # noqa: ASYNC221 - nothing else is to be done
            told = await node.next()
            took_s = time.monotonic() - began
            await node.stopped(service, number)
        return told, took_s

    told, took_s = asyncio.run(run())
    assert told == Outcome(
        "uid/app", 1, "Died", f"{target} is not mounted any more: somebody has unmounted it"
    )
    assert took_s < 5.0


def test_what_others_mount_over_has_died_and_only_ours_is_unmounted(
    tmp_path: Path, cgroup: Path, target: Path
) -> None:
    async def run() -> tuple[Outcome, Outcome]:
        service = mount_plan(target, stop_timeout_ms=500)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            mount("-t", "tmpfs", "theirs", target)
            died = await node.next()
            node.runner.stop(service.id, number)
            doubt = await node.next()
            assert [entry.source for entry in mounted(target)] == [TMPFS, "theirs"]
            subprocess.run(["/bin/umount", target], check=True)  # noqa: ASYNC221
            await node.stopped(service, number)
            assert not mounted(target)
        return died, doubt

    died, doubt = asyncio.run(run())
    assert died == Outcome("uid/app", 1, "Died", f"theirs (tmpfs) was mounted over {target}")
    assert doubt.kind == "StopFailed"
    assert "something else was mounted over it: unmount that first" in doubt.message


def test_mounts_elsewhere_are_no_death(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> None:
        other = tmp_path / "other"
        other.mkdir()
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            for _ in range(3):
                mount("-t", "tmpfs", "theirs", other)
                subprocess.run(["/bin/umount", other], check=True)  # noqa: ASYNC221
            await node.stopped(service, number)

    asyncio.run(run())


def test_what_is_busy_is_unmounted_as_soon_as_it_is_not(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> None:
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            with (target / "log").open("w"):
                node.runner.stop(service.id, number)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(node.told.get(), 1)
                assert mounted(target)
            assert await node.next() == Outcome(service.id, number, "Stopped")

    asyncio.run(run())
    assert not mounted(target)


@pytest.mark.parametrize("below", [False, True])
def test_what_stays_busy_is_told_with_who_uses_it_and_is_never_only_hidden(
    *, tmp_path: Path, cgroup: Path, target: Path, below: bool
) -> None:
    async def run() -> Outcome:
        service = mount_plan(target, stop_timeout_ms=1000)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            if below:
                (target / "inner").mkdir()
                mount("-t", "tmpfs", "theirs", target / "inner")
            with subprocess.Popen(["/bin/sleep", "600"], cwd=target) as user:  # noqa: ASYNC220
                try:
                    node.runner.stop(service.id, number)
                    told = await node.next()
                    assert mounted(target)
                    assert f"process {user.pid} (sleep) uses it" in told.message
                    assert user.poll() is None, "who uses it is not ours to kill"
                finally:
                    user.kill()
            if below:
                subprocess.run(["/bin/umount", target / "inner"], check=True)  # noqa: ASYNC221
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told.kind == "StopFailed"
    assert f"{target} is still mounted; umount {target} exited with status 32" in told.message
    assert (f"{target}/inner is mounted below it" in told.message) == below
    assert not mounted(target)


def test_what_lives_on_in_another_mount_namespace_is_not_unmounted_yet(
    tmp_path: Path, cgroup: Path, target: Path
) -> None:
    async def run() -> Outcome:
        service = mount_plan(target, stop_timeout_ms=1000)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            copied = tmp_path / "copied"
            command = ["/usr/bin/unshare", "--mount", "--propagation", "private", "/bin/sh", "-c"]
            command += [f"echo x > {copied}; exec sleep 600"]
            with subprocess.Popen(command) as container:  # noqa: ASYNC220
                try:
                    await until_exists(copied)
                    node.runner.stop(service.id, number)
                    told = await node.next()
                    assert not mounted(target)
                    assert f"process {container.pid} (" in told.message
                finally:
                    container.kill()
            assert await node.next() == Outcome(service.id, number, "Stopped")  # without being asked again
        return told

    told = asyncio.run(run())
    assert told.kind == "StopFailed"
    assert f"still mounted at {target} in the mount namespace of process" in told.message


def test_a_file_system_that_a_starting_keeper_cannot_unmount_counts_as_mounted_until_it_is_not(
    tmp_path: Path, cgroup: Path, target: Path
) -> None:
    async def run() -> None:
        service = mount_plan(target, stop_timeout_ms=1000)
        mount("-t", "tmpfs", TMPFS, target)
        with (target / "log").open("w"):
            async with services(tmp_path, cgroup) as node:
                assert await node.runner.start_clean([service]) == {service.id}
                node.runner.stop(service.id, 0)
                told = await node.next()
                assert told.kind == "StopFailed"
                assert "is still mounted" in told.message
                node.start(service)
                assert (await node.next()).kind == "StartFailed"
        async with services(tmp_path, cgroup) as node:
            assert await node.runner.start_clean([service]) == frozenset()

    asyncio.run(run())
    assert not mounted(target)


def test_what_is_not_renewed_is_unmounted(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> None:
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            await node.leased(service)
            assert await node.next() == Outcome(service.id, 2, "Stopped")

    asyncio.run(run())
    assert not mounted(target)


def test_nothing_is_mounted_under_a_lease_that_has_ended(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> Outcome:
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            number = node.start(service, for_ns=-1)
            told = await node.next()
            await node.stopped(service, number)
        return told

    assert asyncio.run(run()).message == "the lease has ended before it was started"
    assert not mounted(target)


def kill_leash(cgroup: Path) -> None:
    (pid,) = (Cgroup(cgroup) / "leash").pids()
    os.kill(pid, signal.SIGKILL)


def test_what_has_lost_its_leash_is_unmounted_by_the_next(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> list[str]:
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            await node.started(service)
            kill_leash(cgroup)
            return [(await node.next()).kind, (await node.next()).kind]

    assert asyncio.run(run()) == ["Died", "Stopped"]
    assert not mounted(target)


@pytest.mark.parametrize("is_bind", [False, True])
def test_a_keeper_that_starts_unmounts_what_an_earlier_one_left(
    *, tmp_path: Path, cgroup: Path, target: Path, is_bind: bool
) -> None:
    async def run() -> None:
        source = tmp_path / "source"
        source.mkdir()
        service = mount_plan(target, str(source), None, "bind") if is_bind else mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            await node.started(service)
            kill_leash(cgroup)
        assert mounted(target)
        async with services(tmp_path, cgroup) as node:
            assert await node.runner.start_clean([service]) == frozenset()
            assert not mounted(target)
            await node.stopped(service, await node.started(service))

    asyncio.run(run())


def test_a_mount_that_hangs_is_ended_and_told(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> Outcome:
        service = mount_plan(target, start_timeout_ms=1000)
        async with services(tmp_path, cgroup) as node:
            number = node.start(service)
            told = await node.next()
            await node.stopped(service, number)
        return told

    # In the tests' mount namespace only: what asks a file server that is away.
    hanging = hook(tmp_path, "mount", "sleep 600")
    program = Path("/bin/mount").resolve()
    mount("--bind", tmp_path / hanging, program)
    try:
        told = asyncio.run(run())
    finally:
        subprocess.run(["/bin/umount", program], check=True)
    assert told == Outcome("uid/app", 1, "StartFailed", f"mount {target} did not end within 1 s")


def test_a_mount_needs_a_cgroup_for_its_programs(tmp_path: Path, target: Path, cgroup: Path) -> None:
    async def run() -> None:
        workload = mount_plan(target).workload
        async with services(tmp_path, cgroup) as node:
            assert node.runner.refusal(workload) is None
        async with services(tmp_path, None) as node:
            assert "cgroup" in (node.runner.refusal(workload) or "")

    asyncio.run(run())


TABLE = r"""22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 8:2 / /data rw shared:2 - xfs /dev/sdb rw
31 22 0:40 / /mnt/a\040b rw - nfs server:/export rw
32 22 8:2 /www /srv rw master:2 - xfs /dev/sdb rw
33 31 0:41 / /mnt/a\040b rw - tmpfs  rw
"""


def test_the_table_of_mounts_is_read() -> None:
    table = parse(TABLE)
    assert table[2] == Entry(31, 22, "0:40", "/", "/mnt/a b", "nfs", "server:/export")
    assert table[4].source == ""
    assert top(table, "/mnt/a b") == table[4]
    assert top(reversed(table), "/mnt/a b") == table[4]
    assert top(table, "/data") == table[1]
    assert top(table, "/mnt") is None
    assert parse("") == ()


@pytest.mark.parametrize(
    ("place", "source", "expected"),
    [
        pytest.param(1, "/dev/sdb", True, id="device"),
        pytest.param(1, "/dev/sdc", False, id="another-device"),
        pytest.param(2, "server:/export", True, id="server"),
        pytest.param(2, "server:/other", False, id="another-export"),
        pytest.param(3, "/data/www", True, id="folder"),
        pytest.param(3, "/data", False, id="folder-above"),
        pytest.param(3, "/data/www/x", False, id="folder-below"),
        pytest.param(3, "/etc/www", False, id="another-file-system"),
        pytest.param(1, "UUID=nobody", False, id="tag-that-is-not-there"),
        pytest.param(1, "", False, id="nothing"),
    ],
)
def test_a_later_leash_knows_a_mount_by_its_source(place: int, source: str, expected: bool) -> None:  # noqa: FBT001
    table = parse(TABLE)
    assert is_from(table[place], source, table) == expected
