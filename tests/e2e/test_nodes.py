"""Pods and kubelets come and go, and addresses with them only where they have to."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from e2e.chart import NAMESPACE

if TYPE_CHECKING:
    from e2e.chart import Chart
    from e2e.cluster import Cluster
    from e2e.conftest import Told
    from e2e.podstage import PodStage

UNSEEN_S = 8


def test_an_address_is_handed_over_when_its_owners_pod_is_deleted(
    stage: PodStage, cluster: Cluster, chart: Chart, told: Told
) -> None:
    owner = stage.owner("minimal").name
    pod = chart.agent_on(owner)["metadata"]["name"]
    api = cluster.plane.api

    outcome = stage.act("minimal", lambda: api.delete("v1", "Pod", pod, namespace=NAMESPACE))

    told.fault(f"the agent's pod on {owner} is deleted", outcome, budget_ms=60)
    chart.await_ready()
    stage.rest("minimal", "web")
    assert outcome.is_safe
    assert "handover" in outcome.said
    assert stage.status("minimal")["lastFailover"]["reason"] != "LeaseExpired"


def test_an_address_stays_where_it_is_when_its_owners_kubelet_stops(
    stage: PodStage, cluster: Cluster
) -> None:
    owner = stage.owner("minimal")
    term = stage.status("minimal")["term"]
    since_ns = time.monotonic_ns()
    machine = cluster.machines[owner.name]
    machine.stop_kubelet()
    try:
        time.sleep(UNSEEN_S)
    finally:
        machine.start_kubelet()
    cluster.await_node(owner.name)
    assert stage.owner("minimal") is owner
    assert stage.status("minimal")["term"] == term
    stage.measured.settle()
    assert not stage.measured.overlaps("minimal", since_ns=since_ns)
    stage.rest("minimal", "web")
