"""What people and the cluster change while addresses are held, and the faults that come just then.

Keys are rotated, VirtualIPs are edited and deleted behind an owner's back, nodes boot without an API
server, gateways go, a machine is cloned. Each test commits one of these to three running nodes.
"""

from __future__ import annotations

import json
import socket
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from lab import faults, kernelcalls
from lab.stage import VERSION, Stage
from vipagent import frames

if TYPE_CHECKING:
    from lab.cluster import Lab
    from lab.faults import Loss
    from lab.topology import Host

ADDRESS = "192.0.2.50"
ELSEWHERE = "192.0.2.55"
CONTESTED, FOREIGN = "192.0.2.58", "foreign"


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """Three nodes and one VirtualIP, held and watched; a second address is watched for what gets it."""
    running = Stage(lab)
    running.start()
    for kind, name, spec in (
        ("FailoverDomain", "default", {"allowedAddresses": ["192.0.2.0/24"]}),
        ("FailoverDomain", "second", {"heartbeat": {"port": 7947}}),
        ("VirtualIP", "web", {"addresses": [f"{ADDRESS}/24"]}),
        ("VirtualIP", "brief", {"addresses": [f"{ELSEWHERE}/24"]}),
    ):
        lab.plane.api.apply({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    running.watch({"web": ADDRESS, "brief": ELSEWHERE})
    running.rest("web", "brief")
    return running


@pytest.fixture
def at_rest(stage: Stage) -> Stage:
    """The stage with everything held and every node fit, whatever the test before did."""
    for node in stage.lab.nodes.values():
        stage.agents.restart(node)
    stage.agents.restart_controllers()
    apply(stage, "brief")
    stage.rest("web", "brief")
    return stage


def apply(stage: Stage, name: str, **spec: object) -> None:
    manifest = {
        "apiVersion": VERSION,
        "kind": "VirtualIP",
        "metadata": {"name": name},
        "spec": {"addresses": [f"{ELSEWHERE}/24"], **spec},
    }
    stage.lab.plane.api.apply(manifest)


def others(stage: Stage, node: Host) -> list[Host]:
    return [each for each in stage.lab.nodes.values() if each is not node]


def key_ids(node: Host) -> set[int]:
    """The ids of the keys in the plan that a node's keeper works from."""
    plan = json.loads((node.folder / "state" / "plan.json").read_bytes())
    return {key["keyId"] for domain in plan["domains"] for key in domain["keys"]}


def have_keys(stage: Stage, *ids: int) -> bool:
    return all(key_ids(node) == set(ids) for node in stage.lab.nodes.values())


def problems(stage: Stage) -> set[str]:
    found = stage.lab.plane.api.list(VERSION, "VIPNode")
    return {problem["reason"] for node in found for problem in node.get("status", {}).get("problems", [])}


def test_a_key_is_rotated_and_no_lease_notices(at_rest: Stage) -> None:
    owner, term = at_rest.owner("web"), at_rest.status("web")["term"]
    [first] = key_ids(owner)

    def rotate() -> None:
        at_rest.add_key(first + 1)
        at_rest.wait_until("the new key everywhere", lambda: have_keys(at_rest, first, first + 1))
        at_rest.remove_key(first)
        at_rest.wait_until("the old key's end", lambda: have_keys(at_rest, first + 1))

    calm = at_rest.act("web", rotate, expect=owner.name, lasts_s=3)
    assert calm.is_safe, calm
    assert (at_rest.owner("web"), at_rest.status("web")["term"]) == (owner, term)


def test_an_owner_that_misses_a_deletion_loses_the_address_and_the_object_goes(at_rest: Stage) -> None:
    owner = at_rest.owner("brief")
    with at_rest.lab.faults.during(*faults.without_api_server(owner.name)):
        at_rest.delete("brief")
        at_rest.wait_until("the end of the address", lambda: f"{ELSEWHERE}/32" not in owner.addresses())
        at_rest.wait_until("the end of the object", partial(at_rest.is_gone, "brief"))


def test_an_address_that_comes_back_in_another_domain_never_meets_its_former_owner(at_rest: Stage) -> None:
    owner = at_rest.owner("brief")

    def replace() -> None:
        with at_rest.lab.faults.during(*faults.without_api_server(owner.name)):
            at_rest.delete("brief")
            at_rest.wait_until("the end of the object", partial(at_rest.is_gone, "brief"))
            apply(at_rest, "brief", domain="second")
            at_rest.wait_until("its new owner", lambda: bool(at_rest.status("brief").get("owner")))

    outcome = at_rest.act("brief", replace, expect=None, patience_s=1)
    assert outcome.overlaps == (), outcome
    at_rest.delete("brief")
    at_rest.wait_until("the end of the object", partial(at_rest.is_gone, "brief"))


def test_an_owner_that_misses_an_edit_gives_way_to_the_new_addresses(at_rest: Stage) -> None:
    owner = at_rest.owner("brief")
    with at_rest.lab.faults.during(*faults.without_api_server(owner.name)):
        at_rest.edit("brief", {"addresses": ["192.0.2.56/24"]})
        at_rest.wait_until("the end of the address", lambda: f"{ELSEWHERE}/32" not in owner.addresses())
        at_rest.wait_until(
            "the new address on another node",
            lambda: any("192.0.2.56/32" in node.addresses() for node in others(at_rest, owner)),
        )


def test_a_node_that_boots_while_there_is_no_api_server_takes_over_from_the_next_that_dies(
    at_rest: Stage,
) -> None:
    owner = at_rest.owner("web")
    first, second = others(at_rest, owner)
    at_rest.power_off(first)
    at_rest.lab.plane.stop()
    at_rest.power_on(first)
    at_rest.agents.keepers[first.name].wait_for_output("started, incarnation", patience_s=10)
    at_rest.agents.keepers[second.name].kill()  # so that the one that booted is needed, as voter and as owner
    at_rest.agents.restart(second)
    outcome = at_rest.act("web", partial(at_rest.power_off, owner), patience_s=40)
    at_rest.power_on(owner)
    at_rest.lab.plane.start()
    assert outcome.is_safe, outcome


def towards_gateway(node: Host) -> tuple[Loss, ...]:
    return faults.apart(node.name, "gateway")


def test_an_owner_that_loses_its_gateway_hands_over_to_one_that_has_it(at_rest: Stage) -> None:
    owner = at_rest.owner("web")
    losses = towards_gateway(owner)
    outcome = at_rest.act("web", partial(at_rest.lab.faults.add, *losses))
    at_rest.lab.faults.remove(*losses)
    assert outcome.is_safe, outcome
    assert "handover" in outcome.said, outcome


def test_a_gateway_that_dies_for_all_moves_nothing(at_rest: Stage) -> None:
    owner, term = at_rest.owner("web"), at_rest.status("web")["term"]
    losses = tuple(loss for node in at_rest.lab.nodes.values() for loss in towards_gateway(node))
    with at_rest.lab.faults.during(*losses):
        calm = at_rest.act("web", lambda: None, expect=owner.name, lasts_s=4)
    assert calm.overlaps == ()
    assert (at_rest.owner("web"), at_rest.status("web")["term"]) == (owner, term)


def test_a_clone_of_the_owner_s_machine_never_answers_beside_it_and_is_told_of(at_rest: Stage) -> None:
    owner = at_rest.owner("web")
    twins: list[Host] = []
    outcome = at_rest.act("web", lambda: twins.append(at_rest.clone(owner)), lasts_s=6, patience_s=6)
    assert outcome.overlaps == (), outcome
    at_rest.wait_until("a word about it", lambda: "NodeNameTaken" in problems(at_rest))
    at_rest.lab.remove_twin(twins[0])
    at_rest.lab.tell_addresses(owner.name, owner)
    at_rest.agents.keepers[owner.name].kill()  # a later start than the clone's makes it the node again
    at_rest.agents.restart(owner)


def condition(stage: Stage, virtual_ip: str, kind: str) -> tuple[str, str, str]:
    """Return a condition's status, reason and message."""
    found = {each["type"]: each for each in stage.status(virtual_ip).get("conditions", ())}
    told = found.get(kind, {})
    return told.get("status", ""), told.get("reason", ""), told.get("message", "")


def foreign_host(stage: Stage, action: str) -> Host:
    """Have a host outside vipkeeper `add` the contested address, and announce it, or `del` it."""
    segment = stage.lab.segment
    host = segment.hosts.get(FOREIGN) or segment.add(FOREIGN, 66)
    with kernelcalls.entered(host.network), IPRoute() as netlink:
        [eth0] = netlink.link_lookup(ifname="eth0")
        netlink.addr(action, index=eth0, address=CONTESTED, prefixlen=24)
        if action == "add":
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                raw.sendto(frames.build(host.mac, ip_address(CONTESTED)).frames[0], ("eth0", 0))
    return host


def test_an_address_is_left_to_a_foreign_host_that_has_it_first_and_defended_against_a_later_one(
    at_rest: Stage,
) -> None:
    host = foreign_host(at_rest, "add")
    apply(at_rest, "contested", addresses=[f"{CONTESTED}/24"])
    at_rest.wait_until("a word about the foreign host", lambda: is_told(at_rest, host))
    assert condition(at_rest, "contested", "Bound")[:2] == ("False", "ForeignHost")
    assert not any(f"{CONTESTED}/32" in node.addresses() for node in at_rest.lab.nodes.values())

    owner, term = at_rest.status("contested")["owner"], at_rest.status("contested")["term"]
    foreign_host(at_rest, "del")
    at_rest.wait_until("the address", lambda: condition(at_rest, "contested", "Ready")[0] == "True")
    assert condition(at_rest, "contested", "Conflict")[:2] == ("False", "NoConflict")

    foreign_host(at_rest, "add")
    at_rest.wait_until("a word about it again", lambda: is_told(at_rest, host))
    assert condition(at_rest, "contested", "Ready")[0] == "True"
    assert (at_rest.status("contested")["owner"], at_rest.status("contested")["term"]) == (owner, term)
    assert f"{CONTESTED}/32" in at_rest.lab.nodes[owner].addresses()
    foreign_host(at_rest, "del")
    at_rest.lab.plane.api.delete(VERSION, "VirtualIP", "contested")


def is_told(stage: Stage, host: Host) -> bool:
    """Tell whether the contested address is said to be in conflict with this host."""
    status, reason, message = condition(stage, "contested", "Conflict")
    return (status, reason) == ("True", "ForeignHost") and host.mac in message
