"""Which of many writes come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.stage import Stage
from vipapi.resources import ObjectMeta
from vipcontroller.urgency import FAILED, LONGEST_WAIT_S, Urgency, in_turn, key, urgency
from vipcontroller.writes import FinalizerWrite, SecretWrite

if TYPE_CHECKING:
    from vipcontroller.decisions import Decisions

NODES = ("node-a", "node-b", "node-c")


@pytest.fixture
def stage() -> Stage:
    found = Stage()
    found.agents(*NODES)
    found.settle()
    found.report()
    found.pass_time(10)
    return found


def ranked(stage: Stage) -> list[tuple[str, Urgency]]:
    """Let the controller decide, and write; return what, in its order, as (name, urgency)."""
    before = {each.metadata.uid: each.status for each in stage.world().virtual_ips}
    decisions: Decisions = stage.look()
    return [
        (each.name if isinstance(each, SecretWrite) else each.metadata.name, urgency(each, before))
        for each in decisions.writes
    ]


def test_a_new_address_goes_through_every_stage(stage: Stage) -> None:
    stage.virtual_ip("web")
    assert ranked(stage) == [("web", Urgency.KEPT)]
    assert ranked(stage) == [("web", Urgency.ACCEPTED)]
    stage.report()
    assert ranked(stage) == [("web", Urgency.ORDERED)]
    stage.report(owners={"web": ("node-a", 1)})
    assert ranked(stage) == [("web", Urgency.SHOWN)]


def test_a_newcomer_catches_up_with_those_before_it_that_only_have_something_to_show(stage: Stage) -> None:
    stage.virtual_ip("a-first")
    stage.converge()
    stage.virtual_ip("b-second", "192.0.2.11/24")
    stage.report(unfit={"node-c": "CheckFailing"})
    assert ranked(stage) == [("b-second", Urgency.KEPT), ("a-first", Urgency.SHOWN)]


def test_what_keepers_wait_for_of_an_address_that_somebody_had_comes_before_all_new_ones(
    stage: Stage,
) -> None:
    stage.virtual_ip("z-old")
    stage.converge()
    stage.converge(owners={"z-old": ("node-a", 1)})
    stage.virtual_ip("a-new", "192.0.2.11/24")
    stage.report(owners={"z-old": ("node-b", 2)})
    assert ranked(stage) == [("z-old", Urgency.RULED), ("a-new", Urgency.KEPT)]


def test_what_only_people_read_of_an_address_that_somebody_has_waits(stage: Stage) -> None:
    stage.virtual_ip("web")
    stage.converge()
    stage.converge(owners={"web": ("node-a", 1)})
    stage.report(owners={"web": ("node-a", 1)}, scores={"node-a": 101})
    assert ranked(stage) == [("web", Urgency.SHOWN)]


def test_an_edit_that_was_accepted_is_what_keepers_wait_for(stage: Stage) -> None:
    edited = stage.virtual_ip("web")
    stage.converge()
    stage.converge(owners={"web": ("node-a", 1)})
    edited["metadata"]["generation"] = 2
    stage.touch(edited)
    assert ranked(stage) == [("web", Urgency.RULED)]


def test_an_edit_of_an_address_that_nobody_has_yet_is_what_keepers_wait_for_too(stage: Stage) -> None:
    edited = stage.virtual_ip("web")
    stage.converge()
    assert stage.get("VirtualIP", "web")["status"]["election"]["owner"]
    edited["metadata"]["generation"] = 2
    stage.touch(edited)
    assert ranked(stage) == [("web", Urgency.ACCEPTED)]


def test_domains_come_before_their_addresses() -> None:
    stage = Stage()
    stage.virtual_ip("web")
    stage.agents(*NODES)
    found = ranked(stage)
    assert found[-1] == ("web", Urgency.KEPT)
    assert {rank for _, rank in found[:-1]} == {Urgency.RULED}
    assert len(found) == 3


def writes(*names: str) -> list[FinalizerWrite | SecretWrite]:
    metadata = (ObjectMeta(name=name, uid=name) for name in names)
    return [FinalizerWrite(kind="VirtualIP", metadata=each, finalizers=()) for each in metadata]


@pytest.mark.parametrize(
    ("since", "expected"),
    [
        pytest.param([71, 72, 73, 99], "abcd", id="as they stand"),
        pytest.param([100, 100, 71, 70], "dabc", id="one was passed over for long"),
        pytest.param([70, 69, 100, 1], "abdc", id="several were: of them the most urgent"),
        pytest.param([FAILED, 100, FAILED, 100], "bdac", id="whoever failed comes last"),
        pytest.param([FAILED, 100, 100, 70], "dbca", id="all at once"),
    ],
)
def test_nobody_waits_for_ever_for_who_is_more_urgent_or_always_fails(
    since: list[float], expected: str
) -> None:
    assert LONGEST_WAIT_S == 30
    found = writes(*"abcd")
    waiting = dict(zip(map(key, found), since, strict=True))
    in_order = in_turn(found, waiting, 100)
    assert [each.metadata.name for each in in_order if isinstance(each, FinalizerWrite)] == [*expected]


def test_no_two_writes_of_a_look_have_the_same_key(stage: Stage) -> None:
    stage.virtual_ip("default")
    stage.failover("default")
    stage.secrets.clear()
    found = [key(each) for each in stage.look().writes]
    assert {kind for kind, _ in found} >= {"Secret", "VirtualIP", "ServiceFailover"}
    assert len({*found}) == len(found)
    assert len({*found}) == len(found)
