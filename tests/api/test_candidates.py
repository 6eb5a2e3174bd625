from __future__ import annotations

import pytest

from vipapi.candidates import is_held_alone
from vipapi.resources import VirtualIPSpec


@pytest.mark.parametrize(
    ("on_quorum_loss", "candidates", "is_held"),
    [
        pytest.param("Release", "ab", False, id="release"),
        pytest.param("Hold", "ab", True, id="two"),
        pytest.param("Hold", "a", True, id="one of two is no node any more"),
        pytest.param("Hold", "abc", False, id="three could be three owners"),
    ],
)
def test_an_address_is_held_alone_by_one_of_two(
    on_quorum_loss: str, candidates: str, *, is_held: bool
) -> None:
    spec = VirtualIPSpec(addresses=("192.0.2.10",), on_quorum_loss=on_quorum_loss)  # type: ignore[arg-type]
    assert is_held_alone(spec, candidates) == is_held
