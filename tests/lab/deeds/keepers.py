"""Keepers that stop, stand still, run too seldom, die or are started again."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lab.addressscene import LOOKED_AT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from lab.addressscene import Scene


@contextmanager
def _frozen(scene: Scene, seconds: float) -> Iterator[None]:
    keeper = scene.keeper(scene.owner)
    keeper.freeze()
    timer = threading.Timer(seconds, keeper.thaw)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def frozen_briefly(scene: Scene) -> AbstractContextManager[None]:
    """Shorter than what is left of any lease."""
    return _frozen(scene, 0.2)


def frozen_about_a_lease(scene: Scene) -> AbstractContextManager[None]:
    """It comes back just before or just after another node has the address."""
    return _frozen(scene, scene.chance.uniform(0.3, 0.6))


def frozen_long(scene: Scene) -> AbstractContextManager[None]:
    return _frozen(scene, scene.chance.uniform(1, 5))


@contextmanager
def killed(scene: Scene, *, restart_s: float) -> Iterator[None]:
    """Kill -9, and start it again so much later."""
    scene.keeper(scene.owner).kill()
    time.sleep(restart_s)
    scene.stage.agents.restart(scene.owner)
    yield


@contextmanager
def killed_for_good(scene: Scene) -> Iterator[None]:
    scene.keeper(scene.owner).kill()
    try:
        yield
    finally:
        scene.stage.agents.restart(scene.owner)


@contextmanager
def stalled(scene: Scene, *, call: str) -> Iterator[None]:
    """The main thread is held within a system call for longer than a lease, and then does it."""
    process = scene.keeper(scene.owner).child.pid
    seconds = scene.chance.uniform(0.8, 3)
    holder = scene.outside("stall", str(process), call, str(seconds), readiness="stalled")
    try:
        yield
    finally:
        holder.wait(seconds + 20)


@contextmanager
def throttled(scene: Scene) -> Iterator[None]:
    """It runs for 40 ms of each 100."""
    keeper = scene.keeper(scene.owner)
    try:
        with scene.burdened(scene.owner, "throttle", str(keeper.child.pid), "60", "40"):
            yield
    finally:
        keeper.thaw()


@contextmanager
def restarted_by_turns(scene: Scene) -> Iterator[None]:
    """SIGTERM to each keeper, and the next one when this one can own addresses again."""
    for node in [scene.owner, *scene.others]:
        scene.keeper(node).terminate()
        scene.stage.agents.restart(node)
        scene.stage.rest(LOOKED_AT)
    yield


@contextmanager
def all_killed(scene: Scene) -> Iterator[None]:
    for keeper in scene.stage.agents.keepers.values():
        keeper.kill()
    for node in scene.stage.lab.nodes.values():
        scene.stage.agents.restart(node)
    yield
