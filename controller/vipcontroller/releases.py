"""When a VirtualIP that is being deleted may go: after its addresses were released, never by age alone.

The finalizer goes in one of two ways. Either no node reports that it holds the addresses, and no majority
of the witnesses grants them to anybody; or a majority of every quorum reports a tombstone: these witnesses
grant them to nobody any more, and no grant of theirs stands, so no lease does.

A node that is alive and still reports them is on its way to release. One that is not alive and last
reported that it owned them cannot say whether it still does: the witnesses bury the object then. Only
where no majority of them is there either, it stays, `Stalled` with the reason `OwnerUnreachable`, and the
message says how to force it. A report under an older term than the newest known one is outdated:
somebody else could only be granted the addresses after that lease had ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.conditions import Reason
from vipapi.resources import FINALIZER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipapi.nodestatus import HoldingStatus
    from vipapi.resources import VirtualIP
    from vipcontroller.observation import Grant, View


class Hindrance(NamedTuple):
    """Why the finalizer has to stay."""

    reason: str
    message: str
    is_stalled: bool


def hindrance(
    virtual_ip: VirtualIP,
    *,
    holdings: Mapping[str, HoldingStatus],
    view: View,
    observed: Grant | None,
) -> Hindrance | None:
    """Return what keeps the finalizer, or None when the addresses are surely released."""
    if virtual_ip.metadata.uid in view.buried:
        return None
    newest = max(virtual_ip.status.term or 0, 0 if observed is None else observed.term)
    holding = sorted(node for node, held in holdings.items() if held.state == "Owner" and held.term >= newest)
    taking = sorted(
        node for node, held in holdings.items() if held.state == "Acquiring" and node in view.alive
    )
    unreachable = [node for node in holding if node not in view.alive]
    if unreachable:
        return _unreachable(virtual_ip, unreachable[0], view)
    if holding or taking:
        return Hindrance(
            Reason.RELEASING, f"{(holding or taking)[0]} is releasing the addresses", is_stalled=False
        )
    if observed is None:
        return None
    if observed.holder not in view.alive:
        return _unreachable(virtual_ip, observed.holder, view)
    message = f"the witnesses have not heard yet that {observed.holder} released the addresses"
    return Hindrance(Reason.RELEASING, message, is_stalled=False)


def without_finalizer(virtual_ip: VirtualIP) -> tuple[str, ...]:
    """Return the finalizers that are not ours."""
    return tuple(finalizer for finalizer in virtual_ip.metadata.finalizers if finalizer != FINALIZER)


def _unreachable(virtual_ip: VirtualIP, node: str, view: View) -> Hindrance:
    if view.is_quorate:
        message = (
            f"{node} cannot be reached; waiting until the witnesses grant the addresses to nobody any more"
        )
        return Hindrance(Reason.RELEASING, message, is_stalled=False)
    name = virtual_ip.metadata.name
    message = (
        f"{node} last owned the addresses and cannot say that it released them, and no majority of "
        "the witnesses is there to say so for it: bring its node-agent or theirs back, "
        f"or make sure that the machine is off and then run: kubectl patch virtualip {name} --type=json "
        '-p \'[{"op": "remove", "path": "/metadata/finalizers"}]\''
    )
    return Hindrance(Reason.OWNER_UNREACHABLE, message, is_stalled=True)
