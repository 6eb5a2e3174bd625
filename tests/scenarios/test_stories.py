"""The protocol as stories: each text file beside this one, commands and what they print."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.story import retell

_STORIES = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in _STORIES])
def test_the_story_is_still_true(path: Path, pytestconfig: pytest.Config) -> None:
    text = path.read_text(encoding="utf-8")
    told = retell(text)
    if pytestconfig.getoption("rewrite", default=False):
        path.write_text(told, encoding="utf-8")
        return
    assert told == text, f"{path.name} reads differently now: if it is right, run with --rewrite"
