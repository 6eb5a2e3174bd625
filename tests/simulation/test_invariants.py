"""Seeds: simulated domains under faults, running the production seats.

A seed that fails says what broke and prints the one command that shows the run line by line.
"""

from __future__ import annotations

import pytest

from simulation.mixes import MIXES
from simulation.torment import Torment, replay

_BLOCK = 4
_BLOCKS = 3


@pytest.mark.parametrize("block", range(_BLOCKS))
@pytest.mark.parametrize("mix", MIXES)
def test_an_address_is_never_on_two_nodes_and_comes_back_when_all_is_mended(mix: str, block: int) -> None:
    for seed in range(block * _BLOCK, (block + 1) * _BLOCK):
        torment = Torment(mix, seed)
        try:
            torment.run()
        except AssertionError as broken:
            pytest.fail(f"{broken}\nreplay: {replay(mix, seed)}")
