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
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from vipapi import conditions
from vipapi.resources import VirtualIPStatus
from vipcontroller.writes import FinalizerWrite, SecretWrite

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vipapi.resources import VirtualIP
    from vipcontroller.writes import StatusWrite, Write


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
    if _elected(was) is not None and _elected(was) == _elected(now):
        return Urgency.SHOWN  # keepers have the first order; it is only refined, or told to be carried out
    return Urgency.ORDERED if conditions.is_true(was.conditions, "Accepted") else Urgency.ACCEPTED


def _elected(status: VirtualIPStatus) -> str | None:
    return None if status.election is None else status.election.owner


def _for_keepers(status: VirtualIPStatus) -> object:
    """Return what keepers act upon."""
    accepted = conditions.find(status.conditions, "Accepted")
    planned = None if accepted is None or accepted.status != "True" else accepted.observed_generation
    return planned, status.election, status.addresses, status.retired_addresses
