"""The chart's admission policies, on a real API server: whom they stop, and whom they leave alone."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

import pytest

from apiserver.admission import (
    BINDING,
    NAMESPACE,
    POLICY,
    RBAC,
    bound_token,
    impersonated,
    in_force,
    kubeconfig_with,
    node,
    policies,
    refusal,
    virtual_ip,
    with_token,
)
from apiserver.controllers import ROOT, admit, end, launch, make
from apiserver.definitions import definitions
from apiserver.fleet import API_VERSION, Fleet, condition, eventually
from chart.conftest import chart, tool  # noqa: F401 - fixtures
from lab import kernelcalls, processes
from lab.api import RefusedError, manifests_in
from lab.controlplane import free_ports
from vipapi.link import Votes, VotesWanted, VoteWanted
from vipcluster.client import connect
from vipcourier.voting import Voting

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from chart.rendering import Chart, Rendering
    from lab.api import Api
    from lab.controlplane import ControlPlane

Object = dict[str, Any]

COURIER = f"system:serviceaccount:{NAMESPACE}:vipkeeper-courier"
CONTROLLER = f"system:serviceaccount:{NAMESPACE}:vipkeeper-controller"
VOTE = "vipkeeper-vote-2f1c9a52-8e0e-4a5e-9b2b-0d3f6c0b8a11"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
ADDRESSES = [
    {"groups": ["edge"], "cidrs": ["192.0.2.0/25", "2001:db8:1::/64"]},
    {"users": ["bob"], "cidrs": ["192.0.2.128/25"]},
    {"users": ["bob", "carol"], "cidrs": ["203.0.113.0/24"]},
]
# What the tests' people may do, as far as roles go; the policies say the rest.
TENANT: Object = {
    "apiVersion": RBAC,
    "kind": "ClusterRole",
    "metadata": {"name": "tenant"},
    "rules": [
        {
            "apiGroups": ["vipkeeper.io"],
            "resources": ["virtualips", "servicefailovers"],
            "verbs": ["get", "create", "update", "patch", "delete"],
        }
    ],
}


def binding(name: str, role: str, *users: str, group: str = "", namespace: str = "") -> Object:
    subjects = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user} for user in users]
    if group:
        subjects.append({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group})
    return {
        "apiVersion": RBAC,
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name, **({"namespace": namespace} if namespace else {})},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    }


@pytest.fixture(scope="module")
def rendering(chart: Chart) -> Rendering:  # noqa: F811 - the fixture
    hosts = {"namespaces": ["for-hosts"]}
    return chart.render({"admission": {"addresses": ADDRESSES, "hostWorkloads": hosts}})


@pytest.fixture(scope="module")
def guarded(bare_control_plane: ControlPlane, rendering: Rendering) -> Iterator[ControlPlane]:
    """The API server with every policy in force, and people with roles."""
    api = bare_control_plane.api
    bare_control_plane.kubeconfig_of_service_account(NAMESPACE, "vipkeeper-courier")
    admit(bare_control_plane)
    nodes = [
        binding("vipkeeper-nodes", "vipkeeper-courier", group="vipkeeper:nodes"),
        {**binding("vipkeeper-nodes", "vipkeeper-courier", group="vipkeeper:nodes", namespace=NAMESPACE)},
    ]
    nodes[1]["roleRef"]["kind"] = "Role"
    people = [TENANT, binding("tenants", "tenant", "alice", "bob", "carol", "dora"), *nodes]
    for each in people:
        api.apply(each)
    with in_force(api, policies(rendering)):
        yield bare_control_plane
    for each in people:
        api.delete(RBAC, each["kind"], each["metadata"]["name"], namespace=each["metadata"].get("namespace"))


@pytest.fixture
def admin(guarded: ControlPlane, apiserver: ControlPlane) -> Api:
    """The administrator's way to an API server without objects, on two nodes."""
    for name in ("node-a", "node-b"):
        apiserver.api.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    return guarded.api


def test_every_policy_refuses_what_it_cannot_judge_and_is_bound(rendering: Rendering) -> None:
    found = {each["metadata"]["name"]: each["spec"] for each in rendering.of(POLICY)}
    assert len(found) == 10
    bound = {each["spec"]["policyName"]: each["spec"]["validationActions"] for each in rendering.of(BINDING)}
    assert bound == {name: ["Deny"] for name in found}
    for name, spec in found.items():
        assert spec["failurePolicy"] == "Fail", name
        for rule in spec["matchConstraints"]["resourceRules"]:
            assert "*" not in [
                *rule["apiGroups"],
                *rule["apiVersions"],
                *rule["resources"],
                *rule["operations"],
            ]
        for validation in spec["validations"]:
            assert validation["reason"] == "Forbidden", name
            assert ("message" in validation) != ("messageExpression" in validation), name


