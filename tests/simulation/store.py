"""An API server in a dictionary: documents with resource versions, compare-and-swap, and lagging mirrors.

Documents are replaced, never changed, so a snapshot of everything is a copy of one dictionary. What a
client sees is its `Mirror`: late, at times stuck, and never older than it was, but for an etcd that was
restored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vipagent.effects import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulation.world import World

Document = dict[str, Any]
Place = tuple[str, str]
CREATED: Final = "2026-01-01T00:00:00Z"


class Refused(Exception):  # noqa: N818 - it reads as what happened
    """A conflict, a missing object, or an API server that is away."""


class Store:
    """All objects, by kind and name."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.documents: dict[Place, Document] = {}
        self.is_away = False
        self.mirrors: list[Mirror] = []
        self._version = 0
        self._born = 0

    def listed(self, kind: str) -> list[Document]:
        return [document for (each, _), document in sorted(self.documents.items()) if each == kind]

    def create(self, kind: str, name: str, **parts: Any) -> None:
        if (kind, name) in self.documents:
            raise Refused(f"{kind} {name} exists")
        self._born += 1
        labels = parts.pop("labels", {})
        metadata = {"name": name, "uid": f"uid {self._born} of {name}", "creationTimestamp": CREATED}
        self._put(kind, name, {"metadata": {**metadata, "generation": 1, "labels": labels}, **parts})

    def edit(self, kind: str, name: str, **parts: Any) -> None:
        """A user changes the spec, or whatever stands at the top."""
        document = self._known(kind, name)
        generation = document["metadata"]["generation"] + 1
        self._put(
            kind, name, {**document, **parts, "metadata": {**document["metadata"], "generation": generation}}
        )

    def delete(self, kind: str, name: str) -> None:
        document = self.documents.get((kind, name))
        if document is None or "deletionTimestamp" in document["metadata"]:
            return
        metadata = {**document["metadata"], "deletionTimestamp": CREATED}
        self._put(kind, name, {**document, "metadata": metadata})

    def write_status(self, kind: str, name: str, status: Document, version: str | None = None) -> None:
        document = self._known(kind, name, version)
        if document.get("status") != status:
            self._put(kind, name, {**document, "status": status})

    def write_finalizers(self, kind: str, name: str, finalizers: tuple[str, ...], version: str) -> None:
        document = self._known(kind, name, version)
        metadata = {**document["metadata"], "finalizers": list(finalizers)}
        self._put(kind, name, {**document, "metadata": metadata})

    def restore(self, documents: dict[Place, Document]) -> None:
        """Etcd is what it was then; versions go on, as after `--bump-revision`."""
        self.documents = {}
        for (kind, name), document in documents.items():
            self._put(kind, name, document)

    def _known(self, kind: str, name: str, version: str | None = None) -> Document:
        document = self.documents.get((kind, name))
        if self.is_away:
            raise Refused("the API server is away")
        if document is None:
            raise Refused(f"there is no {kind} {name}")
        if version is not None and document["metadata"]["resourceVersion"] != version:
            raise Refused(f"{kind} {name} has moved on")
        return document

    def _put(self, kind: str, name: str, document: Document) -> None:
        self._version += 1
        metadata = {**document["metadata"], "resourceVersion": str(self._version)}
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            self.documents.pop((kind, name), None)
            self.world.watch.note(f"{kind} {name} is gone")
        else:
            self.documents[kind, name] = {**document, "metadata": metadata}
        for mirror in self.mirrors:
            mirror.hear_of(kind)


class Mirror:
    """What one client has seen of some kinds; `on_news` is called whenever that changes."""

    def __init__(self, store: Store, kinds: tuple[str, ...], on_news: Callable[[], None]) -> None:
        self.documents: dict[Place, Document] = {}
        self.is_cut = False
        self.slowest_ns = 30 * MILLISECOND
        self._store = store
        self._kinds = kinds
        self._on_news = on_news
        self._is_due = False
        store.mirrors.append(self)
        self.hear_of(kinds[0])

    def listed(self, kind: str) -> list[Document]:
        return [document for (each, _), document in sorted(self.documents.items()) if each == kind]

    def hear_of(self, kind: str) -> None:
        if kind in self._kinds and not self._is_due:
            self._is_due = True
            self._look_later()

    def _look_later(self) -> None:
        world = self._store.world
        world.agenda.after(int(world.random.random() * self.slowest_ns) + 1, self._look)

    def _look(self) -> None:
        if self.is_cut or self._store.is_away:
            self._store.world.agenda.after(200 * MILLISECOND, self._look_later)
            return
        self._is_due = False
        self.documents = {
            place: document for place, document in self._store.documents.items() if place[0] in self._kinds
        }
        self._on_news()
