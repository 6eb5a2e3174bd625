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

`round` numbers an agent's requests and releases and only grows; together with the sender's
incarnation, which the datagram carries, it orders all that one agent ever said.
"""

from __future__ import annotations

import msgspec

Key = bytes


class Want(msgspec.Struct, frozen=True, array_like=True):
    """An address set that the sender holds (`is_held`: renew it), or wants to hold, under `term`."""

    key: Key
    term: int
    is_held: bool


class Request(msgspec.Struct, frozen=True, array_like=True, tag="request"):
    """Renew or acquire `wants`, and say for which address sets the sender stands by, fit to take over.

    `term_floor` is the highest that any witness has told the sender of.
    """

    round: int
    sent_at_ns: int
    term_floor: int
    wants: tuple[Want, ...]
    polls: tuple[Key, ...]


class Granted(msgspec.Struct, frozen=True, array_like=True):
    """A want that was granted; `standby` is the best candidate that now stands by, for hand-overs."""

    key: Key
    term: int
    standby: str | None


class Denied(msgspec.Struct, frozen=True, array_like=True):
    """A want that was not granted: `holder` has it, or (holder None) its term was not above `term`."""

    key: Key
    holder: str | None
    term: int


class Free(msgspec.Struct, frozen=True, array_like=True):
    """An address set that nobody holds as far as this witness knows.

    `rank` is the asker's place among the candidates that stand by, `term` the highest term the witness
    knows. `former` held it last; `lapsed_ns` ago it released it or (not `was_released`) its grant ran out.
    """

    key: Key
    rank: int
    term: int
    former: str | None
    lapsed_ns: int
    was_released: bool


class Ack(msgspec.Struct, frozen=True, array_like=True, tag="ack"):
    """A witness's answer to the Request of that incarnation and round, its `sent_at_ns` echoed.

    `term_floor` is what this witness, since its last restart, asks every new term to be above.
    """

    incarnation: int
    round: int
    sent_at_ns: int
    term_floor: int
    granted: tuple[Granted, ...]
    denied: tuple[Denied, ...]
    free: tuple[Free, ...]


class Release(msgspec.Struct, frozen=True, array_like=True, tag="release"):
    """The sender no longer uses the address set: its fence is closed. `successor` is to have it next."""

    round: int
    key: Key
    successor: str | None


class Released(msgspec.Struct, frozen=True, array_like=True, tag="released"):
    """A witness has seen that release."""

    incarnation: int
    round: int
    key: Key


class Offer(msgspec.Struct, frozen=True, array_like=True, tag="offer"):
    """A witness tells a standby what has just become free."""

    free: tuple[Free, ...]


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag="prepare"):
    """The owner asks whether the receiver could take the address set over right now."""

    incarnation: int
    key: Key


class Ready(msgspec.Struct, frozen=True, array_like=True, tag="ready"):
    """The answer to a Prepare of that incarnation: yes."""

    incarnation: int
    key: Key


class Handover(msgspec.Struct, frozen=True, array_like=True, tag="handover"):
    """The owner has closed its fence and released the address set for the receiver; `term` was its term."""

    key: Key
    term: int


ToWitness = Request | Release
ToCandidate = Ack | Released | Offer | Prepare | Ready | Handover
Message = ToWitness | ToCandidate
