"""Carries decisions out: each write as one request to the API server, and the Events that belong to it.

A write names the resource version that it was decided on, so of two controllers, or of a controller and
a user, whoever comes second is told `Conflict` and decides anew. Events follow the write that they tell
of; one that cannot be told is logged by the caller and lost, for it is only news.
"""

from __future__ import annotations

import base64
import contextlib
import secrets
from typing import TYPE_CHECKING

from vipapi import resources
from vipcluster.client import (
    FAILOVER_DOMAINS,
    SECRETS,
    SERVICE_FAILOVERS,
    SWITCHOVERS,
    VIRTUAL_IPS,
    Conflict,
)
from vipcluster.events import Happening, tell
from vipcontroller import leftovers
from vipcontroller.writes import FinalizerWrite, SecretWrite, StatusWrite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipcluster.client import Cluster, Resource
    from vipcluster.store import Document
    from vipcontroller.crier import News
    from vipcontroller.writes import Write

MANAGER = "vipkeeper-controller"
KEY_BYTES = 32
FIRST_KEY_ID = "1"

RESOURCES: Mapping[str, Resource] = {
    "VirtualIP": VIRTUAL_IPS,
    "ServiceFailover": SERVICE_FAILOVERS,
    "FailoverDomain": FAILOVER_DOMAINS,
    "Switchover": SWITCHOVERS,
}


class Scribe:
    """Writes under the controller's field manager. `instance` names this process in Events."""

    def __init__(self, cluster: Cluster, *, namespace: str, instance: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._instance = instance

    def carry_out(self, write: Write) -> Document | None:
        """Do one write and return the object as it is now; raises `ApiError`, `Conflict` among them."""
        if isinstance(write, StatusWrite):
            return self._write_status(write)
        if isinstance(write, FinalizerWrite):
            return self._cluster.set_finalizers(
                RESOURCES[write.kind],
                write.metadata.name,
                write.finalizers,
                resource_version=write.metadata.resource_version,
                manager=MANAGER,
            )
        self._make_secret(write)
        return None

    def _write_status(self, write: StatusWrite) -> Document:
        resource, name, namespace = RESOURCES[write.kind], write.metadata.name, write.metadata.namespace
        status = resources.to_dict(write.status)
        document = self._cluster.apply_status(
            resource,
            name,
            status,
            manager=MANAGER,
            namespace=namespace,
            resource_version=write.metadata.resource_version,
        )
        rest = leftovers.cleared(document["status"], status)
        if rest is None:
            return document
        return self._cluster.set_status(
            resource,
            name,
            rest,
            namespace=namespace,
            resource_version=document["metadata"]["resourceVersion"],
            manager=MANAGER,
        )

    def tell(self, news: News) -> None:
        """Tell one Event; raises `ApiError`."""
        happening = Happening(
            name=news.metadata.name,
            namespace=news.metadata.namespace,
            uid=news.metadata.uid,
            type=news.telling.type,
            action=news.telling.action,
            reason=news.telling.reason,
            note=news.telling.note,
            at=news.at,
        )
        tell(
            self._cluster,
            RESOURCES[news.kind],
            happening,
            controller="controller",
            manager=MANAGER,
            instance=self._instance,
        )

    def _make_secret(self, write: SecretWrite) -> None:
        """Make a heartbeat Secret: key ids as names, random bytes as values."""
        key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        document = {
            "metadata": {"name": write.name, "namespace": self._namespace},
            "type": "vipkeeper.io/heartbeat-key",
            "data": {FIRST_KEY_ID: key},
        }
        with contextlib.suppress(Conflict):  # somebody made it meanwhile: then that is the key
            self._cluster.create(SECRETS, document, namespace=self._namespace, manager=MANAGER)
