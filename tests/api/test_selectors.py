from __future__ import annotations

import pytest

from vipapi.selectors import LabelSelector, LabelSelectorRequirement

EDGE = {"role": "edge", "zone": "a"}


@pytest.mark.parametrize(
    ("labels", "expressions", "is_selected"),
    [
        pytest.param({}, [], True, id="empty-selects-everything"),
        pytest.param({"role": "edge"}, [], True, id="label"),
        pytest.param({"role": "core"}, [], False, id="other-value"),
        pytest.param({"missing": ""}, [], False, id="a-missing-label-is-not-an-empty-one"),
        pytest.param({}, [("zone", "In", ("a", "b"))], True, id="in"),
        pytest.param({}, [("zone", "In", ("b",))], False, id="not-in-the-list"),
        pytest.param({}, [("missing", "In", ("b",))], False, id="in-needs-the-label"),
        pytest.param({}, [("zone", "NotIn", ("b",))], True, id="not-in"),
        pytest.param({}, [("missing", "NotIn", ("b",))], True, id="not-in-without-the-label"),
        pytest.param({}, [("zone", "NotIn", ("a",))], False, id="excluded"),
        pytest.param({}, [("zone", "Exists", ())], True, id="exists"),
        pytest.param({}, [("missing", "Exists", ())], False, id="does-not-exist-there"),
        pytest.param({}, [("missing", "DoesNotExist", ())], True, id="does-not-exist"),
        pytest.param({"role": "edge"}, [("zone", "DoesNotExist", ())], False, id="all-must-hold"),
    ],
)
def test_a_selector_matches_as_kubernetes_does(
    labels: dict[str, str],
    expressions: list[tuple[str, str, tuple[str, ...]]],
    is_selected: bool,  # noqa: FBT001 -- a column of the table
) -> None:
    requirements = tuple(
        LabelSelectorRequirement(key, operator, values)  # type: ignore[arg-type] # the table's literals
        for key, operator, values in expressions
    )
    assert LabelSelector(labels, requirements).matches(EDGE) is is_selected
