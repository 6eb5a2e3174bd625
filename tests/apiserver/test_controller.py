"""The controller against a real API server, under exactly the RBAC rules that are shipped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apiserver.fleet import API_VERSION, Fleet, condition, eventually
from lab import kernelcalls, processes
from lab.api import manifests_in
from lab.controlplane import free_ports

if TYPE_CHECKING:
    from lab.controlplane import ControlPlane
    from lab.processes import Process

ROOT = Path(__file__).parents[2]
NAMESPACE = "vipkeeper-system"
Object = dict[str, Any]
Start = Callable[..., "Process"]


@pytest.fixture
def start(apiserver: ControlPlane, tmp_path: Path) -> Iterator[Start]:
    """Start a controller replica; all of them are ended with the test."""
    running: list[Process] = []
    kubeconfig = apiserver.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-controller")
    for manifest in manifests_in(ROOT / "charts" / "vipkeeper" / "files" / "rbac.yaml"):
        apiserver.api.apply(manifest)

    def run(identity: str = "one", *, kubeconfig: Path = kubeconfig) -> Process:
        process = processes.start(
            [
                *(
                    sys.executable,
                    "-m",
                    "vipcontroller",
                    f"--namespace={NAMESPACE}",
                    f"--identity={identity}",
                ),
                *(f"--metrics=127.0.0.1:{free_ports().api}", f"--kubeconfig={kubeconfig}"),
            ],
            name=f"controller-{identity}",
            network=kernelcalls.current_network(),
            log=tmp_path / f"controller-{identity}.log",
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.terminate()
        print(process.output())  # noqa: T201 - shown when the test fails
    api = apiserver.api
    api.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases")
    api.request("DELETE", "/apis/events.k8s.io/v1/namespaces/default/events")


@pytest.fixture
def fleet(apiserver: ControlPlane) -> Fleet:
    fleet = Fleet(apiserver.api, "node-a", "node-b", "node-c")
    fleet.arrive()
    return fleet


def make(fleet: Fleet, name: str, **spec: Any) -> Object:
    spec.setdefault("addresses", ["192.0.2.10/24"])
    body = {"apiVersion": API_VERSION, "kind": "VirtualIP", "metadata": {"name": name}, "spec": spec}
    return fleet.api.apply(body)


def move(fleet: Fleet, name: str, virtual_ip: str, to: str) -> None:
    fleet.api.apply(
        {
            "apiVersion": API_VERSION,
            "kind": "Switchover",
            "metadata": {"name": name},
            "spec": {"virtualIPRef": {"name": virtual_ip}, "to": to},
        }
    )


def switchover(fleet: Fleet, name: str) -> Object:
    return fleet.api.get(API_VERSION, "Switchover", name)


def notes(fleet: Fleet, reason: str) -> list[str]:
    events = fleet.api.list("events.k8s.io/v1", "Event", namespace="default")
    return [event["note"] for event in events if event["reason"] == reason]


PREFER_A = [
    {"nodeName": "node-a", "priority": 150},
    {"nodeName": "node-b"},
    {"nodeName": "node-c", "priority": 90},
]


def test_a_new_address_gets_its_best_candidate_and_its_whole_story(fleet: Fleet, start: Start) -> None:
    start()
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


def test_a_failover_that_happened_without_it_is_adopted_and_not_fought(fleet: Fleet, start: Start) -> None:
    start()
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
    assert any("431 ms" in note for note in notes(fleet, "OwnerChanged"))


def test_an_automatic_failback_returns_after_its_delay(fleet: Fleet, start: Start) -> None:
    start()
    fleet.unfit["node-a"] = ("CheckFailed", "app: connection refused")
    make(fleet, "web", candidates=PREFER_A, failback={"policy": "Automatic", "delaySeconds": 1})
    fleet.settle(lambda: fleet.owns("web", "node-b"))
    fleet.unfit.clear()
    web = fleet.settle(lambda: fleet.owns("web", "node-a"))
    assert web["status"]["term"] == 2
    assert eventually(lambda: notes(fleet, "Failback"))


def test_two_that_want_one_address_are_told_apart_and_the_first_keeps_working(
    fleet: Fleet, start: Start
) -> None:
    start()
    make(fleet, "zebra", addresses=["192.0.2.10/24"])
    fleet.settle(lambda: condition(fleet.virtual_ip("zebra"), "Ready").get("status") == "True")
    make(fleet, "ant", addresses=["2001:db8::10/64", "192.0.2.10"])
    ant = fleet.settle(lambda: condition(fleet.virtual_ip("ant"), "Conflict") and fleet.virtual_ip("ant"))
    assert condition(ant, "Conflict")["status"] == "True"
    assert condition(ant, "Accepted")["reason"] == "AddressConflict"
    assert condition(ant, "Stalled")["status"] == "True"
    assert "'zebra'" in condition(ant, "Conflict")["message"]
    assert "election" not in ant["status"]
    assert condition(fleet.virtual_ip("zebra"), "Ready")["status"] == "True"
    fleet.api.delete(API_VERSION, "VirtualIP", "zebra")
    fleet.settle(
        lambda: condition(fleet.virtual_ip("ant"), "Ready").get("status") == "True",
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
    fleet: Fleet, start: Start, *, spec: Object, kind: str, reason: str, hint: str
) -> None:
    start()
    make(fleet, "web", **spec)
    web = fleet.settle(lambda: condition(fleet.virtual_ip("web"), "Stalled") and fleet.virtual_ip("web"))
    assert condition(web, kind)["reason"] == reason
    assert hint in condition(web, "Stalled")["message"]
    assert eventually(lambda: notes(fleet, reason))


def test_no_candidate_with_the_subnet_is_told_what_to_do(fleet: Fleet, start: Start) -> None:
    start()
    fleet.unfit = dict.fromkeys(fleet.nodes, ("NoInterface", "no interface has 192.0.2.0/24"))
    make(fleet, "web")
    web = fleet.settle(lambda: condition(fleet.virtual_ip("web"), "Stalled") and fleet.virtual_ip("web"))
    assert condition(web, "Stalled")["reason"] == "NoSubnet"
    assert condition(web, "Accepted")["status"] == "True"
    fleet.unfit.clear()
    fleet.settle(lambda: condition(fleet.virtual_ip("web"), "Ready")["status"] == "True")


def test_a_domain_that_does_not_exist_may_come_later(fleet: Fleet, start: Start) -> None:
    start()
    make(fleet, "web", domain="lab")
    eventually(lambda: condition(fleet.virtual_ip("web"), "Stalled").get("reason") == "DomainNotFound")
    other = Fleet(fleet.api, *fleet.nodes, domain="lab")
    other.arrive()
    other.settle(lambda: condition(other.virtual_ip("web"), "Ready").get("status") == "True")


def test_a_deleted_address_goes_when_its_owner_has_released_it(fleet: Fleet, start: Start) -> None:
    start()
    make(fleet, "web")
    fleet.settle(lambda: condition(fleet.virtual_ip("web"), "Ready").get("status") == "True")
    fleet.api.delete(API_VERSION, "VirtualIP", "web")
    web = eventually(lambda: (found := fleet.virtual_ip("web")) and condition(found, "Reconciling") and found)
    assert condition(web, "Reconciling")["reason"] == "Releasing"
    fleet.settle(lambda: not fleet.api.list(API_VERSION, "VirtualIP"), what="web is gone")


def test_a_deleted_address_of_an_unreachable_owner_stays_and_says_how_to_force_it(
    fleet: Fleet, start: Start
) -> None:
    start()
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    fleet.silent.add("node-a")
    fleet.grants.clear()
    fleet.publish()
    fleet.api.delete(API_VERSION, "VirtualIP", "web")
    web = eventually(lambda: (found := fleet.virtual_ip("web")) and condition(found, "Stalled") and found)
    assert condition(web, "Stalled")["reason"] == "OwnerUnreachable"
    assert "kubectl patch virtualip web" in condition(web, "Stalled")["message"]
    fleet.silent.clear()
    fleet.holders.clear()
    fleet.publish()
    eventually(lambda: not fleet.api.list(API_VERSION, "VirtualIP"), what="web is gone")


def test_a_move_is_carried_out_and_its_outage_kept(fleet: Fleet, start: Start) -> None:
    start()
    make(fleet, "web", candidates=PREFER_A)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    move(fleet, "to-c", "web", "node-c")
    done = fleet.settle(
        lambda: condition(found := switchover(fleet, "to-c"), "Complete").get("status") == "True" and found
    )
    assert done["status"]["from"] == "node-a"
    assert done["status"]["to"] == "node-c"
    assert done["status"]["outageMilliseconds"] == 12
    assert condition(done, "Failed")["status"] == "False"
    assert fleet.owns("web", "node-c")
    move(fleet, "again", "web", "node-c")
    again = eventually(
        lambda: condition(found := switchover(fleet, "again"), "Complete").get("status") == "True" and found
    )
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
    fleet: Fleet, start: Start, *, to: str, suspend: bool, reason: str, hint: str
) -> None:
    start()
    fleet.unfit["node-c"] = ("CheckFailed", "app: connection refused")
    make(fleet, "web", candidates=PREFER_A, suspend=suspend)
    fleet.settle(lambda: fleet.owns("web", "node-a"))
    move(fleet, "wish", "web", to)
    wish = eventually(
        lambda: condition(found := switchover(fleet, "wish"), "Failed").get("status") == "True" and found
    )
    assert condition(wish, "Failed")["reason"] == reason
    assert hint in condition(wish, "Failed")["message"]
    assert fleet.owns("web", "node-a")


def test_a_move_of_an_address_that_does_not_exist_fails(fleet: Fleet, start: Start) -> None:
    start()
    move(fleet, "wish", "nowhere", "node-a")
    wish = eventually(
        lambda: condition(found := switchover(fleet, "wish"), "Failed").get("status") == "True" and found
    )
    assert condition(wish, "Failed")["reason"] == "VirtualIPNotFound"


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


def test_in_peace_nothing_is_written_and_nothing_of_kopf_is_anywhere(fleet: Fleet, start: Start) -> None:
    process = start()
    for number in range(5):
        make(fleet, f"vip-{number}", addresses=[f"192.0.2.{10 + number}/24"], spread={"group": "edge"})

    def all_ready() -> bool:
        found = fleet.api.list(API_VERSION, "VirtualIP")
        return all(condition(each, "Ready").get("status") == "True" for each in found)

    fleet.settle(all_ready)
    everything = ["VirtualIP", "FailoverDomain", "VIPNode", "Switchover"]

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
    assert process.is_alive
    loads = [each["status"]["owner"] for each in fleet.api.list(API_VERSION, "VirtualIP")]
    assert sorted(loads.count(node) for node in fleet.nodes) == [1, 2, 2], "a group keeps apart"


def test_an_object_that_cannot_be_decided_stops_no_other(fleet: Fleet, start: Start) -> None:
    start()
    make(fleet, "first")
    fleet.settle(lambda: condition(fleet.virtual_ip("first"), "Ready").get("status") == "True")
    make(fleet, "mad", domain="nowhere", addresses=["192.0.2.11/24"])
    make(fleet, "web", addresses=["192.0.2.12/24"])
    fleet.settle(lambda: condition(fleet.virtual_ip("web"), "Ready").get("status") == "True")


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
