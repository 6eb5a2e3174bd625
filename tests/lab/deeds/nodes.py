"""A node without power, a link without a carrier."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from lab.addressscene import Scene


@contextmanager
def power_off(scene: Scene) -> Iterator[None]:
    scene.stage.power_off(scene.owner)
    try:
        yield
    finally:
        scene.stage.power_on(scene.owner)


@contextmanager
def link_down(scene: Scene) -> Iterator[None]:
    scene.stage.lab.segment.cut(scene.owner)
    try:
        yield
    finally:
        scene.stage.lab.segment.mend(scene.owner)


@contextmanager
def link_flapping(scene: Scene) -> Iterator[None]:
    segment = scene.stage.lab.segment

    def flap(is_over: threading.Event) -> None:
        segment.cut(scene.owner)
        is_over.wait(scene.chance.uniform(0.05, 0.4))
        segment.mend(scene.owner)
        is_over.wait(scene.chance.uniform(0.05, 0.4))

    try:
        with scene.repeating(flap):
            yield
    finally:
        segment.mend(scene.owner)
