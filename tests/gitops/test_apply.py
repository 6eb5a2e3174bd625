"""Our objects under a GitOps tool: a real API server, a real controller, and manifests in any order.

The examples are applied by server-side apply as Argo CD does it, what follows an address first, then the
addresses, then the controller, and their domain last of all.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from apiserver.controllers import ROOT, admit, end, launch
from apiserver.fleet import API_VERSION, Fleet, condition, eventually
from gitops.argo import run_kstatus
from lab.api import APPLY, manifests_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.api import Api
    from lab.controlplane import ControlPlane

Object = dict[str, Any]

MANAGER = "argocd-controller"
OURS = ("VirtualIP", "ServiceFailover", "FailoverDomain", "Switchover")
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
QUIET_S = 4


@dataclass(frozen=True, slots=True)
class World:
    """An API server with all examples in it, in force, and agents that obey."""

    plane: ControlPlane
    fleet: Fleet
    manifests: tuple[Object, ...]
    at_first: tuple[Object, ...]
    """The objects before there was a controller."""
    without_domain: tuple[Object, ...]
    """And before there was a domain."""

    @property
    def api(self) -> Api:
        return self.plane.api

    def objects(self) -> list[Object]:
        """Return all objects of the examples as they are now."""
        return [_get(self.api, each) for each in self.manifests]

    def settle(self) -> None:
        """Obey until every object has been seen as it is."""
        self.fleet.settle(
            lambda: all(
                each["status"]["observedGeneration"] == each["metadata"]["generation"]
                for each in self.objects()
                if each["kind"] in OURS
            ),
            what="every spec is seen",
        )


def of(kind: str) -> list[Object]:
    return [each for each in manifests_in(*EXAMPLES) if each["kind"] == kind]


def applied(api: Api, manifest: Object, *, dry: bool = False) -> Object:
    """Apply as Argo CD does with ServerSideApply=true, without force: a conflict would be an error."""
    metadata = manifest["metadata"]
    path = api.path_of(
        manifest["apiVersion"], manifest["kind"], namespace=metadata.get("namespace"), name=metadata["name"]
    )
    query = f"fieldManager={MANAGER}&fieldValidation=Strict{'&dryRun=All' if dry else ''}"
    return api.request("PATCH", f"{path}?{query}", manifest, content_type=APPLY)


def _get(api: Api, manifest: Object) -> Object:
    metadata = manifest["metadata"]
    return api.get(
        manifest["apiVersion"], manifest["kind"], metadata["name"], namespace=metadata.get("namespace")
    )


@pytest.fixture(scope="module")
def world(bare_control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    api = bare_control_plane.api
    kubeconfig = admit(bare_control_plane)
    early = [*of("ServiceFailover"), *of("VirtualIP"), *of("Service")]
    at_first = tuple(applied(api, each) for each in early)
    process = launch(kubeconfig, tmp_path_factory.mktemp("controller") / "log", "gitops")
    try:
        addresses = of("VirtualIP")
        eventually(
            lambda: all(condition(_get(api, each), "Stalled") for each in addresses),
            within_s=60,
            what="every address lacks its domain",
        )
        without_domain = tuple(_get(api, each) for each in addresses)
        fleet = Fleet(api, "node-a", "node-b", "node-c")
        for name in fleet.nodes:
            api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        late = of("FailoverDomain")
        for each in late:
            applied(api, each)
        fleet.publish()
        fleet.settle(
            lambda: all(
                condition(_get(api, each), "Ready").get("status") == "True" for each in (*addresses, *late)
            ),
            within_s=60,
            what="every address is held",
        )
        moves = of("Switchover")
        for each in moves:
            applied(api, each)
        billing = api.get(API_VERSION, "ServiceFailover", "billing", namespace="default")
        held = fleet.virtual_ip("billing")["status"]
        fleet.run(held["owner"], billing, "Active", term=held["term"], since="2026-01-01T00:00:00Z")
        manifests = (*early, *late, *moves)
        world = World(bare_control_plane, fleet, manifests, at_first, without_domain)
        world.settle()
        yield world
    finally:
        end(process)
        api.erase_group("vipkeeper.io")
        for each in of("Service"):
            api.delete("v1", "Service", each["metadata"]["name"], namespace="default")
        for each in api.list("v1", "Node"):
            api.delete("v1", "Node", each["metadata"]["name"])


def test_what_arrives_before_its_controller_is_in_progress(world: World) -> None:
    ours = [each for each in world.at_first if each["kind"] in OURS]
    assert len(ours) > 10
    assert {each["status"] for each in run_kstatus(ours)} == {"InProgress"}


def test_what_arrives_before_its_domain_says_what_is_missing_and_settles_by_itself(world: World) -> None:
    assert {each["status"] for each in run_kstatus(list(world.without_domain))} == {"Failed"}
    reasons = {condition(each, "Stalled")["reason"] for each in world.without_domain}
    assert reasons == {"DomainNotFound"}
    names = {each["metadata"]["name"] for each in world.without_domain}

    def is_current() -> bool:
        found = [world.fleet.virtual_ip(name) for name in names]
        return all(each["status"] == "Current" for each in run_kstatus(found))

    # The examples' Switchovers are under way in between.
    world.fleet.settle(is_current, within_s=60, what="every address is Current")
    billing = world.api.get(API_VERSION, "ServiceFailover", "billing", namespace="default")
    assert run_kstatus([billing])[0]["status"] == "Current", billing["status"]


def test_applying_it_again_writes_nothing(world: World) -> None:
    def is_the_same() -> bool:
        """Whether neither a dry run nor a real apply writes; the controller may come in between."""
        for manifest in world.manifests:
            before = _get(world.api, manifest)
            dry, after = applied(world.api, manifest, dry=True), applied(world.api, manifest)
            for again in (dry, after):
                assert again.get("spec") == before.get("spec")
                assert again["metadata"].get("labels") == before["metadata"].get("labels")
            if not before == dry == after:
                return False
        return True

    eventually(is_the_same, what="an apply that changes nothing")


def test_no_field_that_a_user_wrote_changes_hands(world: World) -> None:
    for manifest in world.manifests:
        found = _get(world.api, manifest)
        if manifest["kind"] in OURS:
            assert found["spec"] == manifest["spec"], "no default was written into it"
        assert found["metadata"].get("labels", {}) == manifest["metadata"].get("labels", {})
        for entry in found["metadata"]["managedFields"]:
            fields = entry["fieldsV1"]
            if entry["manager"].startswith("vipkeeper"):
                assert fields.keys() <= {"f:status", "f:metadata"}, entry
                assert fields.get("f:metadata", {}).keys() <= {"f:finalizers"}, entry
            elif entry["manager"] == MANAGER:
                assert "f:status" not in fields


def test_no_object_bears_the_marks_of_a_framework(world: World) -> None:
    kinds = [(API_VERSION, kind) for kind in (*OURS, "VIPNode")]
    found = [each for version, kind in kinds for each in world.api.list(version, kind)]
    assert len(found) >= len(world.manifests)
    assert "kopf" not in json.dumps(found)


def test_kubectl_apply_finds_nothing_to_change(world: World) -> None:
    """Client-side, with kubectl's own annotation, as well."""
    made = [each for each in EXAMPLES if not each.name.startswith("switchover")]
    files = [option for each in made for option in ("-f", each)]
    world.plane.kubectl("apply", *files)
    world.settle()
    told = world.plane.kubectl("apply", *files).splitlines()
    assert len(told) > 10
    assert all(line.endswith(" unchanged") for line in told), told
    assert "kopf" not in json.dumps(world.objects())


def test_peace_writes_nothing(world: World) -> None:
    """Each kind is watched from now on until the API server ends the watch."""
    world.fleet.settle(lambda: _is_done(world), within_s=60, what="the Switchovers have ended")
    news: list[str] = []

    def watch(kind: str) -> None:
        path = world.api.path_of(API_VERSION, kind)
        if kind == "ServiceFailover":
            path = "/apis/vipkeeper.io/v1alpha1/servicefailovers"
        version = world.api.request("GET", path)["metadata"]["resourceVersion"]
        query = f"watch=1&resourceVersion={version}&timeoutSeconds={QUIET_S}"
        _, text = world.api.raw("GET", f"{path}?{query}", patience_s=QUIET_S + 20)
        news.extend(text.decode().splitlines())

    threads = [threading.Thread(target=watch, args=(kind,)) for kind in OURS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not news


def _is_done(world: World) -> bool:
    found = world.api.list(API_VERSION, "Switchover")
    ended = [
        any(condition(each, kind).get("status") == "True" for kind in ("Complete", "Failed"))
        for each in found
    ]
    moving = [condition(each, "Reconciling") for each in world.api.list(API_VERSION, "VirtualIP")]
    return all(ended) and not any(moving)
