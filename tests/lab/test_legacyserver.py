"""The legacy server misbehaves as it is told; the hooks of `examples/hooks` run it as any other program."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import enclosure, kernelcalls, legacy, legacyserver, topology
from lab.legacy import PORT, START, STATUS, STOP, Legacy, running
from lab.processes import ProcessFailedError
from lab.servicefaults import command_of, processes_on
from lab.topology import Segment
from vipagent.probes_hooks import refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 60


@pytest.fixture(scope="module")
def segment() -> Iterator[Segment]:
    made = Segment(Path(tempfile.mkdtemp(dir=enclosure.scratch_folder())))
    made.add("node-a", topology.FIRST_NODE)
    yield made
    made.close()


@pytest.fixture
def app(segment: Segment) -> Iterator[Legacy]:
    """The server, installed and not running; nothing of it is left after the test."""
    installed = Legacy(segment.hosts["node-a"], segment.folder / "shared")
    installed.install()
    yield installed
    if process_id(installed) is not None:
        os.kill(process_id(installed) or 0, signal.SIGKILL)
    wait_until(lambda: running(installed.shared) == [])
    installed.be_well()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def wait_until_looked_at(app: Legacy) -> None:
    """Wait until the start hook has looked for the server after now: it naps after each look."""
    naps: set[int] = naps_on(app)
    former = len(naps)

    def has_napped_twice() -> bool:
        naps.update(naps_on(app))
        return len(naps) >= former + 2

    wait_until(has_napped_twice)


def naps_on(app: Legacy) -> set[int]:
    return {pid for pid in processes_on(app.host) if command_of(pid).startswith("sleep\0")}


def process_id(app: Legacy) -> int | None:
    """Return the id of the server, if it runs and has told it: the file is there before its content."""
    file = app.folder / legacyserver.PID_FILE
    told = file.read_text() if running(app.shared) and file.exists() else ""
    return int(told) if told else None


def ask(app: Legacy, path: str) -> tuple[int, str]:
    with kernelcalls.entered(app.host.network):
        connection = socket.create_connection(("127.0.0.1", PORT), timeout=5)
    with connection, connection.makefile("rb") as answer:
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        head, _, body = answer.read().decode().partition("\r\n\r\n")
    return int(head.split(" ")[1]), body.strip()


def passes(app: Legacy, hook: str) -> bool:
    try:
        app.run(hook)
    except ProcessFailedError:
        return False
    return True


def start(app: Legacy) -> None:
    app.run(START)
    assert passes(app, STATUS)


def why(app: Legacy, hook: str) -> str:
    with pytest.raises(ProcessFailedError) as refused:
        app.run(hook)
    return str(refused.value).splitlines()[-1]


@pytest.mark.parametrize("hook", [START, STATUS, STOP])
def test_the_examples_are_hooks_that_the_keeper_runs(hook: str) -> None:
    assert refusal(legacy.EXAMPLES, hook) is None


def test_the_hooks_start_it_tell_its_state_and_stop_it(app: Legacy) -> None:
    assert why(app, STATUS) == "it does not run"
    before = app.starts()
    start(app)
    assert ask(app, "/") == ask(app, "/healthz") == (200, "node-a")
    assert ask(app, "/copy") == (200, f"node-a {before + 1}")
    assert ask(app, "/other") == (404, "not found")
    app.run(STOP)
    assert running(app.shared) == []
    assert not (app.folder / legacyserver.PID_FILE).exists()
    assert why(app, STATUS) == "it does not run"
    app.run(STOP)


def test_the_daemon_stands_in_a_session_of_its_own(app: Legacy) -> None:
    start(app)
    pid = process_id(app)
    assert pid is not None
    assert os.getsid(pid) not in {pid, os.getsid(0)}


def test_what_runs_already_is_not_started_a_second_time(app: Legacy) -> None:
    start(app)
    assert "it runs already as process" in why(app, START)
    assert len(running(app.shared)) == 1


def test_a_process_id_that_is_somebody_else_s_by_now_is_neither_believed_nor_killed(app: Legacy) -> None:
    (app.folder / legacyserver.PID_FILE).write_text(f"{os.getpid()}\n")
    assert why(app, STATUS) == "it does not run"
    app.run(STOP)
    start(app)
    assert process_id(app) != os.getpid()


def test_a_slow_one_runs_and_its_start_is_not_over_before_it_listens(app: Legacy) -> None:
    app.wish(legacyserver.SLOW_START, "1000")
    starting = app.host.start([app.hooks / START], name="starting")
    wait_until(lambda: process_id(app) is not None)
    wait_until_looked_at(app)
    assert why(app, STATUS) == f"it runs, and does not listen on port {PORT}"
    assert starting.is_alive
    app.wish(legacyserver.CRASH)
    assert starting.wait(PATIENCE_S) == 1
    assert starting.output().endswith(f"it ended before it listened on port {PORT}\n")


def test_one_that_fails_to_start_says_so_and_counts_no_start(app: Legacy) -> None:
    before = app.starts()
    app.wish(legacyserver.FAIL_START)
    assert why(app, START) == "told to fail"
    assert app.starts() == before


def test_one_that_hangs_is_not_stopped_until_it_is_killed(app: Legacy) -> None:
    start(app)
    app.wish(legacyserver.HANG)
    stopping = app.host.start([app.hooks / STOP], name="stopping")
    pid = process_id(app)
    assert pid is not None
    wait_until(lambda: stopping.is_alive and ask(app, "/") == (200, "node-a"))
    os.kill(pid, signal.SIGKILL)
    assert stopping.wait(PATIENCE_S) == 0


def test_one_that_crashes_leaves_its_process_id_and_can_be_started_again(app: Legacy) -> None:
    start(app)
    app.wish(legacyserver.CRASH)
    wait_until(lambda: running(app.shared) == [])
    assert (app.folder / legacyserver.PID_FILE).exists()
    app.unwish(legacyserver.CRASH)
    start(app)


def test_a_sick_one_fails_its_page_and_nothing_else(app: Legacy) -> None:
    start(app)
    app.wish(legacyserver.SICK)
    assert ask(app, "/healthz") == (500, "sick")
    assert ask(app, "/") == (200, "node-a")
    assert passes(app, STATUS)
    app.unwish(legacyserver.SICK)
    assert ask(app, "/healthz") == (200, "node-a")


def test_a_replaced_hook_is_restored(app: Legacy) -> None:
    app.replace(STATUS, legacy.PASSING)
    assert passes(app, STATUS)
    app.replace(STATUS, legacy.FAILING)
    assert why(app, STATUS) == "told to fail"
    app.be_well()
    assert why(app, STATUS) == "it does not run"


def test_a_hook_writes_down_when_it_begins_and_how_it_ends_once_it_is_told_to(app: Legacy) -> None:
    start(app)
    assert app.steps(since_ns=0) == []
    app.trace()
    since_ns = time.monotonic_ns()
    app.run(STOP)
    assert not passes(app, STATUS)
    steps = app.steps(since_ns=since_ns)
    assert [(step.hook, step.status) for step in steps] == [
        (STOP, None),
        (STOP, 0),
        (STATUS, None),
        (STATUS, 1),
    ]
    assert all(since_ns < step.at_ns < time.monotonic_ns() for step in steps)
    assert app.steps(since_ns=time.monotonic_ns()) == []
