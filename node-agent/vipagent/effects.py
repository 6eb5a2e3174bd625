"""What a lease is told and what it decides, as data: timing and orders go in, effects come out.

An effect is something for the shell to do. The shell carries them out in the order in which they come
out of the lease, and decides nothing about them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vipagent.messages import Inquire, Key, Message, OfPeers, Vacant
    from vipapi.configuration import Configuration

MILLISECOND: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """A domain's timing in nanoseconds: heartbeat, owner's lease T, witness's grant Tw, restart silence."""

    heartbeat_ns: int
    lease_ns: int
    grant_ns: int
    silence_ns: int


@dataclass(frozen=True, slots=True)
class Order:
    """The operator's standing order for an address set; obeyed only while the lease is at `based_on_term`.

    `is_held_alone` allows a candidate that hears no other witness to go on with its own vote.
    """

    owner: str | None
    based_on_term: int
    is_held_alone: bool = False


@dataclass(frozen=True, slots=True)
class Origin:
    """Why and from whom an address set came: `since_ns` is the last sign of the former owner."""

    reason: str
    former: str | None
    since_ns: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a keeper (which may be this one: its own witness), or to the API server's vote."""

    to: str
    message: Message


@dataclass(frozen=True, slots=True)
class Open:
    """The lease was won: open the fence until the deadline, bind, announce."""

    key: Key
    deadline_ns: int
    term: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class Extend:
    """The lease was renewed: move the fence's deadline."""

    key: Key
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class Close:
    """The lease is over: close the fence, unbind, stop what follows the address set, then say `closed`."""

    key: Key


@dataclass(frozen=True, slots=True)
class Adopt:
    """A peer told of a newer witness configuration: keep it on disk, then take it over."""

    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Inquired:
    """A node asks, as the owner of an address set, which of its services run here: answer it."""

    node: str
    inquiry: Inquire


@dataclass(frozen=True, slots=True)
class Told:
    """A node has said which services run with it."""

    node: str
    answer: Vacant


@dataclass(frozen=True, slots=True)
class Observed:
    """A node wants to be observed as an owner, or says what it sees of this one."""

    node: str
    said: OfPeers


Effect = Send | Open | Extend | Close | Adopt | Inquired | Told | Observed


class Phase(Enum):
    """Where an address set stands on this node."""

    STANDBY = "Standby"
    ACQUIRING = "Acquiring"
    OWNER = "Owner"
    CLOSING = "Closing"
