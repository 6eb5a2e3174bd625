"""What the locks say: a version for each distribution that Linux needs, and hashes for every file of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from images.seal import canonical

if TYPE_CHECKING:
    from pathlib import Path


def entries(lock: Path) -> list[str]:
    """The entries of a lock: a requirement and its hashes each, comments left out, lines joined."""
    lines = (line for line in lock.read_text().splitlines() if not line.lstrip().startswith("#"))
    return [entry for entry in re.split(r"\n(?=\S)", "\n".join(lines).replace(" \\\n", " ")) if entry.strip()]


def pins(lock: Path) -> dict[str, str]:
    """The version of each distribution that a lock installs here."""
    requirements = [Requirement(entry.partition(" --hash=")[0]) for entry in map(_joined, entries(lock))]
    return {
        canonical(each.name): next(iter(each.specifier)).version
        for each in requirements
        if each.marker is None or each.marker.evaluate()
    }


def _joined(entry: str) -> str:
    return re.sub(r"\s+", " ", entry)
