"""Which pages are generated, and how; `make docs` writes them, and a test holds them to this."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apiserver.definitions import ROOT, definitions
from docs import commands, conditions, kinds, licences, permissions, values

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = ROOT / "docs" / "reference"


def pages() -> dict[Path, str]:
    """Return the text of every generated page by its path."""
    found = {REFERENCE / f"{kind.lower()}.md": kinds.page(kind) for kind in definitions()}
    found[REFERENCE / "conditions.md"] = conditions.page()
    found[REFERENCE / "commands.md"] = commands.page()
    found[REFERENCE / "licences.md"] = licences.page()
    found[REFERENCE / "permissions.md"] = permissions.page()
    found[REFERENCE / "values.md"] = values.page()
    return found
