"""When an address is announced again."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vipagent.announcement import AGAIN_S, again_in_s, due_s

UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


@pytest.mark.parametrize(
    ("count", "refresh_s", "expected"),
    [
        pytest.param(5, 60, [0.0, 0.02, 0.1, 0.5, 1.1, 61.1, 121.1], id="the burst, then each minute"),
        pytest.param(1, 10, [0.0, 10.0, 20.0], id="a single one"),
        pytest.param(3, 10, [0.0, 0.02, 0.1, 10.1, 20.1], id="a short burst"),
        pytest.param(7, 60, [0.0, 0.02, 0.1, 0.5, 1.1, 2.1, 3.1, 63.1], id="a long burst"),
    ],
)
def test_an_address_is_announced_in_a_burst_and_then_at_intervals(
    count: int, refresh_s: int, expected: list[float]
) -> None:
    times = [due_s(sent, count=count, refresh_s=refresh_s) for sent in range(len(expected))]
    assert times == pytest.approx(expected)


@UNHURRIED
@given(st.integers(1, 20), st.integers(1, 3600))
def test_announcements_never_go_back_in_time(count: int, refresh_s: int) -> None:
    times = [due_s(sent, count=count, refresh_s=refresh_s) for sent in range(40)]
    assert all(earlier < later for earlier, later in pairwise(times))


def test_a_burst_begins_anew_at_once_and_then_not_before_its_time() -> None:
    assert again_in_s(7.0, None) == 0.0
    assert again_in_s(7.5, 7.0) == AGAIN_S - 0.5
    assert again_in_s(7.0 + 2 * AGAIN_S, 7.0) == 0.0
