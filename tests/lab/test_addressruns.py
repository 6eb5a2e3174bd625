"""Whether a fault to an address ended as it must, what is planned, and what the report says of it."""

from __future__ import annotations

import errno
import itertools
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pyroute2 import NetlinkError

from lab import __main__, addressfaults, addressruns, burdens
from lab.addressfaults import FAULTS, NODE_DEATH_MS, TIMING, Ending, Layout
from lab.addressruns import LET_GO_MS, MARGIN_MS, STAYED_MS, TIMES_LATE, Run
from lab.addresstable import Report, Suite, chance_of
from lab.analysis import Overlap
from lab.holdings import told_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.analysis import Answer
    from lab.records import Probe

OVERLAP = Overlap("node-a", "node-b", left_ns=0, start_ns=1_000_000, end_ns=3_500_000)
[POWER_OFF] = addressfaults.chosen("power-off")
[LOSS] = addressfaults.chosen("loss-20")
[SILENT] = addressfaults.chosen("two-witnesses-killed")
MOVED = Run(
    faults=(POWER_OFF,),
    seed=3,
    owner="node-a",
    owners=("node-a", "node-b"),
    overlaps=(),
    outage_ms=450.0,
    hiccup_ms=4.0,
    elsewhere_ms=450.0,
    late_answer_ms=None,
    terms=(5, 6),
    bystander=(7, 7),
    is_apart=True,
    asked=1000,
    lost=450,
)
FLAPPED = replace(MOVED, faults=addressfaults.chosen("link-flapping"), outage_ms=17_000.0)
STAYED = replace(MOVED, faults=(LOSS,), owners=("node-a",), terms=(5, 5), outage_ms=3.0, lost=0)
SILENCED = replace(MOVED, faults=(SILENT,), late_answer_ms=TIMING.lease_ms + LET_GO_MS)
PAIR = replace(STAYED, faults=(POWER_OFF, LOSS), owners=("node-a", "node-b", "node-c"), terms=(5, 7))


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(MOVED, id="moved"),
        pytest.param(
            replace(MOVED, outage_ms=TIMES_LATE * NODE_DEATH_MS), id="moved late, which is told and no breach"
        ),
        pytest.param(replace(STAYED, outage_ms=STAYED_MS + 9, hiccup_ms=9.0), id="stayed on a slow machine"),
        pytest.param(
            replace(MOVED, is_apart=False, bystander_ms=9_000.0), id="the bystander was as silent there"
        ),
        pytest.param(replace(FLAPPED, back_ms=15_000.0), id="it came back within half the patience"),
        pytest.param(STAYED, id="stayed"),
        pytest.param(replace(MOVED, is_apart=False, bystander=(7, 8)), id="the bystander was there too"),
        pytest.param(SILENCED, id="silent when the lease had run out"),
        pytest.param(replace(SILENCED, late_answer_ms=None), id="silent at once"),
        pytest.param(PAIR, id="a pair may move it twice"),
        pytest.param(
            replace(STAYED, owners=("node-a", "node-b"), hiccup_ms=MARGIN_MS + 1),
            id="the machine stood still",
        ),
    ],
)
def test_what_ended_as_it_must_is_not_objected_to(kept: Run) -> None:
    assert kept.objection is None


@pytest.mark.parametrize(
    ("broken", "objection"),
    [
        pytest.param(replace(MOVED, overlaps=(OVERLAP,)), "two owners, 2.5 ms", id="two owners"),
        pytest.param(
            replace(PAIR, overlaps=(OVERLAP,), shared_ms=900.0),
            "two owners, 900.0 ms",
            id="two owners in a pair",
        ),
        pytest.param(
            replace(STAYED, overlaps=(OVERLAP,), hiccup_ms=9_000.0),
            "two owners",
            id="however busy the machine",
        ),
        pytest.param(replace(PAIR, trouble="it did not come back"), "come back", id="gone for good"),
        pytest.param(replace(PAIR, outage_ms=float("inf")), "come back", id="silent at the end"),
        pytest.param(replace(MOVED, elsewhere_ms=None), "while the fault lasted", id="it moved too late"),
        pytest.param(
            replace(MOVED, outage_ms=TIMES_LATE * NODE_DEATH_MS + 5), "far beyond", id="far beyond the limit"
        ),
        pytest.param(
            replace(STAYED, outage_ms=STAYED_MS + 5), "it stayed, and was silent", id="silent where it was"
        ),
        pytest.param(
            replace(STAYED, bystander_ms=STAYED_MS + 5), "the bystander was silent", id="a silent bystander"
        ),
        pytest.param(replace(FLAPPED, back_ms=15_005.0), "after all was undone", id="back much too late"),
        pytest.param(
            replace(SILENCED, back_ms=15_005.0), "after all was undone", id="silent for long afterwards"
        ),
        pytest.param(
            replace(MOVED, owners=("node-a", "node-b", "node-a")), "1 take-overs", id="the end moved it back"
        ),
        pytest.param(replace(STAYED, owners=("node-a", "node-b")), "1 take-overs", id="it moved"),
        pytest.param(replace(STAYED, terms=(5, 6)), "1 take-overs", id="it was acquired anew"),
        pytest.param(replace(STAYED, bystander=(7, 8)), "1 take-overs", id="the bystander moved"),
        pytest.param(
            replace(SILENCED, late_answer_ms=TIMING.lease_ms + LET_GO_MS + 5),
            "answered after",
            id="not silent",
        ),
    ],
)
def test_what_did_not_end_as_it_must_is_said(broken: Run, objection: str) -> None:
    assert broken.objection is not None
    assert objection in broken.objection


