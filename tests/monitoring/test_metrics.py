"""The metrics' names, units and labels, and their page."""

from __future__ import annotations

import re

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.families import Family, processes
from monitoring.page import FILE, page
from vipapi import __version__
from vipcontroller.metrics import Metrics

FAMILIES = [
    pytest.param(process, family, id=f"{process}-{family.name}")
    for process, families in processes().items()
    for family in families
]
LABELS = {
    "action", "component", "domain", "error", "event", "kind", "namespace", "node", "reason", "refusal",
    "request", "result", "service", "servicefailover", "state", "target", "type", "version", "virtualip",
}  # fmt: skip
UNITS = re.compile(r"_(minutes|hours|milliseconds|ms|kilobytes|percent)(_|$)")


@pytest.mark.parametrize(("process", "family"), FAMILIES)
def test_a_metric_is_named_as_prometheus_has_it(process: str, family: Family) -> None:
    assert re.fullmatch(r"vipkeeper(_[a-z]+)+", family.name), process
    assert family.name.endswith("_total") == (family.type == "counter")
    assert not UNITS.search(family.name)
    assert not family.name.endswith(("_gauge", "_counter", "_sum", "_count", "_bucket"))
    if family.type in {"histogram", "summary"}:
        assert family.name.endswith(("_seconds", "_bytes"))
    assert set(family.labels) <= LABELS
    assert not {"le", "quantile", "job", "instance", "pod", "container"} & set(family.labels)
    assert family.text.endswith(".")
    assert family.text[0].isupper() or family.text[0].isdigit()


def test_one_name_means_one_thing_in_every_process() -> None:
    meanings: dict[str, set[Family]] = {}
    for families in processes().values():
        for family in families:
            meanings.setdefault(family.name, set()).add(family)
    assert [name for name, found in meanings.items() if len(found) > 1] == []


def test_the_controller_tells_its_version_and_nothing_that_is_not_listed() -> None:
    text = generate_latest(Metrics().registry).decode()
    assert f'vipkeeper_build_info{{component="controller",version="{__version__}"}} 1.0' in text
    listed = {family.name.removesuffix("_total") for family in processes()["controller"]}
    assert {each.name for each in text_string_to_metric_families(text)} - listed <= {
        f"{name}_created" for name in listed
    }


def test_the_page_is_what_the_registries_say() -> None:
    assert FILE.read_text() == page(), "run: PYTHONPATH=tests python -m monitoring.page"
