"""`python -m monitoring.page` writes docs/reference/metrics.md from the registries; `page` returns it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from monitoring.families import Family, processes

FILE: Final = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"

_HEAD = """# Metrics

Made from the processes' own registries by `python -m monitoring.page`; do not edit.
[The runbook](../runbook.md) says what to do about the alerts that are made of them.

| process | served at | in the chart |
|---|---|---|
| controller | `--metrics`, 127.0.0.1:9945 | the Pod's address, port `controller.metrics.port` |
| keeper | `--metrics`, 127.0.0.1:9946 | `agent.keeper.metrics`: loopback of the node, unless you open it |
| courier | `--metrics`, 127.0.0.1:9947 | `agent.courier.metrics`: loopback of the node, unless you open it |

Labels are names of objects and nodes, and fixed words. `virtualip`, `servicefailover` and `domain` are names
of objects, `namespace` is the object's: give `honorLabels: true` where you scrape this by a configuration of
your own. Of objects only the leading controller tells.
"""

_TABLE: Final = "| metric | type | labels | meaning |\n|---|---|---|---|\n"
_TEXTS: Final = {
    "controller": "Both replicas serve these; those about objects come from the one that leads.",
    "keeper": "One keeper on each node, and Prometheus' own `process_` and `python_` metrics.",
    "courier": "One courier on each node, and Prometheus' own `process_` and `python_` metrics.",
}


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.type} | {labels} | {family.text} |\n"


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for process, families in processes().items():
        parts += [f"\n## {process.capitalize()}\n\n{_TEXTS[process]}\n\n", _TABLE, *map(_row, families)]
    return "".join(parts)


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(page())
