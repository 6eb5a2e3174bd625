"""A service that follows its address: whatever fails, it comes back, and there are never two copies.

Three nodes may run the legacy server (`legacyserver`), with the hooks of `examples/hooks`. Each test commits
one fault of `servicefaults`. That there were no two copies is taken from outside (`copies`) and from the
disk that the copies share; when the service is back, from the first answer of another node. The time that
it may take follows from what the service's own settings allow: how long it may take to stop, or how long
a leash may take that nobody hears of.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from lab import copies, legacy
from lab.analysis import MILLISECOND
from lab.copies import Watch
from lab.legacy import Legacy, running
from lab.measuring import LAG_NS
from lab.servicefaults import FAULTS, Ending, ServiceFault, Site
from lab.stage import HTTP, VERSION, Stage
from vipagent.workload import leash_ns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.cluster import Lab
    from lab.topology import Host

NAME = "billing"
NAMESPACE = "default"
ADDRESS = "192.0.2.60"
START_S, STOP_S = 5, 3
# Three of the page's checks, or a lease and the witnesses' grant, whichever is longer.
NOTICED_MS = 1_100
# Killing what has not ended in time and asking its status hook, and the machine's own hiccups.
KILLED_MS = 2_000
# From "start it" to the first answer: two interpreters and one look at the port.
STARTED_MS = 1_500
LEASH_MS = leash_ns(STOP_S * 1000) / MILLISECOND
PAGE = {
    "name": "page",
    "httpGet": {"port": legacy.PORT, "path": "/healthz"},
    "periodMilliseconds": 200,
    "timeoutMilliseconds": 200,
    "failureThreshold": 2,
    "successThreshold": 2,
}
WORKLOAD = {
    "exec": {
        "start": {"hook": legacy.START},
        "stop": {"hook": legacy.STOP},
        "status": {"hook": legacy.STATUS},
    }
}


def manifests(nodes: list[str]) -> Iterator[dict[str, Any]]:
    service = {
        "name": "app",
        "virtualIPRef": {"name": NAME},
        "primary": nodes[0],
        "standbys": nodes[1:],
        "workload": WORKLOAD,
        "startTimeoutSeconds": START_S,
        "stopTimeoutSeconds": STOP_S,
    }
    failover = {"mode": "ActiveStandby", "services": [service], "healthChecks": [PAGE]}
    address = {"addresses": [f"{ADDRESS}/24"], "allowedNamespaces": {"names": [NAMESPACE]}}
    for kind, name, spec in (
        ("FailoverDomain", "default", {"allowedAddresses": ["192.0.2.0/24"]}),
        ("VirtualIP", NAME, address),
        ("ServiceFailover", NAME, failover),
    ):
        metadata = {"name": name, **({"namespace": NAMESPACE} if kind == "ServiceFailover" else {})}
        yield {"apiVersion": VERSION, "kind": kind, "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def running_site(lab: Lab) -> Iterator[Site]:
    """Three nodes that may run the service, which one of them does."""
    stage = Stage(lab)
    installed = {name: Legacy(node, lab.folder / "shared") for name, node in lab.nodes.items()}
    for each in installed.values():
        each.install()
    watch = Watch(folder=lab.folder / "copies", port=legacy.PORT)
    watch.watch(*lab.nodes.values())
    stage.start()
    for manifest in manifests(list(lab.nodes)):
        lab.plane.api.apply(manifest)
    stage.watch({NAME: ADDRESS}, urls={f"{NAME}-{HTTP}": f"http://{ADDRESS}:{legacy.PORT}/"})
    site = Site(stage=stage, virtual_ip=NAME, installed=installed, watch=watch)
    rest(site)
    yield site
    watch.stop()


@pytest.fixture
def at_rest(running_site: Site) -> Site:
    """The service on one node, and every other node fit to take it over, whatever the test before did."""
    running_site.restore()
    forgive(running_site)
    rest(running_site)
    return running_site


def forgive(site: Site) -> None:
    """Change the service's settings a little: what failed before counts no more, as after a repair."""
    api = site.stage.lab.plane.api
    found = api.get(VERSION, "ServiceFailover", NAME, namespace=NAMESPACE)
    [service] = found["spec"]["services"]
    changed_s = START_S + 1 if service["startTimeoutSeconds"] == START_S else START_S
    changed = {"services": [{**service, "startTimeoutSeconds": changed_s}]}
    api.merge(VERSION, "ServiceFailover", NAME, {"spec": changed}, namespace=NAMESPACE)


def rest(site: Site) -> None:
    site.stage.rest(NAME)
    site.stage.wait_until("the service on its owner", partial(is_on_its_owner, site))


def is_on_its_owner(site: Site) -> bool:
    owner = site.stage.owner(NAME)
    now_ns = time.monotonic_ns()
    recent = site.watch.attempts(since_ns=now_ns - LAG_NS)
    return running(site.shared) == [f"{owner.name}.{site.installed[owner.name].starts()}"] and any(
        each.node == owner.name and each.answered_ns for each in recent
    )


def budget_ms(fault: ServiceFault) -> float:
    """Return how long the service may be away."""
    gone_ms = LEASH_MS if fault.ending is Ending.LEASHED else STOP_S * 1000
    futile_ms = fault.futile_starts * (START_S + 1 + STOP_S) * 1000
    return NOTICED_MS + gone_ms + KILLED_MS + futile_ms + STARTED_MS


