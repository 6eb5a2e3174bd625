"""Tables, page and picture are made of the ledger's entries: the figures are worked out by hand here."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

import pytest

from lab import __main__, bench, comparison, ledger, plot
from lab.ledger import Beside, Failover, Failure, Idle, Ledger, Machine, Settings
from lab.plot import Panel, Row

if TYPE_CHECKING:
    from pathlib import Path

OURS, THEIRS = "vipkeeper, Fast", "keepalived <1 s>"
DOTS = ".//{http://www.w3.org/2000/svg}circle"
TEXTS = ".//{http://www.w3.org/2000/svg}text"


def one(
    who: str,
    fault: str,
    outage_ms: float | None,
    shared_ms: float = 0,
    *,
    load: str = "",
    hiccup_ms: float | None = 2.5,
) -> Beside:
    return Beside(
        who=who,
        fault=fault,
        load=load,
        number=1,
        before="node-a",
        after="node-b",
        outage_ms=outage_ms,
        shared_ms=shared_ms,
        hiccup_ms=hiccup_ms,
        took_s=5,
    )


def read(drawn: str) -> ET.Element:
    return ET.fromstring(drawn)  # noqa: S314  # it was just drawn here


def failover(outage_ms: float, *, overlaps: int = 0, is_safe: bool = True, load: str = "") -> Failover:
    return Failover(
        case="node death",
        profile="Fast",
        limits="max ≤ 450 ms",
        load=load,
        number=1,
        before="node-a",
        after="node-b",
        outage_ms=outage_ms,
        hiccup_ms=2.5,
        overlaps=overlaps,
        is_safe=is_safe,
    )


ENTRIES: list[ledger.Entry] = [
    Machine(at="2026-01-02", processors=2, kernel="Linux 6.1", keepalived="Keepalived v2"),
    Settings(who=OURS, language="yaml", text="kind: VirtualIP\n"),
    Idle(who=OURS, part="keeper", resident_mb=50.04, core=1.234),
    Idle(who=OURS, part="keeper", resident_mb=51.04, core=1.5),
    one(OURS, "frozen", 100),
    one(OURS, "frozen", 300),
    one(OURS, "frozen", 200),
    one(THEIRS, "frozen", 3000, 40),
    one(THEIRS, "frozen", None),
    one(OURS, "killed", 0.4),
    one(OURS, "killed", 150, load="cpu"),
]


def test_the_comparison_has_a_row_for_each_fault_and_subject_and_load() -> None:
    assert comparison.beside(ENTRIES).rows == (
        ("frozen", OURS, "3", "200.0", "300.0", "300.0", "2.5", "0", "0", "0"),
        ("frozen", THEIRS, "2", "3000.0", "no end", "no end", "2.5", "1", "0", "40"),
        ("killed", OURS, "1", "0.4", "0.4", "0.4", "2.5", "0", "0", "0"),
        ("killed (cpu load)", OURS, "1", "150.0", "150.0", "150.0", "2.5", "0", "0", "0"),
    )


@pytest.mark.parametrize(
    ("outage_ms", "hiccup_ms", "own_ms"),
    [
        pytest.param(111.3, 111.5, 0, id="for as long"),
        pytest.param(115, 111, 0, id="the probes apart"),
        pytest.param(171, 109, 171, id="for less long"),
        pytest.param(14, 13, 14, id="no longer than at rest"),
        pytest.param(None, 4000, math.inf, id="no end"),
        pytest.param(None, None, math.inf, id="neither had an end"),
        pytest.param(250, 900, 250, id="for longer, perhaps at another time"),
    ],
)
def test_a_machine_that_stood_still_is_nobody_s_outage(
    outage_ms: float | None, hiccup_ms: float | None, own_ms: float
) -> None:
    run = one(OURS, "frozen", outage_ms, hiccup_ms=hiccup_ms)
    assert comparison.own_ms(run) == own_ms
    [row] = comparison.beside([run]).rows
    assert row[3] == ("no end" if math.isinf(own_ms) else f"{own_ms:.1f}")
    assert comparison.panels([run])[0].rows[0].lengths_ms == (own_ms,)


def test_what_a_part_costs_is_what_was_measured_last() -> None:
    assert comparison.idle(ENTRIES).rows == ((OURS, "keeper", "51.0", "1.50"),)


def test_failovers_under_a_load_have_a_row_of_their_own() -> None:
    entries = [
        failover(300, load="cpu"),
        failover(100, load="cpu"),
        failover(50, overlaps=2, is_safe=False),
        failover(60),
    ]
    assert comparison.failovers(entries).rows == (
        *[("node death", "Fast", "cpu", "max ≤ 450 ms", "never", "2", "100.0", "300.0", "300.0", "2.5")],
        *[("node death", "Fast", "none", "max ≤ 450 ms", "1 times", "2", "50.0", "60.0", "60.0", "2.5")],
    )
    assert comparison.failovers([failover(1, is_safe=False)]).rows[0][4] == "1 went astray"


def test_an_empty_table_is_left_out_and_figures_stand_on_the_right() -> None:
    entries: list[ledger.Entry] = [one(OURS, "frozen", 1), Failure(of="x", message="y")]
    sheets = comparison.sheets(entries)
    assert [sheet.rows[0][0] for sheet in sheets] == ["frozen", "x"]
    sides = [column.justify for column in bench.table_of(sheets[0]).columns]
    assert sides == ["left"] * 2 + ["right"] * 8
    assert comparison.sheets([]) == []


def test_every_table_has_a_cell_for_each_column() -> None:
    for sheet in comparison.sheets([*ENTRIES, failover(1), Failure(of="x", message="y")]):
        assert {len(row) for row in sheet.rows} == {len(sheet.header)}


def test_the_page_keeps_its_text_and_gets_tables_and_settings_between_the_marks() -> None:
    page = f"# Title\n\n{comparison.BEGIN}\nold\n{comparison.END}\n\nBehind.\n"
    text = comparison.part(ENTRIES)
    once = comparison.filled(page, text)
    assert once.startswith("# Title\n")
    assert once.endswith("\n\nBehind.\n")
    assert "old" not in once
    assert "2026-01-02: 2 processors, Linux 6.1, Keepalived v2." in once
    assert "| frozen | keepalived <1 s> | 2 | 3000.0 |" in once
    assert "**Settings of vipkeeper, Fast**\n\n```yaml\nkind: VirtualIP\n```\n" in once
    assert comparison.filled(once, text) == once


@pytest.mark.parametrize("page", ["", comparison.BEGIN, f"{comparison.END}\n{comparison.BEGIN}"])
def test_a_page_without_a_place_for_the_tables_is_refused(page: str) -> None:
    with pytest.raises(comparison.PageError, match="between"):
        comparison.filled(page, "text")


def test_compare_writes_the_page_and_the_picture_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record, page = tmp_path / "figures.jsonl", tmp_path / "page.md"
    page.write_text(f"{comparison.BEGIN}\n{comparison.END}\n")
    with Ledger(record) as book:
        for entry in ENTRIES:
            book.add(entry)
    arguments = ["compare", str(record), "--page", str(page)]
    assert __main__.main(arguments) == 0
    assert "3000.0" in capsys.readouterr().out
    assert "3000.0" in page.read_text()
    drawn = (tmp_path / "page.svg").read_bytes()
    assert __main__.main(arguments) == 0
    assert (tmp_path / "page.svg").read_bytes() == drawn


def test_compare_tells_what_is_missing_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, record, other = tmp_path / "page.md", tmp_path / "figures.jsonl", tmp_path / "other.txt"
    page.write_text("no marks\n")
    other.write_text("ready\n")
    with Ledger(record) as book:
        book.add(ENTRIES[-1])
    for path in (tmp_path / "absent.jsonl", other, record):
        assert __main__.main(["compare", str(path), "--page", str(page)]) == 1
        assert capsys.readouterr().err
    assert page.read_text() == "no marks\n"
    assert not page.with_suffix(".svg").exists()


def test_compare_prints_failovers_and_leaves_the_page_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, record = tmp_path / "absent.md", tmp_path / "figures.jsonl"
    with Ledger(record) as book:
        book.add(failover(321))
    assert __main__.main(["compare", str(record), "--page", str(page)]) == 0
    told = capsys.readouterr().out
    assert "321.0" in told
    assert "no comparison" in told


def test_the_picture_has_a_dot_for_each_run_and_a_median_for_each_row() -> None:
    drawn = read(plot.draw("Title <1>", "Note", comparison.panels(ENTRIES)))
    assert len(drawn.findall(DOTS)) == 7
    assert len([dot for dot in drawn.findall(DOTS) if dot.get("fill") == "none"]) == 1
    assert len([dot for dot in drawn.findall(DOTS) if dot.get("stroke") == plot.RING]) == 1
    texts = [text.text for text in drawn.findall(TEXTS)]
    assert texts[:2] == ["Title <1>", "Note"]
    assert texts.count("frozen") == texts.count("killed") == 1
    assert texts.count(OURS) == 3
    assert texts.count(THEIRS) == 1
    assert texts.count("200") == texts.count("150") == 1
    assert texts.count("3,000") == 1


def test_the_same_runs_make_the_same_bytes_and_no_two_dots_cover_each_other() -> None:
    panels = [Panel("frozen", (Row(OURS, (100.0,) * 40),))]
    text = plot.draw("t", "n", panels)
    assert text == plot.draw("t", "n", panels)
    places = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)
    assert len(places) == 40
    assert len({across for across, _ in places}) == 1
    assert len({down for _, down in places}) >= 38


def test_everything_lies_within_the_picture() -> None:
    """Nothing but a panel's contents is placed within it, so the widest one tells for all."""
    lengths = (0.0, 0.001, 1.0, 12345.6, float("inf"))
    drawn = read(plot.draw("t", "n", [Panel("one", (Row("who", lengths),))]))
    across = [float(dot.get("cx", "")) for dot in drawn.findall(DOTS)]
    assert across[0] == across[1] == across[2] == plot.NAMES_WIDTH
    assert across[2] < across[3] < across[4] == plot.PANEL_WIDTH - plot.MEDIANS_WIDTH


@pytest.mark.parametrize(
    ("lengths_ms", "high"),
    [
        pytest.param([], 1, id="nothing"),
        pytest.param([0.0], 1, id="no outage at all"),
        pytest.param([float("inf"), 1000.0], 3, id="just a decade, and no end"),
        pytest.param([1000.1], 4, id="just above one"),
    ],
)
def test_the_axis_has_whole_decades_from_a_millisecond(lengths_ms: list[float], high: int) -> None:
    axis = plot.axis_for(lengths_ms, 300)
    assert (axis.low, axis.high) == (0, high)
    assert (axis.x(1), axis.x(10**high), axis.x(10 ** (high / 2))) == (0, 300, 150)
