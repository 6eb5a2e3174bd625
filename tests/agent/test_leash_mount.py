"""Services that are mounted file systems: real mounts, in the mount namespace of the tests."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agent.services import SOON_S, hook, is_gone, kill_leash, service_of, services, until_exists
from vipagent import leash_mount
from vipagent.leash_mount import Entry, is_from, parse, refusal, top
from vipagent.runs import Outcome
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Mount, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from agent.services import Services

TMPFS = "our-disk"
"""A tmpfs can be called anything."""


def mount_plan(
    target: Path | str, source: str = TMPFS, fs_type: str | None = "tmpfs", *options: str, **fields: Any
) -> ServicePlan:
    workload = Workload(mount=Mount(source, str(target), fs_type, options))
    return ServicePlan("uid", "prod", "billing", "app", workload, **fields)


def mounted(target: Path) -> list[Entry]:
    """What is mounted there, the lowest first."""
    table = Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape")
    return [entry for entry in parse(table) if entry.target == str(target)]


def mount(*args: str | Path) -> None:
    subprocess.run(["/bin/mount", *args], check=True)


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
            return await node.tried(service)

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
            told = await node.tried(service)
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
    assert took_s < SOON_S


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


@pytest.mark.parametrize("name", [b"a\x0cb\x1c", b"a\xc2\x85 \r\n", b"a\xff\\", "a\u2028".encode()], ids=repr)
def test_odd_names_in_a_mount_namespace_of_somebody_break_nothing(
    tmp_path: Path, cgroup: Path, target: Path, name: bytes
) -> None:
    async def run() -> Outcome:
        service = mount_plan(target, stop_timeout_ms=1000)
        odd = os.fsencode(tmp_path) + b"/" + name
        os.mkdir(odd)  # noqa: PTH102 - a name that is no text
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            copied = tmp_path / "copied"
            command = ["/usr/bin/unshare", "-Urm", "--propagation", "private", "/bin/sh", "-ec"]
            script = b'mount -t tmpfs odd "$1"; mount --bind "$2" "$1"; echo x > "$3"; exec sleep 600'
            command += [script, "sh", odd, target, copied]
            with subprocess.Popen(command) as somebody:  # noqa: ASYNC220
                try:
                    await until_exists(copied)
                    node.runner.stop(service.id, number)
                    told = await node.next()
                    assert told.message.isprintable()
                    assert f"process {somebody.pid} (" in told.message
                finally:
                    somebody.kill()
            assert await node.next() == Outcome(service.id, number, "Stopped")
        return told

    assert asyncio.run(run()).kind == "StopFailed"


def test_what_is_mounted_over_it_may_be_called_anything(tmp_path: Path, cgroup: Path, target: Path) -> None:
    async def run() -> Outcome:
        service = mount_plan(target)
        async with services(tmp_path, cgroup) as node:
            number = await node.started(service)
            subprocess.run(["/bin/mount", "-t", "tmpfs", b"o\xff\x85\n", target], check=True)  # noqa: ASYNC221
            told = await node.next()
            subprocess.run(["/bin/umount", target], check=True)  # noqa: ASYNC221
            await node.stopped(service, number)
        return told

    assert asyncio.run(run()).message == rf"o\udcff\udc85\n (tmpfs) was mounted over {target}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A type of file system that is served by a process, which ends when it is asked to; its pid is told."""
    helper = f"""
        cd {tmp_path}
        sh -c 'trap "grep -q {TMPFS} /proc/self/mountinfo && touch early; touch asked; exit" TERM
               echo $$ > pid; while :; do sleep 0.1; done' < /dev/null > /dev/null 2>&1 &
        /bin/mount -i -t tmpfs "$1" "$2" && test ! -e fails
    """
    # In the tests' mount namespace only: where mount(8) looks for `mount.TYPE`, with all that is there.
    programs = Path("/sbin").resolve()
    folder, all_of_it = tmp_path / "sbin", tmp_path / "all"
    hook(folder, "mount.served", helper)
    all_of_it.mkdir()
    mount("--bind", programs, all_of_it)
    for program in programs.iterdir():
        (folder / program.name).symlink_to(all_of_it / program.name)
    mount("--bind", folder, programs)
    yield "served"
    subprocess.run(["/bin/umount", programs], check=True)
    subprocess.run(["/bin/umount", all_of_it], check=True)


