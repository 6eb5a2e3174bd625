"""What an uninstallation says of an object, and when the nodes are swept."""

from __future__ import annotations

import copy
import datetime as dt
from typing import Any

import pytest

from vipcontroller.uninstall import MESSAGE, parted, unswept

NOW = dt.datetime(2026, 11, 22, 12, 0, 0, 500_000, tzinfo=dt.UTC)
Status = dict[str, Any]


def condition(kind: str, status: str, **more: Any) -> Status:
    told = {"reason": "Held", "message": "node-a has it", "lastTransitionTime": "2026-11-01T00:00:00Z"}
    return {"type": kind, "status": status, "observedGeneration": 3, **told, **more}


def unknown(kind: str) -> Status:
    told = {"reason": "Uninstalled", "message": MESSAGE, "lastTransitionTime": "2026-11-22T12:00:00Z"}
    return condition(kind, "Unknown", **told)


def test_a_status_says_that_nobody_looks_after_it_and_keeps_what_is_in_force() -> None:
    order = {"owner": "node-a", "basedOnTerm": 7}
    before = {
        "observedGeneration": 3,
        "owner": "node-a",
        "term": 7,
        "election": order,
        "conditions": [
            condition("Ready", "True"),
            condition("Accepted", "True"),
            condition("Owned", "False"),
            condition("Reconciling", "True"),
        ],
    }
    given = copy.deepcopy(before)
    after = parted(before, NOW)
    assert after == {
        "observedGeneration": 3,
        "term": 7,
        "election": order,
        "conditions": [unknown("Ready"), condition("Accepted", "True"), unknown("Owned")],
    }
    assert before == given
    assert parted(after, NOW + dt.timedelta(hours=1)) is None


def test_a_status_that_only_says_that_it_is_being_worked_on_says_so_no_more() -> None:
    assert parted({"term": 7, "conditions": [condition("Reconciling", "True")]}, NOW) == {"term": 7}


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({}, id="none"),
        pytest.param({"observedGeneration": -1}, id="nobody-has-looked"),
        pytest.param({"conditions": []}, id="no-condition"),
        pytest.param({"conditions": [condition("Ready", "Unknown", reason="Pending")]}, id="pending"),
        pytest.param({"conditions": [condition("Accepted", "False")]}, id="refused"),
    ],
)
def test_a_status_that_claims_nothing_stays(status: Status) -> None:
    assert parted(status, NOW) is None


@pytest.mark.parametrize(
    ("status", "left"),
    [
        pytest.param(None, 1, id="not-looked-at"),
        pytest.param({"observedGeneration": 1, "desiredNumberScheduled": 0, "numberReady": 0}, 1, id="old"),
        pytest.param(
            {"observedGeneration": 2, "desiredNumberScheduled": 0, "numberReady": 0}, 0, id="no-node"
        ),
        pytest.param({"observedGeneration": 2, "desiredNumberScheduled": 3, "numberReady": 1}, 2, id="two"),
        pytest.param({"observedGeneration": 2, "desiredNumberScheduled": 3, "numberReady": 3}, 0, id="all"),
    ],
)
def test_nodes_are_swept_when_every_sweeper_is_ready(status: Status | None, left: int) -> None:
    found: Status = {"metadata": {"generation": 2}}
    assert unswept(found if status is None else {**found, "status": status}) == left
