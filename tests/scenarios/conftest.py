"""`pytest tests/scenarios --rewrite` writes the stories anew with what their commands print now."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the stories anew; review the difference")
