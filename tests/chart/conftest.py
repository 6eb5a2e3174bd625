"""The chart for all tests of this folder, and the Go tools that it takes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import gotools
from chart.rendering import Chart
from lab import enclosure, kernelcalls

if TYPE_CHECKING:
    from lab.gobuilds import Say

Tool = Callable[[str], Path]


@contextlib.contextmanager
def outside(request: pytest.FixtureRequest) -> Iterator[Say]:
    """Where something can be fetched, for there is no way out of the enclosure; gives what shows progress."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    entered: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if enclosure.is_entered():
        entered = kernelcalls.entered(enclosure.outside_network())
    with entered:
        yield say


@pytest.fixture(scope="session")
def tool(request: pytest.FixtureRequest) -> Tool:
    """Give the path of a Go tool, which is built if need be."""

    def locate(name: str) -> Path:
        with outside(request) as say:
            return gotools.locate(name, say)

    return locate


@pytest.fixture(scope="session")
def chart(tool: Tool) -> Chart:
    """The chart; what was rendered once is not rendered again."""
    return Chart(tool("helm"))
