"""How often a courier writes its node's report while it keeps changing."""

from __future__ import annotations

import pytest

from vipcourier.courier import LONGEST_WRITE_PAUSE_S, WRITE_PAUSE_S, next_write_pause_s


def test_the_longer_news_keep_coming_the_more_of_them_one_write_tells() -> None:
    pauses = [WRITE_PAUSE_S]
    for _ in range(8):
        pauses.append(next_write_pause_s(pauses[-1], is_busy=True))
    assert pauses == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0])
    assert pauses[-1] == LONGEST_WRITE_PAUSE_S


def test_after_a_moment_without_news_what_changes_is_written_at_once() -> None:
    assert next_write_pause_s(LONGEST_WRITE_PAUSE_S, is_busy=False) == WRITE_PAUSE_S
