from __future__ import annotations

import ast
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipapi import conditions
from vipapi.conditions import Condition, Reason, Status, find, is_true, merge, set_condition

NOON = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def ready(status: Status, *, at: datetime = NOON, reason: str = "Held", message: str = "") -> Condition:
    return Condition("Ready", status, reason, message, at, 1)


def test_a_status_that_stays_keeps_its_time() -> None:
    before = (ready("True"),)
    [after] = set_condition(before, "Ready", "True", reason="Held", message="new", now=LATER, generation=2)
    assert after == Condition("Ready", "True", "Held", "new", NOON, 2)


def test_a_status_that_changes_takes_the_new_time() -> None:
    [after] = set_condition((ready("True"),), "Ready", "False", reason="NoOwner", message="", now=LATER)
    assert (after.status, after.last_transition_time) == ("False", LATER)


def test_times_are_whole_seconds_in_utc() -> None:
    odd = datetime.fromisoformat("2026-01-01T14:00:00.987+02:00")
    [after] = set_condition((), "Ready", "True", reason="Held", message="", now=odd)
    assert after.last_transition_time == NOON


@pytest.mark.parametrize("kind", sorted(conditions.ABNORMAL))
def test_an_abnormal_condition_is_there_only_while_true(kind: str) -> None:
    there = set_condition((), kind, "True", reason="Electing", message="", now=NOON)
    assert is_true(there, kind)
    assert set_condition(there, kind, "False", reason="Held", message="", now=LATER) == ()
    assert set_condition(there, kind, "Unknown", reason="Held", message="", now=LATER) == ()
    gone = Condition(kind, "False", "Held", "", NOON)
    assert merge(there, [gone]) == ()


def test_a_condition_keeps_its_place() -> None:
    three = tuple(Condition(kind, "True", "Held", "", NOON) for kind in ("Ready", "Owned", "Bound"))
    after = set_condition(three, "Owned", "False", reason="NoOwner", message="", now=LATER)
    assert [condition.type for condition in after] == ["Ready", "Owned", "Bound"]
    assert [condition.status for condition in after] == ["True", "False", "True"]


def test_merging_drops_what_is_no_longer_said_and_keeps_old_times() -> None:
    old = (ready("True"), Condition("Owned", "True", "Owned", "", NOON))
    assert merge(old, [ready("True", at=LATER, message="still")]) == (ready("True", message="still"),)


def test_a_message_too_long_for_the_api_is_cut() -> None:
    [after] = set_condition((), "Ready", "False", reason="NoOwner", message="x" * 40000, now=NOON)
    assert len(after.message) == 32768
    assert after.message.endswith("…")


STATUSES: st.SearchStrategy[Status] = st.sampled_from(["True", "False", "Unknown"])


@given(st.lists(st.tuples(st.sampled_from(["Ready", "Owned", "Stalled"]), STATUSES), max_size=8))
def test_any_history_ends_as_its_last_words(history: list[tuple[str, Status]]) -> None:
    now = NOON
    found: tuple[Condition, ...] = ()
    for kind, status in history:
        now += timedelta(seconds=1)
        found = set_condition(found, kind, status, reason="Held", message="", now=now)
        again = set_condition(found, kind, status, reason="Held", message="", now=now + timedelta(hours=1))
        assert again == found, "a second look at the same world changes nothing"
    for kind, status in dict(history).items():
        last = find(found, kind)
        if kind == "Stalled" and status != "True":
            assert last is None
        else:
            assert last is not None
            assert last.status == status
    assert len({condition.type for condition in found}) == len(found)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_is_one_camel_case_word_named_like_its_constant(reason: Reason) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z]*", reason.value)
    assert reason.name.replace("_", "").lower() == reason.value.lower()


def test_every_reason_says_what_it_means() -> None:
    tree = ast.parse(Path(conditions.__file__).read_text())
    [listed] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Reason"]
    body = listed.body[1:]
    assert len(body) == 2 * len(Reason)
    for constant, text in zip(body[::2], body[1::2], strict=True):
        assert isinstance(constant, ast.Assign)
        assert isinstance(text, ast.Expr), ast.unparse(constant)
        assert isinstance(text.value, ast.Constant), ast.unparse(constant)
