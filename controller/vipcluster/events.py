"""What happened, told where people look for it: Kubernetes Events, written by us alone.

An Event is named by a hash of what it says about what, so telling the same thing again finds the
first Event and raises its series count: a hundred repeats are one Event, also across a restart and
from another replica. kopf's own events are switched off: they have no action, a wrong type, and come
one object each time.

Events about an object live in its namespace, those about cluster-scoped ones in `default`, as
`kubectl describe` expects.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from vipcluster.client import EVENTS, Conflict

if TYPE_CHECKING:
    from vipcluster.client import Cluster, Resource
    from vipcluster.store import Document

NAMESPACE = "default"
_LONGEST_NOTE = 1024  # bytes, as the API server counts
_DIGEST_BYTES = 8
_LONGEST_NAME = 253 - len(".") - 2 * _DIGEST_BYTES  # what an Event's name has room for of its object's


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to an object. `action` is what was done, `reason` why; both CamelCase.

    `namespace` is the object's, empty for a cluster-scoped one. `at` is when, with a time zone, which may be
    a while before it is told.
    """

    name: str
    namespace: str = ""
    uid: str
    type: Literal["Normal", "Warning"]
    action: str
    reason: str
    note: str
    at: datetime


def tell(
    cluster: Cluster,
    resource: Resource,
    happening: Happening,
    *,
    controller: str,
    instance: str,
    manager: str,
) -> None:
    """Write the Event, or count it once more; raises `ApiError`.

    `controller` and `instance` say who tells it, `manager` is the field manager.
    """
    at = happening.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    namespace = happening.namespace or NAMESPACE
    event: Document = {
        "metadata": {"name": _name(resource, happening), "namespace": namespace},
        "eventTime": at,
        "type": happening.type,
        "action": happening.action,
        "reason": happening.reason,
        "note": happening.note.encode()[:_LONGEST_NOTE].decode(errors="ignore"),
        "regarding": _regarding(resource, happening),
        "reportingController": f"vipkeeper.io/{controller}",
        "reportingInstance": instance,
    }
    try:
        cluster.create(EVENTS, event, namespace=namespace, manager=manager)
    except Conflict:
        known = cluster.get(EVENTS, event["metadata"]["name"], namespace=namespace)
        count = (known.get("series") or {}).get("count", 1) + 1
        series = {"series": {"count": count, "lastObservedTime": at}}
        cluster.merge(EVENTS, event["metadata"]["name"], series, namespace=namespace, manager=manager)


def _regarding(resource: Resource, happening: Happening) -> Document:
    about = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": happening.name,
        "uid": happening.uid,
    }
    return about | ({"namespace": happening.namespace} if happening.namespace else {})


def _name(resource: Resource, happening: Happening) -> str:
    said = (resource.kind, happening.uid, happening.type, happening.action, happening.reason, happening.note)
    digest = hashlib.blake2b("\0".join(said).encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{happening.name[:_LONGEST_NAME].rstrip('-.')}.{digest}"
