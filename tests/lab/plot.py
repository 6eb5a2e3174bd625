"""A picture of distributions, as SVG: small panels with a dot for every run. The door to svg.py.

Every panel has a row for each subject, on one logarithmic axis of milliseconds that all panels share, so that
lengths can be compared by eye across them. A row's bar is its median, with the figure beside it. What is
shorter than the axis stands at its left end, and what did not end is a hollow dot at the right end. A run in
which something else was amiss is ringed: a short outage may be no merit.

The same values make the same bytes: dots are spread across their row by their number. The picture has a
background of its own and another set of colours where the reader prefers dark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final, Literal

import svg

from lab.analysis import percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS: Final = 2
PANEL_WIDTH: Final = 630
NAMES_WIDTH: Final = 262
MEDIANS_WIDTH: Final = 62
ROW_HEIGHT: Final = 26
PANEL_HEAD: Final = 34
PANEL_FOOT: Final = 40
HEAD: Final = 58
MARGIN: Final = 16
SPREAD: Final = 0.56  # of a row's height
GOLDEN: Final = 0.618034  # multiples of it lie evenly, however many there are
COLOURS: Final = ("#0072b2", "#009e73", "#d55e00", "#b5679b", "#8a7500", "#4a9cd0")
"""Okabe and Ito's, which are told apart without seeing colours, darkened where white hides them."""
RING: Final = "#d1242f"

STYLE: Final = """
text { font-family: system-ui, sans-serif; font-size: 12px; }
.title { font-size: 17px; font-weight: 600; }
.panel { font-size: 13.5px; font-weight: 600; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; }
  text { fill: #e6edf3; }
  .soft { fill: #9da7b1; }
  .grid { stroke: #30363d; }
  .median { stroke: #e6edf3; }
}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One subject in a panel: the lengths of its runs in milliseconds, infinite where there was no end.

    `ringed` are the places of some of them.
    """

    name: str
    lengths_ms: tuple[float, ...]
    ringed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Panel:
    """One fault, and what it cost each subject that it was done to."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """A logarithmic axis of whole decades, from `low` to `high` as powers of ten, over so many pixels."""

    low: int
    high: int
    width: float

    def x(self, length_ms: float) -> float:
        """Return where a length stands; what lies outside stands at the end."""
        power = min(max(math.log10(max(length_ms, 10.0**self.low)), self.low), self.high)
        return round(self.width * (power - self.low) / (self.high - self.low), 1)


def axis_for(lengths_ms: Sequence[float], width: float) -> Axis:
    """Return the axis that all lengths fit on; it begins at 1 ms, what is shorter being noise."""
    longest = max((each for each in lengths_ms if math.isfinite(each)), default=1.0)
    return Axis(0, max(1, math.ceil(math.log10(max(longest, 1.0)))), width)


def draw(title: str, note: str, panels: Sequence[Panel]) -> str:
    """Return the picture of some panels, as the text of an SVG file."""
    axis = axis_for(
        [each for panel in panels for row in panel.rows for each in row.lengths_ms],
        PANEL_WIDTH - NAMES_WIDTH - MEDIANS_WIDTH,
    )
    names = dict.fromkeys(row.name for panel in panels for row in panel.rows)
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    elements: list[svg.Element] = []
    top = HEAD
    for start in range(0, len(panels), COLUMNS):
        beside = panels[start : start + COLUMNS]
        for column, panel in enumerate(beside):
            left = MARGIN + column * (PANEL_WIDTH + MARGIN)
            elements.append(
                svg.G(
                    transform=[svg.Translate(left, top)],
                    elements=_panel(panel, axis, colours),
                )
            )
        top += PANEL_HEAD + PANEL_FOOT + ROW_HEIGHT * max(len(panel.rows) for panel in beside)
    width, height = MARGIN + COLUMNS * (PANEL_WIDTH + MARGIN), top + MARGIN
    picture = svg.SVG(
        viewBox=svg.ViewBoxSpec(0, 0, width, height),
        width=width,
        height=height,
        elements=[
            svg.Title(text=escape(title)),
            svg.Desc(text=escape(note)),
            svg.Style(text=STYLE),
            svg.Rect(width=width, height=height, rx=6, fill="#ffffff", class_=["paper"]),
            _text(title, MARGIN, 26, "title"),
            _text(note, MARGIN, 46, "soft"),
            *elements,
        ],
    )
    return str(picture).replace("><", ">\n<") + "\n"


def _panel(panel: Panel, axis: Axis, colours: dict[str, str]) -> list[svg.Element]:
    """Return a panel whose upper left corner is the origin."""
    bottom = PANEL_HEAD + ROW_HEIGHT * len(panel.rows)
    elements: list[svg.Element] = [_text(panel.title, 0, 20, "panel")]
    for power in range(axis.low, axis.high + 1):
        x = NAMES_WIDTH + axis.x(10.0**power)
        elements += [
            svg.Line(x1=x, x2=x, y1=PANEL_HEAD - 4, y2=bottom + 2, stroke="#d0d7de", class_=["grid"]),
            _text(f"{10**power:,}", x, bottom + 16, "soft", anchor="middle"),
        ]
    elements.append(_text("ms", PANEL_WIDTH - 4, bottom + 16, "soft", anchor="end"))
    for number, row in enumerate(panel.rows):
        elements += _row(row, axis, colours[row.name], PANEL_HEAD + ROW_HEIGHT * (number + 0.5))
    return elements


def _row(row: Row, axis: Axis, colour: str, middle: float) -> list[svg.Element]:
    dots: list[svg.Element] = []
    for number, length_ms in enumerate(row.lengths_ms):
        has_end = math.isfinite(length_ms)
        dots.append(
            svg.Circle(
                cx=round(NAMES_WIDTH + axis.x(length_ms), 1),
                cy=round(middle + ROW_HEIGHT * SPREAD * ((number * GOLDEN) % 1 - 0.5), 1),
                r=3,
                fill=None if has_end else "none",
                stroke=RING if number in row.ringed else None if has_end else colour,
                stroke_width=1.2 if number in row.ringed else None,
            )
        )
    median_ms = percentile(row.lengths_ms, 50)
    x = NAMES_WIDTH + axis.x(median_ms)
    half = ROW_HEIGHT * 0.42
    shown = f"{median_ms:,.0f}" if math.isfinite(median_ms) else "no end"
    return [
        _text(row.name, NAMES_WIDTH - 12, middle + 4, "", anchor="end"),
        svg.G(fill=colour, fill_opacity=0.55, elements=dots),
        svg.Line(
            x1=x,
            x2=x,
            y1=round(middle - half, 1),
            y2=round(middle + half, 1),
            stroke="#1f2328",
            stroke_width=2,
            class_=["median"],
        ),
        _text(shown, PANEL_WIDTH - 4, middle + 4, "", anchor="end"),
    ]


def _text(
    text: str, x: float, y: float, kind: str, *, anchor: Literal["start", "middle", "end"] = "start"
) -> svg.Text:
    return svg.Text(
        text=escape(text),
        x=round(x, 1),
        y=round(y, 1),
        text_anchor=anchor,
        fill="#59636e" if kind == "soft" else "#1f2328",
        class_=[kind] if kind else None,
    )
