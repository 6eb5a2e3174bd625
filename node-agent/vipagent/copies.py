"""This node's copy of one service: there is one at most.

                    Start                    Started
        STOPPED ──────────────▶ STARTING ──────────────▶ ACTIVE
           ▲                       │ StartFailed, silence,   │ Died, another workload,
           │                       │ the stack stops         │ the stack stops
           │        Stopped        ▼           Stop          ▼
           └───────────────── STOPPING ◀─────────────────────┘
           │                       │ ▲
           │        Stopped        ▼ │ StopFailed; Stop is said again
           └─────────────── STOP FAILED ◀── what an earlier keeper left behind

What makes it go from one to the next is the stack's decision (`workload`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from vipagent.effects import MILLISECOND
from vipagent.suspects import Suspect, ended_within_ms

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.runs import Start
    from vipapi.nodeplan import ServicePlan
    from vipapi.nodestatus import State

_SILENCE_NS: Final = 5_000 * MILLISECOND
_LEFTOVER_STOP_MS: Final = 30_000


@dataclass(slots=True)
class Copy:
    """This node's copy of one service, and who else may have one.

    `service` is what was started, to be ended as is planned since. `due_ns` is when Stop must be said
    (again), or a start has been silent for too long. What is shown is as of the last step.
    """

    shown_since_ns: int
    service: ServicePlan | None = None
    state: Literal["Stopped", "Starting", "Active", "Stopping", "StopFailed"] = "Stopped"
    run: int = 0
    term: int = 0
    due_ns: int = 0
    message: str = ""
    suspects: dict[str, Suspect] = field(default_factory=dict)
    shown: State = "Stopped"
    shown_message: str = ""

    @property
    def is_up(self) -> bool:
        """Whether it works, or is to soon."""
        return self.state in ("Starting", "Active")

    @property
    def is_down(self) -> bool:
        """Whether nothing of it is left."""
        return self.state == "Stopped"

    @property
    def patience_ns(self) -> int:
        """How long a Stop may go without an answer."""
        stop_ms = self.service.stop_timeout_ms if self.service else _LEFTOVER_STOP_MS
        return stop_ms * MILLISECOND + _SILENCE_NS

    @property
    def uncleared(self) -> dict[str, Suspect]:
        """Who may have one still."""
        return {node: suspect for node, suspect in sorted(self.suspects.items()) if not suspect.is_cleared}

    def suspect(self, node: str, within_ms: int, since_ns: int) -> Suspect:
        """Count the node among those that may run a copy; whoever does so already is given no less time."""
        suspect = self.suspects.setdefault(node, Suspect(within_ms, since_ns))
        suspect.within_ms = max(within_ms, suspect.within_ms)
        return suspect

    def doubt(self, since_ns: int) -> None:
        """Forget who said that it runs none: time counts from here. Who could not stop it has to say more."""
        for suspect in self.suspects.values():
            suspect.renew(since_ns)

    def begin(self, start: Start, others: Iterable[str], now_ns: int) -> None:
        """It is being started; of the others none has a copy if there may be one only."""
        service = start.service
        self.run, self.term = start.run, start.term
        self.state, self.service, self.message = "Starting", service, ""
        self.due_ns = now_ns + service.start_timeout_ms * MILLISECOND + _SILENCE_NS
        self.suspects = {
            node: Suspect(ended_within_ms(service), now_ns, is_cleared=service.is_singleton)
            for node in others
        }

    def amend(self, planned: ServicePlan, now_ns: int) -> None:
        """End it as is planned now; what could not be ended, and fences now, is tried again at once."""
        if self.service is None:
            return
        did_fence, self.service = self.service.fences, amended(self.service, planned)
        if self.service.fences and not did_fence and self.state == "StopFailed":
            self.due_ns = now_ns

    def end(self, message: str, now_ns: int) -> None:
        """Have it stopped with the next step."""
        self.state, self.message, self.due_ns = "Stopping", message, now_ns

    def show(self, state: State, message: str, now_ns: int) -> None:
        """Have it seen so."""
        self.shown_message = message
        if state != self.shown:
            self.shown, self.shown_since_ns = state, now_ns


def amended(started: ServicePlan, planned: ServicePlan) -> ServicePlan:
    """Return what was started, to be ended as is planned now: whoever starts late knows of nothing else.

    A longer time holds from the next start on, for others may count on the shorter one still. Another program
    changes nothing of how this one is ended.
    """
    if started.workload.identity != planned.workload.identity:
        return started
    within_ms = min(planned.stop_timeout_ms, started.stop_timeout_ms)
    return msgspec.structs.replace(started, stop_timeout_ms=within_ms, fences=planned.fences)
