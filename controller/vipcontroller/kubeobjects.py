"""Objects of Kubernetes that workloads of the cluster are made of, as far as they are read or written.

As in `vipapi.resources`, reading is tolerant of fields that are not named here. An EndpointSlice is written
just as it is read, so that two of them can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from vipapi.resources import ObjectMeta

if TYPE_CHECKING:
    from collections.abc import Mapping


class Part(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What all of these are."""


class ServicePort(Part, frozen=True):
    """One port of a Service; `target_port` is a number, the name of a container's port, or absent."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None
    app_protocol: str | None = None


class ServiceSpec(Part, frozen=True):
    """What a Service is; the API server always says the families of one that has addresses."""

    type: str = "ClusterIP"
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    ip_families: tuple[str, ...] = ("IPv4",)


class Service(Part, frozen=True):
    """A Service."""

    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()


class EndpointConditions(msgspec.Struct, frozen=True, rename="camel"):
    """What kube-proxy and others go by; all three are always written."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ObjectReference(Part, frozen=True):
    """The Pod behind an endpoint."""

    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""


class Endpoint(Part, frozen=True):
    """One endpoint: a node, or a Pod on it."""

    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    node_name: str | None = None
    target_ref: ObjectReference | None = None


class EndpointPort(Part, frozen=True):
    """One port of every endpoint of a slice."""

    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str | None = None


class OwnerReference(Part, frozen=True):
    """With whom Kubernetes' garbage collection removes an object."""

    api_version: str
    kind: str
    name: str
    uid: str


class SliceMeta(Part, frozen=True):
    """The metadata of an EndpointSlice; `resource_version` makes a write a compare-and-swap."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class EndpointSlice(msgspec.Struct, frozen=True, rename="camel"):
    """Endpoints of one Service and one address family, which all have the same ports."""

    metadata: SliceMeta
    address_type: str
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class ContainerPort(Part, frozen=True):
    """A port that a container has given a name."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"


class Container(Part, frozen=True):
    """A container; an init container that is always restarted runs beside the others."""

    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str = ""


class PodSpec(Part, frozen=True):
    """Where a Pod runs, and what."""

    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()


class PodIP(Part, frozen=True):
    """One of a Pod's addresses, at most one of each family."""

    ip: str


class ObjectCondition(Part, frozen=True):
    """A condition of a Pod or of a Deployment."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class PodStatus(Part, frozen=True):
    """What the kubelet says of a Pod."""

    conditions: tuple[ObjectCondition, ...] = ()
    pod_ips: tuple[PodIP, ...] = msgspec.field(name="podIPs", default=())


class Pod(Part, frozen=True):
    """A Pod."""

    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_ready(self) -> bool:
        """Whether it serves and is to go on serving."""
        is_ready = any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)
        return is_ready and not self.metadata.is_deleting


class Strategy(Part, frozen=True):
    """How new Pods take the place of old ones."""

    type: str = "RollingUpdate"


class TemplateSpec(Part, frozen=True):
    """Where the Pods may run."""

    node_selector: dict[str, str] = {}


class Template(Part, frozen=True):
    """What the Pods are made from."""

    spec: TemplateSpec = TemplateSpec()


class DeploymentSpec(Part, frozen=True):
    """What is wanted of a Deployment."""

    replicas: int = 1
    paused: bool = False
    strategy: Strategy = Strategy()
    template: Template = Template()


class DeploymentStatus(Part, frozen=True):
    """What Kubernetes made of it. `updated_replicas` are Pods of the newest template."""

    observed_generation: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    conditions: tuple[ObjectCondition, ...] = ()


class ManagedFields(Part, frozen=True):
    """Which fields somebody has set: a tree of `f:<name>`, in which what is set as a whole is a leaf."""

    manager: str = ""
    operation: str = ""
    fields_v1: dict[str, Any] = {}

    def has(self, *path: str) -> bool:
        """Whether a field is among them, or anything below it."""
        tree: Any = self.fields_v1
        for name in path:
            tree = tree.get(f"f:{name}") if isinstance(tree, dict) else None
        return tree is not None


class DeploymentMeta(ObjectMeta, frozen=True, rename="camel"):
    """The metadata of a Deployment, with who has set what."""

    managed_fields: tuple[ManagedFields, ...] = ()


class Deployment(Part, frozen=True):
    """A Deployment."""

    metadata: DeploymentMeta
    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


Kind = TypeVar("Kind", Service, EndpointSlice, Pod, Deployment)


def read(kind: type[Kind], document: Mapping[str, Any]) -> Kind:
    """Read an object of the API server; raises `ValueError` that names it."""
    # The API server writes the empty lists of an EndpointSlice as null.
    said = {key: value for key, value in document.items() if value is not None}
    try:
        return msgspec.convert(said, type=kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{kind.__name__} {document['metadata']['name']}: {error}") from error
