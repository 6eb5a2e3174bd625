"""Rise, fall, weight and score: tables, and laws over random histories."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent.health import (
    GATEWAY,
    HIGHEST_SCORE,
    LOWEST_SCORE,
    MESSAGE_HOLD_S,
    Definition,
    Health,
    Result,
    Standing,
    Subject,
    Verdict,
    assess,
    node_checks,
    receive,
    subjects,
)
from vipapi.configuration import Configuration
from vipapi.healthchecks import HealthCheck, HTTPGet, Link, TCPSocket
from vipapi.nodeplan import CandidatePlan, DomainPlan, Plan, Timing, VirtualIPPlan

OK = Result(is_ok=True)
NO = Result(is_ok=False, message="no answer")


def check(name: str = "app", port: int = 80, **fields: Any) -> HealthCheck:
    return HealthCheck(name=name, tcp_socket=TCPSocket(port=port), **fields)


def _domain(**fields: Any) -> DomainPlan:
    return DomainPlan(
        name="d",
        uid="d",
        port=7946,
        timing=Timing(100, 400, 500, 600),
        configuration=Configuration(),
        members=(),
        keys=(),
        **fields,
    )


def fold(definition: Definition, history: str, standing: Standing | None = None) -> str:
    """Feed a history such as `+--` and return the verdicts as one letter each."""
    standing = standing or Standing()
    verdicts = ""
    for at, sign in enumerate(history):
        standing = receive(standing, definition, OK if sign == "+" else NO, now=float(at))
        verdicts += standing.verdict[0]
    return verdicts


@pytest.mark.parametrize(
    ("history", "verdicts"),
    [
        pytest.param("+", "P", id="the-first-success-decides"),
        pytest.param("-", "F", id="the-first-failure-decides"),
        pytest.param("+--+", "PPPP", id="fewer-than-fall-in-a-row-change-nothing"),
        pytest.param("+---", "PPPF", id="fall-in-a-row-turn-it"),
        pytest.param("+--+--+", "PPPPPPP", id="a-success-starts-the-count-again"),
        pytest.param("-+", "FF", id="fewer-than-rise-in-a-row-change-nothing"),
        pytest.param("-++", "FFP", id="rise-in-a-row-turn-it"),
        pytest.param("-+-+-++", "FFFFFFP", id="a-failure-starts-the-count-again"),
        pytest.param("+---++---", "PPPFFPPPF", id="there-and-back-and-there"),
    ],
)
def test_a_check_turns_after_its_threshold(history: str, verdicts: str) -> None:
    assert fold(Definition.of(check()), history) == verdicts


def test_a_link_that_is_down_turns_its_check_at_once() -> None:
    link = HealthCheck(name="nic", link=Link(interface="eth0"))
    assert fold(Definition.of(link), "+-++") == "PFFP"


def test_a_link_check_waits_where_its_threshold_is_given() -> None:
    link = HealthCheck(name="nic", link=Link(interface="eth0"), failure_threshold=2)
    assert fold(Definition.of(link), "+--") == "PPF"


VERDICTS: tuple[Verdict, ...] = ("Passing", "Failing", "Unknown")
thresholds = st.integers(1, 5)
histories = st.lists(st.booleans(), min_size=1, max_size=60)


@given(rise=thresholds, fall=thresholds, history=histories)
def test_a_verdict_turns_only_after_that_many_results_in_a_row(
    rise: int, fall: int, history: list[bool]
) -> None:
    definition = Definition.of(check(success_threshold=rise, failure_threshold=fall))
    standing = Standing()
    for at, is_ok in enumerate(history):
        before = standing.verdict
        # So far apart that nothing is damped.
        standing = receive(standing, definition, OK if is_ok else NO, now=400.0 * at)
        needed = rise if is_ok else fall
        if before == "Unknown":
            assert standing.verdict == ("Passing" if is_ok else "Failing")
        elif before != standing.verdict:
            assert history[max(0, at + 1 - needed) : at + 1] == [is_ok] * needed
        if at + 1 >= needed and history[at + 1 - needed : at + 1] == [is_ok] * needed:
            assert standing.verdict == ("Passing" if is_ok else "Failing")


def test_a_passing_check_has_no_message() -> None:
    standing = receive(Standing(), Definition.of(check()), Result(is_ok=True, message="fine"), now=0.0)
    assert standing.message == ""


def test_a_failing_check_keeps_its_message_for_a_while() -> None:
    definition = Definition.of(check())
    standing = receive(Standing(), definition, Result(is_ok=False, message="at 12:00:00"), now=0.0)
    standing = receive(standing, definition, Result(is_ok=False, message="at 12:00:01"), now=1.0)
    assert standing.message == "at 12:00:00"
    standing = receive(standing, definition, Result(is_ok=False, message="refused"), now=MESSAGE_HOLD_S)
    assert standing.message == "refused"


def standings(**verdicts: str) -> dict[Definition, Standing]:
    ports = {"a": 1, "b": 2, "c": 3}
    known = {"P": Standing("Passing"), "F": Standing("Failing", message="refused")}
    return {Definition.of(check(port=ports[name])): known[verdict] for name, verdict in verdicts.items()}


@pytest.mark.parametrize(
    ("checks", "verdicts", "expected"),
    [
        pytest.param((), {}, ("Fit", 100, ""), id="no-checks"),
        pytest.param((check("a", 1),), {"a": "P"}, ("Fit", 100, ""), id="required-passes"),
        pytest.param((check("a", 1),), {"a": "F"}, ("Unfit", 100, "CheckFailed"), id="required-fails"),
        pytest.param((check("a", 1),), {}, ("Unfit", 100, "CheckPending"), id="required-has-no-result"),
        pytest.param(
            (check("a", 1), check("b", 2)),
            {"b": "F"},
            ("Unfit", 100, "CheckFailed"),
            id="failed-before-pending",
        ),
        pytest.param((check("a", 1, weight=20),), {"a": "P"}, ("Fit", 120, ""), id="positive-while-passing"),
        pytest.param((check("a", 1, weight=20),), {"a": "F"}, ("Fit", 100, ""), id="positive-while-failing"),
        pytest.param((check("a", 1, weight=20),), {}, ("Fit", 100, ""), id="positive-unknown"),
        pytest.param((check("a", 1, weight=-30),), {"a": "P"}, ("Fit", 100, ""), id="negative-while-passing"),
        pytest.param((check("a", 1, weight=-30),), {"a": "F"}, ("Fit", 70, ""), id="negative-while-failing"),
        pytest.param((check("a", 1, weight=-30),), {}, ("Fit", 100, ""), id="negative-unknown"),
        pytest.param((check("a", 1, weight=0),), {"a": "F"}, ("Fit", 100, ""), id="weight-zero-only-informs"),
        pytest.param(
            (check("a", 1, weight=253),), {"a": "P"}, ("Fit", HIGHEST_SCORE, ""), id="never-above-the-highest"
        ),
        pytest.param(
            (check("a", 1, weight=-253),), {"a": "F"}, ("Fit", LOWEST_SCORE, ""), id="never-below-the-lowest"
        ),
        pytest.param(
            (check("a", 1, weight=100), check("b", 2, weight=100), check("c", 3, weight=-60)),
            {"a": "P", "b": "P", "c": "F"},
            ("Fit", 240, ""),
            id="bounded-only-at-the-end",
        ),
    ],
)
def test_checks_are_put_together_as_in_keepalived(
    checks: tuple[HealthCheck, ...], verdicts: dict[str, str], expected: tuple[str, int, str]
) -> None:
    fitness = assess(Subject(uid="u", priority=100, checks=checks), standings(**verdicts))
    assert (fitness.fit, fitness.score, fitness.reason) == expected
    assert [status.name for status in fitness.checks] == [c.name for c in checks]


def test_an_unfit_node_says_which_check_fails_and_why() -> None:
    fitness = assess(Subject("u", 100, (check("a", 1), check("b", 2))), standings(a="F", b="P"))
    assert fitness.message == "required checks failing: a: refused"
    assert [(status.result, status.message) for status in fitness.checks] == [
        ("Failing", "refused"),
        ("Passing", ""),
    ]


@given(
    priority=st.integers(1, 254),
    weights=st.lists(st.one_of(st.none(), st.integers(-253, 253)), max_size=3),
    verdicts=st.lists(st.sampled_from(VERDICTS), min_size=3, max_size=3),
)
def test_a_check_that_recovers_never_makes_a_node_worse(
    priority: int, weights: list[int | None], verdicts: list[Verdict]
) -> None:
    checks = tuple(
        HealthCheck(name=str(at), tcp_socket=TCPSocket(port=at + 1), weight=weight)
        for at, weight in enumerate(weights)
    )
    subject = Subject("u", priority, checks)
    known = {Definition.of(c): Standing(verdict) for c, verdict in zip(checks, verdicts, strict=False)}
    before = assess(subject, known)
    assert LOWEST_SCORE <= before.score <= HIGHEST_SCORE
    for definition, standing in known.items():
        after = assess(subject, {**known, definition: Standing("Passing")})
        assert after.is_fit >= before.is_fit
        if standing.verdict == "Failing":
            assert after.score >= before.score


def test_checks_defined_alike_are_one_probe() -> None:
    health = Health()
    explicit = check("other-name", weight=5, period_milliseconds=1000, timeout_milliseconds=1000)
    health.update([Subject(f"vip-{n}", 100, (check(), explicit)) for n in range(500)])
    assert len(health.definitions) == 1
    health.receive(health.definitions[0], NO, now=0.0)
    assert {health.fitness(f"vip-{n}").reason for n in range(500)} == {"CheckFailed"}  # type: ignore[union-attr]


def test_a_new_plan_forgets_no_check_that_it_did_not_change() -> None:
    health = Health()
    health.update([Subject("u", 100, (check("app", 80), check("db", 5432)))])
    app, database = health.definitions
    health.receive(app, OK, now=0.0)
    health.receive(database, NO, now=0.0)
    renamed = Subject("v", 50, (check("renamed", 80), check("db", 5432, period_milliseconds=500)))
    health.update([renamed])
    fitness = health.fitness("v")
    assert fitness is not None
    assert [status.result for status in fitness.checks] == ["Passing", "Unknown"]
    assert health.fitness("u") is None


def test_a_late_result_of_a_dropped_check_changes_nothing() -> None:
    health = Health()
    health.update([Subject("u", 100, (check(),))])
    dropped = health.definitions[0]
    health.update([Subject("u", 100, (check(port=81),))])
    assert not health.receive(dropped, NO, now=0.0)
    fitness = health.fitness("u")
    assert fitness is not None
    assert fitness.reason == "CheckPending"


def fit(health: Health, *, is_held: bool = False, uid: str = "u") -> tuple[str, int, list[str]]:
    fitness = health.fitness(uid, is_held=is_held)
    assert fitness is not None
    return fitness.reason or fitness.fit, fitness.score, [status.result for status in fitness.checks]


def feed(health: Health, definition: Definition, history: str, **seen: Any) -> list[str]:
    """Feed a history such as `+--` and return what the node is after each result."""
    found = []
    for at, sign in enumerate(history):
        health.receive(definition, OK if sign == "+" else NO, now=float(at))
        found.append(fit(health, **seen)[0])
    return found


EDITS = [
    pytest.param({"failure_threshold": 5}, id="threshold"),
    pytest.param({"period_milliseconds": 500, "failure_threshold": 5}, id="period"),
    pytest.param({"timeout_milliseconds": 500, "failure_threshold": 5}, id="timeout"),
    pytest.param({"port": 81, "failure_threshold": 5}, id="probe"),
]


@pytest.mark.parametrize("weight", [None, 20, -20])
@pytest.mark.parametrize("result", [OK, NO])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_check_stands_where_the_one_it_replaces_stood(
    edit: dict[str, int], result: Result, weight: int | None
) -> None:
    health = Health()
    health.update([Subject("u", 100, (check(weight=weight),))])
    health.receive(health.definitions[0], result, now=0.0)
    before = fit(health)
    health.update([Subject("u", 100, (check(weight=weight, **edit),))])
    assert fit(health) == fit(health, is_held=True) == before
    assert health.definitions == (Definition.of(check(**edit)),)


def test_an_edited_check_turns_only_after_its_threshold() -> None:
    health = Health()
    health.update([Subject("u", 100, (check(),))])
    health.receive(health.definitions[0], OK, now=0.0)
    health.update([Subject("u", 100, (check(port=81),))])
    assert feed(health, health.definitions[0], "--+---") == ["Fit"] * 5 + ["CheckFailed"]
    health.update([Subject("u", 100, (check(port=82),))])
    assert feed(health, health.definitions[0], "+-++") == ["CheckFailed"] * 3 + ["Fit"]


def test_an_edit_of_one_address_s_check_leaves_the_others_as_they_are() -> None:
    health = Health()
    health.update([Subject(uid, 100, (check(),)) for uid in "uv"])
    health.receive(health.definitions[0], OK, now=0.0)
    health.update([Subject("u", 100, (check(port=81),)), Subject("v", 100, (check(),))])
    feed(health, Definition.of(check(port=81)), "---")
    assert [fit(health, uid=uid)[0] for uid in "uv"] == ["CheckFailed", "Fit"]


@pytest.mark.parametrize(
    "others",
    [
        pytest.param((), id="another-had-none"),
        pytest.param((check(port=82),), id="another-s-failed"),
    ],
)
def test_nothing_is_known_of_a_check_that_replaces_what_stood_differently(
    others: tuple[HealthCheck, ...],
) -> None:
    health = Health()
    health.update([Subject("u", 100, (check(),)), Subject("v", 100, others)])
    for definition in health.definitions:
        health.receive(definition, OK if definition == Definition.of(check()) else NO, now=0.0)
    health.update([Subject(uid, 100, (check(port=81),)) for uid in "uv"])
    assert fit(health, uid="v") == ("CheckPending", 100, ["Unknown"])
    assert fit(health, uid="u", is_held=True) == ("Fit", 100, ["Passing"])


@pytest.mark.parametrize(
    ("history", "owner", "standby"),
    [
        pytest.param("+", "f", "f", id="it-passes"),
        pytest.param("---", "ffu", "uuu", id="it-fails"),
        pytest.param("-+--+", "fffff", "uuuuu", id="it-is-unsure"),
        pytest.param("-++---", "fffffu", "uufffu", id="it-fails-later"),
    ],
)
def test_a_new_required_check_is_presumed_to_pass_by_an_owner_only(
    history: str, owner: str, standby: str
) -> None:
    for is_held, expected in ((True, owner), (False, standby)):
        health = Health()
        health.update([Subject("u", 100, (check("old"),))])
        health.receive(health.definitions[0], OK, now=0.0)
        health.update([Subject("u", 100, (check("old"), check("new", 81)))])
        assert fit(health, is_held=True) == ("Fit", 100, ["Passing", "Passing"])
        assert fit(health) == ("CheckPending", 100, ["Passing", "Unknown"])
        assert health.is_presumed("u")
        found = feed(health, Definition.of(check("new", 81)), history, is_held=is_held)
        assert found == ["Fit" if letter == "f" else "CheckFailed" for letter in expected]


def test_a_new_weighted_check_counts_for_nothing_before_its_first_result() -> None:
    health = Health()
    health.update([Subject("u", 100, (check("new", 81, weight=20),))])
    assert fit(health, is_held=True) == ("Fit", 100, ["Unknown"])
    assert not health.is_presumed("u")


def test_what_is_presumed_ends_with_what_is_known_and_is_news() -> None:
    health = Health()
    health.update([Subject("u", 100, (check(),))])
    (definition,) = health.definitions
    changes = [health.receive(definition, NO, now=float(at)) for at in range(4)]
    assert changes == [True, False, True, False]
    assert not health.is_presumed("u")


def test_only_what_a_status_shows_is_a_change() -> None:
    health = Health()
    health.update([Subject("u", 100, (check(),))])
    definition = health.definitions[0]
    changes = [
        health.receive(definition, result, now=float(at))
        for at, result in enumerate([OK, OK, NO, NO, NO, NO, OK, OK, OK])
    ]
    assert changes == [True, False, False, False, True, False, False, True, False]


def test_a_fitness_that_was_asked_for_before_follows_the_next_result() -> None:
    health = Health()
    health.update([Subject("u", 100, (check(),)), Subject("v", 100, (check(port=81),))])
    seen = []
    for definition in health.definitions:
        health.receive(definition, OK, now=0.0)
        seen.append([fitness.is_fit for fitness in map(health.fitness, "uv") if fitness is not None])
    assert seen == [[True, False], [True, True]]


def test_the_probe_is_part_of_the_definition() -> None:
    plain = HealthCheck(name="web", http_get=HTTPGet(port=80))
    other = HealthCheck(name="web", http_get=HTTPGet(port=80, path="/healthz"))
    assert Definition.of(plain) != Definition.of(other)
    assert Definition.of(plain) == Definition.of(HealthCheck(name="x", weight=3, http_get=HTTPGet(port=80)))
    assert dataclasses.replace(Definition.of(plain), rise=9) != Definition.of(plain)


def test_a_node_is_a_subject_only_where_it_is_a_candidate() -> None:
    def vip(uid: str, *nodes: str) -> VirtualIPPlan:
        candidates = tuple(CandidatePlan(node, 90 + len(node)) for node in nodes)
        return VirtualIPPlan(uid=uid, name=uid, addresses=("192.0.2.1/24",), candidates=candidates)

    domain = _domain(virtual_ips=(vip("one", "a", "b"), vip("two", "b")))
    assert subjects(Plan(node="a", domains=(domain,))) == (Subject("one", 91, ()),)


def _gateway_verdicts(history: str) -> str:
    health = Health()
    health.update([], [GATEWAY])
    verdicts = health.standing(GATEWAY).verdict[0]
    for now, sign in enumerate(history):
        health.receive(GATEWAY, OK if sign == "+" else NO, now=float(now))
        verdicts += health.standing(GATEWAY).verdict[0]
    return verdicts


@pytest.mark.parametrize(
    ("history", "verdicts"),
    [
        pytest.param("--+--", "PPPPPP", id="a lost answer or two are none"),
        pytest.param("---", "PPPF", id="silent since the keeper started"),
        pytest.param("+---+-+++", "PPPPFFFFPP", id="gone for a while"),
    ],
)
def test_a_gateway_is_sound_until_it_was_silent_three_times(history: str, verdicts: str) -> None:
    assert _gateway_verdicts(history) == verdicts


def test_a_gateway_that_comes_back_after_there_was_none_is_presumed_sound_again() -> None:
    health = Health()
    health.update([], [GATEWAY])
    for now in range(3):
        health.receive(GATEWAY, NO, now=float(now))
    health.update([])
    assert health.standing(GATEWAY).verdict == "Unknown"
    health.update([], [GATEWAY])
    assert health.standing(GATEWAY).verdict == "Passing"


@pytest.mark.parametrize(
    ("probe", "has_gateway", "expected"),
    [
        pytest.param("Auto", True, (GATEWAY,), id="a gateway to look at"),
        pytest.param("Auto", False, (), id="no gateway"),
        pytest.param("Off", True, (), id="not wanted"),
    ],
)
def test_a_gateway_is_probed_where_there_is_one_and_a_domain_wants_it(
    probe: Literal["Auto", "Off"], *, has_gateway: bool, expected: tuple[Definition, ...]
) -> None:
    domain = _domain(gateway_probe=probe)
    assert node_checks(Plan(node="a", domains=(domain,)), has_gateway=has_gateway) == expected
