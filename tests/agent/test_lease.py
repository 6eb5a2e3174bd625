"""What a candidate believes, and what it does about it. Times are milliseconds; witnesses are v, w and x."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, TypeVar

import pytest

from vipagent.effects import MILLISECOND, Close, Effect, Extend, LeaseTiming, Open, Order, Origin, Phase, Send
from vipagent.lease import Lease
from vipagent.messages import (
    Ack,
    Denied,
    Free,
    Granted,
    Handover,
    Offer,
    Prepare,
    Ready,
    Release,
    Released,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.messages import Key

_TIMING = LeaseTiming(100 * MILLISECOND, 400 * MILLISECOND, 500 * MILLISECOND, 600 * MILLISECOND)
_WEB, _DB = (bytes([n]) * 16 for n in (1, 2))
_INCARNATION = 3
_M = TypeVar("_M")


def _sent(effects: Iterable[Effect], kind: type[_M]) -> list[_M]:
    return [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


class _Latest(Random):
    """Chance always says: as late as it may be."""

    def random(self) -> float:
        return 1.0


class _Candidate:
    """A lease on node a that is fit for web, and the words that reach it."""

    def __init__(
        self,
        *,
        keys: tuple[Key, ...] = (_WEB,),
        order: Order | None = None,
        random: Random | None = None,
    ) -> None:
        self.lease = Lease(
            me="a",
            incarnation=_INCARNATION,
            quorums=(frozenset("vwx"),),
            timing=_TIMING,
            random=random or Random(2),
            now_ns=0,
        )
        self.lease.assign(dict.fromkeys(keys, order or Order(None, 0)), 0)
        self.lease.judge(frozenset(keys), 0)

    def phase(self) -> Phase:
        return self.lease.phase(_WEB)

    def expire(self, at_ms: float) -> list[Effect]:
        return self.lease.expire(int(at_ms * MILLISECOND))

    def releases(self, at_ms: float) -> list[tuple[str, Release]]:
        """What is released, and to whom, when that time has come."""
        sends = [each for each in self.expire(at_ms) if isinstance(each, Send)]
        return [(each.to, each.message) for each in sends if isinstance(each.message, Release)]

    def offer(self, witness: str, at_ms: float, *, rank: int = 0, term: int = 0) -> list[Effect]:
        free = Free(_WEB, rank, term, None, 0, was_released=False)
        return self.lease.receive(witness, Offer((free,)), int(at_ms * MILLISECOND))

    def seek(self, at_ms: float, *, term: int = 0) -> Request:
        """Two witnesses call it free; returns what is asked of them."""
        self.offer("v", at_ms, term=term)
        return _sent(self.offer("w", at_ms, term=term), Request)[0]

    def ack(
        self,
        witness: str,
        request: Request,
        at_ms: float,
        *,
        term: int | None = None,
        denied: Denied | None = None,
        incarnation: int = _INCARNATION,
        standby: str | None = None,
        is_standby_sound: bool = True,
    ) -> list[Effect]:
        granted = (
            ()
            if denied
            else tuple(
                Granted(w.key, term or w.term, standby, is_standby_sound=is_standby_sound)
                for w in request.wants
            )
        )
        refusals = (denied,) if denied else ()
        ack = Ack(incarnation, request.round, request.sent_at_ns, 0, granted, refusals, ())
        return self.lease.receive(witness, ack, int(at_ms * MILLISECOND))

    def own(self, at_ms: float, *, standby: str | None = None, is_standby_sound: bool = True) -> Request:
        request = self.seek(at_ms)
        for witness in ("v", "w"):
            self.ack(witness, request, at_ms + 1, standby=standby, is_standby_sound=is_standby_sound)
        assert self.phase() is Phase.OWNER
        return request

    def heartbeat(self) -> tuple[Request, float]:
        """The next renewal, and when it left."""
        while True:
            at_ns = self.lease.deadline_ns
            requests = _sent(self.lease.expire(at_ns), Request)
            if requests:
                return requests[0], at_ns / MILLISECOND


def test_it_tries_only_when_a_majority_calls_the_address_free() -> None:
    a = _Candidate()
    assert not a.offer("v", 10)
    assert not a.offer("v", 11)
    assert not a.offer("stranger", 12)
    request = _sent(a.offer("w", 13), Request)[0]
    assert [(want.key, want.term, want.is_held) for want in request.wants] == [(_WEB, 1, False)]


def test_old_news_makes_no_majority() -> None:
    a = _Candidate()
    a.offer("v", 10)
    a.offer("w", 130)
    assert a.phase() is Phase.STANDBY


def test_the_worst_rank_says_how_long_to_wait() -> None:
    a = _Candidate()
    a.offer("v", 10, rank=0)
    a.offer("w", 10, rank=2)
    a.expire(69.9)
    assert a.phase() is Phase.STANDBY
    a.expire(70)
    assert a.phase() is Phase.ACQUIRING


def test_a_turn_that_comes_when_the_news_is_old_is_let_pass() -> None:
    a = _Candidate()
    a.offer("v", 10, rank=5)
    a.offer("w", 10, rank=5)
    a.expire(160)
    assert a.phase() is Phase.STANDBY


@pytest.mark.parametrize("unfit", ["unfit", "resigned", "not planned"])
def test_it_never_tries_what_it_could_not_hold(unfit: str) -> None:
    a = _Candidate()
    if unfit == "unfit":
        a.lease.judge(frozenset(), 0)
    elif unfit == "resigned":
        a.lease.resign(0)
    else:
        a.lease.assign({}, 0)
    a.offer("v", 10)
    assert not a.offer("w", 10)
    assert not a.lease.receive("b", Handover(_WEB, 1), 20 * MILLISECOND)
    assert not a.lease.receive("b", Prepare(1, _WEB, is_sound=True), 20 * MILLISECOND)


def test_it_proposes_one_more_than_the_highest_term_that_it_heard_of() -> None:
    a = _Candidate()
    a.offer("v", 10, term=4)
    [request, *_] = _sent(a.offer("w", 10, term=7), Request)
    assert request.wants[0].term == 8


def test_many_address_sets_are_asked_for_in_one_request() -> None:
    a = _Candidate(keys=(_WEB, _DB))
    both = Offer(tuple(Free(key, 0, 0, None, 0, was_released=False) for key in (_WEB, _DB)))
    a.lease.receive("v", both, 10 * MILLISECOND)
    effects = a.lease.receive("w", both, 10 * MILLISECOND)
    requests = _sent(effects, Request)
    assert len(requests) == 3
    assert {want.key for want in requests[0].wants} == {_WEB, _DB}


def test_it_opens_when_a_majority_granted_it_and_not_before() -> None:
    a = _Candidate()
    request = a.seek(10)
    assert not a.ack("v", request, 12)
    assert not a.ack("v", request, 13)
    assert not a.ack("stranger", request, 13)
    assert a.ack("x", request, 14) == [
        Open(_WEB, 410 * MILLISECOND, 1, Origin("Elected", None, 10 * MILLISECOND))
    ]


def test_the_deadline_counts_from_before_the_request_left_and_by_the_majority() -> None:
    a = _Candidate()
    first = a.own(10)
    second, at_ms = a.heartbeat()
    assert not a.ack("v", second, at_ms + 90)
    deadline_ns = second.sent_at_ns + _TIMING.lease_ns
    assert a.ack("x", second, at_ms + 95) == [Extend(_WEB, deadline_ns)]
    assert not a.ack("w", first, at_ms + 96)


def test_a_grant_that_is_almost_over_is_not_worth_opening() -> None:
    a = _Candidate()
    request = a.seek(10)
    a.ack("v", request, 20)
    assert not a.ack("w", request, 311)
    assert a.phase() is Phase.ACQUIRING


@pytest.mark.parametrize(
    ("incarnation", "term"),
    [
        pytest.param(_INCARNATION - 1, 1, id="another incarnation"),
        pytest.param(_INCARNATION, 2, id="another term"),
    ],
)
def test_an_answer_to_another_question_does_not_count(incarnation: int, term: int) -> None:
    a = _Candidate()
    request = a.seek(10)
    a.ack("v", request, 12)
    assert not a.ack("w", request, 12, incarnation=incarnation, term=term)


def test_an_attempt_has_three_tries_with_growing_patience_and_is_then_released() -> None:
    a = _Candidate()
    a.seek(10)
    times = (21.9, 22, 45.9, 46, 93.9)
    assert [at_ms for at_ms in times if _sent(a.expire(at_ms), Request)] == [22, 46]
    releases = _sent(a.expire(94), Release)
    assert len(releases) == 3
    assert a.phase() is Phase.STANDBY


def test_late_answers_of_an_abandoned_attempt_are_void() -> None:
    a = _Candidate()
    request = a.seek(10)
    a.lease.judge(frozenset(), 11 * MILLISECOND)
    a.lease.judge(frozenset({_WEB}), 12 * MILLISECOND)
    assert not a.ack("v", request, 13)
    assert not a.ack("w", request, 13)
    again = a.seek(60)
    assert again.wants[0].term == 2
    a.ack("v", request, 61, term=2)
    a.ack("w", request, 61, term=2)
    assert a.phase() is Phase.ACQUIRING


def test_who_cannot_win_gives_back_at_once_and_holds_back() -> None:
    a = _Candidate()
    request = a.seek(10)
    a.ack("v", request, 11)
    assert not a.ack("w", request, 12, denied=Denied(_WEB, "b", 1, 0))
    assert len(_sent(a.ack("x", request, 12, denied=Denied(_WEB, "b", 1, 0)), Release)) == 3
    a.offer("v", 12)
    assert not _sent(a.offer("w", 12), Request)


def test_a_term_that_is_too_low_is_raised_and_asked_for_again() -> None:
    a = _Candidate()
    request = a.seek(10)
    a.ack("v", request, 11)
    [again, *_] = _sent(a.ack("w", request, 11, denied=Denied(_WEB, None, 5, 0)), Request)
    assert again.wants[0].term == 6
    assert not a.ack("x", request, 12)
    a.ack("v", again, 13)
    assert isinstance(a.ack("x", again, 13)[0], Open)


def test_what_ran_out_is_given_up_before_anything_is_believed() -> None:
    a = _Candidate()
    request = a.own(10)
    assert a.ack("x", request, 410) == [Close(_WEB)]
    assert a.phase() is Phase.CLOSING


def test_a_release_leaves_only_when_the_fence_is_closed() -> None:
    a = _Candidate()
    a.own(10)
    assert a.lease.judge(frozenset(), 20 * MILLISECOND) == [Close(_WEB)]
    assert not _sent(a.expire(900), Release)
    effects = a.lease.closed(_WEB, 900 * MILLISECOND)
    assert [e.to for e in effects if isinstance(e, Send)] == ["v", "w", "x"]
    assert len(_sent(effects, Release)) == 3


def test_while_it_closes_nothing_revives_it() -> None:
    a = _Candidate()
    request = a.own(10)
    a.lease.judge(frozenset(), 20 * MILLISECOND)
    a.lease.judge(frozenset({_WEB}), 21 * MILLISECOND)
    assert not a.ack("x", request, 22)
    renewal, at_ms = a.heartbeat()
    assert not renewal.wants
    a.offer("v", at_ms)
    assert not a.offer("w", at_ms)


def test_a_release_is_repeated_until_each_witness_has_seen_it() -> None:
    a = _Candidate()
    a.own(10)
    a.lease.assign({}, 20 * MILLISECOND)
    [release, *_] = _sent(a.lease.closed(_WEB, 21 * MILLISECOND), Release)
    a.lease.receive("v", Released(_INCARNATION, release.round, _WEB), 22 * MILLISECOND)
    a.lease.receive("w", Released(_INCARNATION, release.round - 1, _WEB), 22 * MILLISECOND)
    again = [e.to for e in a.expire(33) if isinstance(e, Send) and isinstance(e.message, Release)]
    assert again == ["w", "x"]
    assert not a.lease.is_at_rest
    for witness in again:
        a.lease.receive(witness, Released(_INCARNATION, release.round, _WEB), 34 * MILLISECOND)
    assert a.lease.is_at_rest


def test_what_is_given_up_together_is_told_in_one_release_and_asked_for_in_one_request_again() -> None:
    a = _Candidate(keys=(_WEB, _DB))
    both = Offer(tuple(Free(key, 0, 0, None, 0, was_released=False) for key in (_WEB, _DB)))
    for witness in "vw":
        a.lease.receive(witness, both, 10 * MILLISECOND)
    releases = [send for at_ms in (22, 46, 94) for send in a.releases(at_ms)]
    assert [to for to, _ in releases] == ["v", "w", "x"]
    for witness, release in releases:
        assert set(release.keys) == {_WEB, _DB}
        seen = Released(_INCARNATION, release.round, release.key, release.others)
        a.lease.receive(witness, seen, 95 * MILLISECOND)
    assert a.lease.is_at_rest
    for witness in "vw":
        a.lease.receive(witness, both, 94 * MILLISECOND)
    requests = [request for at_ms in range(95, 135) for request in _sent(a.expire(at_ms), Request)]
    assert [{want.key for want in each.wants} for each in requests if each.wants] == [{_WEB, _DB}] * 3


def test_a_witness_that_says_nothing_is_told_ever_more_rarely() -> None:
    a = _Candidate()
    a.own(10)
    a.lease.resign(20 * MILLISECOND)
    a.lease.closed(_WEB, 20 * MILLISECOND)
    assert [at_ms for at_ms in range(20, 600) if a.releases(at_ms)] == [32, 44, 56, 80, 128, 224, 416]


def test_who_loses_again_and_again_waits_longer_for_answers_and_holds_back_longer() -> None:
    a = _Candidate(random=_Latest())
    waited_ms, held_back_ms = [], []
    lost_ms = at_ms = 0
    while len(waited_ms) < 7:
        while a.phase() is Phase.STANDBY:
            at_ms += 1
            a.offer("v", at_ms)
            a.offer("w", at_ms)
        held_back_ms.append(at_ms - lost_ms)
        asked_ms = at_ms
        while a.phase() is Phase.ACQUIRING:
            at_ms += 1
            a.expire(at_ms)
        waited_ms.append(at_ms - asked_ms)
        lost_ms = at_ms
    assert waited_ms == [84, 84, 84, 168, 336, 336, 336]
    assert held_back_ms[1:] == [40, 40, 80, 160, 320, 320]


def lose(a: _Candidate, at_ms: int) -> int:
    """Let an attempt begin then that nobody answers; returns for how long it waited for answers."""
    a.seek(at_ms)
    asked_ms = at_ms
    while a.phase() is Phase.ACQUIRING:
        at_ms += 1
        a.expire(at_ms)
    return at_ms - asked_ms


def test_losses_are_forgotten_after_two_seconds() -> None:
    a = _Candidate()
    assert [lose(a, at_ms) for at_ms in (100, 2_000, 3_900, 5_800)] == [84, 84, 84, 168]
    assert lose(a, 8_000) == 84


def test_what_was_handed_over_was_not_lost() -> None:
    a = _Candidate()
    for at_ms in (1_000, 2_000, 3_000):
        request = a.seek(at_ms)
        a.ack("v", request, at_ms + 1, term=request.wants[0].term, standby="b")
        a.ack("w", request, at_ms + 1, term=request.wants[0].term, standby="b")
        a.lease.judge(frozenset(), (at_ms + 2) * MILLISECOND)
        a.lease.receive("b", Ready(_INCARNATION, _WEB), (at_ms + 3) * MILLISECOND)
        a.lease.closed(_WEB, (at_ms + 4) * MILLISECOND)
        a.lease.judge(frozenset({_WEB}), (at_ms + 5) * MILLISECOND)
    assert lose(a, 4_000) == 84


def test_a_release_that_nobody_confirms_is_over_when_the_grants_are() -> None:
    a = _Candidate()
    a.own(10)
    a.lease.resign(20 * MILLISECOND)
    a.lease.closed(_WEB, 20 * MILLISECOND)
    a.expire(519)
    assert not a.lease.is_at_rest
    a.expire(521)
    a.expire(540)
    assert a.lease.is_at_rest


def test_what_is_planned_again_while_it_closes_stays() -> None:
    a = _Candidate()
    a.own(10)
    assert a.lease.assign({}, 20 * MILLISECOND) == [Close(_WEB)]
    a.lease.assign({_WEB: Order(None, 0)}, 21 * MILLISECOND)
    a.lease.closed(_WEB, 22 * MILLISECOND)
    a.lease.judge(frozenset({_WEB}), 23 * MILLISECOND)
    assert a.seek(100).wants[0].term == 2


def test_an_order_is_obeyed_at_its_term_alone() -> None:
    a = _Candidate()
    a.own(10)
    assert not a.lease.assign({_WEB: Order("b", 2)}, 20 * MILLISECOND)
    assert a.lease.assign({_WEB: Order("b", 1)}, 20 * MILLISECOND) == [
        Send("b", Prepare(_INCARNATION, _WEB, is_sound=True))
    ]


@pytest.mark.parametrize(
    ("sender", "incarnation"),
    [pytest.param("c", _INCARNATION, id="not the target"), pytest.param("b", 2, id="an earlier question")],
)
def test_only_the_target_of_this_move_moves_it(sender: str, incarnation: int) -> None:
    a = _Candidate(order=Order("b", 1))
    a.own(10)
    a.heartbeat()
    now_ns = a.lease.deadline_ns
    assert not a.lease.receive(sender, Ready(incarnation, _WEB), now_ns)
    assert a.lease.receive("b", Ready(_INCARNATION, _WEB), now_ns) == [Close(_WEB)]


def test_a_hand_over_names_its_successor_and_comes_after_the_release() -> None:
    a = _Candidate(order=Order("b", 1))
    a.own(10)
    a.heartbeat()
    now_ns = a.lease.deadline_ns
    a.lease.receive("b", Ready(_INCARNATION, _WEB), now_ns)
    *releases, last = [e for e in a.lease.closed(_WEB, now_ns) if isinstance(e, Send)]
    assert {r.message.successor for r in releases if isinstance(r.message, Release)} == {"b"}
    assert last == Send("b", Handover(_WEB, 1))


def test_an_unfit_owner_asks_the_standby_three_times_and_then_lets_go() -> None:
    a = _Candidate()
    a.own(10, standby="c")
    ask = Send("c", Prepare(_INCARNATION, _WEB, is_sound=True))
    assert a.lease.judge(frozenset(), 20 * MILLISECOND) == [ask]
    acts = [effect for at_ms in (32, 44, 56) for effect in a.expire(at_ms) if effect in (ask, Close(_WEB))]
    assert acts == [ask, ask, Close(_WEB)]


def test_an_unfit_owner_with_nobody_to_follow_lets_go_at_once() -> None:
    a = _Candidate()
    a.own(10)
    assert a.lease.judge(frozenset(), 20 * MILLISECOND) == [Close(_WEB)]


def test_a_hand_over_is_taken_at_once_and_waits_for_a_release_that_it_overtook() -> None:
    a = _Candidate()
    [request, *_] = _sent(a.lease.receive("b", Handover(_WEB, 4), 10 * MILLISECOND), Request)
    assert request.wants[0].term == 5
    for witness in ("v", "w", "x"):
        assert not a.ack(witness, request, 11, denied=Denied(_WEB, "b", 4, 0))
    [again, *_] = _sent(a.expire(22), Request)
    a.ack("v", again, 23)
    assert a.ack("w", again, 23) == [Open(_WEB, 422 * MILLISECOND, 5, Origin("Moved", "b", 10 * MILLISECOND))]


_ALL: frozenset[Key] = frozenset({_WEB})


class _Occupied(_Candidate):
    """The owner of web, with services running that follow it; v and w vote, and b stands by."""

    def __init__(self, order: Order | None = None) -> None:
        super().__init__(order=order)
        self.own(10, standby="b")
        self.now_ns = 11 * MILLISECOND
        self.judge()

    def judge(self, *, is_fit: bool = True, is_occupied: bool = True) -> list[Effect]:
        occupied = _ALL if is_occupied else frozenset()
        return self.lease.judge(_ALL if is_fit else frozenset(), self.now_ns, occupied=occupied)

    def renew_until(self, at_ms: float) -> list[Effect]:
        """Let time pass while v and w answer; returns what is done besides asking them."""
        done: list[Effect] = []
        while self.lease.deadline_ns <= at_ms * MILLISECOND:
            self.now_ns = max(self.now_ns, self.lease.deadline_ns)
            effects = self.lease.expire(self.now_ns)
            assert self.lease.deadline_ns > self.now_ns
            done += [e for e in effects if not (isinstance(e, Send) and isinstance(e.message, Request))]
            for request in _sent(effects, Request)[:1]:
                for witness in ("v", "w"):
                    self.ack(witness, request, self.now_ns / MILLISECOND, standby="b")
        return done

    def is_leaving(self) -> bool:
        return self.lease.is_leaving(_WEB)

    def ready(self) -> list[Effect]:
        return self.lease.receive("b", Ready(_INCARNATION, _WEB), self.now_ns)


_ASK_B = Send("b", Prepare(_INCARNATION, _WEB, is_sound=True))


def test_an_unfit_owner_keeps_the_lease_until_its_services_have_stopped() -> None:
    a = _Occupied()
    assert not a.is_leaving()
    assert not a.judge(is_fit=False)
    assert a.is_leaving()
    assert not a.renew_until(5_000)
    assert a.phase() is Phase.OWNER
    assert a.judge(is_fit=False, is_occupied=False) == [_ASK_B]
    assert a.ready() == [Close(_WEB)]


def test_a_keeper_that_stops_keeps_the_lease_until_its_services_have_stopped() -> None:
    a = _Occupied()
    assert not a.lease.resign(a.now_ns)
    assert a.is_leaving()
    assert not a.renew_until(5_000)
    assert a.judge(is_occupied=False) == [_ASK_B]


def test_services_are_stopped_for_a_move_only_when_its_target_is_ready_and_it_is_asked_again() -> None:
    a = _Occupied(Order("b", 1))
    assert _ASK_B in a.renew_until(200)
    assert not a.is_leaving()
    assert not a.ready()
    assert a.is_leaving()
    assert not a.renew_until(5_000)
    assert a.judge(is_occupied=False) == [_ASK_B]
    assert a.ready() == [Close(_WEB)]


def test_an_owner_whose_target_is_not_ready_any_more_goes_on_itself() -> None:
    a = _Occupied(Order("b", 1))
    a.renew_until(200)
    a.ready()
    assert a.judge(is_occupied=False) + a.renew_until(1_000) == [_ASK_B] * 3
    assert not a.is_leaving()
    assert a.phase() is Phase.OWNER
    a.judge()
    assert _ASK_B in a.renew_until(6_000)


def test_an_order_that_is_taken_back_lets_services_go_on() -> None:
    a = _Occupied(Order("b", 1))
    a.renew_until(200)
    a.ready()
    a.lease.assign({_WEB: Order("a", 1)}, a.now_ns)
    assert not a.is_leaving()


def test_a_lapsed_lease_waits_for_no_service_to_close() -> None:
    a = _Occupied()
    a.judge(is_fit=False)
    assert Close(_WEB) in a.expire(2_000)
    assert not a.is_leaving()


def test_a_heartbeat_renews_what_is_held_and_stands_by_for_the_rest() -> None:
    a = _Candidate(keys=(_WEB, _DB))
    a.own(10)
    request, _ = a.heartbeat()
    assert [(want.key, want.is_held) for want in request.wants] == [(_WEB, True)]
    assert request.polls == (_DB,)


def test_an_owner_that_is_behind_renews_three_times_as_fast() -> None:
    a = _Candidate()
    a.own(10)
    times = [a.heartbeat()[1] for _ in range(4)]
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[0] == pytest.approx(100, abs=10)
    assert max(gaps[1:]) <= 33


def test_the_term_floor_of_a_witness_is_carried_to_the_others() -> None:
    a = _Candidate()
    request = a.seek(10)
    ack = Ack(_INCARNATION, request.round, request.sent_at_ns, 3000, (), (), ())
    a.lease.receive("v", ack, 11 * MILLISECOND)
    assert a.heartbeat()[0].term_floor == 3000


def test_while_the_witnesses_change_both_majorities_must_grant() -> None:
    a = _Candidate()
    a.own(10)
    a.lease.configure((frozenset("vwx"), frozenset("xyz")), 50 * MILLISECOND)
    renewal, at_ms = a.heartbeat()
    assert at_ms == 50
    assert not a.ack("v", renewal, 51)
    assert not a.ack("w", renewal, 51)
    assert not a.ack("y", renewal, 51)
    assert a.ack("z", renewal, 52) == [Extend(_WEB, 450 * MILLISECOND)]


def test_a_change_of_witnesses_takes_nothing_of_a_lease_that_runs() -> None:
    a = _Candidate()
    a.own(10)
    a.lease.configure((frozenset("xyz"),), 50 * MILLISECOND)
    assert not [e for e in a.expire(400) if isinstance(e, Close)]
    assert Close(_WEB) in a.expire(410)


def test_the_old_witnesses_alone_cannot_be_acquired_from_while_they_change() -> None:
    a = _Candidate()
    a.lease.configure((frozenset("vwx"), frozenset("xyz")), 0)
    a.offer("v", 10)
    assert not _sent(a.offer("w", 10), Request)
    a.offer("y", 10)
    request = _sent(a.offer("z", 10), Request)[0]
    for witness in ("v", "w", "y"):
        assert not a.ack(witness, request, 11)
    assert isinstance(a.ack("x", request, 11)[0], Open)  # it is in both


def test_an_attempt_does_not_outlive_the_witnesses_that_it_asked() -> None:
    a = _Candidate()
    a.lease.configure((frozenset("vwx"), frozenset("xyz")), 0)
    for witness in ("v", "w", "y"):
        a.offer(witness, 10)
    request = _sent(a.offer("z", 10), Request)[0]
    a.ack("y", request, 11)
    a.ack("z", request, 11)
    released = a.lease.configure((frozenset("xyz"),), 12 * MILLISECOND)
    assert {e.to for e in released if isinstance(e, Send)} == set("vwxyz")
    assert not a.ack("x", request, 13)
    assert a.phase() is Phase.STANDBY


_ALONE = Order(None, 0, is_held_alone=True)


class _Voter(_Candidate):
    """Node a is a witness too, the other one is b, the third vote is the API server's; the order is Hold."""

    def __init__(self, order: Order = _ALONE) -> None:
        super().__init__(order=order)
        self.lease.configure((frozenset({"a", "b", "@api-server"}),), 0)

    def hold(self) -> None:
        for witness in ("a", "b"):
            self.offer(witness, 10)
        request = _sent(self.expire(10), Request)[0]
        for witness in ("a", "b"):
            self.ack(witness, request, 11)
        assert self.phase() is Phase.OWNER

    def renew_alone(self) -> list[Effect]:
        renewal, at_ms = self.heartbeat()
        return self.ack("a", renewal, at_ms + 0.1)


