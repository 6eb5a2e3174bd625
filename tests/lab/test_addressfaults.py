"""A few faults to an address, alone and in pairs, of those that `make faults` does many times over.

They are the ones that no other test of the lab does; no figure is judged here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab import addressfaults, addressruns
from lab.addresstable import chance_of, set_up

if TYPE_CHECKING:
    from lab.cluster import Lab
    from lab.stage import Stage


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """Three nodes and two VirtualIPs, held and watched."""
    return set_up(lab)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        pytest.param("stalled-in-bpf", 1, id="alone, a stall inside a system call"),
        pytest.param("replays", 1, id="alone, everything that is said is said again"),
        pytest.param("owner-killed-at-release", 1, id="alone, a death within a planned move"),
        pytest.param(
            "reordering+frozen-about-a-lease", 2, id="a pair, a freeze while words overtake each other"
        ),
        pytest.param(
            "ruleset-flushed+lease-deaf", 3, id="a pair, one that hears nothing and loses its rules"
        ),
    ],
)
def test_an_address_is_never_on_two_nodes_and_comes_back(stage: Stage, name: str, seed: int) -> None:
    faults = addressfaults.chosen(name)
    came = addressruns.run(stage, faults, chance_of(faults, seed), seed=seed)
    assert came.objection is None, came
