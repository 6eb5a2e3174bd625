"""A service that follows its address: whatever fails, it comes back, and there are never two copies.

Three nodes may run the legacy server (`legacyserver`), with the hooks of `examples/hooks`. Each test commits
one fault of `servicefaults`, and `faultruns` says whether it ended as it must. That there were no two copies
is taken from outside (`copies`) and from the disk that the copies share; when the service is back, from the
first answer of another node. What is like another fault is left to `make faults`.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from lab import faultruns
from lab.legacy import running
from lab.servicefaults import FAULTS, Ending, ServiceFault
from lab.site import NAME, NAMESPACE, STOP_S, Site, manifests, site_on
from lab.stage import HTTP, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.cluster import Lab
    from lab.topology import Host


@pytest.fixture(scope="module")
def running_site(lab: Lab) -> Iterator[Site]:
    """Three nodes that may run the service, which one of them does."""
    site = site_on(lab)
    yield site
    site.watch.stop()


@pytest.fixture
def at_rest(running_site: Site) -> Site:
    """The service on one node, and every other node fit to take it over, whatever the test before did."""
    running_site.restore()
    running_site.forgive()
    running_site.rest()
    return running_site


DISTINCT = [each for each in FAULTS if not each.like]
MOVING = [each for each in DISTINCT if each.ending in {Ending.TOLD, Ending.LEASHED}]
STAYING = [each for each in DISTINCT if each.ending is Ending.STAYS]
ENDING_IT = [each for each in DISTINCT if each.ending is Ending.NOWHERE]


@pytest.mark.parametrize("fault", MOVING, ids=lambda fault: fault.name)
def test_the_service_comes_back_elsewhere_in_time_and_there_are_never_two(
    at_rest: Site, fault: ServiceFault
) -> None:
    assert faultruns.run(at_rest, fault).objection is None


@pytest.mark.parametrize("fault", STAYING, ids=lambda fault: fault.name)
def test_what_is_no_reason_to_move_leaves_the_copy_that_runs(at_rest: Site, fault: ServiceFault) -> None:
    assert faultruns.run(at_rest, fault).objection is None


@pytest.mark.parametrize("fault", ENDING_IT, ids=lambda fault: fault.name)
def test_what_nobody_can_know_to_be_gone_is_started_nowhere_until_somebody_does(
    at_rest: Site, fault: ServiceFault
) -> None:
    assert faultruns.run(at_rest, fault).objection is None


def test_a_rolling_restart_of_all_keepers_never_has_two(at_rest: Site) -> None:
    fault_ns = time.monotonic_ns()
    for node in at_rest.stage.lab.nodes.values():
        outcome = at_rest.stage.act(NAME, partial(restart, at_rest, node), reads=HTTP, patience_s=2 * STOP_S)
        assert outcome.overlaps == (), outcome
        at_rest.rest()
    assert at_rest.doubles(since_ns=fault_ns) == []


def restart(site: Site, node: Host) -> None:
    assert site.stage.agents.keepers[node.name].terminate(patience_s=30) == 0
    site.stage.agents.restart(node)


def test_there_and_back_again_by_plan_never_has_two(at_rest: Site) -> None:
    owner = at_rest.stage.owner(NAME)
    there = at_rest.standbys(owner)[0]
    fault_ns = time.monotonic_ns()
    for target in (there, owner):
        outcome = at_rest.stage.act(
            NAME, partial(at_rest.stage.move, NAME, target.name), reads=HTTP, expect=target.name
        )
        assert outcome.is_safe, outcome
    assert at_rest.doubles(since_ns=fault_ns) == []


def test_all_keepers_killed_at_once_come_back_to_one_copy(at_rest: Site) -> None:
    fault_ns = time.monotonic_ns()
    for keeper in at_rest.stage.agents.keepers.values():
        keeper.kill()
    at_rest.restore()
    at_rest.rest()
    assert at_rest.doubles(since_ns=fault_ns) == []


def test_no_keeper_starts_a_service_that_was_deleted(at_rest: Site) -> None:
    at_rest.stage.lab.plane.api.delete(VERSION, "ServiceFailover", NAME, namespace=NAMESPACE)
    at_rest.stage.wait_until("its end", lambda: running(at_rest.shared) == [])
    owner = at_rest.stage.owner(NAME)
    starts = {name: each.starts() for name, each in at_rest.installed.items()}
    at_rest.stage.act(NAME, at_rest.stage.agents.keepers[owner.name].kill)
    at_rest.stage.agents.restart(owner)
    assert {name: each.starts() for name, each in at_rest.installed.items()} == starts
    for manifest in manifests(list(at_rest.stage.lab.nodes)):
        at_rest.stage.lab.plane.api.apply(manifest)
    at_rest.rest()


def test_in_all_this_time_there_were_never_two(running_site: Site) -> None:
    assert running_site.doubles(since_ns=running_site.since_ns) == []