def test_a_switch_takes_away_its_policies_and_no_others(chart: Chart, rendering: Rendering) -> None:  # noqa: F811
    def without(**admission: Any) -> set[str]:
        kept = chart.render({"admission": {"addresses": ADDRESSES, **admission}}).of(POLICY)
        every = {each["metadata"]["name"] for each in rendering.of(POLICY)}
        return every - {each["metadata"]["name"] for each in kept}

    assert len(without(enabled=False)) == 10
    assert without(addresses=[], nodeBound=False) == {
        f"vipkeeper-{n}" for n in ("addresses", "nodes", "votes")
    }
    assert without(hostWorkloads={"enabled": False}, safeUpgrades=False) == {
        "vipkeeper-host-workloads",
        "vipkeeper-host-checks",
        "vipkeeper-safe-upgrades",
    }


def test_another_release_guards_its_own_service_accounts(chart: Chart) -> None:  # noqa: F811 - the fixture
    found = chart.render(release="edge", namespace="addresses").one(POLICY, "edge-vipkeeper-nodes")
    [known] = found["spec"]["matchConditions"]
    assert '"system:serviceaccount:addresses:edge-vipkeeper-courier"' in known["expression"]


def courier(admin: Api, how: str, name: str = "node-a") -> Api:
    """Return the way of the courier of a node, by each kind of identity that one may have."""
    if how == "certificate":
        return impersonated(admin, f"vipkeeper:node:{name}", "vipkeeper:nodes")
    if how == "node-token":
        return with_token(admin, bound_token(admin, "Node", name))
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"agent-{name}", "namespace": NAMESPACE},
        "spec": {
            "nodeName": name,
            "serviceAccountName": "vipkeeper-courier",
            "containers": [{"name": "courier", "image": "none"}],
        },
    }
    admin.apply(pod)
    return with_token(admin, bound_token(admin, "Pod", f"agent-{name}", NAMESPACE))


def lease(name: str = VOTE, **spec: Any) -> Object:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"leaseDurationSeconds": 3, **spec},
    }


@pytest.fixture
def no_votes(admin: Api) -> Iterator[None]:
    yield
    for each in admin.request("GET", LEASES)["items"]:
        admin.request("DELETE", f"{LEASES}/{each['metadata']['name']}")


@pytest.mark.parametrize("how", ["pod-token", "node-token", "certificate"])
def test_a_courier_writes_the_vip_node_of_its_own_node_only(admin: Api, how: str) -> None:
    own = courier(admin, how)
    nodes = "/apis/vipkeeper.io/v1alpha1/vipnodes"
    own.request("POST", nodes, node("node-a"))
    own.apply(node("node-a", {"version": "1"}), subresource="/status")
    said = refusal(own.request, "POST", nodes, node("node-b"))
    assert "the courier of the node node-a" in said
    assert "this is node-b" in said
    admin.apply(node("node-b"))
    refusal(own.apply, node("node-b", {"version": "1"}), subresource="/status")
    assert "version" not in admin.get(API_VERSION, "VIPNode", "node-b")["status"]


@pytest.mark.parametrize("who", ["a token of no pod", "a certificate of no node"])
def test_a_courier_that_does_not_say_where_it_is_writes_nothing(admin: Api, who: str) -> None:
    if who == "a token of no pod":
        nobody = with_token(admin, admin.service_account_token(NAMESPACE, "vipkeeper-courier"))
    else:
        nobody = impersonated(admin, "somebody", "vipkeeper:nodes")
    for attempt in (
        ("POST", "/apis/vipkeeper.io/v1alpha1/vipnodes", node("node-a")),
        ("POST", LEASES, lease()),
    ):
        said = refusal(nobody.request, *attempt)
        assert "must say which node it is on" in said
        assert "--bound-object-kind Node" in said


