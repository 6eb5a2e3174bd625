"""Which services follow an address, and who of those that want the same thing gets it."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apiserver.specs import failover, service, virtual_ip
from vipapi import candidates
from vipapi.conditions import Reason
from vipapi.resources import FailoverDomainSpec, ServiceFailover, VirtualIP, parse
from vipapi.services import followings, joined, judge, title

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from vipapi.services import Objection

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NODES = ("node-a", "node-b", "node-c", "node-d")
ACCEPTED = {
    "type": "Accepted",
    "status": "True",
    "reason": "Accepted",
    "message": "",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


def following(
    name: str, *services: dict[str, Any], age_s: int = 0, namespace: str = "prod", **said: Any
) -> ServiceFailover:
    """Return a ServiceFailover whose UID is its name; `conditions` are those of its status."""
    conditions = said.pop("conditions", [])
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": name,
        "creationTimestamp": (NOON - timedelta(seconds=age_s)).isoformat(),
    }
    body = failover(*services, mode="Cluster", **said)
    return parse(ServiceFailover, {**body, "metadata": metadata, "status": {"conditions": conditions}})


def runs(name: str = "app", follows: str = "web", unit: str = "", **said: Any) -> dict[str, Any]:
    """Return a service that is a unit of systemd, one of its own unless it is told."""
    return service(name, follows, workload={"systemd": {"unit": unit or f"{follows}-{name}.service"}}, **said)


def vip(name: str = "web", **spec: Any) -> VirtualIP:
    body = virtual_ip(**{"allowedNamespaces": {"names": ["prod"]}, **spec})
    return parse(VirtualIP, {**body, "metadata": {"name": name, "uid": name}})


VIPS = {name: vip(name) for name in ("web", "db", "mail")}


def verdicts(*failovers: ServiceFailover, **virtual_ips: VirtualIP) -> Mapping[str, Objection | None]:
    return judge(failovers, {**VIPS, **virtual_ips}, NODES)


def reasons(*failovers: ServiceFailover, **virtual_ips: VirtualIP) -> dict[str, str]:
    """Return the reason of every objection, by name; empty for what is accepted."""
    found = verdicts(*failovers, **virtual_ips)
    return {name: objection.reason if objection else "" for name, objection in found.items()}


def test_services_start_in_the_order_of_their_list_the_older_object_s_first() -> None:
    young = following("a", runs("one"), runs("other", "db"), runs("two"), age_s=1)
    old = following("b", runs("three"), age_s=2)
    found = followings("web", [young, old])
    assert [each.title for each in found] == ["prod/b/three", "prod/a/one", "prod/a/two"]
    assert followings("mail", [young, old]) == ()


def test_of_objects_of_the_same_second_the_name_decides() -> None:
    objects = [
        following(name, runs(), namespace=namespace) for name in ("a", "b") for namespace in ("x", "w")
    ]
    for order in itertools.permutations(objects):
        assert [title(each.failover) for each in followings("web", order)] == ["w/a", "w/b", "x/a", "x/b"]


def test_an_address_without_services_stays_as_it_is() -> None:
    spec = vip(candidates=[{"nodeName": "node-d"}]).spec
    assert joined(spec, ()) is spec


def test_an_address_that_services_follow_is_held_by_their_nodes_in_their_order() -> None:
    spec = vip(failback={"policy": "Manual", "delaySeconds": 1}).spec
    mine = runs(primary="node-c", standbys=["node-d", "node-a"])
    old = following("a", mine, age_s=2, failback={"policy": "Automatic", "delaySeconds": 7})
    young = following("b", mine, age_s=1)
    found = joined(spec, followings("web", [young, old]))
    assert [(each.node_name, each.priority) for each in found.candidates] == [
        ("node-c", 100),
        ("node-d", 99),
        ("node-a", 98),
    ]
    assert (found.failback.policy, found.failback.delay_seconds) == ("Automatic", 7)
    assert found.health_checks == spec.health_checks


def test_the_standbys_of_a_spread_address_count_alike() -> None:
    mine = following("a", runs(primary="node-c", standbys=["node-d", "node-a"]))
    found = joined(vip(spread={"group": "g"}).spec, followings("web", [mine]))
    assert [each.priority for each in found.candidates] == [100, 99, 99]
    assert found.spread == vip(spread={"group": "g"}).spec.spread
    alone = following("a", runs(primary="node-c", standbys=["node-d"]))
    found = joined(vip(spread={"group": "g"}).spec, followings("web", [alone]))
    assert [each.priority for each in found.candidates] == [100, 99]


def test_the_last_of_fifteen_standbys_has_a_priority_too() -> None:
    nodes = [f"node-{n}" for n in range(16)]
    found = joined(
        VIPS["web"].spec, followings("web", [following("a", runs(primary=nodes[0], standbys=nodes[1:]))])
    )
    nominees = candidates.nominate(found, candidates.roster(FailoverDomainSpec(), ()))
    assert sorted(each.priority for each in nominees) == list(range(85, 101))
    assert [each.node for each in sorted(nominees, key=lambda each: -each.priority)] == nodes


@pytest.mark.parametrize(
    ("wanted", "virtual_ips", "reason", "remedy"),
    [
        pytest.param(
            following("it", runs(follows="shop")),
            {},
            Reason.VIRTUAL_IP_NOT_FOUND,
            "service 'app': there is no VirtualIP 'shop': create it, or correct `virtualIPRef`",
            id="no-such-address",
        ),
        pytest.param(
            following("it", runs(), namespace="dev"),
            {},
            Reason.NAMESPACE_NOT_ALLOWED,
            "service 'app': VirtualIP 'web' lets no services of the namespace 'dev' follow it: add the "
            "namespace to its `allowedNamespaces.names`, or follow another VirtualIP",
            id="another-namespace",
        ),
        pytest.param(
            following("it", runs()),
            {"web": vip(allowedNamespaces=None)},
            Reason.NAMESPACE_NOT_ALLOWED,
            "add the namespace to its `allowedNamespaces.names`",
            id="no-namespace-at-all",
        ),
        pytest.param(
            following("it", runs()),
            {"web": vip(candidates=[{"nodeName": "node-a"}])},
            Reason.CANDIDATES_CONFLICT,
            "remove `candidates` from the VirtualIP, or the service from this object",
            id="candidates-of-its-own",
        ),
        pytest.param(
            following("it", runs()),
            {"web": vip(onQuorumLoss="Hold")},
            Reason.HOLD_CONFLICT,
            "set `onQuorumLoss: Release` there, or `singleton: false` here",
            id="two-owners",
        ),
        pytest.param(
            following("it", runs(primary="node-x")),
            {},
            Reason.NODE_NOT_FOUND,
            "service 'app': the cluster has no node 'node-x': correct `primary`, or add the node",
            id="no-such-primary",
        ),
        pytest.param(
            following("it", runs(standbys=["node-b", "node-x"])),
            {},
            Reason.NODE_NOT_FOUND,
            "correct `standbys`, or add the node",
            id="no-such-standby",
        ),
        pytest.param(
            following("it", runs(standbys=["node-c"])),
            {},
            Reason.NODES_DIFFER,
            "service 'app': 'prod/old/db' follows VirtualIP 'web' too, with other nodes: write the same ones "
            "here (`primary: node-a`, `standbys: [node-b]`), or follow another VirtualIP",
            id="other-nodes",
        ),
        pytest.param(
            following("it", runs(follows="db", unit="web-db.service")),
            {},
            Reason.WORKLOAD_TAKEN,
            "service 'app': 'prod/old/db' has the systemd unit `web-db.service` on node 'node-a' already: "
            "remove one of the two, or give this one a workload of its own",
            id="same-unit",
        ),
        pytest.param(
            following("it", runs("one", "db", "a.service"), runs("two", "mail", "a.service")),
            {},
            Reason.WORKLOAD_TAKEN,
            "service 'two': 'prod/it/one' has the systemd unit `a.service` on node 'node-a' already",
            id="same-unit-twice-in-one-object",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_remedy(
    wanted: ServiceFailover, virtual_ips: dict[str, VirtualIP], reason: Reason, remedy: str
) -> None:
    old = following("old", runs("db"), age_s=9)
    objection = verdicts(old, wanted, **virtual_ips)["it"]
    assert objection is not None
    assert objection.reason == reason
    assert remedy in objection.message


@pytest.mark.parametrize(
    ("wanted", "virtual_ips"),
    [
        pytest.param(following("it", runs(singleton=False)), {"web": vip(onQuorumLoss="Hold")}, id="copies"),
        pytest.param(following("it", runs()), {}, id="the-same-nodes"),
        pytest.param(
            following("it", runs(follows="db", unit="web-db.service", primary="node-c", standbys=["node-d"])),
            {},
            id="the-same-unit-on-other-nodes",
        ),
        pytest.param(
            following(
                "it", service("db", "mail", workload={"exec": {"start": {"hook": "db", "args": ["2"]}}})
            ),
            {},
            id="the-same-hook-with-other-arguments",
        ),
    ],
)
def test_what_does_no_harm_is_accepted(wanted: ServiceFailover, virtual_ips: dict[str, VirtualIP]) -> None:
    hook = {"exec": {"start": {"hook": "db", "args": ["1"]}}}
    old = following("old", runs("db", singleton=False), service("mail", "mail", workload=hook), age_s=9)
    assert verdicts(old, wanted, **virtual_ips) == {"old": None, "it": None}


def test_the_same_start_hook_is_the_same_workload_whatever_stops_it() -> None:
    start = {"hook": "app", "args": ["a b"]}
    one = following("one", service(workload={"exec": {"start": start}}), age_s=1)
    other = following(
        "other", service(follows="db", workload={"exec": {"start": start, "stop": {"hook": "stop"}}})
    )
    objection = verdicts(one, other)["other"]
    assert objection is not None
    assert "has the start hook `app 'a b'` on node 'node-a' already" in objection.message


def test_a_resource_agent_that_is_taken_is_told_without_what_may_be_secret() -> None:
    def agent(password: str) -> dict[str, Any]:
        parameters = {"user": "root", "passwd": password}
        return {"ocf": {"provider": "heartbeat", "type": "mysql", "parameters": parameters}}

    one = following("one", service(workload=agent("hunter2")), age_s=1)
    objection = verdicts(one, following("other", service(follows="db", workload=agent("hunter2"))))["other"]
    assert objection is not None
    assert "hunter2" not in objection.message
    named = "the resource agent `ocf:heartbeat:mysql passwd=… user=…` on node 'node-a'"
    assert f"'prod/one/app' has {named} already" in objection.message
    another = following("other", service(follows="db", workload=agent("hunter3")))
    assert reasons(one, another) == {"one": "", "other": ""}


def test_the_most_basic_objection_comes_first() -> None:
    """Each service is wrong in its own way; what is mended one after another shows the next."""
    old = following("old", runs("db", "db"), age_s=9)
    wrong = {
        "VirtualIPNotFound": runs("none", "shop"),
        "NamespaceNotAllowed": runs("foreign", "foreign"),
        "CandidatesConflict": runs("named", "named"),
        "HoldConflict": runs("held", "held"),
        "NodeNotFound": runs("lost", "mail", primary="node-x"),
        "NodesDiffer": runs("apart", "db", primary="node-c"),
        "WorkloadTaken": runs("taken", "web", "db-db.service"),
    }
    virtual_ips = {
        "foreign": vip("foreign", allowedNamespaces={"names": ["dev"]}),
        "named": vip("named", candidates=[{"nodeName": "node-a"}]),
        "held": vip("held", onQuorumLoss="Hold"),
    }
    rest = list(wrong.values())
    for reason in wrong:
        assert reasons(old, following("it", *reversed(rest)), **virtual_ips)["it"] == reason
        rest = rest[1:]


def test_of_two_that_want_the_same_the_older_gets_it() -> None:
    young = following("a", runs(unit="a.service"), age_s=1)
    old = following("b", runs(follows="db", unit="a.service"), age_s=2)
    assert reasons(young, old) == {"a": "WorkloadTaken", "b": ""}


def test_who_was_accepted_stays_so_when_an_older_one_wants_the_same() -> None:
    """Else somebody who corrects an old object would stop a service that runs."""
    running = following("a", runs(unit="a.service"), age_s=1, conditions=[ACCEPTED])
    old = following("b", runs(follows="db", unit="a.service"), age_s=2)
    assert reasons(running, old) == {"a": "", "b": "WorkloadTaken"}


def test_who_is_not_accepted_stands_in_nobody_s_way() -> None:
    refused = following("a", runs(unit="a.service"), runs("x", "shop"), age_s=2)
    young = following("b", runs(follows="db", unit="a.service"), age_s=1)
    assert reasons(refused, young) == {"a": "VirtualIPNotFound", "b": ""}


def test_a_node_that_is_taken_away_does_not_stop_a_service_on_another() -> None:
    services = [runs(standbys=["node-x"])]
    assert reasons(following("it", *services)) == {"it": "NodeNotFound"}
    assert reasons(following("it", *services, conditions=[ACCEPTED])) == {"it": ""}
    refused = {**ACCEPTED, "status": "False", "reason": "NodeNotFound"}
    assert reasons(following("it", *services, conditions=[refused])) == {"it": "NodeNotFound"}


SERVICES = st.builds(
    runs,
    st.sampled_from(["app", "db"]),
    st.sampled_from(["web", "db", "mail", "shop"]),
    st.sampled_from(["", "a.service", "b.service"]),
    primary=st.sampled_from(["node-a", "node-x"]),
    standbys=st.lists(st.sampled_from(["node-b", "node-c"]), min_size=1, unique=True),
)
FAILOVERS = st.lists(
    st.builds(
        following,
        st.sampled_from("abcdefgh"),
        SERVICES,
        age_s=st.integers(0, 2),
        conditions=st.sampled_from([[], [ACCEPTED]]),
    ),
    unique_by=lambda each: each.metadata.name,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FAILOVERS, st.randoms(use_true_random=False))
def test_those_accepted_want_nothing_of_one_another_in_whatever_order_they_come(
    failovers: list[ServiceFailover], chance: random.Random
) -> None:
    found = verdicts(*failovers)
    assert verdicts(*chance.sample(failovers, len(failovers))) == found
    accepted = [each for each in failovers if found[each.metadata.uid] is None]
    assert verdicts(*accepted) == dict.fromkeys((each.metadata.uid for each in accepted), None)
    for name in VIPS:
        followers = followings(name, accepted)
        assert len({each.service.nodes for each in followers}) <= 1
    claims = [
        (node, each.workload.identity)
        for one in accepted
        for each in one.spec.services
        for node in each.nodes
    ]
    assert len(set(claims)) == len(claims)


OF_THE_CLUSTER = [
    pytest.param({"kubernetesService": {"name": "front"}}, "the Service `front`", id="Service"),
    pytest.param({"deployment": {"name": "front"}}, "the Deployment `front`", id="Deployment"),
]


@pytest.mark.parametrize(("workload", "named"), OF_THE_CLUSTER)
def test_what_is_the_cluster_s_is_one_of_a_kind_in_its_namespace(
    workload: dict[str, Any], named: str
) -> None:
    both = {"names": ["prod", "test"]}
    virtual_ips = {name: vip(name, allowedNamespaces=both) for name in VIPS}

    def follows(name: str, address: str, node: str, namespace: str = "prod") -> ServiceFailover:
        said = {"workload": workload, "singleton": False, "primary": node, "standbys": ["node-b"]}
        return following(name, service("front", address, **said), namespace=namespace)

    # Wherever the nodes are: it can follow one address only.
    mine, other = follows("a", "web", "node-a"), follows("b", "db", "node-c")
    assert reasons(mine, other, **virtual_ips) == {"a": "", "b": Reason.WORKLOAD_TAKEN}
    objection = verdicts(mine, other, **virtual_ips)["b"]
    assert objection is not None
    assert f"'prod/a/front' has {named} in the namespace 'prod' already" in objection.message
    elsewhere = follows("c", "mail", "node-a", namespace="test")
    assert reasons(mine, elsewhere, **virtual_ips) == {"a": "", "c": ""}


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        pytest.param({"kubernetesService": {"name": "front"}}, "", id="endpoints-have-no-copies"),
        pytest.param({"mount": {"source": "/dev/sdb1", "target": "/srv"}}, Reason.HOLD_CONFLICT, id="mount"),
    ],
)
def test_only_what_may_run_once_on_a_node_minds_two_owners(workload: dict[str, Any], reason: str) -> None:
    held = vip(onQuorumLoss="Hold")
    assert reasons(following("a", service(workload=workload)), web=held) == {"a": reason}
