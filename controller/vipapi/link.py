"""The lines between keeper and courier: one JSON object each, told apart by `type`.

    courier ──▶ keeper   the plan; the API server's votes that were won
    keeper  ──▶ courier  the report; the API server's votes that are wanted

Each line says everything of its kind, so a line that is lost or doubled changes nothing. Times are
CLOCK_BOOTTIME nanoseconds, which all processes of a machine share.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from vipapi import documents, nodeplan
from vipapi.nodeplan import Plan
from vipapi.nodestatus import Report

Count = Annotated[int, msgspec.Meta(ge=0, le=nodeplan.MOST_TERM)]


class VoteWanted(msgspec.Struct, frozen=True, rename="camel"):
    """A domain whose API server's vote is to be won, or kept, for `holder` (a node on a machine).

    `incarnation` is that of the keeper that asks: one that was restarted remembers no terms, so it is told
    only of a vote that was renewed for itself. The vote is asked for under the witness configuration
    `epoch`, and no term above `term_ceiling` will be asked for under it. While it is not `is_needed` it is
    only to be known well enough to be won at once. `is_given_back` says that no lease rests any more on a
    vote that was won for this keeper, or for one before it, with a lower `since_ns`: nobody needs to wait for
    its end.
    """

    domain_uid: str
    domain_name: str
    holder: str
    incarnation: int
    term_ceiling: Count
    epoch: int
    is_needed: bool
    since_ns: int = 0
    is_given_back: bool = False


class VotesWanted(msgspec.Struct, frozen=True, rename="camel", tag="votesWanted"):
    """All votes that are wanted now; what is not listed is not to be renewed."""

    wanted: tuple[VoteWanted, ...] = ()


class Vote(msgspec.Struct, frozen=True, rename="camel"):
    """A vote that was won or renewed: good until `until_ns`.

    It grants terms above `term_floor` up to `term_ceiling`, and after it nobody gets it who is two epochs
    behind `epoch`. `transitions` grows whenever the vote goes to another holder. It was wanted with this
    `since_ns`: who has given it back and wants it again is not meant.
    """

    domain_uid: str
    until_ns: int
    term_floor: Count
    term_ceiling: Count
    transitions: Count
    epoch: Count
    since_ns: int = 0


class Answer(msgspec.Struct, frozen=True, rename="camel"):
    """The API server answered at `at_ns` when it was asked for a needed vote, whatever it said."""

    domain_uid: str
    at_ns: int


class Votes(msgspec.Struct, frozen=True, rename="camel", tag="votes"):
    """All votes that are held now, and when the API server was heard about those that are needed."""

    votes: tuple[Vote, ...] = ()
    answers: tuple[Answer, ...] = ()


ToKeeper = Plan | Votes
ToCourier = Report | VotesWanted

_encoder = msgspec.json.Encoder()
_for_keeper: msgspec.json.Decoder[ToKeeper] = msgspec.json.Decoder(ToKeeper)
_for_courier: msgspec.json.Decoder[ToCourier] = msgspec.json.Decoder(ToCourier)


def encode(line: ToKeeper | ToCourier) -> bytes:
    """Return the line without its newline."""
    return _encoder.encode(line)


def decode_for_keeper(line: bytes) -> ToKeeper:
    """Read what a courier says; raises `ValueError` with the place and the reason."""
    said = documents.read(_for_keeper, line)
    if isinstance(said, Plan):
        nodeplan.check(said)
    return said


def decode_for_courier(line: bytes) -> ToCourier:
    """Read what a keeper says; raises `ValueError` with the place and the reason."""
    return documents.read(_for_courier, line)
