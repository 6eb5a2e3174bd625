"""What the pages name is there: options of our programs, values of the chart, files, reasons, images."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import yaml

from apiserver.definitions import ROOT
from docs import values
from docs.commands import options
from docs.markdown import blocks, pages, prose
from vipapi.conditions import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = [
    page for page in pages(ROOT) if page.parent.name != "reference"
]  # those have the names from the code
PROGRAMS = ("vipkeeper-controller", "vipkeeper-courier", "vipkeeper-keeper")
OF_OTHERS = {
    "--cascade",
    "--label",
    "--no-hooks",
    "--platform",
    "--server-side",
    "--set",
    "--take-ownership",
    "--timeout",
    "--values",
    "--wait",
}
PATH = re.compile(
    r"(?<![\w/.{-])((?:examples|charts|crds|node-agent|controller|tests|docs|templates)/[\w./-]*)"
)
COMMAND = re.compile(r"(?:^|^\$ |; |&& )(?:[\w/.]*/)?(vipkeeper-(?:controller|courier|keeper)) ")
REASON = re.compile(r'(?:Problem|Refusal|refuse|note)\(\s*"([A-Z][A-Za-z]+)"')


def codes(page: Path) -> Iterator[str]:
    """Yield what a page shows as code: commands of blocks, joined where they go on, and code spans."""
    text = (ROOT / page).read_text()
    for block in blocks(text):
        yield from block.text.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`]+)`", prose(text))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_an_option_that_a_page_names_is_there(page: Path) -> None:
    every = set().union(*map(options, PROGRAMS))
    for code in codes(page):
        named = re.findall(r"(?<![\w-])--[a-z][a-z-]+", code)
        program = COMMAND.search(code)
        if program is not None:
            assert set(named) <= options(program[1]), code
        elif code.startswith("--"):
            assert set(named) <= every | OF_OTHERS, code


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_a_value_that_a_page_names_is_one_of_the_chart(page: Path) -> None:
    tops = "|".join(values.schema()["properties"])
    for code in codes(page):
        named = re.findall(r"--set(?:-string|-json)? '?([\w.]+)", code)
        named += re.findall(rf"^((?:{tops})\.[\w.]+)(?:: .*)?$", code)
        assert set(named) <= values.named(), code


def test_a_file_of_values_that_a_page_shows_has_only_values_of_the_chart() -> None:
    """Such a block begins with the comment `# values`."""
    for page in PAGES:
        for block in blocks((ROOT / page).read_text()):
            if block.text.startswith("# values"):
                assert _keys(yaml.safe_load(block.text)) <= values.named(), f"{page}:{block.line}"


def _keys(document: object, path: str = "") -> set[str]:
    """Return the keys of nested mappings, as far down as the chart knows keys."""
    if not isinstance(document, dict) or (path and not _has_keys(path)):
        return {path}
    return set().union(*(_keys(value, f"{path}.{key}" if path else key) for key, value in document.items()))


def _has_keys(path: str) -> bool:
    return any(key.startswith(f"{path}.") for key in values.named())


def test_a_file_that_a_page_names_is_there() -> None:
    for page in PAGES:
        for code in codes(page):
            for path in PATH.findall(code):
                places = (ROOT / path, ROOT / "controller" / path, ROOT / "charts" / "vipkeeper" / path)
                assert any(place.exists() for place in places), f"{page}: {path}"


def test_every_problem_of_a_keeper_is_explained() -> None:
    told = (ROOT / "docs" / "troubleshooting.md").read_text()
    sources = (path.read_text() for path in (ROOT / "node-agent").rglob("*.py"))
    reasons = {reason for text in sources for reason in REASON.findall(text)}
    assert {"FenceRefused", "PlanNotKept", "NoInterface"} <= reasons
    of_conditions = set(map(str, Reason))  # the page of conditions has these
    assert {reason for reason in reasons - of_conditions if f"`{reason}`" not in told} == set()


def test_an_image_stands_without_a_registry_or_with_one_for_examples() -> None:
    for page in PAGES:
        for host in re.findall(r"([\w.-]+)/vipkeeper/(?:controller|node-agent)", (ROOT / page).read_text()):
            assert host == "localhost" or host.endswith((".example", ".example.com")), f"{page}: {host}"
