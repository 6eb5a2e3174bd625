"""Which addresses a VirtualIP still answers for although its spec no longer names them.

A node that misses an edit goes on with the old addresses until its witnesses, which have the new plan,
let its lease run out. Inside one domain they also keep the addresses from everybody else until then. In
another domain nobody would: so an address that went out of force is *retired*, and no other domain may
have it, until a majority of every quorum reports that it grants it to nobody (`vipcontroller.claims`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vipapi.resources import VirtualIP
    from vipcontroller.observation import View


class Addresses(NamedTuple):
    """What is in force, and what was and is not buried yet; without prefix lengths, sorted."""

    in_force: tuple[str, ...]
    retired: tuple[str, ...]


def retire(virtual_ip: VirtualIP, view: View, *, is_accepted: bool) -> Addresses:
    """Return the addresses for the new status."""
    before = virtual_ip.status
    named = {text.partition("/")[0] for text in virtual_ip.spec.addresses} if is_accepted else set()
    former = {*before.addresses, *before.retired_addresses} - named if view.has_witnesses else set()
    uid = virtual_ip.metadata.uid
    return Addresses(
        in_force=tuple(sorted(named)),
        retired=tuple(sorted(ip for ip in former if f"{uid}/{ip}" not in view.buried)),
    )
