"""Which EndpointSlices a Service gets, from objects as the API server gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipapi.healthchecks import Selector
from vipapi.workloads import KubernetesService
from vipcontroller import endpoints
from vipcontroller.assignments import Assignment, Assignments, Site
from vipcontroller.kubeobjects import EndpointSlice, Pod, Service, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vipcontroller.endpoints import Plan
    from vipcontroller.kubeobjects import SliceMeta

Object = dict[str, Any]

SITES = (
    Site("node-a", ("192.0.2.1", "2001:db8::1"), "a"),
    Site("node-b", ("2001:db8::2", "192.0.2.2", "192.0.2.22"), "b"),
)
HTTP = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
HTTPS = {"name": "https", "port": 443, "targetPort": "tls", "protocol": "TCP"}
DNS = {"name": "dns", "port": 53, "protocol": "UDP", "appProtocol": "example.org/dns"}


def assignment(
    owner: str | None = "node-a", *, port: int | None = None, uid: str = "uid-1", **selected: str
) -> Assignment:
    """Return the assignment of the Service `web`; with labels, to the Pods that have them."""
    selector = Selector(match_labels=selected) if selected else None
    return Assignment(
        uid=uid,
        namespace="prod",
        failover="billing",
        service="entry",
        virtual_ip="web",
        workload=KubernetesService(name="web", port=port, pod_selector=selector),
        owner=owner,
        term=0 if owner is None else 7,
        sites=SITES,
    )


def service(*ports: Object, **spec: Any) -> Service:
    found = {"type": "ClusterIP", "ipFamilies": ["IPv4"], "ports": list(ports or [HTTP]), **spec}
    return read(Service, {"metadata": {"name": "web", "namespace": "prod"}, "spec": found})


def pod(name: str, node: str = "node-a", *ips: str, is_ready: bool = True, **more: Any) -> Pod:
    """Return a Pod whose container calls its port 8443 `tls`, or what `ports` says."""
    ports = more.pop("ports", [{"name": "tls", "containerPort": 8443, "protocol": "TCP"}])
    return read(
        Pod,
        {
            "metadata": {"name": name, "namespace": "prod", "uid": f"uid-of-{name}", **more},
            "spec": {"nodeName": node, "containers": [{"name": "main"}, {"name": "proxy", "ports": ports}]},
            "status": {
                "podIPs": [{"ip": ip} for ip in ips or ["10.0.0.1"]],
                "conditions": [{"type": "Ready", "status": "True" if is_ready else "False"}],
            },
        },
    )


def somebodys(name: str, *ips: str, manager: str = "endpointslice-controller.k8s.io") -> EndpointSlice:
    document = {
        "metadata": {
            "name": name,
            "namespace": "prod",
            "labels": {
                "kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": manager,
            },
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip]} for ip in ips] or None,
        "ports": None,
    }
    return read(EndpointSlice, document)


def stored(plan: Plan, *others: EndpointSlice, version: str = "5") -> tuple[EndpointSlice, ...]:
    """Return what the API server has after a plan was carried out, and answers."""
    found = {each.metadata.name: each for each in others if each.metadata not in plan.deletes}
    for each in plan.writes:
        document = msgspec.json.decode(msgspec.json.encode(each))
        document["metadata"]["resourceVersion"] = version
        document |= {"endpoints": document["endpoints"] or None, "ports": document["ports"] or None}
        found[each.metadata.name] = read(EndpointSlice, document)
    return tuple(found.values())


def addresses(plan: Plan) -> dict[str, list[str]]:
    return {
        each.metadata.name: [address for endpoint in each.endpoints for address in endpoint.addresses]
        for each in plan.writes
    }


def names(deleted: Sequence[SliceMeta]) -> list[str]:
    return [each.name for each in deleted]


def numbers(found: EndpointSlice) -> dict[str, int | None]:
    return {port.name: port.port for port in found.ports}


def state(plan: Plan) -> str | None:
    return None if plan.finding.report is None else plan.finding.report.state


def objection(plan: Plan) -> str:
    assert plan.finding.objection is not None
    return f"{plan.finding.objection.reason} {plan.finding.objection.message}"


def test_the_one_endpoint_is_the_owners_node_and_the_slice_says_whose_it_is() -> None:
    plan = endpoints.plan(assignment(), service(HTTP, DNS), (), ())
    assert [msgspec.to_builtins(each) for each in plan.writes] == [
        {
            "metadata": {
                "name": "web-vipkeeper-ipv4",
                "namespace": "prod",
                "labels": {
                    "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "vipkeeper.io",
                    "vipkeeper.io/servicefailover-uid": "uid-1",
                },
                "ownerReferences": (
                    {
                        "apiVersion": "vipkeeper.io/v1alpha1",
                        "kind": "ServiceFailover",
                        "name": "billing",
                        "uid": "uid-1",
                    },
                ),
            },
            "addressType": "IPv4",
            "endpoints": (
                {
                    "addresses": ("192.0.2.1",),
                    "conditions": {"ready": True, "serving": True, "terminating": False},
                    "nodeName": "node-a",
                },
            ),
            "ports": (
                {"name": "http", "port": 8080},
                {"name": "dns", "port": 53, "protocol": "UDP", "appProtocol": "example.org/dns"},
            ),
        }
    ]
    assert not plan.deletes
    report = plan.finding.report
    assert report is not None
    assert (report.uid, report.name, report.virtual_ip) == ("uid-1", "entry", "web")
    assert (report.state, report.term, plan.finding.node) == ("Active", 7, "node-a")
    assert plan.finding.objection is None


def test_each_address_family_of_the_service_has_its_slice_with_the_preferred_address() -> None:
    plan = endpoints.plan(assignment("node-b"), service(ipFamilies=["IPv6", "IPv4"]), (), ())
    assert addresses(plan) == {"web-vipkeeper-ipv6": ["2001:db8::2"], "web-vipkeeper-ipv4": ["192.0.2.2"]}
    assert [each.address_type for each in plan.writes] == ["IPv6", "IPv4"]


def test_a_family_that_the_service_no_longer_has_goes() -> None:
    both = endpoints.plan(assignment(), service(ipFamilies=["IPv4", "IPv6"]), (), ())
    plan = endpoints.plan(assignment(), service(), stored(both), ())
    assert (plan.writes, names(plan.deletes)) == ((), ["web-vipkeeper-ipv6"])


def test_what_is_there_already_is_not_written_again() -> None:
    plan = endpoints.plan(assignment(), service(), (), ())
    again = endpoints.plan(assignment(), service(), stored(plan), ())
    assert (again.writes, again.deletes, again.finding) == ((), (), plan.finding)
    nobody = endpoints.plan(assignment(None), service(), (), ())
    assert not endpoints.plan(assignment(None), service(), stored(nobody), ()).writes


def test_another_owner_replaces_the_former_one_in_what_was_read() -> None:
    there = stored(endpoints.plan(assignment(), service(), (), ()), version="41")
    plan = endpoints.plan(assignment("node-b"), service(), there, ())
    assert addresses(plan) == {"web-vipkeeper-ipv4": ["192.0.2.2"]}
    assert plan.writes[0].metadata.resource_version == "41"
    assert plan.finding.node == "node-b"


def test_while_nobody_owns_the_address_the_slices_stay_and_are_empty() -> None:
    there = stored(endpoints.plan(assignment(), service(), (), ()))
    plan = endpoints.plan(assignment(None), service(), there, ())
    assert addresses(plan) == {"web-vipkeeper-ipv4": []}
    assert numbers(plan.writes[0]) == {"http": 8080}
    assert not plan.deletes
    assert plan.finding == (None, "", None)


def test_a_port_takes_the_place_of_the_services_only_one() -> None:
    plan = endpoints.plan(assignment(port=9000), service(), (), ())
    assert numbers(plan.writes[0]) == {"http": 9000}


@pytest.mark.parametrize(
    "ports", [pytest.param([HTTP, HTTPS], id="two"), pytest.param([], id="none, as a headless one may have")]
)
def test_a_port_for_a_service_of_not_just_one_is_refused_and_nobody_is_sent_to_a_former_owner(
    ports: list[Object],
) -> None:
    unfit = read(Service, {"metadata": {"name": "web"}, "spec": {"ports": ports}})
    plan = endpoints.plan(assignment(port=9000), unfit, (), ())
    assert not plan.writes
    assert objection(plan).startswith("ServiceUnfit service 'entry': `kubernetesService.port` is for")
    assert state(plan) == "Waiting"
    there = stored(endpoints.plan(assignment(port=9000), service(), (), ()))
    assert not endpoints.plan(assignment(port=9000), unfit, there, ()).writes, "what runs goes on"
    moved = endpoints.plan(assignment("node-b", port=9000), unfit, there, ())
    assert addresses(moved) == {"web-vipkeeper-ipv4": []}


def test_a_node_has_no_port_of_a_name_and_the_number_must_be_told() -> None:
    there = stored(endpoints.plan(assignment(), service(), (), ()))
    plan = endpoints.plan(assignment(), service(HTTP, HTTPS), there, ())
    assert (plan.writes, plan.deletes, state(plan)) == ((), (), "Waiting")
    assert objection(plan).startswith(
        "ServiceUnfit service 'entry': the Service 'web' has the target port 'tls' (TCP)"
    )
    assert numbers(endpoints.plan(assignment(port=8443), service(HTTPS), (), ()).writes[0]) == {"https": 8443}


def test_a_headless_service_without_ports_leads_to_the_owner() -> None:
    headless = read(Service, {"metadata": {"name": "web"}, "spec": {"clusterIP": "None"}})
    plan = endpoints.plan(assignment(), headless, (), ())
    assert addresses(plan) == {"web-vipkeeper-ipv4": ["192.0.2.1"]}
    assert state(plan) == "Active"
    assert not endpoints.plan(assignment(), headless, stored(plan), ()).writes


@pytest.mark.parametrize(
    ("owner", "families"),
    [
        pytest.param("node-x", ["IPv4"], id="whose Node is gone"),
        pytest.param("node-c", ["IPv4"], id="without any"),
        pytest.param("node-a", ["IPv9"], id="without that family"),
    ],
)
def test_an_owner_without_an_address_is_told(owner: str, families: list[str]) -> None:
    plan = endpoints.plan(assignment(owner), service(ipFamilies=families), (), ())
    assert not any(each.endpoints for each in plan.writes)
    report = plan.finding.report
    assert report is not None
    assert (report.state, report.message) == (
        "Starting",
        f"{owner} has no InternalIP of {families[0]}, as the Service has",
    )


def test_a_slice_of_ours_that_somebody_edited_is_set_right() -> None:
    [there] = stored(endpoints.plan(assignment(), service(), (), ()))
    edited = msgspec.structs.replace(there, endpoints=(*there.endpoints, *there.endpoints))
    assert addresses(endpoints.plan(assignment(), service(), (edited,), ())) == {
        "web-vipkeeper-ipv4": ["192.0.2.1"]
    }
    unlabelled = {key: value for key, value in there.metadata.labels.items() if not key.startswith("vipk")}
    bare = msgspec.structs.replace(there.metadata, labels=unlabelled)
    assert endpoints.plan(
        assignment(), service(), (msgspec.structs.replace(there, metadata=bare),), ()
    ).writes
    labels = msgspec.structs.replace(there.metadata, labels={**there.metadata.labels, "team": "x"})
    assert not endpoints.plan(
        assignment(), service(), (msgspec.structs.replace(there, metadata=labels),), ()
    ).writes


def test_a_service_that_another_object_has_now_gets_that_ones_slices() -> None:
    there = stored(endpoints.plan(assignment(uid="uid-0"), service(), (), ()))
    [mine] = endpoints.plan(assignment(), service(), there, ()).writes
    assert mine.metadata.labels["vipkeeper.io/servicefailover-uid"] == "uid-1"
    assert [owner.uid for owner in mine.metadata.owner_references] == ["uid-1"]


def test_only_ready_pods_on_the_owner_are_endpoints() -> None:
    pods = [
        pod("app-2", "node-a", "10.0.0.2"),
        pod("app-1", "node-a", "10.0.0.1"),
        pod("elsewhere", "node-b", "10.0.1.1"),
        pod("unready", "node-a", "10.0.0.3", is_ready=False),
        pod("ending", "node-a", "10.0.0.4", deletionTimestamp="2026-01-01T00:00:00Z"),
    ]
    plan = endpoints.plan(assignment(app="web"), service(), (), pods)
    assert addresses(plan) == {"web-vipkeeper-ipv4": ["10.0.0.1", "10.0.0.2"]}
    first = plan.writes[0].endpoints[0]
    assert msgspec.to_builtins(first) == {
        "addresses": ("10.0.0.1",),
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "node-a",
        "targetRef": {"kind": "Pod", "namespace": "prod", "name": "app-1", "uid": "uid-of-app-1"},
    }
    assert state(plan) == "Active"


def test_pods_of_both_families_are_in_both_slices() -> None:
    both = pod("app", "node-a", "2001:db8:1::7", "10.0.0.7")
    plan = endpoints.plan(assignment(app="web"), service(ipFamilies=["IPv4", "IPv6"]), (), [both])
    assert addresses(plan) == {"web-vipkeeper-ipv4": ["10.0.0.7"], "web-vipkeeper-ipv6": ["2001:db8:1::7"]}


def test_a_named_port_is_what_the_pods_container_calls_so() -> None:
    plan = endpoints.plan(assignment(app="web"), service(HTTP, HTTPS), (), [pod("app")])
    assert numbers(plan.writes[0]) == {"http": 8080, "https": 8443}
    udp = pod("app", ports=[{"name": "tls", "containerPort": 8443, "protocol": "UDP"}])
    assert numbers(endpoints.plan(assignment(app="web"), service(HTTP, HTTPS), (), [udp]).writes[0]) == {
        "http": 8080
    }


def test_pods_that_number_a_named_port_otherwise_are_in_a_slice_of_their_own() -> None:
    old = pod("old", "node-a", "10.0.0.1", ports=[{"name": "tls", "containerPort": 4443}])
    new = pod("new", "node-a", "10.0.0.2")
    plan = endpoints.plan(assignment(app="web"), service(HTTPS), (), [new, old])
    assert addresses(plan) == {"web-vipkeeper-ipv4": ["10.0.0.1"], "web-vipkeeper-ipv4-2": ["10.0.0.2"]}
    assert [numbers(each) for each in plan.writes] == [{"https": 4443}, {"https": 8443}]
    there = stored(plan)
    assert not endpoints.plan(assignment(app="web"), service(HTTPS), there, [old, new]).writes
    after = endpoints.plan(assignment(app="web"), service(HTTPS), there, [new])
    assert addresses(after) == {"web-vipkeeper-ipv4": ["10.0.0.2"]}
    assert names(after.deletes) == ["web-vipkeeper-ipv4-2"]


def test_it_is_active_only_when_some_pod_has_every_port() -> None:
    plan = endpoints.plan(
        assignment(app="web"), service(HTTP, HTTPS), (), [pod("app", ports=[]), pod("other", "node-b")]
    )
    assert [numbers(each) for each in plan.writes] == [{"http": 8080}]
    report = plan.finding.report
    assert report is not None
    assert report.state == "Starting"
    assert report.message == (
        "no Pod with app=web is ready on node-a and has all ports of the Service: its containers must name "
        "'tls' (TCP)"
    )
    more = [pod("app", ports=[]), pod("whole", "node-a", "10.0.0.2")]
    assert state(endpoints.plan(assignment(app="web"), service(HTTP, HTTPS), (), more)) == "Active"


def test_without_a_ready_pod_the_slice_is_empty_and_the_service_is_starting() -> None:
    plan = endpoints.plan(assignment(app="web", tier="1"), service(), (), [])
    assert addresses(plan) == {"web-vipkeeper-ipv4": []}
    report = plan.finding.report
    assert report is not None
    assert (report.state, report.message) == ("Starting", "no Pod with app=web,tier=1 is ready on node-a")


def test_while_nobody_owns_the_address_no_pod_is_an_endpoint() -> None:
    unscheduled = pod("pending", "")
    plan = endpoints.plan(assignment(None, app="web"), service(), (), [pod("app"), unscheduled])
    assert addresses(plan) == {"web-vipkeeper-ipv4": []}


def test_a_service_with_a_selector_is_told_what_to_do_and_gets_no_slices() -> None:
    plan = endpoints.plan(assignment(), service(selector={"app": "web"}), (), ())
    assert (plan.writes, plan.deletes) == ((), ())
    assert objection(plan).startswith(
        "ServiceHasSelector service 'entry': the Service 'web' has the selector"
    )
    assert "remove `spec.selector`" in objection(plan)
    assert state(plan) == "Waiting"
    nobody = endpoints.plan(assignment(None), service(selector={"app": "web"}), (), ())
    assert state(nobody) is None
    assert objection(nobody) == objection(plan)


def test_of_a_service_that_got_a_selector_our_slices_go_on_to_follow() -> None:
    there = stored(endpoints.plan(assignment(), service(), (), ()))
    plan = endpoints.plan(assignment("node-b"), service(selector={"app": "web"}), there, ())
    assert addresses(plan) == {"web-vipkeeper-ipv4": ["192.0.2.2"]}
    assert objection(plan).startswith("ServiceHasSelector")


def test_a_service_that_does_not_exist_is_told_and_its_slices_go() -> None:
    there = stored(endpoints.plan(assignment(), service(), (), ()))
    foreign = somebodys("web-abcde", "10.0.0.9")
    plan = endpoints.plan(assignment(), None, (*there, foreign), ())
    assert (plan.writes, names(plan.deletes)) == ((), ["web-vipkeeper-ipv4"])
    assert objection(plan).startswith("ServiceNotFound service 'entry': there is no Service 'web'")


def test_a_service_without_endpoints_by_its_type_is_refused() -> None:
    plan = endpoints.plan(assignment(), service(type="ExternalName"), (), ())
    assert not plan.writes
    assert objection(plan).startswith("ServiceUnfit")


def test_endpoints_of_others_are_told_and_left_alone() -> None:
    foreign = somebodys("web-abcde", "10.0.0.9")
    plan = endpoints.plan(assignment(), service(), (foreign, somebodys("empty")), ())
    assert addresses(plan) == {"web-vipkeeper-ipv4": ["192.0.2.1"]}
    assert not plan.deletes
    assert objection(plan).startswith("ForeignEndpoints")
    assert "endpointslice-controller.k8s.io made (web-abcde)" in objection(plan)
    assert endpoints.plan(assignment(), service(), (somebodys("empty"),), ()).finding.objection is None


def test_slices_that_nobody_assigned_are_left_over_unless_nobody_knows() -> None:
    there = stored(endpoints.plan(assignment(), service(), (), ()), somebodys("web-abcde", "10.0.0.9"))
    wanted = Assignments((assignment(uid="uid-2"),))
    assert endpoints.leftovers(there, wanted) == ()
    assert endpoints.leftovers(there, Assignments()) == (there[-1].metadata,)
    assert endpoints.leftovers(there, Assignments(untouched=frozenset({"uid-1"}))) == ()
    elsewhere = msgspec.structs.replace(assignment(), namespace="lab")
    assert endpoints.leftovers(there, Assignments((elsewhere,))) == (there[-1].metadata,)


@given(
    owners=st.lists(st.sampled_from([None, "node-a", "node-b", "node-x"]), min_size=1),
    selecting=st.booleans(),
    families=st.sampled_from([["IPv4"], ["IPv6"], ["IPv4", "IPv6"]]),
)
def test_whatever_was_before_nothing_leads_to_another_than_the_owner(
    owners: list[str | None], *, selecting: bool, families: list[str]
) -> None:
    pods = [
        pod("one", "node-a", "10.0.0.1", "2001:db8:a::1"),
        pod("old", "node-a", "10.0.0.2", ports=[{"name": "tls", "containerPort": 4443}]),
        pod("two", "node-b", "10.0.1.1", "2001:db8:b::1"),
    ]
    labels = {"app": "web"} if selecting else {}
    there: tuple[EndpointSlice, ...] = ()
    for owner in owners:
        found = service(HTTP, HTTPS if selecting else DNS, ipFamilies=families)
        plan = endpoints.plan(assignment(owner, **labels), found, there, pods)
        there = stored(plan, *there)
        assert {endpoint.node_name for each in there for endpoint in each.endpoints} <= {owner}
        again = endpoints.plan(assignment(owner, **labels), found, tuple(reversed(there)), pods[::-1])
        assert (again.writes, again.deletes) == ((), ())
