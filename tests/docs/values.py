"""The page of the chart's values: described by its schema, with the defaults of `values.yaml`."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import yaml

from apiserver.definitions import ROOT
from docs.markdown import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CHART = ROOT / "charts" / "vipkeeper"
Schema = dict[str, Any]
_INTRODUCTION = """\
# Values of the chart

Set them with `--set KEY=VALUE` or in a file for `--values`. A key that is not on this page is refused.
"""


@functools.cache
def schema() -> Schema:
    """Return the schema of the values; it is read once, and not to be changed."""
    found: Schema = json.loads((CHART / "values.schema.json").read_text())
    return found


def page() -> str:
    """Return the page."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    text = _INTRODUCTION
    for name, child in schema()["properties"].items():
        rows = list(_rows(child, name, defaults.get(name)))
        text += f"\n## {name}\n\n{_told(child)}\n" if "properties" in child else f"\n## {name}\n"
        text += "\n" + table(("Value", "Type", "Default", "Meaning"), rows)
    return text


def _rows(node: Schema, path: str, default: Any) -> Iterator[tuple[str, str, str, str]]:
    node = _resolved(node)
    if "properties" not in node:
        yield code(path), _type(node), _shown(default), _told(node)
        return
    for name, child in node["properties"].items():
        inner = default.get(name) if isinstance(default, dict) else None
        yield from _rows(child, f"{path}.{name}", inner)


def _resolved(node: Mapping[str, Any]) -> Schema:
    """Follow a reference into the schema's own definitions."""
    target = node.get("$ref", "")
    if not target.startswith("#/"):
        return dict(node)
    found: Any = schema()
    for step in target.removeprefix("#/").split("/"):
        found = found[step]
    return {**found, **{key: value for key, value in node.items() if key != "$ref"}}


def _type(node: Schema) -> str:
    if "enum" in node:
        return "one of " + ", ".join(code(json.dumps(value).strip('"') or '""') for value in node["enum"])
    kinds = node.get("type", "object")
    shown = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if "minimum" in node and "maximum" in node:
        shown += f", {node['minimum']:,} to {node['maximum']:,}"
    return shown


def _told(node: Schema) -> str:
    return " ".join(_resolved(node).get("description", "").split())


def _shown(default: Any) -> str:
    return "" if default is None else code(json.dumps(default))


def named(node: Schema | None = None, path: str = "") -> set[str]:
    """Return every key of the values, `a.b.c`, those that have keys of their own among them."""
    node = _resolved(schema() if node is None else node)
    found = {path} if path else set()
    for name, child in node.get("properties", {}).items():
        found |= named(child, f"{path}.{name}" if path else name)
    return found
