"""A page for each kind, from its CRD: each field, what it may be, and what a refused value is told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from apiserver.definitions import definitions, schema_of
from docs.markdown import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

Schema = dict[str, Any]
HEADER = ("Field", "Type", "Meaning")
SPEC = "## spec\n\nA field without *Absent* is required.\n\n"
STATUS = "## status\n\nWritten by vipkeeper, never by you.\n\n"
COLUMNS = "\n## Columns\n\nWhat `kubectl get` shows; what is not there always is with `-o wide`.\n\n"


def page(kind: str) -> str:
    """Return the page of one kind."""
    definition = definitions()[kind]
    names = definition["spec"]["names"]
    [version] = definition["spec"]["versions"]
    schema = schema_of(definition)
    columns = [
        (code(column["name"]), "" if column.get("priority") else "yes", code(column["jsonPath"]))
        for column in version["additionalPrinterColumns"]
    ]
    selectable = ", ".join(code(field["jsonPath"][1:]) for field in version.get("selectableFields", ()))
    scope = "namespaced" if definition["spec"]["scope"] == "Namespaced" else "for the whole cluster"
    return (
        f"# {kind}\n\n{_joined(schema['description'])}\n\n"
        f"`apiVersion: {definition['spec']['group']}/{version['name']}`, {scope}, "
        f"`kubectl get {names['shortNames'][0]}`"
        + (f", with `--field-selector` on {selectable}" if selectable else "")
        + ". `kubectl explain` says the same as this page.\n\n"
        + (SPEC + table(HEADER, _rows(schema, "spec")) + "\n" if "spec" in schema["properties"] else "")
        + STATUS
        + table(HEADER, _rows(schema, "status"))
        + COLUMNS
        + table(("Column", "Always", "From"), columns)
    )


def _rows(schema: Schema, top: str) -> Iterator[tuple[str, str, str]]:
    """Return one row for each field below `spec` or `status`, outer ones first."""
    whole = schema["properties"][top]
    rules = _rules(whole, top)
    if rules.get(top):
        yield code(top), "object", _joined(whole["description"]) + _told(rules[top])
    for path, field in _fields(whole, top):
        yield _named(path), _type(field), _meaning(field) + _told(rules.get(path, []))


def _fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here, child
        if here != "status.conditions":  # those are alike in every Kubernetes API
            inner = child["items"] if child["type"] == "array" else child
            yield from _fields(inner, here + "[]" if child["type"] == "array" else here)


def _rules(schema: Schema, path: str) -> dict[str, list[str]]:
    """Return the rules' sentences by the field that they refuse; those of an entry stand with its list."""
    found: dict[str, list[str]] = {}
    for rule in schema.get("x-kubernetes-validations", ()):
        found.setdefault((path + rule.get("fieldPath", "")).removesuffix("[]"), []).append(
            rule["message"]
            if not path.endswith("[]") or "fieldPath" in rule
            else f"each entry {rule['message']}"
        )
    children = [(f"{path}.{name}", child) for name, child in schema.get("properties", {}).items()]
    children += [(f"{path}[]", schema["items"])] if "items" in schema else []
    if isinstance(schema.get("additionalProperties"), dict):
        children.append((f"{path}[]", schema["additionalProperties"]))
    for where, child in children:
        for field, sentences in _rules(child, where).items():
            found.setdefault(field, []).extend(sentences)
    return found


def _named(path: str) -> str:
    anchor = re.sub(r"[^\w]+", "-", path).lower()
    return f'<a id="{anchor}"></a>{code(path.split(".", 1)[1])}'


def _told(sentences: list[str]) -> str:
    return "".join(f"<br>• {_joined(sentence)}" for sentence in dict.fromkeys(sentences))


def _meaning(field: Schema) -> str:
    """Return the description; what holds when the field is absent, and the example, on lines of their own."""
    text = _joined(field["description"])
    text = re.sub(r" Absent: ", "<br>*Absent:* ", text)
    return re.sub(r" Example: (.+)\.$", lambda match: f"<br>*Example:* {code(match[1])}", text)


def _joined(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


def _type(field: Schema) -> str:
    match field["type"]:
        case "string":
            return _string(field)
        case "integer":
            return f"integer, {field['minimum']:,} to {field['maximum']:,}"
        case "array":
            return _list(field)
        case "object" if "additionalProperties" in field:
            return f"map of up to {field['maxProperties']} strings"
        case kind:
            return str(kind)


def _string(field: Schema) -> str:
    if "enum" in field:
        return "one of " + ", ".join(code(value) for value in field["enum"])
    return "time" if field.get("format") == "date-time" else f"string of {_span(field, 'Length')} characters"


def _list(field: Schema) -> str:
    inner = "objects" if field["items"]["type"] == "object" else _type(field["items"])
    inner = re.sub(r"^(string|integer)\b", r"\1s", inner).replace("one of", "values, each one of")
    keys = ", ".join(code(key) for key in field.get("x-kubernetes-list-map-keys", ()))
    unique = {"set": ", each once", "map": f", one for each {keys}"}.get(field["x-kubernetes-list-type"], "")
    return f"list of {_span(field, 'Items')} {inner}{unique}"


def _span(field: Schema, what: str) -> str:
    low, high = field.get(f"min{what}", 0), field[f"max{what}"]
    return f"{high}" if low == high else f"{low} to {high:,}" if low else f"up to {high:,}"
