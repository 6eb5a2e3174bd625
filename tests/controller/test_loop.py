"""The controller's loop: how it ends and what it tries first; its API server is only a dictionary."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

from kubernetes.client.configuration import Configuration

from vipcluster.client import FAILOVER_DOMAINS, SECRETS, VIRTUAL_IPS, Cluster, Listing, NotFound, Unavailable
from vipcontroller import __main__ as main
from vipcontroller.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pytest

    from vipcluster.client import Resource

Object = dict[str, Any]
PATIENCE_S = 20.0


class Shelves(Cluster):
    """Objects by kind and name. FailoverDomains cannot be written; `tried` has the kinds that were to be."""

    def __init__(self, objects: Mapping[Resource, Sequence[Object]]) -> None:
        super().__init__(Configuration(), user_agent="test")
        self.objects = {
            (resource, each["metadata"]["name"]): each
            for resource, found in objects.items()
            for each in found
        }
        self.tried: list[str] = []
        self.changed = threading.Condition()

    def serves(self, _resource: Resource) -> bool:
        """Have nothing watched: the first listing has everything."""
        return False

    def list(self, resource: Resource, **_: Any) -> Listing:
        found = [each for (kind, _), each in self.objects.items() if kind == resource]
        return Listing(copy.deepcopy(found), 1)

    def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
        try:
            return copy.deepcopy(self.objects[resource, name])
        except KeyError:
            raise NotFound(f"{namespace}/{name}") from None

    def create(self, resource: Resource, document: Object, *, namespace: str = "", manager: str) -> Object:
        assert namespace
        assert manager
        self.objects[resource, document["metadata"]["name"]] = document
        return document

    def replace(self, resource: Resource, document: Object, *, manager: str) -> Object:
        assert manager
        self.objects[resource, document["metadata"]["name"]] = document
        return document

    def apply_status(self, resource: Resource, name: str, status: Mapping[str, Any], **_: Any) -> Object:
        return self._write(resource, name, {"status": status})

    def set_finalizers(self, resource: Resource, name: str, finalizers: Sequence[str], **_: Any) -> Object:
        return self._write(resource, name, {"metadata": {"finalizers": [*finalizers]}})

    def _write(self, resource: Resource, name: str, change: Object) -> Object:
        with self.changed:
            self.tried.append(resource.kind)
            self.changed.notify_all()
        if resource == FAILOVER_DOMAINS:
            raise Unavailable("it hangs")
        obj = self.objects[resource, name]
        metadata = {**obj["metadata"], **change.get("metadata", {})}
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        self.objects[resource, name] = {**obj, **change, "metadata": metadata}
        return copy.deepcopy(self.objects[resource, name])


def obj(name: str, **spec: Any) -> Object:
    metadata = {"name": name, "uid": name, "resourceVersion": "1", "generation": 1}
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
    return {"metadata": metadata, "spec": spec, "status": {"observedGeneration": -1}}


def begin(cluster: Cluster) -> tuple[main.Controller, threading.Thread, list[int]]:
    """Start a controller; returns it, its thread and its exit status once there is one."""
    controller = main.Controller(cluster, namespace="system", identity="one", metrics=Metrics())
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(controller.run()), daemon=True)
    thread.start()
    return controller, thread, statuses


def test_a_controller_that_has_nothing_to_do_for_long_ends_at_once_when_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = threading.Event()

    def idle_s(_look_s: float, **_: Any) -> float:
        looked.set()
        return 1000.0

    monkeypatch.setattr(main, "longest_idle_s", idle_s)
    controller, thread, statuses = begin(Shelves({}))
    assert looked.wait(PATIENCE_S)
    controller.stop()
    thread.join(PATIENCE_S)
    assert statuses == [0]


def test_what_cannot_be_written_is_tried_again_after_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "WRITERS", 1)
    cluster = Shelves(
        {FAILOVER_DOMAINS: [obj("default")], VIRTUAL_IPS: [obj("web", addresses=["192.0.2.10/24"])]}
    )
    controller, thread, statuses = begin(cluster)
    with cluster.changed:
        assert cluster.changed.wait_for(lambda: cluster.tried.count("FailoverDomain") >= 2, PATIENCE_S)
    controller.stop()
    thread.join(PATIENCE_S)
    assert statuses == [0]
    assert cluster.tried[:4] == ["FailoverDomain", "VirtualIP", "VirtualIP", "FailoverDomain"]


def test_a_look_that_fails_ends_nothing_and_the_next_one_decides() -> None:
    class Odd(Shelves):
        """Answers the first question for a Secret with what no door lets through."""

        is_asked = False

        def get(self, resource: Resource, name: str, *, namespace: str = "") -> Object:
            if resource == SECRETS and not self.is_asked:
                self.is_asked = True
                raise ZeroDivisionError
            return super().get(resource, name, namespace=namespace)

    cluster = Odd({FAILOVER_DOMAINS: [obj("default")]})
    controller, thread, statuses = begin(cluster)
    with cluster.changed:
        assert cluster.changed.wait_for(lambda: bool(cluster.tried), PATIENCE_S)
    controller.stop()
    thread.join(PATIENCE_S)
    assert (cluster.is_asked, statuses) == (True, [0])


def test_an_api_server_that_has_enough_is_left_alone_until_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "WRITERS", 1)

    class Busy(Shelves):
        """Has enough at the first write."""

        def _write(self, resource: Resource, *_: Any) -> Object:
            with self.changed:
                self.tried.append(resource.kind)
                self.changed.notify_all()
            raise Unavailable("too many requests", status=429)

    cluster = Busy({VIRTUAL_IPS: [obj(f"web-{number}", addresses=["192.0.2.10/24"]) for number in range(50)]})
    at_looks: list[int] = []

    def idle_s(_look_s: float, **_: Any) -> float:
        with cluster.changed:
            at_looks.append(len(cluster.tried))
            cluster.changed.notify_all()
        return 0.01

    monkeypatch.setattr(main, "longest_idle_s", idle_s)
    controller, thread, statuses = begin(cluster)
    with cluster.changed:
        assert cluster.changed.wait_for(lambda: len(at_looks) >= 3, PATIENCE_S)
    controller.stop()
    thread.join(PATIENCE_S)
    assert (at_looks[:3], statuses) == ([1, 2, 3], [0])
