"""In which domains a node takes part, and as which plan."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from vipagent.seats import Seats, fitted
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.link import Answer, Vote, Votes
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Timing, VirtualIPPlan

UID = "domain-uid"
KEY, OTHER_KEY, SHORT_KEY = Key(1, b"k" * 32), Key(2, b"o" * 32), Key(3, b"short")
WEB = VirtualIPPlan(
    uid="web-uid", name="web", addresses=("192.0.2.10/24",), candidates=(CandidatePlan("a", 100),)
)
SECOND_NS = 10**9


def configured(epoch: int, *nodes: str, has_api_vote: bool = False) -> Configuration:
    members = tuple(Member(node, f"192.0.2.{number}") for number, node in enumerate(nodes, 1))
    return Configuration(epoch=epoch, witnesses=WitnessSet(members, has_api_vote=has_api_vote)).sealed(UID)


IN_FORCE = configured(2, "a")
PLANNED = DomainPlan(
    name="default",
    uid=UID,
    port=7946,
    timing=Timing(100, 400, 500, 600),
    configuration=IN_FORCE,
    members=(Member("a", "192.0.2.1"),),
    keys=(KEY,),
    virtual_ips=(WEB,),
)


def planned(**changes: Any) -> DomainPlan:
    return msgspec.structs.replace(PLANNED, **changes)


SLOW = Timing(200, 800, 1000, 1200)


@pytest.mark.parametrize(
    ("domain", "in_force", "before", "followed", "reason"),
    [
        pytest.param(PLANNED, IN_FORCE, None, PLANNED, None, id="a plan that can be followed"),
        pytest.param(planned(timing=SLOW), IN_FORCE, None, planned(timing=SLOW), None, id="any first timing"),
        pytest.param(PLANNED, Configuration(), None, None, None, id="no configuration is on disk yet"),
        pytest.param(
            planned(configuration=configured(2, "a", "b")),
            IN_FORCE,
            PLANNED,
            planned(configuration=configured(2, "a", "b")),
            "EpochConflict",
            id="another configuration of the epoch in force",
        ),
        pytest.param(planned(keys=()), IN_FORCE, None, None, "NoHeartbeatKey", id="no key at first"),
        pytest.param(planned(keys=()), Configuration(), None, None, None, id="no key, no configuration"),
        pytest.param(
            planned(keys=(OTHER_KEY, SHORT_KEY)), IN_FORCE, PLANNED, PLANNED, "NoHeartbeatKey", id="short key"
        ),
        pytest.param(planned(timing=SLOW), IN_FORCE, PLANNED, PLANNED, "TimingRefused", id="another timing"),
    ],
)
def test_of_a_plan_is_followed(
    domain: DomainPlan,
    in_force: Configuration,
    before: DomainPlan | None,
    followed: DomainPlan | None,
    reason: str | None,
) -> None:
    found, problem = fitted(domain, in_force, before)
    assert found == followed
    assert (None if problem is None else problem.reason) == reason


def seated_at(configuration: Configuration, domain: DomainPlan = PLANNED) -> Seats:
    seats = Seats(node="a", machine=b"machine1", incarnation=1, random=Random(0))
    seats.sit(domain, configuration, term_ceiling=0, now_ns=0)
    return seats


@pytest.mark.parametrize(
    ("configuration", "is_silent"),
    [
        pytest.param(configured(2, "a"), False, id="its vote counts still"),
        pytest.param(configured(2, "b"), True, id="nobody asks it"),
    ],
)
def test_who_has_left_a_domain_is_silent_unless_its_vote_counts(
    configuration: Configuration,
    *,
    is_silent: bool,
) -> None:
    seats = seated_at(configuration)
    (seated,) = seats.left(set())
    assert seats.left({UID}) == []
    assert seats.speaking() == [seated]
    seats.leave(seated, 1)
    assert seated.seat.domain.virtual_ips == ()
    assert (seats.speaking() == []) is is_silent
    assert (seats.addressed(seated.seat.tag) is None) is is_silent
    assert (seats.deadline_ns is None) is is_silent


def test_a_domain_that_comes_back_has_its_old_seat() -> None:
    seats = seated_at(configured(2, "b"))
    (seated,) = seats
    seats.leave(seated, 1)
    again, _, _ = seats.sit(PLANNED, configured(2, "b"), term_ceiling=0, now_ns=2)
    assert again is seated
    assert seats.addressed(seated.seat.tag) is seated
    assert seated.seat.domain.virtual_ips == (WEB,)


def test_a_datagram_of_another_domain_is_for_no_seat() -> None:
    seats = seated_at(IN_FORCE)
    assert seats.addressed(None) is None
    assert seats.addressed(bytes(8)) is None


@pytest.mark.parametrize(
    ("configuration", "wanted"),
    [
        pytest.param(configured(2, "a", "b", has_api_vote=True), (UID,), id="the API server has one"),
        pytest.param(configured(2, "a", "b"), (), id="it has none"),
    ],
)
def test_votes_are_wanted_where(configuration: Configuration, wanted: tuple[str, ...]) -> None:
    seats = seated_at(configuration)
    assert tuple(vote.domain_uid for vote in seats.votes_wanted(0).wanted) == wanted


def test_a_vote_that_is_named_no_more_is_not_held() -> None:
    seats = seated_at(configured(2, "a", "b", has_api_vote=True))
    (seated,) = seats
    vote = Vote(domain_uid=UID, until_ns=SECOND_NS, term_floor=0, term_ceiling=1000, transitions=3, epoch=2)
    seats.hear_votes(Votes((vote,)), 0)
    assert seated.seat.vote.transitions(0) == 3
    seats.hear_votes(Votes(answers=(Answer("other", 0),)), 0)
    assert seated.seat.vote.transitions(0) == 0
