"""The chart for all tests of this folder, and the Go tools that it takes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gotools
from chart.rendering import Chart
from lab import enclosure, kernelcalls

Tool = Callable[[str], Path]


@pytest.fixture(scope="session")
def tool(request: pytest.FixtureRequest) -> Tool:
    """Give the path of a Go tool, which is built if need be."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    def locate(name: str) -> Path:
        outside: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if enclosure.is_entered():  # a build fetches modules, and there is no way out from within
            outside = kernelcalls.entered(enclosure.outside_network())
        with outside:
            return gotools.locate(name, say)

    return locate


@pytest.fixture(scope="session")
def chart(tool: Tool) -> Chart:
    """The chart; what was rendered once is not rendered again."""
    return Chart(tool("helm"))
