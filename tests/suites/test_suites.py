"""What is made of what many pytests say: nothing that failed may be lost, and no folder left out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from suites import (
    ALONE,
    ELSEWHERE,
    LONGEST_FIRST,
    ROOT,
    Processors,
    Report,
    folders,
    is_well,
    read,
    summary,
)

FAILED = """\
collected 3 items
>       raise ValueError
FAILED to say something
=========================== short test summary info ============================
FAILED tests/agent/test_lease.py::test_it[a b] - assert 1 == 2
and 2 failed, 7 passed in 8.00s
ERROR tests/agent/test_seat.py::test_other - OSError
============= 1 failed, 1 passed, 1 error in 2139.81s (0:35:39) ================
""".splitlines()


def passed(many: int) -> Report:
    return read("api", 0, [f"============== {many} passed in 0.10s =============="])


def test_how_busy_the_processors_were_is_said() -> None:
    before = Processors.read("cpu  100 10 40 800 20 5 5 20 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n")
    after = Processors.read("cpu  150 10 60 900 20 10 10 40 0 0\n")
    assert before == Processors(busy=160, stolen=20, total=1000)
    assert after.since(before) == "busy for 40% of the time, taken away by the host for 10.0%"
    assert before.since(before) == "busy for 0% of the time, taken away by the host for 0.0%"


def test_what_failed_is_named_and_all_is_counted() -> None:
    report = read("agent", 1, FAILED)
    assert report == Report(
        1,
        Counter(failed=1, passed=1, error=1),
        (
            "FAILED tests/agent/test_lease.py::test_it[a b] - assert 1 == 2",
            "ERROR tests/agent/test_seat.py::test_other - OSError",
        ),
    )
    assert not is_well([report, passed(7)])
    said = summary([report, passed(7)], 3725.4).splitlines()
    assert tuple(said[1:-1]) == report.failures
    assert said[-1].strip("= ") == "1 failed, 1 error, 8 passed in 3725.40s (1:02:05)"


@pytest.mark.parametrize("status", [2, 3, 4, -9])
def test_a_pytest_that_ends_in_another_way_has_failed(status: int) -> None:
    report = read("api", status, ["Segmentation fault"])
    assert report.failures == (f"ERROR tests/api - pytest ended with status {status}",)
    assert not is_well([passed(1), report])


def test_a_folder_of_which_nothing_is_collected_has_failed() -> None:
    none = read("lab", int(pytest.ExitCode.NO_TESTS_COLLECTED), ["=== no tests ran in 0.01s ==="])
    assert none.failures == ("ERROR tests/lab - pytest ended with status 5",)
    assert not is_well([passed(1), none])
    assert not is_well([])


MAIN = "import pathlib, sys, suites; sys.exit(suites.main(pathlib.Path(sys.argv[1])))"
HANGS = """
import os, pathlib, signal
def test_it():
    pathlib.Path(os.environ["STARTED"]).write_text(str(os.getpid()))
    while True:
        signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_ended_ends_every_pytest_and_still_says_what_failed(tmp_path: Path, number: int) -> None:
    for name, text in (("first", "def test_it(): assert False"), ("hangs", HANGS), ("lab", "not run")):
        (tmp_path / "tests" / name).mkdir(parents=True)
        (tmp_path / "tests" / name / f"test_{name}.py").write_text(text)
    started = tmp_path / "started"
    os.mkfifo(started)
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, tmp_path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "STARTED": str(started), "PYTHONPATH": str(ROOT / "tests")},
    )
    with process:
        assert process.stdout is not None
        hanging = int(started.read_text())
        said = []
        for line in process.stdout:
            said.append(line.rstrip("\n"))
            if len(said) > 1 and line.startswith("=") and " 1 failed in " in line:
                process.send_signal(number)
                break
        said += process.stdout.read().splitlines()
    assert process.returncode == 128 + number
    assert not Path(f"/proc/{hanging}").exists()
    assert [line.split(" - ")[0] for line in said[-3:-1]] == [
        "FAILED tests/first/test_first.py::test_it", "ERROR tests/hangs"
    ]  # fmt: skip
    assert said[-1].strip("= ").startswith("1 failed in ")


def test_every_folder_with_tests_is_run(tmp_path: Path) -> None:
    for name in ("simulation", "zeta", "lab", "e2e", "kernels", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "test_it.py").touch()
    (tmp_path / "stages").mkdir()
    assert folders(tmp_path) == ["simulation", "deep", "zeta"]


def test_the_folders_that_are_named_exist() -> None:
    for name in (*LONGEST_FIRST, ALONE, *ELSEWHERE):
        assert list((ROOT / "tests" / name).glob("test_*.py")), name
