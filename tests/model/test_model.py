from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from model import runs
from model.compiler import compile_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_model(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("options", runs.SHORT)
def test_no_state_of_the_protocol_is_wrong(program: Path, options: str) -> None:
    outcome = runs.search(program, options)
    assert outcome.violates is None, outcome.output
    openings = {what: count for what, count in outcome.reached.items() if what.startswith("openings")}
    assert openings
    assert all(
        count > 0 for what, count in openings.items() if "--whole" in options or not what.endswith("epoch 1")
    )


@pytest.mark.parametrize(("options", "violates"), runs.HARMFUL.values(), ids=runs.HARMFUL)
def test_without_the_rule_it_goes_wrong(program: Path, options: str, violates: str) -> None:
    outcome = runs.search(program, options)
    assert outcome.violates == violates
    assert outcome.steps > 0


@pytest.mark.parametrize("options", runs.MASKED.values(), ids=runs.MASKED)
def test_without_the_rule_another_one_saves_it(program: Path, options: str) -> None:
    assert runs.search(program, options).violates is None


def test_every_rule_of_the_model_was_broken_once(program: Path) -> None:
    listed = subprocess.run([program], capture_output=True, text=True, check=False).stdout
    names = set(re.findall(r"^  (?:lease|change) +([a-z-]+) ", listed, re.MULTILINE))
    assert names == runs.HARMFUL.keys() | runs.MASKED.keys()
