"""The whole path on real nodes: whatever fails, the address comes back and is never on two nodes.

Each test commits one fault to a running cluster and takes the truth from outside: a client's probes, a
second client on a standby, and a capture on the bridge. No figure is judged here; `make bench` measures.
"""

from __future__ import annotations

import random
import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from lab import faults, kernelcalls
from lab.agents import KEEPER_METRICS
from lab.faults import Loss
from lab.stage import HTTP, IPV6, UDP, VERSION, Stage, urls_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from lab.cluster import Lab
    from lab.topology import Host

HEARTBEATS = 7946
ADDRESSES = {"web": "192.0.2.50", "dual": "192.0.2.51"}
IPV6_ADDRESSES = {"dual": "2001:db8::51"}
WEB_CHECK = {
    "name": "web-server",
    "httpGet": {"port": 8080, "path": "/healthz"},
    "periodMilliseconds": 200,
    "timeoutMilliseconds": 200,
    "failureThreshold": 2,
    "successThreshold": 2,
}
OBJECTS: list[dict[str, object]] = [
    {
        "apiVersion": VERSION,
        "kind": "FailoverDomain",
        "metadata": {"name": "default"},
        "spec": {"allowedAddresses": ["192.0.2.0/24", "2001:db8::/64"]},
    },
    {
        "apiVersion": VERSION,
        "kind": "VirtualIP",
        "metadata": {"name": "web"},
        "spec": {"addresses": ["192.0.2.50/24"], "healthChecks": [WEB_CHECK]},
    },
    {
        "apiVersion": VERSION,
        "kind": "VirtualIP",
        "metadata": {"name": "dual"},
        "spec": {"addresses": ["192.0.2.51/24", "2001:db8::51/64"]},
    },
]


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """Three nodes, two controllers and two VirtualIPs, held and watched."""
    running = Stage(lab)
    running.start()
    for manifest in OBJECTS:
        lab.plane.api.apply(manifest)
    running.watch(ADDRESSES, ipv6=IPV6_ADDRESSES, urls=urls_for({"web": ADDRESSES["web"]}))
    running.rest("web", "dual")
    return running


@pytest.fixture
def at_rest(stage: Stage) -> Stage:
    """The stage with everything held and every node fit, whatever the test before did."""
    for node in stage.lab.nodes.values():
        stage.agents.restart(node)
    stage.agents.restart_controllers()
    stage.rest("web", "dual")
    return stage


def others(stage: Stage, node: Host) -> list[str]:
    return [name for name in stage.lab.nodes if name != node.name]


def counted(node: Host, metric: str) -> float:
    """Return the sum of a metric of a node's keeper."""
    with kernelcalls.entered(node.network):
        connection = socket.create_connection(("127.0.0.1", KEEPER_METRICS), timeout=5)
    with connection, connection.makefile("rb") as answer:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(metric))


def test_when_its_service_dies_another_node_has_the_address(at_rest: Stage) -> None:
    owner = at_rest.owner("web")
    outcome = at_rest.act("web", at_rest.web[owner.name].kill, reads=HTTP)
    at_rest.web[owner.name] = at_rest.lab.start_webserver(owner)
    assert outcome.is_safe, outcome


@pytest.mark.parametrize("reads", [UDP, IPV6])
def test_a_cut_link_moves_ipv4_and_ipv6_together(at_rest: Stage, reads: str) -> None:
    owner = at_rest.owner("dual")
    outcome = at_rest.act("dual", partial(at_rest.lab.segment.cut, owner), reads=reads)
    at_rest.lab.segment.mend(owner)
    assert outcome.is_safe, outcome
    assert outcome.after is not None
    assert {"192.0.2.51/32", "2001:db8::51/128"} <= at_rest.lab.nodes[outcome.after].addresses()


def isolated(_stage: Stage, owner: Host) -> tuple[Loss, ...]:
    return faults.silence(owner.name)


def cut_off_from_its_peers(stage: Stage, owner: Host) -> tuple[Loss, ...]:
    return faults.apart(owner.name, *others(stage, owner))


def deaf(stage: Stage, owner: Host) -> tuple[Loss, ...]:
    return tuple(Loss(sender=name, receiver=owner.name) for name in others(stage, owner))


