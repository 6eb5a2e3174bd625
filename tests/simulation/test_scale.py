"""Many addresses, and witnesses that change under loss: what must hold when nothing is small or quiet."""

from __future__ import annotations

import pytest

from simulation.clock import SECOND
from simulation.network import Quality
from simulation.registrar import Registrar
from simulation.world import World, domain_plan, virtual_ip, with_vips, witness_set
from vipagent.effects import MILLISECOND

_NODES = [f"n{number:02}" for number in range(100)]
_DYING = "n00"
_HELD = 35


def _candidates(number: int) -> list[str]:
    """Three for each address; the first 35 addresses are the dying node's, the others all the others'."""
    if number < _HELD:
        others = [_NODES[1 + number % 99], _NODES[1 + (number + 7) % 99]]
        return [_DYING, *others]
    return [_NODES[1 + (number + step) % 99] for step in (0, 31, 62)]


def test_the_last_of_a_dead_owners_35_of_1000_addresses_is_back_within_600_ms() -> None:
    world = World(seed=1, drift_ppm=100)
    for name in _NODES:
        world.add(name)
    addresses = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    vips = [
        virtual_ip(f"vip-{n}", (address,), _candidates(n), owner=_candidates(n)[0])
        for n, address in enumerate(addresses)
    ]
    world.publish(with_vips(domain_plan(_NODES, _NODES[40:45]), *vips))
    for machine in world.machines.values():
        machine.start()
    world.run_for(1500 * MILLISECOND)
    assert all(len(world.watch.owners(address)) == 1 for address in addresses)
    assert all(world.watch.owners(address) == [_DYING] for address in addresses[:_HELD])
    died_ns, opens = world.agenda.now_ns, len(world.watch.opens)
    world.machines[_DYING].power_off()
    world.run_for(SECOND)
    back_ms = sorted((at_ns - died_ns) / 1e6 for at_ns, _, _ in world.watch.opens[opens:])
    print(f"the first is back in {back_ms[0]:.0f} ms, the last in {back_ms[-1]:.0f} ms")  # noqa: T201
    assert len(back_ms) == _HELD, "nothing else moved, and everything once"
    assert back_ms[-1] <= 600


@pytest.mark.parametrize("seed", range(3))
def test_a_witness_is_replaced_under_20_percent_loss_and_nothing_moves(seed: int) -> None:
    world = World(seed=seed)
    for name in "abcd":
        world.add(name)
    world.network.quality = Quality(loss=0.2)
    domain = with_vips(domain_plan("abcd", "abc"), virtual_ip("web", ("192.0.2.1",), "ab"))
    world.publish(domain)
    for machine in world.machines.values():
        machine.start()
    world.run_for(3 * SECOND)
    before = world.watch.moves[:2]
    registrar = Registrar(world, domain.uid, spread_ns=200 * MILLISECOND)
    registrar.want(witness_set("abd"))
    world.run_for(20 * SECOND)
    assert registrar.is_settled
    assert world.watch.moves[:2] == before
