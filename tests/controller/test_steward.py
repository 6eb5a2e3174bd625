"""In which turn assignments are carried out, and what is written over; the API server is a dictionary."""

from __future__ import annotations

import copy
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client.configuration import Configuration

from vipapi.workloads import KubernetesService
from vipcluster.client import (
    ENDPOINT_SLICES,
    ApiError,
    Cluster,
    Conflict,
    Forbidden,
    Listing,
    NotFound,
    Unavailable,
)
from vipcontroller.assignments import Assignment, Assignments, Site
from vipcontroller.steward import SWEEP_S, Steward

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vipcluster.client import Resource

Object = dict[str, Any]
PATIENCE_S = 20.0
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


def entries(count: int, *changed: Assignment) -> Assignments:
    """Return the assignments of so many Services, with some in place of theirs."""
    found = {number: entry(number) for number in range(count)}
    found |= {int(each.uid.removeprefix("u")): each for each in changed}
    return Assignments(tuple(found.values()))


@pytest.fixture
def cluster() -> Slices:
    return Slices()


def begin(cluster: Cluster, clock: Callable[[], float] = lambda: 0.0) -> Steward:
    return Steward(cluster, may_write=lambda: True, on_change=lambda: None, clock=clock)


def change_at_each(cluster: Slices, steward: Steward, requests: int, *, count: int, times: int) -> list[str]:
    """Let the first of so many change its owner again and again; return what was asked for meanwhile."""
    changes, has_ended = 0, threading.Event()
    asked: list[str] = []

    def on_get(_name: str) -> None:
        nonlocal changes
        if changes < times and (len(cluster.asked) + 1) % requests == 0:
            changes += 1
            steward.assign(entries(count, entry(0, term=1 + changes)))
        elif changes == times and not has_ended.is_set():
            asked.extend(cluster.asked)
            has_ended.set()

    cluster.asked.clear()
    cluster.on_get = on_get
    steward.start()
    steward.assign(entries(count, entry(0, term=1)))
    assert has_ended.wait(PATIENCE_S)
    steward.stop()
    return asked


def test_each_has_its_turn_however_often_another_one_changes_its_owner(cluster: Slices) -> None:
    steward = begin(cluster)
    steward.look(entries(20))
    asked = change_at_each(cluster, steward, 3, count=20, times=40)
    assert set(asked) == {f"s{number}" for number in range(20)}


def test_what_is_left_over_is_taken_back_however_often_an_owner_changes(cluster: Slices) -> None:
    now_s = 0.0
    steward = begin(cluster, clock=lambda: now_s)
    steward.look(entries(20))
    begin(cluster).look(Assignments((entry(99),)))
    now_s += SWEEP_S
    assert cluster.leads_to("s99") == ["192.0.2.1"]
    change_at_each(cluster, steward, 3, count=20, times=4)
    assert cluster.leads_to("s99") is None


def test_whose_owner_changed_comes_first(cluster: Slices) -> None:
    steward = begin(cluster)
    steward.look(entries(5))
    cluster.asked.clear()
    steward.look(entries(5, entry(3, "node-b", 2)))
    assert cluster.asked == ["s3", "s0", "s1", "s2", "s4"]


def test_what_was_assigned_anew_meanwhile_is_not_taken_back(cluster: Slices) -> None:
    begin(cluster).look(Assignments((entry(1),)))
    before = cluster.slices["s1-vipkeeper-ipv4"]
    steward = begin(cluster)
    cluster.on_get = lambda _name: steward.assign(entries(2))
    steward.look(Assignments((entry(0),)))
    assert cluster.slices["s1-vipkeeper-ipv4"] == before


def calls(act: Callable[[], None]) -> int:
    """Return how many calls of functions something takes."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("is_first", [True, False], ids=["first-look", "later-look"])
def test_a_look_at_twice_as_many_is_twice_the_work(*, is_first: bool) -> None:
    class Empty(Slices):
        def list(self, *_: object, **__: object) -> Listing:
            return Listing([], 1)

        def create(self, *_: object, **__: object) -> Object:
            return {}

    def work(count: int) -> int:
        steward, assignments = begin(Empty()), entries(count)
        if not is_first:
            steward.look(assignments)
        return calls(lambda: steward.look(assignments))

    assert work(200) < 2.2 * work(100)


def test_what_is_told_of_one_lets_what_is_told_of_the_others_stand(cluster: Slices) -> None:
    steward, found = begin(cluster), []
    twins = (entry(0), entry(1), entry(2))
    steward.look(Assignments(twins))
    before = steward.carried
    cluster.ports["s1"] = [{**HTTP, "targetPort": "unheard-of"}]
    cluster.on_get = lambda _name: found.append(steward.carried)
    steward.look(Assignments(twins))
    assert [set(each.objections) for each in found] == [set(), set(), {"u1"}]
    assert steward.carried.reports["u0"] is before.reports["u0"]
    assert steward.carried.reports["u1"]["app"]["node-a"].state == "Waiting"
    assert steward.carried.answered == before.answered
    cluster.ports.clear()
    steward.look(Assignments(twins))
    assert steward.carried == before
    steward.look(Assignments(twins[1:]))
    assert set(steward.carried.reports) == {"u1", "u2"}


def test_while_nobody_answers_one_is_asked_for_and_it_is_told_once(
    cluster: Slices, caplog: pytest.LogCaptureFixture
) -> None:
    steward = begin(cluster)
    steward.look(entries(4))
    cluster.asked.clear()
    cluster.refused = {f"s{number}": Unavailable(f"GET s{number}: 429", status=429) for number in range(4)}
    with caplog.at_level(logging.WARNING, "vipcontroller"):
        for turn in range(1, 6):
            steward.look(entries(4))
            assert len(cluster.asked) == turn
        assert cluster.asked == ["s0", "s1", "s2", "s3", "s0"]
        assert len(caplog.messages) == 1
        assert caplog.messages[0].endswith("prod/f0/app: GET s0: 429")
        cluster.refused.clear()
        steward.look(entries(4))
        cluster.refused["s2"] = Unavailable("GET s2: 503", status=503)
        steward.look(entries(4))
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["429", "503"]


def test_one_that_is_never_answered_takes_nobodys_turn(cluster: Slices) -> None:
    cluster.refused["s1"] = Unavailable("GET s1: 500", status=500)
    steward = begin(cluster)
    for _ in range(4):
        steward.look(entries(6))
    assert {name: cluster.asked.count(name) >= 2 for name in cluster.asked} == {
        f"s{number}": True for number in range(6)
    }
    assert len(steward.carried.answered) == 5


def test_what_is_refused_is_told_once_while_it_lasts_though_looks_are_broken_off(
    cluster: Slices, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.refused["s0"] = Forbidden("GET s0: 403")
    steward = begin(cluster)
    with caplog.at_level(logging.WARNING, "vipcontroller"):
        steward.look(entries(3))
        cluster.refused["s2"] = Unavailable("GET s2: 503")
        for _ in range(6):
            steward.look(entries(3))
    assert [message.rpartition(": ")[2] for message in caplog.messages] == ["403", "503"]


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
