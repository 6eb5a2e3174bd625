"""The spec that was accepted last, as the status keeps it (`status.inForce`).

It is for whoever starts while an edit is held back: a controller, or a courier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from vipapi.resources import InForce, ServiceFailoverSpec, VirtualIPSpec

if TYPE_CHECKING:
    from vipapi.resources import ServiceFailover, VirtualIP

LARGEST = 262_144
"""The largest spec that is kept, in bytes of JSON: etcd takes 1.5 MB for the whole object."""

Spec = TypeVar("Spec", ServiceFailoverSpec, VirtualIPSpec)


def of(obj: ServiceFailover | VirtualIP, spec: Spec) -> InForce[Spec] | None:
    """Return what the status of an object is to keep of the spec by which it was accepted."""
    found = InForce(generation=obj.metadata.generation, spec=spec)
    is_kept = found == obj.status.in_force or len(msgspec.json.encode(spec)) <= LARGEST
    return found if is_kept else None
