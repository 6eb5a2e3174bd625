"""Everything that the chart makes, at a real API server, which takes each object as it is.

Nothing is stored (`dryRun=All`), so the server can be everybody's; it validates all the same, strictly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml

from lab.api import APPLY, RefusedError

if TYPE_CHECKING:
    from chart.rendering import Chart
    from lab.controlplane import ControlPlane

STRICT = urlencode({"fieldManager": "helm", "fieldValidation": "Strict", "dryRun": "All"})
EVERYTHING = {
    "controller": {"notifications": {"secretName": "notifications"}},
    "agent": {
        "workloads": {"enabled": True, "programs": True, "hooksConfigMap": "hooks", "mountFolders": ["/srv"]},
        "checks": {"processes": True, "filePaths": ["/srv/app"]},
        "fence": "reboot",
        "witnessOnly": {"enabled": True, "nodeSelector": {"votes": "only"}},
        "staticPod": {"enabled": True},
    },
    "apiServer": {"host": "2001:db8::5"},
}


def _refusals(plane: ControlPlane, objects: list[dict[str, Any]]) -> list[str]:
    plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vipkeeper-system"}})
    found = []
    for obj in objects:
        # A Pod would need its ServiceAccount here, which nobody stores; a template is validated alike.
        each = _job(obj) if obj["kind"] == "Pod" else obj
        metadata = each["metadata"]
        path = plane.api.path_of(
            each["apiVersion"], each["kind"], namespace=metadata.get("namespace"), name=metadata["name"]
        )
        try:
            plane.api.request("PATCH", f"{path}?{STRICT}", each, content_type=APPLY)
        except RefusedError as refusal:
            found.append(f"{each['kind']} {metadata['name']}: {refusal}")
    return found


def _job(pod: dict[str, Any]) -> dict[str, Any]:
    template = {"spec": {**pod["spec"], "restartPolicy": "Never"}}
    metadata = {key: pod["metadata"][key] for key in ("name", "namespace")}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {"template": template}}


@pytest.mark.parametrize(
    "values", [pytest.param({}, id="default"), pytest.param(EVERYTHING, id="everything")]
)
def test_an_api_server_takes_every_object(
    chart: Chart, bare_control_plane: ControlPlane, values: Any
) -> None:
    assert _refusals(bare_control_plane, list(chart.render(values, definitions=not values).objects)) == []


def test_an_api_server_takes_the_static_pod(chart: Chart, bare_control_plane: ControlPlane) -> None:
    rendering = chart.render(EVERYTHING)
    pod = yaml.safe_load(rendering.one("ConfigMap", "vipkeeper-agent-static-pod")["data"]["vipkeeper.yaml"])
    pod["spec"].pop("priority")  # what a kubelet takes from a file, and an API server from a class only
    assert _refusals(bare_control_plane, [pod]) == []
