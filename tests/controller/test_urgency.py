"""Which of many writes come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from controller.stage import Stage
from vipcontroller.urgency import Urgency, urgency
from vipcontroller.writes import SecretWrite

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


def test_domains_come_before_their_addresses() -> None:
    stage = Stage()
    stage.virtual_ip("web")
    stage.agents(*NODES)
    found = ranked(stage)
    assert found[-1] == ("web", Urgency.KEPT)
    assert {rank for _, rank in found[:-1]} == {Urgency.RULED}
    assert len(found) == 3
