"""The CRDs of `crds/` as dicts, and a walk over their schemas."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """One schema in a CRD: the path to it (`.spec.addresses[]`), and whether a user writes it."""

    kind: str
    path: str
    schema: Schema
    is_required: bool = False

    @property
    def name(self) -> str:
        """The JSON name of the field, empty for an item of a list or a value of a map."""
        last = self.path.rsplit(".", 1)[-1]
        return "" if last.endswith(("[]", "{}")) else last

    @property
    def is_spec(self) -> bool:
        return self.path == ".spec" or self.path.startswith((".spec.", ".spec["))


@functools.cache
def definitions() -> dict[str, dict[str, Any]]:
    """Return the CRDs by kind; they are read once, and not to be changed."""
    found = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]
    return {definition["spec"]["names"]["kind"]: definition for definition in found}


def schema_of(definition: dict[str, Any]) -> Schema:
    """Return the schema of the one version."""
    [version] = definition["spec"]["versions"]
    schema: Schema = version["schema"]["openAPIV3Schema"]
    return schema


def places() -> list[Place]:
    """Return every schema below `.spec` and `.status` of every kind, themselves among them."""
    found: list[Place] = []
    for kind, definition in definitions().items():
        for name, schema in schema_of(definition)["properties"].items():
            if name in {"spec", "status"}:
                found += _walk(kind, f".{name}", schema, is_required=name == "spec")
    return found


def _walk(kind: str, path: str, schema: Schema, *, is_required: bool) -> Iterator[Place]:
    yield Place(kind, path, schema, is_required)
    for name, child in schema.get("properties", {}).items():
        yield from _walk(kind, f"{path}.{name}", child, is_required=name in schema.get("required", ()))
    if "items" in schema:
        yield from _walk(kind, f"{path}[]", schema["items"], is_required=False)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _walk(kind, f"{path}{{}}", schema["additionalProperties"], is_required=False)
