"""Damping of checks that keep turning: stories in results and seconds, and laws over random ones."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent.health import (
    FLAP_WINDOW_S,
    FORGIVEN_S,
    GATEWAY,
    LEAST_DAMPING_S,
    LOWEST_SCORE,
    MESSAGE_HOLD_S,
    MOST_DAMPING_S,
    Definition,
    Health,
    Result,
    Standing,
    Subject,
    receive,
)
from vipapi.healthchecks import HealthCheck, TCPSocket

if TYPE_CHECKING:
    from collections.abc import Iterable

OK = Result(is_ok=True)
NO = Result(is_ok=False, message="refused")
CHECK = HealthCheck(name="app", tcp_socket=TCPSocket(port=80), failure_threshold=1, success_threshold=1)
DEFINITION = Definition.of(CHECK)
NOON_S = 12 * 3600.0


class Check:
    """One check that is probed each second, and says how long it took to pass."""

    def __init__(self, definition: Definition = DEFINITION) -> None:
        self.definition = definition
        self.now = 0.0
        self.standing = receive(Standing(), definition, OK, now=0.0, epoch_s=NOON_S)
        self.messages: list[tuple[float, str]] = []

    def feed(self, result: Result, seconds: float = 1.0) -> None:
        """Results of one kind, for so long."""
        for _ in range(int(seconds)):
            self.now += 1
            before = self.standing.message
            self.standing = receive(self.standing, self.definition, result, now=self.now, epoch_s=NOON_S)
            if self.standing.message not in ("", before):
                self.messages.append((self.now, self.standing.message))

    def passes_after(self) -> int:
        """Seconds of success until it counts as passing."""
        for second in range(2000):
            self.feed(OK)
            if self.standing.verdict == "Passing":
                return second
        raise AssertionError("it never passes")

    def fall(self) -> int:
        """Fail for a second, and say how long it takes until it counts as passing again."""
        self.feed(NO)
        return self.passes_after()


def test_from_the_third_fall_on_it_must_pass_for_longer_and_longer() -> None:
    check = Check()
    assert [check.fall() for _ in range(9)] == [0, 0, 30, 60, 120, 240, 480, 600, 600]


def test_falls_that_are_far_apart_are_not_damped() -> None:
    check = Check()
    for _ in range(6):
        check.feed(OK, FLAP_WINDOW_S / 2)
        assert check.fall() == 0


def test_a_single_failure_begins_the_row_anew() -> None:
    check = Check()
    check.fall()
    check.fall()
    patient = dataclasses.replace(DEFINITION, fall=3)
    check.feed(NO)
    check.definition = patient
    check.feed(OK, 29)
    check.feed(NO)
    assert (check.standing.is_damped, check.standing.verdict) == (True, "Failing")
    assert check.passes_after() == LEAST_DAMPING_S


def test_a_fall_while_damped_doubles_the_damping() -> None:
    check = Check()
    check.fall()
    check.fall()
    check.feed(NO)
    check.feed(OK, 10)
    assert check.fall() == 2 * LEAST_DAMPING_S


def test_after_half_an_hour_without_a_fall_all_is_forgiven() -> None:
    check = Check()
    for _ in range(4):
        check.fall()
    check.feed(OK, FORGIVEN_S)
    assert [check.fall(), check.fall(), check.fall()] == [0, 0, 30]


def test_what_failed_for_longer_than_is_remembered_comes_back_at_once() -> None:
    check = Check()
    for _ in range(5):
        check.fall()
    check.feed(NO, FORGIVEN_S)
    assert check.passes_after() == 0


def test_a_damped_check_says_until_when_and_not_each_second() -> None:
    check = Check()
    for _ in range(3):
        check.fall()
    told = [message for _, message in check.messages if "until about" in message]
    assert told == ["it turned too often: though it passes now it counts as failing until about 12:00:40 UTC"]
    assert check.standing.message == ""


def test_the_time_that_is_told_follows_when_the_row_begins_anew() -> None:
    check = Check()
    for _ in range(3):
        check.fall()
    check.definition = dataclasses.replace(DEFINITION, fall=3)
    check.feed(NO, 3)
    for _ in range(20):
        check.feed(OK, 10)
        check.feed(NO, 1)
    told = [at for at, message in check.messages if "until about" in message]
    assert len(told) > 3
    assert all(later - earlier >= MESSAGE_HOLD_S for earlier, later in itertools.pairwise(told))


def test_presumed_checks_are_not_damped() -> None:
    for definition in (GATEWAY, dataclasses.replace(DEFINITION, is_presumed=True)):
        check = Check(dataclasses.replace(definition, rise=1, fall=1))
        assert [check.fall() for _ in range(6)] == [0] * 6


def health_of(*checks: HealthCheck) -> Health:
    health = Health()
    health.update([Subject(uid="v", priority=100, checks=checks)])
    return health


def turn(health: Health, definition: Definition, results: Iterable[Result], *, since: float) -> None:
    for second, result in enumerate(results):
        health.receive(definition, result, now=since + second)


def test_a_damped_node_is_the_last_resort_and_no_more() -> None:
    """A check that fails for good reason on all candidates keeps the address down no longer than it fails."""
    health = health_of(CHECK)
    turn(health, DEFINITION, [OK, NO, OK, NO, OK, NO], since=0)
    failing = health.fitness("v")
    assert failing is not None
    assert (failing.fit, failing.reason) == ("Unfit", "CheckFailed")
    assert health.receive(DEFINITION, OK, now=6.0)
    damped = health.fitness("v")
    assert damped is not None
    assert (damped.fit, damped.score, damped.reason) == ("Fit", LOWEST_SCORE, "CheckDamped")
    assert "app: it turned too often" in damped.message
    assert [status.result for status in damped.checks] == ["Failing"]
    turn(health, DEFINITION, [OK] * 31, since=7)
    well = health.fitness("v")
    assert well is not None
    assert (well.fit, well.score, well.reason) == ("Fit", 100, "")


def test_a_check_that_fails_beside_one_that_is_damped_makes_the_node_unfit() -> None:
    other = HealthCheck(name="db", tcp_socket=TCPSocket(port=5432))
    health = health_of(CHECK, other)
    turn(health, DEFINITION, [OK, NO, OK, NO, OK, NO, OK], since=0)
    health.receive(Definition.of(other), NO, now=7.0)
    fitness = health.fitness("v")
    assert fitness is not None
    assert (fitness.fit, fitness.reason) == ("Unfit", "CheckFailed")


@pytest.mark.parametrize(("weight", "score"), [(20, 100), (-20, 80)])
def test_a_damped_check_counts_by_its_weight_as_failing(weight: int, score: int) -> None:
    health = health_of(HealthCheck("app", weight, None, None, 1, 1, tcp_socket=TCPSocket(port=80)))
    turn(health, DEFINITION, [OK, NO, OK, NO, OK, NO, OK], since=0)
    fitness = health.fitness("v")
    assert fitness is not None
    assert (fitness.fit, fitness.score, fitness.reason) == ("Fit", score, "")


def test_what_is_not_known_yet_leaves_things_as_they_are() -> None:
    unknown = Result(is_ok=False, is_known=False, message="not told yet")
    new = receive(Standing(), DEFINITION, unknown, now=0.0)
    assert (new.verdict, new.message) == ("Unknown", "not told yet")
    for result in (OK, NO):
        known = receive(new, DEFINITION, result, now=1.0)
        assert known.verdict == ("Passing" if result.is_ok else "Failing")
        assert receive(known, DEFINITION, unknown, now=2.0) == known
    health = health_of(CHECK)
    assert health.receive(DEFINITION, unknown, now=0.0)
    fitness = health.fitness("v")
    assert fitness is not None
    assert (fitness.reason, fitness.message) == (
        "CheckPending",
        "required checks not finished yet: app: not told yet",
    )


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.lists(st.tuples(st.booleans(), st.floats(0.5, 400.0)), max_size=80),
)
def test_damping_only_ever_delays_a_pass_and_never_for_long(
    rise: int, fall: int, history: list[tuple[bool, float]]
) -> None:
    definition = dataclasses.replace(DEFINITION, rise=rise, fall=fall)
    presumed = dataclasses.replace(definition, is_presumed=True)  # the same, never damped
    damped = plain = Standing()
    now = 0.0
    row_since: float | None = None
    for is_ok, after_s in history:
        now += after_s
        row_since = (now if row_since is None else row_since) if is_ok else None
        damped = receive(damped, definition, OK if is_ok else NO, now=now)
        plain = receive(plain, presumed, OK if is_ok else NO, now=now)
        assert (damped.verdict == "Passing" or damped.is_damped) == (plain.verdict == "Passing")
        assert damped.damping_s in (0, *(min(MOST_DAMPING_S, LEAST_DAMPING_S * 2**n) for n in range(6)))
        if damped.is_damped:
            assert damped.verdict == "Failing"
            assert damped.message
            assert row_since is None or now - row_since < damped.damping_s
            assert now - damped.falls[-1] < FORGIVEN_S or not is_ok
        if damped.verdict == "Passing":
            assert damped.message == ""


@given(st.lists(st.tuples(st.booleans(), st.floats(0.5, 60.0)), max_size=80))
def test_without_three_falls_in_ten_minutes_nothing_is_damped(history: list[tuple[bool, float]]) -> None:
    standing = Standing()
    now = 0.0
    falls: list[float] = []
    for is_ok, after_s in history:
        now += after_s
        if standing.verdict != "Unknown" and not is_ok and (standing.verdict == "Passing"):
            falls.append(now)
        standing = receive(standing, DEFINITION, OK if is_ok else NO, now=now)
        has_flapped = any(
            third - first <= FLAP_WINDOW_S for first, third in zip(falls, falls[2:], strict=False)
        )
        assert has_flapped or not standing.is_damped