def dumb(stage: Stage, owner: Host) -> tuple[Loss, ...]:
    return tuple(Loss(sender=owner.name, receiver=name) for name in others(stage, owner))


@pytest.mark.parametrize("fault", [isolated, cut_off_from_its_peers, deaf, dumb], ids=lambda f: f.__name__)
def test_an_owner_that_lost_its_peers_lets_go_in_time(
    at_rest: Stage, fault: Callable[[Stage, Host], tuple[Loss, ...]]
) -> None:
    losses = fault(at_rest, at_rest.owner("dual"))
    outcome = at_rest.act("dual", partial(at_rest.lab.faults.add, *losses))
    at_rest.lab.faults.remove(*losses)
    assert outcome.is_safe, outcome


def test_a_killed_agent_leaves_the_address_to_another_and_starts_clean(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    outcome = at_rest.act("dual", at_rest.agents.keepers[owner.name].kill)
    assert outcome.is_safe, outcome
    at_rest.agents.restart(owner)
    at_rest.rest("dual")
    assert "192.0.2.51/32" not in owner.addresses()


@pytest.mark.parametrize("seconds", [0.2, 0.5, 3.0])
def test_a_frozen_agent_never_answers_beside_the_new_owner(at_rest: Stage, seconds: float) -> None:
    keeper = at_rest.agents.keepers[at_rest.owner("dual").name]
    outcome = at_rest.act(
        "dual",
        keeper.freeze,
        lasts_s=seconds,
        undo=keeper.thaw,
        expect=None if seconds > 1 else at_rest.owner("dual").name,
        patience_s=5,
    )
    assert outcome.overlaps == ()
    at_rest.rest("dual")


def test_a_planned_move_goes_where_it_was_told(at_rest: Stage) -> None:
    target = others(at_rest, at_rest.owner("dual"))[1]
    outcome = at_rest.act("dual", partial(at_rest.move, "dual", target), expect=target)
    assert outcome.is_safe, outcome
    assert at_rest.status("dual")["owner"] == target


def test_sigterm_hands_over_to_a_standby(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    outcome = at_rest.act("dual", lambda: assert_ends(at_rest, owner))
    assert outcome.is_safe, outcome
    assert not {"192.0.2.51/32", "2001:db8::51/128"} & owner.addresses()


def assert_ends(stage: Stage, node: Host) -> None:
    assert stage.agents.keepers[node.name].terminate() == 0


def test_without_the_api_server_a_dead_owner_is_replaced_and_its_return_moves_nothing(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    at_rest.lab.plane.stop()
    outcome = at_rest.act("dual", at_rest.agents.keepers[owner.name].kill)
    assert outcome.is_safe, outcome
    returned = at_rest.act("dual", partial(bring_back, at_rest), expect=outcome.after, lasts_s=3)
    assert (returned.before, returned.after, returned.overlaps) == (outcome.after, outcome.after, ())
    at_rest.wait_until("the API to know", lambda: at_rest.status("dual").get("owner") == outcome.after)


def bring_back(stage: Stage) -> None:
    stage.lab.plane.start()
    stage.agents.restart_controllers()


def test_a_candidate_that_only_the_owner_cannot_reach_takes_nothing(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    losses = faults.apart(owner.name, others(at_rest, owner)[0])
    term = at_rest.status("dual")["term"]
    with at_rest.lab.faults.during(*losses):
        calm = at_rest.act("dual", lambda: None, expect=owner.name, lasts_s=2)
    assert (calm.after, calm.overlaps, at_rest.status("dual")["term"]) == (owner.name, (), term)


def test_a_fifth_of_all_heartbeats_lost_moves_nothing(at_rest: Stage) -> None:
    owner, term = at_rest.owner("dual"), at_rest.status("dual")["term"]
    with at_rest.lab.faults.during(*faults.lossy(0.2, udp_port=HEARTBEATS)):
        calm = at_rest.act("dual", lambda: None, expect=owner.name, lasts_s=5)
    assert (calm.after, calm.overlaps, at_rest.status("dual")["term"]) == (owner.name, (), term)


def test_an_address_that_somebody_removes_is_back_at_once(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    with kernelcalls.entered(owner.network), IPRoute() as netlink:
        [eth0] = netlink.link_lookup(ifname="eth0")
        netlink.addr("del", index=eth0, address="192.0.2.51", prefixlen=32)
    at_rest.wait_until("the address", lambda: "192.0.2.51/32" in owner.addresses(), patience_s=1)
    assert at_rest.owner("dual") is owner


def test_all_agents_killed_at_once_come_back_with_a_higher_term(at_rest: Stage) -> None:
    term = at_rest.status("dual")["term"]
    outcome = at_rest.act("dual", partial(kill_and_restart_all, at_rest), patience_s=5)
    at_rest.wait_until("a new term", lambda: at_rest.status("dual").get("term", 0) > term)
    assert outcome.overlaps == ()


def kill_and_restart_all(stage: Stage) -> None:
    for keeper in stage.agents.keepers.values():
        keeper.kill()
    for node in stage.lab.nodes.values():
        stage.agents.restart(node)


def test_a_rolling_restart_never_has_two_owners(at_rest: Stage) -> None:
    for node in at_rest.lab.nodes.values():
        outcome = at_rest.act("web", partial(restart, at_rest, node), patience_s=1)
        assert outcome.overlaps == (), outcome
        at_rest.rest("web", "dual")


def restart(stage: Stage, node: Host) -> None:
    assert_ends(stage, node)
    stage.agents.restart(node)


def test_datagrams_of_strangers_are_counted_and_change_nothing(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    term, before = at_rest.status("dual")["term"], counted(owner, "vipkeeper_refused_datagrams_total")
    noise = random.Random(4)
    with kernelcalls.entered(at_rest.lab.client.network):
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with stranger:
        for size in (0, 1, 23, 40, 41, 200, 1400):
            for prefix in (b"", b"VK", b"VK\x01\x01"):
                stranger.sendto(prefix + noise.randbytes(size), (owner.ipv4, HEARTBEATS))
    at_rest.wait_until(
        "the counters", lambda: counted(owner, "vipkeeper_refused_datagrams_total") >= before + 21
    )
    assert at_rest.agents.keepers[owner.name].is_alive
    assert (at_rest.owner("dual"), at_rest.status("dual")["term"]) == (owner, term)


def test_a_keeper_whose_stored_plan_was_cut_in_half_says_so_and_takes_the_next(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    keeper = at_rest.agents.keepers[owner.name]
    at_rest.act("dual", keeper.kill)
    stored = owner.folder / "state" / "plan.json"
    stored.write_bytes(stored.read_bytes()[:500])
    at_rest.agents.restart(owner)
    at_rest.agents.keepers[owner.name].wait_for_output("is damaged", patience_s=10)
    at_rest.rest("dual")


def test_no_failover_of_all_these_was_taken_for_a_foreign_host(at_rest: Stage) -> None:
    owner = at_rest.owner("dual")
    outcome = at_rest.act("dual", at_rest.agents.keepers[owner.name].kill)
    assert outcome.is_safe, outcome
    at_rest.agents.restart(owner)
    at_rest.rest("dual")
    told = at_rest.lab.plane.api.list("events.k8s.io/v1", "Event", namespace="default")
    reasons = {event["reason"] for event in told if event["regarding"]["name"] == "dual"}
    assert "OwnerChanged" in reasons
    assert not reasons & {"ForeignHost", "ForeignVRRP"}
    nodes = at_rest.lab.nodes.values()
    claims = {node.name: counted(node, "vipkeeper_foreign_claims_total") for node in nodes}
    assert claims == dict.fromkeys(at_rest.lab.nodes, 0)


def test_deleting_a_virtual_ip_takes_its_address_away_everywhere(at_rest: Stage) -> None:
    spec = {"addresses": ["192.0.2.60/24"]}
    at_rest.lab.plane.api.apply(
        {"apiVersion": VERSION, "kind": "VirtualIP", "metadata": {"name": "brief"}, "spec": spec}
    )
    nodes = at_rest.lab.nodes.values()
    at_rest.wait_until("an owner", lambda: any("192.0.2.60/32" in node.addresses() for node in nodes))
    at_rest.delete("brief")
    at_rest.wait_until("its end", partial(at_rest.is_gone, "brief"))
    assert not any("192.0.2.60/32" in node.addresses() for node in nodes)
