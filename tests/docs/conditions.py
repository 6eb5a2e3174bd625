"""The page of conditions and reasons: what they mean from the code, what to do from `remedies.yaml`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from apiserver.definitions import ROOT, definitions, schema_of
from docs.markdown import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINE = re.compile(
    r'^    (?:# (?P<section>.+)|[A-Z_]+ = "(?P<reason>\w+)".*\n    """(?P<meaning>[^"]+)""")$', re.MULTILINE
)
_INTRODUCTION = """\
# Conditions and reasons

`kubectl describe` shows an object's conditions, each with a reason (one word, never renamed) and a message (a
sentence that says what to do where something is to be done). `Ready` sums up. `Reconciling` and `Stalled` are
there only while they are True, as kstatus wants it: a change is under way; only a person can go on.

"""


def remedies() -> dict[str, str]:
    """Return what to do, by reason."""
    found: dict[str, str] = yaml.safe_load(Path(__file__).with_name("remedies.yaml").read_text())
    return found


def sections() -> dict[str, list[tuple[str, str]]]:
    """Return the reasons of `vipapi.conditions.Reason` with their meanings, by the comment above them."""
    text = (ROOT / "controller" / "vipapi" / "conditions.py").read_text()
    found: dict[str, list[tuple[str, str]]] = {}
    for match in _LINE.finditer(text, text.index("class Reason")):
        if match["section"]:
            found[match["section"]] = []
        else:
            found[next(reversed(found))].append((match["reason"], match["meaning"]))
    return found


def page() -> str:
    """Return the page."""
    kinds = table(("Kind", "Conditions"), ((code(kind), _types(kind)) for kind in definitions()))
    told = "\n".join(_section(*section) for section in sections().items())
    return f"{_INTRODUCTION}{kinds}\n{told}"


def _types(kind: str) -> str:
    status = schema_of(definitions()[kind])["properties"]["status"]
    description = " ".join(status["properties"]["conditions"]["description"].split())
    return description.removeprefix("conditions are the latest observations: ")


def _section(title: str, reasons: list[tuple[str, str]]) -> str:
    return f"## {title}\n\n" + table(("Reason", "Meaning", "What to do"), _rows(reasons))


def _rows(reasons: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    told = remedies()
    for reason, meaning in reasons:
        yield f'<a id="{reason.lower()}"></a>{code(reason)}', meaning, told.get(reason, "")
