"""The cluster's objects as the API server has them, and a small world that is made of them."""

from __future__ import annotations

import base64
import copy
from typing import TYPE_CHECKING, Any

from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.resources import FailoverDomainStatus, to_dict, with_configuration
from vipcourier.planning import Sources

if TYPE_CHECKING:
    from vipcourier.reading import Document

KEY_1, KEY_2, KEY_3 = (bytes([n]) * 32 for n in (1, 2, 3))


def meta(name: str, **more: Any) -> Document:
    return {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1, **more}


def node(name: str, *, addresses: tuple[str, ...] = (), **labels: str) -> Document:
    listed = [{"type": "Hostname", "address": name}]
    listed += [{"type": "InternalIP", "address": address} for address in addresses]
    return {"metadata": meta(name, labels=labels), "spec": {}, "status": {"addresses": listed}}


def nodes(*names: str) -> list[Document]:
    return [{"nodeName": name, "address": f"192.0.2.{ord(name[0])}"} for name in names]


def witness_set(names: str, *, has_api_vote: bool = False) -> WitnessSet:
    return WitnessSet(tuple(Member(name, f"192.0.2.{ord(name)}") for name in names), has_api_vote)


def configuration(
    witnesses: str, *, epoch: int = 1, former: str = "", name: str = "default"
) -> Configuration:
    """Return a configuration as the controller writes it."""
    found = Configuration(
        epoch=epoch,
        witnesses=witness_set(witnesses),
        former=witness_set(former) if former else None,
    )
    return found.sealed(f"uid-{name}")


def told(found: Configuration) -> Document:
    """Return what a domain's status says of a configuration."""
    status = to_dict(with_configuration(FailoverDomainStatus(), found))
    status.pop("observedGeneration", None)
    return status


def domain(
    name: str = "default", *, witnesses: str = "", former: str = "", epoch: int = 1, **spec: Any
) -> Document:
    status: Document = {"observedGeneration": 1, "members": nodes("a", "b")}
    if witnesses:
        status |= told(configuration(witnesses, epoch=epoch, former=former, name=name))
    return {"metadata": meta(name), "spec": spec, "status": status}


def accepted(status: str = "True", generation: int = 1) -> Document:
    return {
        "type": "Accepted",
        "status": status,
        "reason": "Accepted",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "observedGeneration": generation,
    }


def vip(name: str = "web", *, conditions: list[Document] | None = None, **spec: Any) -> Document:
    return {
        "metadata": meta(name),
        "spec": {"addresses": ["192.0.2.10/24"], **spec},
        "status": {"conditions": [accepted()] if conditions is None else conditions},
    }


def service(name: str = "app", *, follows: str = "web", **spec: Any) -> Document:
    """Return one service of a ServiceFailover, on nodes `a` and `b`."""
    return {
        "name": name,
        "virtualIPRef": {"name": follows},
        "primary": "a",
        "standbys": ["b"],
        "workload": {"systemd": {"unit": f"{name}.service"}},
        **spec,
    }


def failover(
    name: str = "billing",
    *services: Document,
    conditions: list[Document] | None = None,
    created: int = 1,
    **spec: Any,
) -> Document:
    """Return a ServiceFailover of the namespace `prod`, made on that day of January 2026."""
    return {
        "metadata": meta(name, namespace="prod", creationTimestamp=f"2026-01-{created:02}T00:00:00Z"),
        "spec": {"mode": "Cluster", "services": list(services or (service(),)), **spec},
        "status": {"conditions": [accepted()] if conditions is None else conditions},
    }


def in_force(*services: Document, generation: int = 1, **spec: Any) -> Document:
    """Return what a status says was accepted last."""
    return {"generation": generation, "spec": {"mode": "Cluster", "services": list(services), **spec}}


def secret(name: str = "vipkeeper-heartbeat", **data: bytes) -> Document:
    encoded = {key.removeprefix("k"): base64.b64encode(value).decode() for key, value in data.items()}
    return {"metadata": meta(name), "data": encoded}


def world(**changes: list[Document]) -> Sources:
    usual = {
        "virtual_ips": [vip()],
        "failovers": [],
        "domains": [domain()],
        "nodes": [node("a", addresses=("192.0.2.1",)), node("b"), node("c", role="edge")],
        "secrets": [secret(k1=KEY_1)],
    }
    return Sources(**{**usual, **changes})


def changed(document: Document, **more: Any) -> Document:
    """Return a newer version of an object, with these parts of it replaced."""
    newer = copy.deepcopy(document)
    newer["metadata"]["resourceVersion"] = str(int(newer["metadata"]["resourceVersion"]) + 1)
    for part, values in more.items():
        newer[part] = {**newer.get(part, {}), **values}
    return newer
