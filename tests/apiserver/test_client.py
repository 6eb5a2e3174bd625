"""The door for requests, against a real API server."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from kubernetes.client.configuration import Configuration

from apiserver.controllers import follow
from apiserver.fleet import API_VERSION, Fleet
from vipapi.conditions import Condition
from vipapi.resources import VirtualIP, VirtualIPStatus, parse
from vipcluster.client import (
    FAILOVER_DOMAINS,
    NODES,
    SECRETS,
    SERVICE_FAILOVERS,
    SERVICES,
    SWITCHOVERS,
    VIRTUAL_IPS,
    ApiError,
    BadConfiguration,
    Cluster,
    Conflict,
    FieldsOwned,
    Forbidden,
    NotFound,
    Resource,
    Unavailable,
    connect,
)
from vipcluster.events import Happening, tell
from vipcontroller.scribe import Scribe
from vipcontroller.writes import StatusWrite

if TYPE_CHECKING:
    from pathlib import Path

    from lab.controlplane import ControlPlane

Object = dict[str, Any]
HAPPENED = datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))


@pytest.fixture
def cluster(apiserver: ControlPlane) -> Cluster:
    return connect(str(apiserver.kubeconfig), user_agent="test")


@pytest.fixture
def web(apiserver: ControlPlane) -> Object:
    spec = {"addresses": ["192.0.2.10/24"]}
    return apiserver.api.apply(
        {"apiVersion": API_VERSION, "kind": "VirtualIP", "metadata": {"name": "web"}, "spec": spec}
    )


def status(owner: str) -> Object:
    return {"observedGeneration": 1, "owner": owner}


def test_a_status_is_written_whole_and_a_field_left_out_is_gone(cluster: Cluster, web: Object) -> None:
    written = cluster.apply_status(VIRTUAL_IPS, "web", {**status("node-a"), "term": 3}, manager="us")
    assert (written["status"]["owner"], written["status"]["term"]) == ("node-a", 3)
    written = cluster.apply_status(VIRTUAL_IPS, "web", status("node-b"), manager="us")
    assert "term" not in written["status"]
    assert written["spec"] == web["spec"]
    assert {field["operation"] for field in written["metadata"]["managedFields"]} == {"Apply"}


def test_a_status_decided_on_an_older_version_is_refused(cluster: Cluster, web: Object) -> None:
    version = web["metadata"]["resourceVersion"]
    cluster.apply_status(VIRTUAL_IPS, "web", status("a"), manager="us", resource_version=version)
    with pytest.raises(Conflict):
        cluster.apply_status(VIRTUAL_IPS, "web", status("b"), manager="us", resource_version=version)
    assert cluster.get(VIRTUAL_IPS, "web")["status"]["owner"] == "a"


def test_a_namesake_made_anew_is_not_written(cluster: Cluster, web: Object) -> None:
    version = web["metadata"]["resourceVersion"]
    cluster.delete(VIRTUAL_IPS, "web")
    cluster.create(VIRTUAL_IPS, {"metadata": {"name": "web"}, "spec": web["spec"]}, manager="us")
    with pytest.raises(Conflict):
        cluster.apply_status(VIRTUAL_IPS, "web", status("a"), manager="us", resource_version=version)


@pytest.mark.parametrize("stale", ["uid", "resource_version"])
def test_a_deletion_may_be_of_one_object_and_one_version_of_it(
    cluster: Cluster, web: Object, stale: str
) -> None:
    metadata = cluster.apply_status(VIRTUAL_IPS, "web", status("a"), manager="us")["metadata"]
    assert metadata["resourceVersion"] != web["metadata"]["resourceVersion"]
    wanted = {"uid": metadata["uid"], "resource_version": metadata["resourceVersion"]}
    older = {"uid": "of-another", "resource_version": web["metadata"]["resourceVersion"]}
    with pytest.raises(Conflict):
        cluster.delete(VIRTUAL_IPS, "web", **{**wanted, stale: older[stale]})
    cluster.delete(VIRTUAL_IPS, "web", **wanted)
    with pytest.raises(NotFound):
        cluster.get(VIRTUAL_IPS, "web")


def test_a_patch_may_be_of_one_version(cluster: Cluster, web: Object) -> None:
    version = web["metadata"]["resourceVersion"]

    def label(value: str) -> Object:
        patch = {"metadata": {"resourceVersion": version, "labels": {"team": value}}}
        return cluster.merge(VIRTUAL_IPS, "web", patch, manager="us")

    assert label("red")["metadata"]["labels"] == {"team": "red"}
    with pytest.raises(Conflict):
        label("blue")


def test_what_is_not_there_is_not_made_by_its_status(cluster: Cluster) -> None:
    with pytest.raises(NotFound):
        cluster.apply_status(VIRTUAL_IPS, "nowhere", status("a"), manager="us")


def test_finalizers_are_swapped_only_at_the_version_they_were_read_at(cluster: Cluster, web: Object) -> None:
    version = web["metadata"]["resourceVersion"]
    with_ours = cluster.set_finalizers(
        VIRTUAL_IPS, "web", ["vipkeeper.io/release"], resource_version=version, manager="us"
    )
    assert with_ours["metadata"]["finalizers"] == ["vipkeeper.io/release"]
    with pytest.raises(Conflict):
        cluster.set_finalizers(VIRTUAL_IPS, "web", [], resource_version=version, manager="us")


def test_a_listing_in_chunks_is_whole_and_named(
    cluster: Cluster, web: Object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert web
    for number in range(5):
        spec = {"addresses": [f"192.0.2.{20 + number}/24"]}
        cluster.create(VIRTUAL_IPS, {"metadata": {"name": f"vip-{number}"}, "spec": spec}, manager="us")
    monkeypatch.setattr("vipcluster.client.CHUNK", 2)
    listing = cluster.list(VIRTUAL_IPS)
    assert sorted(each["metadata"]["name"] for each in listing.documents) == [
        *(f"vip-{number}" for number in range(5)),
        "web",
    ]
    assert {each["kind"] for each in listing.documents} == {"VirtualIP"}
    assert listing.version >= max(int(each["metadata"]["resourceVersion"]) for each in listing.documents)


def test_a_hundred_repeats_are_one_event(cluster: Cluster, apiserver: ControlPlane, web: Object) -> None:
    happening = Happening(
        name="web",
        uid=web["metadata"]["uid"],
        type="Warning",
        action="Observe",
        reason="NoStandby",
        note="no other node could take over",
        at=HAPPENED,
    )
    for _ in range(100):
        tell(cluster, VIRTUAL_IPS, happening, controller="controller", instance="one", manager="us")
    events = apiserver.api.list("events.k8s.io/v1", "Event", namespace="default")
    (event,) = [each for each in events if each["regarding"]["uid"] == web["metadata"]["uid"]]
    assert event["series"]["count"] == 100
    assert event["eventTime"] == event["series"]["lastObservedTime"] == "2026-01-01T12:00:00.000000Z"
    assert event["reportingController"] == "vipkeeper.io/controller"
    assert "vipkeeper" in apiserver.kubectl("describe", "virtualip", "web")


def test_an_event_about_a_namespaced_object_is_where_the_object_is(
    cluster: Cluster, apiserver: ControlPlane
) -> None:
    billing = follow(Fleet(apiserver.api), "billing", "web", namespace="prod")
    happening = Happening(
        name="billing",
        namespace="prod",
        uid=billing["metadata"]["uid"],
        type="Warning",
        action="Observe",
        reason="ServiceFailed",
        note="app: Failed on node-a",
        at=HAPPENED,
    )
    for _ in range(2):
        tell(cluster, SERVICE_FAILOVERS, happening, controller="controller", instance="one", manager="us")
    [event] = [
        each
        for each in apiserver.api.list("events.k8s.io/v1", "Event", namespace="prod")
        if each["regarding"]["uid"] == billing["metadata"]["uid"]
    ]
    assert event["series"]["count"] == 2
    assert "ServiceFailed" in apiserver.kubectl("describe", "servicefailover", "billing", "--namespace=prod")


@pytest.mark.parametrize(
    ("name", "note"),
    [
        pytest.param("web", "Zu spät: " + "ü" * 1020, id="a note of more bytes than letters"),
        pytest.param("w." * 126 + "w", "late", id="the longest name of an object"),
    ],
)
def test_no_note_and_no_name_is_too_long_for_an_event(cluster: Cluster, name: str, note: str) -> None:
    happening = Happening(
        name=name, uid="some-uid", type="Warning", action="Look", reason="Late", note=note, at=HAPPENED
    )
    tell(cluster, VIRTUAL_IPS, happening, controller="controller", instance="one", manager="us")


@pytest.mark.parametrize(
    ("resource", "is_served"),
    [
        pytest.param(SWITCHOVERS, True, id="ours"),
        pytest.param(NODES, True, id="core"),
        pytest.param(Resource("vipkeeper.io", "v1alpha1", "nothings", "Nothing"), False, id="no-such-kind"),
        pytest.param(Resource("nobody.example", "v1", "nothings", "Nothing"), False, id="no-such-group"),
    ],
)
def test_discovery_says_what_is_served(cluster: Cluster, resource: Resource, *, is_served: bool) -> None:
    assert cluster.serves(resource) is is_served


def test_what_rbac_refuses_is_told_apart(apiserver: ControlPlane) -> None:
    nobody = connect(str(apiserver.kubeconfig_of_service_account("default", "nobody")), user_agent="test")
    with pytest.raises(Forbidden, match="cannot list resource"):
        nobody.list(FAILOVER_DOMAINS)
    with pytest.raises(Forbidden):
        nobody.get(SECRETS, "any", namespace="default")


def test_a_bad_object_is_refused_with_the_servers_sentence(cluster: Cluster) -> None:
    document = {"metadata": {"name": "bad"}, "spec": {"addresses": ["127.0.0.1"]}}
    with pytest.raises(ApiError, match="addresses") as refusal:
        cluster.create(VIRTUAL_IPS, document, manager="us")
    assert refusal.value.status == 422


def test_nobody_at_the_address_is_unavailable(apiserver: ControlPlane, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    config = json.loads(apiserver.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    with pytest.raises(Unavailable, match="no answer"):
        connect(str(tmp_path / "kubeconfig"), user_agent="test").get(NODES, "any")


@pytest.mark.parametrize("answer", [b"<html>please log in</html>", b"[]", b"", b"\xff"])
def test_an_answer_that_is_no_object_is_unavailable(answer: bytes, tmp_path: Path) -> None:
    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        asked = threading.Thread(target=proxy.handle_request)
        asked.start()
        config = {
            "clusters": [{"name": "one", "cluster": {"server": f"http://127.0.0.1:{proxy.server_port}"}}],
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
            "users": [{"name": "one", "user": {}}],
            "current-context": "one",
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        with pytest.raises(Unavailable, match="no object"):
            connect(str(tmp_path / "kubeconfig"), user_agent="test").get(NODES, "any")
        asked.join()


def test_a_token_that_cannot_be_read_is_unavailable(tmp_path: Path) -> None:
    def read(configuration: Configuration) -> None:
        configuration.api_key["authorization"] = (tmp_path / "token").read_text()

    configuration = Configuration(host="http://127.0.0.1:9")
    configuration.api_key["authorization"], configuration.refresh_api_key_hook = "one", read
    with pytest.raises(Unavailable, match="token"):
        Cluster(configuration, user_agent="test").get(NODES, "any")


def test_a_missing_kubeconfig_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="nowhere"):
        connect(str(tmp_path / "nowhere"), user_agent="test")


def test_an_apply_gives_up_what_it_no_longer_names_and_names_whose_fields_are_in_its_way(
    apiserver: ControlPlane, cluster: Cluster
) -> None:
    def apply(manager: str, *, is_forced: bool = False, **spec: Any) -> Object:
        document = {"metadata": {"name": "applied"}, "spec": {"ports": [port], **spec}}
        return cluster.apply(SERVICES, document, namespace="default", manager=manager, is_forced=is_forced)

    port = {"port": 80, "protocol": "TCP"}
    try:
        assert apply("us", publishNotReadyAddresses=True)["spec"]["publishNotReadyAddresses"] is True
        with pytest.raises(FieldsOwned) as refused:
            apply("them", publishNotReadyAddresses=False)
        assert refused.value.fields == ((".spec.publishNotReadyAddresses", "us"),)
        version = {"metadata": {"name": "applied", "resourceVersion": "1"}}
        with pytest.raises(Conflict) as late:
            cluster.apply(SERVICES, version, namespace="default", manager="us")
        assert not isinstance(late.value, FieldsOwned)
        assert "publishNotReadyAddresses" not in apply("us")["spec"]
        apply("us", sessionAffinity="None")
        assert apply("them", sessionAffinity="ClientIP", is_forced=True)["spec"]["sessionAffinity"] == (
            "ClientIP"
        )
    finally:
        apiserver.api.delete("v1", "Service", "applied")


def test_what_another_manager_has_in_a_status_goes_with_our_next_write_but_for_its_own_conditions(
    cluster: Cluster, web: Object
) -> None:
    def condition(kind: str) -> Object:
        since = "2026-01-01T00:00:00Z"
        return {"type": kind, "status": "True", "reason": "Fine", "message": "", "lastTransitionTime": since}

    def write(**status: Any) -> Object:
        found = parse(VirtualIP, cluster.get(VIRTUAL_IPS, web["metadata"]["name"]))
        accepted = msgspec.convert(condition("Accepted"), type=Condition)
        wanted = VirtualIPStatus(observed_generation=1, conditions=(accepted,), **status)
        document = Scribe(cluster, namespace="default", instance="one").carry_out(
            StatusWrite(kind="VirtualIP", metadata=found.metadata, status=wanted)
        )
        assert document is not None
        told: Object = document["status"]
        return told

    theirs = {**status("node-x"), "term": 7, "conditions": [condition("Stalled"), condition("Audited")]}
    cluster.apply_status(VIRTUAL_IPS, "web", theirs, manager="restore")
    for owned in ({}, {"owner": "node-a", "term": 8}, {}):
        told = write(**owned)
        assert {each["type"] for each in told.pop("conditions")} == {"Accepted", "Audited"}
        assert told == {"observedGeneration": 1, **owned}


def test_a_listing_may_be_of_some_only(apiserver: ControlPlane, cluster: Cluster) -> None:
    fleet = Fleet(apiserver.api, "node-a", "node-b")
    fleet.arrive()
    apiserver.api.merge("v1", "Node", "node-b", {"metadata": {"labels": {"role": "edge"}}})

    def names(**selectors: str) -> list[str]:
        return [each["metadata"]["name"] for each in cluster.list(NODES, **selectors).documents]

    assert names(labels="role=edge") == ["node-b"]
    assert names(fields="metadata.name=node-a") == ["node-a"]
    assert names(labels="role=edge", fields="metadata.name=node-a") == []
    assert names() == ["node-a", "node-b"]
