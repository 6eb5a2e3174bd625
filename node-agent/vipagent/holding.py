"""What a lease keeps about one address set: this node's phase, its term and deadline, and who said what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND, Phase
from vipapi.nodeplan import MOST_TERM

if TYPE_CHECKING:
    from vipagent.effects import Order, Origin
    from vipagent.messages import Free


_CONTEST_NS: Final = 2000 * MILLISECOND
_CHANCE: Final = 2


@dataclass(slots=True)
class Handing:
    """A hand-over under way: whom we asked, since when, how often; `must_leave` if we cannot stay.

    `is_ready` is that the target said so, and that what runs here is being stopped for it.
    """

    target: str
    must_leave: bool
    is_ready: bool = False
    asks: int = 0
    next_ask_ns: int = 0


@dataclass(slots=True)
class Holding:
    """This node's side of one address set.

    `acks_ns` is, by witness, when the newest request that it granted was sent; `free` when it last called
    the address set free. `is_alone` is a lease that rests on this node's own vote only. `is_occupied` is that
    services run here that must have stopped before another node may have the address set. `losses` counts how
    often in a row it was given up without a successor, the last time at `lost_ns`.
    """

    order: Order
    phase: Phase = Phase.STANDBY
    is_fit: bool = False
    is_occupied: bool = False
    term: int = 0
    deadline_ns: int = 0
    is_alone: bool = False
    min_round: int = 0
    acks_ns: dict[str, int] = field(default_factory=dict)
    free: dict[str, tuple[int, Free]] = field(default_factory=dict)
    denied_by: set[str] = field(default_factory=set)
    origin: Origin | None = None
    known_term: int = 0
    try_at_ns: int | None = None
    not_before_ns: int = 0
    attempts: int = 0
    retry_at_ns: int = 0
    standby: str | None = None
    is_standby_sound: bool = False
    handing: Handing | None = None
    successor: str | None = None
    losses: int = 0
    lost_ns: int = 0

    def lose(self, now_ns: int) -> None:
        """Take note that it was given up without a successor: an attempt failed, or a lease ended."""
        self.losses = self.losses + 1 if now_ns - self.lost_ns <= _CONTEST_NS else 1
        self.lost_ns = now_ns

    def excess(self, now_ns: int) -> int:
        """Return how much more often in a row it was lost than by chance; 0 some time after the last."""
        return max(0, self.losses - _CHANCE) if now_ns - self.lost_ns <= _CONTEST_NS else 0

    def learn(self, term: int) -> None:
        """Take note of a term that was granted; above the highest that there is nothing could be proposed."""
        if term < MOST_TERM:
            self.known_term = max(self.known_term, term)
