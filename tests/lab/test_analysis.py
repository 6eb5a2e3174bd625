from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.analysis import (
    MILLISECOND,
    QUICKEST_NS,
    SETTLED_NS,
    Answer,
    Outage,
    answers_from,
    answers_seen,
    changes,
    longest_silence,
    outages,
    overlaps,
    percentile,
    returns,
    shared_ns,
    silence_left_ms,
)
from lab.records import Probe, Sighting


def probes(text: str) -> list[Probe]:
    """Read a letter for each probe, every 2 ms from 100 ms on: the node that answered, or a dot."""
    moments = [(100 + 2 * index) * MILLISECOND for index in range(len(text))]
    return [
        Probe(at, None, None) if letter == "." else Probe(at, at + MILLISECOND, f"node-{letter}")
        for at, letter in zip(moments, text, strict=True)
    ]


def answers(*spoken: tuple[int, int, str]) -> list[Answer]:
    return [Answer(sent * MILLISECOND, came * MILLISECOND, node) for sent, came, node in spoken]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("aaaaaaaaaa", [], id="no outage without a gap"),
        pytest.param("aaa.aaaaaa", [], id="one lost probe is no outage"),
        pytest.param("aaa..........bbb", [("node-a", "node-b", 20.0)], id="a failover"),
        pytest.param("aaa..........aaa", [("node-a", "node-a", 20.0)], id="the same node comes back"),
        pytest.param("aaabbb", [], id="a faultless hand-over"),
        pytest.param("aaa..........", [("node-a", None, float("inf"))], id="it never comes back"),
        pytest.param("..........bbb", [(None, "node-b", 21.0)], id="it was not there at the start"),
        pytest.param(
            "aa......bb......cc", [("node-a", "node-b", 12.0), ("node-b", "node-c", 12.0)], id="two outages"
        ),
    ],
)
def test_outages(text: str, expected: list[tuple[str | None, str | None, float]]) -> None:
    record = probes(text)
    found = outages(record, since_ns=100 * MILLISECOND, until_ns=record[-1].sent_ns + 2 * MILLISECOND)
    assert [(gap.before, gap.after, gap.length_ms) for gap in found] == expected


def test_an_answer_that_waited_in_a_queue_does_not_shorten_the_outage() -> None:
    record = probes("aaa..........bbb")
    queued = Probe(record[3].sent_ns, record[13].sent_ns + MILLISECOND, "node-b")
    record[3] = queued
    [gap] = outages(record, since_ns=100 * MILLISECOND, until_ns=130 * MILLISECOND)
    assert gap.length_ms == pytest.approx(20.0)


def test_the_longest_silence_of_a_faultless_stretch_has_no_length() -> None:
    silence = longest_silence(probes("aaabbb"), since_ns=103 * MILLISECOND, until_ns=110 * MILLISECOND)
    assert silence.length_ms == 0


@pytest.mark.parametrize(
    ("since_ms", "left_ms"),
    [
        pytest.param(103, 20, id="all of it"),
        pytest.param(120, 7, id="its end"),
        pytest.param(127, 0, id="nothing of it"),
    ],
)
def test_of_a_silence_that_began_before_only_the_rest_is_left(since_ms: int, left_ms: int) -> None:
    record = probes("aaa..........bbb")
    left = silence_left_ms(record, since_ns=since_ms * MILLISECOND, until_ns=130 * MILLISECOND)
    assert left == pytest.approx(left_ms)


def test_a_silence_that_lasts_is_left_without_end() -> None:
    assert silence_left_ms(probes("aaa...."), since_ns=104 * MILLISECOND, until_ns=10**9) == math.inf


def test_a_silent_address_is_out_without_end() -> None:
    assert outages([], since_ns=5, until_ns=10) == [Outage(5, None, None, None)]


@pytest.mark.parametrize(
    ("spoken", "owners"),
    [
        pytest.param([(0, 1, "a"), (2, 3, "a"), (4, 5, "b")], ["a", "b"], id="one change"),
        pytest.param(
            [(0, 1, "a"), (4, 5, "b"), (3, 6, "a")], ["a", "b"], id="a late answer proves no return"
        ),
        pytest.param([(0, 1, "a"), (4, 5, "b"), (6, 7, "a")], ["a", "b", "a"], id="a proved return"),
    ],
)
def test_changes_of_owner(spoken: list[tuple[int, int, str]], owners: list[str]) -> None:
    assert [change.node for change in changes(answers(*spoken))] == owners


