"""Two nodes and no third keeper: the API server has the third vote, and without it `Hold` is what is left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from lab import faults
from lab.stage import VERSION, Stage

if TYPE_CHECKING:
    from lab.cluster import Lab
    from lab.topology import Host

NODES = 2
ADDRESSES = {"pair": "192.0.2.50", "held": "192.0.2.51"}
SLOWEST_MS = 5_000
GRANT_MS = 500  # an owner that is silent for as long has let its lease run out


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """Two nodes, one VirtualIP that is released without a quorum and one that is held."""
    running = Stage(lab)
    running.start()
    for kind, name, spec in (
        ("FailoverDomain", "default", {"allowedAddresses": ["192.0.2.0/24"]}),
        ("VirtualIP", "pair", {"addresses": ["192.0.2.50/24"]}),
        ("VirtualIP", "held", {"addresses": ["192.0.2.51/24"], "onQuorumLoss": "Hold"}),
    ):
        lab.plane.api.apply({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    running.watch(ADDRESSES)
    running.rest(*ADDRESSES)
    return running


@pytest.fixture
def at_rest(stage: Stage) -> Stage:
    """The stage with both addresses held and both nodes fit."""
    for node in stage.lab.nodes.values():
        stage.agents.restart(node)
    stage.agents.restart_controllers()
    stage.rest(*ADDRESSES)
    return stage


def domain_of(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = stage.lab.plane.api.get(VERSION, "FailoverDomain", "default")["status"]
    return found


def other(stage: Stage, node: Host) -> Host:
    return next(each for each in stage.lab.nodes.values() if each is not node)


def test_both_nodes_and_the_api_server_vote(at_rest: Stage) -> None:
    assert {witness["nodeName"] for witness in domain_of(at_rest)["witnesses"]} == set(at_rest.lab.nodes)
    assert domain_of(at_rest)["apiServerVotes"]


def test_the_survivor_has_the_address_within_five_seconds(at_rest: Stage) -> None:
    owner = at_rest.owner("pair")
    outcome = at_rest.act("pair", partial(at_rest.power_off, owner))
    at_rest.power_on(owner)
    assert outcome.is_safe, outcome
    assert outcome.outage_ms - outcome.hiccup_ms < SLOWEST_MS, outcome


def test_the_standby_s_death_costs_the_owner_nothing(at_rest: Stage) -> None:
    owner = at_rest.owner("pair")
    standby, term = other(at_rest, owner), at_rest.status("pair")["term"]
    calm = at_rest.act("pair", at_rest.agents.keepers[standby.name].kill, expect=owner.name, lasts_s=4)
    assert calm.is_safe, calm
    assert calm.touched == (), calm
    assert calm.outage_ms - calm.hiccup_ms < GRANT_MS, calm
    assert at_rest.status("pair")["term"] == term


def test_between_two_nodes_that_only_the_api_server_hears_one_goes_on(at_rest: Stage) -> None:
    losses = faults.apart(*at_rest.lab.nodes)
    split = at_rest.act(
        "pair",
        partial(at_rest.lab.faults.add, *losses),
        expect=at_rest.owner("pair").name,
        lasts_s=5,
        undo=partial(at_rest.lab.faults.remove, *losses),
        outside_the_promise={"held"},
    )
    assert split.overlaps == (), split
    at_rest.rest("pair")


def test_without_peer_and_api_server_an_address_is_released_and_one_that_may_be_is_held(
    at_rest: Stage,
) -> None:
    owner = at_rest.owner("held")
    standby = other(at_rest, owner)
    at_rest.lab.plane.stop()
    outcome = at_rest.act("held", at_rest.agents.keepers[owner.name].kill, lasts_s=4)
    at_rest.wait_until(
        "the other address to be let go", lambda: f"{ADDRESSES['pair']}/32" not in standby.addresses()
    )
    at_rest.agents.restart(owner)
    at_rest.lab.plane.start()
    assert outcome.is_safe, outcome
    assert outcome.after == standby.name
