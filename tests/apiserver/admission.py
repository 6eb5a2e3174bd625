"""The chart's admission policies on a real API server, and the people whom they concern."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from apiserver.fleet import API_VERSION, eventually
from lab.api import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from chart.rendering import Rendering
    from lab.api import Api
    from lab.controlplane import ControlPlane

Object = dict[str, Any]

NAMESPACE = "vipkeeper-system"
POLICY, BINDING = "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"
ADMISSION = "admissionregistration.k8s.io/v1"
RBAC = "rbac.authorization.k8s.io/v1"


def policies(rendering: Rendering) -> list[Object]:
    """Return the policies and bindings, and the role that they know."""
    roles = [
        each for each in rendering.of("ClusterRole") if each["metadata"]["name"].endswith("host-workloads")
    ]
    return [*rendering.of(POLICY), *rendering.of(BINDING), *roles]


@contextmanager
def in_force(api: Api, objects: Sequence[Object]) -> Iterator[None]:
    """Have policies in force; the API server takes a moment to notice them, and that they are gone."""
    try:
        for each in objects:
            api.apply(each)
        api.apply(_PROBE_POLICY)
        api.apply(_PROBE_BINDING)
        eventually(lambda: not _passes(api), what="the policies are in force")
        yield
    finally:
        names = [(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in objects]
        for version, kind, name in [*names, *((ADMISSION, kind, "probe") for kind in (BINDING, POLICY))]:
            with contextlib.suppress(RefusedError):
                api.delete(version, kind, name)
        eventually(lambda: _passes(api), what="the policies are gone")


# The API server takes policies up in the order in which they are made: once this one is there, so are all.
_PROBE_POLICY: Object = {
    "apiVersion": ADMISSION,
    "kind": POLICY,
    "metadata": {"name": "probe"},
    "spec": {
        "matchConstraints": {
            "resourceRules": [
                {
                    "apiGroups": [""],
                    "apiVersions": ["v1"],
                    "resources": ["configmaps"],
                    "operations": ["CREATE"],
                }
            ]
        },
        "validations": [{"expression": "object.metadata.name != 'probe'"}],
    },
}
_PROBE_BINDING: Object = {
    "apiVersion": ADMISSION,
    "kind": BINDING,
    "metadata": {"name": "probe"},
    "spec": {"policyName": "probe", "validationActions": ["Deny"]},
}


def _passes(api: Api) -> bool:
    probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}}
    try:
        api.request("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", probe)
    except RefusedError:
        return False
    return True


def impersonated(api: Api, user: str, group: str = "") -> Api:
    """Return the way of somebody else, in one group more than everybody's."""
    headers = {"Impersonate-User": user, **({"Impersonate-Group": group} if group else {})}
    return dataclasses.replace(api, headers=headers)


def with_token(api: Api, token: str) -> Api:
    """Return the way of whoever has a token."""
    return dataclasses.replace(api, token=token, headers={})


def bound_token(api: Api, kind: str, name: str, namespace: str = "") -> str:
    """Return a real token of the couriers' service account that is bound to a Node or to a Pod."""
    bound = api.get("v1", kind, name, namespace=namespace or None)
    reference = {"apiVersion": "v1", "kind": kind, "name": name, "uid": bound["metadata"]["uid"]}
    answer = api.request(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/vipkeeper-courier/token",
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": reference, "expirationSeconds": 3600},
        },
    )
    token: str = answer["status"]["token"]
    return token


def refusal(attempt: Any, *given: Any, **named: Any) -> str:
    """Return why the API server refuses something, which has to be for admission and not for a role."""
    with pytest.raises(RefusedError) as caught:
        attempt(*given, **named)
    assert caught.value.status == http.client.FORBIDDEN, caught.value
    assert POLICY in caught.value.message, caught.value
    return caught.value.message


def virtual_ip(name: str, *addresses: str, **spec: Any) -> Object:
    spec["addresses"] = list(addresses)
    return {"apiVersion": API_VERSION, "kind": "VirtualIP", "metadata": {"name": name}, "spec": spec}


def node(name: str, status: Mapping[str, Any] | None = None) -> Object:
    found: Object = {"apiVersion": API_VERSION, "kind": "VIPNode", "metadata": {"name": name}}
    return found if status is None else {**found, "status": status}


def kubeconfig_with(plane: ControlPlane, path: Path, token: str) -> Path:
    """Write a kubeconfig of whoever has a token."""
    found = json.loads(plane.kubeconfig.read_text())
    found["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(found))
    return path
