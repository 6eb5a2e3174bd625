"""What an image is made of: the files, and the commit that they came with.

An image is stamped with the commit in which something of it last changed, and has the time of that commit on
all files, so other commits make no other image. Where a file differs from that commit, the image names none.
Of a clone without its history, git names the only commit there is: as true, but another.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    Git = Callable[[Path, tuple[str, ...]], str | None]

_SHARED: Final = (
    ".containerignore",
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "tests/images/build.lock",
    "tests/images/build.py",
    "tests/images/seal.py",
    "controller/vip*",
    "node-agent/vip*",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The commit of an image's inputs; without a revision where they are not those of any commit."""

    revision: str
    time_s: int


def patterns(image: str) -> tuple[str, ...]:
    """Everything that can change what an image holds; a folder stands for all that is in it."""
    return (*_SHARED, f"{image}/Containerfile", f"{image}/requirements.lock")


def git(tree: Path, arguments: tuple[str, ...]) -> str | None:
    """What git says about a tree, nothing written; none where it fails or is not there."""
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", *arguments],  # noqa: S607
            cwd=tree,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def origin(tree: Path, image: str, environ: Mapping[str, str] = os.environ, ask: Git = git) -> Origin:
    """Where an image's inputs come from; a tree without its history gets the beginning of time."""
    of_image = ("--", *patterns(image))
    time_s, _, revision = (ask(tree, ("log", "-1", "--format=%ct %H", *of_image)) or "").partition(" ")
    changed = ask(tree, ("status", "--porcelain", "--untracked-files=all", *of_image))
    return Origin(
        revision=revision if changed == "" else "",
        time_s=int(environ.get("SOURCE_DATE_EPOCH") or time_s or 0),
    )


def digest(tree: Path, image: str, stamped: Iterable[str]) -> str:
    """One sum of the files and of what else goes into an image."""
    sums = hashlib.sha256()
    for fact in stamped:
        sums.update(f"{fact}\0".encode())
    for path in _files(tree, image):
        contents = path.read_bytes()
        sums.update(f"{path.relative_to(tree)}\0{len(contents)}\0".encode() + contents)
    return sums.hexdigest()


def _files(tree: Path, image: str) -> Iterator[Path]:
    for pattern in patterns(image):
        for found in sorted(tree.glob(pattern)):
            within = sorted(found.rglob("*")) if found.is_dir() else [found]
            yield from (each for each in within if each.is_file() and "__pycache__" not in each.parts)