@pytest.mark.usefixtures("no_votes")
def test_a_courier_writes_votes_and_no_other_lease(admin: Api) -> None:
    own = courier(admin, "pod-token")
    leader = admin.request("POST", LEASES, lease("vipkeeper-controller", holderIdentity="one"))
    leader["spec"]["holderIdentity"] = "node-a_machine"
    said = refusal(own.request, "PUT", f"{LEASES}/vipkeeper-controller", leader)
    assert "no other Leases than votes" in said
    refusal(own.request, "POST", LEASES, lease("anything"))
    vote = own.request("POST", LEASES, lease())
    vote["spec"] |= {"holderIdentity": "node-a_machine", "leaseTransitions": 1}
    own.request("PUT", f"{LEASES}/{VOTE}", vote)


@pytest.mark.usefixtures("no_votes")
@pytest.mark.parametrize(
    ("holder", "transitions", "annotations", "why"),
    [
        pytest.param("node-b_m", 4, {}, "must not give a vote to `node-b_m`", id="for-another"),
        pytest.param("node-a-2_m", 4, {}, "must not give a vote", id="for-a-longer-name"),
        pytest.param("node-a_m", 3, {}, "count its holders", id="uncounted"),
        pytest.param("node-a_m", 2, {}, "count its holders", id="counted-back"),
        pytest.param("node-a_m", 4, {"vipkeeper.io/term-ceiling": "8"}, "must not go back", id="lower-term"),
        pytest.param("node-a_m", 4, {"vipkeeper.io/epoch": "x"}, "must not go back", id="spoilt-epoch"),
        pytest.param("node-a_m", 4, None, "must not go back", id="forgotten"),
        pytest.param("node-a_m", 4, {"vipkeeper.io/term-ceiling": "10"}, "", id="won"),
        pytest.param("node-c_m", 3, {}, "must not give a vote to `node-c_m`", id="another-kept-young"),
        pytest.param("node-a_m", 4, {"vipkeeper.io/epoch": "9" * 18}, "not leap ahead", id="leaping"),
        pytest.param("node-a_m", 4, {"vipkeeper.io/epoch": "7"}, "", id="epochs-under-other-witnesses"),
    ],
)
def test_what_a_vote_remembers_is_not_forgotten(
    admin: Api, holder: str, transitions: int, annotations: dict[str, str] | None, why: str
) -> None:
    before = lease(holderIdentity="node-c_m", leaseTransitions=3)
    kept = {"vipkeeper.io/term-ceiling": "9", "vipkeeper.io/epoch": "2"}
    before["metadata"]["annotations"] = kept
    after = admin.request("POST", LEASES, before)
    after["spec"] |= {"holderIdentity": holder, "leaseTransitions": transitions}
    after["metadata"]["annotations"] = {} if annotations is None else {**kept, **annotations}
    own = courier(admin, "certificate")
    if why:
        assert why in refusal(own.request, "PUT", f"{LEASES}/{VOTE}", after)
    else:
        own.request("PUT", f"{LEASES}/{VOTE}", after)


