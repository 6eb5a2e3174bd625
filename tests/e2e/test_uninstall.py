"""`helm uninstall` leaves no address, rule, program or finalizer behind, and a new installation goes on."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pyroute2 import IPRoute

from e2e.chart import NAMESPACE
from e2e.conftest import ADDRESSES
from lab.kernelcalls import entered
from lab.stage import HEARTBEAT_SECRET, VERSION

if TYPE_CHECKING:
    from e2e.chart import Chart
    from e2e.cluster import Cluster
    from e2e.conftest import Told
    from e2e.podstage import PodStage
    from lab.topology import Host

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
KINDS = ("VirtualIP", "FailoverDomain", "ServiceFailover")
LEFT_ON_NODES = {"incarnation", "lock"}


def rules_of(host: Host) -> list[str]:
    """Return the names of the filters on a node's links. The empty clsact that they were in may stay."""
    with entered(host.network), IPRoute() as route:
        rules: list[str] = []
        for link in route.get_links():
            for parent in (INGRESS, EGRESS):
                filters = route.get_filters(index=link["index"], parent=parent)
                rules += [str(each.get_nested("TCA_OPTIONS", "TCA_BPF_NAME")) for each in filters]
    return rules


def finalizers(cluster: Cluster) -> list[str]:
    found = [each for kind in KINDS for each in cluster.plane.api.list(VERSION, kind)]
    return [name for each in found for name in each["metadata"].get("finalizers", [])]


def test_an_uninstallation_leaves_nothing_and_a_new_one_takes_up_where_it_ended(
    stage: PodStage, cluster: Cluster, chart: Chart, told: Told
) -> None:
    stage.rest("minimal", "web")
    hosts = cluster.nodes.values()
    assert all("vipkeeper-out" in rules_of(host) for host in hosts)
    assert finalizers(cluster)

    chart.uninstall()

    api = cluster.plane.api
    told.time(
        "after helm uninstall, until the last pod has ended",
        cluster.wait_until("no pod left", lambda: not api.list("v1", "Pod", namespace=NAMESPACE)),
    )
    assert finalizers(cluster) == []
    for host in hosts:
        assert not host.addresses() & set(ADDRESSES.values())
        assert rules_of(host) == []
        state = os.listdir(cluster.machines[host.name].var / "lib" / "vipkeeper")  # noqa: PTH208 - names
        assert "plan.json" not in state
        assert set(state) >= LEFT_ON_NODES
    for version, kind in (
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("batch/v1", "Job"),
        ("rbac.authorization.k8s.io/v1", "Role"),
    ):
        assert api.list(version, kind, namespace=NAMESPACE) == [], kind
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        names = {each["metadata"]["name"] for each in api.list("rbac.authorization.k8s.io/v1", kind)}
        assert not {each for each in names if "vipkeeper" in each}
    assert api.list(VERSION, "VIPNode") == []
    ready = {
        each["reason"] for each in stage.status("minimal")["conditions"] if each["type"] in {"Ready", "Owned"}
    }
    assert ready == {"Uninstalled"}
    assert HEARTBEAT_SECRET in {
        each["metadata"]["name"] for each in api.list("v1", "Secret", namespace=NAMESPACE)
    }

    since_ns = time.monotonic_ns()
    chart.install()
    chart.await_ready()
    stage.rest("minimal", "web")
    probes = stage.measured.probes("minimal", since_ns=since_ns)
    first_ns = min(each.answered_ns for each in probes if each.answered_ns is not None)
    told.time("a new helm install, until minimal answers again", (first_ns - since_ns) / 1e9)
