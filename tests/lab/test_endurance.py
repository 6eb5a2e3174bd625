"""What counts as a take-over, what a soak objects to, and how what is held is read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from lab import __main__
from lab.addressruns import STAYED_MS
from lab.analysis import MILLISECOND, Outage, Overlap
from lab.endurance import (
    JUST_BEFORE_NS,
    LABELS,
    ONE_MOVE_NS,
    SETS,
    Course,
    Round,
    Stretch,
    Tenure,
    changed,
    out_of_order,
    owner_of,
    silent_alone,
    taken_over,
    tenures_of,
    unrest,
)
from lab.holdings import is_over, kind_of, numbers_in, things_in
from lab.records import AddressEvent

NODES = ["node-a", "node-b"]
BEFORE = {"one": Tenure("node-a", 5), "two": Tenure("node-a", 7)}
OVERLAP = Overlap("node-a", "node-b", left_ns=0, start_ns=1, end_ns=2)
AT_NS = 10_000 * MILLISECOND
ROUND = Round(
    cause="frozen",
    victim="node-a",
    take_overs=60,
    unordered=(),
    seconds=4.0,
    outages_ms=(120.0, 480.0),
    gone=(),
    hiccup_ms=3.0,
    overlaps=(),
    until_ns=0,
)
CALM = Stretch(
    since_ns=0,
    until_ns=60_000 * MILLISECOND,
    renewed=(),
    events=(),
    silences=(),
    silent=(),
    overlaps=(),
    asked=10_000,
    lost=200,
    outage_ms=60.0,
    control_ms=20.0,
    late_rounds=0,
)


def virtual_ip(name: str, *, owner: str = "node-a", ready: str = "True", fit: list[str]) -> dict[str, Any]:
    status = {
        "owner": owner,
        "term": 5,
        "conditions": [{"type": "Ready", "status": ready}],
        "candidates": [{"nodeName": node, "eligible": node in fit} for node in NODES],
    }
    return {"metadata": {"name": name}, "status": status}


def came(address: str, *, at_ns: int = AT_NS) -> AddressEvent:
    return AddressEvent(at_ns, "node-b", "added", f"{address}/32")


def stood_still(until_ns: int) -> Outage:
    return Outage(until_ns - 300 * MILLISECOND, until_ns, "gateway", "gateway")


def test_every_address_is_of_one_virtual_ip_and_there_are_sets_of_either_kind_and_of_both() -> None:
    assert len(LABELS) == len(set(LABELS.values())) == sum(map(len, SETS.values()))
    kinds = {frozenset(":" in each for each in addresses) for addresses in SETS.values()}
    assert kinds == {frozenset({False}), frozenset({True}), frozenset({False, True})}
    assert all(owner_of(f"{each}/32") == name for name, addresses in SETS.items() for each in addresses)
    assert owner_of("192.0.2.101/24") is None


def test_another_owner_is_a_take_over_and_another_term_a_change() -> None:
    after = {"one": Tenure("node-b", 6), "two": Tenure("node-a", 8)}
    assert taken_over(BEFORE, after) == ["one"]
    assert out_of_order(BEFORE, after) == []
    assert changed(BEFORE, after) == ["one", "two"]
    assert changed(BEFORE, BEFORE) == []


def test_a_take_over_without_a_higher_term_is_out_of_order() -> None:
    assert out_of_order(BEFORE, {"one": Tenure("node-b", 5), "two": Tenure("node-a", 7)}) == ["one"]


@pytest.mark.parametrize(
    "restless",
    [
        pytest.param(virtual_ip("one", ready="False", fit=NODES), id="not ready"),
        pytest.param(virtual_ip("one", owner="", fit=NODES), id="owned by nobody"),
        pytest.param(virtual_ip("one", fit=["node-a"]), id="a node could not take it over"),
        pytest.param({"metadata": {"name": "one"}}, id="nobody has looked at it"),
    ],
)
def test_it_is_no_rest_while_one_virtual_ip_has_none(restless: dict[str, Any]) -> None:
    assert unrest([virtual_ip("two", fit=NODES)], NODES) == ""
    assert unrest([virtual_ip("two", fit=NODES), restless], NODES).startswith("one")


def test_a_virtual_ip_without_an_owner_has_no_tenure() -> None:
    found = [
        virtual_ip("one", fit=NODES),
        virtual_ip("two", owner="", fit=NODES),
        {"metadata": {"name": "x"}},
    ]
    assert tenures_of(found) == {"one": Tenure("node-a", 5)}


@pytest.mark.parametrize(
    ("broken", "objection"),
    [
        pytest.param(replace(ROUND, overlaps=(("set-1", OVERLAP),)), "two owners of set-1", id="two owners"),
        pytest.param(replace(ROUND, unordered=("set-2",)), "term of set-2", id="an old term"),
        pytest.param(replace(ROUND, gone=("set-3",)), "set-3 did not answer again", id="gone for good"),
        pytest.param(replace(ROUND, take_overs=59), "59 take-overs of 60", id="too few"),
    ],
)
def test_a_course_objects_to_what_a_round_broke(broken: Round, objection: str) -> None:
    assert Course(60, [ROUND]).objections() == []
    assert objection in "".join(Course(60, [broken]).objections())


def test_a_calm_stretch_of_the_soak_is_well() -> None:
    assert CALM.objections == []
    assert "0 take-overs without a fault" in CALM.line(0)


@pytest.mark.parametrize(
    ("stretch", "objection"),
    [
        pytest.param(replace(CALM, renewed=("set-3",)), "set-3 was taken over", id="another term"),
        pytest.param(
            replace(CALM, events=(came(SETS["set-4"][0]),)), "set-4 was taken over", id="an address came"
        ),
        pytest.param(
            replace(CALM, renewed=("set-3",), silences=(stood_still(AT_NS),)),
            "set-3 was taken over",
            id="nobody knows when, and so not why",
        ),
        pytest.param(
            replace(
                CALM,
                events=(came(SETS["set-4"][0]),),
                silences=(stood_still(AT_NS - JUST_BEFORE_NS - 1), stood_still(AT_NS + 400 * MILLISECOND)),
            ),
            "set-4 was taken over",
            id="the machine stood still long before, and afterwards",
        ),
        pytest.param(
            replace(
                CALM,
                events=(came(SETS["set-4"][0]), came(SETS["set-4"][0], at_ns=AT_NS + 3 * ONE_MOVE_NS)),
                silences=(stood_still(AT_NS),),
            ),
            "set-4 was taken over",
            id="the machine stood still before the first time only",
        ),
        pytest.param(replace(CALM, overlaps=(("set-1", OVERLAP),)), "two owners of set-1", id="two owners"),
        pytest.param(
            replace(CALM, silent=(("set-5", stood_still(AT_NS)),)),
            "set-5 was silent for 300 ms",
            id="silent where it was",
        ),
        pytest.param(replace(CALM, lost=99), "no soak", id="hardly anything was lost"),
        pytest.param(replace(CALM, lost=0, asked=0), "no soak", id="nobody asked"),
        pytest.param(replace(CALM, lost=9_999), "no soak", id="hardly anything was answered"),
    ],
)
def test_a_soak_objects_to_what_moved_without_a_fault(stretch: Stretch, objection: str) -> None:
    assert objection in "".join(stretch.objections)


@pytest.mark.parametrize(
    ("length_ms", "control", "is_alone"),
    [
        pytest.param(STAYED_MS, [], False, id="not for long"),
        pytest.param(STAYED_MS + 1, [], True, id="for long"),
        pytest.param(STAYED_MS + 300, [stood_still(AT_NS)], False, id="the control too, when it began"),
        pytest.param(STAYED_MS + 301, [stood_still(AT_NS)], True, id="for longer than that explains"),
        pytest.param(
            STAYED_MS + 300, [stood_still(AT_NS - JUST_BEFORE_NS - 1)], True, id="the control long before"
        ),
        pytest.param(
            STAYED_MS + 300, [stood_still(AT_NS + 10_000 * MILLISECOND)], True, id="the control afterwards"
        ),
        pytest.param(math.inf, [stood_still(AT_NS)], True, id="for good"),
        pytest.param(math.inf, [Outage(AT_NS, None, "gateway", None)], False, id="nobody answers any more"),
    ],
)
def test_a_silence_is_judged_by_the_controls_at_that_time(
    length_ms: float, control: list[Outage], *, is_alone: bool
) -> None:
    end_ns = None if math.isinf(length_ms) else AT_NS + int(length_ms * MILLISECOND)
    gap = Outage(AT_NS, end_ns, "node-a", "node-a")
    assert silent_alone([gap], control) == ([gap] if is_alone else [])


def test_what_is_told_a_stretch_later_has_its_reason_still() -> None:
    since_ns = AT_NS + MILLISECOND
    late = replace(CALM, since_ns=since_ns, events=(came(SETS["set-4"][0]),), silences=(stood_still(AT_NS),))
    assert late.take_overs == ()
    assert replace(late, renewed=("set-4",)).take_overs == ("set-4",)
    assert replace(late, renewed=("set-4",)).objections == []


def test_what_moved_because_the_machine_stood_still_is_told_with_its_name() -> None:
    moved = replace(CALM, events=(came(SETS["set-4"][0]),), silences=(stood_still(AT_NS - MILLISECOND),))
    assert moved.objections == []
    removed_later = (*moved.events, came(SETS["set-4"][0], at_ns=AT_NS + ONE_MOVE_NS))
    assert replace(moved, events=removed_later).objections == []
    assert "1 as the machine stood still: set-4" in moved.line(0)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        pytest.param([], (__main__.TAKE_OVERS, 0), id="take-overs"),
        pytest.param(["--soak", "70"], (0, 70), id="a soak alone"),
        pytest.param(["--take-overs", "300", "--soak", "2"], (300, 2), id="one after the other"),
    ],
)
def test_a_soak_is_asked_for_alone_or_after_take_overs(
    arguments: list[str], asked: tuple[int, float]
) -> None:
    options = __main__.make_parser().parse_args(["endurance", *arguments])
    assert __main__.endured(options) == asked


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        pytest.param("socket:[1234]", "socket", id="socket"),
        pytest.param("anon_inode:[eventpoll]", "eventpoll", id="epoll"),
        pytest.param("anon_inode:bpf-map", "bpf-map", id="BPF"),
        pytest.param("/dev/null", "file", id="file"),
    ],
)
def test_descriptors_are_counted_by_kind(target: str, kind: str) -> None:
    assert kind_of(target) == kind


def test_numbers_of_proc_are_read_by_name() -> None:
    text = "55d0-7ffc ---p 0 00:00 0 [rollup]\nRss:  120 kB\nAnonymous:\t 80 kB\nThreads:\t3\nName:\tpython\n"
    assert numbers_in(text) == {"Rss": 120, "Anonymous": 80, "Threads": 3}


def test_a_connection_that_is_only_remembered_is_not_counted() -> None:
    ended = "   0: 0100007F:26DA 0100007F:A0C4 06 00000000:00000000 03:00001388"
    assert is_over(ended, "tcp")
    assert not is_over(ended.replace(" 06 ", " 01 "), "tcp6")
    assert not is_over(ended, "udp")


def test_a_set_of_rules_is_counted_with_everything_in_it() -> None:
    table = [{"metainfo": {}}, {"table": {"family": "inet"}}]
    of_two = [*table, {"set": {"name": "open", "elem": ["192.0.2.1", {"elem": {"val": "192.0.2.2"}}]}}]
    assert things_in(of_two) == 2 + 1 + 2
    assert things_in([]) == 0
