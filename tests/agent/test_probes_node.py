"""Probes of the node itself: processes, files, units, and what the courier told of Pods."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from lab.systemd import Systemd, for_tests
from vipagent.probes import Probes
from vipagent.probes_files import LIMIT, Files
from vipagent.probes_threads import Threads, TooManyLooksError
from vipagent.probes_units import UnitLooks
from vipapi.healthchecks import File, Pods, Probe, Process, Selector, SystemdUnit
from vipapi.nodeplan import PodsFact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vipagent.health import Result

PATIENCE_S = 60.0


def ask(
    probe: Probe,
    folder: Path,
    *,
    facts: tuple[PodsFact, ...] = (),
    proc: Path = Path("/proc"),
    closed: Sequence[Path] = (),
) -> Result:
    """Run one probe in a loop of its own."""

    async def run() -> Result:
        probes = Probes(hooks_dir=folder, gateways=tuple, facts=lambda: facts, proc=proc, closed=closed)
        try:
            return await probes.run(probe, PATIENCE_S)
        finally:
            await probes.close()

    return asyncio.run(run())


@contextmanager
def program(folder: Path, count: int = 1) -> Iterator[Path]:
    """A program with a name of its own that runs so many times."""
    path = folder / f"vipkeeper-test-{uuid4().hex}"
    shutil.copy2(shutil.which("sleep") or "/bin/sleep", path)
    running = [subprocess.Popen([path, "600"]) for _ in range(count)]
    try:
        yield path
    finally:
        for each in running:
            each.kill()
            each.wait()


def test_a_program_that_runs_is_found_by_path_and_by_name(tmp_path: Path) -> None:
    with program(tmp_path) as path:
        assert ask(Process(executable=str(path)), tmp_path).is_ok
        assert ask(Process(executable=path.name), tmp_path).is_ok
    for executable in (str(path), path.name):
        result = ask(Process(executable=executable), tmp_path)
        assert (result.is_ok, result.message) == (False, f"process {executable}: none runs")


def test_fewer_than_are_wanted_fail(tmp_path: Path) -> None:
    with program(tmp_path, count=2) as path:
        assert ask(Process(executable=str(path), at_least=2), tmp_path).is_ok
        result = ask(Process(executable=str(path), at_least=3), tmp_path)
        assert result.message == f"process {path}: 2 run, 3 are wanted"


def test_a_program_that_was_replaced_on_disk_still_runs(tmp_path: Path) -> None:
    with program(tmp_path) as path:
        path.unlink()
        assert ask(Process(executable=str(path)), tmp_path).is_ok


def test_a_script_is_found_by_its_name(tmp_path: Path) -> None:
    script = tmp_path / "vk-a-script"
    script.write_text(f"#!{sys.executable} -u\nprint('up')\nimport time\ntime.sleep(600)\n")
    script.chmod(0o755)
    with subprocess.Popen([script], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        assert ask(Process(executable="vk-a-script"), tmp_path).is_ok
        running.kill()


def test_a_zombie_does_not_run(tmp_path: Path) -> None:
    with program(tmp_path) as path:
        zombie = subprocess.Popen([path, "0"])
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert not ask(Process(executable=str(path), at_least=2), tmp_path).is_ok
        assert not ask(Process(executable=path.name, at_least=2), tmp_path).is_ok
        zombie.wait()


def test_a_process_with_parentheses_in_its_name_is_counted_as_what_it_is(tmp_path: Path) -> None:
    odd = tmp_path / "a) Z (b"
    shutil.copy2(shutil.which("sleep") or "/bin/sleep", odd)
    with subprocess.Popen([odd, "600"]) as running:
        assert ask(Process(executable="a) Z (b"), tmp_path).is_ok
        running.kill()


@pytest.mark.parametrize(
    ("state", "is_ok"), [("S", True), ("R", True), ("D", True), ("Z", False), ("X", False)]
)
def test_what_has_ended_does_not_run_whatever_else_proc_says(tmp_path: Path, state: str, is_ok: bool) -> None:  # noqa: FBT001
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "exe").symlink_to("/usr/sbin/app")
    (tmp_path / "7" / "stat").write_text(f"7 (app) {state} 1 7 7 0\n")
    (tmp_path / "8").mkdir()  # it has just ended
    (tmp_path / "uptime").write_text("1")
    for executable in ("app", "/usr/sbin/app"):
        assert ask(Process(executable=executable), tmp_path, proc=tmp_path).is_ok == is_ok


@pytest.mark.parametrize("executable", ["", "bin/nginx", "./nginx"])
def test_half_a_path_is_refused_in_words(tmp_path: Path, executable: str) -> None:
    assert "write an absolute path" in ask(Process(executable=executable), tmp_path).message


def test_a_node_without_proc_says_so(tmp_path: Path) -> None:
    result = ask(Process(executable="nginx"), tmp_path, proc=tmp_path / "nowhere")
    assert (result.is_ok, result.message) == (False, "process nginx: No such file or directory")


def written(folder: Path, text: str = "state: up\n", *, age_s: float = 0.0) -> str:
    path = folder / "state"
    path.write_text(text)
    at = time.time() - age_s
    os.utime(path, (at, at))
    return str(path)


@pytest.mark.parametrize(
    ("text", "age_s", "asked", "message"),
    [
        pytest.param("", 0, {}, "", id="there"),
        pytest.param("", 3600, {}, "", id="old-and-nobody-asked"),
        pytest.param("", 5, {"max_age_seconds": 60}, "", id="young"),
        pytest.param("", 61, {"max_age_seconds": 60}, "not written for more than 60 s", id="old"),
        pytest.param("", -3600, {"max_age_seconds": 60}, "", id="from-the-future"),
        pytest.param("state: up\n", 0, {"content_regex": "^state: up$"}, "", id="says-it"),
        pytest.param(
            "state: down\n", 0, {"content_regex": "state: up"}, "what it says does not match", id="says-not"
        ),
        pytest.param("", 0, {"content_regex": "."}, "what it says does not match", id="says-nothing"),
        pytest.param(
            "up",
            61,
            {"max_age_seconds": 60, "content_regex": "up"},
            "not written for more than 60 s",
            id="says-it-and-is-old",
        ),
        pytest.param(
            "x", 0, {"content_regex": "("}, "contentRegex is not a regular expression", id="no-pattern"
        ),
        pytest.param("a" * 40, 0, {"content_regex": "(a+)+$b"}, "make it simpler", id="hopeless-pattern"),
        pytest.param("x" * 65536 + "up", 0, {"content_regex": "up"}, "does not match", id="beyond-the-bound"),
        pytest.param("x" * 65534 + "up", 0, {"content_regex": "up"}, "", id="within-the-bound"),
    ],
)
def test_a_file_is_judged(
    tmp_path: Path, text: str, age_s: float, asked: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, text, age_s=age_s)
    result = ask(File(path=path, **asked), tmp_path)
    assert result.is_ok == (not message)
    assert message in result.message


def test_what_is_no_plain_file_fails_and_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "nowhere", "No such file or directory"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
    ):
        for pattern in (None, "up"):
            assert message in ask(File(path=str(path), content_regex=pattern), tmp_path).message
    assert "no absolute path" in ask(File(path="state"), tmp_path).message
    assert "no absolute path" in ask(File(path="/a\0b"), tmp_path).message


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(written(tmp_path))
    assert ask(File(path=str(tmp_path / "link"), content_regex="up"), tmp_path).is_ok


@pytest.mark.parametrize("pattern", [None, "up"])
def test_the_keepers_own_folders_are_closed_to_checks(tmp_path: Path, pattern: str | None) -> None:
    closed, beside = tmp_path / "own", tmp_path / "own-not"
    for folder in (closed, beside):
        folder.mkdir()
        (folder / "plan.json").write_text("up")
    (tmp_path / "folder").symlink_to(closed)
    (beside / "link").symlink_to(closed / "plan.json")
    (tmp_path / "closed-link").symlink_to(closed)

    def message(path: str, closed: Path = closed) -> str:
        return ask(File(path=path, content_regex=pattern), tmp_path, closed=[closed]).message

    for path in (
        f"{closed}/plan.json",
        f"{tmp_path}/folder/plan.json",
        f"{beside}/link",
        f"{beside}/../own/plan.json",
        f"/proc/self/root{closed}/plan.json",
    ):
        assert "no check may look" in message(path)
        assert "no check may look" in message(path, tmp_path / "closed-link")
    for path in ("/proc/self/environ", "/sys/kernel/notes", "/var/lib/vipkeeper/plan.json"):
        assert "no check may look" in message(path)
    assert message(f"{beside}/plan.json") == ""


def test_a_link_that_is_turned_while_it_is_looked_at_opens_no_closed_folder(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "plan.json").write_text("secret")
    link = tmp_path / "link"
    link.symlink_to(written(tmp_path))

    class Turned(Files):
        """Whoever may write there turns the link as soon as it was found harmless."""

        def _admit(self, path: str) -> None:
            super()._admit(path)
            if path == str(link):
                link.unlink()
                link.symlink_to(tmp_path / "own" / "plan.json")

    async def look() -> None:
        with pytest.raises(OSError, match="no check may look"):
            await Turned([tmp_path / "own"]).look(File(path=str(link), content_regex="secret"))

    asyncio.run(look())


def test_bytes_that_are_no_text_are_searched_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe up \x00")
    assert ask(File(path=str(tmp_path / "binary"), content_regex="up"), tmp_path).is_ok


def test_a_look_that_hangs_is_begun_once_and_delays_no_other() -> None:
    let_go = threading.Event()
    begun: list[str] = []

    def hang() -> str:
        begun.append("hang")
        let_go.wait(PATIENCE_S)
        return "late"

    async def run() -> None:
        threads: Threads[str] = Threads(2)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await threads.run("/dead", hang)
        assert await threads.run("/well", lambda: "there") == "there"
        assert begun == ["hang"]
        waiting = asyncio.ensure_future(threads.run("/dead", hang))
        await asyncio.sleep(0)
        let_go.set()
        assert await waiting == "late"
        assert await threads.run("/dead", lambda: "again") == "again"

    asyncio.run(run())


def test_beyond_the_limit_a_look_is_refused_in_words() -> None:
    let_go = threading.Event()

    async def run() -> None:
        threads: Threads[bool] = Threads(2)
        hanging = [
            asyncio.ensure_future(threads.run(name, lambda: let_go.wait(PATIENCE_S))) for name in ("/a", "/b")
        ]
        await asyncio.sleep(0)
        with pytest.raises(TooManyLooksError, match="2 others hang"):
            await threads.run("/c", lambda: True)
        let_go.set()
        assert await asyncio.gather(*hanging) == [True, True]
        assert await threads.run("/c", lambda: True)

    asyncio.run(run())


def test_looks_in_turn_wait_for_a_place_and_all_have_it() -> None:
    let_go = threading.Event()
    begun: list[str] = []

    def hang(name: str) -> str:
        begun.append(name)
        let_go.wait(PATIENCE_S)
        return name

    async def run() -> None:
        threads: Threads[str] = Threads(2)
        waiting = [
            asyncio.ensure_future(threads.run_in_turn(name, partial(hang, name)))
            for name in ("/a", "/b", "/c", "/d", "/a", "/e")
        ]
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await threads.run_in_turn("/f", partial(hang, "/f"))
        assert sorted(begun) == ["/a", "/b"]
        waiting.pop(2).cancel()
        let_go.set()
        assert await asyncio.gather(*waiting) == ["/a", "/b", "/d", "/a", "/e"]
        assert await threads.run_in_turn("/c", partial(hang, "/c")) == "/c"

    asyncio.run(run())


def test_a_look_that_fails_tells_all_who_wait_and_is_forgotten() -> None:
    def fail() -> int:
        raise FileNotFoundError(2, "No such file or directory")

    async def run() -> None:
        threads: Threads[int] = Threads(1)
        results = await asyncio.gather(*(threads.run("/a", fail) for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [FileNotFoundError] * 3
        assert await threads.run("/a", lambda: 7) == 7

    asyncio.run(run())


def test_a_process_ends_although_a_look_hangs() -> None:
    script = (
        "import asyncio, threading\nfrom vipagent.probes_threads import Threads\n"
        "async def run():\n"
        "    try:\n"
        "        async with asyncio.timeout(0.05):\n"
        "            await Threads(1).run('/dead', threading.Event().wait)\n"
        "    except TimeoutError:\n"
        "        print('given up')\n"
        "asyncio.run(run())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert ended.stdout == "given up\n"


@pytest.mark.parametrize("many", [LIMIT, 5 * LIMIT], ids=["beside each other", "in turn"])
def test_many_files_are_looked_at_at_once(tmp_path: Path, many: int) -> None:
    paths = [tmp_path / str(number) for number in range(many)]
    for path in paths:
        path.write_text("up")

    async def run() -> list[Result]:
        files = Files()
        return await asyncio.gather(*(files.look(File(path=str(path), content_regex="up")) for path in paths))

    assert all(result.is_ok for result in asyncio.run(run()))


@pytest.fixture(scope="module")
def systemd(request: pytest.FixtureRequest) -> Iterator[Systemd]:
    with for_tests(request.config) as started:
        yield started


def test_a_unit_passes_while_it_is_active(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"unit-{time.monotonic_ns()}.service"
    systemd.add(name, "[Service]\nExecStart=/bin/sleep 1000\n")
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", systemd.address)

    async def run() -> None:
        looks = UnitLooks()
        probes = Probes(hooks_dir=tmp_path, gateways=tuple, units=looks)
        units = await looks.ready()
        try:
            result = await probes.run(SystemdUnit(unit=name), PATIENCE_S)
            assert (result.is_ok, result.message) == (
                False,
                f"{name} is inactive (dead): see `journalctl -u {name}`",
            )
            await units.start(name, PATIENCE_S)
            assert (await probes.run(SystemdUnit(unit=name), PATIENCE_S)).is_ok
            await units.stop(name, PATIENCE_S)
            assert not (await probes.run(SystemdUnit(unit=name), PATIENCE_S)).is_ok
            missing = await probes.run(SystemdUnit(unit="missing.service"), PATIENCE_S)
            assert "not-found" in missing.message
            nonsense = await probes.run(SystemdUnit(unit="no name"), PATIENCE_S)
            assert "is not the name of a unit" in nonsense.message
        finally:
            await probes.close()

    asyncio.run(run())


def test_a_node_without_systemd_says_what_to_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nowhere")
    result = ask(SystemdUnit(unit="tomcat.service"), tmp_path)
    assert not result.is_ok
    assert "unit tomcat.service: no systemd can be reached" in result.message
    assert "mount the node's folder /run/systemd" in result.message


def test_libraries_are_imported_only_where_a_check_needs_them() -> None:
    script = (
        "import sys, vipagent.keeper, vipagent.probes\n"
        "print(sorted({'h2', 'dbus_fast'} & set(sys.modules)))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert ended.stdout == "[]\n"


DB = Pods(selector=Selector({"app": "db", "tier": "1"}), namespace="prod")


@pytest.mark.parametrize(
    ("facts", "verdict", "message"),
    [
        pytest.param((PodsFact(DB, is_ok=True, message="2 ready"),), "passes", "", id="well"),
        pytest.param((PodsFact(DB, is_ok=False, message="0 of 1"),), "fails", "0 of 1", id="not-well"),
        pytest.param((PodsFact(DB, is_ok=False),), "fails", "not ready", id="not-well-without-a-word"),
        pytest.param(
            (),
            "unknown",
            "pods app=db,tier=1 in prod: the courier of this node has not told of them yet",
            id="nothing-told",
        ),
        pytest.param(
            (PodsFact(Pods(selector=DB.selector, namespace="test"), is_ok=True),),
            "unknown",
            "has not told of them yet",
            id="others-only",
        ),
    ],
)
def test_pods_are_what_the_courier_says(
    tmp_path: Path, facts: tuple[PodsFact, ...], verdict: str, message: str
) -> None:
    result = ask(DB, tmp_path, facts=facts)
    assert (result.is_ok, result.is_known) == (verdict == "passes", verdict != "unknown")
    assert message in result.message
