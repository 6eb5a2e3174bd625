"""Which of many writes come first: those that keepers wait for, and all of one stage before any of the next.

A look may find more to write than the API server takes before the next look decides anew. Where many
VirtualIPs are new they go through their stages side by side:

    RULED ──▶ KEPT ──▶ ACCEPTED ──▶ ORDERED ──▶ SHOWN
    domains,  the       keepers      who is to    what only
    moves     finalizer plan it      take it      people read

For keepers report a node as a whole. If each VirtualIP went all its way before the next one started, every
node would be written, and read, about once for each few of them, and the bigger the later. And what only
people read changes with each of those reports: whoever writes it last writes it once.

An address that somebody has had is no part of that: whatever keepers act upon is `RULED`.

Nothing waits for ever (`in_turn`). A write that was not reached for `LONGEST_WAIT_S` comes before all that
are more urgent. One that has failed comes after all others until it succeeds: a few that the API server
never answers would else take all the time that there is.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NewType

from vipapi import conditions
from vipapi.resources import VirtualIPStatus
from vipcontroller.writes import FinalizerWrite, SecretWrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vipapi.resources import VirtualIP
    from vipcontroller.writes import StatusWrite, Write


LONGEST_WAIT_S: Final = 30.0
FAILED: Final = float("inf")
"""Since when a write waits that failed the last time."""

Key = NewType("Key", tuple[str, str])
"""Of what is written: its kind and UID, of a Secret its name."""


class Urgency(IntEnum):
    """The stages, the most urgent first."""

    RULED = 0
    KEPT = 1
    ACCEPTED = 2
    ORDERED = 3
    SHOWN = 4


def in_order(writes: Iterable[Write], virtual_ips: Iterable[VirtualIP]) -> tuple[Write, ...]:
    """Return the writes by their urgency, those of the same as they stood; `virtual_ips` is as decided on."""
    before = {virtual_ip.metadata.uid: virtual_ip.status for virtual_ip in virtual_ips}
    return tuple(sorted(writes, key=lambda write: urgency(write, before)))


def key(write: Write) -> Key:
    """Return what a write is to; a look has at most one write with the same key."""
    return Key(("Secret", write.name) if isinstance(write, SecretWrite) else (write.kind, write.metadata.uid))


def in_turn(writes: Iterable[Write], since: Mapping[Key, float], now: float) -> tuple[Write, ...]:
    """Return the writes that stand by urgency as they are to be tried, `since` is from when each waits."""

    def turn(write: Write) -> int:
        waits_since = since[key(write)]
        if waits_since == FAILED:
            return 2
        return 0 if now - waits_since >= LONGEST_WAIT_S else 1

    return tuple(sorted(writes, key=turn))


def urgency(write: Write, before: Mapping[str, VirtualIPStatus]) -> Urgency:
    """Return how urgent a write is; `before` are the statuses of the VirtualIPs, by UID."""
    if isinstance(write, SecretWrite) or write.kind != "VirtualIP":
        return Urgency.RULED
    if isinstance(write, FinalizerWrite):
        return Urgency.KEPT
    return _of_status(before[write.metadata.uid], write)


def _of_status(was: VirtualIPStatus, write: StatusWrite) -> Urgency:
    now = write.status
    assert isinstance(now, VirtualIPStatus)
    if _for_keepers(was) == _for_keepers(now):
        return Urgency.SHOWN
    if was.term is not None:
        return Urgency.RULED
    if _planned(was) != _planned(now):
        return Urgency.ACCEPTED
    if _elected(was) is not None and _elected(was) == _elected(now):
        return Urgency.SHOWN  # keepers have the first order; it is only refined, or told to be carried out
    return Urgency.ORDERED


def _elected(status: VirtualIPStatus) -> str | None:
    return None if status.election is None else status.election.owner


def _for_keepers(status: VirtualIPStatus) -> object:
    """Return what keepers act upon."""
    return _planned(status), status.election, status.addresses, status.retired_addresses


def _planned(status: VirtualIPStatus) -> int | None:
    """Return the generation that keepers plan, if they do."""
    accepted = conditions.find(status.conditions, "Accepted")
    return None if accepted is None or accepted.status != "True" else accepted.observed_generation
