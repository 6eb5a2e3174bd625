"""What `make scale` measures with: the simulated agents, what is counted, and when something has settled."""

from __future__ import annotations

import ipaddress
import math
from typing import TYPE_CHECKING, Any, cast

import pytest

from controller.stage import START, Stage
from lab import counters, scale, scalecontroller
from lab.counters import Written
from lab.scalecontroller import EVERYBODY, NAMING, RACKS
from lab.simulated_agents import Post, Rests, Troupe, posts_in
from vipapi import conditions, resources
from vipapi.resources import FailoverDomain, Node, VIPNodeStatus, VirtualIP
from vipcourier.courier import WRITE_PAUSE_S
from vipcourier.status import of_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.binaries import Binaries

Object = dict[str, Any]
NODES = ("node-a", "node-b", "node-c", "node-d")
METRICS = """\
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",resource="virtualips",subresource="status",verb="APPLY"} 3
apiserver_request_total{code="409",resource="virtualips",subresource="status",verb="APPLY"} 1
apiserver_request_total{code="200",resource="leases",subresource="",verb="PUT"} 40
apiserver_request_total{code="200",resource="virtualips",subresource="",verb="WATCH"} 7
apiserver_request_total_more{code="200",resource="pods",subresource="",verb="POST"} 5
plain 1.5e+01
"""


def play(stage: Stage, troupe: Troupe) -> None:
    """Let the controller decide and the agents obey in turns, until neither has anything to say."""
    told: dict[str, Object] = {}
    for _ in range(20):
        is_written = bool(stage.look().writes)
        found = {kind: [obj for (known, _), obj in stage.objects.items() if known == kind] for kind in KINDS}
        virtual_ips = [resources.parse(VirtualIP, each) for each in found["VirtualIP"]]
        domains = [resources.parse(FailoverDomain, each) for each in found["FailoverDomain"]]
        troupe.obey(virtual_ips)
        reports = troupe.reports(
            {each.metadata.name: each for each in domains},
            virtual_ips,
            [resources.parse(Node, each) for each in found["Node"]],
        )
        news = {
            node: resources.to_dict(of_report(report, before=VIPNodeStatus(), generation=1, now=START))
            for node, report in reports.items()
        }
        for node, status in news.items():
            if told.get(node) != status:
                if ("VIPNode", node) not in stage.objects:
                    stage.put("VIPNode", node)
                stage.objects["VIPNode", node]["status"] = status
                stage.touch(stage.objects["VIPNode", node])
        if not is_written and news == told:
            return
        told = news
        stage.now_s += 5
    raise AssertionError(f"never settles: {stage.last}")


KINDS = ("VirtualIP", "FailoverDomain", "Node")


@pytest.fixture
def stage() -> Stage:
    found = Stage()
    found.put("FailoverDomain", "default", {})
    for node in NODES:
        found.put("Node", node)
    for number in range(6):
        found.virtual_ip(f"vip-{number}", f"192.0.2.{10 + number}/24")
    return found


@pytest.fixture
def troupe() -> Troupe:
    return Troupe({node: Post("default", f"198.51.100.{number}") for number, node in enumerate(NODES, 1)})


def virtual_ips(stage: Stage) -> Iterator[Object]:
    return (obj for (kind, _), obj in stage.objects.items() if kind == "VirtualIP")


def test_a_controller_settles_with_simulated_agents_from_nothing(stage: Stage, troupe: Troupe) -> None:
    assert not any(scalecontroller.is_settled(each) for each in virtual_ips(stage))
    play(stage, troupe)
    assert all(scalecontroller.is_settled(each) for each in virtual_ips(stage))
    assert {term for _, term in troupe.grants.values()} == {1}


def test_addresses_of_a_dead_agent_go_to_their_first_living_successors(stage: Stage, troupe: Troupe) -> None:
    play(stage, troupe)
    owned = {each["metadata"]["name"]: each["status"]["owner"] for each in virtual_ips(stage)}
    orders = {each["metadata"]["name"]: each["status"]["election"] for each in virtual_ips(stage)}
    troupe.dead = frozenset({owned["vip-0"]})
    assert troupe.reports({}, [], []).keys() == set(NODES) - troupe.dead
    stage.now_s += 100
    play(stage, troupe)
    for name, owner in owned.items():
        found = stage.objects["VirtualIP", name]
        is_moved = owner in troupe.dead
        assert found["status"]["owner"] == (orders[name]["succession"][0] if is_moved else owner)
        assert found["status"]["term"] == (2 if is_moved else 1)
        assert scalecontroller.is_settled(found, troupe.dead)
        assert scalecontroller.is_settled(found, frozenset({found["status"]["owner"]})) is False


