"""The parts of the leash against the kernel: cgroups, its timer, how a hook starts; and what it is itself."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.services import DETACHED, LONG, MILLISECOND, STUBBORN, end, hook, is_gone, now_ns, own_cgroup
from vipagent import leash_cgroups
from vipagent.leash_cgroups import Cgroup
from vipagent.leash_children import Children, Ended
from vipagent.leash_exec import Hook
from vipagent.leash_timer import Timer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HYBRID = """\
23 28 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw
29 23 0:26 / /sys/fs/cgroup ro shared:8 - tmpfs tmpfs ro,mode=755
30 29 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
31 29 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd
"""
UNIFIED = "31 23 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
OF_THE_NODE = "31 23 0:27 / /host\\040cgroup rw - cgroup2 cgroup2 rw\n"
OF_THE_CONTAINER = "31 23 0:27 /kubepods/pod1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
ODD = "30 23 0:26 / /mnt/a\x0cb\udcff rw - tmpfs none rw\n"
FROM_OUTSIDE = "31 23 0:27 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


@pytest.mark.parametrize(
    ("mountinfo", "cgroup", "path"),
    [
        pytest.param(HYBRID, "4:memory:/x\n0::/\n", "/sys/fs/cgroup/unified", id="hybrid"),
        pytest.param(
            UNIFIED, "0::/system.slice/k.service\n", "/sys/fs/cgroup/system.slice/k.service", id="unified"
        ),
        pytest.param(UNIFIED, "0::/\n", "/sys/fs/cgroup", id="own-namespace"),
        pytest.param(
            OF_THE_NODE, "0::/kubepods/pod1\n", "/host cgroup/kubepods/pod1", id="the-node's-mounted"
        ),
        pytest.param(OF_THE_CONTAINER, "0::/kubepods/pod1/c\n", "/sys/fs/cgroup/c", id="a-part-mounted"),
        pytest.param(ODD + UNIFIED, "0::/\n", "/sys/fs/cgroup", id="beside-a-mount-with-an-odd-name"),
        pytest.param(OF_THE_CONTAINER, "0::/kubepods/pod2\n", None, id="another-part-mounted"),
        pytest.param(FROM_OUTSIDE, "0::/\n", None, id="mounted-outside-of-the-namespace"),
        pytest.param(HYBRID, "4:memory:/x\n", None, id="version-1-only"),
        pytest.param("", "0::/\n", None, id="not-mounted"),
    ],
)
def test_the_own_cgroup_is_found_wherever_it_is_mounted(
    mountinfo: str, cgroup: str, path: str | None
) -> None:
    assert leash_cgroups.own_cgroup(mountinfo, cgroup) == (None if path is None else Path(path))


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with own_cgroup() as path:
        yield Cgroup(path)


@contextmanager
def running(cgroup: Cgroup, script: str) -> Iterator[int]:
    """Run a shell script in a cgroup."""
    with subprocess.Popen(["/bin/sh", "-c", script], preexec_fn=cgroup.enter) as process:  # noqa: PLW1509
        try:
            yield process.pid
        finally:
            process.kill()


def test_kill_reaches_everything_below_and_emptied_tells_of_it(cgroup: Cgroup) -> None:
    async def run() -> None:
        inner = cgroup / "a" / "b"
        inner.make()
        with running(inner, f"{DETACHED}\n{STUBBORN}\nwait"):
            while len(pids := cgroup.pids()) < 5:  # noqa: ASYNC110 - no event tells of a process
                await asyncio.sleep(0.01)
            waiting = asyncio.create_task(cgroup.emptied())
            await asyncio.sleep(0)
            assert not waiting.done()
            cgroup.kill()
            await asyncio.wait_for(waiting, 5)
        assert all(is_gone(pid) for pid in pids)
        await cgroup.remove()

    asyncio.run(run())


def test_terminate_reaches_what_is_stopped(cgroup: Cgroup) -> None:
    async def run() -> None:
        with running(cgroup, "kill -STOP $$; sleep 600") as pid:
            stat = Path(f"/proc/{pid}/stat")
            while " T " not in stat.read_text():  # noqa: ASYNC110, ASYNC240 - no event tells of a stop
                await asyncio.sleep(0.01)
            cgroup.terminate()
            await asyncio.wait_for(cgroup.emptied(), 5)
        await cgroup.remove()

    asyncio.run(run())


def test_a_cgroup_that_does_not_exist_is_empty_and_can_be_killed(cgroup: Cgroup) -> None:
    cgroup.path.rmdir()
    cgroup.kill()
    cgroup.terminate()
    assert not cgroup.is_populated
    assert not cgroup.pids()
    assert not cgroup.remove_now()
    asyncio.run(cgroup.emptied())


def test_one_that_is_not_empty_is_not_removed(cgroup: Cgroup) -> None:
    (cgroup / "empty").make()
    (cgroup / "full").make()
    with running(cgroup / "full", "sleep 600"):
        assert cgroup.remove_now()
        assert [each.path.name for each in cgroup.children] == ["full"]
        cgroup.kill()
        asyncio.run(end(cgroup))


def test_the_timer_rings_at_its_latest_moment_and_not_when_it_is_off() -> None:
    async def run() -> tuple[list[int], int]:
        rang: list[int] = []
        has_rung = asyncio.Event()

        def ring() -> None:
            rang.append(now_ns())
            has_rung.set()

        timer = Timer(ring)
        timer.set(now_ns() + 10 * MILLISECOND)
        timer.set(None)
        await asyncio.sleep(0.05)
        assert not rang
        moment = now_ns() + 50 * MILLISECOND
        timer.set(now_ns() + 10 * MILLISECOND)
        timer.set(moment)
        await asyncio.wait_for(has_rung.wait(), 5)
        timer.set(0)  # a moment long ago
        has_rung.clear()
        await asyncio.wait_for(has_rung.wait(), 5)
        timer.close()
        return rang, moment

    rang, moment = asyncio.run(run())
    assert len(rang) == 2
    assert rang[0] >= moment


def start(folder: Path, cgroup: Cgroup, *, objection: str | None = None) -> Ended:
    """Start the hook `h` and return how it ended."""

    async def run() -> Ended:
        program = Hook("h", ("/a b", "")).program(folder, {})
        child = Children().start(program, cgroup=cgroup, objection=lambda: objection)
        ended = await child.ended
        child.output.close()
        return ended

    ended = asyncio.run(run())
    cgroup.remove_now()
    return ended


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        pytest.param("exit 0", Ended(None), id="passes"),
        pytest.param("test $# = 2 -a \"$1\" = '/a b' -a \"$2\" = ''", Ended(None), id="arguments-as-given"),
        pytest.param('test "$PWD" = / && ! read line', Ended(None), id="no-folder-and-no-input"),
        pytest.param(
            "echo a; echo b; exit 1", Ended("hook h exited with status 1: b", says_no=True), id="says-no"
        ),
        pytest.param(
            "no-such-program", Ended("hook h exited with status 127: ", says_no=False), id="cannot-say"
        ),
        pytest.param("kill -9 $$", Ended("hook h was killed by signal 9"), id="is-killed"),
    ],
)
def test_how_a_hook_ends_is_told(tmp_path: Path, cgroup: Cgroup, text: str, ended: Ended) -> None:
    hook(tmp_path, "h", text)
    found = start(tmp_path, cgroup)
    assert (found.says_no, found.has_run) == (ended.says_no, ended.has_run)
    assert (found.complaint or "").startswith(ended.complaint or "")
    assert (found.complaint is None) == (ended.complaint is None)


def test_an_objection_at_the_last_moment_keeps_a_hook_from_running(tmp_path: Path, cgroup: Cgroup) -> None:
    hook(tmp_path, "h", f"touch {tmp_path}/ran")
    assert start(tmp_path, cgroup, objection="not any more") == Ended("not any more", has_run=False)
    assert not (tmp_path / "ran").exists()


def test_a_script_without_an_interpreter_line_says_so(tmp_path: Path, cgroup: Cgroup) -> None:
    (tmp_path / "h").write_text("exit 0\n")
    (tmp_path / "h").chmod(0o755)
    ended = start(tmp_path, cgroup)
    assert ended.complaint is not None
    assert "Exec format error (a script needs a first line such as #!/bin/sh)" in ended.complaint
    assert not ended.has_run


def test_a_hook_is_not_run_outside_of_its_cgroup(tmp_path: Path, cgroup: Cgroup) -> None:
    hook(tmp_path, "h", f"touch {tmp_path}/ran")
    ended = start(tmp_path, cgroup / "missing")
    assert ended == Ended("hook h cannot be started: No such file or directory (a script needs a first line "
                          "such as #!/bin/sh)", has_run=False)  # fmt: skip
    assert not (tmp_path / "ran").exists()
    cgroup.remove_now()


def test_the_leash_needs_nothing_but_the_standard_library() -> None:
    text = "import sys, vipagent.leash; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", text]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    # What every interpreter of this environment loads at its start is no doing of the leash.
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(loaded) - set(before) - sys.stdlib_module_names == {"vipagent"}


@contextmanager
def leash(folder: Path, cgroup: Cgroup) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A leash of its own with this test as its keeper, which closes the connection at the end."""
    memory = os.memfd_create("deadlines")
    os.write(memory, (now_ns() + LONG).to_bytes(8, sys.byteorder))
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "vipagent.leash", str(folder), "/usr/lib/ocf", str(cgroup.path)]
    command += [str(memory), "-"]
    with ours, subprocess.Popen(command, stdin=theirs, pass_fds=[memory], stderr=subprocess.PIPE) as process:
        theirs.close()
        os.close(memory)
        try:
            with ours.makefile() as first:
                assert json.loads(first.readline()) == {"hello": True}
            yield process, ours
            ours.close()
            process.wait(10)
        finally:
            process.kill()


