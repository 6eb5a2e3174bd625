"""The API server, etcd or the controllers are away, and the owner's node may die meanwhile."""

from __future__ import annotations

import time
from contextlib import contextmanager
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
    begin[what]()
    time.sleep(1)
    if owner_dies:
        stage.power_off(scene.owner)
    yield
    if owner_dies:
        stage.power_on(scene.owner)
    plane.thaw_apiserver()
    plane.start_etcd()
    plane.start_apiserver()
    stage.agents.restart_controllers()


@contextmanager
def one_controller_killed(scene: Scene) -> Iterator[None]:
    scene.chance.choice(scene.stage.agents.controllers).kill()
    yield
    scene.stage.agents.restart_controllers()
