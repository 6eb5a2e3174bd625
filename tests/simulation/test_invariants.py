"""Seeds: simulated domains under faults, running the production seats, and the services that follow.

A seed that fails says what broke and prints the one command that shows the run line by line.
"""

from __future__ import annotations

import pytest

from simulation.mixes import MIXES, SERVICES
from simulation.runs import NAMES, make, replay

_SEEDS = 8
_SERVED = 6
_LONG = 2
"""How many seeds of those mixes that simulate minutes, or a whole cluster."""


@pytest.mark.parametrize("mix", NAMES)
def test_an_address_is_never_on_two_nodes_and_comes_back_when_all_is_mended(mix: str) -> None:
    for seed in range(_SEEDS if mix in MIXES else _SERVED if mix in SERVICES else _LONG):
        try:
            make(mix, seed).run()
        except AssertionError as broken:
            pytest.fail(f"{broken}\nreplay: {replay(mix, seed)}")
