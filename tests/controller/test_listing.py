"""What a watch lists when some of it cannot be: the API server is a dictionary, and nothing is streamed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes.client.configuration import Configuration

from vipcluster import watch as module
from vipcluster.client import (
    NODES,
    VIP_NODES,
    VIRTUAL_IPS,
    ApiError,
    Cluster,
    Forbidden,
    Listing,
    Unavailable,
)
from vipcluster.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vipcluster.client import Resource

PATIENCE_S = 20.0
ALL = (VIRTUAL_IPS, VIP_NODES, NODES)


class Lists(Cluster):
    """One object of each kind, but of those that are refused."""

    def __init__(self) -> None:
        super().__init__(Configuration(), user_agent="test")
        self.refused: dict[Resource, ApiError] = {}
        self.asked: list[Resource] = []
        self.changed = threading.Condition()
        self.on_list: Callable[[Resource], None] = lambda _resource: None

    def serves(self, _resource: Resource) -> bool:
        """Have nothing watched: listings have everything."""
        return False

    def list(self, resource: Resource, **_: Any) -> Listing:
        self.on_list(resource)
        with self.changed:
            self.asked.append(resource)
            self.changed.notify_all()
            if resource in self.refused:
                raise self.refused[resource]
        metadata = {"name": "one", "uid": resource.plural, "resourceVersion": "1"}
        return Listing([{"kind": resource.kind, "metadata": metadata}], 1)

    def wait(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so, which is looked at when a list is asked for."""
        with self.changed:
            assert self.changed.wait_for(is_so, PATIENCE_S), self.asked

    def wait_for_more(self, resource: Resource, times: int) -> None:
        with self.changed:
            before = self.asked.count(resource)
        self.wait(lambda: self.asked.count(resource) >= before + times)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Lists:
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    monkeypatch.setattr(module, "PATIENCE_S", 0.0)
    return Lists()


@pytest.fixture
def watch(cluster: Lists) -> Iterator[Watch]:
    found = Watch(cluster, ALL, resync_s=3600)
    yield found
    found.stop()


def listed(watch: Watch) -> set[str]:
    return {each["kind"] for resource in ALL for each in watch.documents(resource)}


@pytest.mark.parametrize("kind", ALL, ids=[each.plural for each in ALL])
def test_a_kind_that_cannot_be_listed_keeps_no_other_from_being_listed(
    cluster: Lists, watch: Watch, kind: Resource
) -> None:
    cluster.refused[kind] = Unavailable("503")
    watch.start()
    cluster.wait_for_more(kind, 3)
    assert listed(watch) == {each.kind for each in ALL} - {kind.kind}
    assert not watch.is_complete
    assert {cluster.asked.count(each) for each in ALL if each != kind} == {1}
    cluster.refused.clear()
    assert watch.wait(PATIENCE_S)
    while not watch.is_complete:
        assert watch.wait(PATIENCE_S)
    assert listed(watch) == {each.kind for each in ALL}


def test_a_refusal_that_lasts_is_told_though_other_kinds_are_listed(cluster: Lists) -> None:
    watch = Watch(cluster, ALL, resync_s=0.001)
    told: list[ApiError | None] = []
    cluster.on_list = lambda _resource: told.append(watch.failure)
    cluster.refused[NODES] = Forbidden("403 nodes")
    watch.start()
    try:
        cluster.wait_for_more(NODES, 6)
        assert {str(each) for each in told[-6:]} == {"403 nodes"}
        cluster.refused.clear()
        while not watch.is_complete:
            assert watch.wait(PATIENCE_S)
        assert watch.failure is None
    finally:
        watch.stop()


def test_no_answer_about_one_kind_says_nothing_of_a_refusal_of_another(cluster: Lists, watch: Watch) -> None:
    cluster.refused = {VIP_NODES: Forbidden("403 vipnodes"), NODES: Unavailable("503 nodes")}
    watch.start()
    cluster.wait_for_more(VIP_NODES, 4)
    assert str(watch.failure) == "403 vipnodes"


def test_a_refusal_is_none_until_it_has_lasted(
    cluster: Lists, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 3600.0)
    cluster.refused[VIP_NODES] = Forbidden("403 vipnodes")
    watch.start()
    cluster.wait_for_more(VIP_NODES, 4)
    assert watch.failure is None


def test_each_kind_that_is_interrupted_is_told_once(
    cluster: Lists, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.refused = {VIP_NODES: Unavailable("503 vipnodes"), NODES: Unavailable("503 nodes")}
    watch.start()
    cluster.wait_for_more(NODES, 4)
    told = [record.__dict__["error"] for record in caplog.records if record.name == "vipcluster.watch"]
    assert sorted(told) == ["503 nodes", "503 vipnodes"]
