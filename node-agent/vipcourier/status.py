"""Decides what a VIPNode's status says: the keeper's report, and whether there is a keeper at all.

The condition `Ready` sums up:

| the courier sees | Ready | reason |
|---|---|---|
| a keeper that reports no problem | True | AgentReady |
| a keeper that reports problems | False | AgentProblem |
| no keeper, for more than `PATIENCE_S` | False | KeeperDisconnected |

Without a keeper the rest of the status stays as the last report had it. What the node holds is not
known then, and "not known" must not read as "nothing": addresses of a keeper that the courier cannot
reach may well be held, and the witnesses, not this status, tell when they are not. A keeper that only
restarts is away for less than the patience, and nothing is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vipapi import conditions
from vipapi.conditions import Condition, Reason
from vipapi.resources import VIPNodeStatus, node_status

if TYPE_CHECKING:
    from datetime import datetime

    from vipapi.conditions import Status
    from vipapi.nodestatus import Report

PATIENCE_S = 3.0


def of_report(report: Report, *, before: VIPNodeStatus, generation: int, now: datetime) -> VIPNodeStatus:
    """Return the status while a keeper is connected; equal to `before` where nothing changed."""
    if report.problems:
        message = "; ".join(f"{problem.reason}: {problem.message}" for problem in report.problems)
        ready = _ready("False", Reason.AGENT_PROBLEM, message, generation, now)
    else:
        message = "the keeper runs and reports no problem"
        ready = _ready("True", Reason.AGENT_READY, message, generation, now)
    merged = conditions.merge(before.conditions, (ready,))
    return node_status(report, generation=generation, conditions=merged)


def of_silence(why: str, *, before: VIPNodeStatus, generation: int, now: datetime) -> VIPNodeStatus:
    """Return the status while no keeper is connected; `why` says what to look at."""
    ready = _ready("False", Reason.KEEPER_DISCONNECTED, why, generation, now)
    merged = conditions.merge(before.conditions, (ready,))
    return msgspec.structs.replace(before, observed_generation=generation, conditions=merged)


def _ready(status: Status, reason: Reason, message: str, generation: int, now: datetime) -> Condition:
    return Condition("Ready", status, str(reason), message, now, generation)