async def started_and_served(node: Services, service: ServicePlan, tmp_path: Path) -> tuple[int, int]:
    """Start it; return the run and the process that serves it."""
    number = await node.started(service)
    return number, int(await until_exists(tmp_path / "pid"))


def test_what_serves_a_file_system_lives_until_it_is_unmounted(
    tmp_path: Path, cgroup: Path, target: Path, served: str
) -> None:
    async def run() -> None:
        service = mount_plan(target, TMPFS, served)
        async with services(tmp_path, cgroup) as node:
            for _ in range(2):
                number, pid = await started_and_served(node, service, tmp_path)
                assert pid in service_of(cgroup).pids()
                with (target / "log").open("w"):
                    node.runner.stop(service.id, number)
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(node.told.get(), 1)
                    assert not is_gone(pid)
                assert await node.next() == Outcome(service.id, number, "Stopped")
                assert is_gone(pid)
                assert (tmp_path / "asked").exists()
                assert not (tmp_path / "early").exists()
                (tmp_path / "pid").unlink()

    asyncio.run(run())
    assert not mounted(target)


def test_what_serves_a_file_system_is_not_killed_while_it_is_mounted(
    tmp_path: Path, cgroup: Path, target: Path, served: str
) -> None:
    async def run() -> None:
        service = mount_plan(target, TMPFS, served, stop_timeout_ms=500)
        async with services(tmp_path, cgroup) as node:
            number, pid = await started_and_served(node, service, tmp_path)
            with (target / "log").open("w"):
                node.runner.stop(service.id, number)
                told = await node.next()
                assert told.kind == "StopFailed"
                assert f"{target} is still mounted; umount {target} exited with status 32" in told.message
                assert not is_gone(pid)
            await node.stopped(service, number)
            assert is_gone(pid)

    asyncio.run(run())
    assert not mounted(target)


def test_a_file_system_that_nothing_serves_any_more_has_died(
    tmp_path: Path, cgroup: Path, target: Path, served: str
) -> None:
    async def run() -> Outcome:
        service = mount_plan(target, TMPFS, served)
        async with services(tmp_path, cgroup) as node:
            number, pid = await started_and_served(node, service, tmp_path)
            os.kill(pid, signal.SIGKILL)
            told = await node.next()
            await node.stopped(service, number)
        return told

    assert asyncio.run(run()) == Outcome("uid/app", 1, "Died", f"what served {target} has ended")
    assert not mounted(target)


def test_nothing_of_a_mount_that_failed_is_left(
    tmp_path: Path, cgroup: Path, target: Path, served: str
) -> None:
    async def run() -> Outcome:
        (tmp_path / "fails").touch()
        service = mount_plan(target, TMPFS, served)
        async with services(tmp_path, cgroup) as node:
            number = node.start(service)
            told = await node.next()
            await asyncio.wait_for(service_of(cgroup).emptied(), 5)  # before anybody asks
            await node.stopped(service, number)
            assert not (tmp_path / "asked").exists()
        return told

    assert asyncio.run(run()).kind == "StartFailed"
    assert not mounted(target)


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
            return await node.tried(service, for_ns=-1)

    assert asyncio.run(run()).message == "the lease has ended before it was started"
    assert not mounted(target)


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
            return await node.tried(service)

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
34 22 0:42 / /mnt/fuse rw - fuse.glusterfs served rw
35 22 0:43 / /mnt/smb rw - cifs //nas/share rw
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


