"""What the controller tells Prometheus: the leader of its objects, a standby of none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace
from prometheus_client import generate_latest

from vipapi.conditions import Condition
from vipapi.configuration import API_SERVER, Configuration, Member, WitnessSet
from vipapi.nodestatus import HoldingStatus
from vipapi.resources import (
    FailoverDomain,
    LastFailover,
    Node,
    ObjectMeta,
    ServiceFailover,
    ServiceFailoverSpec,
    VirtualIP,
    VirtualIPSpec,
    VirtualIPStatus,
)
from vipcontroller.metrics import OF_OBJECTS, Metrics
from vipcontroller.observation import View
from vipcontroller.vitals import DomainVitals, Vitals, vitals
from vipcontroller.world import World

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WEB = VirtualIP(
    metadata=ObjectMeta(name="web", uid="web-uid"),
    spec=VirtualIPSpec(addresses=("192.0.2.10/24",)),
    status=VirtualIPStatus(
        owner="a",
        term=7,
        conditions=(Condition("Ready", "True", "Held", "", NOW),),
        last_failover=LastFailover(
            to="a", reason="OwnerLost", term=7, started_at=NOW, duration_milliseconds=450
        ),
    ),
)
NEW = VirtualIP(
    metadata=ObjectMeta(name="new", uid="new-uid"), spec=VirtualIPSpec(addresses=("192.0.2.11/24",))
)
APP = ServiceFailover(
    metadata=ObjectMeta(name="app", namespace="prod"), spec=ServiceFailoverSpec(mode="Cluster", services=())
)
VITALS = Vitals((DomainVitals("default", 3, 2, 0, {"a": True, "b": False}),), {"web": 1, "new": 0})


def told(metrics: Metrics, prefix: str = "vipkeeper_") -> set[str]:
    text = generate_latest(metrics.registry).decode()
    return {line for line in text.splitlines() if line.startswith(prefix)}


def leading() -> Metrics:
    metrics = Metrics()
    metrics.led(is_leader=True)
    metrics.show([WEB, NEW], [APP], VITALS)
    return metrics


def test_the_leader_tells_of_every_object() -> None:
    assert told(leading(), "vipkeeper_virtualip") == {
        'vipkeeper_virtualip_ready{virtualip="web"} 1.0',
        'vipkeeper_virtualip_ready{virtualip="new"} 0.0',
        'vipkeeper_virtualip_redundant{virtualip="web"} 0.0',
        'vipkeeper_virtualip_redundant{virtualip="new"} 0.0',
        'vipkeeper_virtualip_owner{node="a",virtualip="web"} 1.0',
        'vipkeeper_virtualip_holders{virtualip="web"} 1.0',
        'vipkeeper_virtualip_holders{virtualip="new"} 0.0',
        'vipkeeper_virtualip_observed_term{virtualip="web"} 7.0',
        'vipkeeper_virtualip_observed_term{virtualip="new"} 0.0',
        'vipkeeper_virtualip_last_failover_duration_seconds{virtualip="web"} 0.45',
    }
    assert told(leading(), "vipkeeper_servicefailover") == {
        'vipkeeper_servicefailover_ready{namespace="prod",servicefailover="app"} 0.0',
        'vipkeeper_servicefailover_degraded{namespace="prod",servicefailover="app"} 0.0',
    }
    assert told(leading(), "vipkeeper_domain") == {
        'vipkeeper_domain_witnesses{domain="default"} 3.0',
        'vipkeeper_domain_heard_witnesses{domain="default"} 2.0',
        'vipkeeper_domain_spare_witnesses{domain="default"} 0.0',
    }
    assert told(leading(), "vipkeeper_node_agent") == {
        'vipkeeper_node_agent_heard{domain="default",node="a"} 1.0',
        'vipkeeper_node_agent_heard{domain="default",node="b"} 0.0',
    }


def test_a_standby_tells_of_no_object_also_when_it_has_led() -> None:
    metrics = leading()
    metrics.led(is_leader=False)
    for silent in (metrics, Metrics()):
        text = told(silent)
        assert not {line for line in text if line.startswith(tuple(OF_OBJECTS))}
        assert "vipkeeper_controller_leader 0.0" in text


def test_an_object_that_is_gone_is_told_of_no_more() -> None:
    metrics = leading()
    metrics.show([NEW], [], Vitals())
    assert not {line for line in told(metrics) if '"web"' in line or '"app"' in line}


def view(configuration: Configuration, **hearers: str) -> View:
    by_node = {(API_SERVER if name == "api" else name): frozenset(who) for name, who in hearers.items()}
    alive = frozenset(by_node) - {API_SERVER}
    return View(alive=alive, hearers=by_node, configuration=configuration)


def configured(names: str, *, former: str = "") -> Configuration:
    def chosen(names: str) -> WitnessSet:
        nodes = names.rstrip("+")
        members = tuple(Member(node, f"192.0.2.{ord(node)}") for node in nodes)
        return WitnessSet(members, has_api_vote=names.endswith("+"))

    return Configuration(epoch=1, witnesses=chosen(names), former=chosen(former) if former else None)


@pytest.mark.parametrize(
    ("found", "witnesses", "heard", "spare"),
    [
        pytest.param(view(configured("abc"), a="abc", b="abc", c="abc"), 3, 3, 1, id="all-of-three"),
        pytest.param(view(configured("abc"), a="ab", b="ab"), 3, 2, 0, id="two-of-three"),
        pytest.param(view(configured("abc"), a="a"), 3, 0, -2, id="one-of-three-is-heard-by-no-majority"),
        pytest.param(view(configured("ab+"), a="ab", b="ab"), 3, 3, 1, id="the-idle-vote-of-the-api-server"),
        pytest.param(view(configured("a"), a="a"), 1, 1, 0, id="a-lone-witness"),
        pytest.param(
            view(configured("bcd", former="abc"), b="bcd", c="bcd", d="bcd"), 4, 3, 0, id="while-they-change"
        ),
        pytest.param(View(alive=frozenset("ab")), 0, 0, None, id="none-chosen-yet"),
    ],
)
def test_spare_witnesses_are_those_that_may_still_fall_silent(
    found: View, witnesses: int, heard: int, spare: int | None
) -> None:
    domain = FailoverDomain(metadata=ObjectMeta(name="default"))
    (said,) = vitals(World(domains={"default": domain}), {"default": found}, {}).domains
    assert (said.witnesses, said.heard, said.spare) == (witnesses, heard, spare)


def test_an_agent_that_no_majority_hears_is_silent_and_its_word_is_not_counted() -> None:
    nodes = {name: Node(metadata=ObjectMeta(name=name)) for name in "abc"}
    world = World(
        domains={"default": FailoverDomain(metadata=ObjectMeta(name="default"))},
        virtual_ips=(WEB, replace(NEW, spec=replace(NEW.spec, domain="elsewhere"))),
        nodes=nodes,
    )
    owner, standby = (
        HoldingStatus(uid="web-uid", name="web", state=state, fitness="Fit") for state in ("Owner", "Standby")
    )
    views = {"default": view(configured("abc"), a="ab", b="ab")}

    def counted(**states: HoldingStatus) -> int:
        return vitals(world, views, {"web-uid": states}).holders["web"]

    assert vitals(world, views, {}).domains[0].agents == {"a": True, "b": True, "c": False}
    assert counted(a=owner, b=standby, c=standby) == 1
    assert counted(a=owner, b=owner, c=standby) == 2
    assert counted(a=owner, b=standby, c=owner) == 1
    assert vitals(world, views, {"new-uid": {"a": owner}}).holders == {"web": 0, "new": 0}
