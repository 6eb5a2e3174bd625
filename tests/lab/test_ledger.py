"""What the benchmark writes down is what is read again, and what makes a run of it fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from lab import ledger
from lab.ledger import Beside, Failover, Failure, Idle, Ledger, Machine, Settings

if TYPE_CHECKING:
    from pathlib import Path

CAME = Failover(
    case="node death",
    profile="Fast",
    limits="max ≤ 450 ms",
    load="cpu",
    number=1,
    before="node-a",
    after="node-b",
    outage_ms=301.5,
    hiccup_ms=2.0,
    overlaps=0,
    is_safe=True,
)
SHARED = Beside(
    who="keepalived",
    fault="daemon frozen",
    number=1,
    before="node-a",
    after="node-b",
    outage_ms=ledger.finite(float("inf")),
    shared_ms=900.5,
    hiccup_ms=3.25,
    took_s=9.5,
)
EVERY: list[ledger.Entry] = [
    Machine(at="2026-01-02", processors=2, kernel="Linux 6.1", keepalived="Keepalived v2"),
    Settings(who="keepalived", language="text", text="vrrp {\n}\n"),
    CAME,
    SHARED,
    Idle(who="keepalived", part="daemon", resident_mb=9.5, core=0.25),
    Failure(of="keepalived: daemon frozen", message="waited, in vain"),
]


def test_what_is_written_down_is_read_again_and_a_second_run_goes_on_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "figures.jsonl"
    for part in (EVERY[:2], EVERY[2:]):
        with Ledger(path) as book:
            for number, entry in enumerate(part, start=1):
                book.add(entry)
                assert book.entries == part[:number] == ledger.read(path)[-number:]
    assert ledger.read(path) == EVERY


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "figures.jsonl"
    with Ledger(path) as book:
        for entry in EVERY:
            book.add(entry)
    path.write_bytes(path.read_bytes()[:-5])
    assert ledger.read(path) == EVERY[:-1]


def test_a_run_behind_a_line_that_was_cut_short_is_read(tmp_path: Path) -> None:
    path = tmp_path / "figures.jsonl"
    path.write_bytes(b'{"type":"idle","who":"ke')
    with Ledger(path) as book:
        book.add(CAME)
    assert ledger.read(path) == [CAME]


@pytest.mark.parametrize("text", ["ready\n", '{"type":"other"}\n', '{"type":"idle","who":"x"}\n'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"JSON|Invalid|missing"):
        ledger.read(path)


@pytest.mark.parametrize(
    ("entry", "is_safe"),
    [
        pytest.param(CAME, True, id="a failover as it must be"),
        pytest.param(msgspec.structs.replace(CAME, is_safe=False), False, id="an unsafe failover"),
        pytest.param(SHARED, True, id="two owners, but not ours"),
        pytest.param(msgspec.structs.replace(SHARED, who="vipkeeper, Fast"), False, id="two owners of ours"),
        pytest.param(
            msgspec.structs.replace(SHARED, who="vipkeeper, Fast", shared_ms=0.0),
            True,
            id="one owner of ours",
        ),
        pytest.param(
            msgspec.structs.replace(SHARED, who="vipkeeper, Fast", shared_ms=0.0, after=None),
            False,
            id="nobody of ours came",
        ),
        pytest.param(EVERY[-1], True, id="another did not come to rest"),
        pytest.param(
            Failure(of="vipkeeper, Fast: frozen", message=""), False, id="ours did not come to rest"
        ),
    ],
)
def test_the_benchmark_fails_by_what_vipkeeper_did_alone(entry: ledger.Entry, is_safe: bool) -> None:  # noqa: FBT001
    assert ledger.is_safe([*EVERY, entry]) is is_safe
