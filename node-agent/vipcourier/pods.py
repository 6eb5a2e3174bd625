"""Decides what to tell the keeper of Pods: which its health checks ask for, and what a listing of them means.

The keeper asks no API server, so for each `pods` check of a VirtualIP that this node may own the courier
lists the Pods that it means on this node, and hands the result on as a fact of the plan. A Pod counts while
it is ready and nobody is deleting it, as it counts for a Service.

A listing that failed says nothing: what was known stays. Only a selector that the API server cannot read is
itself the answer. Facts are made anew by whatever courier runs; one that has just started knows none, and the
keeper then goes by what it knew last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vipapi.nodeplan import PodsFact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipapi.healthchecks import Pods
    from vipapi.nodeplan import Plan

Document = dict[str, Any]


def asked(plan: Plan) -> tuple[Pods, ...]:
    """Return what the checks that this node's keeper runs ask for, each once, in a fixed order."""
    found: set[Pods] = set()
    for domain in plan.domains:
        for virtual_ip in domain.virtual_ips:
            checks = (*virtual_ip.health_checks, *virtual_ip.service_checks)
            probes = {check.pods for check in checks if check.pods is not None}
            # Hardly any has one, and a VirtualIP may have a thousand candidates.
            if probes and any(candidate.node == plan.node for candidate in virtual_ip.candidates):
                found |= probes
    return tuple(sorted(found, key=msgspec.json.Encoder(order="sorted").encode))


def label_selector(probe: Pods) -> str:
    """Return the selector as a request has it."""
    return ",".join(f"{name}={value}" for name, value in sorted(probe.selector.match_labels.items()))


def found(probe: Pods, documents: Iterable[Document]) -> PodsFact:
    """Return what a listing of the Pods on this node means."""
    pods = list(documents)
    ready = sum(_is_ready(pod) for pod in pods)
    wanted = probe.at_least or 1
    if ready >= wanted:
        return PodsFact(probe, is_ok=True)
    return PodsFact(
        probe,
        is_ok=False,
        message=(
            f"of {len(pods)} Pods with {label_selector(probe)} of the namespace {probe.namespace} on this "
            f"node {ready} are ready, and {wanted} must be"
        ),
    )


def refused(probe: Pods, message: str) -> PodsFact:
    """Return what it means that the API server cannot read the selector."""
    return PodsFact(probe, is_ok=False, message=f"the Pods cannot be listed: {message}")


class Facts:
    """The newest fact of everything that is asked for, and whose turn it is to be looked at."""

    def __init__(self) -> None:
        self._facts: dict[Pods, PodsFact | None] = {}
        self._queue: list[Pods] = []

    def ask(self, asked: tuple[Pods, ...]) -> None:
        """Set what is asked for; what is not any more is forgotten."""
        before, self._facts = self._facts, {probe: self._facts.get(probe) for probe in asked}
        self._queue = [
            *(probe for probe in asked if probe not in before),
            *(probe for probe in self._queue if probe in self._facts),
        ]

    @property
    def is_asked(self) -> bool:
        """Whether anything is asked for."""
        return bool(self._facts)

    @property
    def known(self) -> tuple[PodsFact, ...]:
        """What is known of what is asked for, in the order in which it was asked."""
        return tuple(fact for fact in self._facts.values() if fact is not None)

    def due(self, most: int) -> tuple[Pods, ...]:
        """Return what to look at now, what is newly asked for first; the others' turn comes later."""
        now = tuple(self._queue[:most])
        self._queue = [*self._queue[most:], *now]
        return now

    def learn(self, fact: PodsFact) -> bool:
        """Take a fact; return whether it says anything new of what is asked for."""
        if fact.pods not in self._facts or self._facts[fact.pods] == fact:
            return False
        self._facts[fact.pods] = fact
        return True


def _is_ready(pod: Document) -> bool:
    if pod.get("metadata", {}).get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)
