"""Tools written in Go that the tests and `make lint` run; `python -m gotools NAME` prints where one is.

Each has a folder here whose `go.mod` pins it by one `tool` directive. It is built once into the cache,
`${XDG_CACHE_HOME:-~/.cache}/vipkeeper/gotools/NAME-<digest>` (`lab.gobuilds`); what is installed on this
machine is never used, so that everybody has the same release. To move to another one, run `go get -tool
PACKAGE@VERSION` and `go mod tidy` in its folder.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lab import gobuilds

if TYPE_CHECKING:
    from lab.gobuilds import Say

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Return the names of all tools."""
    return tuple(sorted(each.parent.name for each in FOLDER.glob("*/go.mod")))


def locate(name: str, say: Say = lambda _: None) -> Path:
    """Return the tool's path, building it if need be; `say` is told of every step that takes time.

    Raises `lab.gobuilds.BinariesMissingError` where it cannot be built.
    """
    module = FOLDER / name
    folder = gobuilds.cache_folder() / "gotools" / f"{name}-{gobuilds.digest(module)}"
    program = folder / name
    if program.exists():
        return program
    with gobuilds.locked(folder, name, say):
        if not program.exists():
            say(f"building {name}: once, some minutes")
            started = time.monotonic()
            gobuilds.build(module, folder, {name: _package(module)}, stamp={}, say=say)
            say(f"{name} is built, in {time.monotonic() - started:.0f} s, and kept in {folder}")
    return program


def _package(module: Path) -> str:
    found = re.search(r"^tool (\S+)$", (module / "go.mod").read_text(encoding="ascii"), re.MULTILINE)
    assert found, f"{module} has no line `tool PACKAGE`"
    return found[1]