def test_a_line_that_is_none_of_the_table_is_passed_over() -> None:
    odd = "40 22 0:50 / /mnt/a\x0b\x0c\x1c\x1d\x1e\x85\u2028\r rw - tmpfs odd rw\n"
    table = parse(f"no line\n{odd}\n1 x - \n{TABLE}")
    assert table[0].target == "/mnt/a\x0b\x0c\x1c\x1d\x1e\x85\u2028\r"
    assert table[1:] == parse(TABLE)


def test_only_lines_with_a_text_are_read() -> None:
    assert parse(TABLE, having=" 8:2 ") == (parse(TABLE)[1], parse(TABLE)[3])
    assert parse(TABLE, having=" 9:9 ") == ()


async def turns(work: Callable[[], Awaitable[object]]) -> int:
    """Count how often others have their turn while something is done."""
    working = asyncio.ensure_future(work())
    count = 0
    while not working.done():
        await asyncio.sleep(0)
        count += 1
    await working
    return count


def test_others_have_their_turn_between_the_tables_of_mount_namespaces(tmp_path: Path) -> None:
    many = 40
    keep = f"echo x > {tmp_path}/$0; exec sleep 600"
    command = ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", keep]
    containers = [subprocess.Popen([*command, str(number)]) for number in range(many)]
    try:

        async def run() -> int:
            for number in range(many):
                await until_exists(tmp_path / str(number))
            return await turns(lambda: leash_mount._elsewhere("9:9999"))  # noqa: SLF001 - how it behaves

        assert asyncio.run(run()) > many
    finally:
        for container in containers:
            container.kill()
            container.wait()


def test_the_table_is_read_at_a_pace_however_often_it_changes(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()

    async def run() -> tuple[int, float]:
        read = 0

        async def count() -> None:
            nonlocal read
            async for _ in leash_mount._tables():  # noqa: SLF001 - how it behaves
                read += 1

        counting, began = asyncio.ensure_future(count()), time.monotonic()
        while time.monotonic() < began + 1.0 or read < 2:  # the first one, and one for a change
            await asyncio.to_thread(mount, "-t", "tmpfs", "theirs", other)
            await asyncio.to_thread(subprocess.run, ["/bin/umount", other], check=True)
        counting.cancel()
        await asyncio.wait([counting])
        return read, time.monotonic() - began

    read, took_s = asyncio.run(run())
    assert read <= 2 + took_s / leash_mount._PACE_S  # noqa: SLF001


def test_only_so_many_descriptors_of_a_process_are_looked_at() -> None:
    most = leash_mount._MOST_OPENED  # noqa: SLF001
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (former[1], former[1]))
    opened = [os.open("/", os.O_PATH) for _ in range(most + 100)]
    try:
        assert most <= len(leash_mount._opened("self")) <= most + 3  # noqa: SLF001
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, former)


@pytest.mark.parametrize(
    ("place", "source", "expected"),
    [
        pytest.param(1, "/dev/sdb", True, id="device"),
        pytest.param(1, "/dev/sdc", False, id="another-device"),
        pytest.param(2, "server:/export", True, id="server"),
        pytest.param(2, "server:/export/", True, id="server-with-a-slash"),
        pytest.param(2, "192.0.2.7:/export", True, id="server-by-another-name"),
        pytest.param(2, "//server/export", True, id="server-in-another-way"),
        pytest.param(6, "//NAS/share/", True, id="share-by-another-name"),
        pytest.param(2, "/dev/disk/by-path/pci-0000:00", False, id="device-with-a-colon"),
        pytest.param(2, "LABEL=a:b", False, id="tag-with-a-colon"),
        pytest.param(2, "disk", False, id="server-for-what-is-none"),
        pytest.param(1, "server:/export", False, id="device-for-a-server"),
        pytest.param(6, "/", False, id="root-is-no-share"),
        pytest.param(5, "volume", True, id="served-by-a-process"),
        pytest.param(5, "/dev/sdb", False, id="served-by-a-process-for-a-device"),
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
