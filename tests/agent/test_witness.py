"""When a witness grants, denies, offers and says nothing. Times are milliseconds after its silence."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from vipagent.effects import MILLISECOND, LeaseTiming, Send
from vipagent.messages import Ack, Denied, Free, Key, Offer, Release, Released, Request, Sender, Want
from vipagent.witness import Roster, Witness

_TIMING = LeaseTiming(100 * MILLISECOND, 400 * MILLISECOND, 500 * MILLISECOND, 600 * MILLISECOND)
_WEB, _DB, _SHOP = (bytes([n]) * 16 for n in (1, 2, 3))
_ROSTERS = {
    _WEB: Roster(frozenset({"192.0.2.1"}), ("a", "b", "c")),
    _DB: Roster(frozenset({"192.0.2.2", "2001:db8::2"}), ("b", "a")),
    _SHOP: Roster(frozenset({"192.0.2.3", "2001:db8::2"}), ("c",)),  # shares an address with db
}


class _Asking:
    """A witness, and the questions that it is asked."""

    def __init__(self, *, term_ceiling: int | None = None, speaks: bool = True) -> None:
        self.witness = Witness(me="w", timing=_TIMING, now_ns=0, term_ceiling=term_ceiling)
        self.witness.assign(_ROSTERS, 0)
        self.round = 0
        if speaks:
            self.expire(0)

    def expire(self, at_ms: float) -> list[Send]:
        return self.witness.expire(self._ns(at_ms))

    def request(
        self,
        sender: str,
        at_ms: float,
        *wants: Want,
        polls: tuple[Key, ...] = (),
        number: int | None = None,
        incarnation: int = 1,
        term_floor: int = 0,
        is_sound: bool = True,
        machine: bytes = b"",
    ) -> Ack | None:
        self.round += 1
        number = self.round if number is None else number
        request = Request(number, 17, term_floor, is_sound, wants, polls)
        sends = self.witness.receive(Sender(sender, machine, incarnation), request, self._ns(at_ms))
        acks = [send.message for send in sends if isinstance(send.message, Ack)]
        assert len(acks) <= 1
        return acks[0] if acks else None

    def acquire(
        self,
        sender: str,
        at_ms: float,
        key: Key = _WEB,
        *,
        term: int = 1,
        number: int | None = None,
        incarnation: int = 1,
    ) -> str:
        want = Want(key, term, is_held=False)
        return self._answer(self.request(sender, at_ms, want, number=number, incarnation=incarnation))

    def renew(
        self,
        sender: str,
        at_ms: float,
        key: Key = _WEB,
        *,
        term: int = 1,
        number: int | None = None,
        incarnation: int = 1,
    ) -> str:
        want = Want(key, term, is_held=True)
        return self._answer(self.request(sender, at_ms, want, number=number, incarnation=incarnation))

    def release(
        self,
        sender: str,
        at_ms: float,
        *,
        number: int | None = None,
        keys: tuple[Key, ...] = (_WEB,),
        successor: str | None = None,
        incarnation: int = 1,
    ) -> list[Send]:
        self.round += 1
        first, *others = keys
        number = self.round if number is None else number
        release = Release(number, first, successor, tuple(others))
        return self.witness.receive(Sender(sender, b"", incarnation), release, self._ns(at_ms))

    def free(self, sender: str, at_ms: float, key: Key = _WEB) -> Free | None:
        ack = self.request(sender, at_ms, polls=(key,))
        assert ack is not None
        return ack.free[0] if ack.free else None

    @staticmethod
    def _ns(at_ms: float) -> int:
        return _TIMING.silence_ns + int(at_ms * MILLISECOND)

    @staticmethod
    def _answer(ack: Ack | None) -> str:
        match ack:
            case Ack(granted=(granted,)):
                return f"granted under term {granted.term}"
            case Ack(denied=(Denied(holder=None, term=term),)):
                return f"denied, not above term {term}"
            case Ack(denied=(Denied(holder=holder),)):
                return f"denied, {holder} has it"
            case Ack():
                return "ignored"
            case None:
                return "silence"


class Step(NamedTuple):
    """Who does what when, and what the witness answers."""

    sender: str
    act: str
    at_ms: float
    answer: str
    term: int = 1
    number: int | None = None
    incarnation: int = 1


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([Step("a", "acquire", -0.001, "silence")], id="a restarted witness is silent"),
        pytest.param([Step("a", "acquire", 0, "granted under term 1")], id="until the silence is over"),
        pytest.param(
            [
                Step("a", "acquire", 0, "granted under term 1"),
                Step("b", "acquire", 499.999, "denied, a has it", term=2),
                Step("b", "acquire", 500, "granted under term 2", term=2),
            ],
            id="a grant stands for Tw after the request was in hand",
        ),
        pytest.param(
            [
                Step("a", "acquire", 0, "granted under term 1"),
                Step("a", "renew", 300, "granted under term 1"),
                Step("b", "acquire", 799, "denied, a has it", term=2),
                Step("b", "acquire", 800, "granted under term 2", term=2),
            ],
            id="a renewal counts from its own arrival",
        ),
        pytest.param(
            [
                Step("a", "acquire", 0, "granted under term 3", term=3),
                Step("b", "acquire", 600, "denied, not above term 3", term=3),
                Step("b", "acquire", 601, "granted under term 4", term=4),
            ],
            id="a term that was granted is never granted anew",
        ),
        pytest.param(
            [
                Step("a", "acquire", 0, "granted under term 1"),
                Step("a", "acquire", 1, "granted under term 1"),
            ],
            id="an attempt may be repeated",
        ),
        pytest.param(
            [
                Step("a", "acquire", 0, "granted under term 1"),
                Step("a", "acquire", 1, "denied, not above term 1", incarnation=2),
                Step("a", "acquire", 2, "granted under term 2", incarnation=2, term=2),
            ],
            id="a restarted holder needs a new term, but need not wait",
        ),
        pytest.param(
            [
                Step("b", "acquire", 0, "granted under term 9", term=9),
                Step("a", "renew", 500, "granted under term 5", term=5),
                Step("c", "acquire", 1000, "denied, not above term 9", term=6),
            ],
            id="a lease that is held is renewed whatever attempts failed meanwhile, and hides no term",
        ),
        pytest.param(
            [
                Step("a", "renew", 0, "granted under term 5", number=8, term=5),
                Step("a", "renew", 1, "silence", number=8, term=5),
                Step("a", "renew", 2, "silence", number=7, term=5),
                Step("a", "renew", 3, "granted under term 5", number=1, term=5, incarnation=2),
                Step("a", "renew", 4, "silence", number=99, term=5),
            ],
            id="a request counts once, in order, and not after a restart of its sender",
        ),
    ],
)
def test_grants(steps: list[Step]) -> None:
    asking = _Asking(speaks=False)
    for step in steps:
        act = asking.acquire if step.act == "acquire" else asking.renew
        answer = act(
            step.sender, step.at_ms, term=step.term, number=step.number, incarnation=step.incarnation
        )
        assert answer == step.answer, step


def test_address_sets_that_share_an_address_exclude_each_other() -> None:
    asking = _Asking()
    assert asking.acquire("b", 0, _DB) == "granted under term 1"
    assert asking.acquire("c", 1, _SHOP) == "denied, b has it"
    assert asking.free("c", 2, _SHOP) is None
    assert asking.acquire("a", 3, _WEB) == "granted under term 1"
    assert asking.acquire("c", 500, _SHOP) == "granted under term 1"
    assert asking.acquire("b", 501, _DB, term=2) == "denied, c has it"


def test_a_grant_outlives_the_plan_that_it_was_made_under() -> None:
    asking = _Asking()
    asking.acquire("b", 0, _DB)
    asking.witness.assign({_SHOP: _ROSTERS[_SHOP]}, _TIMING.silence_ns)
    assert asking.renew("b", 1, _DB) == "ignored"
    assert asking.acquire("c", 499, _SHOP) == "denied, b has it"
    assert asking.acquire("c", 500, _SHOP) == "granted under term 1"


def test_a_release_frees_at_once_and_is_confirmed_however_often_it_comes() -> None:
    asking = _Asking()
    asking.acquire("a", 0)
    for at_ms in (1, 2):
        assert Send("a", Released(1, 50, _WEB)) in asking.release("a", at_ms, number=50)
    assert asking.acquire("b", 3, term=2, number=51) == "granted under term 2"


def test_what_is_released_together_is_offered_together() -> None:
    asking = _Asking()
    asking.acquire("a", 0)
    asking.acquire("a", 0, _DB)
    asking.request("b", 1, polls=(_WEB, _DB))
    keys = (_WEB, b"of another plan.", _DB, _WEB)
    [seen, offered] = asking.release("a", 2, keys=keys, number=50)
    assert seen == Send("a", Released(1, 50, keys[0], keys[1:]))
    assert offered.to == "b"
    assert isinstance(offered.message, Offer)
    assert [free.key for free in offered.message.free] == [_WEB, _DB]


def test_of_what_is_released_together_others_keep_theirs() -> None:
    asking = _Asking()
    asking.acquire("a", 0)
    asking.acquire("b", 0, _DB)
    asking.release("a", 2, keys=(_WEB, _DB), number=50)
    assert asking.acquire("c", 3, term=2) == "granted under term 2"
    assert asking.acquire("a", 3, _DB, term=2, number=51) == "denied, b has it"


@pytest.mark.parametrize(
    ("sender", "number", "incarnation"),
    [
        pytest.param("a", 9, 2, id="older than the granted request"),
        pytest.param("a", 99, 1, id="of an earlier incarnation"),
        pytest.param("b", 99, 2, id="of somebody who does not hold it"),
    ],
)
def test_a_release_that_is_not_about_this_grant_is_void(sender: str, number: int, incarnation: int) -> None:
    asking = _Asking()
    asking.acquire("a", 0, number=10, incarnation=2)
    asking.release(sender, 1, number=number, incarnation=incarnation)
    assert asking.acquire("c", 2, term=2) == "denied, a has it"


def test_a_request_that_a_release_overtook_is_void() -> None:
    asking = _Asking()
    asking.acquire("a", 0, number=1)
    asking.release("a", 1, number=3)
    assert asking.renew("a", 2, number=2) == "silence"
    assert not asking.witness.grants


def test_a_successor_is_kept_for_two_heartbeats() -> None:
    asking = _Asking()
    asking.acquire("a", 0)
    asking.free("b", 1)
    asking.free("c", 1)
    offers = [send for send in asking.release("a", 2, successor="c") if isinstance(send.message, Offer)]
    assert [offer.to for offer in offers] == ["c"]
    assert asking.acquire("b", 3, term=2) == "denied, c has it"
    assert asking.free("b", 4) is None
    assert asking.acquire("b", 202, term=2) == "granted under term 2"


def test_the_end_of_a_grant_is_told_to_those_who_stand_by_with_their_rank() -> None:
    asking = _Asking()
    asking.acquire("a", 0)
    asking.free("c", 300)
    asking.free("b", 310)
    assert not asking.expire(499.999)
    offers = {send.to: send.message for send in asking.expire(500)}
    former = {"term": 1, "former": "a", "lapsed_ns": 0, "was_released": False}
    assert offers == {
        "b": Offer((Free(_WEB, 0, **former),)),  # type: ignore[arg-type]
        "c": Offer((Free(_WEB, 1, **former),)),  # type: ignore[arg-type]
    }


def test_whoever_fell_silent_or_unfit_has_no_rank_and_gets_no_offer() -> None:
    asking = _Asking()
    free = asking.free("c", 0)
    assert free is not None
    assert free.rank == 0
    asking.free("b", 1)
    asking.free("a", 1)
    asking.request("a", 2)  # it says that it is no longer fit
    free = asking.free("c", 3)
    assert free is not None
    assert free.rank == 1
    free = asking.free("c", 251)  # b was last heard 2.5 heartbeats ago
    assert free is not None
    assert free.rank == 0


def test_when_the_silence_ends_everything_free_is_offered() -> None:
    asking = _Asking(speaks=False)
    asking.request("b", -50, polls=(_WEB, _DB))
    assert asking.witness.deadline_ns == _TIMING.silence_ns
    [offer] = asking.expire(0)
    assert isinstance(offer.message, Offer)
    assert (offer.to, {free.key for free in offer.message.free}) == ("b", {_WEB, _DB})


def test_a_new_address_set_is_first_offered_to_the_elected_alone() -> None:
    asking = _Asking()
    asking.witness.assign({}, 0)
    asking.witness.assign({_WEB: Roster(frozenset({"192.0.2.1"}), ("a", "b"), "b")}, _TIMING.silence_ns)
    assert asking.free("a", 299) is None
    assert asking.free("b", 299) is not None
    assert asking.free("a", 300) is not None


def test_the_observed_term_is_a_floor() -> None:
    asking = _Asking()
    asking.witness.assign({_WEB: Roster(frozenset({"192.0.2.1"}), ("a",), None, 7)}, _TIMING.silence_ns)
    assert asking.acquire("a", 1, term=7) == "denied, not above term 7"
    assert asking.acquire("a", 2, term=8) == "granted under term 8"


def test_no_term_is_granted_anew_before_the_ceiling_is_on_disk() -> None:
    asking = _Asking(term_ceiling=0)
    assert asking.witness.term_ceiling == 1000
    assert asking.acquire("a", 0) == "ignored"
    asking.witness.keep(1000)
    assert asking.acquire("a", 1) == "granted under term 1"
    assert asking.witness.term_ceiling == 1000
    assert asking.acquire("a", 2, term=501) == "granted under term 501"
    assert asking.witness.term_ceiling == 1501
    assert asking.acquire("a", 3, term=1001) == "ignored"
    assert asking.renew("a", 4, term=501) == "granted under term 501"


def test_a_restarted_witness_starts_from_its_ceiling_but_lets_a_holder_go_on() -> None:
    asking = _Asking(term_ceiling=1000)
    asking.witness.keep(2000)
    assert asking.acquire("b", 0, term=900) == "denied, not above term 1000"
    assert asking.renew("a", 1, term=900) == "granted under term 900"
    assert asking.acquire("b", 501, term=901) == "denied, not above term 1000"
    assert asking.acquire("b", 502, term=1001) == "granted under term 1001"


def test_a_floor_that_was_heard_of_makes_room_above_it() -> None:
    asking = _Asking(term_ceiling=0)
    ack = asking.request("a", 0, term_floor=3000)
    assert ack is not None
    assert ack.term_floor == 3000
    assert asking.witness.term_ceiling == 4000


def test_an_ack_echoes_what_the_request_said_and_names_the_best_standby() -> None:
    asking = _Asking()
    asking.free("c", 0)
    ack = asking.request("a", 1, Want(_WEB, 1, is_held=False), number=42, incarnation=7)
    assert ack is not None
    assert (ack.incarnation, ack.round, ack.sent_at_ns, ack.granted[0].standby) == (7, 42, 17, "c")


def test_a_clone_with_the_same_name_waits_for_the_grant_to_end_like_anybody_else() -> None:
    w = _Asking()
    assert w.acquire("a", 0) == "granted under term 1"
    want = Want(_WEB, 2, is_held=False)
    clone = w.request("a", 10, want, incarnation=2, machine=b"other")
    assert clone is not None
    assert [denied.holder for denied in clone.denied] == ["a"]
    restarted = w.request("a", 20, want, incarnation=3)
    assert restarted is not None
    assert [granted.term for granted in restarted.granted] == [2]


def test_with_a_new_configuration_every_term_must_be_above_all_that_were_granted() -> None:
    w = _Asking()
    assert w.acquire("a", 0, _WEB, term=41) == "granted under term 41"
    w.witness.raise_floor()
    assert w.witness.term_floor == 41
    assert w.acquire("a", 10, _DB, term=41) == "denied, not above term 41"
    assert w.acquire("a", 20, _DB, term=42) == "granted under term 42"
    assert w.renew("a", 30, _WEB, term=41) == "granted under term 41"  # what is held is not touched


def test_a_floor_spreads_with_the_requests_but_is_claimed_only_when_it_is_on_disk() -> None:
    w = _Asking(term_ceiling=0)
    w.request("a", 0, term_floor=500)
    assert w.witness.term_floor == 0
    w.witness.keep(w.witness.term_ceiling)
    assert w.witness.term_floor == 500


@pytest.mark.parametrize(
    ("unsound", "standby", "ranks"),
    [
        ("", ("b", True), {"b": 0, "c": 1}),
        ("b", ("c", True), {"b": 1, "c": 0}),
        ("bc", ("b", False), {"b": 0, "c": 1}),
    ],
)
def test_who_cannot_reach_its_gateway_comes_after_all_who_can(
    unsound: str, standby: tuple[str, bool], ranks: dict[str, int]
) -> None:
    w = _Asking()
    for node in ("b", "c"):
        w.request(node, 0, polls=(_WEB,), is_sound=node not in unsound)
    granted = w.request("a", 1, Want(_WEB, 1, is_held=False))
    assert granted is not None
    assert [(said.standby, said.is_standby_sound) for said in granted.granted] == [standby]
    offers = {send.to: send.message for send in w.release("a", 2) if isinstance(send.message, Offer)}
    assert {node: offer.free[0].rank for node, offer in offers.items()} == ranks
