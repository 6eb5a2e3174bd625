"""A small client of the API server for the lab itself: requests, server-side apply, clean-up.

It knows no kinds; it asks the server which path a kind has. vipkeeper's own clients are not used
here, so that what the lab sees does not depend on what it tests.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
Object = dict[str, Any]


class RefusedError(Exception):
    """The API server said no: its HTTP status and the Status object's reason and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Api:
    """An authenticated way to one API server. It holds no connection and outlives the server's restarts."""

    host: str
    port: int
    authority: Path
    token: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request, such as those that impersonate somebody."""
    paths: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict, repr=False)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = JSON,
        patience_s: float = 10,
    ) -> Object:
        """Return the decoded answer; raises `RefusedError`, or OSError when the server is not there.

        A server that has just started, or a kind that was just defined, answers "try again" for a moment.
        """
        deadline = time.monotonic() + patience_s
        while True:
            status, text = self.raw(method, path, body, content_type=content_type, patience_s=patience_s)
            if status != http.client.TOO_MANY_REQUESTS or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        answer: Object = json.loads(text) if text.startswith(b"{") else {"text": text.decode()}
        if status >= http.client.BAD_REQUEST:
            raise RefusedError(status, answer.get("reason", ""), answer.get("message", text.decode()))
        return answer

    def raw(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = JSON,
        patience_s: float = 10,
    ) -> tuple[int, bytes]:
        """Return the HTTP status and the undecoded answer."""
        context = ssl.create_default_context(cafile=str(self.authority))
        connection = http.client.HTTPSConnection(self.host, self.port, context=context, timeout=patience_s)
        try:
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type, "Accept": JSON}
            headers |= self.headers
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def path_of(
        self, version: str, kind: str, *, namespace: str | None = None, name: str | None = None
    ) -> str:
        """Return the path of a kind, of its objects in a namespace, or of one object."""
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        if (version, kind) not in self.paths:
            for resource in self.request("GET", root)["resources"]:
                if "/" not in resource["name"]:
                    self.paths[version, resource["kind"]] = (resource["name"], resource["namespaced"])
        plural, is_namespaced = self.paths[version, kind]
        scope = f"/namespaces/{namespace or 'default'}" if is_namespaced else ""
        return f"{root}{scope}/{plural}" + (f"/{quote(name)}" if name else "")

    def apply(self, manifest: Mapping[str, Any], *, manager: str = "lab", subresource: str = "") -> Object:
        """Server-side apply one object, as `kubectl apply --server-side --force-conflicts` does."""
        path = self.path_of(
            manifest["apiVersion"],
            manifest["kind"],
            namespace=manifest["metadata"].get("namespace"),
            name=manifest["metadata"]["name"],
        )
        query = urlencode({"fieldManager": manager, "force": "true", "fieldValidation": "Strict"})
        return self.request("PATCH", f"{path}{subresource}?{query}", manifest, content_type=APPLY)

    def get(self, version: str, kind: str, name: str, *, namespace: str | None = None) -> Object:
        return self.request("GET", self.path_of(version, kind, namespace=namespace, name=name))

    def list(self, version: str, kind: str, *, namespace: str | None = None) -> list[Object]:
        items: list[Object] = self.request("GET", self.path_of(version, kind, namespace=namespace))["items"]
        return items

    def merge(
        self,
        version: str,
        kind: str,
        name: str,
        patch: Mapping[str, Any],
        *,
        namespace: str | None = None,
        subresource: str = "",
    ) -> Object:
        path = self.path_of(version, kind, namespace=namespace, name=name) + subresource
        return self.request("PATCH", path, patch, content_type=MERGE)

    def delete(self, version: str, kind: str, name: str, *, namespace: str | None = None) -> None:
        self.request("DELETE", self.path_of(version, kind, namespace=namespace, name=name))

    def apply_definitions(self, manifests: Iterable[Mapping[str, Any]], *, patience_s: float = 20) -> None:
        """Apply CustomResourceDefinitions and wait until each is served."""
        names = [self.apply(manifest)["metadata"]["name"] for manifest in manifests]
        deadline = time.monotonic() + patience_s
        for name in names:
            while not self._is_established(name):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} was not established within {patience_s} s")
                time.sleep(0.05)

    def _is_established(self, name: str) -> bool:
        definition = self.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", name)
        conditions = definition.get("status", {}).get("conditions") or []
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    def erase_group(self, group: str, version: str = "v1alpha1") -> None:
        """Delete every object of an API group, finalizers and all, so that the next test finds none."""
        try:
            resources = self.request("GET", f"/apis/{group}/{version}")["resources"]
        except RefusedError:
            return
        for resource in resources:
            if "/" in resource["name"]:
                continue
            root = f"/apis/{group}/{version}"
            for item in self.request("GET", f"{root}/{resource['name']}")["items"]:
                metadata = item["metadata"]
                scope = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
                self._erase(f"{root}{scope}/{resource['name']}/{metadata['name']}")

    def _erase(self, path: str) -> None:
        try:
            # A controller that runs cannot put its finalizer back on an object that is being deleted.
            self.request("DELETE", path)
            self.request("PATCH", path, {"metadata": {"finalizers": None}}, content_type=MERGE)
        except RefusedError as refusal:
            if refusal.status != http.client.NOT_FOUND:
                raise

    def service_account_token(self, namespace: str, name: str) -> str:
        """Return a real token of a service account that exists, good for a day."""
        answer = self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": 86400},
            },
        )
        token: str = answer["status"]["token"]
        return token


def manifests_in(*paths: Path) -> Iterator[Object]:
    """Yield the objects of YAML files, or of all YAML files of a folder in the order of their names."""
    for path in paths:
        files = sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
        for file in files:
            yield from (each for each in yaml.safe_load_all(file.read_text()) if each)