@pytest.mark.usefixtures("no_votes")
def test_a_courier_makes_no_vote_that_would_be_collected_or_has_no_next_term(admin: Api) -> None:
    own = courier(admin, "certificate")
    absent = {"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "0"}
    for spoilt, why in (
        ({"ownerReferences": [absent]}, "no owners"),
        ({"finalizers": ["example.com/held"]}, "no owners and no finalizers"),
        ({"annotations": {"vipkeeper.io/term-ceiling": "9" * 18}}, "not leap ahead"),
        ({"annotations": {"vipkeeper.io/epoch": "many"}}, "must be numbers"),
    ):
        made = lease()
        made["metadata"] |= spoilt
        assert why in refusal(own.request, "POST", LEASES, made)
    remembered = lease(leaseTransitions=4)
    remembered["metadata"]["annotations"] = {"vipkeeper.io/term-ceiling": "90", "vipkeeper.io/epoch": "3"}
    made = own.request("POST", LEASES, remembered)
    made["spec"] |= {"holderIdentity": "node-a_m", "leaseTransitions": 5}
    made = own.request("PUT", f"{LEASES}/{VOTE}", made)
    made["metadata"]["ownerReferences"] = [absent]
    assert "no owners" in refusal(own.request, "PUT", f"{LEASES}/{VOTE}", made)


@pytest.mark.usefixtures("no_votes")
def test_a_vote_that_somebody_spoilt_by_hand_can_be_put_right(admin: Api) -> None:
    before = lease()
    before["metadata"]["annotations"] = {"vipkeeper.io/term-ceiling": "nine", "vipkeeper.io/epoch": "-1"}
    after = admin.request("POST", LEASES, before)
    after["metadata"]["annotations"] = {"vipkeeper.io/term-ceiling": "0", "vipkeeper.io/epoch": "0"}
    after["spec"] |= {"holderIdentity": "node-a_m", "leaseTransitions": 1}
    courier(admin, "certificate").request("PUT", f"{LEASES}/{VOTE}", after)


@pytest.mark.usefixtures("no_votes")
def test_a_real_courier_works_under_the_policies(admin: Api, guarded: ControlPlane, tmp_path: Path) -> None:
    courier(admin, "pod-token")
    token = bound_token(admin, "Pod", "agent-node-a", NAMESPACE)
    kubeconfig = kubeconfig_with(guarded, tmp_path / "kubeconfig", token)
    process = processes.start(
        [
            *(sys.executable, "-m", "vipcourier", "--node=node-a", f"--socket={tmp_path / 'none.sock'}"),
            *(f"--kubeconfig={kubeconfig}", f"--metrics=127.0.0.1:{free_ports().api}"),
        ],
        name="courier",
        network=kernelcalls.current_network(),
        log=tmp_path / "log",
    )
    told: list[Votes] = []
    cluster = connect(str(kubeconfig), user_agent="test")
    voting = Voting(
        cluster, namespace=NAMESPACE, manager="vipkeeper-courier", on_votes=lambda _, got: told.append(got)
    )
    try:
        voting.start()
        wanted = VoteWanted(
            domain_uid=VOTE.removeprefix("vipkeeper-vote-"),
            domain_name="default",
            holder="node-a_machine",
            incarnation=1,
            term_ceiling=1,
            epoch=1,
            is_needed=True,
        )
        voting.want(VotesWanted((wanted,)))
        eventually(lambda: told and told[-1].votes, what="the vote is won")
        eventually(
            lambda: [
                each
                for each in admin.list(API_VERSION, "VIPNode")
                if condition(each, "Ready").get("reason") == "KeeperDisconnected"
            ],
            within_s=60,
            what="the status is written",
        )
    finally:
        voting.stop(1.0)
        cluster.close()
        end(process)


def test_others_than_couriers_are_left_alone(admin: Api) -> None:
    """An administrator puts a VIPNode right; a kubelet renews its Lease."""
    admin.apply(node("node-b"))
    admin.apply(node("node-b", {"version": "by hand"}), subresource="/status")
    kubelet = lease("node-a")
    kubelet["metadata"]["namespace"] = "kube-node-lease"
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-node-lease"}})
    admin.apply(kubelet)
    admin.delete("coordination.k8s.io/v1", "Lease", "node-a", namespace="kube-node-lease")


def test_a_real_controller_works_under_the_policies(
    admin: Api, guarded: ControlPlane, tmp_path: Path
) -> None:
    process = launch(admit(guarded), tmp_path / "log")
    try:
        fleet = Fleet(admin, "node-a", "node-b", "node-c")
        fleet.arrive()
        make(fleet, "web")
        fleet.settle(lambda: any(fleet.owns("web", each) for each in fleet.nodes), within_s=60)
        assert fleet.virtual_ip("web")["metadata"]["finalizers"] == ["vipkeeper.io/release"]
        admin.delete(API_VERSION, "VirtualIP", "web")
        fleet.settle(lambda: not admin.list(API_VERSION, "VirtualIP"), what="its finalizer is taken away")
    finally:
        end(process)


def test_the_controller_changes_no_spec(admin: Api) -> None:
    domain = {"apiVersion": API_VERSION, "kind": "FailoverDomain", "metadata": {"name": "default"}}
    admin.apply({**domain, "spec": {}})
    controller = impersonated(admin, CONTROLLER)
    change = {"spec": {"witnesses": {"count": 1}}}
    assert "finalizers and status only" in refusal(
        controller.merge, API_VERSION, "FailoverDomain", "default", change
    )
    finalizers = {"metadata": {"finalizers": ["vipkeeper.io/release"]}}
    controller.merge(API_VERSION, "FailoverDomain", "default", finalizers)
    owner = {"apiVersion": "v1", "kind": "Node", "name": "none", "uid": "0"}
    refusal(
        controller.merge, API_VERSION, "FailoverDomain", "default", {"metadata": {"ownerReferences": [owner]}}
    )
    controller.merge(API_VERSION, "FailoverDomain", "default", {"metadata": {"finalizers": []}})


def test_the_controller_changes_no_program_of_a_deployment(admin: Api) -> None:
    container = {"name": "app", "image": "app:1"}
    pod = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}}
    admin.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "app", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": pod},
        }
    )
    controller = impersonated(admin, CONTROLLER)

    def patch(**spec: Any) -> Object:
        return controller.merge(
            "apps/v1", "Deployment", "app", {"spec": {"replicas": 1, "template": {"spec": spec}}}
        )

    patch(nodeSelector={"kubernetes.io/hostname": "node-a"})
    for spec in (
        {"containers": [{**container, "image": "app:2"}]},
        {"hostNetwork": True},
        {"initContainers": [{**container, "name": "before"}]},
        {"volumes": [{"name": "root", "hostPath": {"path": "/"}}]},
        {"serviceAccountName": "other"},
        {"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["db"]}]},
        {"dnsPolicy": "Default"},
        {"shareProcessNamespace": True},
        {"imagePullSecrets": [{"name": "other"}]},
        {"priorityClassName": "system-node-critical"},
        {"schedulerName": "other"},
        {"terminationGracePeriodSeconds": 0},
    ):
        assert "what the Pods of a Deployment run" in refusal(patch, **spec)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "none", "uid": "0"}
    for change in (
        {"spec": {"template": {"metadata": {"labels": {"more": "yes"}}}}},
        {"spec": {"template": {"metadata": {"annotations": {"inject": "yes"}}}}},
        {"spec": {"paused": True}},
        {"metadata": {"ownerReferences": [owner]}},
    ):
        refusal(controller.merge, "apps/v1", "Deployment", "app", change)
    patch(nodeSelector={"kubernetes.io/hostname": "node-b"})
    admin.delete("apps/v1", "Deployment", "app")


