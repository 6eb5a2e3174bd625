"""The owner's machine is short of processor time or memory, or gets packets without end."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab import burdens

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.addressscene import Scene


@contextmanager
def hogged(scene: Scene, *, kind: str, many: int, arguments: Sequence[str] = ()) -> Iterator[None]:
    """Processes beside the owner's keeper use up what the machine has."""
    with scene.burdened(scene.owner, kind, *arguments, many=many):
        yield


@contextmanager
def flooded(scene: Scene) -> Iterator[None]:
    """The owner gets packets without end."""
    with scene.burdened(scene.stage.lab.client, burdens.PACKETS, scene.owner.ipv4):
        yield
