"""Static checks of everything that is YAML for Kubernetes: `python -m chart.lint`, a part of `make lint`.

    yamllint      values, Chart.yaml and the other files of the chart that are no templates
    helm lint     the chart, strictly
    kubeconform   what each of `VARIANTS` renders to and all of `charts/kustomize`, against the schemas of the
                  oldest and of a newer Kubernetes (PyPI's kubernetes-validate brings them), and `examples/`
                  against the definitions of our own kinds
    kube-score    the Pods of each variant; `EXCEPTIONS` says what it is not followed in, and why. One that
                  is not needed any more is a failure, too

Nothing is fetched but the tools themselves, once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import yaml

import gotools
from chart.rendering import CHART, Chart
from lab.gobuilds import BinariesMissingError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = CHART.parents[1]
SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
RELEASES = ("1.31.0", "1.34.0")
STRICT = "{{.NormalizedKubernetesVersion}}/{{.ResourceKind}}{{.KindSuffix}}.json"
OTHERS = "Kustomization,Component,PodMonitor,PrometheusRule,Application,GitRepository,HelmRelease"
"""Kinds of which no schema is at hand: kustomize's, the Prometheus operator's, Argo CD's and Flux's."""
_GOOD = 10
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
RULES = """
extends: default
rules:
  braces: {max-spaces-inside: 0}
  comments: {min-spaces-from-content: 1}
  document-start: disable
  indentation: {indent-sequences: false}
  line-length: {max: 130}
"""

_PROGRAMS = ("agent", "agent-witness", "controller", "sweeper", "cleanup", "test")
EXCEPTIONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "container-image-pull-policy": (
        _PROGRAMS,
        "Always would keep an agent from starting while the registry is away; a digest pins the image",
    ),
    "container-resources": (
        _PROGRAMS,
        "a limit of processor time that throttles a keeper is a failover; requests and memory limits are set",
    ),
    "container-ephemeral-storage-request-and-limit": (
        _PROGRAMS,
        "their root is read-only and they write nothing but logs; no Pod is to be evicted for these",
    ),
    "pod-networkpolicy": (
        ("agent", "agent-witness", "sweeper", "cleanup", "test"),
        "it does not cover Pods in the network of their node; the last two serve nothing and end at once",
    ),
    "container-security-context-user-group-id": (
        ("agent", "agent-witness", "sweeper"),
        "capabilities added to a container come into force for user 0 only; all others are dropped",
    ),
    "container-security-context-privileged": (
        ("agent",),
        "programs of the node need its own mounts and cgroups (agent.workloads.programs, off by default)",
    ),
}
"""Checks of kube-score that are not followed: the objects, without the release's name, and the reason."""

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "everything": {
        "crds": {"enabled": False},
        "controller": {"notifications": {"secretName": "notifications"}},
        "admission": {"addresses": [{"groups": ["edge"], "cidrs": ["192.0.2.0/24"]}]},
        "agent": {
            "workloads": {"enabled": True, "programs": True, "hooksConfigMap": "h", "mountFolders": ["/srv"]},
            "checks": {"processes": True, "filePaths": ["/srv/app"]},
            "fence": "reboot",
            "witnessOnly": {"enabled": True, "nodeSelector": {"votes": "only"}},
            "staticPod": {"enabled": True},
        },
    },
}


