"""What is made from `crds/` and the chart, and lies in the tree; `python -m chart.manifests` writes it.

    charts/vipkeeper/files/crds             copies of crds/, for not every tool follows a link out of a chart
    charts/kustomize/base                   the chart with its own values, without its hooks
    charts/kustomize/components/monitoring  what `monitoring` adds to that

No tool but Helm knows hooks, so what only they do (`helm test`, the work after an uninstall) is not in there.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import yaml

import gotools
from chart.rendering import CHART, Chart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from chart.rendering import Object

ROOT = CHART.parents[1]
KUSTOMIZE = ROOT / "charts" / "kustomize"
MONITORED: Mapping[str, Object] = {
    "monitoring": {each: {"enabled": True} for each in ("podMonitor", "prometheusRule", "dashboard")}
}
_NOTE = "# Rendered from charts/vipkeeper by `make manifests`; do not edit.\n"


def copies() -> dict[Path, str]:
    """Return the definitions as the chart has to have them."""
    return {
        CHART / "files" / "crds" / path.name: path.read_text("utf-8")
        for path in (ROOT / "crds").glob("*.yaml")
    }


def pages(chart: Chart) -> dict[Path, str]:
    """Return what belongs into each file that is rendered."""
    plain = [each for each in chart.render(definitions=True).objects if not is_hook(each)]
    definitions = [each for each in plain if each["kind"] == "CustomResourceDefinition"]
    named = {(each["kind"], each["metadata"]["name"]) for each in plain}
    added = [
        each
        for each in chart.render(MONITORED).objects
        if not is_hook(each) and (each["kind"], each["metadata"]["name"]) not in named
    ]
    return {
        KUSTOMIZE / "base" / "crds.yaml": _page(definitions),
        KUSTOMIZE / "base" / "vipkeeper.yaml": _page(each for each in plain if each not in definitions),
        KUSTOMIZE / "components" / "monitoring" / "monitoring.yaml": _page(added),
    }


def is_hook(obj: Object) -> bool:
    """Tell whether Helm makes an object only at a moment of its own."""
    return "helm.sh/hook" in obj["metadata"].get("annotations", {})


def _page(objects: Iterable[Object]) -> str:
    return _NOTE + yaml.dump_all(
        [_without_helm(each) for each in objects],
        Dumper=yaml.CSafeDumper,
        sort_keys=False,
        width=120,
        allow_unicode=True,
        explicit_start=True,
    )


def _without_helm(obj: Object) -> Object:
    metadata = dict(obj["metadata"])
    for kind in ("labels", "annotations"):
        kept = {
            name: each for name, each in metadata.pop(kind, {}).items() if not name.startswith("helm.sh/")
        }
        kept.pop("app.kubernetes.io/managed-by", None)
        if kept:
            metadata[kind] = kept
    return {**obj, "metadata": metadata}


def main() -> int:
    """Write every file that differs; tells which."""
    _write(copies())
    _write(pages(Chart(gotools.locate("helm", print))))
    return 0


def _write(wanted: Mapping[Path, str]) -> None:
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")


if __name__ == "__main__":
    sys.exit(main())
