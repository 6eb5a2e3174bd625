"""The generated pages are what their sources say, and all pages hang together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apiserver.definitions import ROOT
from docs.conditions import remedies, sections
from docs.markdown import anchors, links, pages
from docs.pages import pages as generated
from vipapi.conditions import Reason

if TYPE_CHECKING:
    from pathlib import Path

PAGES = pages(ROOT)
REACHED_FROM = ("README.md", "docs/README.md")


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(path, text, id=path.name) for path, text in generated().items()]
)
def test_a_generated_page_is_what_its_source_says(path: Path, text: str) -> None:
    assert path.read_text() == text, "run `make docs`"


def test_every_reason_is_explained_and_has_a_remedy() -> None:
    assert {reason for rows in sections().values() for reason, _ in rows} == {str(each) for each in Reason}
    assert set(remedies()) == {str(each) for each in Reason}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links((ROOT / page).read_text()):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


def test_every_page_of_docs_is_reached_from_the_readme_or_the_index() -> None:
    reached = {
        ((ROOT / page).parent / target.partition("#")[0]).resolve()
        for page in REACHED_FROM
        for target in links((ROOT / page).read_text())
    }
    missing = [page for page in PAGES if page.parts[0] == "docs" and (ROOT / page).resolve() not in reached]
    assert [str(page) for page in missing if str(page) not in REACHED_FROM] == []
