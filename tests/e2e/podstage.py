"""`lab.stage` with keepers that are containers: what starts them again is their kubelet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import analysis
from lab.agents import Agents
from lab.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from e2e.cluster import Cluster
    from lab.topology import Host

EXAMPLES = ("failoverdomain-default", "virtualip-minimal", "virtualip-http-check")
KEEPER = "vipkeeper-keeper"
NEARBY_NS = 2_000 * analysis.MILLISECOND  # what a keeper says belongs to the move that is as near as that


class Pods(Agents):
    """vipkeeper's processes, of which the lab has started none."""

    def restart(self, node: Host) -> None:
        """Nothing: the kubelet does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """How an address went from one node to another: what that cost a client, and whether it was told to.

    `hiccup_ms` is how long the control address, which never moves, was silent then.
    """

    virtual_ip: str
    before: str
    after: str
    outage_ms: float
    hiccup_ms: float
    was_handed_over: bool


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

    def moves(self, virtual_ip: str, *, since_ns: int, until_ns: int) -> list[Move]:
        """Return every move of an address in a stretch of time."""
        gaps = analysis.silences(
            self.measured.probes(virtual_ip, since_ns=since_ns), since_ns=since_ns, until_ns=until_ns
        )
        words = [word for word in self._words(virtual_ip, since_ns=since_ns) if word.kind == "handover"]
        moves = []
        for gap in gaps:
            if gap.before is None or gap.after is None or gap.end_ns is None or gap.before == gap.after:
                continue
            moves.append(
                Move(
                    virtual_ip=virtual_ip,
                    before=gap.before,
                    after=gap.after,
                    outage_ms=gap.length_ms,
                    hiccup_ms=self.measured.hiccup_ms(since_ns=gap.start_ns, until_ns=gap.end_ns),
                    was_handed_over=any(
                        word.node == gap.before and abs(word.at_ns - gap.end_ns) < NEARBY_NS for word in words
                    ),
                )
            )
        return moves

    def bindings(self, virtual_ip: str, *, since_ns: int) -> list[str]:
        """Return the nodes whose kernels were given an address since then, in that order."""
        events = self._address_events(virtual_ip, since_ns=since_ns)
        return [
            event.node for event in sorted(events, key=lambda event: event.at_ns) if event.event == "added"
        ]
