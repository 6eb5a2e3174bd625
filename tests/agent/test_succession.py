"""Who follows whom, read from a domain's plan."""

import pytest

from vipagent.effects import Order
from vipagent.succession import key_of, orders, rosters
from vipapi.configuration import Configuration, Member
from vipapi.nodeplan import CandidatePlan, DomainPlan, Timing, VirtualIPPlan

NODES = ("a", "b", "c")


def _vip(**changes: object) -> VirtualIPPlan:
    fields: dict[str, object] = {
        "uid": "6f0f6f9e-6d5b-4f6a-9a52-0c4f5d8c1b11",
        "name": "web",
        "addresses": ("192.0.2.10/24",),
        "candidates": tuple(CandidatePlan(node, 100) for node in NODES),
    }
    return VirtualIPPlan(**(fields | changes))  # type: ignore[arg-type]


def _domain(*vips: VirtualIPPlan) -> DomainPlan:
    members = tuple(Member(node, f"192.0.2.{number}") for number, node in enumerate(NODES, 1))
    return DomainPlan(
        name="default",
        uid="d",
        configuration=Configuration(1, "h"),
        port=7946,
        timing=Timing(100, 400, 500, 600),
        members=members,
        keys=(),
        virtual_ips=vips,
    )


@pytest.mark.parametrize(
    ("vip", "order"),
    [
        pytest.param(_vip(), ("a", "b", "c"), id="without an election: by name at equal priority"),
        pytest.param(_vip(owner="c", succession=("b",)), ("c", "b", "a"), id="owner, succession, the rest"),
        pytest.param(
            _vip(owner="x", succession=("b",)), ("b", "a", "c"), id="who is no candidate is no successor"
        ),
        pytest.param(
            _vip(candidates=(CandidatePlan("a", 50), CandidatePlan("b", 150))), ("b", "a"), id="by priority"
        ),
    ],
)
def test_the_published_order_comes_first(vip: VirtualIPPlan, order: tuple[str, ...]) -> None:
    assert rosters(_domain(vip))[key_of(vip)].order == order


def test_only_candidates_get_an_order() -> None:
    vip = _vip(candidates=(CandidatePlan("a", 100),), owner="a", based_on_term=3)
    assert orders(_domain(vip), "a") == {key_of(vip): Order(owner="a", based_on_term=3)}
    assert orders(_domain(vip), "b") == {}


def test_an_address_set_that_changes_is_another_one() -> None:
    assert key_of(_vip()) != key_of(_vip(addresses=("192.0.2.11/24",)))
    assert key_of(_vip()) != key_of(_vip(uid="another"))
    assert key_of(_vip(addresses=("192.0.2.1", "192.0.2.2"))) == key_of(
        _vip(addresses=("192.0.2.2", "192.0.2.1"))
    )
    assert key_of(_vip()) == key_of(_vip(addresses=("192.0.2.10",)))
    assert len(key_of(_vip())) == 16
