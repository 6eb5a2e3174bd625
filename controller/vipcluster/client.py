"""The door to the API server for single requests: the only module that imports `kubernetes`.

It loads the configuration (a kubeconfig, or the pod's service account), and speaks a handful of
verbs over plain JSON documents. Of the client library it uses what is worth having (configuration,
authentication, token refresh, TLS) and none of its two thousand generated models.

- Every request has a timeout, because the library's default is to wait for ever on a half-open
  connection, and it is tried once: whoever asks is level-triggered and asks again.
- Status is written by server-side apply with force under our own field manager. With
  `resource_version` it is a compare-and-swap: the API server answers 409 when the object has moved on,
  also for an apply, and so a namesake made anew is not written by mistake. (A UID in the body would
  not do that: the status subresource ignores it.)
- What went wrong is one of these exceptions, chained to the library's: `NotFound`, `Conflict`,
  `Forbidden` (a matter of RBAC, which no retry heals) and `ApiError` for everything else that the
  server said; `Unavailable` (an `ApiError`) when it said nothing, or that it cannot now.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

import urllib3.exceptions
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from vipcluster.store import Document

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 3.0
REQUEST_TIMEOUT_S = CONNECT_TIMEOUT_S + READ_TIMEOUT_S
LIST_TIMEOUT_S = 15.0
CHUNK = 500

_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"
_MERGE = "application/merge-patch+json"
_TOO_MANY = 429
_SERVER_ERRORS = 500


class ApiError(Exception):
    """The API server refused, failed or could not be reached; `status` is the HTTP status, or 0."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFound(ApiError):  # noqa: N818 - reads as what the server said
    """The object, or its whole kind, does not exist."""


class Conflict(ApiError):  # noqa: N818 - reads as what the server said
    """The object has moved on since it was read, or exists already."""


class FieldsOwned(Conflict):
    """Other field managers set fields of an apply otherwise: `fields` are those with their managers."""

    def __init__(self, message: str, *, status: int, fields: tuple[tuple[str, str], ...]) -> None:
        super().__init__(message, status=status)
        self.fields = fields


class Forbidden(ApiError):  # noqa: N818 - reads as what the server said
    """Authentication or RBAC is in the way: a person has to change something."""


class Unavailable(ApiError):  # noqa: N818 - reads as what the server said
    """No answer, or the answer that there is none now; worth asking again."""


class BadConfiguration(Exception):  # noqa: N818 - reads as what is wrong
    """There is no usable kubeconfig and no service account."""


class Resource(NamedTuple):
    """A kind of object and where its REST path is.

    Of a namespaced kind those of one namespace are looked at, or those of all (`is_everywhere`).
    """

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = False
    is_everywhere: bool = False

    @property
    def api_version(self) -> str:
        """What an object of it has as `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, name: str = "", *, namespace: str = "", subresource: str = "") -> str:
        """Return the path of the collection or of one object; without a namespace that of all of them."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.is_namespaced and (namespace or name or not self.is_everywhere):
            assert namespace, self.plural
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(quote(part, safe="") for part in parts)


VIRTUAL_IPS = Resource("vipkeeper.io", "v1alpha1", "virtualips", "VirtualIP")
SERVICE_FAILOVERS = Resource(
    "vipkeeper.io", "v1alpha1", "servicefailovers", "ServiceFailover", is_namespaced=True, is_everywhere=True
)
FAILOVER_DOMAINS = Resource("vipkeeper.io", "v1alpha1", "failoverdomains", "FailoverDomain")
SWITCHOVERS = Resource("vipkeeper.io", "v1alpha1", "switchovers", "Switchover")
VIP_NODES = Resource("vipkeeper.io", "v1alpha1", "vipnodes", "VIPNode")
NODES = Resource("", "v1", "nodes", "Node")
SECRETS = Resource("", "v1", "secrets", "Secret", is_namespaced=True)
PODS = Resource("", "v1", "pods", "Pod", is_namespaced=True)
SERVICES = Resource("", "v1", "services", "Service", is_namespaced=True)
ENDPOINT_SLICES = Resource(
    "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", is_namespaced=True, is_everywhere=True
)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", is_namespaced=True, is_everywhere=True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", is_namespaced=True)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event", is_namespaced=True)


class Listing(NamedTuple):
    """Every object of a resource, and the version of the world that shows them so."""

    documents: list[Document]
    version: int


class Connection(NamedTuple):
    """Where the API server is and how to be let in, for another client than this one."""

    server: str
    ca_path: str | None
    ca_data: str | None
    certificate_path: str | None
    private_key_path: str | None
    token: str | None
    is_insecure: bool


