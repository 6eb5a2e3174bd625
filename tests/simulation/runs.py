"""Every mix by name, and the run that it stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from simulation.cluster import Cluster
from simulation.mixes import MIXES, SERVICES, STACKS
from simulation.peace import Peace
from simulation.servicing import Servicing
from simulation.torment import Torment

if TYPE_CHECKING:
    from simulation.world import World

PEACEFUL: Final = ("deaths", "quiet", "replacing")
NAMES: Final = (*MIXES, *SERVICES, *STACKS, *PEACEFUL)


class Run(Protocol):
    """One seed of one mix; `run` raises `Broken`."""

    world: World
    profile: str

    def run(self) -> None: ...


def make(mix: str, seed: int, **more: Any) -> Run:
    if mix in PEACEFUL:
        return Peace(mix, seed, **more)
    if mix in SERVICES:
        return Servicing(mix, seed, **more)
    if mix in STACKS:
        return Cluster(mix, seed, **more)
    return Torment(mix, seed, **more)


def replay(mix: str, seed: int) -> str:
    """The command that shows a run again, line by line."""
    return f"PYTHONPATH=controller:node-agent:tests python -m simulation {mix} {seed}"
