"""What programs count of themselves, read from the text of their `/metrics`."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

WRITING = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
HOUR_S = 3600
_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Written(NamedTuple):
    """A kind of write request: `virtualips/status` and `APPLY`."""

    resource: str
    verb: str


def samples(text: str, name: str) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield the labels and the value of each sample of one metric."""
    for line in text.splitlines():
        if line.startswith(name):
            found = _SAMPLE.match(line)
            if found is not None and found["name"] == name:
                yield dict(_LABEL.findall(found["labels"] or "")), float(found["value"])


def total(text: str, name: str) -> float:
    """Return the sum over all samples of one metric."""
    return sum(value for _, value in samples(text, name))


def writes(text: str) -> Counter[Written]:
    """Return how many write requests a kube-apiserver has answered, whatever the answer."""
    found: Counter[Written] = Counter()
    for labels, value in samples(text, "apiserver_request_total"):
        if labels["verb"] in WRITING:
            subresource = f"/{labels['subresource']}" if labels.get("subresource") else ""
            found[Written(f"{labels['resource']}{subresource}", labels["verb"])] += int(value)
    return found


def per_hour(before: Counter[Written], after: Counter[Written], seconds: float) -> dict[Written, float]:
    """Return what was written between two looks that lie `seconds` apart, as a rate."""
    return {each: count * HOUR_S / seconds for each, count in (after - before).items()}
