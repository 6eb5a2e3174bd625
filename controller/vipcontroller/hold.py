"""Whether `onQuorumLoss: Hold` is in force for a VirtualIP, as the couriers plan it (`vipcourier.planning`).

It is for two candidates at most, and for none that a service follows which must never run twice. In a
FailoverDomain that cannot be read nobody knows the candidates: what the status said before stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vipapi import conditions, services
from vipapi.candidates import is_held_alone, nominate, roster

if TYPE_CHECKING:
    from vipapi.resources import VirtualIP
    from vipcontroller.world import World


def is_in_force(virtual_ip: VirtualIP, world: World) -> bool:
    """Whether a candidate that hears no other witness may go on alone."""
    spec = virtual_ip.spec
    if spec.on_quorum_loss != "Hold":
        return False
    domain = world.domains.get(spec.domain)
    if domain is None:
        shown = virtual_ip.status.effective
        return shown is not None and shown.on_quorum_loss == "Hold"
    nominees = nominate(spec, roster(domain.spec, world.nodes.values()))
    return is_held_alone(spec, nominees) and not _is_followed_by_one_of_a_kind(virtual_ip, world)


def _is_followed_by_one_of_a_kind(virtual_ip: VirtualIP, world: World) -> bool:
    planned = (
        failover
        for failover in world.failovers
        if conditions.is_true(failover.status.conditions, "Accepted") and not failover.metadata.is_deleting
    )
    return any(
        each.service.singleton and each.service.workload.is_on_node
        for each in services.followings(virtual_ip.metadata.name, planned)
    )
