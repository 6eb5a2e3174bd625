"""What the API server's vote says to the node that holds it. Times are milliseconds."""

from __future__ import annotations

import pytest

from vipagent.effects import MILLISECOND, LeaseTiming
from vipagent.messages import Ack, Release, Released, Request, Sender, Want
from vipagent.vote import Vote
from vipapi import link

_TIMING = LeaseTiming(100 * MILLISECOND, 400 * MILLISECOND, 500 * MILLISECOND, 600 * MILLISECOND)
_KEY = bytes(16)
_ME = Sender("a", b"m", 3)


def _vote(until_ms: int = 2_000) -> Vote:
    vote = Vote(timing=_TIMING, now_ns=0)
    vote.hear(
        link.Vote("uid", until_ms * MILLISECOND, term_floor=70, term_ceiling=1070, transitions=4, epoch=1)
    )
    return vote


def _ask(vote: Vote, at_ms: int, *wants: Want) -> Ack | None:
    request = Request(5, at_ms * MILLISECOND, 0, is_sound=True, wants=wants, polls=(_KEY,))
    answers = vote.receive(_ME, request, at_ms * MILLISECOND)
    assert all(answer.to == "a" for answer in answers)
    return answers[0].message if answers else None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("at_ms", "sent_at_ms"),
    [
        pytest.param(100, 100, id="a lease within the vote counts from the request"),
        pytest.param(1_600, 1_600, id="the last that fits"),
        pytest.param(1_900, 1_600, id="one that would outlast the vote ends with it"),
    ],
)
def test_a_lease_that_rests_on_it_never_outlasts_it(at_ms: int, sent_at_ms: int) -> None:
    ack = _ask(_vote(), at_ms, Want(_KEY, 71, is_held=False))
    assert ack is not None
    assert ack.sent_at_ns == sent_at_ms * MILLISECOND
    assert [granted.term for granted in ack.granted] == [71]
    assert (ack.incarnation, ack.round) == (3, 5)


def test_a_vote_that_is_over_or_was_never_held_says_nothing() -> None:
    vote = _vote()
    assert _ask(vote, 2_000, Want(_KEY, 71, is_held=False)) is None
    assert vote.transitions(2_000 * MILLISECOND) == 0
    assert _ask(Vote(timing=_TIMING, now_ns=0), 0, Want(_KEY, 71, is_held=False)) is None


@pytest.mark.parametrize(
    ("want", "answer"),
    [
        pytest.param(Want(_KEY, 70, is_held=False), ([], [70]), id="a term that another may have had"),
        pytest.param(Want(_KEY, 9, is_held=True), ([9], []), id="a lease that is held needs no new term"),
        pytest.param(Want(_KEY, 1070, is_held=False), ([1070], []), id="the highest that was written"),
        pytest.param(Want(_KEY, 1071, is_held=True), ([], []), id="one that nobody would know of"),
    ],
)
def test_which_terms_it_grants(want: Want, answer: tuple[list[int], list[int]]) -> None:
    ack = _ask(_vote(), 0, want)
    assert ack is not None
    assert ([granted.term for granted in ack.granted], [denied.term for denied in ack.denied]) == answer


def test_what_is_free_is_free_above_the_floor() -> None:
    ack = _ask(_vote(), 0)
    assert ack is not None
    assert [(free.key, free.rank, free.term) for free in ack.free] == [(_KEY, 0, 70)]


def _hold(vote: Vote, since_ms: int) -> None:
    until_ns = 60_000 * MILLISECOND
    vote.hear(link.Vote("uid", until_ns, 70, 1070, transitions=4, epoch=1, since_ns=since_ms * MILLISECOND))


def test_a_vote_that_is_not_needed_falls_silent_and_is_given_back_when_no_lease_rests_on_it() -> None:
    vote = _vote(60_000)
    vote.need(1_000 * MILLISECOND, is_needed=True)
    assert _ask(vote, 1_000) is not None
    vote.need(2_000 * MILLISECOND, is_needed=False)
    assert _ask(vote, 2_000) is None
    vote.need(2_399 * MILLISECOND, is_needed=False)
    assert not vote.is_given_back
    vote.need(2_400 * MILLISECOND, is_needed=False)
    assert (vote.is_given_back, vote.since_ns) == (True, 2_400 * MILLISECOND)
    assert vote.transitions(2_400 * MILLISECOND) == 0
    vote.need(9_000 * MILLISECOND, is_needed=False)
    assert vote.since_ns == 2_400 * MILLISECOND


def test_a_vote_that_is_needed_again_before_it_was_given_back_speaks_at_once() -> None:
    vote = _vote(60_000)
    vote.need(2_000 * MILLISECOND, is_needed=False)
    vote.need(2_399 * MILLISECOND, is_needed=True)
    assert _ask(vote, 2_399) is not None
    vote.need(2_400 * MILLISECOND, is_needed=False)
    assert not vote.is_given_back


def test_what_was_won_before_it_was_given_back_counts_for_nothing() -> None:
    vote = _vote(60_000)
    for at_ms in (1_000, 1_400):
        vote.need(at_ms * MILLISECOND, is_needed=False)
    _hold(vote, since_ms=0)
    vote.need(1_500 * MILLISECOND, is_needed=True)
    assert _ask(vote, 1_500) is None
    _hold(vote, since_ms=1_400)
    assert _ask(vote, 1_500) is not None


def test_a_release_is_seen_at_once() -> None:
    [answer] = _vote().receive(_ME, Release(6, _KEY, None), 0)
    assert answer.message == Released(3, 6, _KEY)
