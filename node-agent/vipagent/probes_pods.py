"""Looks up what the courier found of Pods: pure, for the keeper itself asks no API server.

The facts come with the plan and stay on disk with it, so that a check holds while the API server is away. Of
Pods that the courier has said nothing of (a check that has just been written, a courier that has just
started) nothing is known, which is neither passing nor failing: an owner goes on with what was known last,
and a candidate of which nothing was ever known is not fit yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vipagent.health import Result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipapi.healthchecks import Pods
    from vipapi.nodeplan import PodsFact


def look_up(probe: Pods, facts: Iterable[PodsFact]) -> Result:
    """Return what is known of the Pods."""
    for fact in facts:
        if fact.pods == probe:
            return Result(is_ok=fact.is_ok, message="" if fact.is_ok else fact.message or "not ready")
    message = f"pods {title(probe)}: the courier of this node has not told of them yet"
    return Result(is_ok=False, is_known=False, message=message)


def title(probe: Pods) -> str:
    """Say which Pods are meant, as `kubectl get pods -l` has it."""
    labels = ",".join(f"{name}={value}" for name, value in sorted(probe.selector.match_labels.items()))
    return f"{labels} in {probe.namespace}" if probe.namespace else labels