@pytest.mark.parametrize(
    ("spoken", "proofs"),
    [
        pytest.param([(0, 1, "a"), (4, 5, "b"), (6, 7, "b")], [], id="a clean change"),
        pytest.param([(0, 1, "a"), (4, 5, "b"), (3, 6, "a")], [], id="a late answer proves nothing"),
        pytest.param(
            [(0, 1, "a"), (4, 5, "b"), (6, 7, "a")], [("a", "b", 2.0)], id="the old owner still answers"
        ),
        pytest.param(
            [(0, 1, "a"), (4, 5, "b"), (6, 7, "a"), (8, 9, "b"), (10, 11, "b")],
            [("a", "b", 2.0), ("b", "a", 2.0)],
            id="both answer for a while",
        ),
        pytest.param([(0, 1, "a"), (4, 5, "b"), (2000, 2001, "a")], [], id="it came back by right"),
        pytest.param(
            [(0, 1, "a"), (4, 5, "b"), (998, 999, "a")], [("a", "b", 994.0)], id="it came back too early"
        ),
        pytest.param(
            [(0, 1, "a"), (4, 5, "b"), (999, 1000, "a")], [], id="just as early as two leases can end"
        ),
        pytest.param(
            [(0, 1, "a"), (4, 5, "b"), (6, 7, "c"), (8, 9, "a")],
            [("a", "c", 2.0)],
            id="a third one between them",
        ),
        pytest.param([(0, 1, "a"), (4, 5, "b"), (6, 7, "c")], [], id="on to a third one"),
        pytest.param(
            [(0, 1, "a"), (900, 1300, "b"), (1250, 1260, "a"), (1310, 1311, "a")],
            [],
            id="an answer that may be of the old owner's second time is not taken for its first",
        ),
    ],
)
def test_overlaps(spoken: list[tuple[int, int, str]], proofs: list[tuple[str, str, float]]) -> None:
    found = overlaps(answers(*spoken))
    assert [(proof.old, proof.new, proof.length_ms) for proof in found] == proofs


@pytest.mark.parametrize(
    ("turns_ms", "lawful_returns", "proofs"),
    [
        pytest.param([100, 200], 0, 1, id="nobody asked for it"),
        pytest.param([100, 200], 1, 0, id="it was asked there and back"),
        pytest.param([20, 40], 1, 1, id="quicker than any hand-over there and back"),
        pytest.param([100, 200, 300], 1, 1, id="once more than it was asked"),
        pytest.param([100, 200, 300], 2, 0, id="as often as it was asked"),
        pytest.param([100, 200, 210, 220], 1, 2, id="and beside that both answered"),
        pytest.param([100, 1500, 1510, 1520], 0, 1, id="by right, and then both answered"),
    ],
)
def test_a_quick_return_is_lawful_only_where_it_was_asked_for(
    turns_ms: list[int], lawful_returns: int, proofs: int
) -> None:
    """The node that answers first is `a`; at each turn the other one does."""
    spoken = [(at_ms, at_ms + 1, "ba"[place % 2]) for place, at_ms in enumerate(turns_ms)]
    found = overlaps(answers((0, 1, "a"), *spoken), lawful_returns=lawful_returns)
    assert len(found) == proofs


NODES = ("a", "b", "c")
LATENCY = st.integers(0, 30 * MILLISECOND)
TENURE = st.tuples(
    st.integers(0, 3 * SETTLED_NS),  # how long the address is silent before it
    st.sampled_from(NODES),
    st.integers(0, SETTLED_NS),  # how long it lasts
    st.lists(st.tuples(st.floats(0, 1), LATENCY, LATENCY), max_size=8),  # when in it it was answered
)


def history(drawn: list[tuple[int, str, int, list[tuple[float, int, int]]]], settled_ns: int) -> list[Answer]:
    """Return the answers of an address with one owner at a time that nobody gets back within `settled_ns`."""
    found = []
    now_ns = SETTLED_NS
    left: dict[str, int] = {}
    previous = ""
    for silence_ns, node, length_ns, asked in drawn:
        now_ns += silence_ns
        if previous not in {"", node} and node in left:
            now_ns = max(now_ns, left[node] + settled_ns)
        for share, before_ns, after_ns in asked:
            at_ns = now_ns + int(share * length_ns)
            found.append(Answer(at_ns - before_ns, at_ns + after_ns, node))
        now_ns += length_ns
        left[node] = now_ns
        previous = node
    return sorted(found, key=lambda answer: answer.latest_ns)


@given(st.lists(TENURE, max_size=8))
def test_one_owner_at_a_time_is_never_taken_for_two(
    drawn: list[tuple[int, str, int, list[tuple[float, int, int]]]],
) -> None:
    assert overlaps(history(drawn, SETTLED_NS)) == []


@given(st.lists(TENURE, max_size=8))
def test_what_was_asked_there_and_back_is_never_taken_for_two_owners(
    drawn: list[tuple[int, str, int, list[tuple[float, int, int]]]],
) -> None:
    owners = [node for _, node, _, _ in drawn]
    moves = [node for place, node in enumerate(owners) if place == 0 or owners[place - 1] != node]
    there_and_back = len(moves) - len(set(moves))
    assert overlaps(history(drawn, QUICKEST_NS), lawful_returns=there_and_back) == []


