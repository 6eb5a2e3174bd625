"""What is made of what many pytests say: nothing that failed may be lost, and no folder left out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from suites import (
    ALONE,
    ELSEWHERE,
    LONGEST_FIRST,
    NOTHING_COLLECTED,
    ROOT,
    Report,
    folders,
    is_well,
    read,
    summary,
)

if TYPE_CHECKING:
    from pathlib import Path

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


def test_a_folder_of_which_nothing_is_collected_is_well_and_all_of_them_are_not() -> None:
    none = read("api", NOTHING_COLLECTED, ["=== no tests ran in 0.01s ==="])
    assert is_well([passed(1), none])
    assert not is_well([none])


def test_every_folder_with_tests_is_run(tmp_path: Path) -> None:
    for name in ("simulation", "zeta", "lab", "e2e", "deep/er"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "test_it.py").touch()
    (tmp_path / "stages").mkdir()
    assert folders(tmp_path) == ["simulation", "deep", "zeta"]


def test_the_folders_that_are_named_exist() -> None:
    for name in (*LONGEST_FIRST, ALONE, *ELSEWHERE):
        assert list((ROOT / "tests" / name).glob("test_*.py")), name