def test_the_controller_writes_only_its_own_endpoint_slices(admin: Api) -> None:
    controller = impersonated(admin, CONTROLLER)
    failover_uid = "2f1c9a52-8e0e-4a5e-9b2b-0d3f6c0b8a11"

    def endpoints(
        name: str, manager: str = "vipkeeper.io", service: str = "db", uid: str = failover_uid
    ) -> Object:
        labels = {
            "endpointslice.kubernetes.io/managed-by": manager,
            "kubernetes.io/service-name": service,
            "vipkeeper.io/servicefailover-uid": uid,
        }
        owner = {"apiVersion": API_VERSION, "kind": "ServiceFailover", "name": "db", "uid": failover_uid}
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": "default",
                "labels": labels,
                "ownerReferences": [owner],
            },
            "addressType": "IPv4",
            "endpoints": [],
        }

    ours = endpoints("db-vipkeeper-ipv4")
    controller.apply(ours)
    for strange in (
        endpoints("anything"),
        endpoints("db-vipkeeper-ipv4", service="kubernetes"),
        endpoints("db-vipkeeper-ipv4", service=""),
        endpoints("db-vipkeeper-ipv6", uid="of-another"),
        {**ours, "metadata": {**ours["metadata"], "name": "db-vipkeeper-ipv6", "ownerReferences": []}},
    ):
        assert "belong to the ServiceFailover" in refusal(controller.apply, strange)
    refusal(controller.apply, endpoints("new", "somebody"))
    admin.apply(endpoints("theirs", "somebody"))
    said = refusal(controller.delete, "discovery.k8s.io/v1", "EndpointSlice", "theirs", namespace="default")
    assert "no EndpointSlices but its own" in said
    refusal(controller.apply, endpoints("theirs", "vipkeeper.io"))
    controller.delete("discovery.k8s.io/v1", "EndpointSlice", "db-vipkeeper-ipv4", namespace="default")
    admin.delete("discovery.k8s.io/v1", "EndpointSlice", "theirs", namespace="default")


def test_the_controller_makes_no_secrets_but_heartbeat_keys(admin: Api) -> None:
    controller = impersonated(admin, CONTROLLER)

    def secret(name: str, kind: str, **annotations: str) -> Object:
        about = {"name": name, "namespace": NAMESPACE, "annotations": annotations}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": about, "type": kind}

    secrets = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    token = {"kubernetes.io/service-account.name": "vipkeeper-courier"}
    for kind in ("kubernetes.io/service-account-token", "Opaque"):
        said = refusal(controller.request, "POST", secrets, secret("other", kind, **token))
        assert "no Secrets but heartbeat keys" in said
    controller.request("POST", secrets, secret("key", "vipkeeper.io/heartbeat-key"))
    admin.delete("v1", "Secret", "key", namespace=NAMESPACE)