def main() -> int:
    """Run all checks; returns how many failed."""
    try:
        helm, kubeconform, score = (
            gotools.locate(name, _say) for name in ("helm", "kubeconform", "kube-score")
        )
    except BinariesMissingError as failure:
        _say(str(failure))
        return 1
    started = time.monotonic()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="vipkeeper-lint-") as scratch:
        folder = Path(scratch)
        rendered: list[str | Path] = []
        for name, values in VARIANTS.items():
            page = folder / f"{name}.yaml"
            page.write_text(Chart(helm).template(values), encoding="utf-8")
            rendered.append(page)
        _write_schemas_of_our_kinds(folder / "kinds")
        for release in RELEASES:
            _write_schemas_of_kubernetes(release, folder / f"v{release}")
        checks: list[tuple[str, list[str | Path]]] = [
            (
                "yamllint",
                [sys.executable, "-m", "yamllint", "--strict", "--config-data", RULES, *_plain_files()],
            ),
            ("helm lint", [helm, "lint", "--strict", "--quiet", CHART]),
            *(
                (f"kubeconform {each}", [kubeconform, *_conform(each, folder), *rendered, *_manifests()])
                for each in RELEASES
            ),
        ]
        for title, command in checks:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                failed += 1
                _say(f"{title} failed:\n{done.stdout}{done.stderr}")
        if findings := _score(score, rendered):
            failed += 1
            _say("\n".join(["kube-score failed:", *findings]))
    _say(f"chart: {len(checks) + 1} checks, {failed} failed, {time.monotonic() - started:.1f} s")
    return failed


def _score(kube_score: Path, rendered: list[str | Path]) -> list[str]:
    """Return what kube-score finds besides `EXCEPTIONS`, and the exceptions that it no longer needs."""
    unused = {(check, name) for check, (names, _) in EXCEPTIONS.items() for name in names}
    findings: list[str] = []
    for page in rendered:
        scored = subprocess.run([kube_score, "score", "-o", "json", page], capture_output=True, check=False)
        for each in json.loads(scored.stdout):
            name = each["object_meta"]["name"].removeprefix("vipkeeper-")
            for check in each["checks"]:
                if check["skipped"] or check["grade"] >= _GOOD:
                    continue
                excuse = (check["check"]["id"], name)
                if excuse[0] in EXCEPTIONS and name in EXCEPTIONS[excuse[0]][0]:
                    unused.discard(excuse)
                    continue
                findings += [f"{name}: {excuse[0]}: {comment['summary']}" for comment in check["comments"]]
    return findings + [f"{name}: {check}: the exception is not needed" for check, name in sorted(unused)]


def _plain_files() -> list[Path]:
    skipped = (CHART / "templates", CHART / "files" / "crds")
    return sorted(each for each in CHART.rglob("*.yaml") if not set(skipped) & set(each.parents))


def _manifests() -> list[Path]:
    folders = (ROOT / "examples", ROOT / "charts" / "kustomize")
    found = sorted(path for folder in folders for path in folder.rglob("*.yaml"))
    return [each for each in found if "apiVersion:" in each.read_text(encoding="utf-8")]


def _conform(release: str, folder: Path) -> list[str]:
    return [
        "-strict",
        f"-kubernetes-version={release}",
        f"-schema-location={folder}/{STRICT}",
        f"-schema-location={folder}/kinds/{{{{.ResourceKind}}}}.json",
        f"-skip={OTHERS}",
    ]


def _write_schemas_of_kubernetes(release: str, folder: Path) -> None:
    """Copy them so that kubeconform takes them.

    Each is to find the definitions that it names beside it, not in /api, and to name no draft, for with one
    it finds none of them.
    """
    folder.mkdir()
    for path in (SCHEMAS / f"v{release}-local-strict").glob("*.json"):
        text = path.read_text(encoding="utf-8").replace('"/api/_definitions.json', '"_definitions.json')
        text = text.replace(f'"$schema": "{_DRAFT}"', '"$comment": ""')
        (folder / path.name).write_text(text, encoding="utf-8")


def _write_schemas_of_our_kinds(folder: Path) -> None:
    """Write a JSON schema for each of our kinds: what a definition does not name is refused."""
    folder.mkdir()
    for path in (ROOT / "crds").glob("*.yaml"):
        spec = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["spec"]
        [version] = spec["versions"]
        schema = _closed(version["schema"]["openAPIV3Schema"])
        schema["properties"] |= {
            "apiVersion": {"const": f"{spec['group']}/{version['name']}"},
            "kind": {"const": spec["names"]["kind"]},
            "metadata": {"type": "object"},
        }
        (folder / f"{spec['names']['kind'].lower()}.json").write_text(json.dumps(schema), encoding="utf-8")


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(each) for key, each in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string") is True:
        closed.pop("type", None)
    return closed


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