def ask(connection: socket.socket, order: Mapping[str, object]) -> dict[str, object]:
    """Order the leash something and return its next answer."""
    connection.sendall(json.dumps(order).encode() + b"\n")
    with connection.makefile() as answers:
        answer: dict[str, object] = json.loads(answers.readline())
    return answer


def test_the_leash_runs_before_ordinary_processes_and_is_never_paged_out(
    tmp_path: Path, cgroup: Cgroup
) -> None:
    with leash(tmp_path, cgroup) as (process, connection):
        answer = ask(connection, {"run": 1, "stop": True})
        assert answer == {"run": 1, "kind": "Stopped", "message": ""}
        assert os.sched_getscheduler(process.pid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "VmLck:\t       0 kB" not in status
        assert [each.path.name for each in cgroup.children] == ["leash"]


def test_a_leash_without_a_keeper_and_without_services_ends(tmp_path: Path, cgroup: Cgroup) -> None:
    with leash(tmp_path, cgroup) as (process, _):
        pass
    assert process.returncode == 0
    assert not cgroup.path.exists()


def test_a_leash_that_breaks_leaves_nothing_running(tmp_path: Path, cgroup: Cgroup) -> None:
    hook(tmp_path, "start", f"{STUBBORN}\necho x > {tmp_path}/started")
    order = {
        "folder": "app",
        "slot": 0,
        "startTimeoutMs": 60_000,
        "stopTimeoutMs": 60_000,
        "fences": False,
        "environment": {},
        "exec": {"start": {"hook": "start"}},
    }
    with leash(tmp_path, cgroup) as (process, connection):
        assert ask(connection, {"run": 1, "start": order})["kind"] == "Started"
        pids = (cgroup / "app").pids()
        assert pids
        connection.sendall(b"nonsense\n")
        process.wait(10)
        assert process.stderr is not None
        assert b"JSONDecodeError" in process.stderr.read()
    assert process.returncode == 1
    assert all(is_gone(pid) for pid in pids)
    asyncio.run(cgroup.remove())
