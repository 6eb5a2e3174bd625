"""Today's CRDs against those of every release, and the release that they say they are of."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from api.compatibility import Shape, broken, released, shape
from apiserver.definitions import definitions
from vipapi import __version__

PRIORITY = "VirtualIP.spec.candidates[].priority"


@pytest.mark.parametrize("kind", sorted(definitions()))
def test_the_definitions_are_of_this_release(kind: str) -> None:
    """By this the API server refuses to go back (`admission-upgrades.yaml` of the chart)."""
    annotations = definitions()[kind]["metadata"]["annotations"]
    assert annotations["vipkeeper.io/bundle-version"] == f"v{__version__}"


@pytest.mark.parametrize("version", sorted(released()))
def test_what_was_good_in_a_release_is_good_now(version: str) -> None:
    assert not broken(released()[version], shape())


def test_there_are_releases_to_compare_with() -> None:
    assert "v0.1.0" in released()
    assert all(len(found) > 300 for found in released().values())


def changed(path: str, **limits: Any) -> Shape:
    """Return today's shape with other limits in one place; None takes one away."""
    found = copy.deepcopy(shape())
    found.setdefault(path, {})
    for name, value in limits.items():
        found[path][name] = value
        if value is None:
            del found[path][name]
    return found


@pytest.mark.parametrize(
    ("path", "limits", "why"),
    [
        (PRIORITY, {"maximum": 100}, "has a smaller maximum"),
        (PRIORITY, {"minimum": 2}, "has a larger minimum"),
        (PRIORITY, {"type": "string"}, "has another type"),
        (PRIORITY, {"required": True}, "has become required"),
        (PRIORITY, {"rules": ["new"]}, "has a new rule"),
        ("VirtualIP.spec.addresses", {"maxItems": 1}, "has a smaller maxItems"),
        ("VirtualIP.spec.onQuorumLoss", {"enum": ["Hold"]}, "does not take all values any more"),
        ("VirtualIP.spec.domain", {"enum": ["default"]}, "does not take all values any more"),
        ("VirtualIP.spec.domain", {"pattern": "^d"}, "has another pattern"),
        ("VirtualIP.spec.new", {"required": True}, "is new and required"),
        ("VirtualIP", {"served": []}, "is not served any more as v1alpha1"),
    ],
)
def test_a_promise_that_is_broken_is_noticed(path: str, limits: dict[str, Any], why: str) -> None:
    assert broken(shape(), changed(path, **limits)) == [f"{path}: {why}"]


@pytest.mark.parametrize(
    ("path", "limits"),
    [
        (PRIORITY, {"maximum": 1000}),
        (PRIORITY, {"minimum": None}),
        ("VirtualIP.spec.addresses", {"rules": None}),
        ("VirtualIP.spec.onQuorumLoss", {"enum": ["Hold", "Release", "Ask"]}),
        ("VirtualIP.spec.onQuorumLoss", {"enum": None}),
        ("VirtualIP.spec.new", {"type": "string"}),
        ("VirtualIP.spec.addresses", {"required": None}),
        ("VirtualIP", {"served": ["v1alpha1", "v1beta1"]}),
    ],
)
def test_more_than_was_promised_is_no_breach(path: str, limits: dict[str, Any]) -> None:
    assert not broken(shape(), changed(path, **limits))


@pytest.mark.parametrize(("field", "is_breach"), [("new", False), ("interface", True)])
def test_a_new_rule_may_be_about_a_new_field_only(field: str, *, is_breach: bool) -> None:
    found = shape()["VirtualIP.spec"]
    after = changed("VirtualIP.spec", rules=[*found["rules"], "0"], of={**found["of"], "0": field})
    assert broken(shape(), after) == (["VirtualIP.spec: has a new rule"] if is_breach else [])


def test_a_field_that_is_gone_is_noticed() -> None:
    after = copy.deepcopy(shape())
    del after[PRIORITY]
    assert broken(shape(), after) == [f"{PRIORITY}: is gone"]
