"""The stack of a VirtualIP's services: tables, and laws over histories of several nodes (`agent.stacks`)."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.stacks import SECOND, Cluster, service
from vipagent.workload import (
    FIRST_HOLD_OFF_S,
    LONGEST_HOLD_OFF_S,
    Fault,
    Outcome,
    Runs,
    Stack,
    Start,
    leash_ns,
)

if TYPE_CHECKING:
    from vipapi.nodeplan import ServicePlan

DB, APP = service("db"), service("app")
BEHIND = service("behind", is_first=False)
ALONE = frozenset[str]()
BOTH = frozenset({"node-b", "node-c"})
HOUR_S = 3600


class Node:
    """A stack with a clock; deeds are told as `start db` and `stop db`, and every one is remembered."""

    def __init__(
        self,
        *services: ServicePlan,
        others: frozenset[str] = ALONE,
        leftovers: frozenset[str] = frozenset(),
        can_fence: bool = False,
    ) -> None:
        self.now_ns = 1000 * SECOND
        self.runs: dict[str, int] = {}
        self.stack = Stack(now_ns=self.now_ns, leftovers=leftovers, can_fence=can_fence)
        self.others = others
        self.off: frozenset[str] = frozenset()
        self.assign(*services)

    def assign(self, *services: ServicePlan, others: frozenset[str] | None = None) -> list[str]:
        self.others = self.others if others is None else others
        self.services = services
        self.stack.assign(services, self.others, self.now_ns, out_of_service=self.off)
        return self.step()

    def name_off(self, *nodes: str) -> list[str]:
        """Somebody says of these, and of no others, that they are off."""
        self.off = frozenset(nodes)
        return self.assign(*self.services)

    def step(self) -> list[str]:
        told = []
        for deed in self.stack.step(self.now_ns):
            key = deed.service.id if isinstance(deed, Start) else deed.service_id
            if isinstance(deed, Start):
                assert deed.run > self.runs.get(key, 0)
                self.runs[key] = deed.run
            assert deed.run == self.runs.get(key, 0)
            told.append(f"{type(deed).__name__.lower()} {key.removeprefix('u/')}")
        assert self.stack.step(self.now_ns) == [], "a deed is said once"
        return told

    def after(self, seconds: float) -> list[str]:
        self.now_ns += int(seconds * SECOND)
        return self.step()

    def own(self, term: int = 1, former: str | None = None, *, seen_ns: int = 0) -> list[str]:
        self.stack.own(term, self.now_ns, self.now_ns, former, seen_ns=seen_ns)
        return self.step()

    def leave(self) -> list[str]:
        self.stack.leave(self.now_ns)
        return self.step()

    def stay(self) -> list[str]:
        self.stack.stay(self.now_ns)
        return self.step()

    def lose(self) -> list[str]:
        self.stack.lose(self.now_ns)
        return self.step()

    def bound(self) -> list[str]:
        self.stack.bound(self.now_ns)
        return self.step()

    def fail(self, message: str = "no answer") -> list[str]:
        self.stack.fail(message, self.now_ns)
        return self.step()

    def confirm(self, node: str, *names: str, term: int = 1) -> list[str]:
        self.stack.confirm(node, [f"u/{name}" for name in names], self.now_ns, term=term)
        return self.step()

    def deny(self, node: str, *names: str, term: int = 1, within_ms: int | None = None) -> list[str]:
        ids = [f"u/{name}" for name in names]
        fencing = {} if within_ms is None else dict.fromkeys(ids, within_ms)
        self.stack.deny(node, ids, self.now_ns, term=term, fencing=fencing)
        return self.step()

    def wait(self, node: str, *names: str, term: int = 1) -> list[str]:
        self.stack.wait(node, [f"u/{name}" for name in names], self.now_ns, term=term)
        return self.step()

    def tell(self, name: str, kind: str, message: str = "", *, run: int | None = None) -> list[str]:
        key = f"u/{name}"
        outcome = Outcome(key, self.runs.get(key, 0) if run is None else run, kind, message)  # type: ignore[arg-type]
        self.stack.receive(outcome, self.now_ns)
        return self.step()

    def started(self, *names: str) -> list[str]:
        """Each is said to have started; what that brings about last."""
        return [self.tell(name, "Started") for name in names][-1]

    @property
    def states(self) -> dict[str, str]:
        return {each.name: state for each, state, _, _ in self.stack.statuses()}

    @property
    def messages(self) -> dict[str, str]:
        return {each.name: message for each, _, _, message in self.stack.statuses()}


def active(*services: ServicePlan, others: frozenset[str] = ALONE) -> Node:
    """Return a node that owns the address and runs them all."""
    node = Node(*services, others=others)
    node.own()
    for each in services:
        for other in others:
            node.confirm(other, each.name)
        node.tell(each.name, "Started")
        node.bound()
    assert node.stack.is_active
    return node


# Order -------------------------------------------------------------------------------------------


def test_services_start_one_after_another() -> None:
    node = Node(DB, APP)
    assert node.step() == []
    assert node.own() == ["start db"]
    assert node.states == {"db": "Starting", "app": "Waiting"}
    assert node.messages["app"] == "starts when db is active"
    assert node.tell("db", "Started") == ["start app"]
    assert not node.stack.is_active
    assert node.tell("app", "Started") == []
    assert node.stack.is_active


def test_no_two_stacks_of_a_node_number_a_start_alike() -> None:
    runs = Runs()
    stacks = [Stack(now_ns=SECOND, runs=runs) for _ in range(3)]
    numbers = set()
    for stack in stacks:
        stack.assign((DB,), ALONE, SECOND)
        stack.own(1, SECOND, SECOND)
        numbers |= {deed.run for deed in stack.step(SECOND)}
    assert len(numbers) == len(stacks)


def test_nothing_of_a_new_tenure_starts_until_all_of_the_former_has_stopped() -> None:
    node = active(DB, APP)
    node.lose()
    assert node.own(term=2) == []
    assert node.tell("db", "Stopped") == []
    assert node.messages["db"] == "starts when what ran here before has stopped"
    assert node.tell("app", "Stopped") == ["start db"]


def test_nothing_starts_until_what_is_planned_no_more_has_stopped() -> None:
    node = active(DB)
    assert node.assign(APP) == ["stop db"]
    assert node.states["app"] == "Waiting"
    assert node.tell("db", "Stopped") == ["start app"]


def test_a_service_that_the_node_still_runs_for_another_address_is_waited_for() -> None:
    stack = Stack(now_ns=SECOND)
    stack.assign((DB,), ALONE, SECOND)
    stack.own(1, SECOND, SECOND)
    assert stack.step(SECOND, frozenset({DB.id})) == []
    assert [type(deed) for deed in stack.step(SECOND)] == [Start]


def test_services_stop_in_reverse_one_after_another() -> None:
    node = active(DB, APP)
    assert node.leave() == ["stop app"]
    assert not node.stack.is_vacant
    assert node.tell("app", "Stopped") == ["stop db"]
    assert node.tell("db", "Stopped") == []
    assert node.stack.is_vacant
    assert node.states == {"db": "Stopped", "app": "Stopped"}


def test_with_the_lease_lost_all_stop_at_once() -> None:
    node = active(DB, APP)
    assert sorted(node.lose()) == ["stop app", "stop db"]


def test_a_service_that_starts_behind_the_address_waits_for_it() -> None:
    node = Node(BEHIND, DB)
    assert node.own() == ["start db"]
    assert not node.stack.may_bind
    assert node.started("db") == []
    assert node.stack.may_bind
    assert node.messages["behind"] == "starts when the addresses are bound"
    assert node.bound() == ["start behind"]


def test_the_address_goes_between_what_stands_behind_it_and_what_stands_beneath() -> None:
    node = active(DB, BEHIND)
    assert node.leave() == ["stop behind"]
    assert node.stack.may_bind
    node.stack.receive(Outcome("u/behind", node.runs["u/behind"], "Stopped"), node.now_ns)
    assert not node.stack.may_bind
    assert node.step() == ["stop db"]


@pytest.mark.parametrize("end", ["leave", "lose", "fail"])
def test_the_address_goes_with_what_it_stands_on(end: str) -> None:
    node = active(DB)
    assert node.stack.may_bind
    assert getattr(node, end)() == ["stop db"]
    assert not node.stack.may_bind


def test_without_services_nothing_keeps_the_address() -> None:
    node = Node()
    assert node.stack.may_bind
    assert node.stack.is_vacant
    assert not node.stack.is_active


def test_a_standby_does_not_bind() -> None:
    assert not Node(DB).stack.may_bind


def test_an_added_service_does_not_take_the_address_away() -> None:
    node = active(DB)
    assert node.assign(DB, APP) == ["start app"]
    assert node.stack.may_bind
    assert not node.stack.is_active


# Rule 1: nobody else runs it ---------------------------------------------------------------------


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


# Rule 9: who is about to be restarted ------------------------------------------------------------


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


# Rule 10: who is said to be off ------------------------------------------------------------------


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


# Rule 2: only with the lease, and one copy at a time ---------------------------------------------


def test_nothing_starts_without_the_lease() -> None:
    node = Node(DB)
    assert node.after(HOUR_S) == []
    assert node.states == {"db": "Stopped"}


def test_nothing_starts_while_the_node_is_leaving() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    node.leave()
    assert node.stack.unconfirmed == {}
    assert node.after(HOUR_S) == []


def test_what_is_starting_is_stopped_when_the_node_leaves() -> None:
    node = Node(DB, APP)
    node.own()
    assert node.leave() == ["stop db"]
    assert node.tell("db", "Started") == []
    assert node.states["db"] == "Stopping"


def test_a_lease_that_is_won_again_at_once_waits_for_what_is_stopping() -> None:
    node = active(DB, APP)
    node.stack.lose(node.now_ns)
    assert sorted(node.own(term=2)) == ["stop app", "stop db"]
    assert node.tell("app", "Stopped") == []
    assert node.tell("db", "Stopped") == ["start db"]


def test_what_an_earlier_keeper_left_behind_is_stopped_before_it_is_started() -> None:
    node = Node(leftovers=frozenset({"u/db"}))
    assert node.runs == {}
    assert not node.stack.is_vacant
    assert node.stack.runs(["u/db", "u/app"]) == node.stack.stuck(["u/db", "u/app"]) == {"u/db"}
    assert node.after(35) == ["stop db"]
    node.assign(DB)
    assert node.states == {"db": "StopFailed"}
    assert node.own() == []
    assert node.tell("db", "Stopped") == ["start db"]


# Rule 3: vacant is vacant ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kinds", "is_vacant"),
    [
        pytest.param([], False, id="starting"),
        pytest.param(["Started"], False, id="active"),
        pytest.param(["StartFailed"], False, id="its-start-failed"),
        pytest.param(["Started", "Died"], False, id="it-died"),
        pytest.param(["Started", "Died", "StopFailed"], False, id="it-could-not-be-stopped"),
        pytest.param(["Started", "Died", "Stopped"], True, id="it-is-known-to-be-gone"),
        pytest.param(["StartFailed", "Stopped"], True, id="what-did-not-start-is-gone"),
        pytest.param(["StartFailed", "StopFailed", "Stopped"], True, id="gone-at-last"),
        pytest.param(["Stopped"], True, id="gone-unasked"),
        pytest.param(["Stopped", "StopFailed"], True, id="gone-is-gone"),
    ],
)
def test_a_stack_is_vacant_when_nothing_runs_or_might(kinds: list[str], *, is_vacant: bool) -> None:
    node = Node(DB)
    node.own()
    for kind in kinds:
        node.tell("db", kind)
    assert node.stack.is_vacant == is_vacant
    assert node.stack.runs(["u/db"]) == (frozenset() if is_vacant else {"u/db"})


def test_what_could_not_be_stopped_is_told_and_kept() -> None:
    node = active(DB, APP)
    node.leave()
    assert node.tell("app", "StopFailed", "exit status 3") == []
    assert node.states == {"db": "Active", "app": "StopFailed"}
    assert node.messages["app"] == "exit status 3"
    assert node.stack.stuck(["u/db", "u/app"]) == {"u/app"}
    assert not node.stack.is_vacant
    assert node.stack.obstacle is None
    assert node.lose() == ["stop db"]
    assert node.stack.obstacle is not None
    assert node.stack.obstacle.message == "prod/billing/app could not be stopped: exit status 3"
    node.tell("db", "Stopped")
    node.tell("app", "Stopped")
    assert node.stack.is_vacant
    assert node.stack.obstacle is None


def test_a_stop_that_nothing_is_heard_of_is_said_again() -> None:
    node = active(service("db", stop_s=10))
    assert node.lose() == ["stop db"]
    assert node.after(14.9) == []
    assert node.after(0.1) == ["stop db"]
    node.tell("db", "StopFailed")
    assert node.after(15) == ["stop db"]
    node.tell("db", "Stopped")
    assert node.stack.deadline_ns is None


# Rules 4 to 7 ------------------------------------------------------------------------------------


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


def test_to_be_told_of_the_same_tenure_again_changes_nothing() -> None:
    node = active(DB, others=BOTH)
    assert node.own() == []
    assert node.stack.is_active


def test_what_a_standby_asks_about_unknown_services_is_nothing() -> None:
    node = Node(DB, others=BOTH)
    node.own()
    assert node.confirm("node-b", "other") == []
    assert node.tell("other", "Stopped") == []


@pytest.mark.parametrize("kind", ["Started", "StartFailed", "Stopped", "StopFailed", "Died"])
@pytest.mark.parametrize("state", ["Starting", "Active", "Stopping"])
def test_a_late_outcome_says_nothing_about_a_later_start(kind: str, state: str) -> None:
    node = active(DB)
    former = node.runs["u/db"]
    node.lose()
    node.tell("db", "Stopped")
    assert node.own(term=2) == ["start db"]
    if state != "Starting":
        node.tell("db", "Started")
    if state == "Stopping":
        node.leave()
    assert node.tell("db", kind, run=former) == []
    assert node.states == {"db": state}


def test_a_node_that_is_to_stay_after_all_starts_again_what_it_stopped() -> None:
    node = active(DB, APP, others=BOTH)
    node.leave()
    assert node.tell("app", "Stopped") == ["stop db"]
    assert node.stay() == []
    assert node.tell("db", "Stopped") == ["start db"]
    assert node.tell("db", "Started") == ["start app"]


def test_a_node_that_is_to_stay_before_all_is_stopped_goes_on_with_the_rest() -> None:
    node = active(DB, APP)
    node.leave()
    node.stay()
    assert node.tell("app", "Stopped") == ["start app"]
    assert node.states["db"] == "Active"


# Failures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        pytest.param("StartFailed", "prod/billing/app: its start failed: bad", id="start"),
        pytest.param("Died", "prod/billing/app: it died: bad", id="death"),
        pytest.param("Stopped", "prod/billing/app: it stopped without having been told to: bad", id="end"),
        pytest.param("StopFailed", "prod/billing/app: it could not be stopped: bad", id="leash"),
    ],
)
def test_a_service_that_fails_takes_the_stack_down(kind: str, told: str) -> None:
    node = Node(DB, APP)
    node.own()
    node.started("db")
    deeds = node.tell("app", kind, "bad")
    assert deeds == (["stop db"] if kind == "Stopped" else ["stop app"])
    node.tell("app", "Stopped")
    node.tell("db", "Stopped")
    assert node.stack.is_vacant
    assert node.states == {"db": "Stopped", "app": "Failed"}
    assert node.messages["app"] == f"{told}; this node is kept off for 60 s"
    assert node.messages["db"] == f"with another that failed: {told}"
    assert node.stack.obstacle is not None
    assert node.stack.obstacle.reason == "ServiceFailed"
    assert node.stack.obstacle.message == f"{told}; this node is kept off for 60 s"


def test_a_start_that_nothing_is_heard_of_has_failed() -> None:
    node = Node(service("db", start_s=20))
    node.own()
    assert node.after(24.9) == []
    assert node.after(0.1) == ["stop db"]
    assert node.stack.obstacle is not None
    assert node.stack.obstacle.message.startswith("prod/billing/db: nothing was heard of its start")


def test_services_that_their_health_checks_give_up_on_are_stopped() -> None:
    node = active(DB, APP)
    assert node.fail("app: HTTP 500") == ["stop app"]
    node.tell("app", "Stopped")
    node.tell("db", "Stopped")
    assert node.messages["app"] == (
        "health checks of the services fail: app: HTTP 500; this node is kept off for 60 s"
    )


@pytest.mark.parametrize("what", ["standby", "leaving", "starting"])
def test_health_checks_say_nothing_of_what_is_not_active(what: str) -> None:
    node = Node(DB)
    if what != "standby":
        node.own()
    if what == "leaving":
        node.started("db")
        node.leave()
    assert node.fail() == []
    assert node.stack.obstacle is None


@pytest.mark.parametrize("end", ["leave", "lose"])
def test_what_ends_while_it_is_to_end_is_no_failure(end: str) -> None:
    node = active(DB, APP)
    getattr(node, end)()
    node.tell("db", "Died")
    assert node.stack.obstacle is None


def test_an_owner_that_keeps_the_lease_tries_again_after_the_hold_off() -> None:
    node = active(DB)
    node.tell("db", "Died")
    node.tell("db", "Stopped")
    assert node.after(FIRST_HOLD_OFF_S - 0.1) == []
    assert node.after(0.1) == ["start db"]
    assert node.stack.obstacle is None


def test_a_standby_that_failed_is_fit_again_after_the_hold_off() -> None:
    node = active(DB)
    node.tell("db", "Died")
    node.lose()
    node.tell("db", "Stopped")
    assert node.stack.deadline_ns == node.now_ns + FIRST_HOLD_OFF_S * SECOND
    assert node.after(FIRST_HOLD_OFF_S) == []
    assert node.stack.obstacle is None
    assert node.states == {"db": "Stopped"}


def _hold_off_s(node: Node) -> int:
    """Let it fail once more and return how long the node is kept off."""
    node.tell("db", "Died")
    node.tell("db", "Stopped")
    assert node.stack.deadline_ns is not None
    hold_off_s = (node.stack.deadline_ns - node.now_ns) // SECOND
    assert node.after(hold_off_s) == ["start db"]
    node.tell("db", "Started")
    return hold_off_s


def test_each_failure_doubles_the_hold_off() -> None:
    node = active(DB)
    assert [_hold_off_s(node) for _ in range(6)] == [
        60,
        120,
        240,
        480,
        LONGEST_HOLD_OFF_S,
        LONGEST_HOLD_OFF_S,
    ]


def test_failures_are_forgotten_after_an_hour_of_being_active() -> None:
    node = active(DB)
    _hold_off_s(node)
    assert node.stack.deadline_ns == node.now_ns + HOUR_S * SECOND
    node.after(HOUR_S)
    assert node.stack.deadline_ns is None
    assert _hold_off_s(node) == 60


def test_a_service_that_dies_after_hours_is_held_off_as_well() -> None:
    node = active(DB)
    node.after(5 * HOUR_S)
    node.tell("db", "Died")
    assert node.stack.obstacle is not None


@pytest.mark.parametrize(
    ("services", "is_forgotten"),
    [
        pytest.param([DB, service("app", generation=2)], True, id="corrected"),
        pytest.param([DB], True, id="removed"),
        pytest.param([service("db", generation=2), APP], False, id="another-is-corrected"),
    ],
)
def test_a_corrected_service_is_tried_at_once(services: list[ServicePlan], *, is_forgotten: bool) -> None:
    node = active(DB, APP)
    node.tell("app", "Died")
    node.assign(*services)
    assert (node.stack.obstacle is None) == is_forgotten


# What is told to hooks ---------------------------------------------------------------------------


def test_services_are_promoted_when_all_are_active_and_the_addresses_are_bound() -> None:
    node = Node(DB, BEHIND)
    node.own()
    node.started("db")
    assert node.stack.promoted == {}
    node.bound()
    assert node.stack.promoted == {}
    node.started("behind")
    assert node.stack.promoted == {"u/db": DB, "u/behind": BEHIND}
    node.leave()
    assert node.stack.promoted == {}


def test_active_services_are_not_promoted_before_the_addresses_are_bound() -> None:
    node = Node(DB)
    node.own()
    node.started("db")
    assert node.stack.is_active
    assert node.stack.promoted == {}
    node.bound()
    assert node.stack.promoted == {"u/db": DB}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param("StartFailed", "prod/billing/db: its start failed: bad", id="start"),
        pytest.param("Died", "prod/billing/db: it died: bad", id="death"),
        pytest.param("StopFailed", "prod/billing/db: it could not be stopped: bad", id="stop"),
    ],
)
def test_a_fault_is_told_once(kind: str, message: str) -> None:
    node = Node(DB, APP)
    node.own(term=4)
    for _ in range(2):
        node.tell("db", kind, "bad")
    assert node.stack.take_faults() == [Fault(DB, 4, message)]
    assert node.stack.take_faults() == []


def test_a_service_that_cannot_be_stopped_is_a_fault_whatever_became_of_the_lease() -> None:
    node = active(DB, APP)
    node.lose()
    for _ in range(2):
        node.tell("db", "StopFailed", "bad")
    assert node.stack.take_faults() == [Fault(DB, 1, "it could not be stopped: bad", is_stop=True)]
    node.tell("db", "Stopped")
    assert node.stack.take_faults() == []


def test_a_service_that_died_and_cannot_be_stopped_either_has_two_faults() -> None:
    node = active(DB)
    node.tell("db", "Died")
    node.tell("db", "StopFailed")
    assert node.stack.take_faults() == [
        Fault(DB, 1, "prod/billing/db: it died"),
        Fault(DB, 1, "it could not be stopped", is_stop=True),
    ]


def test_a_check_that_fails_is_a_fault_of_all_services_that_it_may_be_about() -> None:
    node = active(DB, APP)
    node.fail("no answer")
    message = "health checks of the services fail: no answer"
    assert node.stack.take_faults() == [Fault(DB, 1, message), Fault(APP, 1, message)]


@pytest.mark.parametrize("end", ["leave", "lose"])
def test_what_ends_because_it_is_to_end_is_no_fault(end: str) -> None:
    node = active(DB)
    getattr(node, end)()
    node.tell("db", "Died")
    node.tell("db", "Stopped")
    assert node.stack.take_faults() == []


# Another plan ------------------------------------------------------------------------------------


def test_a_service_that_is_planned_no_more_is_stopped_and_remembered_until_then() -> None:
    node = active(DB, APP)
    assert node.assign(APP) == ["stop db"]
    assert node.states == {"app": "Active", "db": "Stopping"}
    assert node.stack.runs(["u/db"]) == {"u/db"}
    assert node.stack.is_active
    node.tell("db", "Stopped")
    assert node.states == {"app": "Active"}


def test_a_service_that_comes_back_while_it_stops_is_started_when_it_has_stopped() -> None:
    node = active(DB)
    node.assign()
    assert node.assign(DB) == []
    assert node.tell("db", "Stopped") == ["start db"]


def test_a_service_that_comes_back_may_have_been_elsewhere_meanwhile() -> None:
    node = active(DB, others=BOTH)
    node.assign()
    node.assign(DB)
    assert node.tell("db", "Stopped") == []
    assert node.confirm("node-b", "db") == []
    assert node.confirm("node-c", "db") == ["start db"]


def test_another_workload_is_started_when_the_former_has_stopped() -> None:
    node = active(DB, others=BOTH)
    assert node.assign(service("db", hook="other")) == ["stop db"]
    assert node.messages["db"] == "it is to run otherwise"
    assert node.stack.may_bind
    assert node.tell("db", "Stopped") == ["start db"]


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(service("db", stop_s=1, start_s=1), id="timeouts"),
        pytest.param(service("db", generation=7), id="generation"),
        pytest.param(service("db", is_first=False), id="order"),
        pytest.param(service("db", is_singleton=False), id="singleton"),
    ],
)
def test_what_runs_goes_on_when_only_its_circumstances_change(changed: ServicePlan) -> None:
    node = active(DB)
    assert node.assign(changed) == []
    assert node.stack.statuses()[0][:2] == (changed, "Active")


def test_a_state_is_told_with_when_it_began() -> None:
    node = Node(DB, others=BOTH)
    node.after(5)
    node.own()
    since_ns = node.now_ns
    node.after(1)
    node.confirm("node-b", "db")
    assert node.stack.statuses()[0][1:3] == ("Waiting", since_ns)
    node.confirm("node-c", "db")
    assert node.stack.statuses()[0][1:3] == ("Starting", since_ns + SECOND)


# Laws --------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, 4))
def test_no_two_nodes_ever_run_a_singleton_and_when_things_calm_down_the_owner_does(
    seed: int, nodes: int
) -> None:
    services = (
        service("db", stop_s=10, fences=True),
        service("app", stop_s=30, is_first=False),
        service("web", stop_s=2, fences=True),
    )
    cluster = Cluster(Random(seed), nodes=nodes, services=services)
    cluster.live(60)
    cluster.calm_down()
    assert cluster.is_well(), cluster.told()
