"""The API server as these tests use it: ready for vipkeeper's kinds, and asked without storing."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from lab.api import RefusedError

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane

Object = dict[str, Any]
Attempt = Callable[[Object], Object]

READY_S = 30


@pytest.fixture(scope="session")
def attempt(bare_control_plane: ControlPlane) -> Attempt:
    """Create an object as `kubectl apply --dry-run=server` does: all checks, nothing stored."""
    api = bare_control_plane.api
    deadline = time.monotonic() + READY_S
    for kind in ("VirtualIP", "ServiceFailover", "FailoverDomain", "Switchover", "VIPNode"):
        while True:
            try:
                api.list("vipkeeper.io/v1alpha1", kind)
                break
            except RefusedError as refusal:
                # The storage of a new kind needs a moment.
                if refusal.status != http.client.TOO_MANY_REQUESTS or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    # Secrets of the controller are examples as well.
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vipkeeper-system"}})

    def create(obj: Object) -> Object:
        path = api.path_of(obj["apiVersion"], obj["kind"], namespace=obj["metadata"].get("namespace"))
        return api.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", obj)

    return create
