"""What the API server checks by a structural schema, rules left out: enough to try many values quickly."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any


def objections(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Return every way in which a JSON value does not fit."""
    match schema["type"]:
        case "object":
            return _object(value, schema, path) if isinstance(value, dict) else [f"{path}: no object"]
        case "array":
            return _array(value, schema, path) if isinstance(value, list) else [f"{path}: no array"]
        case "string":
            return _string(value, schema, path) if isinstance(value, str) else [f"{path}: no string"]
        case "integer":
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            fits = is_integer and schema["minimum"] <= value <= schema["maximum"]
            return [] if fits else [f"{path}: {value!r} is no integer in range"]
        case _:
            return [] if isinstance(value, bool) else [f"{path}: no boolean"]


def _object(value: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    found = [f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value]
    for name, child in value.items():
        if name in schema.get("properties", {}):
            found += objections(child, schema["properties"][name], f"{path}.{name}")
        elif "additionalProperties" in schema:
            found += objections(child, schema["additionalProperties"], f"{path}.{name}")
        else:
            found.append(f"{path}.{name}: unknown")
    return found


def _array(value: list[Any], schema: dict[str, Any], path: str) -> list[str]:
    found = [] if len(value) <= schema["maxItems"] else [f"{path}: {len(value)} items"]
    if schema["x-kubernetes-list-type"] == "map":
        keys = [tuple(item[key] for key in schema["x-kubernetes-list-map-keys"]) for item in value]
        found += [] if len(set(keys)) == len(keys) else [f"{path}: a key twice"]
    if schema["x-kubernetes-list-type"] == "set" and len(set(value)) != len(value):
        found.append(f"{path}: an item twice")
    for index, item in enumerate(value):
        found += objections(item, schema["items"], f"{path}[{index}]")
    return found


def _string(value: str, schema: dict[str, Any], path: str) -> list[str]:
    found = []
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is not one of {schema['enum']}")
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        found.append(f"{path}: {len(value)} characters")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{path}: {value!r} does not match")
    if schema.get("format") == "date-time":
        try:
            datetime.fromisoformat(value)
        except ValueError:
            found.append(f"{path}: {value!r} is no time")
    return found
