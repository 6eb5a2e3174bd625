"""`helm upgrade` while an address is under load: it moves, as planned, and is never on two nodes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from e2e.chart import REGISTRY
from lab import analysis
from vipapi import __version__

if TYPE_CHECKING:
    from e2e.chart import Chart
    from e2e.cluster import Cluster
    from e2e.conftest import Told
    from e2e.podstage import PodStage

IMAGES = ("controller", "node-agent")
NEXT = f"{__version__}-next"
UPGRADED_S = 180


def release_the_next_version(cluster: Cluster) -> None:
    """Have the images in every node's store under another version as well."""
    for machine in cluster.machines.values():
        for name in IMAGES:
            image = f"{REGISTRY}/vipkeeper/{name}"
            machine.ctr("images", "tag", "--force", f"{image}:{__version__}", f"{image}:{NEXT}")


def test_an_upgrade_takes_no_address_away_for_longer_than_planned_moves_do(
    stage: PodStage, cluster: Cluster, chart: Chart, told: Told
) -> None:
    release_the_next_version(cluster)
    stage.rest("minimal", "web")
    before = stage.status("minimal")["term"]
    since_ns = time.monotonic_ns()

    chart.upgrade({"image": {"registry": REGISTRY, "tag": NEXT}}, f"--timeout={UPGRADED_S}s")

    chart.await_ready()
    stage.rest("minimal", "web")
    until_ns = stage.measured.settle()
    told.time("helm upgrade, one node after another", (until_ns - since_ns) / 1e9)
    for name in ("minimal", "web"):
        probes = stage.measured.probes(name, since_ns=since_ns)
        longest = analysis.longest_silence(probes, since_ns=since_ns, until_ns=until_ns)
        told.time(f"longest silence of {name} meanwhile", longest.length_ms / 1000)
        assert not stage.measured.overlaps(name, since_ns=since_ns)
    assert stage.status("minimal")["term"] > before
    pods = [*chart.pods("node-agent"), *chart.pods("controller")]
    assert {each["image"] for pod in pods for each in pod["spec"]["containers"]} == {
        f"{REGISTRY}/vipkeeper/{name}:{NEXT}" for name in IMAGES
    }
    # Nobody was taken for dead.
    assert stage.status("minimal")["lastFailover"]["reason"] != "LeaseExpired"
    # The way back, for the tests that follow; a node that is added has the first version only.
    chart.upgrade({"image": {"registry": REGISTRY, "tag": ""}}, f"--timeout={UPGRADED_S}s")
    chart.await_ready()
    stage.rest("minimal", "web")