def test_a_limit_leaves_out_what_the_machine_stood_still() -> None:
    assert not replace(MOVED, outage_ms=NODE_DEATH_MS + MOVED.hiccup_ms).is_late
    assert replace(MOVED, outage_ms=NODE_DEATH_MS + MOVED.hiccup_ms + 1).is_late
    assert not replace(STAYED, outage_ms=9_000.0).is_late


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_a_pair_takes_hold_of_different_things() -> None:
    found = addressfaults.pairs()
    assert found
    for one, other in found:
        assert one.layout is other.layout is Layout.THREE
        assert not one.takes & other.takes


def test_one_fault_or_two_are_chosen_by_name() -> None:
    assert [fault.name for fault in addressfaults.chosen("power-off+loss-5")] == ["power-off", "loss-5"]
    with pytest.raises(ValueError, match="power-of'"):
        addressfaults.chosen("power-of")


def test_a_suite_does_all_faults_of_a_layout_in_turn_and_then_pairs() -> None:
    plan = Suite(times=2, pairs=3, seed=10).plan()
    alone = [(faults[0].name, seed) for faults, seed in plan if len(faults) == 1]
    assert sorted(alone) == sorted((fault.name, seed) for fault in FAULTS for seed in (10, 11))
    together = [(faults, seed) for faults, seed in plan if len(faults) > 1]
    assert sorted(seed for _, seed in together) == [10, 11, 12]
    assert len({faults for faults, _ in together}) > 1


def test_every_fault_is_done_once_before_any_is_done_again_and_layouts_go_round() -> None:
    plan = Suite(times=2, seed=8).plan()
    assert [seed for _, seed in plan] == sorted(seed for _, seed in plan)
    layouts = [layout for layout, _ in itertools.groupby(faults[0].layout for faults, _ in plan)]
    assert layouts == [*Layout, *list(reversed(Layout))[1:]]
    last = {Suite(seed=seed).plan()[-1][0][0].layout for seed in range(len(Layout))}
    assert last == set(Layout)


def test_a_suite_may_be_one_fault_one_pair_or_a_few() -> None:
    [(one, seed)] = Suite(name="power-off+loss-5", seed=7).plan()
    assert ([fault.name for fault in one], seed) == (["power-off", "loss-5"], 7)
    names = {faults[0].name for faults, _ in Suite(only="witness").plan()}
    assert names == {fault.name for fault in FAULTS if "witness" in fault.name}


def test_the_command_that_is_told_does_the_same_again() -> None:
    suite = Suite(seed=1, times=9, pairs=5, load=frozenset({burdens.CPU, burdens.PACKETS}))
    assert suite.command(PAIR) == "make faults FAULT=power-off+loss-20 SEED=3 LOAD=cpu,packets"
    again = Suite(name=PAIR.name, seed=PAIR.seed).plan()
    assert again == [(PAIR.faults, PAIR.seed)]
    assert chance_of(PAIR.faults, 3).random() == chance_of(again[0][0], again[0][1]).random()
    assert chance_of(PAIR.faults, 3).random() != chance_of(PAIR.faults, 4).random()


def test_the_report_fails_for_a_broken_promise_and_says_how_to_repeat_it() -> None:
    said: list[str] = []
    report = Report(suite=Suite(), say=said.append, planned=2)
    verdicts = [report.is_well]
    for each in (MOVED, replace(STAYED, overlaps=(OVERLAP,))):
        report.add(each)
        verdicts.append(report.is_well)
    assert verdicts == [False, False, False]
    assert "worst time with two owners: 2.5 ms" in report.conclusion()[0]
    assert report.conclusion()[1:] == ["to repeat: make faults FAULT=loss-20 SEED=3 LOAD=none"]
    assert "make faults FAULT=loss-20 SEED=3 LOAD=none" in "".join(said)


def test_a_report_that_was_stopped_is_not_well() -> None:
    report = Report(suite=Suite(), say=lambda _: None, planned=1)
    report.add(MOVED)
    verdicts = [report.is_well]
    report.stop("interrupted")
    assert [*verdicts, report.is_well] == [True, False]


