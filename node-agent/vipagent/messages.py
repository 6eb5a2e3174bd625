"""What keepers say to each other: the messages of the lease protocol.

An address set is named by its *key*, 16 bytes made of its VirtualIP's UID *and its addresses*: a
VirtualIP whose addresses were changed is another address set, so that two keepers that work from
different plans never mean different addresses by the same key. Times inside messages are
CLOCK_BOOTTIME nanoseconds of the node that wrote them and are only ever echoed back to it: no node
compares its clock with another's.

    candidate                    witness                     owner              next owner
      │ Request(wants, polls) ───▶ │                           │ Prepare ─────────▶ │
      │ ◀── Ack(granted, denied,   │                           │ ◀────────── Ready  │
      │         free)              │                           │ (closes, unbinds)  │
      │ Release ─────────────────▶ │                           │ Handover ────────▶ │
      │ ◀──────────────── Released │
      │ ◀── Offer (it became free) │

Between any two keepers whose witness configurations differ: `GetConfig` and `Config`. From an owner to all
who may have run the services that follow its address set: `Inquire`, answered with `Vacant`. And from an
owner that is to be observed to the other candidates, each second: `Observe`, answered with `Observation`.

`round` numbers an agent's requests and releases and only grows; together with the sender's
incarnation, which the datagram carries, it orders all that one agent ever said.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from vipapi.configuration import Configuration
from vipapi.nodeplan import MOST_TERM

Key = bytes

Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_TERM)]
"""A number that grows, or a time.

What is beyond is nonsense, and one keeper's nonsense must not become what all others count on from: no
datagram could carry it any more, nor the API's status.
"""


class Sender(NamedTuple):
    """Who says something: a node, on a machine (of two that go by one name), in its nth incarnation."""

    node: str
    machine: bytes
    incarnation: int


class Want(msgspec.Struct, frozen=True, array_like=True):
    """An address set that the sender holds (`is_held`: renew it), or wants to hold, under `term`."""

    key: Key
    term: Count
    is_held: bool


class Request(msgspec.Struct, frozen=True, array_like=True, tag="request"):
    """Renew or acquire `wants`, and say for which address sets the sender stands by, fit to take over.

    `term_floor` is the highest that any witness has told the sender of; `is_sound` is whether the sender
    reaches its gateway.
    """

    round: Count
    sent_at_ns: Count
    term_floor: Count
    is_sound: bool
    wants: tuple[Want, ...]
    polls: tuple[Key, ...]


class Granted(msgspec.Struct, frozen=True, array_like=True):
    """A want that was granted; `standby` is the best candidate that now stands by, for hand-overs."""

    key: Key
    term: Count
    standby: str | None
    is_standby_sound: bool


class Denied(msgspec.Struct, frozen=True, array_like=True):
    """A want that was not granted: `holder` has it, or (holder None) its term was not above `term`.

    `holder_term` is the term under which the holder has it, 0 if it is kept for somebody without one.
    """

    key: Key
    holder: str | None
    term: Count
    holder_term: Count


class Free(msgspec.Struct, frozen=True, array_like=True):
    """An address set that nobody holds as far as this witness knows.

    `rank` is the asker's place among the candidates that stand by, `term` the highest term the witness
    knows. `former` held it last; `lapsed_ns` ago it released it or (not `was_released`) its grant ran out.
    """

    key: Key
    rank: Count
    term: Count
    former: str | None
    lapsed_ns: Count
    was_released: bool


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    """A witness's answer to the Request of that incarnation and round, its `sent_at_ns` echoed.

    `term_floor` is what this witness asks every new term to be above, whatever the address set.
    """

    incarnation: Count
    round: Count
    sent_at_ns: Count
    term_floor: Count
    granted: tuple[Granted, ...]
    denied: tuple[Denied, ...]
    free: tuple[Free, ...]


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """The sender no longer uses these address sets: their fence is closed. `successor` is to have them.

    A keeper that does not know `others` frees the first alone; the grants of the others run out.
    """

    round: Count
    key: Key
    successor: str | None
    others: tuple[Key, ...] = ()

    @property
    def keys(self) -> tuple[Key, ...]:
        """All that is released."""
        return (self.key, *self.others)


class Released(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """A witness has seen the release of these address sets in that round."""

    incarnation: Count
    round: Count
    key: Key
    others: tuple[Key, ...] = ()

    @property
    def keys(self) -> tuple[Key, ...]:
        """All whose release was seen."""
        return (self.key, *self.others)


class Offer(msgspec.Struct, frozen=True, array_like=True, tag="offer"):
    """A witness tells a standby what has just become free."""

    free: tuple[Free, ...]


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag="prepare"):
    """The owner asks whether the receiver could take the address set over right now."""

    incarnation: Count
    key: Key
    is_sound: bool


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The answer to a Prepare of that incarnation: yes."""

    incarnation: Count
    key: Key


class Handover(msgspec.Struct, frozen=True, array_like=True, tag="handover"):
    """The owner has closed its fence and released the address set for the receiver; `term` was its term."""

    key: Key
    term: Count


class GetConfig(msgspec.Struct, frozen=True, array_like=True, tag="getConfig"):
    """The sender has heard of a newer witness configuration and asks for it."""


class Config(msgspec.Struct, frozen=True, array_like=True, tag="config"):
    """The witness configuration that the sender works with."""

    configuration: Configuration


class Inquire(msgspec.Struct, frozen=True, array_like=True, tag="inquire"):
    """The owner in this term asks which of these services, told by their ids, run with the receiver.

    `programs` are, in the same order, digests of what each of them runs, for the receiver may run it by
    another name. A keeper that does not know the field goes by the ids.
    """

    incarnation: Count
    term: Count
    services: tuple[str, ...]
    programs: tuple[str, ...] = ()


class Vacant(msgspec.Struct, frozen=True, array_like=True, tag="vacant"):
    """The answer to an Inquire of that incarnation and term.

    `vacant` do not run here; `running` do or might, and are ended with their lease; `stuck` will not stop.
    `fencing` are those of the stuck for which the sender is about to be restarted, with the milliseconds by
    its own clock within which it is; a keeper that does not know the field waits for the sender's word.
    `programs` are those of the Inquire, by service: what a service runs may have changed since it was asked.
    """

    incarnation: Count
    term: Count
    vacant: tuple[str, ...]
    running: tuple[str, ...]
    stuck: tuple[str, ...]
    fencing: tuple[tuple[str, Count], ...] = ()
    programs: tuple[tuple[str, str], ...] = ()


class Observe(msgspec.Struct, frozen=True, array_like=True, tag="observe"):
    """The sender is the owner in this term and is to be observed through the address.

    `is_announced`: it answers there by now. `is_active`: so do all services that follow.
    """

    incarnation: Count
    key: Key
    term: Count
    is_announced: bool
    is_active: bool


class Observation(msgspec.Struct, frozen=True, array_like=True, tag="observation"):
    """What the sender sees of the owner of that incarnation and term: checks by their digests."""

    incarnation: Count
    key: Key
    term: Count
    failing: tuple[bytes, ...]
    passing: tuple[bytes, ...]


ToWitness = Request | Release
ToCandidate = Ack | Released | Offer | Prepare | Ready | Handover
OfConfiguration = GetConfig | Config
OfServices = Inquire | Vacant
OfPeers = Observe | Observation
Message = ToWitness | ToCandidate | OfConfiguration | OfServices | OfPeers