@pytest.mark.parametrize(
    ("user", "group", "addresses", "why"),
    [
        pytest.param("alice", "edge", ["192.0.2.10/24", "2001:db8:1::5"], "", id="within-a-groups-ranges"),
        pytest.param("bob", "", ["192.0.2.200/24", "203.0.113.1"], "", id="within-both-of-a-users"),
        pytest.param("alice", "edge", ["192.0.2.127"], "", id="the-last-of-a-range"),
        pytest.param(
            *("alice", "edge", ["192.0.2.10/24", "192.0.2.128/24"]),
            "may use addresses of 192.0.2.0/25, 2001:db8:1::/64 only, and not 192.0.2.128/24",
            id="one-outside",
        ),
        pytest.param("bob", "", ["2001:db8:1::5"], "and not 2001:db8:1::5", id="another-family"),
        pytest.param("dora", "", ["192.0.2.10"], "dora may use no addresses", id="nobody-named-her"),
    ],
)
def test_people_use_the_addresses_that_they_were_given(
    admin: Api, user: str, group: str, addresses: list[str], why: str
) -> None:
    person = impersonated(admin, user, group)
    if why:
        assert why in refusal(person.apply, virtual_ip("web", *addresses))
    else:
        person.apply(virtual_ip("web", *addresses))


def test_addresses_of_others_are_neither_taken_over_nor_deleted(admin: Api) -> None:
    admin.apply(virtual_ip("theirs", "198.51.100.9"))
    bob = impersonated(admin, "bob")
    for change in ({"suspend": True}, {"addresses": ["203.0.113.1"]}):
        refusal(bob.merge, API_VERSION, "VirtualIP", "theirs", {"spec": change})
    refusal(bob.delete, API_VERSION, "VirtualIP", "theirs")
    bob.merge(API_VERSION, "VirtualIP", "theirs", {"metadata": {"labels": {"seen": "yes"}}})
    collector = impersonated(admin, "system:serviceaccount:kube-system:generic-garbage-collector")
    collector.delete(API_VERSION, "VirtualIP", "theirs")


def test_addresses_of_others_are_not_deleted_by_their_metadata(admin: Api) -> None:
    theirs = virtual_ip("theirs", "198.51.100.9")
    theirs["metadata"]["finalizers"] = ["vipkeeper.io/release"]
    admin.apply(theirs)
    absent = {"apiVersion": "v1", "kind": "Node", "name": "none", "uid": "0"}

    def change(person: Api, **metadata: Any) -> None:
        person.merge(API_VERSION, "VirtualIP", "theirs", {"metadata": metadata})

    bob = impersonated(admin, "bob")
    assert "203.0.113.0/24 only" in refusal(change, bob, ownerReferences=[absent])
    refusal(change, bob, finalizers=[])
    for account in ("controller", "cleanup"):
        own = impersonated(admin, f"system:serviceaccount:{NAMESPACE}:vipkeeper-{account}", "system:masters")
        change(own, finalizers=["vipkeeper.io/release", f"example.com/{account}"])
    controller = impersonated(admin, CONTROLLER)
    change(controller, finalizers=["vipkeeper.io/release"])
    refusal(change, controller, ownerReferences=[absent])
    change(admin, finalizers=[])


def test_a_cluster_administrator_uses_every_address(admin: Api) -> None:
    admin.apply(virtual_ip("web", "198.51.100.9"))


def failover(namespace: str, **service: Any) -> Object:
    one = {
        "name": "app",
        "virtualIPRef": {"name": "web"},
        "primary": "node-a",
        "standbys": ["node-b"],
        **service,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "ServiceFailover",
        "metadata": {"name": "billing", "namespace": namespace},
        "spec": {"mode": "ActiveStandby", "services": [one]},
    }


UNIT = {"workload": {"systemd": {"unit": "sshd.service"}}}
IN_CLUSTER = {"workload": {"kubernetesService": {"name": "db"}}}


@pytest.fixture
def namespaces(admin: Api) -> None:
    for name in ("plain", "for-hosts", "labelled"):
        labels = {"vipkeeper.io/host-workloads": "allowed"} if name == "labelled" else {}
        admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    "service",
    [
        pytest.param(UNIT, id="systemd"),
        pytest.param(
            {"workload": {"exec": {"start": {"hook": "app-start"}, "stop": {"hook": "app-stop"}}}}, id="exec"
        ),
        pytest.param({"workload": {"ocf": {"provider": "heartbeat", "type": "apache"}}}, id="ocf"),
        pytest.param(
            {"workload": {"mount": {"source": "/dev/sdb1", "target": "/srv", "fsType": "ext4"}}}, id="mount"
        ),
    ],
)
def test_what_runs_as_root_on_the_nodes_is_not_for_every_namespace(admin: Api, service: Object) -> None:
    alice = impersonated(admin, "alice")
    said = refusal(alice.apply, failover("plain", **service))
    assert "the service `app`: must not run as root on the nodes" in said
    assert "vipkeeper.io/host-workloads=allowed" in said
    alice.apply(failover("for-hosts", **service))
    alice.apply(failover("labelled", **service))
    admin.apply(failover("plain", **service))