def test_a_report_of_fewer_runs_than_were_planned_is_not_well() -> None:
    report = Report(suite=Suite(), say=lambda _: None, planned=2)
    report.add(MOVED)
    verdicts = [report.is_well]
    assert "not all done: 1 of 2 runs" in report.conclusion()
    report.add(STAYED)
    assert [*verdicts, report.is_well] == [False, True]
    assert not any("not all done" in line for line in report.conclusion())


@pytest.mark.parametrize(
    ("arguments", "kinds"),
    [
        pytest.param([], ["addresses", "services"], id="both"),
        pytest.param(["--only", "ruleset-flushed"], ["addresses"], id="a name that only addresses have"),
        pytest.param(["--fault", "power-off"], ["addresses"], id="a fault to addresses"),
        pytest.param(["--only", "no such fault"], [], id="a name that nothing has"),
        pytest.param(["--kind", "services", "--only", "ruleset-flushed"], [], id="nothing of that kind"),
        pytest.param(["--kind", "services", "--fault", "power-off"], [], id="a fault of another kind"),
    ],
)
def test_a_kind_with_nothing_to_do_is_left_out_and_nothing_at_all_is_refused(
    arguments: list[str], kinds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = __main__.make_parser().parse_args(["faults", *arguments])
    assert __main__.kinds_with(options) == kinds
    assert bool(__main__.nothing_to_do(options)) == (not kinds)
    if not kinds:
        assert __main__.main(["faults", *arguments]) == 2
        assert arguments[-1] in capsys.readouterr().err


def test_a_pair_does_not_wait_for_what_the_other_has_taken_away() -> None:
    found = {frozenset({one.name, other.name}) for one, other in addressfaults.pairs()}
    for gone in ("killed", "power-off", "link-down", "silenced", "one-witness-killed"):
        assert {"key-rotated", gone} not in found
    assert {"link-down", "owner-killed-at-release"} not in found
    assert {"link-down", "kubernetes-away"} in found


def test_how_often_a_fence_was_put_back_is_read_from_the_metrics() -> None:
    metric = "vipkeeper_fence_repairs_total"
    assert told_in(f"# TYPE {metric} counter\n{metric} 3.0\n", metric) == 3
    with pytest.raises(ValueError, match="does not tell"):
        told_in("vipkeeper_other_total 3.0\n", metric)


def test_what_takes_hold_of_the_fence_is_done_to_both_kinds_of_it() -> None:
    mine = {fault.name for fault in FAULTS if fault.layout is Layout.NFTABLES}
    assert {
        f"nftables-{each}" for each in ("ruleset-flushed", "rules-reloaded", "killed", "frozen-long")
    } <= mine
    assert (Layout.NFTABLES.nodes, Layout.NFTABLES.fence) == (3, "nftables")


class Measured:
    """Measures nothing."""

    def settle(self) -> int:
        return time.monotonic_ns()

    def answers(self, _label: str, *, since_ns: int) -> list[Answer]:
        assert since_ns
        return []

    def probes(self, _label: str, *, since_ns: int) -> list[Probe]:
        assert since_ns
        return []

    def hiccup_ms(self, *, since_ns: int, until_ns: int) -> float:
        return 1.0 if since_ns <= until_ns else 0.0


class Host:
    """A node that does nothing."""

    name = "node-a"


class Stand:
    """A stage on which nothing happens."""

    def __init__(self) -> None:
        self.node = Host()
        self.lab = SimpleNamespace(nodes={"node-a": self.node})
        self.agents = SimpleNamespace(keepers={"node-a": object()})
        self.measured = Measured()

    def rest(self, *_virtual_ips: str) -> None:
        self.rested = True

    def owner(self, _virtual_ip: str) -> Host:
        return self.node

    def status(self, _virtual_ip: str) -> dict[str, int]:
        return {"term": 3}

    def incarnation(self, _node: Host) -> int:
        return 1


class Started:
    """A process that a fault has started."""

    is_dead = False

    def kill(self) -> None:
        self.is_dead = True


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(NetlinkError(errno.EPERM), id="the kernel refuses"),
        pytest.param(subprocess.TimeoutExpired("stall", 20), id="a process does not end"),
        pytest.param(KeyError("status"), id="anything else"),
    ],
)
def test_a_fault_that_fails_is_told_and_leaves_no_process_behind(failure: Exception) -> None:
    started = Started()

    @contextmanager
    def deed(scene: Any) -> Iterator[None]:
        scene.started.append(started)
        if scene.started:
            raise failure
        yield

    fault = replace(POWER_OFF, deed=deed)
    stand: Any = Stand()
    came = addressruns.run(stand, [fault], chance_of([fault], 1), seed=1)
    assert came.objection is not None
    assert repr(failure) in came.trouble
    assert started.is_dead


def test_every_ending_is_shown_by_some_fault() -> None:
    assert {fault.ending for fault in FAULTS} == set(Ending)
