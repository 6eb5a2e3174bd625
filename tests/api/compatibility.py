"""What releases have promised about our kinds: their fields and what may stand in them.

`released/VERSION.jsonl` has a line for each place of each kind, as that release had it. An object that was
good then has to be good now: no field goes, none becomes required, no bound gets tighter, no rule is added
but about a field that is new as well (one that begins with `!has(self.FIELD) ||`). Rules about changes (with
`oldSelf`) do not count, for they refuse no object as it is.
At a release, `python -m api.compatibility` adds its file; those of earlier ones are never changed.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apiserver.definitions import definitions, places
from vipapi import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Shape = dict[str, dict[str, Any]]

FOLDER = Path(__file__).parent / "released"
UPPER = ("maximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "minLength", "minItems", "minProperties")
OF_A_FIELD = re.compile(r"!has\(self\.(\w+)\) \|\|")
SAME = ("type", "format", "pattern", "x-kubernetes-list-type", "x-kubernetes-list-map-keys")


def shape() -> Shape:
    """Return every place of every kind of this tree, by its path, with all that limits it."""
    found: Shape = {}
    for kind, definition in definitions().items():
        names = definition["spec"]["names"]
        served = [each["name"] for each in definition["spec"]["versions"] if each["served"]]
        found[kind] = {"type": f"{definition['spec']['scope']} {names['plural']}", "served": served}
    for place in places():
        kept = {name: place.schema[name] for name in (*UPPER, *LOWER, *SAME, "enum") if name in place.schema}
        validations = place.schema.get("x-kubernetes-validations", ())
        rules = [each["rule"] for each in validations if "oldSelf" not in each["rule"]]
        if rules:
            kept["rules"] = sorted(map(_digest, rules))
            if of := {_digest(rule): field[1] for rule in rules if (field := OF_A_FIELD.match(rule))}:
                kept["of"] = of
        if place.is_required:
            kept["required"] = True
        found[f"{place.kind}{place.path}"] = kept
    return found


def _digest(rule: str) -> str:
    return hashlib.sha256(rule.encode()).hexdigest()[:10]


def released() -> dict[str, Shape]:
    """Return what each release had, by its version."""
    found: dict[str, Shape] = {}
    for path in FOLDER.glob("*.jsonl"):
        lines = map(json.loads, path.read_text().splitlines())
        found[path.stem] = {line.pop("place"): line for line in lines}
    return found


def broken(before: Shape, after: Shape) -> list[str]:
    """Return every promise of `before` that `after` does not keep, as a sentence."""
    said = []
    for path, was in before.items():
        now = after.get(path)
        said += [f"{path}: {why}" for why in _narrowed(was, now)]
        if now is not None and any(_is_of_old(rule, path, now, before) for rule in _rules(now) - _rules(was)):
            said.append(f"{path}: has a new rule")
    for path, now in after.items():
        parent = path.rpartition(".")[0]
        if path not in before and parent in before and now.get("required"):
            said.append(f"{path}: is new and required")
    return said


def _rules(of: Mapping[str, Any]) -> set[str]:
    return set(of.get("rules", ()))


def _is_of_old(rule: str, path: str, now: Mapping[str, Any], before: Shape) -> bool:
    """Whether a rule may refuse what has no new field."""
    field = now.get("of", {}).get(rule)
    return field is None or f"{path}.{field}" in before


def _narrowed(was: Mapping[str, Any], now: Mapping[str, Any] | None) -> Iterator[str]:
    if now is None:
        yield "is gone"
        return
    if missing := set(was.get("served", ())) - set(now.get("served", ())):
        yield f"is not served any more as {', '.join(sorted(missing))}"
    if now.get("required") and not was.get("required"):
        yield "has become required"
    for name in SAME:
        if now.get(name) != was.get(name) and (name in now or name == "type"):
            yield f"has another {name}"
    yield from _tightened(was, now)


def _tightened(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in UPPER:
        if name in now and now[name] < was.get(name, float("inf")):
            yield f"has a smaller {name}"
    for name in LOWER:
        if name in now and now[name] > was.get(name, float("-inf")):
            yield f"has a larger {name}"
    if "enum" in now and not set(was.get("enum", (object(),))) <= set(now["enum"]):
        yield "does not take all values any more"


def main() -> None:
    """Write down what this tree promises, as the version that it is."""
    lines = [json.dumps({"place": path, **limits}) for path, limits in shape().items()]
    (FOLDER / f"v{__version__}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
