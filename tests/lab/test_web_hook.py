"""The hook of `examples/web-pair`, by hand: it returns when the server listens, or says why it never will."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import enclosure, kernelcalls, legacyserver, topology
from lab.legacy import WEB_EXAMPLES, WEB_START, Legacy, running
from lab.processes import ProcessFailedError
from lab.servicefaults import kill_everything_on
from lab.topology import Segment
from vipagent.probes_hooks import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def server() -> Iterator[Legacy]:
    """A node with the hook, and nothing that runs there before or after."""
    made = Segment(Path(tempfile.mkdtemp(dir=enclosure.scratch_folder())))
    installed = Legacy(made.add("node-a", topology.FIRST_NODE), made.folder / "shared", name="web", port=80)
    installed.install_in_foreground()
    yield installed
    kill_everything_on(installed.host)
    made.close()


def why(server: Legacy) -> str:
    with pytest.raises(ProcessFailedError) as refused:
        server.run(WEB_START)
    return str(refused.value).splitlines()[-1]


def test_it_is_a_hook_that_the_keeper_runs() -> None:
    assert refusal(WEB_EXAMPLES, WEB_START) is None


def test_it_returns_when_the_server_listens_and_leaves_it_running(server: Legacy) -> None:
    server.run(WEB_START)
    with kernelcalls.entered(server.host.network):
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    assert running(server.shared) == ["node-a.1"]


def test_it_starts_nothing_where_somebody_listens_already(server: Legacy) -> None:
    server.run(WEB_START)
    assert "somebody listens on port 80 already" in why(server)
    assert running(server.shared) == ["node-a.1"]


def test_it_says_what_the_server_said_before_it_ended(server: Legacy) -> None:
    server.wish(legacyserver.FAIL_START)
    assert why(server) == "it ended before it listened on port 80: told to fail"
