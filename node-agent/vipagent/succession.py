"""Who follows whom: turns one domain's plan into standing orders and rosters.

The witness ranks candidates by the published election (its owner, then its succession), then by
priority and name for those that the election did not list. The order to move away holds only at the
term that it was based on; as a preference among standbys it outlives it.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from vipagent.effects import MILLISECOND, LeaseTiming, Order
from vipagent.witness import Roster

if TYPE_CHECKING:
    from vipagent.messages import Key
    from vipapi.nodeplan import CandidatePlan, DomainPlan, Timing, VirtualIPPlan


def key_of(vip: VirtualIPPlan) -> Key:
    """The 16 bytes that name a VirtualIP's address set in messages.

    The addresses are part of the name: a VirtualIP whose addresses change has another address set, which
    is granted only when the old one is over. The prefix lengths, which say where they belong, are not.
    """
    return hashlib.blake2b("\n".join([vip.uid, *sorted(_addresses(vip))]).encode(), digest_size=16).digest()


def lease_timing(timing: Timing) -> LeaseTiming:
    """The plan's milliseconds in nanoseconds."""
    return LeaseTiming(
        heartbeat_ns=timing.heartbeat_ms * MILLISECOND,
        lease_ns=timing.lease_ms * MILLISECOND,
        grant_ns=timing.grant_ms * MILLISECOND,
        silence_ns=timing.silence_ms * MILLISECOND,
    )


def orders(domain: DomainPlan, node: str) -> dict[Key, Order]:
    """The address sets for which `node` is a candidate, with the operator's standing orders."""
    return {
        key_of(vip): Order(vip.owner, vip.based_on_term, is_held_alone=vip.is_held_alone)
        for vip in domain.virtual_ips
        if any(candidate.node == node for candidate in vip.candidates)
    }


def rosters(domain: DomainPlan) -> dict[Key, Roster]:
    """Every address set of the domain with its candidates in order."""
    return {
        key_of(vip): Roster(
            addresses=_addresses(vip),
            order=_order(vip.candidates, vip.owner, vip.succession),
            elected=vip.owner,
            observed_term=vip.observed_term,
        )
        for vip in domain.virtual_ips
    }


def _addresses(vip: VirtualIPPlan) -> frozenset[str]:
    return frozenset(address.partition("/")[0] for address in vip.addresses)


@lru_cache(maxsize=256)
def _order(
    candidates: tuple[CandidatePlan, ...], owner: str | None, succession: tuple[str, ...]
) -> tuple[str, ...]:
    """Many VirtualIPs of a plan have the same candidates: sorting a hundred takes 0.1 ms each time."""
    names = {candidate.node for candidate in candidates}
    published = [node for node in (owner, *succession) if node in names]
    by_priority = sorted(candidates, key=lambda candidate: (-candidate.priority, candidate.node))
    return tuple(dict.fromkeys([*(node for node in published if node), *(c.node for c in by_priority)]))