@pytest.mark.parametrize("order", [_ALONE, Order(None, 0)], ids=["Hold", "Release"])
def test_an_owner_that_hears_nobody_goes_on_only_if_it_may(order: Order) -> None:
    a = _Voter(order)
    a.lease.hear("b", 9 * MILLISECOND, is_answer=True)
    a.offer("a", 10)
    request = _sent(a.offer("b", 10), Request)[0]
    for witness in ("a", "b"):
        a.ack(witness, request, 11)
    while a.lease.deadline_ns < 900 * MILLISECOND and a.phase() is Phase.OWNER:
        a.renew_alone()
    assert (a.phase() is Phase.OWNER) is order.is_held_alone


@pytest.mark.parametrize(("third", "free_ms"), [("c", 600), ("@api-server", 2_600)])
def test_a_standby_that_hears_nobody_waits_for_the_owner_s_end_and_the_api_server(
    third: str, free_ms: int
) -> None:
    a = _Voter()
    a.lease.configure((frozenset({"a", "b", third}),), 0)
    a.lease.hear("b", 100 * MILLISECOND, is_answer=False)
    assert not _sent(a.offer("a", free_ms - 1), Request)
    request = _sent(a.offer("a", free_ms + 1), Request)[0]
    assert isinstance(a.ack("a", request, free_ms + 2)[0], Open)