@pytest.mark.usefixtures("namespaces")
def test_what_runs_in_the_cluster_is_for_everybody(admin: Api) -> None:
    impersonated(admin, "alice").apply(failover("plain", **IN_CLUSTER))


@pytest.mark.usefixtures("namespaces")
def test_hooks_and_checks_are_programs_on_the_nodes_too(admin: Api) -> None:
    alice = impersonated(admin, "alice")
    admin.apply(failover("plain", **UNIT))
    with_checks = failover("plain", **UNIT)
    with_checks["spec"]["healthChecks"] = [{"name": "disk", "exec": {"hook": "check-disk"}}]
    assert "the health check `disk`" in refusal(alice.apply, with_checks)
    hooks = {"hooks": {"promoted": [{"hook": "tell"}]}}
    refusal(alice.apply, failover("plain", **UNIT, **hooks))
    checks = [{"name": "disk", "exec": {"hook": "check-disk"}}]
    edge = impersonated(admin, "alice", "edge")
    said = refusal(edge.apply, virtual_ip("web", "192.0.2.10", healthChecks=checks))
    assert "the health checks disk must not run programs" in said
    reads = [{"name": "disk", "file": {"path": "/etc/shadow", "contentRegex": "^root:[$]6"}}]
    refusal(edge.apply, virtual_ip("web", "192.0.2.10", healthChecks=reads))
    with_checks["spec"]["healthChecks"] = reads
    assert "the health check `disk`" in refusal(impersonated(admin, "alice").apply, with_checks)
    edge.apply(virtual_ip("web", "192.0.2.10", healthChecks=[{"name": "port", "tcpSocket": {"port": 80}}]))


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    "probe",
    [{"process": {"executable": "sshd"}}, {"systemdUnit": {"unit": "sshd.service"}}],
    ids=["process", "unit"],
)
def test_what_runs_on_the_nodes_is_not_for_everybody_to_ask(admin: Api, probe: Object) -> None:
    checks = [{"name": "runs", **probe}]
    watched = failover("plain", **UNIT)
    watched["spec"]["healthChecks"] = checks
    assert ", the health check `runs`: must not" in refusal(impersonated(admin, "alice").apply, watched)
    edge = impersonated(admin, "alice", "edge")
    said = refusal(edge.apply, virtual_ip("web", "192.0.2.10", healthChecks=checks))
    assert "the health checks runs must not" in said
    admin.apply(virtual_ip("web", "192.0.2.10", healthChecks=checks))


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(
    "routing",
    [
        {"routes": [{"destination": "0.0.0.0/0", "via": "192.0.2.254"}]},
        {"routes": [{"destination": "0.0.0.0/1"}]},
        {"rules": [{"table": 100}]},
    ],
    ids=["a default route", "half of one", "a rule"],
)
def test_where_nodes_send_their_packets_is_not_for_everybody_to_say(admin: Api, routing: Object) -> None:
    edge = impersonated(admin, "alice", "edge")
    said = refusal(edge.apply, virtual_ip("web", "192.0.2.10", **routing))
    assert "`routes` and `rules` must not change where the nodes send" in said
    assert "`vipkeeper-host-workloads`" in said
    edge.apply(virtual_ip("web", "192.0.2.10", **{key: [] for key in routing}))
    admin.apply(virtual_ip("web", "192.0.2.10", **routing))


OF_THE_NODE = (
    *("127.0.0.1", "127.9.9.9", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "0:0:0:0:0:0:0:1"),  # noqa: S104
    *("localhost", "web.localhost", "localhost.localdomain", "ip6-loopback", "metadata.google.internal"),
    *("LocalHost", "0x7f.1", "127.0x1"),
)
OF_OTHERS = ("192.0.2.7", "2001:db8::7", "db.example.com", "mylocalhost", "localhost.example.com", "10.test")