def assert_no_two(site: Site, *, since_ns: int) -> None:
    attempts = site.watch.attempts(since_ns=since_ns - LAG_NS)
    assert copies.overlaps(attempts) == []
    assert copies.collisions_in(site.shared, since_ns=since_ns) == []


MOVING = [each for each in FAULTS if each.ending in {Ending.TOLD, Ending.LEASHED}]
STAYING = [each for each in FAULTS if each.ending is Ending.STAYS]
ENDING_IT = [each for each in FAULTS if each.ending is Ending.NOWHERE]


@pytest.mark.parametrize("fault", MOVING, ids=lambda fault: fault.name)
def test_the_service_comes_back_elsewhere_in_time_and_there_are_never_two(
    at_rest: Site, fault: ServiceFault
) -> None:
    owner = at_rest.stage.owner(NAME)
    limit_ms = budget_ms(fault)
    fault_ns = time.monotonic_ns()
    outcome = at_rest.stage.act(
        NAME,
        partial(fault.commit, at_rest, owner),
        reads=HTTP,
        lasts_s=fault.lasts_s,
        undo=partial(fault.undo, at_rest, owner),
        patience_s=2 * limit_ms / 1000,
    )
    assert_no_two(at_rest, since_ns=fault_ns)
    assert outcome.is_safe, outcome
    attempts = at_rest.watch.attempts(since_ns=fault_ns)
    first = copies.first_elsewhere(attempts, owner.name, since_ns=fault_ns)
    assert first is not None
    assert first.answered_ns is not None
    took_ms = (first.answered_ns - fault_ns) / MILLISECOND
    blind_ms = copies.longest_blindness_ms(attempts, since_ns=fault_ns, until_ns=first.answered_ns)
    assert took_ms < limit_ms, (
        f"{took_ms:.0f} of {limit_ms:.0f} ms, not asked for {blind_ms:.0f} ms: {outcome}"
    )


@pytest.mark.parametrize("fault", STAYING, ids=lambda fault: fault.name)
def test_what_is_no_reason_to_move_leaves_the_copy_that_runs(at_rest: Site, fault: ServiceFault) -> None:
    owner = at_rest.stage.owner(NAME)
    copy = running(at_rest.shared)
    fault_ns = time.monotonic_ns()
    outcome = at_rest.stage.act(
        NAME,
        partial(fault.commit, at_rest, owner),
        reads=HTTP,
        expect=owner.name,
        lasts_s=fault.lasts_s,
        undo=partial(fault.undo, at_rest, owner),
    )
    assert_no_two(at_rest, since_ns=fault_ns)
    assert (outcome.after, outcome.overlaps, running(at_rest.shared)) == (owner.name, (), copy)


@pytest.mark.parametrize("fault", ENDING_IT, ids=lambda fault: fault.name)
def test_what_nobody_can_know_to_be_gone_is_started_nowhere_until_somebody_does(
    at_rest: Site, fault: ServiceFault
) -> None:
    owner = at_rest.stage.owner(NAME)
    fault_ns = time.monotonic_ns()
    outcome = at_rest.stage.act(
        NAME,
        partial(fault.commit, at_rest, owner),
        reads=HTTP,
        patience_s=(LEASH_MS + 5_000) / 1000,
    )
    assert outcome.after is None, outcome
    before_it_is_mended = at_rest.watch.attempts(since_ns=fault_ns)
    assert copies.first_elsewhere(before_it_is_mended, owner.name, since_ns=fault_ns) is None
    fault.undo(at_rest, owner)
    rest(at_rest)
    assert_no_two(at_rest, since_ns=fault_ns)


def test_a_rolling_restart_of_all_keepers_never_has_two(at_rest: Site) -> None:
    fault_ns = time.monotonic_ns()
    for node in at_rest.stage.lab.nodes.values():
        outcome = at_rest.stage.act(NAME, partial(restart, at_rest, node), reads=HTTP, patience_s=2 * STOP_S)
        assert outcome.overlaps == (), outcome
        rest(at_rest)
    assert_no_two(at_rest, since_ns=fault_ns)


def restart(site: Site, node: Host) -> None:
    assert site.stage.agents.keepers[node.name].terminate(patience_s=30) == 0
    site.stage.agents.restart(node)


def test_there_and_back_again_by_plan_never_has_two(at_rest: Site) -> None:
    owner = at_rest.stage.owner(NAME)
    there = at_rest.standbys(owner)[0]
    fault_ns = time.monotonic_ns()
    for target in (there, owner) * 2:
        outcome = at_rest.stage.act(
            NAME, partial(at_rest.stage.move, NAME, target.name), reads=HTTP, expect=target.name
        )
        assert outcome.is_safe, outcome
    assert_no_two(at_rest, since_ns=fault_ns)


def test_all_keepers_killed_at_once_come_back_to_one_copy(at_rest: Site) -> None:
    fault_ns = time.monotonic_ns()
    for keeper in at_rest.stage.agents.keepers.values():
        keeper.kill()
    at_rest.restore()
    rest(at_rest)
    assert_no_two(at_rest, since_ns=fault_ns)


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
    rest(at_rest)
