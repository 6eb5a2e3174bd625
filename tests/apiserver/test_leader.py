"""Replicas of the controller: one leads, another follows, and neither outlives its right to write."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from apiserver.controllers import NAMESPACE, PREFER_A, admit, end, launch, make
from apiserver.fleet import Fleet

if TYPE_CHECKING:
    from pathlib import Path

    from lab.controlplane import ControlPlane
    from lab.processes import Process

Start = Callable[..., "Process"]


@pytest.fixture
def start(apiserver: ControlPlane, tmp_path: Path) -> Iterator[Start]:
    """Start a controller replica; all of them are ended with the test."""
    running: list[Process] = []
    own = admit(apiserver)

    def run(identity: str = "one", *, kubeconfig: Path = own) -> Process:
        running.append(launch(kubeconfig, tmp_path / identity, identity))
        return running[-1]

    yield run
    for process in running:
        end(process)
    apiserver.api.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")


@pytest.fixture
def fleet(apiserver: ControlPlane) -> Fleet:
    fleet = Fleet(apiserver.api, "node-a", "node-b", "node-c")
    fleet.arrive()
    return fleet


def test_of_two_replicas_one_leads_and_the_other_follows_it_at_once_when_it_is_stopped(
    fleet: Fleet, start: Start
) -> None:
    one = start("one")
    one.wait_for_output("This replica leads", patience_s=20)
    two = start("two")
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    assert one.terminate() == 0
    two.wait_for_output("This replica leads", patience_s=5)
    fleet.silent.add("node-a")
    fleet.take_over(fleet.virtual_ip("web")["metadata"]["uid"], "node-b")
    fleet.settle(lambda: fleet.owns("web", "node-b"))


def test_a_killed_leader_is_followed_when_its_lease_has_run_out(fleet: Fleet, start: Start) -> None:
    one = start("one")
    one.wait_for_output("This replica leads", patience_s=20)
    two = start("two")
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    one.kill()
    two.wait_for_output("This replica leads", patience_s=25)
    fleet.unfit["node-a"] = ("CheckFailed", "app: connection refused")
    fleet.settle(lambda: fleet.owns("web", "node-b"))


def test_a_leader_that_was_frozen_past_its_lease_ends_and_writes_nothing(fleet: Fleet, start: Start) -> None:
    one = start("one")
    one.wait_for_output("This replica leads", patience_s=20)
    two = start("two")
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    one.freeze()
    two.wait_for_output("This replica leads", patience_s=25)
    fleet.unfit["node-a"] = ("CheckFailed", "app: connection refused")
    fleet.settle(lambda: fleet.owns("web", "node-b"))
    before = fleet.virtual_ip("web")["metadata"]["resourceVersion"]
    one.thaw()
    assert one.wait(15) == 1
    assert fleet.virtual_ip("web")["metadata"]["resourceVersion"] == before


def test_an_api_server_that_was_away_is_found_again_and_what_went_meanwhile_is_noticed(
    apiserver: ControlPlane, fleet: Fleet, start: Start
) -> None:
    process = start()
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    apiserver.stop_apiserver()
    apiserver.start_apiserver()
    fleet.unfit["node-a"] = ("CheckFailed", "app: connection refused")
    fleet.settle(lambda: fleet.owns("web", "node-b"))
    assert process.is_alive


def test_missing_permissions_end_it_with_a_sentence(apiserver: ControlPlane, start: Start) -> None:
    kubeconfig = apiserver.kubeconfig_of_service_account(NAMESPACE, "nobody")
    process = start(kubeconfig=kubeconfig)
    assert process.wait(30) == 3
    assert "RBAC" in process.output()
    assert "Traceback" not in process.output()
