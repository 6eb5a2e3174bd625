"""How often the controller looks at everything while nothing happens."""

from __future__ import annotations

import pytest

from vipcontroller.__main__ import (
    IDLE_S,
    IDLE_SHARE,
    LONGEST_IDLE_S,
    LONGEST_REST_S,
    SILENCE_S,
    longest_idle_s,
    rest_s,
)


@pytest.mark.parametrize(
    ("look_s", "idle_s"),
    [
        pytest.param(0.005, IDLE_S, id="small-world"),
        pytest.param(0.2, 4.0, id="big-world"),
        pytest.param(5.0, LONGEST_IDLE_S, id="world-that-is-too-big"),
    ],
)
def test_looks_at_a_world_that_stays_as_it_is_come_the_more_rarely_the_longer_they_take(
    look_s: float, idle_s: float
) -> None:
    assert longest_idle_s(look_s) == pytest.approx(idle_s)
    assert look_s / longest_idle_s(look_s) <= IDLE_SHARE or longest_idle_s(look_s) == LONGEST_IDLE_S


def test_a_loop_that_only_waits_is_not_taken_for_one_that_hangs() -> None:
    assert LONGEST_IDLE_S < SILENCE_S / 2


def test_a_write_that_failed_is_tried_again_as_soon_in_a_big_world_as_in_a_small_one() -> None:
    assert longest_idle_s(5.0, has_failed=True) == longest_idle_s(0.0) == IDLE_S


@pytest.mark.parametrize(
    ("look_s", "expected_s"),
    [
        pytest.param(0.005, 0.005, id="small-world"),
        pytest.param(0.3, 0.3, id="big-world"),
        pytest.param(5.0, LONGEST_REST_S, id="world-that-is-too-big"),
    ],
)
def test_news_gather_for_as_long_as_a_look_takes(look_s: float, expected_s: float) -> None:
    assert rest_s(look_s) == pytest.approx(expected_s)
