"""What ONLY and PEERS pick, and what `make bench` plans by them."""

from __future__ import annotations

import pytest

from lab import __main__, bench, keepalived, peers
from lab.measuring import LAG_S

FAST, BALANCED = "vipkeeper, Fast", "vipkeeper, Balanced"


def planned(*arguments: str) -> bench.Plan:
    options = __main__.make_parser().parse_args(["bench", *arguments])
    return bench.plan(
        runs=options.runs,
        only=options.only,
        part=options.part,
        peers_only=options.peers,
        load=options.load,
    )


@pytest.mark.parametrize(
    ("only", "cases", "faults"),
    [
        pytest.param(
            "node death",
            [("node death", "Balanced"), ("node death", "Fast")],
            [],
            id="a whole title leaves out the longer ones",
        ),
        pytest.param("Node death fast", [("node death", "Fast")], [], id="a title with its profile"),
        pytest.param("power", [], ["node loses power"], id="a part of a title"),
        pytest.param("power; ", [], ["node loses power"], id="nothing behind the last semicolon"),
        pytest.param(
            "killed; stopped",
            [("keeper killed", "Balanced")],
            ["daemon killed (-9)", "daemon stopped"],
            id="several",
        ),
        pytest.param("nothing is called so", [], [], id="nothing"),
    ],
)
def test_a_text_picks_by_name(only: str, cases: list[tuple[str, str]], faults: list[str]) -> None:
    plan = planned("--only", only)
    assert [(case.title, case.profile) for case in plan.cases] == cases
    assert [fault.title for fault in plan.faults] == faults
    assert len(plan.peers) == (4 if faults else 0)


def test_without_a_text_everything_is_measured_once() -> None:
    plan = planned()
    assert list(plan.cases) == list(bench.CASES)
    assert list(plan.faults) == list(peers.FAULTS)
    assert list(plan.peers) == list(peers.PEERS)


def test_one_part_leaves_out_the_other() -> None:
    assert (planned("--part", "comparison").cases, len(planned("--part", "comparison").faults)) == ([], 8)
    plan = planned("--part", "failovers")
    assert (len(plan.cases), plan.faults, plan.peers) == (len(bench.CASES), [], [])


def test_subjects_are_chosen_by_name_and_keepalived_is_needed_for_its_own_only() -> None:
    ours = planned("--peers", "vipkeeper")
    assert [peer.title for peer in ours.peers] == [BALANCED, FAST]
    assert not ours.needs_keepalived
    both = planned("--peers", "Fast; 100 ms")
    assert [peer.title for peer in both.peers] == [FAST, keepalived.QUICK.title]
    assert both.needs_keepalived


def test_a_subject_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        planned("--peers", "pacemaker")
    assert FAST in capsys.readouterr().err


def test_the_estimate_grows_with_runs_and_subjects_and_with_how_long_a_fault_lasts() -> None:
    def expected_s(*arguments: str) -> float:
        return planned("--part", "comparison", *arguments).expected_s

    once, twice = (expected_s("--peers", "Fast", "--only", "frozen", "--runs", runs) for runs in "12")
    assert twice - once == pytest.approx(peers.PEERS[1].rests_s + peers.LASTS_S + peers.AFTERMATH_S + LAG_S)
    assert expected_s("--peers", "vipkeeper", "--runs", "1") > expected_s("--peers", "Fast", "--runs", "1")
    assert expected_s("--peers", "Fast", "--only", "power", "--runs", "1") < once
    assert planned("--part", "failovers", "--runs", "1").expected_s > 0
