"""Who else may run a copy of a service, as a stack waits for it (`vipagent.workload`, rules 1, 4, 9, 10)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.onestack import APP, BOTH, DB, HOUR_S, Node, active
from agent.stacks import SECOND, service
from vipagent.suspects import leash_ns


def test_a_singleton_waits_for_every_other_node() -> None:
    node = Node(DB, APP, others=BOTH)
    assert node.own() == []
    assert node.states == {"db": "Waiting", "app": "Waiting"}
    assert node.messages["db"] == (
        "waits for node-b, node-c to confirm that it does not run there, for 37 s at the longest"
    )
    assert node.stack.unconfirmed == {each: {"u/db", "u/app"} for each in BOTH}
    assert node.confirm("node-b", "db", "app") == []
    assert node.stack.unconfirmed == {"node-c": {"u/db", "u/app"}}
    assert node.confirm("node-c", "db") == ["start db"]
    assert node.stack.unconfirmed == {"node-c": {"u/app"}}
    assert node.started("db") == []
    assert node.confirm("node-c", "app") == ["start app"]


def test_a_singleton_waits_no_longer_than_a_leash_lasts() -> None:
    node = Node(service("db", stop_s=9), others=BOTH)
    assert node.own() == []
    assert node.stack.deadline_ns == node.now_ns + 12 * SECOND
    assert node.after(11.999) == []
    assert node.after(0.001) == ["start db"]


@given(st.integers(1, HOUR_S * 1000), st.floats(0.9, 1.1), st.floats(0.9, 1.1))
def test_a_leash_has_ended_its_copy_whatever_the_clocks_do(stop_ms: int, theirs: float, mine: float) -> None:
    lasts_ns = stop_ms * 1_000_000 / theirs
    assert lasts_ns * mine < leash_ns(stop_ms)


def test_what_is_no_singleton_starts_at_once() -> None:
    node = Node(service("db", is_singleton=False), others=BOTH)
    assert node.own() == ["start db"]
    assert node.stack.unconfirmed == {}


def test_the_former_owner_is_waited_for_though_it_is_no_candidate() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    assert node.own(former="node-x") == []
    assert node.confirm("node-b", "db") == []
    assert node.confirm("node-x", "db") == ["start db"]


def test_a_former_candidate_is_waited_for() -> None:
    node = Node(DB, others=BOTH)
    node.assign(DB, others=frozenset({"node-b"}))
    assert node.own() == []
    assert node.confirm("node-b", "db") == []
    assert node.confirm("node-c", "db") == ["start db"]


def test_once_it_was_started_here_a_former_candidate_is_not_waited_for_again() -> None:
    node = active(DB, others=BOTH)
    node.assign(DB, others=frozenset({"node-b"}))
    node.lose()
    node.tell("db", "Stopped")
    node.assign(DB, others=frozenset({"node-b"}))
    node.own(term=2)
    node.confirm("node-c", "db", term=2)
    assert node.confirm("node-b", "db", term=2) == ["start db"]
    node.lose()
    node.tell("db", "Stopped")
    node.own(term=3)
    assert node.confirm("node-b", "db", term=3) == ["start db"]


def test_the_longest_time_to_stop_counts_that_it_may_have_been_started_with() -> None:
    node = Node(service("db", stop_s=90), others=BOTH)
    node.assign(service("db", stop_s=9))
    node.own()
    assert node.after(110.9) == []
    assert node.after(0.1) == ["start db"]


def test_the_time_may_begin_in_the_future() -> None:
    node = Node(service("db", stop_s=9), others=BOTH)
    node.stack.own(1, node.now_ns + SECOND, node.now_ns)
    assert node.after(12.9) == []
    assert node.after(0.1) == ["start db"]


def test_a_service_new_to_the_plan_is_waited_for_however_old_the_tenure() -> None:
    node = active(DB, others=BOTH)
    node.after(HOUR_S)
    assert node.assign(DB, APP) == []
    assert node.stack.unconfirmed == {each: {"u/app"} for each in BOTH}
    assert node.after(38) == ["start app"]


def test_what_could_not_be_stopped_elsewhere_is_waited_for_without_end() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.confirm("node-c", "db")
    assert node.deny("node-b", "db") == []
    assert node.stack.deadline_ns is None
    assert node.after(HOUR_S) == []
    assert node.messages["db"].startswith("could not be stopped on node-b: end it there")
    assert node.confirm("node-b", "db") == ["start db"]


def test_a_denial_that_was_overtaken_says_nothing() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.confirm("node-b", "db")
    node.deny("node-b", "db")
    assert node.confirm("node-c", "db") == ["start db"]


def test_a_node_that_a_person_took_out_is_given_its_leashs_time_once_more() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.confirm("node-c", "db")
    node.deny("node-b", "db")
    node.after(HOUR_S)
    assert node.assign(DB, others=frozenset({"node-c"})) == []
    assert node.after(37) == []
    assert node.after(1) == ["start db"]


def test_a_confirmation_from_before_the_tenure_does_not_count() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.confirm("node-b", "db")
    assert node.own() == []
    node.lose()
    node.confirm("node-b", "db")
    assert node.own(term=2) == []
    assert node.confirm("node-b", "db", term=1) == []
    assert node.confirm("node-b", "db", term=2) == ["start db"]
    node.lose()
    node.tell("db", "Stopped")
    assert node.own(term=5) == []


def test_a_denial_lasts_until_it_is_taken_back_whatever_the_tenure() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.deny("node-b", "db")
    node.own(term=2)
    assert node.after(38) == []
    assert node.confirm("node-b", "db", term=2) == ["start db"]


def test_a_denial_in_answer_to_an_earlier_tenure_does_not_count() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own(term=2)
    node.deny("node-b", "db", term=1)
    assert node.after(38) == ["start db"]


def test_who_says_that_it_runs_one_still_is_given_its_leash_s_time_from_then_on() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.after(30)
    node.stack.wait("node-b", ["u/db"], node.now_ns, term=1)
    assert node.after(30) == []
    assert node.after(8) == ["start db"]


def test_who_is_about_to_be_restarted_is_waited_for_as_long_as_that_may_take() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    assert node.deny("node-b", "db", within_ms=9_000) == []
    assert node.messages["db"] == (
        "waits for node-b to confirm that it does not run there, for 12 s at the longest; "
        "node-b could not stop it and restarts itself"
    )
    assert node.after(11.9) == []
    assert node.after(0.1) == ["start db"]


def test_who_says_again_that_it_is_about_to_be_restarted_has_not_been_yet() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    for _ in range(10):
        node.deny("node-b", "db", within_ms=9_000)
        assert node.after(11) == []
    assert node.after(1) == ["start db"]


def test_who_was_restarted_and_says_so_is_waited_for_no_longer() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.deny("node-b", "db", within_ms=9_000)
    assert node.confirm("node-b", "db") == ["start db"]


def test_who_takes_the_promise_of_its_restart_back_is_waited_for_without_end() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.deny("node-b", "db", within_ms=9_000)
    node.deny("node-b", "db")
    assert node.after(HOUR_S) == []
    assert node.messages["db"].startswith("could not be stopped on node-b: end it there")


def test_one_that_is_about_to_be_restarted_frees_no_other_that_cannot_stop_its_copy() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.deny("node-b", "db", within_ms=9_000)
    node.deny("node-c", "db")
    assert node.after(HOUR_S) == []


def test_who_promised_a_restart_is_asked_once_more_before_it_is_believed_to_have_come() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.deny("node-b", "db", within_ms=9_000)
    node.leave()
    node.after(HOUR_S)
    assert node.stay() == []
    assert node.after(1.9) == []
    assert node.after(0.1) == ["start db"]


def test_the_promise_of_a_restart_counts_anew_in_another_tenure() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.deny("node-b", "db", within_ms=9_000)
    node.after(11)
    node.own(term=2)
    assert node.after(11.9) == []
    assert node.after(0.1) == ["start db"]


def test_of_a_silent_node_the_time_of_its_restart_is_waited_for_as_well() -> None:
    node = Node(service("db", stop_s=4, fences=True), others=frozenset({"node-b"}))
    node.own()
    assert node.after(11.9) == []
    assert node.after(0.1) == ["start db"]


@pytest.mark.parametrize(
    ("can_fence", "fences", "fencing"),
    [
        pytest.param(True, True, {"u/db": 35_000}, id="both"),
        pytest.param(False, True, {}, id="a-node-that-cannot"),
        pytest.param(True, False, {}, id="a-service-that-asks-for-nothing"),
    ],
)
def test_a_restart_is_promised_only_when_the_lease_is_over(
    *, can_fence: bool, fences: bool, fencing: dict[str, int]
) -> None:
    node = Node(service("db", fences=fences), APP, can_fence=can_fence)
    node.own()
    node.started("db", "app")
    node.tell("app", "Died")
    node.tell("app", "Stopped")
    node.tell("db", "StopFailed")
    asked = ["u/db", "u/app", "u/other"]
    assert node.stack.fencing(asked) == {}
    node.lose()
    assert node.stack.stuck(asked) == {"u/db"}
    assert node.stack.fencing(asked) == fencing
    node.tell("db", "Stopped")
    assert node.stack.fencing(asked) == {}


def test_a_stop_in_progress_promises_no_restart() -> None:
    node = Node(service("db", fences=True), can_fence=True)
    node.own()
    node.lose()
    assert node.stack.fencing(["u/db"]) == {}


def test_a_node_that_is_said_to_be_off_and_does_not_answer_runs_nothing() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.confirm("node-c", "db")
    node.after(5)
    assert node.name_off("node-b") == []
    assert node.after(1.9) == []
    assert node.after(0.1) == ["start db"]


def test_one_that_was_said_to_be_off_before_is_asked_all_the_same() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.name_off("node-b")
    node.after(HOUR_S)
    assert node.own() == []
    assert node.stack.unconfirmed == {"node-b": {"u/db"}}
    assert node.after(1.9) == []
    assert node.after(0.1) == ["start db"]


def test_the_former_owner_may_be_said_to_be_off_though_it_is_no_candidate() -> None:
    node = Node(DB)
    node.name_off("node-x")
    assert node.own(former="node-x", seen_ns=node.now_ns - 1) == []
    assert node.after(2) == ["start db"]


def test_a_denial_is_void_once_somebody_says_that_the_node_is_off() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.deny("node-b", "db")
    assert node.after(HOUR_S) == []
    assert node.name_off("node-b") == []
    assert node.stack.deadline_ns == node.now_ns + 2 * SECOND
    assert node.after(2) == ["start db"]


def test_only_who_is_named_is_off() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.deny("node-b", "db")
    node.confirm("node-c", "db")
    node.name_off("node-c", "node-x")
    assert node.after(HOUR_S) == []


@pytest.mark.parametrize("says", ["wait", "deny"])
def test_who_answers_is_on_whatever_somebody_says(says: str) -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.name_off("node-b")
    for _ in range(10):
        getattr(node, says)("node-b", "db")
        assert node.after(1.9) == []
    assert node.after(0.1) == ["start db"]


def test_who_was_off_is_not_asked_again_in_this_tenure_though_it_is_on_again() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.deny("node-b", "db")
    node.name_off("node-b")
    node.after(2)
    assert node.name_off() == []
    assert node.stack.unconfirmed == {"node-c": {"u/db"}}
    assert node.confirm("node-c", "db") == ["start db"]


def test_a_word_that_is_taken_back_before_it_counted_never_counts() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.name_off("node-b")
    node.after(1.9)
    node.name_off()
    assert node.after(35) == []
    assert node.after(1.1) == ["start db"]


def test_who_was_off_in_a_former_tenure_is_asked_in_this_one() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.own()
    node.name_off("node-b")
    assert node.after(2) == ["start db"]
    node.lose()
    node.tell("db", "Stopped")
    node.name_off()
    assert node.own(term=3) == []
    assert node.after(37) == []
    assert node.after(1) == ["start db"]


def test_a_denial_from_before_the_node_was_off_does_not_count_in_a_later_tenure() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.deny("node-b", "db")
    node.name_off("node-b")
    node.after(2)
    node.name_off()
    node.own(term=2)
    assert node.after(37) == []
    assert node.after(1) == ["start db"]


def test_a_former_owner_that_renewed_after_it_was_said_to_be_off_is_not_off() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.name_off("node-b")
    node.after(HOUR_S)
    node.own(former="node-b", seen_ns=node.now_ns - SECOND)
    assert node.after(37) == []
    assert node.after(1) == ["start db"]


def test_a_word_that_was_forgotten_counts_when_it_is_said_anew() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.name_off("node-b")
    node.after(1)
    node.own(former="node-b", seen_ns=node.now_ns)
    node.name_off("node-b")
    assert node.after(2) == []
    node.name_off()
    node.name_off("node-b")
    assert node.after(2) == ["start db"]


@pytest.mark.parametrize(
    ("after_s", "who", "counts"),
    [
        pytest.param(59, "node-b", True, id="while-it-shuts-down"),
        pytest.param(60, "node-b", False, id="later"),
        pytest.param(60, "node-c", True, id="another"),
    ],
)
def test_a_word_is_forgotten_of_a_node_that_is_heard(after_s: int, who: str, *, counts: bool) -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.name_off("node-b")
    node.after(after_s)
    node.stack.heard({who}, node.now_ns)
    node.own()
    assert node.after(2) == (["start db"] if counts else [])


def test_a_node_that_is_not_asked_is_not_believed_to_be_off() -> None:
    node = Node(DB, others=frozenset({"node-b"}))
    node.name_off("node-b")
    node.own()
    node.leave()
    node.after(HOUR_S)
    node.lose()
    node.own(term=2)
    node.leave()
    node.after(30)
    assert node.stay() == []
    assert node.after(1.9) == []
    assert node.after(0.1) == ["start db"]