class Cluster:
    """One API server, under one identity. May be used by several threads.

    `timeout_s` takes the place of both the time to connect and the time to answer; listing has its own.
    """

    def __init__(
        self, configuration: Configuration, *, user_agent: str, timeout_s: float | None = None
    ) -> None:
        # The library's own retries would multiply the timeouts that callers count on.
        configuration.retries = False
        self._configuration = configuration
        self._connect_timeout_s = CONNECT_TIMEOUT_S if timeout_s is None else timeout_s
        self._read_timeout_s = READ_TIMEOUT_S if timeout_s is None else timeout_s
        self._api = ApiClient(configuration)
        self._api.user_agent = user_agent

    def connection(self) -> Connection:
        """Return how to connect, with the token as it is now (service account tokens change)."""
        configuration = self._configuration
        token: str | None = configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return Connection(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            ca_data=configuration.ca_cert_data,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            token=None if token is None else token.removeprefix("Bearer ").removeprefix("bearer "),
            is_insecure=not configuration.verify_ssl,
        )

    def serves(self, resource: Resource) -> bool:
        """Whether discovery lists the resource: a kind that was just installed takes a moment."""
        parts = ["apis", resource.group] if resource.group else ["api"]
        try:
            answer = self._request("GET", "/" + "/".join([*parts, resource.version]))
        except NotFound:
            return False
        return any(known["name"] == resource.plural for known in answer.get("resources") or ())

    def get(self, resource: Resource, name: str, *, namespace: str = "") -> Document:
        """Read one object; raises `NotFound`."""
        return self._request("GET", resource.path(name, namespace=namespace))

    def list(
        self,
        resource: Resource,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        is_lean: bool = False,
    ) -> Listing:
        """Read all objects, or those that the selectors `labels` and `fields` select; all or none.

        They come in chunks, and `is_lean` ones as `lean` leaves them.
        """
        documents: list[Document] = []
        selectors = {"labelSelector": labels, "fieldSelector": fields}
        query = {"limit": str(CHUNK), **{key: value for key, value in selectors.items() if value}}
        while True:
            answer = self._request(
                "GET", resource.path(namespace=namespace), query=query, read_timeout_s=LIST_TIMEOUT_S
            )
            # Items of built-in kinds come without their kind.
            named = {"apiVersion": resource.api_version, "kind": resource.kind}
            items = ({**named, **item} for item in answer.get("items") or ())
            documents += [lean(item) for item in items] if is_lean else items
            metadata = answer["metadata"]
            if not metadata.get("continue"):
                return Listing(documents, int(metadata["resourceVersion"]))
            query["continue"] = metadata["continue"]

    def create(
        self, resource: Resource, document: Document, *, namespace: str = "", manager: str
    ) -> Document:
        """Create an object; raises `Conflict` when its name is taken."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **document}
        return self._request(
            "POST", resource.path(namespace=namespace), query={"fieldManager": manager}, body=body
        )

    def replace(self, resource: Resource, document: Document, *, manager: str) -> Document:
        """Write an object that was read; raises `Conflict` when it has moved on since."""
        metadata = document["metadata"]
        assert metadata["resourceVersion"], metadata["name"]
        path = resource.path(metadata["name"], namespace=metadata.get("namespace", ""))
        return self._request("PUT", path, query={"fieldManager": manager}, body=document)

    def apply(
        self,
        resource: Resource,
        document: Mapping[str, Any],
        *,
        namespace: str,
        manager: str,
        is_forced: bool = False,
    ) -> Document:
        """Apply a set of fields, in place of those that this manager applied before.

        Raises `FieldsOwned` when others set them otherwise, unless it is forced. With a resource version in
        the document it is a compare-and-swap and raises `Conflict`.
        """
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **document}
        return self._request(
            "PATCH",
            resource.path(document["metadata"]["name"], namespace=namespace),
            query={"fieldManager": manager, "force": "true" if is_forced else "false"},
            body=body,
            content_type=_APPLY,
        )

    def apply_status(
        self,
        resource: Resource,
        name: str,
        status: Mapping[str, Any],
        *,
        manager: str,
        namespace: str = "",
        resource_version: str | None = None,
    ) -> Document:
        """Apply the whole status of an object that exists.

        With `resource_version` it is a compare-and-swap and raises `Conflict`. An object that does not
        exist is not made by it (`NotFound`).
        """
        metadata = {"name": name}
        if resource_version is not None:
            metadata["resourceVersion"] = resource_version
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": metadata,
            "status": status,
        }
        return self._request(
            "PATCH",
            resource.path(name, namespace=namespace, subresource="status"),
            query={"fieldManager": manager, "force": "true"},
            body=body,
            content_type=_APPLY,
        )

    def set_status(
        self,
        resource: Resource,
        name: str,
        status: Mapping[str, Any],
        *,
        namespace: str = "",
        resource_version: str,
        manager: str,
    ) -> Document:
        """Have the whole status of an object be this one, whoever set what is in it; raises `Conflict`."""
        body: list[Mapping[str, Any]] = [
            {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version},
            {"op": "replace", "path": "/status", "value": status},
        ]
        return self._request(
            "PATCH",
            resource.path(name, namespace=namespace, subresource="status"),
            query={"fieldManager": manager},
            body=body,
            content_type=_JSON_PATCH,
        )

    def set_finalizers(
        self, resource: Resource, name: str, finalizers: Sequence[str], *, resource_version: str, manager: str
    ) -> Document:
        """Replace the finalizers of an object read at that version; raises `Conflict` if it has moved on."""
        body = {"metadata": {"resourceVersion": resource_version, "finalizers": list(finalizers)}}
        return self._request(
            "PATCH", resource.path(name), query={"fieldManager": manager}, body=body, content_type=_MERGE
        )

    def merge(
        self, resource: Resource, name: str, patch: Mapping[str, Any], *, namespace: str = "", manager: str
    ) -> Document:
        """Merge a patch into an object; with a resource version in it, raises `Conflict` for any other."""
        path = resource.path(name, namespace=namespace)
        return self._request("PATCH", path, query={"fieldManager": manager}, body=patch, content_type=_MERGE)

    def delete(
        self,
        resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        """Ask for an object's deletion; raises `NotFound`.

        With a UID or a resource version it raises `Conflict` when the object is another, or has moved on.
        """
        wanted = {"uid": uid, "resourceVersion": resource_version}
        preconditions = {key: value for key, value in wanted.items() if value}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        self._request(
            "DELETE", resource.path(name, namespace=namespace), body=body if preconditions else None
        )

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        content_type: str = "application/json",
        read_timeout_s: float | None = None,
    ) -> Document:
        headers = {"Accept": "application/json", "Content-Type": content_type, **self._api.default_headers}
        url = self._configuration.host + path + (f"?{urlencode(query)}" if query else "")
        what = f"{method} {path}"
        timeout_s = (self._connect_timeout_s, read_timeout_s or self._read_timeout_s)
        try:
            self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        except (ConfigException, OSError) as error:
            raise Unavailable(f"{what}: the token cannot be read: {error}") from error
        try:
            response = self._api.call_api(method, url, headers, body, _request_timeout=timeout_s)
            content: bytes = response.read()
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise Unavailable(f"{what}: no answer from {self._configuration.host}: {error}") from error
        if not 200 <= response.status < 300:  # noqa: PLR2004 - HTTP's classes of answers
            raise _refusal(what, response.status, content)
        return _document(what, content)


def _document(what: str, content: bytes) -> Document:
    """Return the object that an answer is; raises `Unavailable` for one of whoever stands in between."""
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        said = content[:200].decode(errors="replace").strip()
        raise Unavailable(f"{what}: answered with what is no object, by a proxy perhaps: {said!r}")
    return document


def lean(document: Document) -> Document:
    """Return an object without who set which field, which is the greater part of a long status."""
    metadata = {name: value for name, value in document["metadata"].items() if name != "managedFields"}
    return {**document, "metadata": metadata}


def connect(kubeconfig: str | None = None, *, user_agent: str, timeout_s: float | None = None) -> Cluster:
    """Load the configuration: a kubeconfig if given, else the pod's service account, else `KUBECONFIG`.

    Raises `BadConfiguration`. Nothing is sent yet.
    """
    configuration = Configuration()
    try:
        if kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            load_incluster_config(client_configuration=configuration)
        else:
            load_kube_config(config_file=kubeconfig, client_configuration=configuration)
    except (ConfigException, OSError, ValueError) as error:
        where = kubeconfig or "the service account or KUBECONFIG"
        raise BadConfiguration(f"no way to reach the API server by {where}: {error}") from error
    return Cluster(configuration, user_agent=user_agent, timeout_s=timeout_s)


def _refusal(what: str, status: int, content: bytes) -> ApiError:
    fields: tuple[tuple[str, str], ...] = ()
    try:
        answer = json.loads(content)
        said = answer.get("message", "")
        fields = _fields_owned(answer)
    except (ValueError, AttributeError):
        said = content[:200].decode(errors="replace").strip()
    message = f"{what}: {status} {said}"
    if fields:
        return FieldsOwned(message, status=status, fields=fields)
    kinds: dict[int, type[ApiError]] = {401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict}
    if status in kinds:
        return kinds[status](message, status=status)
    if status == _TOO_MANY or status >= _SERVER_ERRORS:
        return Unavailable(message, status=status)
    return ApiError(message, status=status)


def _fields_owned(answer: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return the fields, with their managers, for whose sake an apply was refused."""
    causes = (answer.get("details") or {}).get("causes") or ()
    return tuple(
        (cause.get("field", ""), _quoted(cause.get("message", "")))
        for cause in causes
        if cause.get("reason") == "FieldManagerConflict"
    )


def _quoted(message: str) -> str:
    """Return the manager in `conflict with "kubectl" using apps/v1`."""
    before, _, rest = message.partition('"')
    return rest.partition('"')[0] or before
