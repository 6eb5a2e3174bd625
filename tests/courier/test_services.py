"""The services that follow a VirtualIP as the plan has them: which, in what order, what never drops out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from courier.objects import accepted, changed, failover, in_force, meta, service, vip, world
from vipapi.healthchecks import Exec, Pods, Selector
from vipapi.nodeplan import CandidatePlan, ServicePlan, VirtualIPPlan
from vipapi.workloads import Hooks, Mount, Scripts, Systemd, Workload
from vipcourier.planning import Planner

if TYPE_CHECKING:
    from vipcourier.planning import Planned
    from vipcourier.reading import Document

ALLOWS_PROD: Document = {"allowedNamespaces": {"names": ["prod"]}}
DELETED: Document = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
UNREADABLE: Document = {"services": "none"}


def plan(*failovers: Document, planner: Planner | None = None, **others: list[Document]) -> Planned:
    virtual_ips = [vip(**ALLOWS_PROD), vip("other", **ALLOWS_PROD)]
    sources = world(**{"virtual_ips": virtual_ips, "failovers": list(failovers), **others})
    return (planner or Planner("a")).plan(sources)


def planned_vip(planned: Planned, name: str = "web") -> VirtualIPPlan:
    (found,) = (each for each in planned.plan.domains[0].virtual_ips if each.name == name)
    return found


def units(planned: Planned, name: str = "web") -> list[str]:
    """Return what is started, in that order."""
    found = [each.workload.systemd for each in planned_vip(planned, name).services]
    return [each.unit.removesuffix(".service") for each in found if each is not None]


def edited(document: Document, *services: Document, generation: int = 2, **more: Document) -> Document:
    """Return a newer generation, with other services."""
    return changed(document, spec={"services": list(services)}, metadata={"generation": generation}, **more)


def test_a_service_is_told_as_its_object_has_it() -> None:
    scripts: Document = {"start": {"hook": "up", "args": ["-v"]}, "stop": {"hook": "down"}}
    document = failover(
        "billing",
        service("db"),
        service(
            "app",
            workload={"exec": scripts},
            after=["db"],
            singleton=False,
            order="AddressFirst",
            startTimeoutSeconds=5,
            stopTimeoutSeconds=7,
        ),
        healthChecks=[{"name": "answers", "tcpSocket": {"port": 80}}],
    )
    found = planned_vip(plan(document))
    db, app = found.services
    workload = Workload(systemd=Systemd("db.service"))
    assert db == ServicePlan("uid-billing", "prod", "billing", "db", workload, generation=1)
    assert (app.title, app.is_singleton, app.is_first) == ("prod/billing/app", False, False)
    assert (app.start_timeout_ms, app.stop_timeout_ms) == (5000, 7000)
    assert app.workload == Workload(exec=Scripts(start=Exec("up", ("-v",)), stop=Exec("down")))
    assert [check.name for check in found.service_checks] == ["answers"]
    assert found.health_checks == ()


def test_hooks_and_fences_are_told_where_they_are_wanted() -> None:
    hooks = {"promoted": [{"hook": "tell", "args": ["up"]}], "faulted": [{"hook": "page"}]}
    document = failover(
        "billing",
        service("data", workload={"mount": {"source": "/dev/sdb1", "target": "/srv"}}, onStopFailure="Fence"),
        service("app", hooks=hooks, onStopFailure="Block"),
        service("web"),
    )
    data, app, web = planned_vip(plan(document)).services
    assert (data.fences, data.hooks) == (True, Hooks())
    assert data.workload == Workload(mount=Mount("/dev/sdb1", "/srv"))
    told = Hooks(promoted=(Exec("tell", ("up",)),), faulted=(Exec("page"),))
    assert (app.fences, app.hooks) == (False, told)
    assert (web.fences, web.hooks) == (False, Hooks())


CLUSTER_S = [
    pytest.param({"kubernetesService": {"name": "front"}}, id="Service"),
    pytest.param({"deployment": {"name": "front"}}, id="Deployment"),
]


@pytest.mark.parametrize("workload", CLUSTER_S)
def test_the_keeper_is_told_of_no_service_that_is_the_cluster_s(workload: Document) -> None:
    checks = [{"name": "answers", "tcpSocket": {"port": 80}}]
    front = service("front", workload=workload, singleton=False, primary="c", standbys=["a"])
    planned = planned_vip(plan(failover("billing", front, healthChecks=checks)))
    assert (planned.services, planned.service_checks) == ((), ())
    # Its nodes are the address's all the same.
    assert planned.candidates == (CandidatePlan("a", 99), CandidatePlan("c", 100))
    beside = service("app", primary="c", standbys=["a"])
    both = plan(failover("billing", front, beside, healthChecks=checks))
    assert units(both) == ["app"]
    assert [check.name for check in planned_vip(both).service_checks] == ["answers"]


def test_checks_of_pods_mean_those_of_their_object_s_namespace() -> None:
    asked: Document = {"selector": {"matchLabels": {"app": "web"}}, "atLeast": 2}
    # A namespace that a newer version lets one write is not obeyed by this one.
    elsewhere = {**asked, "namespace": "kube-system"}
    checks = [{"name": "one", "pods": asked}, {"name": "two", "pods": elsewhere}]
    found = planned_vip(plan(failover(healthChecks=checks))).service_checks
    assert [check.pods for check in found] == [Pods(Selector({"app": "web"}), "prod", 2)] * 2


@pytest.mark.parametrize("singleton", [True, False])
def test_where_two_may_own_nothing_runs_that_may_run_only_once(*, singleton: bool) -> None:
    """The controller accepts no such pair, but the one that was accepted first may be edited."""
    held = vip(onQuorumLoss="Hold", **ALLOWS_PROD)
    planned = plan(failover("billing", service(singleton=singleton)), virtual_ips=[held])
    assert planned_vip(planned).is_held_alone is not singleton


def test_the_standbys_of_a_spread_address_count_alike() -> None:
    spread = vip(spread={"group": "edge"}, **ALLOWS_PROD)
    planned = plan(failover("billing", service(standbys=["b", "c"])), virtual_ips=[spread])
    assert [(each.node, each.priority) for each in planned_vip(planned).candidates] == [
        ("a", 100),
        ("b", 99),
        ("c", 99),
    ]


def test_the_candidates_are_the_nodes_of_the_services() -> None:
    document = failover("billing", service(primary="c", standbys=["a", "elsewhere"]))
    planned = plan(document)
    assert planned_vip(planned).candidates == (CandidatePlan("a", 99), CandidatePlan("c", 100))
    assert [each.node for each in planned_vip(planned, "other").candidates] == ["a", "b", "c"]


def test_candidates_follow_the_services_when_they_change_or_go() -> None:
    planner = Planner("a")
    first = failover("billing", service(primary="a", standbys=["b"]))
    judged = edited(
        first, service(primary="b", standbys=["c"]), status={"conditions": [accepted(generation=2)]}
    )
    rounds = [planned_vip(plan(*found, planner=planner)).candidates for found in ([], [first], [judged], [])]
    assert [[each.node for each in candidates] for candidates in rounds] == [
        ["a", "b", "c"],
        ["a", "b"],
        ["b", "c"],
        ["a", "b", "c"],
    ]


def test_every_node_of_the_domain_is_told_of_the_services() -> None:
    document = failover("billing", service(primary="a", standbys=["b"]))
    assert units(plan(document, planner=Planner("c"))) == ["app"]


def test_services_of_several_objects_start_the_oldest_first() -> None:
    checks = [{"name": "answers", "tcpSocket": {"port": 80}}]
    documents = [
        failover("young", service("y1"), created=9),
        failover("old", service("o2"), service("o1"), created=1, healthChecks=checks),
        failover("same-age", service("s"), created=1),
    ]
    for order in (documents, documents[::-1]):
        planned = plan(*order)
        assert units(planned) == ["o2", "o1", "s", "y1"]
        # Two services of one object are checked once.
        assert [check.name for check in planned_vip(planned).service_checks] == ["answers"]


def test_each_virtual_ip_gets_its_own_services_of_an_object() -> None:
    document = failover("pair", service("app"), service("db", follows="other", primary="b", standbys=["a"]))
    planned = plan(document)
    assert (units(planned), units(planned, "other")) == (["app"], ["db"])
    assert planned_vip(planned, "other").candidates == (CandidatePlan("a", 99), CandidatePlan("b", 100))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(failover(), ["app"], id="accepted"),
        pytest.param(failover(conditions=[accepted("False")]), [], id="refused"),
        pytest.param(failover(conditions=[accepted("Unknown")]), [], id="not-judged"),
        pytest.param(failover(conditions=[]), [], id="nobody-has-looked-yet"),
        pytest.param(failover("billing", service(follows="missing")), [], id="of-a-virtual-ip-that-is-not"),
        pytest.param({**failover(), "metadata": meta("billing", **DELETED)}, [], id="being-deleted"),
        pytest.param(failover("billing", services="none"), [], id="unreadable"),
    ],
)
def test_only_services_that_may_run_are_planned(document: Document, expected: list[str]) -> None:
    assert units(plan(document)) == expected


@pytest.mark.parametrize(
    "spec", [{"candidates": [{"nodeName": "c"}]}, {"onQuorumLoss": "Hold"}], ids=["candidates", "hold"]
)
def test_what_is_written_into_a_virtual_ip_later_changes_nothing_for_its_services(spec: Document) -> None:
    planner = Planner("a")
    before = planned_vip(plan(failover(), planner=planner))
    edited = changed(
        vip(**ALLOWS_PROD),
        spec=spec,
        metadata={"generation": 2},
        status={"conditions": [accepted(generation=2)]},
    )
    assert planned_vip(plan(failover(), planner=planner, virtual_ips=[edited])) == before
    assert planned_vip(plan(failover(), virtual_ips=[edited])) == before, "also after a restart"


def test_a_virtual_ip_that_is_not_planned_takes_its_services_along() -> None:
    refused = vip(conditions=[accepted("False")], **ALLOWS_PROD)
    assert plan(failover(), virtual_ips=[refused]).plan.domains[0].virtual_ips == ()


def test_an_object_that_cannot_be_read_any_more_stays_as_it_was() -> None:
    planner = Planner("a")
    good = plan(failover(), planner=planner)
    broken = plan(changed(failover(), spec=UNREADABLE), planner=planner)
    assert broken.plan == good.plan
    assert "ServiceFailover prod/billing" in broken.problems[0]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"metadata": DELETED}, id="deleted"),
        pytest.param({"status": {"conditions": [accepted("False")]}}, id="refused"),
    ],
)
@pytest.mark.parametrize("spec", [{}, UNREADABLE], ids=["readable", "unreadable"])
def test_an_object_that_is_deleted_or_refused_lets_its_services_go(
    spec: Document, change: dict[str, Document]
) -> None:
    planner = Planner("a")
    plan(failover(), planner=planner)
    assert units(plan(changed(failover(), spec=spec, **change), planner=planner)) == []


def test_an_object_that_is_gone_lets_its_services_go() -> None:
    planner = Planner("a")
    plan(failover(), planner=planner)
    assert units(plan(planner=planner)) == []


def test_an_object_made_anew_gets_nothing_of_the_old_one() -> None:
    planner = Planner("a")
    plan(failover(), planner=planner)
    anew = failover(conditions=[])
    anew["metadata"]["uid"] = "uid-anew"
    assert units(plan(anew, planner=planner)) == []


def test_a_change_is_planned_when_it_has_been_accepted() -> None:
    planner = Planner("a")
    before = plan(failover(), planner=planner)
    waiting = edited(failover(), service("new"))
    assert plan(waiting, planner=planner).plan == before.plan
    judged = changed(waiting, status={"conditions": [accepted(generation=2)]})
    planned = plan(judged, planner=planner)
    assert units(planned) == ["new"]
    assert planned_vip(planned).services[0].generation == 2


@pytest.mark.parametrize("conditions", [[], [accepted("Unknown", generation=2)]], ids=["wiped", "unknown"])
def test_a_status_wiped_by_hand_stops_nothing(conditions: list[Document]) -> None:
    planner = Planner("a")
    before = plan(failover(), planner=planner)
    wiped = changed(failover(), status={"conditions": conditions})
    assert plan(wiped, planner=planner).plan == before.plan
    # Nor does a change bring anything in of which nobody says that it is accepted.
    assert plan(edited(wiped, service("new")), planner=planner).plan == before.plan


def test_after_a_restart_a_change_that_waits_is_taken_where_nothing_is_in_its_way() -> None:
    planner = Planner("a")
    planned = plan(edited(failover(), service("new")), planner=planner)
    assert (units(planned), planned.problems) == (["new"], ())
    # It only stands in, so what the user writes next is taken as well, and what is accepted before all.
    newer = edited(failover(), service("newer"), generation=3)
    newer["metadata"]["resourceVersion"] = "3"
    assert units(plan(newer, planner=planner)) == ["newer"]
    judged = edited(newer, service("last"), generation=4, status={"conditions": [accepted(generation=4)]})
    assert units(plan(judged, planner=planner)) == ["last"]
    later = edited(judged, service("later"), generation=5)
    assert units(plan(later, planner=planner)) == ["last"]


def test_after_a_restart_what_was_accepted_goes_on_while_an_edit_waits() -> None:
    planner = Planner("a")
    waiting = edited(
        failover(),
        service("new"),
        generation=5,
        status={"conditions": [accepted(generation=3)], "inForce": in_force(service("old"), generation=3)},
    )
    planned = plan(waiting, planner=planner)
    assert (units(planned), planned.problems) == (["old"], ())
    assert planned_vip(planned).services[0].generation == 3
    judged = edited(
        waiting,
        service("new"),
        generation=5,
        status={"conditions": [accepted(generation=5)], "inForce": in_force(service("new"), generation=5)},
    )
    assert units(plan(judged, planner=planner)) == ["new"]


def test_an_edit_that_cannot_be_read_leaves_what_was_accepted_in_force_also_after_a_restart() -> None:
    status: Document = {"conditions": [accepted()], "inForce": in_force(service("old"))}
    waiting = edited(failover(), status=status)
    waiting["spec"] = UNREADABLE
    planned = plan(waiting)
    assert units(planned) == ["old"]
    assert "ServiceFailover prod/billing" in planned.problems[0]


def test_a_generation_that_was_missed_is_taken_from_the_status() -> None:
    """The watch tells of the newest state only: of what was accepted in between it may say nothing."""
    planner = Planner("a")
    plan(failover("billing", service("first")), planner=planner)
    third = edited(
        failover(),
        service("third"),
        generation=3,
        status={
            "conditions": [accepted(generation=2)],
            "inForce": in_force(service("second"), generation=2),
        },
    )
    assert units(plan(third, planner=planner)) == ["second"]
    # An older one, as of a status that was put back by hand, takes nothing out of force.
    stale = {"conditions": [accepted(generation=1)], "inForce": in_force(service("first"), generation=1)}
    assert units(plan(changed(third, status=stale), planner=planner)) == ["second"]


def test_what_was_accepted_takes_the_place_of_what_only_stands_in() -> None:
    planner = Planner("a")
    waiting = edited(failover(), service("new"))
    assert units(plan(waiting, planner=planner)) == ["new"]
    told = changed(waiting, status={"conditions": [accepted()], "inForce": in_force(service("old"))})
    assert units(plan(told, planner=planner)) == ["old"]


@pytest.mark.parametrize("status", ["True", "False"])
def test_a_status_whose_last_accepted_state_cannot_be_read_still_says_who_is_accepted(status: str) -> None:
    planner = Planner("a")
    plan(failover(), planner=planner)
    newer = edited(
        failover(),
        status={"conditions": [accepted(status)], "inForce": {"generation": 1, "spec": UNREADABLE}},
    )
    newer["spec"] = UNREADABLE
    assert units(plan(newer, planner=planner)) == (["app"] if status == "True" else [])


@pytest.mark.parametrize(
    ("waiting", "said"),
    [
        pytest.param(service("new", follows="missing"), "missing", id="no-such-virtual-ip"),
        pytest.param(service("new", follows="closed"), "closed", id="namespace-not-allowed"),
        pytest.param(service("new", standbys=["c"]), "prod/younger/taken", id="other-nodes"),
        pytest.param(service("new", follows="other", standbys=["gone"]), "gone", id="no-such-node"),
        pytest.param(service("taken", follows="other"), "taken.service", id="a-workload-of-another"),
    ],
)
def test_after_a_restart_a_change_that_waits_takes_nothing_from_others(waiting: Document, said: str) -> None:
    """Though the object is the older one, and was accepted once."""
    younger = failover("younger", service("taken"), created=9)
    virtual_ips = [vip(**ALLOWS_PROD), vip("other", **ALLOWS_PROD), vip("closed")]
    planned = plan(edited(failover(), waiting), younger, virtual_ips=virtual_ips)
    assert [each.failover for found in planned.plan.domains[0].virtual_ips for each in found.services] == [
        "younger"
    ]
    (problem,) = planned.problems
    assert problem.startswith("ServiceFailover prod/billing: generation 2 is not accepted yet")
    assert said in problem


def test_what_stands_in_after_a_restart_stays_when_the_next_change_is_in_the_way() -> None:
    planner = Planner("a")
    before = plan(edited(failover(), service("new")), planner=planner)
    newer = edited(failover(), service("newer", follows="missing"), generation=3)
    newer["metadata"]["resourceVersion"] = "3"
    planned = plan(newer, planner=planner)
    assert planned.plan == before.plan
    assert "generation 3 is not accepted yet" in planned.problems[0]
    # Of what comes with a wiped status nobody can say that it was ever accepted.
    wiped = edited(newer, service("newest"), generation=4, status={"conditions": []})
    assert plan(wiped, planner=planner).plan == before.plan


def test_objects_of_one_name_in_two_namespaces_are_two() -> None:
    second = failover("billing", service("db"), created=2)
    second["metadata"] |= {"namespace": "test", "uid": "uid-second"}
    found = planned_vip(plan(second, failover())).services
    assert [each.title for each in found] == ["prod/billing/app", "test/billing/db"]
