"""A keeper's `/healthz` and `/readyz`, asked from outside the process, through its life."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from pyroute2 import IPRoute

from agent.onekeeper import (
    FIRST,
    WEB,
    Courier,
    configured,
    network,  # noqa: F401 - a fixture that all tests have
    planned,
    until,
)
from health.processes import NOBODY, answered, asked, running
from vipapi import __version__
from vipapi.healthchecks import File, HealthCheck

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from vipapi.nodeplan import VirtualIPPlan

pytestmark = pytest.mark.usefixtures("importable")

PORT = 9956
LIVE = (200, "ok")


@pytest.fixture
def options(network: None, tmp_path: Path) -> list[str]:  # noqa: ARG001, F811
    with IPRoute() as route:
        route.link("set", index=socket.if_nametoindex("lo"), state="up")
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return [
        *("--node=a", f"--state-dir={state}", f"--socket={tmp_path / 'keeper.sock'}"),
        *(f"--hooks-dir={tmp_path}", f"--health=127.0.0.1:{PORT}"),
    ]


@asynccontextmanager
async def courier(folder: Path) -> AsyncIterator[Courier]:
    await until((folder / "keeper.sock").exists)
    reader, writer = await asyncio.open_unix_connection(folder / "keeper.sock", limit=1 << 20)
    try:
        yield Courier(reader, writer)
    finally:
        writer.close()


def looked_into(*folders: Path) -> VirtualIPPlan:
    """An address whose checks look at a file in each of these folders."""
    checks = tuple(
        HealthCheck(f"look-{place}", weight=1, file=File(str(folder / "lock")))
        for place, folder in enumerate(folders)
    )
    return msgspec.structs.replace(WEB, health_checks=checks)


def test_a_keeper_is_ready_when_it_does_its_part_and_live_all_along(
    options: list[str], tmp_path: Path
) -> None:
    alone = configured(2, "a", former=FIRST)

    async def grow() -> None:
        async with asyncio.timeout(60), courier(tmp_path) as link:
            assert answered(PORT, "/readyz", "no plan")[0] == 503
            link.plan(planned(configured(1, "a", "b", "c"), WEB))
            await link.until(lambda: link.epoch() == 1)
            assert answered(PORT, "/readyz", "no majority")[0] == 503
            assert asked(PORT, "/healthz") == LIVE

    async def hold() -> None:
        async with asyncio.timeout(60), courier(tmp_path) as link:
            link.plan(planned(alone, WEB))
            await link.until(lambda: link.state() == "Owner")
            assert answered(PORT, "/readyz", "ok") == LIVE
            link.plan(planned(alone, looked_into(tmp_path / "state", tmp_path)))
            await link.until(lambda: len(link.complaints()) == 2)
            for folder, said in zip((tmp_path / "state", tmp_path), link.complaints(), strict=True):
                assert f"it lies in {folder}, where no check may look" in said

    with running(tmp_path / "log", "vipagent", *options) as process:
        asyncio.run(grow())
        process.kill()
        process.wait(30)
    (tmp_path / "keeper.sock").unlink()
    for stored in (tmp_path / "state").glob("*-*"):
        stored.unlink()
    with running(tmp_path / "log", "vipagent", *options) as process:
        asyncio.run(hold())
        process.kill()
        process.wait(30)
    # On a rebooted node, while the API server and the courier are away: the plan is on the disk.
    with running(tmp_path / "log", "vipagent", *options) as process:
        assert answered(PORT, "/readyz", "ok") == LIVE
        _, told = asked(PORT - 10, "/metrics")
        assert f'vipkeeper_build_info{{component="keeper",version="{__version__}"}} 1.0' in told
    assert asked(PORT, "/healthz") == NOBODY


def test_a_keeper_whose_health_port_is_taken_says_so_and_ends(options: list[str]) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        ended = subprocess.run(
            [sys.executable, "-m", "vipagent", *options],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=dict(os.environ),
        )
    assert ended.returncode == 1
    assert (
        f"the health endpoints cannot be served at 127.0.0.1 port {PORT}: Address already in use: "
        "give --health another address or port"
    ) in ended.stderr
