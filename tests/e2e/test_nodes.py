"""Pods and kubelets come and go, and addresses with them only where they have to."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from e2e.chart import NAMESPACE
from lab.stage import VERSION

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


def test_a_new_node_can_hold_an_address_and_one_that_leaves_is_forgotten(
    stage: PodStage, cluster: Cluster, chart: Chart, told: Told
) -> None:
    api = cluster.plane.api

    def candidates() -> set[str]:
        return {each["nodeName"] for each in stage.status("minimal")["candidates"] if each["eligible"]}

    def vipnodes() -> set[str]:
        return {each["metadata"]["name"] for each in api.list(VERSION, "VIPNode")}

    def drain() -> None:
        cluster.plane.kubectl("drain", host.name, "--ignore-daemonsets")

    owner = stage.owner("minimal").name
    rest = set(cluster.nodes)
    host = cluster.add_node()
    took_s = cluster.wait_until("the new node a candidate", lambda: host.name in candidates())
    told.time("a new node is Ready, until it could hold an address", took_s)
    assert stage.owner("minimal").name == owner
    stage.measured.watch_kernels([host])
    stage.measured.inquire([host])

    there = stage.act("minimal", lambda: stage.move("minimal", host.name), expect=host.name)
    told.fault(f"planned move to the new node {host.name}", there, budget_ms=60)
    stage.rest("minimal")
    drained = stage.act("minimal", drain)
    told.fault(f"kubectl drain {host.name}", drained, budget_ms=60)
    assert there.is_safe
    assert drained.is_safe
    assert "handover" in drained.said

    cluster.remove_node(host)

    cluster.wait_until("its VIPNode gone", lambda: vipnodes() == rest)
    cluster.wait_until("the node no candidate", lambda: candidates() == rest)
    chart.await_ready()
    stage.rest("minimal", "web")
    [domain] = api.list(VERSION, "FailoverDomain")
    assert host.name not in json.dumps(domain["status"])
    conditions = {each["type"]: each["status"] for each in domain["status"]["conditions"]}
    assert conditions == {"Ready": "True", "Quorate": "True"}
    assert stage.owner("minimal").name == drained.after
