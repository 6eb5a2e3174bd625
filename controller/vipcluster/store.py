"""What the API server holds, as far as we have heard: the newest version of every object of one resource.

Two sources feed it, in whatever order they come: complete listings (`replace`) and single changes
(`put`, `remove`). Only resource versions decide which of two stories is newer, so late, doubled and
reordered news do no harm:

- a change older than what is there is ignored, and so is one about an object that a newer listing
  did not show;
- a deletion is remembered until a listing is newer than it, so that an older listing cannot bring the
  object back;
- a listing whose version is older than the last one comes from an API server whose history went back
  (an etcd restored from a backup): it replaces everything.

Nothing may be called missing before the first listing: `is_complete` says whether it has arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Document = dict[str, Any]
"""An object as the API server's JSON has it; `vipapi.resources` turns it into a struct."""


def version_of(document: Document) -> int:
    """Return an object's resource version; they are ordered within one resource."""
    return int(document["metadata"]["resourceVersion"])


class Shelf:
    """The objects of one resource by their UID."""

    def __init__(self) -> None:
        self._documents: dict[str, Document] = {}
        self._removed: dict[str, int] = {}
        self._listed: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether a complete listing has ever arrived."""
        return self._listed is not None

    def documents(self) -> tuple[Document, ...]:
        """Return every object, in the order of their names."""
        return tuple(sorted(self._documents.values(), key=_name))

    def put(self, document: Document) -> bool:
        """Take in one object that exists; returns whether it was news."""
        uid, version = document["metadata"]["uid"], version_of(document)
        known = self._documents.get(uid)
        if known is not None:
            if version <= version_of(known):
                return False
        elif version <= max(self._listed or 0, self._removed.get(uid, 0)):
            return False
        self._documents[uid] = document
        return True

    def remove(self, document: Document) -> bool:
        """Take in that an object is gone, `document` being its last state; returns whether it was news."""
        uid, version = document["metadata"]["uid"], version_of(document)
        self._removed[uid] = max(version, self._removed.get(uid, 0))
        known = self._documents.get(uid)
        if known is None or version < version_of(known):
            return False
        del self._documents[uid]
        return True

    def replace(self, documents: Iterable[Document], version: int) -> bool:
        """Take in a complete listing made at `version`; returns whether anything in it was news."""
        was_complete, before = self.is_complete, self._documents
        if self._listed is not None and version < self._listed:
            before, self._removed = {}, {}
        listed = {document["metadata"]["uid"]: document for document in documents}
        merged = {uid: document for uid, document in before.items() if version_of(document) > version}
        for uid, document in listed.items():
            known = before.get(uid)
            if known is not None and version_of(known) >= version_of(document):
                merged[uid] = known
            elif self._removed.get(uid, 0) <= version:
                merged[uid] = document
        news = not was_complete or _versions(merged) != _versions(self._documents)
        self._documents = merged
        self._removed = {uid: removed for uid, removed in self._removed.items() if removed > version}
        self._listed = version
        return news


def _name(document: Document) -> tuple[str, str]:
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _versions(documents: dict[str, Document]) -> dict[str, int]:
    return {uid: version_of(document) for uid, document in documents.items()}