@pytest.mark.parametrize(("is_answer", "stays"), [(False, True), (True, False)])
def test_who_is_alone_goes_on_until_the_other_one_votes_again(is_answer: bool, stays: bool) -> None:  # noqa: FBT001
    a = _Voter()
    request = _sent(a.offer("a", 2_601), Request)[0]
    a.ack("a", request, 2_602)
    while a.phase() is Phase.OWNER and a.lease.deadline_ns < 4_000 * MILLISECOND:
        a.lease.hear("b", a.lease.deadline_ns, is_answer=is_answer)
        a.renew_alone()
    assert (a.phase() is Phase.OWNER) is stays


@pytest.mark.parametrize(("holder_term", "goes"), [(2, True), (1, True), (0, False)])
def test_of_two_that_went_on_alone_the_higher_term_stays(holder_term: int, goes: bool) -> None:  # noqa: FBT001
    a = _Voter()
    request = _sent(a.offer("a", 2_601), Request)[0]
    a.ack("a", request, 2_602)
    renewal, at_ms = a.heartbeat()
    effects = a.ack("b", renewal, at_ms, denied=Denied(_WEB, "b", 9, holder_term))
    assert (effects == [Close(_WEB)]) is goes


@pytest.mark.parametrize(
    ("is_sound", "is_standby_sound", "asks"),
    [(True, True, False), (True, False, False), (False, False, False), (False, True, True)],
)
def test_only_from_a_node_without_its_gateway_to_one_that_has_it(
    is_sound: bool,  # noqa: FBT001
    is_standby_sound: bool,  # noqa: FBT001
    asks: bool,  # noqa: FBT001
) -> None:
    a = _Candidate()
    a.own(10, standby="b", is_standby_sound=is_standby_sound)
    assert not a.lease.judge(frozenset({_WEB}), 20 * MILLISECOND, is_sound=is_sound)
    asked: list[Prepare] = []
    while a.lease.deadline_ns < 1_200 * MILLISECOND:
        at_ms = a.lease.deadline_ns / MILLISECOND
        effects = a.expire(at_ms)
        if said := _sent(effects, Prepare):
            assert at_ms >= 1_020  # by then the others have noticed a gateway that is dead for all
            asked += said
        for renewal in _sent(effects, Request)[:1]:
            for witness in ("v", "w"):
                a.ack(witness, renewal, at_ms + 1, standby="b", is_standby_sound=is_standby_sound)
    assert bool(asked) is asks
    assert a.phase() is Phase.OWNER


@pytest.mark.parametrize("asker_is_sound", [True, False])
def test_who_lost_its_gateway_takes_over_only_from_another_such(asker_is_sound: bool) -> None:  # noqa: FBT001
    a = _Candidate()
    a.lease.judge(frozenset({_WEB}), 0, is_sound=False)
    said = a.lease.receive("b", Prepare(1, _WEB, is_sound=asker_is_sound), 20 * MILLISECOND)
    assert bool(_sent(said, Ready)) is not asker_is_sound
