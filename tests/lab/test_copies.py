"""What proves that two copies of a service ran at once, and that nothing else is taken for it."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab import copies, enclosure, legacy, legacyserver, topology
from lab.analysis import MILLISECOND
from lab.copies import Attempt, Copy, Watch, attempts_in, copies_seen, overlaps
from lab.legacy import Legacy, running
from lab.topology import Segment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lab.processes import Process

PATIENCE_S = 60
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


def answered(node: str, start: int, sent: int, came: int) -> Attempt:
    return Attempt(sent, came, came, node, start)


def silent(node: str, sent: int, opened: int) -> Attempt:
    return Attempt(sent, opened, None, node, None)


def refused(node: str, sent: int) -> Attempt:
    return Attempt(sent, None, None, node, None)


A1 = partial(answered, "a", 1)
A2 = partial(answered, "a", 2)
B1 = partial(answered, "b", 1)
FROZEN_A, FROZEN_B = partial(silent, "a"), partial(silent, "b")


@pytest.mark.parametrize(
    ("attempts", "proofs"),
    [
        pytest.param([A1(0, 1), A1(5, 6), B1(10, 11), B1(15, 16)], [], id="one after the other"),
        pytest.param([A1(0, 1), B1(4, 5), A1(6, 7)], [("a1", "b1", 0.0)], id="one answer amid the other's"),
        pytest.param(
            [A1(0, 1), B1(2, 3), A1(4, 5), B1(6, 7)], [("a1", "b1", 1.0)], id="both again and again"
        ),
        pytest.param([A1(0, 1), B1(4, 5), A2(6, 7)], [], id="there and back, however quickly"),
        pytest.param([A1(0, 1), A2(2, 3), A1(4, 5)], [("a1", "a2", 0.0)], id="twice on one node"),
        pytest.param([A1(0, 9), B1(4, 5), A1(6, 7)], [], id="a late answer may be from before"),
        pytest.param([A1(0, 1), B1(4, 9), A1(6, 7)], [], id="a late answer may be from after"),
        pytest.param([A1(0, 1), B1(1, 7), A1(6, 9)], [], id="at the same instant at best"),
        pytest.param([A1(0, 1), B1(1, 2), A1(2, 3)], [], id="no instant between them"),
        pytest.param([A1(0, 5), B1(0, 5)], [], id="once each, when is not known"),
        pytest.param(
            [A1(0, 1), FROZEN_B(4, 5), A1(6, 7)], [("a1", "b?", 0.0)], id="a connection that nobody answered"
        ),
        pytest.param([A1(0, 1), FROZEN_A(4, 5), A1(6, 7)], [], id="it may be the same one"),
        pytest.param([FROZEN_A(0, 1), B1(4, 5), FROZEN_A(6, 7)], [], id="they may be two"),
        pytest.param(
            [A1(0, 1), FROZEN_B(2, 3), FROZEN_B(4, 5), FROZEN_B(6, 7), A1(8, 9)],
            [("a1", "b?", 0.0)],
            id="one proof is enough",
        ),
        pytest.param([A1(0, 1), refused("b", 3), A1(4, 5)], [], id="a closed port is no copy"),
    ],
)
def test_overlaps(attempts: list[Attempt], proofs: list[tuple[str, str, float]]) -> None:
    in_ms = [
        Attempt(
            each.sent_ns * MILLISECOND,
            None if each.opened_ns is None else each.opened_ns * MILLISECOND,
            None if each.answered_ns is None else each.answered_ns * MILLISECOND,
            each.node,
            each.start,
        )
        for each in attempts
    ]
    for order in (in_ms, in_ms[::-1], in_ms * 2):
        found = [(title(each.one), title(each.other), each.length_ms) for each in overlaps(order)]
        assert found == proofs


def title(copy: Copy) -> str:
    return f"{copy.node}{copy.start or '?'}"


def test_a_copy_surely_ran_between_the_answers_and_no_longer() -> None:
    assert copies_seen([A1(0, 3), A1(5, 6), A1(9, 12), B1(4, 6), FROZEN_B(7, 8)]) == [
        Copy("a", 1, 3, 9),
        Copy("b", 1, 6, 4),
        Copy("b", None, 8, 7),
    ]


class Drawn(NamedTuple):
    """When a copy was answered, each as an instant with the delays before and after it."""

    seen: list[tuple[int, int, int]]

    def attempts(self, node: str, start: int) -> list[Attempt]:
        return [answered(node, start, at - before, at + after) for at, before, after in self.seen]


MOMENTS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=3
).map(Drawn)


@UNHURRIED
@given(MOMENTS, MOMENTS)
def test_just_that_is_reported_which_agrees_with_no_order_one_after_the_other(
    one: Drawn, other: Drawn
) -> None:
    """Tried with every instant at which each answer can have been given."""
    first, second = one.attempts("a", 1), other.attempts("b", 1)
    can_be_in_turn = any(
        max(mine) <= min(theirs) or max(theirs) <= min(mine)
        for mine in product(*(span(each) for each in first))
        for theirs in product(*(span(each) for each in second))
    )
    assert bool(overlaps([*first, *second])) != can_be_in_turn


def span(attempt: Attempt) -> range:
    return range(attempt.sent_ns, (attempt.answered_ns or 0) + 1)


TENURE = st.tuples(
    st.integers(0, 50 * MILLISECOND),  # how long nothing runs before it
    st.sampled_from("abc"),
    st.integers(0, 100 * MILLISECOND),  # how long it runs
    st.lists(
        st.tuples(
            st.floats(0, 1), st.integers(0, 30 * MILLISECOND), st.integers(0, 30 * MILLISECOND), st.booleans()
        ),
        max_size=6,
    ),
)


@UNHURRIED
@given(st.lists(TENURE, max_size=8))
def test_one_copy_at_a_time_is_never_taken_for_two(
    drawn: list[tuple[int, str, int, list[tuple[float, int, int, bool]]]],
) -> None:
    now_ns = 1_000 * MILLISECOND
    attempts = []
    for start, (pause_ns, node, length_ns, asked) in enumerate(drawn, start=1):
        now_ns += pause_ns
        for share, before_ns, after_ns, is_answered in asked:
            at_ns = now_ns + int(share * length_ns)
            make = partial(answered, node, start) if is_answered else partial(silent, node)
            attempts.append(make(at_ns - before_ns, at_ns + after_ns))
        now_ns += length_ns
    assert overlaps(attempts) == []


@UNHURRIED
@given(
    st.integers(0, 60 * MILLISECOND),
    st.integers(0, 5 * MILLISECOND),
    st.lists(st.integers(0, MILLISECOND), min_size=1, max_size=5),
    st.sampled_from([1_900 * MILLISECOND, None]),
)
def test_two_copies_that_are_both_asked_are_always_found(
    overlap_ns: int, phase_ns: int, latencies: list[int], frozen_ns: int | None
) -> None:
    """The old one runs for a second; it may be frozen before its end."""
    ends_ns = 2_000 * MILLISECOND
    attempts = []
    for place, at_ns in enumerate(range(1_000 * MILLISECOND, ends_ns, 5 * MILLISECOND)):
        came_ns = at_ns + latencies[place % len(latencies)]
        is_silent = frozen_ns is not None and at_ns > frozen_ns
        attempts.append(silent("a", at_ns, came_ns) if is_silent else A1(at_ns, came_ns))
    begins_ns = ends_ns - overlap_ns
    attempts += [
        B1(at_ns, at_ns + latencies[place % len(latencies)])
        for place, at_ns in enumerate(range(begins_ns + phase_ns, ends_ns + begins_ns, 5 * MILLISECOND))
    ]
    found = overlaps(attempts)
    assert found or overlap_ns < 18 * MILLISECOND
    assert all(each.length_ms * MILLISECOND <= overlap_ns for each in found)


def test_absence_is_the_longest_time_without_an_answer_from_anywhere() -> None:
    ms = MILLISECOND
    attempts = [
        *(A1(at * ms, (at + 1) * ms) for at in range(0, 50, 5)),
        *(refused("a", at * ms) for at in range(50, 200, 5)),
        *(silent("b", at * ms, (at + 1) * ms) for at in range(80, 100, 5)),
        *(B1(at * ms, (at + 1) * ms) for at in range(100, 200, 5)),
    ]
    gap = copies.absence(attempts, since_ns=20 * ms, until_ns=180 * ms)
    assert (gap.before, gap.after, gap.length_ms) == ("a", "b", 50.0)
    first = copies.first_elsewhere(attempts, "a", since_ns=20 * ms)
    assert first == B1(100 * ms, 101 * ms)
    assert copies.first_elsewhere(attempts, "b", since_ns=60 * ms) is None


def test_an_answer_to_a_question_from_before_the_fault_is_not_the_first_after_it() -> None:
    attempts = [B1(4, 20), B1(11, 30), B1(12, 25)]
    assert copies.first_elsewhere(attempts, "a", since_ns=10) == B1(12, 25)


def test_who_was_not_asked_for_a_while_is_told() -> None:
    ms = MILLISECOND
    asked = [refused("a", at * ms) for at in range(0, 100, 5)]
    asked += [refused("b", at * ms) for at in (*range(0, 40, 5), *range(70, 100, 5))]
    assert copies.longest_blindness_ms(asked, since_ns=0, until_ns=100 * ms) == 35.0
    assert copies.longest_blindness_ms(asked, since_ns=0, until_ns=130 * ms) == 35.0
    assert copies.longest_blindness_ms(asked, since_ns=0, until_ns=150 * ms) == 55.0


def test_attempts_are_read_as_they_were_written_from_a_moment_on(tmp_path: Path) -> None:
    written = [A1(10, 12), refused("a", 20), FROZEN_A(30, 31)]
    file = tmp_path / "a.copies"
    file.write_bytes(b"".join(each.packed() for each in written) + written[0].packed()[:9])
    assert attempts_in(file) == written
    assert attempts_in(file, since_ns=20) == written[1:]
    assert attempts_in(tmp_path / "other", since_ns=20) == []


@pytest.fixture(scope="module")
def segment() -> Iterator[Segment]:
    """Two nodes and an observer, with nothing of vipkeeper and no API server."""
    made = Segment(Path(tempfile.mkdtemp(dir=enclosure.scratch_folder())))
    made.add("observer", topology.OBSERVER)
    for index, name in enumerate(("node-a", "node-b")):
        made.add(name, topology.FIRST_NODE + index)
    yield made
    made.close()


class Pair(NamedTuple):
    one: Legacy
    other: Legacy
    watch: Watch
    shared: Path

    def start(self, server: Legacy) -> Process:
        """Start it in the foreground and wait until it has been seen from everywhere."""
        before_ns = time.monotonic_ns()
        process = server.host.start(server.command, name="server")
        for vantage in (server.host.name, "observer"):
            wait_until(partial(self.has_answered, server.host.name, vantage, before_ns))
        return process

    def has_answered(self, node: str, vantage: str, since_ns: int) -> bool:
        return any(
            each.answered_ns and each.node == node
            for each in self.watch.attempts(vantage=vantage, since_ns=since_ns)
        )


@pytest.fixture(scope="module")
def pair(segment: Segment) -> Iterator[Pair]:
    shared = segment.folder / "shared"
    nodes = [segment.hosts["node-a"], segment.hosts["node-b"]]
    one, other = (Legacy(node, shared) for node in nodes)
    for each in (one, other):
        each.install()
    watch = Watch(folder=segment.folder / "copies", port=legacy.PORT)
    watch.watch(*nodes)
    watch.watch_from(segment.hosts["observer"], *nodes)
    yield Pair(one, other, watch, shared)
    watch.stop()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def test_two_servers_that_run_at_once_are_proved_from_everywhere_and_by_themselves(pair: Pair) -> None:
    since_ns = time.monotonic_ns()
    first, second = pair.start(pair.one), pair.start(pair.other)
    for vantages in (("observer",), ("node-a", "node-b")):
        wait_until(
            lambda vantages=vantages: any(  # type: ignore[misc]
                {each.one.node, each.other.node} == {"node-a", "node-b"}
                for each in overlaps(
                    attempt
                    for vantage in vantages
                    for attempt in pair.watch.attempts(vantage=vantage, since_ns=since_ns)
                )
            )
        )
    [told] = copies.collisions_in(pair.shared, since_ns=since_ns)
    assert (told.node, told.other) == ("node-b", f"node-a.{pair.one.starts()}")
    assert running(pair.shared) == [f"node-a.{pair.one.starts()}", f"node-b.{pair.other.starts()}"]
    assert (first.terminate(), second.terminate()) == (0, 0)
    assert running(pair.shared) == []


def test_servers_that_run_strictly_one_after_the_other_are_not_reported(pair: Pair) -> None:
    since_ns = time.monotonic_ns()
    for server in (pair.one, pair.other) * 2:
        assert pair.start(server).terminate() == 0
    attempts = pair.watch.attempts(since_ns=since_ns)
    assert len([each for each in copies_seen(attempts) if each.start is not None]) == 4
    assert overlaps(attempts) == []
    assert copies.collisions_in(pair.shared, since_ns=since_ns) == []


def test_a_frozen_server_beside_another_one_is_proved(pair: Pair) -> None:
    since_ns = time.monotonic_ns()
    frozen = pair.start(pair.one)
    frozen.freeze()
    other = pair.start(pair.other)
    wait_until(
        lambda: "node-a?" in {title(each.other) for each in overlaps(pair.watch.attempts(since_ns=since_ns))}
    )
    frozen.kill()
    other.kill()


def test_a_server_on_a_node_whose_cable_is_pulled_is_seen_from_within(pair: Pair, segment: Segment) -> None:
    server = pair.start(pair.one)
    segment.cut(pair.one.host)
    since_ns = time.monotonic_ns()
    wait_until(lambda: pair.has_answered("node-a", "node-a", since_ns))
    assert not pair.has_answered("node-a", "observer", since_ns)
    segment.mend(pair.one.host)
    server.kill()


def test_a_server_with_its_port_closed_is_told_by_the_disk_alone(pair: Pair) -> None:
    since_ns = time.monotonic_ns()
    server = pair.start(pair.one)
    pair.other.wish(legacyserver.SLOW_START, "1000")
    hidden = pair.other.host.start(pair.other.command, name="hidden")
    wait_until(lambda: bool(copies.collisions_in(pair.shared, since_ns=since_ns)))
    assert overlaps(pair.watch.attempts(since_ns=since_ns)) == []
    pair.other.be_well()
    hidden.kill()
    server.kill()