def test_an_agent_reports_of_that_only_of_which_it_is_a_candidate(stage: Stage, troupe: Troupe) -> None:
    stage.virtual_ip("named", "192.0.2.99/24", candidates=[{"nodeName": "node-b"}])
    play(stage, troupe)
    told = {
        node: {each["name"] for each in stage.objects["VIPNode", node]["status"].get("virtualIPs", ())}
        for node in NODES
    }
    assert {node for node, names in told.items() if "named" in names} == {"node-b"}


def test_nobody_holds_what_is_gone(stage: Stage, troupe: Troupe) -> None:
    play(stage, troupe)
    troupe.obey([])
    assert troupe.grants == {}


def test_a_node_with_news_all_the_time_is_told_of_more_and_more_rarely_and_others_at_once() -> None:
    rests = Rests()
    assert rests.waiting({"node-a", "node-b"}, 0.0) == (frozenset(), math.inf)
    rests.begin("node-a", 0.0)
    assert rests.waiting({"node-a", "node-b"}, 0.01) == (frozenset({"node-a"}), WRITE_PAUSE_S)
    assert rests.waiting({"node-a"}, WRITE_PAUSE_S) == (frozenset(), math.inf)
    rests.begin("node-a", 1.0)
    assert rests.waiting({"node-a"}, 1.01)[1] == pytest.approx(1 + 2 * WRITE_PAUSE_S)
    rests.begin("node-a", 2.0)
    assert rests.waiting({"node-a"}, 2.01)[1] == pytest.approx(2 + 4 * WRITE_PAUSE_S)
    assert rests.waiting(set(), 8.0) == (frozenset(), math.inf)
    rests.begin("node-a", 9.0)
    rests.begin("node-a", 10.0)
    assert rests.waiting({"node-a"}, 10.01)[1] == pytest.approx(10 + WRITE_PAUSE_S)


def test_posts_are_read_line_by_line() -> None:
    assert posts_in("a rack-0 198.19.0.1\nb rack-1 198.19.0.2\n") == {
        "a": Post("rack-0", "198.19.0.1"),
        "b": Post("rack-1", "198.19.0.2"),
    }


def test_only_requests_that_write_are_counted_and_each_kind_for_itself() -> None:
    found = counters.writes(METRICS)
    assert found == {Written("virtualips/status", "APPLY"): 4, Written("leases", "PUT"): 40}


def test_a_rate_is_of_what_came_between_two_looks() -> None:
    before = counters.writes(METRICS)
    after = before.copy()
    after[Written("leases", "PUT")] += 60
    assert counters.per_hour(before, after, 120.0) == {Written("leases", "PUT"): 1800.0}


def test_samples_of_a_metric_are_not_those_of_one_whose_name_begins_alike() -> None:
    assert counters.total(METRICS, "plain") == 15
    assert counters.total(METRICS, "apiserver_request_total") == 51
    assert [labels["verb"] for labels, _ in counters.samples(METRICS, "apiserver_request_total_more")] == [
        "POST"
    ]


@pytest.mark.parametrize("layout", [NAMING, RACKS, EVERYBODY], ids=lambda layout: layout.title)
def test_every_layout_makes_good_objects_with_addresses_of_their_own(layout: scalecontroller.Layout) -> None:
    made = [scalecontroller.virtual_ip(layout, number) for number in range(scalecontroller.FULL)]
    found = [address for each in made for address in each["spec"]["addresses"]]
    assert len(set(found)) == scalecontroller.FULL
    assert {ipaddress.ip_interface(each).version for each in found} == {4, 6}
    domains = {each["spec"]["domain"] for each in made}
    assert len(domains) == layout.domains
    for each in made:
        read = resources.parse(VirtualIP, each)
        assert len({candidate.node_name for candidate in read.spec.candidates}) == layout.named


@pytest.mark.parametrize(("is_settled", "status"), [(True, 0), (False, 1)])
def test_the_exit_status_tells_of_what_never_settled(
    monkeypatch: pytest.MonkeyPatch, *, is_settled: bool, status: int
) -> None:
    monkeypatch.setattr(scalecontroller, "run", lambda *_, **__: ([], is_settled))
    said: list[str] = []
    assert scale.run(cast("Binaries", None), said.append, only="") == status
    assert said


def test_a_virtual_ip_that_is_on_its_way_has_not_settled(stage: Stage, troupe: Troupe) -> None:
    play(stage, troupe)
    found = next(virtual_ips(stage))
    ready = {each["type"]: each for each in found["status"]["conditions"]}["Ready"]
    assert conditions.is_true(resources.parse(VirtualIP, found).status.conditions, "Ready")
    found["status"]["conditions"].append({**ready, "type": "Reconciling"})
    assert not scalecontroller.is_settled(found)
