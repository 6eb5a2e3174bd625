"""When what is being deleted may go: a VirtualIP when its witnesses have buried it, never by age alone.

The finalizer goes when a majority of every quorum reports a *tombstone*: the deletion is on these
witnesses' disks, and no grant of theirs stands, so no lease does and none can begin. What an owner
reports is no proof: by the time that its "released" is read, another node that has not heard of the
deletion may have the addresses, and may be unable to say so. Nor does the API server's vote bury anything:
such a node may take it over.

Where too few of the witnesses' nodes are there, the object stays, `Stalled` with the reason
`OwnerUnreachable`, and the message says how to force it. Where there never were witnesses nothing was
ever granted; the object waits only for keepers that say that they hold it.

A FailoverDomain goes after the last VirtualIP that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vipapi.conditions import Reason
from vipapi.resources import FINALIZER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipapi.nodestatus import HoldingStatus
    from vipapi.resources import FailoverDomain, ObjectMeta, VirtualIP
    from vipcontroller.observation import Grant, View
    from vipcontroller.world import World


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
    if not view.can_bury:
        return _unreachable(virtual_ip)
    owner = observed.holder if observed is not None else next(iter(holding), None)
    if owner in view.alive:
        return Hindrance(Reason.RELEASING, f"{owner} is releasing the addresses", is_stalled=False)
    message = "waiting until a majority of the witnesses grants the addresses to nobody any more"
    return Hindrance(Reason.RELEASING, message, is_stalled=False)


def without_finalizer(metadata: ObjectMeta) -> tuple[str, ...]:
    """Return the finalizers that are not ours."""
    return tuple(finalizer for finalizer in metadata.finalizers if finalizer != FINALIZER)


def dependents(domain: FailoverDomain, world: World) -> tuple[str, ...]:
    """Return the VirtualIPs that name a domain, those that are being deleted among them.

    Until there is none a domain that is being deleted stays and works as before: with the domain goes
    whatever its witnesses know, and nobody could bury an address any more.
    """
    return tuple(
        virtual_ip.metadata.name
        for virtual_ip in world.virtual_ips
        if virtual_ip.spec.domain == domain.metadata.name
    )


def _unreachable(virtual_ip: VirtualIP) -> Hindrance:
    name = virtual_ip.metadata.name
    message = (
        "no majority of the witnesses is there to say that nobody holds the addresses any more (the API "
        "server's vote cannot say it): bring their node-agents back, or make sure that the machine of the "
        "last owner is off and then run: kubectl "
        f"patch virtualip {name} --type=json "
        '-p \'[{"op": "remove", "path": "/metadata/finalizers"}]\''
    )
    return Hindrance(Reason.OWNER_UNREACHABLE, message, is_stalled=True)
