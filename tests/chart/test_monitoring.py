"""What Prometheus and Grafana are given: only metrics that exist, and all that a person on call needs."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, BinaryExpr, Call, MatrixSelector, ParenExpr, VectorSelector

from chart.rendering import CHART, NAMESPACE, RELEASE, Chart
from monitoring.families import series

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]
DOCS = Path(__file__).parents[2] / "docs"
RULES = [
    rule
    for group in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: Object = json.loads((CHART / "files/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EVERYTHING = {
    "podMonitor": {"enabled": True, "agents": True, "interval": "15s", "labels": {"release": "prometheus"}},
    "prometheusRule": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "alertLabels": {"team": "network"},
        "runbookURL": "https://docs.example/runbook",
    },
    "dashboard": {"enabled": True, "annotations": {"folder": "Network"}},
}
OPENED = {each: {"metrics": {"address": "$(NODE_IP)"}} for each in ("keeper", "courier")}
# What Prometheus itself adds to every series of a target, and `node` by the PodMonitor of the agents.
OF_TARGETS = {"job", "instance", "pod", "container", "node"}
KNOWN = series() | {"up": ()}
KINDS = ("PodMonitor", "PrometheusRule")


@pytest.fixture(scope="module")
def rendered(chart: Chart) -> list[Object]:
    found = chart.render({"crds": {"enabled": False}, "monitoring": EVERYTHING, "agent": OPENED})
    return [
        each
        for each in found.objects
        if each["kind"] in KINDS or each["metadata"]["name"].endswith("-dashboard")
    ]


def one(rendered: list[Object], kind: str, name: str) -> Object:
    [found] = [each for each in rendered if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m").replace("$virtualip", ".*")


EXPRESSIONS = [pytest.param(text, id=f"{name}-{number}") for number, (name, text) in enumerate(expressions())]


def walk(found: Any) -> Iterator[Any]:
    """Yield an expression and all its parts."""
    yield found
    match found:
        case MatrixSelector():
            yield from walk(found.vector_selector)
        case AggregateExpr() | ParenExpr():
            yield from walk(found.expr)
        case Call():
            for each in found.args:
                yield from walk(each)
        case BinaryExpr():
            yield from walk(found.lhs)
            yield from walk(found.rhs)


def names(text: str) -> list[VectorSelector]:
    return [each for each in walk(promql_parser.parse(text)) if isinstance(each, VectorSelector)]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_every_expression_is_about_metrics_and_labels_that_exist(text: str) -> None:
    asked = names(text)
    assert asked
    for selector in asked:
        assert selector.name in KNOWN
        for matcher in selector.matchers.matchers:
            assert matcher.name in {*KNOWN[selector.name], *OF_TARGETS}
    labels = {label for selector in asked for label in KNOWN[selector.name]} | OF_TARGETS
    for listed in re.findall(r"\b(?:by|on) \(([^)]*)\)", text):
        assert {each.strip() for each in listed.split(",")} <= labels


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_where_to_read_on(rule: Object) -> None:
    assert re.fullmatch(r"Vipkeeper([A-Z][a-z]+)+", rule["alert"])
    assert rule["labels"] in ({"severity": "warning"}, {"severity": "critical"})
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    annotations = rule["annotations"]
    assert annotations["summary"]
    assert not annotations["summary"].endswith(".")
    assert annotations["description"].endswith((".", ")"))
    assert f"## {rule['alert']}\n" in (DOCS / "runbook.md").read_text()
    results = {
        label for found in re.findall(r"\bby \(([^)]*)\)", rule["expr"]) for label in found.split(", ")
    }
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(annotations.values())))
    # What is grouped keeps its labels only; what is not keeps those of the target.
    assert used <= (results or OF_TARGETS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_that_needs_the_agents_metrics_says_so(rule: Object) -> None:
    of_agents = {name for name, _ in _series_of("keeper", "courier")} - {
        name for name, _ in _series_of("controller")
    }
    asked = {selector.name for selector in names(rule["expr"])}
    needs = "AGENT_JOB" in rule["expr"] or asked <= of_agents
    assert ("(Needs the agents' metrics.)" in rule["annotations"]["description"]) == needs


def _series_of(*processes: str) -> set[tuple[str, tuple[str, ...]]]:
    from monitoring import families  # noqa: PLC0415 - its name is that of a local thing here

    found = families.processes()
    return {each for process in processes for family in found[process] for each in family.series.items()}


def test_every_runbook_section_is_about_an_alert_that_exists() -> None:
    sections = re.findall(r"^## (Vipkeeper\w+)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(rule["alert"] for rule in RULES)


def test_nothing_is_made_unless_it_is_asked_for(chart: Chart) -> None:
    made = chart.render().objects
    assert not [each for each in made if each["kind"] in KINDS or "dashboard" in each["metadata"]["name"]]


def test_rules_are_filled_in_and_lead_to_the_runbook(rendered: list[Object]) -> None:
    made = one(rendered, "PrometheusRule", RELEASE)
    assert made["metadata"]["labels"]["release"] == "prometheus"
    rules = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rules] == [rule["alert"] for rule in RULES]
    for rule in rules:
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook_url"] == f"https://docs.example/runbook#{anchor}"
        assert rule["labels"]["team"] == "network"
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert "_JOB" not in rule["expr"]
    jobs = set(re.findall(r'job="([^"]*)"', " ".join(rule["expr"] for rule in rules)))
    monitors = {each["metadata"]["name"] for each in rendered if each["kind"] == "PodMonitor"}
    assert jobs == {f"{NAMESPACE}/{name}" for name in monitors}


def test_controllers_are_asked_at_the_port_that_they_declare(chart: Chart, rendered: list[Object]) -> None:
    monitor = one(rendered, "PodMonitor", "vipkeeper-controller")
    pod = chart.render().pod("Deployment", "vipkeeper-controller")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    ports = {port["name"] for each in pod["spec"]["containers"] for port in each.get("ports", [])}
    assert endpoint["port"] in ports
    assert endpoint["honorLabels"] is True
    assert endpoint["interval"] == "15s"


def _selects(monitor: Object, pod: Object) -> bool:
    selector, labels = monitor["spec"]["selector"], pod["metadata"]["labels"]
    return selector["matchLabels"].items() <= labels.items() and all(
        each["operator"] == "In" and labels[each["key"]] in each["values"]
        for each in selector["matchExpressions"]
    )


def test_every_pod_of_an_agent_is_asked_and_no_controller(chart: Chart, rendered: list[Object]) -> None:
    monitor = one(rendered, "PodMonitor", "vipkeeper-agent")
    witnesses = {"enabled": True, "nodeSelector": {"votes": "only"}}
    found = chart.render({"agent": {"witnessOnly": witnesses, "staticPod": {"enabled": True}}})
    static = found.one("ConfigMap", "vipkeeper-agent-static-pod")["data"]["vipkeeper.yaml"]
    agents = [
        each["spec"]["template"] for each in found.of("DaemonSet") if "agent" in each["metadata"]["name"]
    ]
    assert len(agents) == 2
    assert all(_selects(monitor, pod) for pod in [*agents, yaml.safe_load(static)])
    assert not _selects(monitor, found.pod("Deployment", "vipkeeper-controller"))


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
def test_agents_are_asked_at_their_node_s_address_and_each_container_at_its_port(
    chart: Chart, rendered: list[Object], host: str
) -> None:
    monitor = one(rendered, "PodMonitor", "vipkeeper-agent")
    pod = chart.render().pod("DaemonSet", "vipkeeper-agent")
    assert _selects(monitor, pod)
    addresses = {}
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert endpoint["honorLabels"] is True
        [container] = [each["regex"] for each in endpoint["relabelings"] if each.get("action") == "keep"]
        for each in endpoint["relabelings"]:
            if each.get("targetLabel") == "__address__" and (match := re.fullmatch(each["regex"], host)):
                addresses[container] = match.expand(each["replacement"].replace("$1", r"\1"))
        assert {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"} in endpoint[
            "relabelings"
        ]
    shown = f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    assert addresses == {"keeper": f"{shown}:9946", "courier": f"{shown}:9947"}


def test_agents_metrics_are_opened_by_intent_only(chart: Chart) -> None:
    monitoring = {"podMonitor": {"enabled": True, "agents": True}}
    told = chart.refusal({"monitoring": monitoring})
    assert "agent.keeper.metrics.address" in told
    assert "127.0.0.1 is the node's own" in told
    half = chart.refusal({"monitoring": monitoring, "agent": {"keeper": OPENED["keeper"]}})
    assert "127.0.0.1 is the node's own" in half
    alone = chart.render({"monitoring": {"podMonitor": {"enabled": True}}})
    assert [each["metadata"]["name"] for each in alone.of("PodMonitor")] == ["vipkeeper-controller"]


@pytest.mark.parametrize(
    "values",
    [
        {"podMonitor": {"interval": "often"}},
        {"prometheusRule": {"runbookURL": "runbook"}},
        {"dashboard": {"enabled": "yes"}},
        {"serviceMonitor": {"enabled": True}},
    ],
    ids=["interval", "url", "switch", "unknown"],
)
def test_a_bad_value_is_refused(chart: Chart, values: Object) -> None:
    assert next(iter(values)) in chart.refusal({"crds": {"enabled": False}, "monitoring": values})


def test_the_dashboard_is_found_by_grafana_s_sidecar_and_is_what_the_file_says(
    rendered: list[Object],
) -> None:
    made = one(rendered, "ConfigMap", "vipkeeper-dashboard")
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["metadata"]["annotations"] == {"folder": "Network"}
    [(file, text)] = made["data"].items()
    assert file.endswith(".json")
    assert json.loads(text) == DASHBOARD


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_has_a_title_a_unit_and_the_data_source_that_was_chosen(panel: Object) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "s", "cps"}
    assert panel["targets"]
    for target in (panel, *panel["targets"]):
        assert target["datasource"]["uid"] == "${datasource}"


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
