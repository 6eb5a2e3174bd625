"""When a VirtualIP that is being deleted may go: when its witnesses have buried it, never by age alone.

The finalizer goes when a majority of every quorum reports a *tombstone*: the deletion is on these
witnesses' disks, and no grant of theirs stands, so no lease does and none can begin. What an owner
reports is no proof: by the time that its "released" is read, another node that has not heard of the
deletion may have the addresses, and may be unable to say so.

Where no majority of the witnesses is there, the object stays, `Stalled` with the reason
`OwnerUnreachable`, and the message says how to force it. Where there never were witnesses nothing was
ever granted; the object waits only for keepers that say that they hold it.
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
    holding = sorted(node for node, held in holdings.items() if held.state == "Owner")
    if virtual_ip.metadata.uid in view.buried or not (view.has_witnesses or holding):
        return None
    if not view.is_quorate:
        return _unreachable(virtual_ip)
    owner = observed.holder if observed is not None else next(iter(holding), None)
    if owner in view.alive:
        return Hindrance(Reason.RELEASING, f"{owner} is releasing the addresses", is_stalled=False)
    message = "waiting until a majority of the witnesses grants the addresses to nobody any more"
    return Hindrance(Reason.RELEASING, message, is_stalled=False)


def without_finalizer(virtual_ip: VirtualIP) -> tuple[str, ...]:
    """Return the finalizers that are not ours."""
    return tuple(finalizer for finalizer in virtual_ip.metadata.finalizers if finalizer != FINALIZER)


def _unreachable(virtual_ip: VirtualIP) -> Hindrance:
    name = virtual_ip.metadata.name
    message = (
        "no majority of the witnesses is there to say that nobody holds the addresses any more: bring their "
        "node-agents back, or make sure that the machine of the last owner is off and then run: kubectl "
        f"patch virtualip {name} --type=json "
        '-p \'[{"op": "remove", "path": "/metadata/finalizers"}]\''
    )
    return Hindrance(Reason.OWNER_UNREACHABLE, message, is_stalled=True)
