"""vipkeeper in the cluster, installed as a user does: with helm, from the chart of this checkout.

The images are those of `make images`, which every node's store already has.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lab.cluster import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from e2e.cluster import Cluster

CHART = ROOT / "charts" / "vipkeeper"
RELEASE = "vipkeeper"
NAMESPACE = "vipkeeper-system"
REGISTRY = "localhost"
NEXT = "0.1.999"  # a version that no release has
READY_S = 90


class Chart:
    """One release; `version` is the images' tag, the chart's own if it is empty."""

    def __init__(
        self, cluster: Cluster, *, values: Mapping[str, Any] | None = None, version: str = ""
    ) -> None:
        self.cluster = cluster
        self.values: dict[str, Any] = {"image": {"registry": REGISTRY, "tag": version}, **(values or {})}

    def install(self, *flags: str) -> str:
        """Install it and wait, as `--wait` does, until all of it is ready; return what helm printed."""
        self._make_namespace()
        return self.cluster.helm("install", RELEASE, CHART, *self._flags(), *flags)

    def upgrade(self, values: Mapping[str, Any] | None = None, *flags: str) -> str:
        """Upgrade it to the values that it has, with some of them changed, and wait."""
        self.values = {**self.values, **(values or {})}
        return self.cluster.helm("upgrade", RELEASE, CHART, *self._flags(), *flags)

    def uninstall(self, *flags: str) -> str:
        """Uninstall it and wait."""
        wait = ("--wait", f"--timeout={READY_S}s")
        return self.cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}", *wait, *flags)

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Return the pods of a component, `controller` or `node-agent`, that are not being deleted."""
        found = self.cluster.plane.api.list("v1", "Pod", namespace=NAMESPACE)
        return [
            each
            for each in found
            if each["metadata"].get("labels", {}).get("app.kubernetes.io/component") == component
            and "deletionTimestamp" not in each["metadata"]
        ]

    def agent_on(self, node: str) -> dict[str, Any]:
        """Return the agent's pod on a node."""
        [found] = [each for each in self.pods("node-agent") if each["spec"]["nodeName"] == node]
        return found

    def await_ready(self, *, patience_s: float = READY_S) -> float:
        """Wait until every pod is Ready, one agent on each node; return how long that took, in seconds."""
        return self.cluster.wait_until("vipkeeper's pods Ready", self.is_ready, patience_s=patience_s)

    def is_ready(self) -> bool:
        """Tell whether every pod is Ready, one agent on each node."""
        agents = self.pods("node-agent")
        nodes = {each["spec"].get("nodeName") for each in agents}
        everything = [*agents, *self.pods("controller")]
        return nodes == set(self.cluster.nodes) and all(is_ready(each) for each in everything)

    def _make_namespace(self) -> None:
        # The keeper is privileged in Pod Security's sense: it is on the host's network.
        labels = {f"pod-security.kubernetes.io/{mode}": "privileged" for mode in ("enforce", "audit", "warn")}
        metadata = {"name": NAMESPACE, "labels": labels}
        self.cluster.plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def _flags(self) -> list[str]:
        values = self.cluster.folder / "values.json"
        values.write_text(json.dumps(self.values))
        return [f"--namespace={NAMESPACE}", f"--values={values}", "--wait", f"--timeout={READY_S}s"]


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Tell whether a pod is Ready."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
