"""Which EndpointSlices a Service has to have, so that it leads to the owner of an address and nowhere else.

The Service has no selector, so Kubernetes writes no slices for it; these are ours:

    <Service>-vipkeeper-ipv4[-2…], <Service>-vipkeeper-ipv6[-2…]

one for each of the Service's address families, also when it is empty. Its endpoint is the owner's node
itself (its InternalIP), or with a `podSelector` each ready Pod of it on that node. Nobody owns the address:
the slices stay and are empty, for to send somebody to the former owner is worse than to send them nowhere.

A slice has one list of ports for all of its endpoints. A named target port is whatever each Pod's container
calls so, which may be two numbers while Pods are being replaced: then there are more slices than one. A node
calls no port anything.

What is in the way is told, and what is there is kept right meanwhile: of a Service that has got a selector
our slices go on to follow the owner if there are any, and none are made; of one whose ports cannot be told
any more they lose whatever is not the owner's.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from vipapi.conditions import Reason
from vipapi.resources import API_VERSION
from vipapi.workloads import KubernetesService
from vipcontroller.assignments import FAILOVER_LABEL, Finding
from vipcontroller.kubeobjects import (
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    ObjectReference,
    OwnerReference,
    SliceMeta,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from vipapi.services import Objection
    from vipcontroller.assignments import Assignment, Assignments
    from vipcontroller.kubeobjects import Pod, Service, ServicePort

SERVICE_LABEL = "kubernetes.io/service-name"
MANAGER_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "vipkeeper.io"
FAMILIES = {4: "IPv4", 6: "IPv6"}
SERVING = EndpointConditions(ready=True, serving=True, terminating=False)


class Plan(NamedTuple):
    """Which slices to write, which to delete, and how the service stands once that is done.

    What is there already is named with the resource version that was read; a slice without one is to be made.
    """

    writes: tuple[EndpointSlice, ...]
    deletes: tuple[SliceMeta, ...]
    finding: Finding


def plan(
    assignment: Assignment, service: Service | None, slices: Iterable[EndpointSlice], pods: Iterable[Pod]
) -> Plan:
    """Compare what there is with what there should be.

    `slices` are all of the Service, whoever's; `pods` those of the selector, on the owner at least.
    """
    there = {each.metadata.name: each for each in slices}
    ours = {name: each for name, each in there.items() if is_ours(each)}
    if service is None:
        # Without the Service nobody is sent anywhere; when it comes, its slices are made for it.
        deletes = tuple(each.metadata for _, each in sorted(ours.items()))
        return Plan((), deletes, assignment.hindered(_not_found(assignment)))
    unfit, selects = _unfit(assignment, service), _selects(assignment, service)
    if unfit is not None:
        writes = tuple(left for each in ours.values() if (left := _on_owner(assignment, each)) != each)
        return Plan(writes, (), assignment.hindered(unfit))
    if selects is not None and not ours:
        return Plan((), (), assignment.hindered(selects))
    wanted = _wanted(assignment, service, list(pods))
    writes = tuple(
        _at(each, there.get(each.metadata.name))
        for each in wanted
        if not _is_there(each, there.get(each.metadata.name))
    )
    names = {each.metadata.name for each in wanted}
    deletes = tuple(each.metadata for name, each in sorted(ours.items()) if name not in names)
    foreign = _foreign(assignment, [each for each in there.values() if not is_ours(each)])
    return Plan(writes, deletes, _finding(assignment, service, wanted, selects or foreign))


def is_ours(found: EndpointSlice) -> bool:
    """Whether the slice is one that this module wanted."""
    return found.metadata.labels.get(MANAGER_LABEL) == MANAGER


def leftovers(slices: Iterable[EndpointSlice], assignments: Assignments) -> tuple[SliceMeta, ...]:
    """Return those of our slices that are of Services that nobody has assigned any more."""
    wanted = assignments.names(KubernetesService)
    return tuple(
        each.metadata
        for each in slices
        if is_ours(each)
        and (each.metadata.namespace, each.metadata.labels.get(SERVICE_LABEL, "")) not in wanted
        and each.metadata.labels.get(FAILOVER_LABEL) not in assignments.untouched
    )


def _wanted(assignment: Assignment, service: Service, pods: Sequence[Pod]) -> tuple[EndpointSlice, ...]:
    workload = _workload(assignment)
    found = []
    for family in service.spec.ip_families:
        groups: dict[tuple[EndpointPort, ...], list[Endpoint]] = {}
        if workload.pod_selector is None:
            groups[_ports(workload, service, None)] = _of_node(assignment, family)
        else:
            for pod in sorted(pods, key=lambda pod: pod.metadata.name):
                if pod.spec.node_name == assignment.owner and pod.is_ready:
                    groups.setdefault(_ports(workload, service, pod), []).extend(_of_pod(pod, family))
        filled = {ports: endpoints for ports, endpoints in groups.items() if endpoints}
        listed = sorted(filled.items(), key=lambda item: msgspec.json.encode(item[0]))
        for place, (ports, endpoints) in enumerate(
            listed or [(_ports(workload, service, None), [])], start=1
        ):
            suffix = f"-{place}" if place > 1 else ""
            found.append(
                EndpointSlice(
                    metadata=SliceMeta(
                        name=f"{workload.name}-vipkeeper-{family.lower()}{suffix}",
                        namespace=assignment.namespace,
                        labels={
                            SERVICE_LABEL: workload.name,
                            MANAGER_LABEL: MANAGER,
                            FAILOVER_LABEL: assignment.uid,
                        },
                        owner_references=(
                            OwnerReference(
                                api_version=API_VERSION,
                                kind="ServiceFailover",
                                name=assignment.failover,
                                uid=assignment.uid,
                            ),
                        ),
                    ),
                    address_type=family,
                    endpoints=tuple(endpoints),
                    ports=ports,
                )
            )
    return tuple(found)


def _ports(workload: KubernetesService, service: Service, pod: Pod | None) -> tuple[EndpointPort, ...]:
    """Return the ports to be found there; what a Pod's containers do not name is not there."""
    numbers = [(port, workload.port or _number(port, pod)) for port in service.spec.ports]
    return tuple(
        EndpointPort(name=port.name, protocol=port.protocol, port=number, app_protocol=port.app_protocol)
        for port, number in numbers
        if number is not None
    )


