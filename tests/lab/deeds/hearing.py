"""Who hears whom: frames and datagrams of the lease that are lost, late, doubled, out of order or old."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from lab import faults, weather
from lab.faults import Loss

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from lab.addressscene import Scene

HEARTBEATS: Final = 7946


@contextmanager
def _lost(scene: Scene, *losses: Loss) -> Iterator[None]:
    with scene.stage.lab.faults.during(*losses):
        yield


def lease_cut(scene: Scene) -> AbstractContextManager[None]:
    """The owner neither hears the others' datagrams nor is heard; clients reach it as ever."""
    name = scene.owner.name
    both = (Loss(sender=name, udp_port=HEARTBEATS), Loss(receiver=name, udp_port=HEARTBEATS))
    return _lost(scene, *both)


def lease_deaf(scene: Scene) -> AbstractContextManager[None]:
    """The witnesses hear the owner and go on granting; it hears no grant."""
    return _lost(scene, Loss(receiver=scene.owner.name, udp_port=HEARTBEATS))


def lease_dumb(scene: Scene) -> AbstractContextManager[None]:
    return _lost(scene, Loss(sender=scene.owner.name, udp_port=HEARTBEATS))


def cut_from(scene: Scene, *, peers: int) -> AbstractContextManager[None]:
    """The owner and so many others, which are witnesses and candidates, lose each other's frames."""
    names = [node.name for node in scene.others[:peers]]
    return _lost(scene, *faults.apart(scene.owner.name, *names))


def silenced(scene: Scene) -> AbstractContextManager[None]:
    """Everything from and to the owner is lost, and it keeps its carrier."""
    return _lost(scene, *faults.silence(scene.owner.name))


def lossy(scene: Scene, *, rate: float) -> AbstractContextManager[None]:
    return _lost(scene, *faults.lossy(rate, udp_port=HEARTBEATS))


@contextmanager
def weathered(scene: Scene, *, kind: str) -> Iterator[None]:
    """Something that `weather` does to all datagrams of the lease."""
    lab = scene.stage.lab
    ports = [f"{node.name}={node.mac}" for node in lab.nodes.values()]
    seed = str(scene.chance.getrandbits(32))
    process = scene.outside("weather", kind, seed, *ports, readiness="weather")
    losses = faults.lossy(1, udp_port=HEARTBEATS) if kind in weather.REPLACING else ()
    try:
        with lab.faults.during(*losses):
            yield
    finally:
        process.kill()
