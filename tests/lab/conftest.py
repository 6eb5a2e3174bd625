"""The lab of each module of tests, and how often its faults are done.

A module that says `NODES = 2` gets a lab of two nodes; without a word it has three. With
`VIPKEEPER_LAB_TIMES=10` in the environment every test that does something to a stage is run ten times
in one and the same lab, so that what happens once in many times has a chance to.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import enclosure
from lab.cluster import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.binaries import Binaries

TIMES = "VIPKEEPER_LAB_TIMES"
STAGES = {"stage", "at_rest"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    times = int(os.environ.get(TIMES, "1"))
    if times > 1 and STAGES & set(metafunc.fixturenames):
        metafunc.fixturenames.append("turn")
        metafunc.parametrize("turn", range(1, times + 1))


@pytest.fixture(scope="module")
def lab(control_plane_binaries: Binaries, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab with an API server of its own, shared by the tests of a module."""
    folder = Path(tempfile.mkdtemp(dir=enclosure.scratch_folder()))
    with Lab(control_plane_binaries, folder, nodes=getattr(request.module, "NODES", 3)) as running:
        yield running
