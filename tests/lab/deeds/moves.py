"""Planned moves: one that is left alone, and those in which owner or target dies at a word."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from lab.addressscene import LOOKED_AT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.addressscene import Scene


@contextmanager
def moved(scene: Scene) -> Iterator[None]:
    target = scene.others[0]
    try:
        scene.stage.move(LOOKED_AT, target.name)
        yield
    finally:
        scene.stage.forget_moves()


@contextmanager
def killed_in_a_move(scene: Scene, *, word: str, is_owner: bool) -> Iterator[None]:
    """Owner or target of a planned move dies as soon as a word of it was heard."""
    stage = scene.stage
    target = scene.others[0]
    victim = scene.owner if is_owner else target
    process = scene.keeper(victim)
    key = stage.key(LOOKED_AT).hex()
    receiver = [target.name] if word == "granted" else []
    ambush = scene.outside("ambush", word, key, str(process.child.pid), *receiver, readiness="lying in wait")
    with ExitStack() as undoing:
        undoing.callback(stage.agents.restart, victim)
        undoing.callback(stage.forget_moves)
        stage.move(LOOKED_AT, target.name)
        ambush.wait_for_output("struck", patience_s=20)
        for ended in (ambush, process):
            ended.wait(20)
        yield