def asked(node: str, latencies: list[int], *, from_ns: int, until_ns: int) -> list[Answer]:
    """Return what a node that is asked every 5 ms answers while it has the address."""
    times = range(from_ns, until_ns, 5 * MILLISECOND)
    return [
        Answer(at_ns, at_ns + latencies[place % len(latencies)], node) for place, at_ns in enumerate(times)
    ]


@given(
    st.integers(12 * MILLISECOND, SETTLED_NS // 4),
    st.integers(0, 5 * MILLISECOND),
    st.lists(st.integers(0, MILLISECOND), min_size=1, max_size=5),
)
def test_two_owners_who_are_both_asked_are_always_found(
    overlap_ns: int, phase_ns: int, latencies: list[int]
) -> None:
    until_ns = 2 * SETTLED_NS
    old = asked("a", latencies, from_ns=SETTLED_NS, until_ns=until_ns)
    new = asked("b", latencies, from_ns=until_ns - overlap_ns + phase_ns, until_ns=until_ns + SETTLED_NS)
    given_answers = sorted([*old, *new], key=lambda answer: answer.latest_ns)
    is_certain = overlap_ns - phase_ns >= 12 * MILLISECOND
    for lawful_returns in (0, 1):
        found = overlaps(given_answers, lawful_returns=lawful_returns)
        assert found or not is_certain
        assert all(proof.away_ns < QUICKEST_NS for proof in found)


@given(st.lists(TENURE, max_size=8), st.integers(0, 4))
def test_what_is_lawful_excuses_no_more_returns_than_it_says(
    drawn: list[tuple[int, str, int, list[tuple[float, int, int]]]], lawful_returns: int
) -> None:
    spoken = history(drawn, 0)
    found, excused = overlaps(spoken), overlaps(spoken, lawful_returns=lawful_returns)
    assert set(excused) <= set(found) <= set(returns(spoken))
    assert len(excused) >= len(found) - lawful_returns
    forgiven = set(found) - set(excused)
    assert all(slow.away_ns >= quick.away_ns for slow in forgiven for quick in excused)


def test_a_node_that_asks_itself_is_no_witness() -> None:
    assert answers_from(probes("aab"), vantage="node-a") == answers_from(probes("..b"))


def test_who_announces_an_address_speaks_as_its_owner_and_did_so_a_little_earlier() -> None:
    seen = [
        Sighting(1 * MILLISECOND, "node-a", "02:00:00:00:00:65", "arp-announcement", "192.0.2.10"),
        Sighting(2 * MILLISECOND, "node-b", "02:00:00:00:00:66", "arp-reply", "192.0.2.10"),
        Sighting(3 * MILLISECOND, "node-b", "02:00:00:00:00:66", "arp-reply", "192.0.2.11"),
    ]
    assert answers_seen(seen, "192.0.2.10") == answers((0, 1, "node-a"), (1, 2, "node-b"))


@pytest.mark.parametrize(("percent", "value"), [(50, 20.0), (99, 40.0), (100, 40.0), (1, 10.0)])
def test_percentiles_are_values_that_occurred(percent: float, value: float) -> None:
    assert percentile([40.0, 10.0, 20.0, 30.0], percent) == value


@pytest.mark.parametrize(
    ("given_answers", "expected_ms"),
    [
        pytest.param([], 0, id="no answers"),
        pytest.param(answers((0, 1, "a"), (5, 6, "a"), (10, 11, "b"), (15, 16, "b")), 0, id="a hand-over"),
        pytest.param(
            answers((0, 1, "a"), (2, 3, "b"), (50, 51, "a"), (52, 53, "b"), (90, 91, "a")),
            49,
            id="side by side",
        ),
        pytest.param(
            answers(
                (0, 1, "a"), (10, 11, "a"), (12, 13, "b"), (40, 41, "b"), (150, 151, "a"), (170, 171, "a")
            ),
            0,
            id="a long pause between",
        ),
        pytest.param(
            answers((0, 1, "a"), (1, 2, "b"), (2, 3, "c"), (60, 61, "a"), (62, 63, "b"), (64, 65, "c")),
            60,
            id="three of them count once",
        ),
    ],
)
def test_time_with_two_owners_is_what_answers_prove(given_answers: list[Answer], expected_ms: int) -> None:
    assert shared_ns(given_answers) == expected_ms * MILLISECOND


def test_only_answers_since_the_fault_prove_two_owners() -> None:
    spoken = answers((0, 1, "a"), (2, 3, "b"), (50, 51, "a"), (52, 53, "b"), (90, 91, "a"), (92, 93, "b"))

    assert shared_ns(spoken, since_ns=60 * MILLISECOND) == 0
    assert shared_ns(spoken, since_ns=45 * MILLISECOND) == 37 * MILLISECOND
