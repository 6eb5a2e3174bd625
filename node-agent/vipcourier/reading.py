"""Reads the cluster's objects for a plan: each version once, and of a broken one what can be read.

An object that this version cannot read (written for a newer one, say) still has metadata, and mostly a
status: whether it is being deleted, and whether the controller has let it in, is known all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vipapi import conditions
from vipapi.resources import ObjectMeta, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipapi.conditions import Condition

Document = dict[str, Any]


class Reader:
    """Parses objects; remembers those of the last round, so that only what changed is parsed again."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], Any] = {}
        self._found: dict[tuple[str, str], Any] = {}

    def begin(self) -> None:
        """Begin a round: what is not read in it is forgotten with the next."""
        self._before, self._found = self._found, {}

    def read(self, kind: type[Any], document: Document) -> Any:
        """Return the object as the struct of its kind; raises `ValueError` as `parse` does."""
        metadata = document["metadata"]
        key = (metadata["uid"], metadata["resourceVersion"])
        found = self._before[key] if key in self._before else parse(kind, document)
        self._found[key] = found
        return found


def metadata_of(document: Document) -> ObjectMeta:
    """Return the metadata of an object whose rest may be anything."""
    return msgspec.convert(document["metadata"], type=ObjectMeta)


def status_of(kind: type[Any], document: Document) -> Any:
    """Return an object's status, a fresh one where it cannot be read."""
    try:
        return msgspec.convert(document.get("status") or {}, type=kind)
    except msgspec.ValidationError:
        return kind()


def outline_of(kind: type[Any], document: Document) -> tuple[ObjectMeta, Any]:
    """Return the metadata and the status of an object that cannot be read, with `inForce` if that can be."""
    status = status_of(kind, document)
    if status == kind():
        # What was accepted may be as unreadable as what is written now; the rest is told all the same.
        rest = {name: value for name, value in (document.get("status") or {}).items() if name != "inForce"}
        status = status_of(kind, {"status": rest})
    return metadata_of(document), status


def is_accepted(found: Iterable[Condition], *, is_planned: bool) -> bool:
    """Whether the controller let the object in, and has not said otherwise since."""
    condition = conditions.find(found, "Accepted")
    if condition is None or condition.status == "Unknown":
        return is_planned
    return condition.status == "True"


def accepted_generation(found: Iterable[Condition]) -> int:
    """Return the newest generation that the controller accepted, 0 if it does not say so of any."""
    condition = conditions.find(found, "Accepted")
    if condition is None or condition.status != "True":
        return 0
    return condition.observed_generation or 0


def by_name(document: Document) -> tuple[str, str]:
    """Return what objects are sorted by."""
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
