"""When the next keeper of a roll-out may be taken away, because this one does its part."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vipagent.readiness import SETTLING_S, STARTING_S, STOPPING, Facts, Part, Readiness, missing
from vipagent.standing import Standing
from vipapi.nodestatus import Problem

FIT = Standing("Fit", 100)
READY = Facts(
    is_serving=True,
    has_plan=True,
    problem=None,
    parts=(Part(domain="default"),),
    standings={"web": FIT},
    age_s=1.0,
)


def unfit(reason: str) -> Standing:
    return Standing("Unfit", 1, reason, "a message")


def said(**changes: Any) -> str:
    return missing(dataclasses.replace(READY, **changes))


def test_who_does_its_part_is_ready() -> None:
    assert missing(READY) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"is_serving": False}, "it is starting", id="starting"),
        pytest.param({"has_plan": False}, "it has no plan", id="no-plan"),
        pytest.param({"problem": Problem("PlanNotKept", "disk full")}, "PlanNotKept: disk full", id="disk"),
    ],
)
def test_who_lacks_the_ground_it_stands_on_is_not_ready(changes: dict[str, Any], words: str) -> None:
    assert said(**changes).startswith(words)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        pytest.param({"is_seated": False}, "it has no part in domain default", id="no-key"),
        pytest.param({"has_wire": False}, "its heartbeats of domain default have no address", id="no-socket"),
        pytest.param({"is_speaking": False}, "its witness of domain default is silent", id="quarantine"),
        pytest.param({"is_answered": False}, "no majority of the witnesses of domain default", id="unheard"),
    ],
)
def test_who_could_not_take_over_at_once_in_every_domain_is_not_ready(
    part: dict[str, Any], words: str
) -> None:
    parts = (Part(domain="other"), Part(domain="default", **part))
    assert said(parts=parts).startswith(words)
    assert said(parts=parts, standings={}).startswith(words)


def test_a_domain_without_witnesses_holds_nobody_up() -> None:
    assert said(parts=(Part(domain="default", has_witnesses=False, is_seated=False),)) == ""


def test_a_node_without_any_domain_is_ready() -> None:
    assert said(parts=(), standings={}) == ""


@pytest.mark.parametrize("reason", ["CheckPending", "NotArmed"])
def test_what_a_start_is_to_blame_for_is_waited_for_longer_but_not_for_ever(reason: str) -> None:
    standings = {"web": unfit(reason)}
    for age_s in (0.0, SETTLING_S, STARTING_S - 1):
        assert said(standings=standings, age_s=age_s) == f"it could not hold web ({reason}) yet"
    assert said(standings=standings, age_s=STARTING_S) == ""


@pytest.mark.parametrize("reason", ["CheckFailed", "NoInterface", "ServiceFailed"])
def test_other_obstacles_are_waited_for_only_while_the_keeper_settles(reason: str) -> None:
    standings = {"web": unfit(reason), "db": FIT}
    assert said(standings=standings) == f"it could not hold web ({reason}) yet"
    assert said(standings=standings, age_s=SETTLING_S) == ""


def test_a_witness_that_never_holds_needs_no_fitness() -> None:
    assert said(standings={"web": Standing("NotCandidate")}) == ""


def test_a_thousand_obstacles_make_a_short_sentence() -> None:
    words = said(standings={f"vip-{number}": unfit("NotArmed") for number in range(1000)})
    assert words.endswith("vip-4 (NotArmed) and 995 more yet")


LONELY = dataclasses.replace(READY, parts=(Part(domain="default", is_answered=False),))


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(LONELY, id="no-majority"),
        pytest.param(dataclasses.replace(READY, parts=(Part(domain="new", is_seated=False),)), id="no-key"),
        pytest.param(dataclasses.replace(READY, problem=Problem("PlanRefused", "too new")), id="plan"),
        pytest.param(dataclasses.replace(READY, standings={"web": unfit("NotArmed")}), id="unfit"),
    ],
)
def test_what_is_lost_later_does_not_have_an_old_keeper_taken_away_beside_a_new_one(later: Facts) -> None:
    readiness = Readiness()
    assert readiness.missing(lambda: READY, is_stopping=False) == ""
    assert readiness.missing(lambda: later, is_stopping=False) == ""
    assert Readiness().missing(lambda: later, is_stopping=False) != ""


def test_who_was_never_ready_is_asked_again() -> None:
    readiness = Readiness()
    for _ in range(2):
        assert readiness.missing(lambda: LONELY, is_stopping=False).startswith("no majority")
    assert readiness.missing(lambda: READY, is_stopping=False) == ""


def test_who_stops_is_not_ready_whatever_it_was() -> None:
    readiness = Readiness()
    assert readiness.missing(lambda: READY, is_stopping=True) == STOPPING
    assert readiness.missing(lambda: READY, is_stopping=False) == ""
    assert readiness.missing(lambda: READY, is_stopping=True) == STOPPING
