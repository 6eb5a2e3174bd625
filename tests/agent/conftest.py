"""What tests of the node agent are given: a cgroup, folders for hooks, an environment for what they start."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from agent.services import own_cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAEMON = """#!/bin/sh
echo "$VIPKEEPER_TERM" >> {folder}/$1.started
sleep 600 &
echo $! > {folder}/$1.pid
"""


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Python programs that are started find the same modules."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the test's own."""
    with own_cgroup() as path:
        yield path


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """An empty folder for hooks."""
    folder = tmp_path / "hooks"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def daemons(tmp_path: Path) -> Path:
    """A folder with a hook that leaves a process behind, and tells of it (`onekeeper.service`)."""
    hook = tmp_path / "daemon"
    hook.write_text(DAEMON.format(folder=tmp_path))
    hook.chmod(0o700)
    return tmp_path
