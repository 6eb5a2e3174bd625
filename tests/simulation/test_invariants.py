"""Seeds: simulated domains under faults, running the production seats.

A seed that fails says what broke and prints the one command that shows the run line by line.
"""

from __future__ import annotations

import pytest

from simulation.runs import NAMES, make, replay

_BLOCK = 4
_BLOCKS = 3


@pytest.mark.parametrize("block", range(_BLOCKS))
@pytest.mark.parametrize("mix", NAMES)
def test_an_address_is_never_on_two_nodes_and_comes_back_when_all_is_mended(mix: str, block: int) -> None:
    for seed in range(block * _BLOCK, (block + 1) * _BLOCK):
        try:
            make(mix, seed).run()
        except AssertionError as broken:
            pytest.fail(f"{broken}\nreplay: {replay(mix, seed)}")
