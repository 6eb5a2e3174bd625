"""`onQuorumLoss: Hold` is outside the promise: two that are cut off from each other may both hold.

What it does promise: the address is never away for longer than a lease lasts, and when they hear each other
again, one of them has it within a few heartbeats. And while both hear the API server, as a witness that
answers within 200 ms, one of them has it.
"""

from __future__ import annotations

import pytest

from simulation.clock import SECOND
from simulation.voting import Office, Voter
from simulation.world import World, domain_plan, virtual_ip, with_vips
from vipagent.effects import MILLISECOND

_HEARTBEATS = 3
_PLACE = "192.0.2.1"


@pytest.mark.parametrize("profile", ["Fast", "Balanced", "Relaxed"])
@pytest.mark.parametrize("seed", range(5))
def test_two_that_held_alone_are_one_again_within_heartbeats(profile: str, seed: int) -> None:
    world = World(seed=seed)
    world.watch.is_strict = world.watch.is_order_kept = False
    for name in "ab":
        world.add(name)
    domain = domain_plan("ab", "ab", profile=profile)
    world.publish(with_vips(domain, virtual_ip("web", (_PLACE,), "ab", is_held_alone=True)))
    for machine in world.machines.values():
        machine.start()
    world.run_for(4 * SECOND + world.random.randrange(SECOND))
    assert len(world.watch.owners(_PLACE)) == 1
    world.network.isolate("a")
    world.run_for(4 * SECOND)
    assert world.watch.owners(_PLACE) == ["a", "b"]
    world.network.cut.clear()
    world.run_for(_HEARTBEATS * domain.timing.heartbeat_ms * MILLISECOND)
    assert len(world.watch.owners(_PLACE)) == 1
    before = world.watch.moves
    world.run_for(5 * SECOND)
    assert world.watch.moves[:2] == before[:2]
    assert len(world.watch.owners(_PLACE)) == 1


@pytest.mark.parametrize("profile", ["Fast", "Balanced", "Relaxed"])
@pytest.mark.parametrize("slowest_ms", [20, 200])
@pytest.mark.parametrize("seed", range(5))
def test_of_two_that_hear_only_the_api_server_one_holds(profile: str, slowest_ms: int, seed: int) -> None:
    world = World(seed=seed)
    office = Office(world)
    for name in "ab":
        Voter(world.add(name), office)
    domain = domain_plan("ab", "ab", profile=profile, has_api_vote=True)
    world.publish(with_vips(domain, virtual_ip("web", (_PLACE,), "ab", is_held_alone=True)))
    for machine in world.machines.values():
        machine.start()
    world.run_for(4 * SECOND + world.random.randrange(SECOND))
    (owner,) = world.watch.owners(_PLACE)
    office.slowest_ns = slowest_ms * MILLISECOND // 2
    world.network.isolate("a")
    world.run_for(10 * SECOND)
    assert world.watch.owners(_PLACE) == [owner]
    assert world.watch.worst_overlap_ns == 0
