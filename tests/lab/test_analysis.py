from __future__ import annotations

import pytest

from lab.analysis import (
    MILLISECOND,
    Answer,
    Grant,
    Outage,
    answers_from,
    answers_seen,
    longest_silence,
    outages,
    overlaps,
    percentile,
    tenures,
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
def test_tenures(spoken: list[tuple[int, int, str]], owners: list[str]) -> None:
    assert [tenure.node for tenure in tenures(answers(*spoken))] == owners


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
            [(0, 1, "a"), (4, 5, "b"), (6, 7, "c"), (8, 9, "a")],
            [("a", "c", 2.0)],
            id="a third one between them",
        ),
    ],
)
def test_overlaps(spoken: list[tuple[int, int, str]], proofs: list[tuple[str, str, float]]) -> None:
    found = overlaps(answers(*spoken))
    assert [(proof.old, proof.new, proof.length_ms) for proof in found] == proofs


@pytest.mark.parametrize(
    ("grant", "proofs"),
    [
        pytest.param((5.5, "a"), 0, id="it came back with a new lease"),
        pytest.param((4, "a"), 1, id="its lease was the old one"),
        pytest.param((5.5, "b"), 1, id="the lease was the other's"),
    ],
)
def test_a_quick_return_needs_a_new_grant(grant: tuple[float, str], proofs: int) -> None:
    at_ms, node = grant
    spoken = answers((0, 1, "a"), (4, 5, "b"), (6, 7, "a"))
    assert len(overlaps(spoken, grants=[Grant(int(at_ms * MILLISECOND), node)])) == proofs


def test_a_node_that_asks_itself_is_no_witness() -> None:
    assert answers_from(probes("aab"), vantage="node-a") == answers_from(probes("..b"))


def test_an_announcement_is_no_answer() -> None:
    seen = [
        Sighting(1, "node-a", "02:00:00:00:00:65", "arp-announcement", "192.0.2.10"),
        Sighting(2, "node-b", "02:00:00:00:00:66", "arp-reply", "192.0.2.10"),
        Sighting(3, "node-b", "02:00:00:00:00:66", "arp-reply", "192.0.2.11"),
    ]
    assert answers_seen(seen, "192.0.2.10") == [Answer(2, 2, "node-b")]


@pytest.mark.parametrize(("percent", "value"), [(50, 20.0), (99, 40.0), (100, 40.0), (1, 10.0)])
def test_percentiles_are_values_that_occurred(percent: float, value: float) -> None:
    assert percentile([40.0, 10.0, 20.0, 30.0], percent) == value
