"""Markdown as these pages use it: tables are written, headings, links and code blocks are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(?<!!)\[(?:[^\[\]]|\[[^\[\]]*\])+\]\((?P<target>[^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (?P<text>.+)$", re.MULTILINE)
_ANCHOR = re.compile(r'<a id="(?P<name>[^"]+)">')


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block: its language, its text and the line at which it begins."""

    language: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Return the fenced code blocks."""
    for match in _FENCE.finditer(text):
        indent = len(match["indent"])
        lines = "".join(line[indent:] for line in match["text"].splitlines(keepends=True))
        yield Block(match["language"], lines, text.count("\n", 0, match.start()) + 1)


def prose(text: str) -> str:
    """Return the text without its fenced code blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of all links outside of code."""
    return [match["target"] for match in _LINK.finditer(_CODE.sub("", prose(text)))]


def anchors(text: str) -> set[str]:
    """Return what a link may name after `#`: headings as GitHub spells them, and explicit anchors."""
    found: set[str] = set()
    for match in _HEADING.finditer(prose(text)):
        slug = slug_of(match["text"])
        again = (f"{slug}-{number}" for number in range(1, len(found) + 1))
        found.add(slug if slug not in found else next(each for each in again if each not in found))
    return found | {match["name"] for match in _ANCHOR.finditer(text)}


def slug_of(heading: str) -> str:
    """Return the anchor of a heading: lower case, without punctuation, with `-` for each space."""
    shown = _LINK.sub(lambda match: match[0][1 : match[0].index("](")], heading)
    return re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells may hold Markdown, and `|` in them is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    """Return the text as code within a sentence, also where it holds a backtick."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def pages(root: Path) -> list[Path]:
    """Return every Markdown page of the repository that is no tool's cache."""
    found = (path.relative_to(root) for path in root.rglob("*.md"))
    return sorted(path for path in found if not any(part.startswith(".") for part in path.parts))
