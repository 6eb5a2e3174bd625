"""What is written over and what is not; the API server is a dictionary."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client.configuration import Configuration

from vipapi.workloads import KubernetesService
from vipcluster.client import (
    ENDPOINT_SLICES,
    ApiError,
    Cluster,
    Conflict,
    Listing,
    NotFound,
)
from vipcontroller.assignments import Assignment, Assignments, Site
from vipcontroller.steward import Steward

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vipcluster.client import Resource

Object = dict[str, Any]
SITES = (Site("node-a", ("192.0.2.1",)), Site("node-b", ("192.0.2.2",)))
HTTP = {"name": "http", "port": 80, "protocol": "TCP"}


class Slices(Cluster):
    """A Service for each name that is asked for, and EndpointSlices, written as the API server writes them.

    Who asks for a Service of `refused` is refused; `on_get` is called before each of these requests.
    """

    def __init__(self) -> None:
        super().__init__(Configuration(), user_agent="test")
        self.slices: dict[str, Object] = {}
        self.ports: dict[str, list[Object]] = {}
        self.asked: list[str] = []
        self.written: list[str] = []
        self.refused: dict[str, ApiError] = {}
        self.on_get: Callable[[str], None] = lambda _name: None
        self.version = 0

    def get(self, _resource: Resource, name: str, *, namespace: str = "") -> Object:
        self.on_get(name)
        self.asked.append(name)
        if name in self.refused:
            raise self.refused[name]
        return {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"ipFamilies": ["IPv4"], "ports": self.ports.get(name, [HTTP])},
        }

    def list(self, resource: Resource, *, labels: str = "", **_: Any) -> Listing:
        if resource != ENDPOINT_SLICES:
            return Listing([], 1)
        key, _, value = labels.partition("=")
        found = [each for each in self.slices.values() if each["metadata"]["labels"].get(key) == value]
        return Listing(copy.deepcopy(found), 1)

    def create(self, resource: Resource, document: Object, *, namespace: str = "", manager: str) -> Object:
        assert (resource, bool(manager)) == (ENDPOINT_SLICES, True)
        name = document["metadata"]["name"]
        if name in self.slices:
            raise Conflict(f"{name} already exists")
        metadata = {**document["metadata"], "namespace": namespace, "uid": f"uid-{self.version + 1}"}
        return self._put({**document, "metadata": metadata})

    def merge(
        self, _resource: Resource, name: str, patch: Mapping[str, Any], *, namespace: str = "", manager: str
    ) -> Object:
        assert namespace
        assert manager
        found = self._found(name, patch["metadata"].get("resourceVersion", ""))
        metadata = {**found["metadata"], **patch["metadata"]}
        metadata["labels"] = found["metadata"]["labels"] | patch["metadata"].get("labels", {})
        return self._put({**found, **patch, "metadata": metadata})

    def delete(
        self,
        _resource: Resource,
        name: str,
        *,
        namespace: str = "",
        uid: str = "",
        resource_version: str = "",
    ) -> None:
        assert namespace
        found = self._found(name, resource_version)
        if uid not in {"", found["metadata"]["uid"]}:
            raise Conflict(f"{name} is another one")
        self.written.append(name)
        del self.slices[name]

    def _found(self, name: str, version: str) -> Object:
        if name not in self.slices:
            raise NotFound(name)
        if version not in {"", self.slices[name]["metadata"]["resourceVersion"]}:
            raise Conflict(f"{name} has moved on")
        return self.slices[name]

    def _put(self, document: Object) -> Object:
        self.version += 1
        found = copy.deepcopy(document)
        found["metadata"]["resourceVersion"] = str(self.version)
        self.slices[found["metadata"]["name"]] = found
        self.written.append(found["metadata"]["name"])
        return copy.deepcopy(found)

    def leads_to(self, service: str) -> list[str] | None:
        found = self.slices.get(f"{service}-vipkeeper-ipv4")
        return None if found is None else [ip for each in found["endpoints"] for ip in each["addresses"]]


def entry(number: int, owner: str | None = "node-a", term: int = 1) -> Assignment:
    """Return the assignment of the Service `s<number>`, which follows an address alone."""
    return Assignment(
        uid=f"u{number}",
        namespace="prod",
        failover=f"f{number}",
        service="app",
        virtual_ip="web",
        workload=KubernetesService(name=f"s{number}"),
        owner=owner,
        term=term,
        sites=SITES,
    )


@pytest.fixture
def cluster() -> Slices:
    return Slices()


def begin(cluster: Cluster) -> Steward:
    return Steward(cluster, may_write=lambda: True, on_change=lambda: None, clock=lambda: 0.0)


def woken(cluster: Slices, meanwhile: Callable[[], None]) -> Steward:
    """Return a steward that is frozen between asking whether it leads and its first write."""
    is_frozen = True

    def may_write() -> bool:
        nonlocal is_frozen
        if is_frozen:
            is_frozen = False
            meanwhile()
        return True

    return Steward(cluster, may_write=may_write, on_change=lambda: None, clock=lambda: 0.0)


@pytest.mark.parametrize("is_there", [False, True], ids=["a-new-slice", "another-owner"])
def test_who_wakes_amid_a_write_does_not_lead_back_to_the_former_owner(
    cluster: Slices, *, is_there: bool
) -> None:
    if is_there:
        begin(cluster).look(Assignments((entry(0, None),)))
    successor = begin(cluster)
    former = woken(cluster, lambda: successor.look(Assignments((entry(0, "node-b", 2),))))
    former.look(Assignments((entry(0),)))
    assert cluster.leads_to("s0") == ["192.0.2.2"]
    assert former.carried.reports["u0"]["app"]["node-a"].state == "Waiting"


@pytest.mark.parametrize("is_anew", [False, True], ids=["written-since", "made-anew"])
@pytest.mark.parametrize(
    "given",
    [pytest.param(Assignments(), id="left-over"), pytest.param(Assignments((entry(0),)), id="no-service")],
)
def test_who_wakes_amid_a_deletion_does_not_delete_what_was_written_since(
    cluster: Slices, given: Assignments, *, is_anew: bool
) -> None:
    begin(cluster).look(Assignments((entry(0),)))
    successor = begin(cluster)

    def meanwhile() -> None:
        cluster.refused.clear()
        if is_anew:
            cluster.slices.clear()
        successor.look(Assignments((entry(0, "node-b", 2),)))

    cluster.refused["s0"] = NotFound("GET s0: 404")
    woken(cluster, meanwhile).look(given)
    assert cluster.leads_to("s0") == ["192.0.2.2"]


def test_what_nobody_else_wrote_meanwhile_is_deleted_and_others_labels_stay(cluster: Slices) -> None:
    steward = begin(cluster)
    steward.look(Assignments((entry(0),)))
    [found] = cluster.slices.values()
    found["metadata"]["labels"]["team"] = "red"
    steward.look(Assignments((entry(0, "node-b", 2),)))
    assert cluster.leads_to("s0") == ["192.0.2.2"]
    assert cluster.slices["s0-vipkeeper-ipv4"]["metadata"]["labels"]["team"] == "red"
    steward.look(Assignments())
    assert cluster.slices == {}
