"""Witnesses that die, come back and are replaced on real nodes: nothing that is held notices.

Four nodes, three of them witnesses; a witness that is silent for two seconds is replaced.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from lab import faults
from lab.stage import VERSION, Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.cluster import Lab
    from lab.topology import Host

NODES = 4
HEARTBEATS = 7946
ADDRESS = "192.0.2.50"
GRANT_MS = 500  # an owner that is silent for as long has let its lease run out


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """Four nodes and one VirtualIP, held and watched."""
    running = Stage(lab)
    running.start()
    domain = {"allowedAddresses": ["192.0.2.0/24"], "witnesses": {"replaceAfterSeconds": 2}}
    for kind, name, spec in (
        ("FailoverDomain", "default", domain),
        ("VirtualIP", "web", {"addresses": [f"{ADDRESS}/24"]}),
    ):
        lab.plane.api.apply({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    running.watch({"web": ADDRESS})
    running.rest("web")
    return running


@pytest.fixture
def at_rest(stage: Stage) -> Stage:
    """The stage with everything held, every node fit and no change of witnesses under way."""
    for node in stage.lab.nodes.values():
        stage.agents.restart(node)
    stage.agents.restart_controllers()
    stage.rest("web")
    stage.wait_until("witnesses that stay", lambda: is_settled(stage))
    return stage


def domain_of(stage: Stage) -> dict[str, Any]:
    found: dict[str, Any] = stage.lab.plane.api.get(VERSION, "FailoverDomain", "default")["status"]
    return found


def witnesses(stage: Stage) -> set[str]:
    return {witness["nodeName"] for witness in domain_of(stage)["witnesses"]}


def is_settled(stage: Stage) -> bool:
    conditions = {each["type"]: each["status"] for each in domain_of(stage)["conditions"]}
    return not domain_of(stage).get("formerWitnesses") and conditions["Ready"] == "True"


def victim(stage: Stage) -> Host:
    """A witness that does not own the address."""
    owner = stage.owner("web").name
    return stage.lab.nodes[min(witnesses(stage) - {owner})]


def has_passed(stage: Stage, epoch: int) -> bool:
    return bool(domain_of(stage)["epoch"] > epoch)


def has_replaced(stage: Stage, node: Host) -> bool:
    return node.name not in witnesses(stage) and is_settled(stage)


def undisturbed(stage: Stage, deed: Callable[[], None]) -> None:
    """Do something, and show that the owner kept the address throughout under the term that it had."""
    owner, term = stage.owner("web"), stage.status("web")["term"]
    outcome = stage.act("web", deed, expect=owner.name)
    assert outcome.is_safe, outcome
    assert outcome.touched == (), outcome
    assert outcome.outage_ms - outcome.hiccup_ms < GRANT_MS, outcome
    assert stage.status("web")["term"] == term


def test_a_dead_witness_is_replaced_and_its_return_changes_nothing(at_rest: Stage) -> None:
    dead, before = victim(at_rest), witnesses(at_rest)

    def replace() -> None:
        at_rest.agents.keepers[dead.name].kill()
        at_rest.wait_until("a new witness", partial(has_replaced, at_rest, dead))

    undisturbed(at_rest, replace)
    after = witnesses(at_rest)
    assert len(before - after) == len(after - before) == 1
    at_rest.agents.restart(dead)
    at_rest.rest("web")
    assert witnesses(at_rest) == after


def test_under_a_fifth_of_all_heartbeats_lost_a_replacement_disturbs_nothing(at_rest: Stage) -> None:
    dead = victim(at_rest)

    def replace() -> None:
        with at_rest.lab.faults.during(*faults.lossy(0.2, udp_port=HEARTBEATS)):
            at_rest.agents.keepers[dead.name].kill()
            at_rest.wait_until("a new witness", partial(has_replaced, at_rest, dead))

    undisturbed(at_rest, replace)


def test_after_a_replacement_the_owner_s_death_costs_no_more_than_before(at_rest: Stage) -> None:
    dead = victim(at_rest)
    at_rest.agents.keepers[dead.name].kill()
    at_rest.wait_until("a new witness", partial(has_replaced, at_rest, dead))
    owner = at_rest.owner("web")
    outcome = at_rest.act("web", at_rest.agents.keepers[owner.name].kill)
    assert outcome.is_safe, outcome


def test_controllers_that_are_killed_again_and_again_still_finish_a_change(at_rest: Stage) -> None:
    """One dies at every new epoch, as soon as it is seen, and the next one has to go on from there."""
    dead = victim(at_rest)

    def replace() -> None:
        at_rest.agents.keepers[dead.name].kill()
        epoch = domain_of(at_rest)["epoch"]
        for _ in range(2):
            at_rest.wait_until("the next epoch", partial(has_passed, at_rest, epoch))
            epoch = domain_of(at_rest)["epoch"]
            at_rest.agents.stop_controllers()
            at_rest.agents.restart_controllers()
        at_rest.wait_until("a new witness", partial(has_replaced, at_rest, dead), patience_s=60)

    undisturbed(at_rest, replace)


def test_an_owner_that_misses_the_api_server_learns_of_new_witnesses_from_its_peers(at_rest: Stage) -> None:
    """The owner is no witness: a majority of those must be able to tell the controller what they did."""
    [voteless] = at_rest.lab.nodes.keys() - witnesses(at_rest)
    if at_rest.owner("web").name != voteless:
        at_rest.move("web", voteless)
        at_rest.wait_until("the move", lambda: at_rest.owner("web").name == voteless)
    owner, dead = at_rest.owner("web"), victim(at_rest)
    losses = faults.without_api_server(owner.name)

    def replace() -> None:
        with at_rest.lab.faults.during(*losses):
            at_rest.agents.keepers[dead.name].kill()
            at_rest.wait_until("a new witness", partial(has_replaced, at_rest, dead), patience_s=60)

    undisturbed(at_rest, replace)


def test_a_node_that_slept_through_a_change_comes_back_and_takes_part(at_rest: Stage) -> None:
    sleeper = victim(at_rest)
    at_rest.power_off(sleeper)
    at_rest.wait_until("a new witness", partial(has_replaced, at_rest, sleeper))
    owner, term = at_rest.owner("web"), at_rest.status("web")["term"]
    at_rest.lab.plane.stop()  # it can hear of the new epochs from its peers only
    calm = at_rest.act("web", partial(at_rest.power_on, sleeper), expect=owner.name, lasts_s=3)
    at_rest.lab.plane.start()
    at_rest.agents.restart_controllers()
    assert calm.is_safe, calm
    at_rest.rest("web")
    assert (at_rest.owner("web"), at_rest.status("web")["term"]) == (owner, term)
