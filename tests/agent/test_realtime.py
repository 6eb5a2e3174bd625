"""What a real-time loop starts is an ordinary process, and starting it does not hold the loop up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from agent.segment import VIP4
from vipagent import realtime
from vipagent.announcer import Announced, Announcer, FramesUnavailable
from vipagent.nodeview import LinkIndex

if TYPE_CHECKING:
    from collections.abc import Callable

IN_REAL_TIME = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
TELL_POLICY = "import os, sys; sys.exit(f'policy {os.sched_getscheduler(0)}')"


def in_real_time(deed: Callable[[], object], *, processors: set[int] | None = None) -> None:
    """Do something in a thread with the scheduling of the keeper's loop."""
    broken: list[BaseException] = []

    def act() -> None:
        try:
            os.sched_setscheduler(0, IN_REAL_TIME, os.sched_param(10))
            os.sched_setaffinity(0, processors or os.sched_getaffinity(0))
            deed()
            assert os.sched_getscheduler(0) == IN_REAL_TIME
        except BaseException as error:  # noqa: BLE001 - it is the test's outcome
            broken.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
    if broken:
        raise broken[0]


@pytest.mark.parametrize("processors", [None, {0}], ids=["all processors", "one processor"])
def test_a_child_is_no_real_time_process(processors: set[int] | None) -> None:
    def start() -> None:
        with realtime.spawn(
            [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
        ) as child:
            assert os.sched_getscheduler(child.pid) in (os.SCHED_OTHER, os.SCHED_BATCH)

    in_real_time(start, processors=processors)


def test_the_process_that_builds_frames_is_no_real_time_process() -> None:
    def start() -> None:
        announcer = Announcer.open((sys.executable, "-c", TELL_POLICY))
        wanted = [Announced(LinkIndex(1), "02:00:00:00:00:01", VIP4)]
        with pytest.raises(FramesUnavailable, match=rf"policy ({os.SCHED_OTHER}|{os.SCHED_BATCH})$"):
            asyncio.run(announcer.prepare(wanted))
        announcer.close()

    in_real_time(start)


def test_starting_a_child_on_a_busy_machine_does_not_hold_the_loop_up() -> None:
    def start() -> None:
        took_s = []
        for _ in range(16):
            before_s = time.perf_counter()
            child = realtime.spawn(["/bin/true"])
            took_s.append(time.perf_counter() - before_s)
            child.wait()
        sys.stdout.write(f"starts took {[round(1000 * each, 1) for each in sorted(took_s)]} ms\n")
        assert sorted(took_s)[-4] < 0.010, "at most three were held up by the machine itself"

    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        in_real_time(start)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


class Ring:
    """Something that only the garbage collector removes."""

    def __init__(self) -> None:
        self.own = self


def test_what_was_in_use_while_others_were_collected_goes_when_all_is() -> None:
    garbage = realtime.GarbageCollector()
    ring = Ring()
    ring_or_none = weakref.ref(ring)
    for _ in range(2):
        garbage.collect()
    del ring
    for _ in range(2, garbage.TIMES_TO_ALL - 1):
        garbage.collect()
    assert ring_or_none() is not None
    garbage.collect()
    assert ring_or_none() is None
