"""The API server, etcd or the controllers are away, and the owner's node may die meanwhile."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.addressscene import Scene


@contextmanager
def away(scene: Scene, *, what: str, owner_dies: bool = False) -> Iterator[None]:
    """The API server, etcd or the controllers are away, and the owner's node dies meanwhile, if asked for."""
    stage = scene.stage
    plane = stage.lab.plane
    begin = {
        "both": plane.stop,
        "etcd": plane.stop_etcd,
        "frozen": plane.freeze_apiserver,
        "controllers": stage.agents.stop_controllers,
    }
    with ExitStack() as undoing:
        for undo in (
            stage.agents.restart_controllers,
            plane.start_apiserver,
            plane.start_etcd,
            plane.thaw_apiserver,
        ):
            undoing.callback(undo)  # the last one first
        begin[what]()
        time.sleep(1)
        if owner_dies:
            stage.power_off(scene.owner)
            undoing.callback(stage.power_on, scene.owner)
        yield


@contextmanager
def one_controller_killed(scene: Scene) -> Iterator[None]:
    scene.chance.choice(scene.stage.agents.controllers).kill()
    try:
        yield
    finally:
        scene.stage.agents.restart_controllers()
