"""Events that are told beside the writes that they belong to."""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from vipapi.resources import ObjectMeta
from vipcluster.client import Unavailable
from vipcontroller.crier import Crier
from vipcontroller.writes import FinalizerWrite, Telling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vipcontroller.crier import News

PATIENCE_S = 20.0


class Square:
    """Where Events are told; who is named in `refused` is refused, and nobody is heard while it is shut."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.times: list[datetime] = []
        self.results: list[tuple[str, str]] = []
        self.refused: dict[str, Exception] = {}
        self.is_open = threading.Event()
        self.is_open.set()
        self.is_reached = threading.Event()

    def tell(self, news: News) -> None:
        self.is_reached.set()
        assert self.is_open.wait(PATIENCE_S)
        if news.telling.note in self.refused:
            raise self.refused[news.telling.note]
        self.heard.append(news.telling.note)
        self.times.append(news.at)

    def count(self, kind: str, result: str) -> None:
        self.results.append((kind, result))


@pytest.fixture
def square() -> Square:
    return Square()


@pytest.fixture
def crier(square: Square) -> Iterator[Crier]:
    found = Crier(square.tell, count=square.count, longest=3)
    found.start()
    yield found
    square.is_open.set()
    found.stop()


def write(*notes: str) -> FinalizerWrite:
    tellings = tuple(Telling(type="Normal", action="Elect", reason="Elected", note=note) for note in notes)
    metadata = ObjectMeta(name="web", uid="u")
    return FinalizerWrite(kind="VirtualIP", metadata=metadata, finalizers=(), tellings=tellings)


def test_whoever_tells_does_not_wait_and_all_is_told_in_its_order_before_the_end(
    square: Square, crier: Crier
) -> None:
    square.is_open.clear()
    crier.tell(write("one", "two"))
    crier.tell(write("three"))
    assert square.heard == []
    square.is_open.set()
    crier.stop(PATIENCE_S)
    assert square.heard == ["one", "two", "three"]
    assert square.results == [("Normal", "ok")] * 3


@pytest.mark.parametrize("refusal", [Unavailable("away"), ValueError("unheard of")], ids=["away", "broken"])
def test_an_event_that_cannot_be_told_is_logged_and_holds_no_other_up(
    square: Square, crier: Crier, caplog: pytest.LogCaptureFixture, refusal: Exception
) -> None:
    square.refused["one"] = refusal
    with caplog.at_level(logging.WARNING, "vipcontroller"):
        crier.tell(write("one", "two"))
        crier.stop(PATIENCE_S)
    assert square.heard == ["two"]
    assert square.results == [("Normal", "error"), ("Normal", "ok")]
    assert "Could not tell an Event about VirtualIP web" in caplog.text


def test_an_event_has_the_time_of_what_it_tells_of_however_long_it_waits(
    square: Square, crier: Crier
) -> None:
    square.is_open.clear()
    crier.tell(write("one"))
    assert square.is_reached.wait(PATIENCE_S)
    crier.tell(write("two"))
    waits_since = datetime.now(UTC)
    square.is_open.set()
    crier.stop(PATIENCE_S)
    assert square.times == sorted(square.times)
    assert square.times[-1] <= waits_since


def test_what_waits_keeps_no_write_in_memory(square: Square, crier: Crier) -> None:
    square.is_open.clear()
    told = write("one", "two")
    references = sys.getrefcount(told)
    crier.tell(told)
    assert square.is_reached.wait(PATIENCE_S)
    assert sys.getrefcount(told) == references


def test_where_too_many_wait_the_oldest_are_lost_and_counted(square: Square, crier: Crier) -> None:
    square.is_open.clear()
    crier.tell(write("told at once"))
    assert square.is_reached.wait(PATIENCE_S)
    crier.tell(write("one", "two", "three", "four"))
    square.is_open.set()
    crier.stop(PATIENCE_S)
    assert square.heard == ["told at once", "two", "three", "four"]
    assert square.results == [("Normal", "error"), *[("Normal", "ok")] * 4]


def test_the_end_waits_for_no_more_than_it_has_time_for_and_says_what_was_not_told(
    square: Square, crier: Crier, caplog: pytest.LogCaptureFixture
) -> None:
    square.is_open.clear()
    crier.tell(write("one", "two"))
    assert square.is_reached.wait(PATIENCE_S)
    with caplog.at_level(logging.WARNING, "vipcontroller"):
        crier.stop(0.0)
    assert caplog.messages == ["Events that were not told before the end: 1"]
    square.is_open.set()
    crier.stop(PATIENCE_S)
    assert square.heard == ["one"]
