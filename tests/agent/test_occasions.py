"""How often the keeper looks at everything when much changes, in an event loop whose clock is virtual."""

from __future__ import annotations

import asyncio

from agent.virtualtime import run
from vipagent.occasions import PAUSE_S, Occasions


class Looks:
    """When was looked."""

    def __init__(self) -> None:
        self.at_s: list[float] = []
        self.loop = asyncio.get_running_loop()
        self.occasions = Occasions(self.look)

    def look(self) -> None:
        self.at_s.append(self.loop.time())


def test_a_single_occasion_is_looked_into_in_the_next_turn() -> None:
    async def story() -> None:
        looks = Looks()
        for second in range(1, 4):
            await asyncio.sleep(1.0)
            since_s = looks.loop.time()
            looks.occasions.note()
            assert len(looks.at_s) == second - 1
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert looks.at_s[second - 1 :] == [since_s]

    run(story())


def test_all_that_arises_in_one_turn_is_looked_into_once() -> None:
    async def story() -> None:
        looks = Looks()
        for _ in range(100):
            looks.loop.call_soon(looks.occasions.note)
        await asyncio.sleep(1.0)
        assert len(looks.at_s) == 1

    run(story())


def test_what_arises_turn_by_turn_leaves_a_pause_between_two_looks_and_is_not_forgotten() -> None:
    async def story() -> None:
        looks = Looks()
        last_s = 0.0
        for _ in range(100):
            await asyncio.sleep(PAUSE_S / 10)
            looks.occasions.note()
            last_s = looks.loop.time()
        await asyncio.sleep(1.0)
        assert len(looks.at_s) <= 11
        assert last_s <= looks.at_s[-1] <= last_s + PAUSE_S

    run(story())


def test_nothing_is_looked_into_after_the_end() -> None:
    async def story() -> None:
        looks = Looks()
        looks.occasions.note()
        looks.occasions.close()
        looks.occasions.note()
        await asyncio.sleep(1.0)
        assert looks.at_s == []

    run(story())
