"""`lab.stage` with keepers that are containers: what starts them again is their kubelet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lab.agents import Agents
from lab.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from e2e.cluster import Cluster
    from lab.topology import Host

EXAMPLES = ("failoverdomain-default", "virtualip-minimal", "virtualip-http-check")
KEEPER = "vipkeeper-keeper"


class Pods(Agents):
    """vipkeeper's processes, of which the lab has started none."""

    def restart(self, node: Host) -> None:
        """Nothing: the kubelet does."""


class PodStage(Stage):
    """A cluster with vipkeeper in it, its services and its measurement.

    `first_answer_s` is how long the first address took from when it was asked for until it answered.
    """

    lab: Cluster
    first_answer_s: float = float("inf")

    def start(
        self,
        *,
        controllers: int = 0,
        witness_only: Collection[str] = (),
        notifications: Path | None = None,
    ) -> None:
        """Start a web server on every node. vipkeeper is there already, from its chart."""
        assert not controllers, "the chart says how many"
        self.agents = Pods(
            lab=self.lab,
            keepers={},
            couriers={},
            controllers=[],
            witness_only=frozenset(witness_only),
            notifications=notifications,
        )
        for node in self.lab.nodes.values():
            self.web[node.name] = self.lab.start_webserver(node)