def _number(port: ServicePort, pod: Pod | None) -> int | None:
    if isinstance(port.target_port, int):
        return port.target_port
    if port.target_port is None:
        return port.port
    if pod is None:
        return None
    beside = [each for each in pod.spec.init_containers if each.restart_policy == "Always"]
    names = {
        (each.name, each.protocol): each.container_port
        for container in (*beside, *pod.spec.containers)
        for each in container.ports
    }
    return names.get((port.target_port, port.protocol))


def _of_node(assignment: Assignment, family: str) -> list[Endpoint]:
    """Return the owner's node; of several InternalIPs of a family the kubelet prefers the first."""
    site = assignment.site
    addresses = [] if site is None else [each for each in site.addresses if _family(each) == family]
    return [
        Endpoint(addresses=(address,), conditions=SERVING, node_name=assignment.owner)
        for address in addresses[:1]
    ]


def _of_pod(pod: Pod, family: str) -> list[Endpoint]:
    about = pod.metadata
    reference = ObjectReference(kind="Pod", namespace=about.namespace, name=about.name, uid=about.uid)
    return [
        Endpoint(addresses=(each.ip,), conditions=SERVING, node_name=pod.spec.node_name, target_ref=reference)
        for each in pod.status.pod_ips
        if _family(each.ip) == family
    ]


def _family(address: str) -> str:
    try:
        return FAMILIES[ipaddress.ip_address(address).version]
    except ValueError:
        return ""


def _is_there(wanted: EndpointSlice, found: EndpointSlice | None) -> bool:
    """Whether it says just that already; labels of others do no harm."""
    return (
        found is not None
        and wanted.metadata.labels.items() <= found.metadata.labels.items()
        and wanted.metadata.owner_references == found.metadata.owner_references
        and (wanted.endpoints, wanted.ports) == (found.endpoints, found.ports)
    )


def _at(wanted: EndpointSlice, found: EndpointSlice | None) -> EndpointSlice:
    """Return it so that it is written only over what was read, or made where nothing was."""
    if found is None:
        return wanted
    metadata = msgspec.structs.replace(wanted.metadata, resource_version=found.metadata.resource_version)
    return msgspec.structs.replace(wanted, metadata=metadata)


def _on_owner(assignment: Assignment, found: EndpointSlice) -> EndpointSlice:
    """Return a slice of ours without what leads to others than the owner."""
    endpoints = tuple(each for each in found.endpoints if each.node_name == assignment.owner)
    return msgspec.structs.replace(found, endpoints=endpoints)


