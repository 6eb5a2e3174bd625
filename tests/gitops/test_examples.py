"""The manifests for Argo CD and Flux fit the chart, and bring things in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apiserver.controllers import ROOT
from chart.conftest import chart  # noqa: F401 - a fixture
from gitops import argo
from lab.api import manifests_in

if TYPE_CHECKING:
    from chart.rendering import Chart

Object = dict[str, Any]

EXAMPLES = ROOT / "examples" / "gitops"
WAVE = "argocd.argoproj.io/sync-wave"
KEEP = "helm.sh/resource-policy"


def wave(obj: Object) -> int:
    return int(obj["metadata"]["annotations"][WAVE])


def test_the_chart_takes_the_values_of_the_examples(chart: Chart) -> None:  # noqa: F811 - the fixture
    applications = list(manifests_in(EXAMPLES / "argocd" / "application.yaml"))
    releases = [each for each in manifests_in(EXAMPLES / "flux") if each["kind"] == "HelmRelease"]
    values = [applications[0]["spec"]["source"]["helm"]["valuesObject"], releases[0]["spec"]["values"]]
    for each in values:
        found = chart.render(each, definitions=True).of("CustomResourceDefinition")
        assert len(found) == len(argo.KINDS)
        assert all(one["metadata"]["annotations"][KEEP] == "keep" for one in found), (
            "not pruned with the rest"
        )
    paths = {applications[0]["spec"]["source"]["path"], releases[0]["spec"]["chart"]["spec"]["chart"]}
    assert paths == {"charts/vipkeeper"}


def test_the_operator_comes_before_the_addresses() -> None:
    operator, addresses = manifests_in(EXAMPLES / "argocd" / "application.yaml")
    assert wave(operator) < wave(addresses)
    [waiting] = [
        each
        for each in manifests_in(EXAMPLES / "flux" / "addresses.yaml")
        if each["kind"] == "Kustomization" and each["metadata"]["name"] == "addresses"
    ]
    assert waiting["spec"]["dependsOn"] == [{"name": "vipkeeper"}]
    assert waiting["spec"]["prune"] is addresses["spec"]["syncPolicy"]["automated"]["prune"] is False


def test_a_domain_comes_before_its_addresses_and_these_before_what_follows_them() -> None:
    waves = {each["kind"]: wave(each) for each in manifests_in(EXAMPLES / "argocd" / "waves.yaml")}
    assert waves["FailoverDomain"] < waves["VirtualIP"] < waves["ServiceFailover"]
