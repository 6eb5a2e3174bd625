"""`helm upgrade` while addresses are under load: each is handed over, and is never on two nodes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from e2e.chart import REGISTRY
from e2e.conftest import ADDRESSES
from lab.stage import VERSION
from vipapi import __version__

if TYPE_CHECKING:
    from e2e.chart import Chart
    from e2e.cluster import Cluster
    from e2e.conftest import Told
    from e2e.podstage import PodStage

NAMES = ("controller", "node-agent")
UPGRADED_S = 180


@pytest.mark.parametrize("is_upgrade", [True, False], ids=["to-the-next", "and-back"])
def test_another_version_takes_over_without_an_outage_that_a_planned_move_has_not(
    stage: PodStage, cluster: Cluster, chart: Chart, told: Told, next_version: str, *, is_upgrade: bool
) -> None:
    stage.rest(*ADDRESSES)
    terms = {name: stage.status(name)["term"] for name in ADDRESSES}
    since_ns = time.monotonic_ns()
    version = next_version if is_upgrade else __version__

    chart.upgrade({"image": {"registry": REGISTRY, "tag": version}}, f"--timeout={UPGRADED_S}s")

    chart.await_ready()
    stage.rest(*ADDRESSES)
    until_ns = stage.measured.settle()
    title = f"helm upgrade to {version}"
    told.time(f"{title}, one node after another", (until_ns - since_ns) / 1e9)
    pods = [*chart.pods("node-agent"), *chart.pods("controller")]
    assert {each["image"] for pod in pods for each in pod["spec"]["containers"]} == {
        f"{REGISTRY}/vipkeeper/{name}:{version}" for name in NAMES
    }
    assert {each["status"]["version"] for each in cluster.plane.api.list(VERSION, "VIPNode")} == {version}
    for name in ADDRESSES:
        moves = stage.moves(name, since_ns=since_ns, until_ns=until_ns)
        for move in moves:
            told.move(title, move)
        assert moves
        assert not stage.measured.overlaps(name, since_ns=since_ns)
        assert stage.status(name)["term"] > terms[name]
        # Nobody was taken for dead: every owner told another to take over.
        assert all(move.was_handed_over for move in moves)
        assert stage.status(name)["lastFailover"]["reason"] != "LeaseExpired"
