"""What `helm test` asks of the controller, against a cluster with one that answers, or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from vipcluster.client import NotFound
from vipcontroller.roundtrip import NoAnswer, check

if TYPE_CHECKING:
    from vipcluster.client import Cluster, Resource


class Server:
    """An API server with one VirtualIP at most; `sleep` is when the controller gets its turn."""

    def __init__(self, *, writes: bool = True, lets_go: bool = True, left: bool = False) -> None:
        self.writes, self.lets_go = writes, lets_go
        self.deleted = 0
        self.stored: dict[str, Any] | None = None
        if left:
            self._store({"addresses": []})

    def _store(self, spec: dict[str, Any]) -> None:
        self.stored = {
            "metadata": {"name": "test", "generation": 1},
            "spec": spec,
            "status": {"observedGeneration": -1},
        }

    def get(self, _: Resource, name: str) -> dict[str, Any]:
        if self.stored is None:
            raise NotFound(name, status=404)
        return self.stored

    def create(self, _: Resource, document: dict[str, Any], *, manager: str) -> None:
        assert self.stored is None, manager
        self._store(document["spec"])

    def delete(self, _: Resource, name: str) -> None:
        self.get(_, name)["metadata"]["deletionTimestamp"] = "now"
        self.deleted += 1

    def sleep(self, _: float) -> None:
        if self.stored is None:
            return
        if "deletionTimestamp" in self.stored["metadata"]:
            if self.lets_go:
                self.stored = None
        elif self.writes:
            self.stored["status"] = {"observedGeneration": 1, "conditions": [{"type": "Accepted"}]}


def _check(server: Server) -> None:
    check(cast("Cluster", server), "test", sleep=server.sleep, patience_s=3)


@pytest.mark.parametrize("left", [False, True])
def test_a_controller_that_answers_passes_and_nothing_is_left(left: bool) -> None:  # noqa: FBT001 - a table
    server = Server(left=left)
    _check(server)
    assert server.stored is None


def test_a_controller_that_writes_no_status_is_told_and_nothing_is_left() -> None:
    server = Server(writes=False)
    with pytest.raises(NoAnswer, match="has written the status"):
        _check(server)
    assert server.deleted == 1


def test_a_controller_that_lets_nothing_go_is_told() -> None:
    with pytest.raises(NoAnswer, match="has let the deleted VirtualIP go"):
        _check(Server(lets_go=False))


def test_what_a_killed_run_has_left_is_told_when_nobody_lets_it_go() -> None:
    with pytest.raises(NoAnswer, match="that was there is not let go"):
        _check(Server(lets_go=False, left=True))
