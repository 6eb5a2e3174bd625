"""What others have set in a status that the controller writes whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controller.stage import Stage
from vipcontroller.leftovers import cleared

Object = dict[str, Any]
AUDITED: Object = {"type": "Audited", "status": "True", "reason": "Fine", "message": ""}
STALLED: Object = {**AUDITED, "type": "Stalled"}


@pytest.fixture
def applied() -> Object:
    """Return the status of a VirtualIP that is held."""
    stage = Stage()
    stage.agents("node-a", "node-b", "node-c")
    stage.virtual_ip("web", "192.0.2.10/24")
    stage.converge()
    status: Object = copy.deepcopy(stage.get("VirtualIP", "web")["status"])
    return status


def test_what_stands_as_it_was_applied_needs_no_second_write(applied: Object) -> None:
    assert cleared(copy.deepcopy(applied), applied) is None
    assert cleared({**applied, "conditions": applied["conditions"][::-1]}, applied) is None
    assert cleared({}, {}) is None


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"lastFailover": {"reason": "Elected"}}, id="a field"),
        pytest.param({"addresses": ["192.0.2.10/24", "192.0.2.99/24"]}, id="an item"),
        pytest.param(
            {"election": {"basedOnTerm": 1, "owner": "node-a", "former": "node-x"}}, id="within one"
        ),
    ],
)
def test_what_somebody_else_has_set_too_is_cleared(applied: Object, more: Object) -> None:
    assert cleared({**applied, **more}, applied) == applied


def test_a_condition_of_ours_that_we_did_not_apply_goes_and_one_of_others_stays(applied: Object) -> None:
    found = [STALLED, AUDITED, *applied["conditions"]]
    assert cleared({**applied, "conditions": found}, applied) == {
        **applied,
        "conditions": [*applied["conditions"], AUDITED],
    }
    assert cleared({**applied, "conditions": [AUDITED, *applied["conditions"]]}, applied) is None


def test_a_condition_of_others_is_no_reason_to_write() -> None:
    stage = Stage()
    stage.agents("node-a", "node-b", "node-c")
    stage.virtual_ip("web", "192.0.2.10/24")
    stage.converge()
    web = stage.get("VirtualIP", "web")
    web["status"]["conditions"].append({**AUDITED, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    stage.touch(web)
    assert stage.look().writes == ()
