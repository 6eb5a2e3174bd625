"""The Go tools that these tests ask: kstatus, and the Lua engine of Argo CD."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chart.conftest import tool  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from chart.conftest import Tool


@pytest.fixture(scope="session", autouse=True)
def _tools(tool: Tool) -> None:  # noqa: F811 - the fixture
    for name in ("argolua", "kstatus"):
        tool(name)
