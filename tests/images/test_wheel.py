from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from images import build

if TYPE_CHECKING:
    from pathlib import Path


def wheel(tree: Path, *, time_s: int, mode: int) -> bytes:
    """Build a wheel from a copy of the tree whose files have another time and mode."""
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        tree.mkdir(exist_ok=True)
        shutil.copy(build.TREE / name, tree)
    for name in ("controller", "node-agent"):
        shutil.copytree(build.TREE / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in tree.rglob("*.py"):
        path.chmod(mode)
        os.utime(path, (time_s, time_s))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tree / "out"],
        cwd=tree,
        check=True,
        capture_output=True,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1795356903"},
    )
    (built,) = (tree / "out").iterdir()
    return built.read_bytes()


def test_the_same_sources_give_the_same_wheel(tmp_path: Path) -> None:
    first = wheel(tmp_path / "first", time_s=1_500_000_000, mode=0o600)
    again = wheel(tmp_path / "again", time_s=1_700_000_000, mode=0o644)
    assert first == again
