"""How a process ends that is told to."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from viphealth import ending

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 5.0


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give the process of the tests its own handlers back."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_is_told_to_end_may_have_a_lock_that_ending_needs(number: signal.Signals) -> None:
    lock, ended = threading.Lock(), threading.Event()
    outcomes = []

    def stop() -> None:
        outcomes.append(lock.acquire(timeout=PATIENCE_S))
        ended.set()

    ending.end_by(stop)
    with lock:
        signal.raise_signal(number)
    assert ended.wait(PATIENCE_S)
    assert outcomes == [True]
