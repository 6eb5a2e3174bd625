"""When checks are probed: on a grid, apart from one another, never beside themselves."""

from __future__ import annotations

import heapq
import itertools

from hypothesis import given
from hypothesis import strategies as st

from vipagent.schedule import STAGGER_S, Schedule

ALL = 10**6


def simulate(
    schedule: Schedule[str], lasts_s: dict[str, float], *, until: float, limit: int = ALL
) -> list[tuple[float, str]]:
    """Run the schedule in virtual time with probes of the given lengths; return every start."""
    starts: list[tuple[float, str]] = []
    ends: list[tuple[float, int, str]] = []
    order = itertools.count()
    now = 0.0
    while True:
        for key in schedule.start(now, limit=limit):
            starts.append((now, key))
            heapq.heappush(ends, (now + lasts_s[key], next(order), key))
        nexts = [end for end, _, _ in ends[:1]]
        if schedule.deadline is not None and schedule.running_count < limit:
            nexts.append(max(now, schedule.deadline))
        if not nexts or min(nexts) > until:
            return starts
        now = min(nexts)
        while ends and ends[0][0] <= now:
            schedule.finish(heapq.heappop(ends)[2], now=now)


def times(starts: list[tuple[float, str]], key: str) -> list[float]:
    return [round(at, 6) for at, started in starts if started == key]


def test_the_first_check_runs_at_once() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 1.0}, now=5.0)
    assert schedule.start(5.0, limit=ALL) == ["a"]


def test_checks_that_come_together_do_not_fire_together() -> None:
    schedule: Schedule[str] = Schedule()
    keys = {f"k{n}": 1.0 for n in range(400)}
    schedule.update(keys, now=0.0)
    starts = simulate(schedule, dict.fromkeys(keys, 0.0005), until=3.5)
    instants = [round(at, 6) for at, _ in starts]
    assert len(set(instants)) == len(instants)
    assert max(at for at, _ in starts[:400]) < 400 * STAGGER_S + 1e-6


def test_a_period_is_counted_from_start_to_start() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 1.0}, now=0.0)
    starts = simulate(schedule, {"a": 0.7}, until=4.5)
    assert times(starts, "a") == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_a_probe_longer_than_its_period_is_followed_at_once_and_never_overlapped() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 1.0}, now=0.0)
    starts = simulate(schedule, {"a": 1.5}, until=6.2)
    assert times(starts, "a") == [0.0, 1.5, 3.0, 4.5, 6.0]


def test_a_frozen_process_probes_once_and_goes_on_in_its_place() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 1.0}, now=0.0)
    assert schedule.start(0.0, limit=ALL) == ["a"]
    schedule.finish("a", now=0.1)
    assert schedule.start(9.3, limit=ALL) == ["a"]
    schedule.finish("a", now=9.4)
    assert schedule.start(9.9, limit=ALL) == []
    assert schedule.deadline == 10.0


def test_a_hurried_check_runs_now_and_keeps_running() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 10.0}, now=0.0)
    schedule.start(0.0, limit=ALL)
    schedule.finish("a", now=0.1)
    schedule.hurry("a", now=3.0)
    assert schedule.start(3.0, limit=ALL) == ["a"]
    schedule.finish("a", now=3.1)
    assert schedule.deadline == 13.0


def test_a_check_hurried_while_it_runs_runs_again() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 10.0}, now=0.0)
    assert schedule.start(0.0, limit=ALL) == ["a"]
    schedule.hurry("a", now=0.5)
    assert schedule.start(0.5, limit=ALL) == []
    schedule.finish("a", now=0.6)
    assert schedule.start(0.6, limit=ALL) == ["a"]


def test_a_new_set_keeps_the_turn_of_what_stays() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 1.0, "b": 1.0}, now=0.0)
    schedule.start(0.0, limit=ALL)
    schedule.finish("a", now=0.1)
    schedule.update({"a": 1.0, "c": 1.0}, now=0.5)
    assert schedule.start(0.5, limit=ALL) == ["c"]
    assert schedule.deadline == 1.0


def test_a_check_that_leaves_and_returns_while_it_runs_does_not_overlap() -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update({"a": 1.0}, now=0.0)
    schedule.start(0.0, limit=ALL)
    schedule.update({}, now=0.1)
    schedule.update({"a": 1.0}, now=0.2)
    assert schedule.start(0.3, limit=ALL) == []
    schedule.finish("a", now=0.4)
    assert schedule.start(0.4, limit=ALL) == ["a"]


def test_no_more_than_the_limit_run_and_the_longest_due_go_first() -> None:
    schedule: Schedule[str] = Schedule()
    keys = {f"k{n}": 1.0 for n in range(6)}
    schedule.update(keys, now=0.0)
    assert schedule.start(1.0, limit=2) == ["k0", "k1"]
    assert schedule.start(1.0, limit=2) == []
    schedule.finish("k1", now=1.1)
    assert schedule.start(1.1, limit=2) == ["k2"]


@given(
    periods=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 20).map(lambda n: n / 10), min_size=1),
    lengths=st.lists(st.integers(0, 40).map(lambda n: n / 20), min_size=5, max_size=5),
    limit=st.integers(1, 5),
)
def test_every_check_has_its_turn_and_none_overlaps_itself(
    periods: dict[str, float], lengths: list[float], limit: int
) -> None:
    schedule: Schedule[str] = Schedule()
    schedule.update(periods, now=0.0)
    lasts_s = dict(zip("abcde", lengths, strict=True))
    starts = simulate(schedule, lasts_s, until=10.0, limit=limit)
    for key, period_s in periods.items():
        own = [at for at, started in starts if started == key]
        assert own
        gaps = [later - earlier for earlier, later in itertools.pairwise(own)]
        assert all(gap >= lasts_s[key] - 1e-9 for gap in gaps)
        if limit >= len(periods):
            longest = max(period_s, lasts_s[key]) + period_s
            assert all(gap <= longest + 1e-9 for gap in gaps)


@given(st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=8))
def test_an_update_twice_is_an_update_once(sets: list[set[str]]) -> None:
    once: Schedule[str] = Schedule()
    twice: Schedule[str] = Schedule()
    for at, keys in enumerate(sets):
        periods = dict.fromkeys(sorted(keys), 1.0)
        once.update(periods, now=float(at))
        twice.update(periods, now=float(at))
        twice.update(periods, now=float(at))
        started = once.start(float(at), limit=ALL)
        assert twice.start(float(at), limit=ALL) == started
        for key in started:
            once.finish(key, now=float(at))
            twice.finish(key, now=float(at))
