"""One run of a service on this node: what begins and ends it, what became of it, and which run is which.

A `Stack` (`workload`) says `Start` and `Stop`, the runner does both and answers with an `Outcome`, and what
went wrong is a `Fault`, for the hooks and the counts. A run has a number, so that a late word about one says
nothing about the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vipapi.nodeplan import ServicePlan


@dataclass(frozen=True, slots=True)
class Start:
    """Start the service; `run` names this start: no other on this node since it booted has the same."""

    service: ServicePlan
    term: int
    run: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop that run of the service and say what became of it; 0 is what an earlier keeper left behind."""

    service_id: str
    run: int


Deed = Start | Stop


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run of a service.

    `Stopped` is the last word: nothing of that run is left and nothing of it will be started. The other kinds
    do not say that nothing is left.
    """

    service_id: str
    run: int
    kind: Literal["Started", "StartFailed", "Stopped", "StopFailed", "Died"]
    message: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """A service of that term did not start, died, failed its checks, or (`is_stop`) could not be stopped."""

    service: ServicePlan
    term: int
    message: str
    is_stop: bool = False


class Runs:
    """The numbers of all starts on a node: no two are the same, nor the same as before the keeper started."""

    def __init__(self) -> None:
        self._last = 0

    def next(self, now_ns: int) -> int:
        """Return a number that nobody had; the clock makes it differ from those of keepers before."""
        self._last = max(self._last + 1, now_ns)
        return self._last
