"""What the examples name is there to be copied."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from apiserver.definitions import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
CHECK_DISK = ROOT / "examples" / "hooks" / "check-disk"


def hooks(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("hook"), str):
            yield value["hook"]
        for each in value.values():
            yield from hooks(each)
    if isinstance(value, list):
        for each in value:
            yield from hooks(each)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_a_hook_that_an_example_names_is_among_the_examples(path: Path) -> None:
    for name in hooks(list(yaml.safe_load_all(path.read_text()))):
        folders = (ROOT / "examples" / "hooks", path.parent, path.parent / "hooks")
        modes = [(folder / name).stat().st_mode for folder in folders if (folder / name).exists()]
        assert any(mode & stat.S_IXUSR for mode in modes), f"there is no {name} that can be run"


def checked(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CHECK_DISK, folder], capture_output=True, text=True, check=False)


def test_a_disk_passes_while_it_can_be_written(tmp_path: Path) -> None:
    assert checked(tmp_path).returncode == 0
    assert checked(tmp_path).returncode == 0, "again, with the file there"
    assert len(os.listdir(tmp_path)) == 1, "what is left does not grow"  # noqa: PTH208
    gone = checked(tmp_path / "gone")
    assert gone.returncode != 0
    assert "gone" in gone.stderr.splitlines()[-1]
