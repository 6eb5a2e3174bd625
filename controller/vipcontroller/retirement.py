"""Which addresses a VirtualIP still answers for although its spec no longer names them.

A node that misses an edit goes on with the old addresses until its witnesses, which have the new plan,
let its lease run out. Inside one domain they also keep the addresses from everybody else until then. In
another domain nobody would: so an address that went out of force is *retired*, and no other domain may
have it, until a majority of every quorum reports that it grants it to nobody (`vipcontroller.claims`).

Each retirement has a number, which is part of its tombstone's name: a report may stand for long, and what
it says of an address that came back and went again is about an earlier time. The number is the generation
of the spec, or one that no report names yet, for an address may come and go without an edit: when the
domain's range is narrowed, say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.resources import RetiredAddress

if TYPE_CHECKING:
    from vipapi.resources import ObjectMeta, VirtualIP
    from vipcontroller.observation import View


class Addresses(NamedTuple):
    """What is in force, as the spec spells it, and what was and is not buried yet, sorted."""

    in_force: tuple[str, ...]
    retired: tuple[RetiredAddress, ...]


def bare(text: str) -> str:
    """Return an address without its prefix length."""
    return text.partition("/")[0]


def retire(virtual_ip: VirtualIP, view: View, *, is_accepted: bool) -> Addresses:
    """Return the addresses for the new status."""
    before, metadata = virtual_ip.status, virtual_ip.metadata
    in_force = virtual_ip.spec.addresses if is_accepted else ()
    retired = {each.address: each for each in before.retired_addresses}
    for address in map(bare, before.addresses):
        if address not in retired:
            retired[address] = _retirement(address, metadata, view)
    named = frozenset(map(bare, in_force))
    return Addresses(
        in_force=in_force,
        retired=tuple(
            retired[address]
            for address in sorted(retired.keys() - named if view.has_witnesses else ())
            if retired[address].tombstone(metadata.uid) not in view.buried
        ),
    )


def _retirement(address: str, metadata: ObjectMeta, view: View) -> RetiredAddress:
    found = RetiredAddress(address, metadata.generation)
    while found.tombstone(metadata.uid) in view.tombstones:
        found = RetiredAddress(address, found.generation + 1)
    return found
