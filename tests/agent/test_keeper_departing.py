"""A keeper that ends although services of it may run only once: it goes when the next owner has its word."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agent.onekeeper import (
    followed,
    is_alive,
    network,  # noqa: F401 - a fixture that all tests have
    running,
    service,
    until,
)
from agent.services import STORY_S
from agent.test_keeper_observed import Peer, peer
from vipagent.effects import Effect, Send, Told
from vipagent.messages import Inquire, Vacant

if TYPE_CHECKING:
    import socket
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("importable")


class NextOwner(Peer):
    """Node b, which keeps what it is told about services."""

    def __init__(self, wire: socket.socket) -> None:
        self.told: list[Vacant] = []
        super().__init__(wire)

    def perform(self, effects: list[Effect]) -> None:
        self.told += [effect.answer for effect in effects if isinstance(effect, Told)]
        super().perform(effects)


def test_who_takes_over_from_a_keeper_that_ends_is_told_that_nothing_runs_there(daemons: Path) -> None:
    db = service("db", is_singleton=True)

    async def ask(other: NextOwner) -> None:
        await until(lambda: other.owns)
        assert not is_alive(daemons, "db")
        while not other.told:
            other.perform([Send("a", Inquire(9, 1, (db.id,)))])
            await asyncio.sleep(0.1)

    async def tell() -> None:
        async with asyncio.timeout(STORY_S), peer(NextOwner) as other:
            async with running(daemons) as courier:
                courier.plan(followed(db))
                await courier.until(lambda: courier.service_states() == {"db": "Active"})
                other.stand_by()
                asking = asyncio.create_task(ask(other))
            await asking
            assert other.told[-1].vacant == (db.id,)

    asyncio.run(tell())