def asking(kind: str, *hosts: str | None) -> Object:
    """A VirtualIP with a check of each host; None is one without."""
    probes = [{"port": 80} if host is None else {"port": 80, "host": host} for host in hosts]
    checks = [{"name": f"port-{number}", kind: probe} for number, probe in enumerate(probes)]
    return virtual_ip("web", "192.0.2.10", healthChecks=checks)


def test_what_serves_a_node_alone_is_not_for_everybody_to_ask(admin: Api) -> None:
    edge = impersonated(admin, "alice", "edge")
    for first in range(0, len(OF_THE_NODE), 10):  # a VirtualIP has sixteen checks at most
        hosts = OF_THE_NODE[first : first + 10]
        said = refusal(edge.apply, asking("tcpSocket", "192.0.2.7", *hosts))
        told = (f"port-{number} (host {host.lower()})" for number, host in enumerate(hosts, start=1))
        assert f"the health checks {', '.join(told)} must not" in said
        admin.apply(asking("tcpSocket", *hosts))
    for kind in ("httpGet", "grpc"):
        assert "port-0 (host 127.0.0.1)" in refusal(edge.apply, asking(kind, "127.0.0.1"))


@pytest.mark.parametrize("kind", ["httpGet", "tcpSocket", "grpc"])
def test_other_hosts_and_the_service_itself_are_for_everybody_to_ask(admin: Api, kind: str) -> None:
    impersonated(admin, "alice", "edge").apply(asking(kind, *OF_OTHERS, None))


@pytest.mark.usefixtures("namespaces")
def test_a_namespaces_owner_does_not_edit_what_an_administrator_made(admin: Api) -> None:
    admin.apply(failover("plain", **UNIT))
    alice = impersonated(admin, "alice")
    merge = {"namespace": "plain"}
    refusal(
        alice.merge,
        API_VERSION,
        "ServiceFailover",
        "billing",
        {"spec": {"failback": {"policy": "Manual"}}},
        **merge,
    )
    alice.merge(API_VERSION, "ServiceFailover", "billing", {"metadata": {"labels": {"seen": "yes"}}}, **merge)


@pytest.mark.usefixtures("namespaces")
def test_a_person_is_given_the_nodes_by_a_role(admin: Api) -> None:
    alice = impersonated(admin, "alice")
    refusal(alice.apply, failover("plain", **UNIT))
    given = binding("hosts", "vipkeeper-host-workloads", "alice", namespace="plain")
    admin.apply(given)

    def is_taken() -> bool:
        try:
            alice.apply(failover("plain", **UNIT))
        except RefusedError:
            return False
        return True

    eventually(is_taken, what="the role is known")
    admin.delete(RBAC, "RoleBinding", "hosts", namespace="plain")


def trial(group: str, version: str | None) -> Object:
    found = copy.deepcopy(definitions()["Switchover"])
    annotations = {} if version is None else {"vipkeeper.io/bundle-version": version}
    found["metadata"] = {"name": f"trials.{group}", "annotations": annotations}
    kind = {"kind": "Trial", "plural": "trials", "singular": "trial", "listKind": "TrialList"}
    found["spec"] |= {"group": group, "names": kind}
    return found


def test_definitions_do_not_go_back(admin: Api) -> None:
    def bundle(version: str | None) -> Object:
        return admin.apply(trial("vipkeeper.io", version))

    def is_listed() -> bool:
        resources = admin.request("GET", "/apis/vipkeeper.io/v1alpha1")["resources"]
        return any(each["name"] == "trials" for each in resources)

    bundle(None)
    try:
        for version in ("by hand", "v0.0.1", "v0.9.0", "v0.9.0", "v0.10.0"):
            bundle(version)
        for older in ("v0.9.9", "v0.0.99", None, "latest"):
            said = refusal(bundle, older)
            assert f"must not go back from the definitions of v0.10.0 to {older or 'none'}" in said
        bundle("v1.0.0-rc.1")
        bundle("v1.0.0")
        refusal(bundle, "v0.99.99")
    finally:
        eventually(is_listed, what="the kind is there")
        admin.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "trials.vipkeeper.io")
        eventually(lambda: not is_listed(), what="the kind is gone")


def test_the_definitions_of_others_go_where_they_like(admin: Api) -> None:
    for version in ("v2.0.0", "v1.0.0"):
        admin.apply(trial("example.com", version))
    admin.delete("apiextensions.k8s.io/v1", "CustomResourceDefinition", "trials.example.com")


def test_the_definitions_of_this_release_can_be_applied_again(admin: Api) -> None:
    for definition in manifests_in(ROOT / "crds"):
        admin.apply(definition)
