"""The other keepers, which grant the owner its lease, die."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from lab.addressscene import Scene


@contextmanager
def killed(scene: Scene, *, many: int, then_owner: bool = False) -> Iterator[None]:
    """So many keepers beside the owner die, and then, where it is asked for, the owner's node too."""
    with ExitStack() as undoing:
        for node in scene.others[:many]:
            undoing.callback(scene.stage.agents.restart, node)
            scene.keeper(node).kill()
        if then_owner:
            time.sleep(1)
            scene.stage.power_off(scene.owner)
            undoing.callback(scene.stage.power_on, scene.owner)
        yield


@contextmanager
def killed_in_a_loop(scene: Scene) -> Iterator[None]:
    """One after another dies and is started again at once, sooner than it votes again."""
    victims = scene.others

    def strike(is_over: threading.Event) -> None:
        node = scene.chance.choice(victims)
        scene.keeper(node).kill()
        scene.stage.agents.restart(node)
        is_over.wait(scene.chance.uniform(0.2, 1.5))

    with scene.repeating(strike):
        yield
