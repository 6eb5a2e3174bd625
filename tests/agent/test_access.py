"""Which address a keeper's heartbeats come from."""

from ipaddress import ip_address, ip_interface
from random import Random

import pytest

from agent.counted import Counted
from vipagent.access import Place, heartbeat_address, places
from vipagent.nodeview import BoundAddress, Link, LinkIndex, NodeView
from vipagent.seats import Seats
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.nodeplan import DomainPlan, Plan, Timing


def _bound(text: str, *, is_ours: bool = False) -> BoundAddress:
    return BoundAddress(ip_interface(text), is_ours)


def _link(name: str, index: int, *addresses: BoundAddress) -> Link:
    return Link(name, LinkIndex(index), "02:00:00:00:00:01", is_up=True, addresses=addresses)


VIEW = NodeView(
    links=(
        _link("lo", 1, _bound("127.0.0.1/8"), _bound("::1/128")),
        _link(
            "eth0",
            2,
            _bound("192.0.2.10/32", is_ours=True),
            _bound("fe80::1/64"),
            _bound("2001:db8::1/64"),
            _bound("192.0.2.1/24"),
        ),
        _link("eth1", 3, _bound("198.51.100.1/24")),
    )
)


@pytest.mark.parametrize(
    ("interface", "node_addresses", "known", "expected"),
    [
        pytest.param(None, ("192.0.2.1",), None, "192.0.2.1", id="the node's InternalIP"),
        pytest.param(None, ("203.0.113.9", "198.51.100.1"), None, "198.51.100.1", id="the first that it has"),
        pytest.param(None, ("203.0.113.9",), None, None, id="none that it has"),
        pytest.param(None, (), None, None, id="no Node object yet"),
        pytest.param(None, ("127.0.0.1",), None, None, id="loopback reaches nobody"),
        pytest.param(None, ("192.0.2.10",), None, None, id="a virtual address is no node's own"),
        pytest.param("eth1", ("192.0.2.1",), None, "198.51.100.1", id="the named interface"),
        pytest.param("eth0", (), None, "192.0.2.1", id="IPv4 before IPv6, ours and link-local left out"),
        pytest.param("eth9", ("192.0.2.1",), None, None, id="an interface that is not there"),
        pytest.param(None, ("192.0.2.1",), "2001:db8::1", "2001:db8::1", id="what the members know stays"),
        pytest.param(None, ("192.0.2.1",), "203.0.113.9", "192.0.2.1", id="unless the node lost it"),
        pytest.param("eth1", (), "192.0.2.1", "198.51.100.1", id="or another interface was named"),
    ],
)
def test_the_address_is(
    interface: str | None, node_addresses: tuple[str, ...], known: str | None, expected: str | None
) -> None:
    domain = DomainPlan(
        name="default",
        uid="d",
        port=7946,
        timing=Timing(100, 400, 500, 600),
        configuration=Configuration(),
        members=(Member("a", known),) if known else (),
        keys=(),
        heartbeat_interface=interface,
    )
    found = heartbeat_address(
        domain, domain.configuration, node="a", node_addresses=node_addresses, view=VIEW
    )
    assert found == (ip_address(expected) if expected else None)


def test_many_domains_do_not_go_through_all_of_a_node_s_addresses_each() -> None:
    links = Counted(VIEW.links)
    view = NodeView(links)
    for number in range(100):
        domain = DomainPlan(
            name=f"domain-{number}",
            uid=f"d{number}",
            port=7946,
            timing=Timing(100, 400, 500, 600),
            configuration=Configuration(),
            members=(),
            keys=(),
            heartbeat_interface="eth0" if number % 2 else None,
        )
        found = heartbeat_address(
            domain, domain.configuration, node="a", node_addresses=("192.0.2.1",), view=view
        )
        assert found == ip_address("192.0.2.1")
    assert links.passes < 10


def test_the_address_that_the_configuration_in_force_names_stays() -> None:
    domain = DomainPlan(
        name="default",
        uid="d",
        port=7946,
        timing=Timing(100, 400, 500, 600),
        configuration=Configuration(),
        members=(),
        keys=(),
    )
    in_force = Configuration(epoch=1, witnesses=WitnessSet((Member("a", "198.51.100.1"),)))
    found = heartbeat_address(domain, in_force, node="a", node_addresses=("192.0.2.1",), view=VIEW)
    assert found == ip_address("198.51.100.1")


def test_a_domain_without_an_address_has_no_place_for_its_heartbeats() -> None:
    here, elsewhere = (
        DomainPlan(
            name=uid,
            uid=uid,
            port=port,
            timing=Timing(100, 400, 500, 600),
            configuration=Configuration(),
            members=(),
            keys=(),
            heartbeat_interface=interface,
        )
        for uid, port, interface in (("here", 7946, "eth1"), ("elsewhere", 7947, "eth9"))
    )
    seats = Seats(node="a", machine=b"m", incarnation=1, random=Random(0))
    found = places(Plan("a", (here, elsewhere)), seats, VIEW)
    assert found == {"here": Place(ip_address("198.51.100.1"), 7946)}
