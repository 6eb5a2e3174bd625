"""The chart and promtool for the tests of alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from chart.conftest import chart, outside, tool
from monitoring.promtool import locate

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["chart", "tool"]


@pytest.fixture(scope="session")
def promtool(request: pytest.FixtureRequest) -> Path:
    """Promtool's path; it is fetched if need be."""
    with outside(request) as say:
        return locate(say)
