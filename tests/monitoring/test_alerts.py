"""Each alert fires for the series that mean it, when it should, and for no others: told by promtool."""

from __future__ import annotations

import copy
import re
import subprocess
from typing import TYPE_CHECKING, Any, get_args

import pytest
import yaml

from chart.rendering import CHART
from lab.gobuilds import BinariesMissingError
from monitoring.alarms import STATES, STORIES, Firing, Moments, Series, always, healthy, text
from monitoring.families import series
from monitoring.promtool import complaints, locate
from vipapi import nodestatus

if TYPE_CHECKING:
    from pathlib import Path

    from chart.rendering import Chart

Object = dict[str, Any]
ALERTS = [
    rule["alert"]
    for group in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
OF_TARGETS = {"job", "pod", "container", "node"}


@pytest.fixture(scope="module")
def rules(chart: Chart) -> Object:
    """The rules that the chart makes, as Prometheus is given them."""
    monitoring = {"prometheusRule": {"enabled": True, "alertLabels": {"team": "network"}}}
    groups = chart.render({"monitoring": monitoring}).one("PrometheusRule", "vipkeeper")["spec"]["groups"]
    return {"groups": groups}


def expected(rule: Object, firing: Firing) -> Object:
    """What Prometheus tells of an alert that fires: its labels, and its texts with the values in them."""

    def rendered(template: str) -> str:
        filled = re.sub(r"{{ \$labels\.(\w+) }}", lambda label: firing.labels[label[1]], template)
        return re.sub(r"{{ \$value( \| \w+)? }}", lambda _: firing.value, filled)

    texts = {name: rendered(each) for name, each in rule["annotations"].items()}
    assert not any("{{" in each for each in texts.values())
    return {"exp_labels": {**firing.labels, **rule["labels"]}, "exp_annotations": texts}


def document(rules: Object, changed: Series, fires: Moments) -> list[Object]:
    """One test of promtool's: at each moment exactly these fire and all others are silent."""
    by_name = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    asked = [
        {
            "eval_time": moment,
            "alertname": name,
            "exp_alerts": [expected(rule, each) for each in firing if each.alert == name],
        }
        for moment, firing in fires.items()
        for name, rule in by_name.items()
    ]
    values = [{"series": name, "values": text(course)} for name, course in changed.items()]
    return [{"interval": "15s", "input_series": values, "alert_rule_test": asked}]


def test_prometheus_takes_the_rules(promtool: Path, rules: Object, tmp_path: Path) -> None:
    assert complaints(promtool, tmp_path, rules=rules) == ""
    broken = copy.deepcopy(rules)
    broken["groups"][0]["rules"][0]["expr"] = "max by (virtualip) ("
    assert "could not parse expression" in complaints(promtool, tmp_path, rules=broken)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name.replace(" ", "-"))
def test_an_alert_fires_when_its_trouble_is_there_and_only_then(
    promtool: Path, rules: Object, tmp_path: Path, story: Any
) -> None:
    changed = healthy() | story.changes
    present = {name: course for name, course in changed.items() if course is not None}
    tests = document(rules, present, story.fires)
    assert complaints(promtool, tmp_path, rules=rules, tests=tests) == ""


def test_every_alert_is_seen_silent_and_then_firing() -> None:
    seen = {each.alert for story in STORIES for firing in story.fires.values() for each in firing}
    assert seen == set(ALERTS)
    for alert in ALERTS:
        of_it = [
            [any(each.alert == alert for each in firing) for firing in story.fires.values()]
            for story in STORIES
        ]
        assert any(False in told and True in told[told.index(False) :] for told in of_it), alert


def test_the_stories_tell_of_series_that_the_processes_serve() -> None:
    known = series() | {"up": ()}
    for name in {each for story in STORIES for each in healthy() | dict(story.changes)}:
        metric, _, labels = name.rstrip("}").partition("{")
        told = set(re.findall(r'(\w+)="', labels))
        assert metric in known
        assert told - OF_TARGETS == set(known[metric]) - OF_TARGETS, name
        assert set(known[metric]) <= told, name
    assert set(STATES) <= set(get_args(nodestatus.State))


def test_a_silence_that_is_none_is_told(promtool: Path, rules: Object, tmp_path: Path) -> None:
    away = {name: always(0) if "ready" in name else course for name, course in healthy().items()}
    told = complaints(promtool, tmp_path, rules=rules, tests=document(rules, away, {"10m": []}))
    assert "VipkeeperAddressWithoutOwner" in told


def test_without_apt_and_promtool_it_is_said_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BinariesMissingError, match="there is no apt to fetch it: put promtool of Prometheus"):
        locate()
    (tmp_path / "promtool").symlink_to("/bin/true")
    assert locate() == tmp_path / "promtool"
    assert subprocess.run([locate()], check=False).returncode == 0
