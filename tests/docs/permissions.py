"""The page of what each process may ask of the API server, from the rules that the chart installs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from apiserver.definitions import ROOT
from docs.markdown import code, table

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = ROOT / "charts" / "vipkeeper" / "files" / "rbac.yaml"
_INTRODUCTION = """\
# Permissions

What the controller and the courier may ask of the API server, and nothing more. The keeper has no account.
Tests run both under exactly these rules. [Security](../security.md) says what they are for, and what somebody
with such a token could do.

"""


def roles() -> list[dict[str, Any]]:
    """Return the Roles and ClusterRoles."""
    return [each for each in yaml.safe_load_all(RULES.read_text()) if each["kind"] in {"Role", "ClusterRole"}]


def page() -> str:
    """Return the page."""
    return _INTRODUCTION + "\n".join(_section(role) for role in roles())


def _section(role: dict[str, Any]) -> str:
    place = "in its own namespace" if role["kind"] == "Role" else "in the whole cluster"
    header = ("API group", "Resources", "Only named", "Verbs")
    return f"## {role['metadata']['name']} {place}\n\n" + table(header, _rows(role))


def _rows(role: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for rule in role["rules"]:
        yield (
            ", ".join(group or "core" for group in rule["apiGroups"]),
            ", ".join(code(resource) for resource in rule["resources"]),
            ", ".join(code(name) for name in rule.get("resourceNames", ())),
            ", ".join(rule["verbs"]),
        )
