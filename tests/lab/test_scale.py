"""What `make scale` measures with: simulated agents, what is counted, what has settled, what is told."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from controller.stage import START, Stage
from lab import __main__, counters, scale, scalecontroller, scalepower, scalestart, topology
from lab.counters import Written
from lab.records import Probe
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
NO_BINARIES = cast("Binaries", None)
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


@pytest.mark.parametrize(
    ("unwell", "status"),
    [
        pytest.param(None, 0, id="all is well"),
        pytest.param(scalecontroller, 1, id="it did not settle"),
        pytest.param(scalepower, 1, id="an address did not come back"),
        pytest.param(scalestart, 1, id="a process did not start"),
    ],
)
def test_the_exit_status_tells_of_what_went_wrong_in_any_part(
    monkeypatch: pytest.MonkeyPatch, unwell: object, status: int
) -> None:
    for part in (scalecontroller, scalepower, scalestart):
        is_well = part is not unwell
        monkeypatch.setattr(part, "run", lambda *_, is_well=is_well, **__: ([], is_well))
    said: list[str] = []
    assert scale.run(NO_BINARIES, said.append, only="") == status
    assert said


def test_a_name_that_nothing_has_is_told_and_nothing_is_measured() -> None:
    said: list[str] = []
    assert scale.run(NO_BINARIES, said.append, only="no such case") == 2
    assert "no such case" in said[0]


@pytest.mark.parametrize(
    ("only", "of_controller", "of_power", "of_starts"),
    [
        pytest.param("", 6, 3, 4, id="everything"),
        pytest.param("controller", 6, 0, 0, id="the controller alone"),
        pytest.param("named 500", 1, 0, 0, id="one case of it"),
        pytest.param("power", 0, 3, 0, id="the losses of power"),
        pytest.param("power 200", 0, 1, 0, id="the one of 200 VirtualIPs"),
        pytest.param("start", 0, 0, 4, id="the starts"),
        pytest.param("start 1 VirtualIPs;named 500", 1, 0, 1, id="of two parts"),
    ],
)
def test_a_name_chooses_a_part_or_cases_of_it(
    only: str, of_controller: int, of_power: int, of_starts: int
) -> None:
    chosen = [len(part.chosen(only)) for part in (scalecontroller, scalepower, scalestart)]
    assert chosen == [of_controller, of_power, of_starts]


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [pytest.param([], None, id="as each part says"), pytest.param(["--runs", "4"], 4, id="so many")],
)
def test_the_command_takes_the_number_of_runs(arguments: list[str], runs: int | None) -> None:
    assert __main__.make_parser().parse_args(["scale", *arguments]).runs == runs


@pytest.mark.parametrize("runs", ["0", "-1", "some"])
def test_no_runs_are_refused(runs: str) -> None:
    with pytest.raises(SystemExit):
        __main__.make_parser().parse_args(["scale", f"--runs={runs}"])


@pytest.mark.parametrize("shape", scalepower.SHAPES, ids=lambda shape: shape.title)
def test_every_shape_has_addresses_of_the_segment_that_no_host_has(shape: scalepower.Shape) -> None:
    sets = shape.sets()
    found = [address for own in sets.values() for address in own]
    assert len(sets) == shape.virtual_ips
    assert {len(own) for own in sets.values()} == {shape.each}
    assert len(set(found)) == len(scalepower.labels_of(sets)) == shape.virtual_ips * shape.each
    hosts = {topology.API, topology.CLIENT, topology.GATEWAY, topology.OBSERVER}
    hosts |= {topology.FIRST_NODE + number for number in range(scalepower.NODES)}
    taken = {net[host] for net in (topology.IPV4, topology.IPV6) for host in hosts}
    read = {ipaddress.ip_address(each) for each in found}
    assert not read & taken
    assert all(each in topology.IPV4 or each in topology.IPV6 for each in read)
    assert {each.version for each in read} == {4, 6}


def test_with_more_virtual_ips_those_that_were_there_keep_their_addresses() -> None:
    smaller, larger = scalepower.Shape(10, 1).sets(), scalepower.Shape(200, 1).sets()
    assert smaller.items() <= larger.items()


RUN = scalepower.Run(
    victim="node-a",
    taken={"node-b": 99, "node-c": 1},
    silent_ms=(*[400.0] * 98, 700.0, 900.0),
    elsewhere_ms=(*[430.0] * 98, 720.0, 950.0),
    hiccup_ms=12.0,
    overlaps=0,
)


def test_the_figures_of_runs_are_over_all_their_addresses() -> None:
    assert scalepower.cells([RUN]) == ["400", "700", "900", "950", "12", "held", "0"]
    worse = replace(RUN, silent_ms=(500.0,) * 98 + (1_250.0, 1_300.0), hiccup_ms=9.0)
    assert scalepower.cells([RUN, worse])[:5] == ["500", "900", "1300", "950", "12"]
    assert scalepower.cells([RUN, worse])[5] == "missed by 2 of 200"
    assert scalepower.line_of(RUN).startswith(
        "node-a → node-b 99, node-c 1: silent p50 400, p99 700, worst 900"
    )


def test_a_silence_as_long_as_the_limit_still_holds_it() -> None:
    assert scalepower.verdict([float(scalepower.LIMIT_MS)]) == "held"
    assert scalepower.verdict([scalepower.LIMIT_MS + 0.1]) == "missed by 1 of 1"


@pytest.mark.parametrize(
    ("run", "is_safe"),
    [
        pytest.param(RUN, True, id="every address came back"),
        pytest.param(replace(RUN, silent_ms=(math.inf,) * 100), False, id="none answered again"),
        pytest.param(replace(RUN, elsewhere_ms=(math.inf,) * 100), False, id="none answered elsewhere"),
        pytest.param(replace(RUN, overlaps=1), False, id="one had two owners"),
    ],
)
def test_a_run_is_safe_where_every_address_came_back_to_one_node(
    run: scalepower.Run, *, is_safe: bool
) -> None:
    assert run.is_safe is is_safe
    assert ("NOT SAFE" in scalepower.line_of(run)) is not is_safe


def test_power_has_a_line_for_each_run_and_one_for_all() -> None:
    assert scalepower.table_of(scalepower.SHAPES[0], [RUN, RUN]).row_count == 3


def test_an_address_is_elsewhere_with_the_first_answer_of_another_node() -> None:
    probes = [
        Probe(10, 20, "node-a"),
        Probe(30, 40, "node-b"),
        Probe(110, 120, "node-a"),
        Probe(130, None, None),
        Probe(150, 160, "node-c"),
        Probe(170, 180, "node-b"),
    ]
    assert scalepower.elsewhere_at(probes, victim="node-a", since_ns=100) == 160
    assert scalepower.elsewhere_at(probes[:4], victim="node-a", since_ns=100) is None


def held(name: str, *, fit: tuple[str, ...], generation: int = 2, observed: int = 2) -> Object:
    status = {
        "owner": "node-a",
        "observedGeneration": observed,
        "conditions": [{"type": "Ready", "status": "True"}],
        "candidates": [{"nodeName": node, "eligible": node in fit} for node in NODES],
    }
    return {"metadata": {"name": name, "generation": generation}, "status": status}


def test_virtual_ips_are_arranged_with_their_candidates_as_they_are_specified_now() -> None:
    alone, both = held("one", fit=("node-a",)), held("two", fit=("node-a", "node-b"))
    assert scalestart.is_arranged([alone], ["node-a"])
    assert scalestart.is_arranged([both], ["node-a", "node-b"])
    assert not scalestart.is_arranged([alone, both], ["node-a"]), "another one may still take it over"
    assert not scalestart.is_arranged([alone, both], ["node-a", "node-b"])
    assert not scalestart.is_arranged([held("old", fit=("node-a",), observed=1)], ["node-a"])
    assert not scalestart.is_arranged([{"metadata": {"name": "new", "generation": 1}}], ["node-a"])


KEEPER_TELLS = """\
HTTP/1.0 200 OK\r
Content-Type: text/plain\r
\r
vipkeeper_virtualip_held{virtualip="one"} 1.0
vipkeeper_virtualip_held{virtualip="two"} 1.0
"""
CONTROLLER_TELLS = """\
vipkeeper_controller_leader 1.0
vipkeeper_virtualip_ready{virtualip="one"} 1.0
vipkeeper_virtualip_ready{virtualip="two"} 0.0
"""


def test_an_owner_is_at_work_when_it_holds_everything() -> None:
    assert scalestart.is_held(KEEPER_TELLS, 2)
    assert not scalestart.is_held(KEEPER_TELLS, 3)
    assert not scalestart.is_held("", 2)


def test_a_controller_is_at_work_when_it_leads_and_everything_is_ready() -> None:
    ready = CONTROLLER_TELLS.replace(" 0.0", " 1.0")
    assert scalestart.is_led(ready, 2)
    assert not scalestart.is_led(CONTROLLER_TELLS, 2)
    assert not scalestart.is_led(ready.replace("leader 1.0", "leader 0.0"), 2)


@pytest.mark.parametrize(
    ("answer", "is_yes"),
    [
        pytest.param(KEEPER_TELLS, True, id="200"),
        pytest.param("HTTP/1.0 503 Service Unavailable\r\n\r\nno plan", False, id="503"),
        pytest.param("", False, id="nobody answers yet"),
    ],
)
def test_only_200_is_a_yes(answer: str, *, is_yes: bool) -> None:
    assert scalestart.is_ok(answer) is is_yes


def test_starts_are_told_by_process_and_number_with_a_line_each() -> None:
    slow, quick = (
        scalestart.Start(
            count=10, who=scalestart.OWNER, ready_s=each, at_work_s=each + 1, resident_mb=60 + each
        )
        for each in (2.5, 1.5)
    )
    assert scalestart.cells([slow, quick]) == ["2", "1.50", "2.50", "2.50", "3.50", "62", "62"]
    courier = replace(quick, who=scalestart.COURIER, at_work_s=None)
    assert scalestart.cells([courier])[3:5] == ["", ""]
    many = replace(courier, count=200)
    assert scalestart.table_of([slow, quick, courier, many]).row_count == 3
    assert "at work" in scalestart.line_of(slow)
    assert "at work" not in scalestart.line_of(courier)


def test_a_virtual_ip_that_is_on_its_way_has_not_settled(stage: Stage, troupe: Troupe) -> None:
    play(stage, troupe)
    found = next(virtual_ips(stage))
    ready = {each["type"]: each for each in found["status"]["conditions"]}["Ready"]
    assert conditions.is_true(resources.parse(VirtualIP, found).status.conditions, "Ready")
    found["status"]["conditions"].append({**ready, "type": "Reconciling"})
    assert not scalecontroller.is_settled(found)
