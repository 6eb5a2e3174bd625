"""The files of `charts/argocd/`: test data and the ready-made ConfigMap, written from what is the source.

Sources are the Lua scripts and the cases of `gitops.stories`. The folder has the shape of Argo CD's own
`resource_customizations`, so that it can be offered there as it stands.
"""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import yaml

import gotools
from gitops.stories import cases

Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "charts" / "argocd"
SCRIPTS = FOLDER / "resource_customizations" / "vipkeeper.io"
CONFIG = FOLDER / "argocd-cm.yaml"
KINDS = ("FailoverDomain", "ServiceFailover", "Switchover", "VIPNode", "VirtualIP")
HEADER = """\
# How Argo CD tells the health of vipkeeper's objects, and what can be done to them in its user interface.
# Merge the data into the ConfigMap argocd-cm. Written from resource_customizations/ by `python -m gitops`.
"""


def generated() -> dict[Path, str]:
    """Return what the files should hold."""
    found = {CONFIG: HEADER + _yaml(_config_map())}
    for kind in KINDS:
        tests = []
        for case in cases():
            if case.kind == kind:
                found[SCRIPTS / kind / "testdata" / f"{case.name}.yaml"] = _yaml(case.object)
                [answer] = run_lua([(script(kind, "health.lua"), case.object, {})])
                health = {"status": answer["result"]["status"], "message": answer["result"]["message"]}
                tests.append({"healthStatus": health, "inputPath": f"testdata/{case.name}.yaml"})
        found[SCRIPTS / kind / "health_test.yaml"] = _yaml({"tests": tests})
    return found


def script(kind: str, path: str) -> str:
    """Return a script of a kind."""
    return (SCRIPTS / kind / path).read_text()


def actions(kind: str) -> tuple[str, ...]:
    """Return the names of the actions that there are for a kind."""
    return tuple(sorted(path.parent.name for path in (SCRIPTS / kind / "actions").glob("*/action.lua")))


def run_lua(asked: list[tuple[str, Object, dict[str, str]]]) -> list[Object]:
    """Run scripts, each on an object and with parameters, as Argo CD runs them."""
    lines = [json.dumps({"script": text, "obj": obj, "parameters": more}) for text, obj, more in asked]
    return _answers("argolua", lines)


def run_kstatus(objects: list[Object]) -> list[Object]:
    """Return how kstatus reads objects."""
    return _answers("kstatus", [json.dumps(obj) for obj in objects])


def _answers(tool: str, lines: list[str]) -> list[Object]:
    told = subprocess.run(
        [gotools.locate(tool)], input="\n".join(lines), capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in told.stdout.splitlines()]


def _config_map() -> Object:
    data = {}
    for kind in KINDS:
        name = f"vipkeeper.io_{kind}"
        data[f"resource.customizations.health.{name}"] = script(kind, "health.lua")
        if names := actions(kind):
            definitions = [
                {"name": each, "action.lua": script(kind, f"actions/{each}/action.lua")} for each in names
            ]
            told = {"discovery.lua": script(kind, "actions/discovery.lua"), "definitions": definitions}
            data[f"resource.customizations.actions.{name}"] = _yaml(told)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "argocd-cm", "labels": {"app.kubernetes.io/part-of": "argocd"}},
        "data": data,
    }


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks that can be read, and no references."""

    def ignore_aliases(self, data: Any) -> bool:
        return data is not None


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _yaml(value: Object) -> str:
    return yaml.dump(copy.deepcopy(value), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
