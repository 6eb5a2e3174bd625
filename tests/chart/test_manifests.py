"""What lies in the tree beside the chart and was made from it: it is what the chart would make now."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from chart import manifests
from chart.rendering import read

if TYPE_CHECKING:
    from chart.rendering import Chart, Object
    from lab.binaries import Binaries


def test_the_kustomize_base_and_its_component_are_what_the_chart_makes(chart: Chart) -> None:
    stale = [
        str(path.relative_to(manifests.ROOT))
        for path, text in {**manifests.copies(), **manifests.pages(chart)}.items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run `make manifests`"


def test_kubectl_builds_the_base_with_everything_in_it(
    chart: Chart, control_plane_binaries: Binaries
) -> None:
    command = [control_plane_binaries.kubectl, "kustomize", manifests.KUSTOMIZE / "base"]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {(each["kind"], each["metadata"]["name"]) for each in read(built)}
    plain = {
        (each["kind"], each["metadata"]["name"])
        for each in chart.render(definitions=True).objects
        if not manifests.is_hook(each)
    }
    assert found == plain | {("Namespace", "vipkeeper-system")}


def test_nothing_of_helm_is_left_in_the_base() -> None:
    for each in read((manifests.KUSTOMIZE / "base" / "vipkeeper.yaml").read_text(encoding="utf-8")):
        assert not any("helm" in label.lower() for label in _marks(each)), each["metadata"]["name"]


def _marks(obj: Object) -> set[str]:
    metadata = obj["metadata"]
    return {
        *metadata.get("labels", {}),
        *metadata.get("labels", {}).values(),
        *metadata.get("annotations", {}),
    }
