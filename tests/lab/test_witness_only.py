"""Two nodes that may hold an address and a third that only votes: a domain that survives either's death."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from lab.stage import REST_S, VERSION, Stage

if TYPE_CHECKING:
    from lab.cluster import Lab

VOTER = "node-c"


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """Three keepers, the last of them witness only, and one VirtualIP with no candidates named."""
    running = Stage(lab)
    running.start(witness_only={VOTER})
    for kind, name, spec in (
        ("FailoverDomain", "default", {"allowedAddresses": ["192.0.2.0/24"]}),
        ("VirtualIP", "pair", {"addresses": ["192.0.2.70/24"]}),
    ):
        lab.plane.api.apply({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    running.watch({"pair": "192.0.2.70"})
    running.wait_until("both candidates", partial(is_redundant, running), patience_s=REST_S)
    return running


def is_redundant(stage: Stage) -> bool:
    conditions = {each["type"]: each["status"] for each in stage.status("pair").get("conditions", [])}
    return conditions.get("Ready") == conditions.get("Redundant") == "True"


def test_the_voter_is_a_witness_and_no_candidate(stage: Stage) -> None:
    domain = stage.lab.plane.api.get(VERSION, "FailoverDomain", "default")
    assert VOTER in {witness["nodeName"] for witness in domain["status"]["witnesses"]}
    listed = {each["nodeName"]: each for each in stage.status("pair")["candidates"]}
    assert not listed[VOTER]["eligible"]
    assert stage.owner("pair").name != VOTER


def test_either_node_takes_over_from_the_other(stage: Stage) -> None:
    for _ in range(2):
        owner = stage.owner("pair")
        outcome = stage.act("pair", stage.agents.keepers[owner.name].kill)
        assert outcome.is_safe, outcome
        assert outcome.after != VOTER
        stage.agents.restart(owner)
        stage.wait_until("both candidates", partial(is_redundant, stage), patience_s=REST_S)


def test_without_the_api_server_either_node_still_takes_over_from_the_other(stage: Stage) -> None:
    stage.wait_until("both candidates", partial(is_redundant, stage), patience_s=REST_S)
    owner = stage.owner("pair")
    stage.lab.plane.stop()
    outcome = stage.act("pair", partial(stage.power_off, owner))
    stage.power_on(owner)
    stage.lab.plane.start()
    stage.agents.restart_controllers()
    assert outcome.is_safe, outcome
