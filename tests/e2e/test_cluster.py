"""The cluster itself is one: what the tests of vipkeeper rely on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from e2e.images import PAUSE
from e2e.node import pods_of

if TYPE_CHECKING:
    from e2e.cluster import Cluster

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def test_every_node_is_ready_and_has_a_var_and_addresses_of_its_own(cluster: Cluster) -> None:
    nodes = {each["metadata"]["name"]: each for each in cluster.plane.api.list("v1", "Node")}
    assert set(nodes) == set(cluster.nodes)
    for name, host in cluster.nodes.items():
        assert cluster.is_ready(name)
        addresses = {each["address"] for each in nodes[name]["status"]["addresses"]}
        assert host.ipv4 in addresses
        assert (cluster.machines[name].var / "lib" / "kubelet").is_dir()
    assert not Path("/var/lib/kubelet/pods").exists()


def test_a_deployments_pods_run_and_go_with_it(cluster: Cluster) -> None:
    container = {"name": "waits", "image": PAUSE, "securityContext": RESTRICTED}
    labels = {"app": "waiting"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "waiting", "namespace": "default"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    cluster.plane.api.apply(deployment)
    cluster.plane.kubectl("rollout", "status", "deployment/waiting", "--timeout=50s")
    pods = cluster.plane.api.list("v1", "Pod", namespace="default")
    for pod in pods:
        node = cluster.nodes[pod["spec"]["nodeName"]]
        assert pod["status"]["podIP"] in map(str, pods_of(node))

    cluster.plane.kubectl("delete", "deployment/waiting")

    cluster.wait_until(
        "the deployment's pods gone", lambda: not cluster.plane.api.list("v1", "Pod", namespace="default")
    )
