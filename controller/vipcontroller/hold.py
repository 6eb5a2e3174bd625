"""Whether `onQuorumLoss: Hold` is in force for a VirtualIP, as the couriers plan it (`vipcourier.planning`).

It is for two candidates at most; where a service follows that must never run twice, the joined spec says
Release (`services.joined`). In a FailoverDomain that cannot be read nobody knows the candidates: what the
status said before stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    return is_held_alone(spec, nominees)
