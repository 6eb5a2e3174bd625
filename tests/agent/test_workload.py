"""The stack of a VirtualIP's services: tables, and laws over histories of several nodes (`agent.stacks`).

Who else may run one is in `test_suspects`, what a failure brings in `test_holdoff`.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.onestack import ALONE, APP, BEHIND, BOTH, DB, HOUR_S, Node, active
from agent.stacks import SECOND, Cluster, service
from vipagent.runs import Outcome, Runs, Start
from vipagent.workload import Stack

if TYPE_CHECKING:
    from vipapi.nodeplan import ServicePlan


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


def test_while_another_machine_has_the_address_what_runs_goes_on_and_nothing_starts_behind_it() -> None:
    late = service("late", is_first=False)
    node = active(DB, BEHIND)
    node.stack.unbound(node.now_ns)
    assert node.step() == []
    assert node.assign(DB, BEHIND, late) == []
    assert (node.stack.may_bind, node.stack.promoted) == (True, {})
    assert node.bound() == ["start late"]


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


@pytest.mark.parametrize(
    ("planned", "stop_s", "fences"),
    [
        pytest.param(service("db", stop_s=5), 5, False, id="a shorter time"),
        pytest.param(service("db", stop_s=90), 30, False, id="a longer time holds from the next start on"),
        pytest.param(service("db", fences=True), 30, True, id="its failure ends the node"),
        pytest.param(service("db", hook="anew", stop_s=5, fences=True), 30, False, id="another program"),
    ],
)
def test_what_runs_is_ended_as_is_planned_since(planned: ServicePlan, stop_s: int, *, fences: bool) -> None:
    node = active(DB)
    node.assign(planned)
    (running,) = node.stack.underway
    assert (running.stop_timeout_ms, running.fences) == (stop_s * 1000, fences)
    assert running.workload == DB.workload


def test_a_node_promises_to_fence_for_what_is_to_fence_since() -> None:
    node = Node(DB, can_fence=True)
    node.own()
    node.tell("db", "Started")
    node.lose()
    node.tell("db", "StopFailed", "cannot")
    assert node.stack.fencing([DB.id]) == {}
    node.assign(service("db", stop_s=10, fences=True))
    assert node.stack.fencing([DB.id]) == {DB.id: 15_000}
    node.assign(DB)
    assert node.stack.fencing([DB.id]) == {}


def test_whoever_knew_of_a_longer_time_waits_for_it() -> None:
    node = Node(service("db", stop_s=30), others=frozenset({"node-b"}))
    node.assign(service("db", stop_s=5))
    assert node.own(former="node-b") == []
    assert node.after(37) == []
    assert node.after(1) == ["start db"]


def test_what_could_not_be_stopped_and_is_to_fence_since_is_stopped_at_once() -> None:
    node = active(DB)
    node.lose()
    node.tell("db", "StopFailed", "cannot")
    node.step()
    assert node.assign(service("db", fences=True)) == ["stop db"]