def _not_found(assignment: Assignment) -> Objection:
    message = (
        f"there is no Service {_workload(assignment).name!r} in the namespace {assignment.namespace!r}: "
        "create it, without a selector, or correct `kubernetesService.name`"
    )
    return assignment.objection(Reason.SERVICE_NOT_FOUND, message)


def _unfit(assignment: Assignment, service: Service) -> Objection | None:
    """Return why nobody can say what its slices should be."""
    workload, spec = _workload(assignment), service.spec
    if spec.type == "ExternalName":
        message = (
            f"the Service {workload.name!r} is of the type ExternalName, which has no endpoints: give it "
            "another type"
        )
        return assignment.objection(Reason.SERVICE_UNFIT, message)
    if workload.port is not None and len(spec.ports) != 1:
        message = (
            f"`kubernetesService.port` is for a Service of one port, and {workload.name!r} has "
            f"{len(spec.ports)}: leave it out, and set each `targetPort` in the Service"
        )
        return assignment.objection(Reason.SERVICE_UNFIT, message)
    names = _named(spec.ports) if workload.port is None and workload.pod_selector is None else ""
    if names:
        message = (
            f"the Service {workload.name!r} has the target port {names}, which only a Pod's container can "
            "give a number, and the endpoint is the owner's node: write the number as its `targetPort`, or "
            "as `kubernetesService.port` here"
        )
        return assignment.objection(Reason.SERVICE_UNFIT, message)
    return None


def _selects(assignment: Assignment, service: Service) -> Objection | None:
    if not service.spec.selector:
        return None
    message = (
        f"the Service {_workload(assignment).name!r} has the selector {_text(service.spec.selector)!r}, so "
        "Kubernetes sends its clients to all of those Pods, wherever they run: remove `spec.selector` from "
        "the Service; to lead to those Pods on the owner only, write the labels here as "
        "`kubernetesService.podSelector`"
    )
    return assignment.objection(Reason.SERVICE_HAS_SELECTOR, message)


def _foreign(assignment: Assignment, slices: Sequence[EndpointSlice]) -> Objection | None:
    """Return what is wrong with slices of others: clients are sent there too."""
    filled = sorted(each.metadata.name for each in slices if each.endpoints)
    if not filled:
        return None
    name = _workload(assignment).name
    by = sorted({each.metadata.labels.get(MANAGER_LABEL) or "somebody" for each in slices if each.endpoints})
    message = (
        f"the Service {name!r} has endpoints that {' and '.join(by)} made ({', '.join(filled)}), so its "
        "clients are sent there too, whoever owns the address: delete these EndpointSlices, and the "
        f"Endpoints object {name!r} if there is one"
    )
    return assignment.objection(Reason.FOREIGN_ENDPOINTS, message)


def _finding(
    assignment: Assignment,
    service: Service,
    wanted: Sequence[EndpointSlice],
    objection: Objection | None,
) -> Finding:
    owner = assignment.owner
    if owner is None:
        return Finding(objection=objection)
    filled = [each for each in wanted if each.endpoints]
    if any(len(each.ports) == len(service.spec.ports) for each in filled):
        return Finding(assignment.report("Active", node=owner), owner, objection)
    families = " or ".join(dict.fromkeys(each.address_type for each in wanted))
    message = f"{owner} has no InternalIP of {families}, as the Service has"
    selector = _workload(assignment).pod_selector
    if selector is not None:
        message = f"no Pod with {_text(selector.match_labels)} is ready on {owner}"
        if filled:
            # Clients would reach some of the Service's ports at most.
            message += (
                f" and has all ports of the Service: its containers must name {_named(service.spec.ports)}"
            )
    return Finding(assignment.report("Starting", message, node=owner), owner, objection)


def _named(ports: Iterable[ServicePort]) -> str:
    """Return the target ports that are names, with their protocols."""
    return ", ".join(
        f"{each.target_port!r} ({each.protocol})" for each in ports if isinstance(each.target_port, str)
    )


def _text(labels: Mapping[str, str]) -> str:
    """Return labels as `kubectl --selector` takes them."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _workload(assignment: Assignment) -> KubernetesService:
    assert isinstance(assignment.workload, KubernetesService)
    return assignment.workload
