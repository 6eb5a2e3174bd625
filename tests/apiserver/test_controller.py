"""The controller against a real API server, under exactly the RBAC rules that are shipped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from apiserver.controllers import (
    NAMESPACE,
    PREFER_A,
    admit,
    end,
    ended,
    follow,
    is_ready,
    launch,
    make,
    move,
    notes,
    steady,
    told,
)
from apiserver.fleet import API_VERSION, Fleet, condition, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.controlplane import ControlPlane
    from lab.processes import Process

Object = dict[str, Any]
NAMED = {"name": "billing", "namespace": "default"}


@pytest.fixture(scope="module")
def controller(
    bare_control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Process]:
    """One controller for all of these tests: each finds an API server without objects."""
    process = launch(admit(bare_control_plane), tmp_path_factory.mktemp("controller") / "log")
    yield process
    end(process)


@pytest.fixture
def fleet(apiserver: ControlPlane, controller: Process) -> Fleet:
    assert controller.is_alive
    fleet = Fleet(apiserver.api, "node-a", "node-b", "node-c")
    apiserver.api.request("DELETE", "/apis/events.k8s.io/v1/namespaces/default/events")
    fleet.arrive()
    return fleet


def test_a_new_address_gets_its_best_candidate_and_its_whole_story(fleet: Fleet) -> None:
    make(fleet, "web", candidates=PREFER_A)
    web = fleet.settle(lambda: fleet.owns("web", "node-a"), what="node-a owns web")
    status = web["status"]
    assert status["observedGeneration"] == web["metadata"]["generation"]
    assert status["term"] == 1
    assert status["election"] == {"owner": "node-a", "succession": ["node-b", "node-c"], "basedOnTerm": 1}
    assert [(row["nodeName"], row["eligible"], row["score"]) for row in status["candidates"]] == [
        ("node-a", True, 150),
        ("node-b", True, 100),
        ("node-c", True, 90),
    ]
    states = {each["type"]: each["status"] for each in status["conditions"]}
    assert states == {
        "Ready": "True",
        "Accepted": "True",
        "Owned": "True",
        "Bound": "True",
        "Redundant": "True",
        "Conflict": "False",
    }
    assert web["metadata"]["finalizers"] == ["vipkeeper.io/release"]
    eventually(lambda: notes(fleet, "OwnerChanged"))
    domain = fleet.api.get(API_VERSION, "FailoverDomain", "default")
    assert condition(domain, "Quorate")["status"] == "True"
    assert len(domain["status"]["witnesses"]) == 3
    secret = fleet.api.get("v1", "Secret", "vipkeeper-heartbeat", namespace=NAMESPACE)
    assert set(secret["data"]) == {"1"}


def test_a_failover_that_happened_without_it_is_adopted_and_not_fought(fleet: Fleet) -> None:
    web = make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    fleet.silent.add("node-a")
    fleet.take_over(web["metadata"]["uid"], "node-b", took_ms=431)
    fleet.is_obedient = False
    fleet.publish()
    after = eventually(lambda: fleet.owns("web", "node-b"))
    assert after["status"]["term"] == 2
    assert after["status"]["lastFailover"]["durationMilliseconds"] == 431
    order = eventually(lambda: (fleet.virtual_ip("web")["status"]["election"]["owner"] == "node-b") and after)
    assert order["status"]["election"] == {"owner": "node-b", "succession": ["node-c"], "basedOnTerm": 2}
    assert [row["reason"] for row in order["status"]["candidates"]][-1] == "AgentUnreachable"
    fleet.silent.clear()
    fleet.publish()
    back = eventually(
        lambda: (
            (found := fleet.virtual_ip("web"))["status"]["election"]["succession"] == ["node-a", "node-c"]
            and found
        )
    )
    assert back["status"]["election"]["owner"] == "node-b", "failback is Manual"
    eventually(lambda: any("431 ms" in note for note in notes(fleet, "OwnerChanged")))


def test_an_automatic_failback_returns_after_its_delay(fleet: Fleet) -> None:
    fleet.unfit["node-a"] = ("CheckFailed", "app: connection refused")
    make(fleet, "web", candidates=PREFER_A, failback={"policy": "Automatic", "delaySeconds": 1})
    fleet.settle(lambda: fleet.owns("web", "node-b"))
    fleet.unfit.clear()
    web = fleet.settle(lambda: fleet.owns("web", "node-a"))
    assert web["status"]["term"] == 2
    assert eventually(lambda: notes(fleet, "Failback"))


def test_two_that_want_one_address_are_told_apart_and_the_first_keeps_working(fleet: Fleet) -> None:
    make(fleet, "zebra", addresses=["192.0.2.10/24"])
    fleet.settle(lambda: is_ready(fleet, "zebra"))
    make(fleet, "ant", addresses=["2001:db8::10/64", "192.0.2.10"])
    ant = fleet.settle(lambda: told(fleet, "ant", "Conflict"))
    assert condition(ant, "Conflict")["status"] == "True"
    assert condition(ant, "Accepted")["reason"] == "AddressConflict"
    assert condition(ant, "Stalled")["status"] == "True"
    assert "'zebra'" in condition(ant, "Conflict")["message"]
    assert "election" not in ant["status"]
    assert is_ready(fleet, "zebra")
    fleet.api.delete(API_VERSION, "VirtualIP", "zebra")
    fleet.settle(
        lambda: is_ready(fleet, "ant"),
        what="ant gets the address once zebra is gone",
    )


@pytest.mark.parametrize(
    ("spec", "kind", "reason", "hint"),
    [
        pytest.param(
            {"addresses": ["198.18.0.1/24"]}, "Accepted", "AddressNotAllowed", "192.0.2.0/24", id="outside"
        ),
        pytest.param(
            {"candidates": [{"nodeSelector": {"matchLabels": {"role": "no"}}}]},
            "Ready",
            "NoCandidate",
            "nodeSelector",
            id="none",
        ),
    ],
)
def test_a_spec_that_cannot_work_is_told_what_to_do(
    fleet: Fleet, *, spec: Object, kind: str, reason: str, hint: str
) -> None:
    make(fleet, "web", **spec)
    web = fleet.settle(lambda: told(fleet, "web", "Stalled"))
    assert condition(web, kind)["reason"] == reason
    assert hint in condition(web, "Stalled")["message"]
    assert eventually(lambda: notes(fleet, reason))


def test_no_candidate_with_the_subnet_is_told_what_to_do(fleet: Fleet) -> None:
    fleet.unfit = dict.fromkeys(fleet.nodes, ("NoInterface", "no interface has 192.0.2.0/24"))
    make(fleet, "web")
    web = fleet.settle(lambda: told(fleet, "web", "Stalled"))
    assert condition(web, "Stalled")["reason"] == "NoSubnet"
    assert condition(web, "Accepted")["status"] == "True"
    fleet.unfit.clear()
    fleet.settle(lambda: is_ready(fleet, "web"))


def test_a_domain_that_does_not_exist_may_come_later(fleet: Fleet) -> None:
    make(fleet, "web", domain="lab")
    eventually(lambda: condition(fleet.virtual_ip("web"), "Stalled").get("reason") == "DomainNotFound")
    other = Fleet(fleet.api, *fleet.nodes, domain="lab")
    other.arrive()
    other.settle(lambda: condition(other.virtual_ip("web"), "Ready").get("status") == "True")


def test_a_deleted_address_goes_when_its_owner_has_released_it(fleet: Fleet) -> None:
    make(fleet, "web")
    fleet.settle(lambda: is_ready(fleet, "web"))
    fleet.api.delete(API_VERSION, "VirtualIP", "web")
    web = eventually(lambda: told(fleet, "web", "Reconciling"))
    assert condition(web, "Reconciling")["reason"] == "Releasing"
    fleet.settle(lambda: not fleet.api.list(API_VERSION, "VirtualIP"), what="web is gone")


def test_a_deleted_address_of_an_unreachable_owner_stays_and_says_how_to_force_it(fleet: Fleet) -> None:
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    fleet.silent.add("node-a")
    fleet.silent.add("node-b")
    fleet.grants.clear()
    fleet.publish()
    fleet.api.delete(API_VERSION, "VIPNode", "node-b")
    fleet.api.delete(API_VERSION, "VirtualIP", "web")
    web = eventually(lambda: told(fleet, "web", "Stalled"))
    assert condition(web, "Stalled")["reason"] == "OwnerUnreachable"
    assert "kubectl patch virtualip web" in condition(web, "Stalled")["message"]
    fleet.silent.clear()
    fleet.holders.clear()
    fleet.publish()
    eventually(lambda: not fleet.api.list(API_VERSION, "VirtualIP"), what="web is gone")


def test_a_deleted_address_of_a_dead_owner_goes_when_the_witnesses_have_buried_it(fleet: Fleet) -> None:
    uid = make(fleet, "web", candidates=PREFER_A)["metadata"]["uid"]
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    fleet.silent.add("node-a")
    fleet.grants.clear()
    fleet.unburied.add(uid)
    fleet.publish()
    fleet.api.delete(API_VERSION, "VirtualIP", "web")
    eventually(
        lambda: (
            "grants the addresses to nobody"
            in condition(fleet.virtual_ip("web"), "Reconciling").get("message", "")
        ),
        what="the witnesses are waited for",
    )
    fleet.unburied.clear()
    fleet.publish()
    eventually(lambda: not fleet.api.list(API_VERSION, "VirtualIP"), what="web is gone")


def test_a_deleted_domain_stays_until_its_last_address_is_gone(fleet: Fleet) -> None:
    def domains() -> list[Object]:
        return fleet.api.list(API_VERSION, "FailoverDomain")

    uid = make(fleet, "web", candidates=PREFER_A)["metadata"]["uid"]
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    fleet.api.delete(API_VERSION, "FailoverDomain", "default")
    told_of = eventually(lambda: (found := condition(domains()[0], "Reconciling")) and found)
    assert told_of["reason"] == "InUse"
    assert told_of["message"].endswith("until they are gone: web")
    fleet.take_over(uid, "node-b")
    fleet.is_obedient = False
    fleet.settle(lambda: fleet.owns("web", "node-b"), what="the domain still observes its owners")
    fleet.api.delete(API_VERSION, "VirtualIP", "web")
    fleet.settle(lambda: not fleet.api.list(API_VERSION, "VirtualIP"), what="web is gone")
    eventually(lambda: not domains(), what="the domain is gone")


def test_an_edit_keeps_what_was_in_force_with_its_prefix_until_it_is_buried(fleet: Fleet) -> None:
    web = make(fleet, "web", addresses=["192.0.2.10/24"])
    fleet.settle(lambda: is_ready(fleet, "web"))
    make(fleet, "web", addresses=["192.0.2.11/24"])
    status = fleet.settle(
        lambda: (found := fleet.virtual_ip("web")["status"]).get("retiredAddresses") and found
    )
    assert status["addresses"] == ["192.0.2.11/24"]
    generation = web["metadata"]["generation"] + 1
    assert status["retiredAddresses"] == [{"address": "192.0.2.10", "generation": generation}]


def test_a_witness_whose_node_is_removed_is_replaced_step_by_step(fleet: Fleet) -> None:
    def domain() -> Object:
        return fleet.api.get(API_VERSION, "FailoverDomain", "default")

    def names() -> set[str]:
        return {witness["nodeName"] for witness in domain()["status"].get("witnesses", [])}

    eventually(lambda: names() == {"node-a", "node-b", "node-c"})
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    fleet.nodes.append("node-d")
    fleet.api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-d"}})
    fleet.publish()
    fleet.silent.add("node-c")
    fleet.api.delete("v1", "Node", "node-c")
    status = fleet.settle(
        lambda: (found := domain()["status"])["epoch"] == 4 and found, what="the fourth epoch"
    )
    assert names() == {"node-a", "node-b", "node-d"}
    assert "formerWitnesses" not in status
    assert fleet.owns("web", "node-a")
    for reason in ("WitnessesChosen", "WitnessReplaced", "WitnessesChanging", "WitnessesChanged"):
        eventually(lambda reason=reason: notes(fleet, reason))


def test_a_move_is_carried_out_and_its_outage_kept(fleet: Fleet) -> None:
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    move(fleet, "to-c", "web", "node-c")
    done = fleet.settle(lambda: ended(fleet, "to-c", "Complete"))
    assert done["status"]["from"] == "node-a"
    assert done["status"]["to"] == "node-c"
    assert done["status"]["outageMilliseconds"] == 12
    assert condition(done, "Failed")["status"] == "False"
    fleet.settle(lambda: fleet.owns("web", "node-c"), what="its own status says so too")
    move(fleet, "again", "web", "node-c")
    again = eventually(lambda: ended(fleet, "again", "Complete"))
    assert condition(again, "Complete")["reason"] == "AlreadyThere"


@pytest.mark.parametrize(
    ("to", "suspend", "reason", "hint"),
    [
        pytest.param("node-c", False, "TargetNotEligible", "connection refused", id="unfit"),
        pytest.param("node-x", False, "TargetNotEligible", "not a candidate", id="no-candidate"),
        pytest.param("node-b", True, "Suspended", "suspend", id="suspended"),
    ],
)
def test_a_move_that_cannot_be_fails_with_the_reason(
    fleet: Fleet, *, to: str, suspend: bool, reason: str, hint: str
) -> None:
    fleet.unfit["node-c"] = ("CheckFailed", "app: connection refused")
    make(fleet, "web", candidates=PREFER_A, suspend=suspend)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    move(fleet, "wish", "web", to)
    wish = eventually(lambda: ended(fleet, "wish", "Failed"))
    assert condition(wish, "Failed")["reason"] == reason
    assert hint in condition(wish, "Failed")["message"]
    assert fleet.owns("web", "node-a")


def test_a_drill_goes_there_and_back_and_keeps_both_outages(fleet: Fleet) -> None:
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    move(fleet, "drill", "web", "node-b", type="Drill")
    fleet.settle(lambda: fleet.owns("web", "node-b"), what="it goes there")
    there = eventually(lambda: steady(fleet, "drill"))
    assert there["status"]["outageMilliseconds"] == 12
    assert condition(there, "Complete")["status"] == "False"
    done = fleet.settle(lambda: ended(fleet, "drill", "Complete"))
    assert condition(done, "Complete")["reason"] == "Drilled"
    assert (done["status"]["from"], done["status"]["to"]) == ("node-a", "node-b")
    assert done["status"]["returnOutageMilliseconds"] == 12
    assert done["status"]["returnedAt"] == done["status"]["completedAt"]
    assert fleet.owns("web", "node-a")
    move(fleet, "nothing", "web", "node-a", type="Drill")
    nothing = eventually(lambda: ended(fleet, "nothing", "Failed"))
    assert condition(nothing, "Failed")["reason"] == "AlreadyThere"


def mark(fleet: Fleet, node: str, **spec: Any) -> None:
    """Say of a node what `kubectl cordon` and `kubectl taint` say."""
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "spec": spec}
    fleet.api.apply(body, manager="kubectl")


def test_a_cordon_moves_an_address_with_its_service_and_its_end_pulls_nothing_back(fleet: Fleet) -> None:
    fleet.scores = {"node-a": 100, "node-b": 99, "node-c": 98}
    make(fleet, "app", allowedNamespaces={"names": ["default"]})
    billing = follow(fleet, "billing", "app", namespace="default")
    fleet.settle(lambda: fleet.owns("app", "node-a"))
    fleet.run("node-a", billing, "Active", term=1)
    mark(fleet, "node-a", unschedulable=True)
    fleet.settle(lambda: fleet.owns("app", "node-b"), what="it goes while its node still works")
    assert eventually(lambda: notes(fleet, "OwnerCordoned")) == ["Elected node-b: node node-a is cordoned"]
    mark(fleet, "node-a", unschedulable=False)

    def is_eligible() -> bool:
        table = fleet.virtual_ip("app")["status"]["candidates"]
        return bool({row["nodeName"]: row["eligible"] for row in table}["node-a"])

    fleet.settle(is_eligible)
    assert fleet.virtual_ip("app")["status"]["election"]["owner"] == "node-b", "failback is Manual"
    failback = {"policy": "Automatic", "delaySeconds": 1}
    billing["spec"]["failback"] = failback
    fleet.api.apply({key: billing[key] for key in ("apiVersion", "kind", "spec")} | {"metadata": NAMED})
    fleet.settle(lambda: fleet.owns("app", "node-a"), what="Automatic failback brings it back")


def test_a_node_that_is_said_to_be_out_of_service_loses_its_address_and_says_why(fleet: Fleet) -> None:
    make(fleet, "web", candidates=PREFER_A, suspend=True)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    taint = {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}
    mark(fleet, "node-a", taints=[taint])
    web = fleet.settle(lambda: fleet.owns("web", "node-b"), what="suspend does not stop it")
    rows = {row["nodeName"]: row for row in web["status"]["candidates"]}
    assert (rows["node-a"]["eligible"], rows["node-a"]["reason"]) == (False, "OutOfService")
    assert "node.kubernetes.io/out-of-service" in rows["node-a"]["message"]
    mark(fleet, "node-a", taints=[])
    fleet.settle(lambda: fleet.virtual_ip("web")["status"]["candidates"][0]["nodeName"] == "node-a")
    assert fleet.owns("web", "node-b"), "nothing is pulled back"


def test_a_move_of_an_address_that_does_not_exist_fails(fleet: Fleet) -> None:
    move(fleet, "wish", "nowhere", "node-a")
    wish = eventually(lambda: ended(fleet, "wish", "Failed"))
    assert condition(wish, "Failed")["reason"] == "VirtualIPNotFound"


def test_services_follow_their_address_and_their_story_is_told_in_their_namespace(fleet: Fleet) -> None:
    uid = make(fleet, "web", allowedNamespaces={"names": ["prod"]})["metadata"]["uid"]
    billing = follow(fleet, "billing", "web", namespace="prod")

    def seen(reason: str, owner: str) -> Object | None:
        found = fleet.api.get(API_VERSION, "ServiceFailover", "billing", namespace="prod")
        is_so = condition(found, "Ready").get("reason") == reason
        return found if is_so and found["status"]["services"][0].get("owner") == owner else None

    fleet.scores = {"node-a": 100, "node-b": 99}
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    assert {row["nodeName"] for row in fleet.virtual_ip("web")["status"]["candidates"]} == {
        "node-a",
        "node-b",
    }
    eventually(lambda: seen("ServicesNotActive", "node-a"))
    fleet.run("node-a", billing, "Active", term=1, since="2026-01-01T00:00:00.123Z")
    ready = eventually(lambda: seen("ServicesActive", "node-a"))
    assert ready["status"]["observedGeneration"] == billing["metadata"]["generation"]
    assert ready["status"]["services"][0] == {
        "name": "app",
        "owner": "node-a",
        "state": "Active",
        "term": 1,
        "since": "2026-01-01T00:00:00.123000Z",
    }
    assert "finalizers" not in ready["metadata"]
    fleet.run("node-a", billing, "Failed", term=1, message="app.service: exit status 1")
    fleet.unfit["node-a"] = ("ServiceFailed", "app failed")
    eventually(lambda: seen("ServiceFailed", "node-a"))
    fleet.settle(lambda: fleet.owns("web", "node-b"))
    fleet.run("node-b", billing, "Active", term=2)
    after = eventually(lambda: seen("ServicesActive", "node-b"))
    assert condition(after, "Degraded")["reason"] == "NoStandby"
    assert fleet.grants[uid] == ("node-b", 2)
    moved = "app: moved from node-a to node-b with term 2"
    eventually(lambda: moved in notes(fleet, "OwnerChanged", namespace="prod"))
    failed = "app: Failed on node-a: app.service: exit status 1"
    eventually(lambda: failed in notes(fleet, "ServiceFailed", namespace="prod"))
    assert not notes(fleet, "ServiceFailed")


def test_services_of_a_namespace_that_an_address_does_not_allow_change_nothing(fleet: Fleet) -> None:
    make(fleet, "web", allowedNamespaces={"names": ["prod"]})
    follow(fleet, "billing", "web", namespace="lab")

    def accepted() -> Object:
        found = fleet.api.get(API_VERSION, "ServiceFailover", "billing", namespace="lab")
        return condition(found, "Accepted")

    refused = eventually(lambda: accepted().get("status") == "False" and accepted())
    assert refused["reason"] == "NamespaceNotAllowed"
    assert "`allowedNamespaces.names`" in refused["message"]
    eventually(lambda: notes(fleet, "NamespaceNotAllowed", namespace="lab"))
    fleet.settle(lambda: is_ready(fleet, "web"))
    assert len(fleet.virtual_ip("web")["status"]["candidates"]) == 3
    make(fleet, "web", allowedNamespaces={"names": ["lab"]})
    eventually(lambda: accepted().get("status") == "True")
    fleet.api.delete(API_VERSION, "ServiceFailover", "billing", namespace="lab")
    eventually(lambda: len(fleet.virtual_ip("web")["status"]["candidates"]) == 3)


def test_in_peace_nothing_is_written_and_nothing_of_kopf_is_anywhere(
    fleet: Fleet, controller: Process
) -> None:
    for number in range(5):
        make(fleet, f"vip-{number}", addresses=[f"192.0.2.{10 + number}/24"], spread={"group": "edge"})

    make(fleet, "app", addresses=["192.0.2.20/24"], allowedNamespaces={"names": ["default"]})
    billing = follow(fleet, "billing", "app", namespace="default")

    def is_served() -> bool:
        found = fleet.api.get(API_VERSION, "ServiceFailover", "billing")
        return bool(condition(found, "Ready").get("status") == "True")

    def all_ready() -> bool:
        found = fleet.api.list(API_VERSION, "VirtualIP")
        return all(condition(each, "Ready").get("status") == "True" for each in found)

    fleet.settle(all_ready)
    fleet.run(fleet.virtual_ip("app")["status"]["owner"], billing, "Active", term=1)
    eventually(is_served)
    everything = ["VirtualIP", "ServiceFailover", "FailoverDomain", "VIPNode", "Switchover"]

    def versions() -> dict[str, str]:
        objects = [each for kind in everything for each in fleet.api.list(API_VERSION, kind)]
        objects += fleet.api.list("v1", "Node")
        assert "kopf" not in str(objects)
        return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in objects}

    before = versions()
    lease = fleet.api.get("coordination.k8s.io/v1", "Lease", "vipkeeper-controller", namespace=NAMESPACE)

    def renewed_twice() -> bool:
        now = fleet.api.get("coordination.k8s.io/v1", "Lease", "vipkeeper-controller", namespace=NAMESPACE)
        older, newer = int(lease["metadata"]["resourceVersion"]), int(now["metadata"]["resourceVersion"])
        return newer >= older + 3

    eventually(renewed_twice, what="the leader's own Lease goes on")
    assert versions() == before
    assert controller.is_alive
    group = [each for each in fleet.api.list(API_VERSION, "VirtualIP") if "spread" in each["spec"]]
    loads = [each["status"]["owner"] for each in group]
    assert sorted(loads.count(node) for node in fleet.nodes) == [1, 2, 2], "a group keeps apart"


def test_an_object_that_cannot_be_decided_stops_no_other(fleet: Fleet) -> None:
    make(fleet, "first")
    fleet.settle(lambda: is_ready(fleet, "first"))
    make(fleet, "mad", domain="nowhere", addresses=["192.0.2.11/24"])
    make(fleet, "web", addresses=["192.0.2.12/24"])
    fleet.settle(lambda: is_ready(fleet, "web"))
