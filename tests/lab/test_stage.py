"""The verbs that faults are made of, each shown to do what it says, in a lab of two nodes."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from lab import faults, holdings, kernelcalls
from lab.agents import NAMESPACE
from lab.cluster import WEB_PORT
from lab.stage import HEARTBEAT_SECRET, VERSION, Stage

if TYPE_CHECKING:
    from lab.cluster import Lab
    from lab.processes import Process
    from lab.topology import Host

NODES = 2
ADDRESS, ADDRESS_6 = "192.0.2.80", "2001:db8::80"
UNUSED = "192.0.2.81"


@pytest.fixture(scope="module")
def stage(lab: Lab) -> Stage:
    """Two nodes and one VirtualIP of both families; an address that no VirtualIP has is measured too."""
    running = Stage(lab)
    running.start()
    domain = {"allowedAddresses": ["192.0.2.0/24", "2001:db8::/64"], "witnesses": {"count": 1}}
    for kind, name, spec in (
        ("FailoverDomain", "default", domain),
        ("VirtualIP", "pair", {"addresses": [f"{ADDRESS}/24", f"{ADDRESS_6}/64"]}),
    ):
        lab.plane.api.apply({"apiVersion": VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec})
    running.watch({"pair": ADDRESS}, ipv6={"pair": ADDRESS_6})
    running.rest("pair")
    return running


def reaches(node: Host, address: str, port: int) -> bool:
    with kernelcalls.entered(node.network), socket.socket() as door:
        door.settimeout(2)
        return door.connect_ex((address, port)) == 0


def give(host: Host, address: str) -> None:
    with kernelcalls.entered(host.network), IPRoute() as netlink:
        [eth0] = netlink.link_lookup(ifname="eth0")
        netlink.addr("add", index=eth0, address=address, prefixlen=32)


def keys(stage: Stage) -> set[str]:
    found = stage.lab.plane.api.get("v1", "Secret", HEARTBEAT_SECRET, namespace=NAMESPACE)
    return set(found["data"])


def test_keys_of_the_heartbeat_come_and_go(stage: Stage) -> None:
    [first] = keys(stage)
    stage.add_key(int(first) + 1)
    assert keys(stage) == {first, str(int(first) + 1)}
    stage.remove_key(int(first))
    assert keys(stage) == {str(int(first) + 1)}
    stage.rest("pair")


def test_a_node_that_is_cut_off_from_the_api_server_keeps_its_peers(stage: Stage) -> None:
    node, peer = stage.lab.nodes.values()
    api_server = stage.lab.plane.address, stage.lab.plane.ports.api
    with stage.lab.faults.during(*faults.without_api_server(node.name)):
        assert not reaches(node, *api_server)
        assert reaches(peer, *api_server)
        assert reaches(node, peer.ipv4, WEB_PORT)
    assert reaches(node, *api_server)


def test_an_edited_virtual_ip_moves_and_a_deleted_one_goes(stage: Stage) -> None:
    spec = {"addresses": ["192.0.2.82/24"]}
    stage.lab.plane.api.apply(
        {"apiVersion": VERSION, "kind": "VirtualIP", "metadata": {"name": "brief"}, "spec": spec}
    )
    stage.wait_until("an owner", lambda: bool(stage.status("brief").get("owner")))
    stage.edit("brief", {"addresses": ["192.0.2.83/24"]})
    nodes = stage.lab.nodes.values()
    stage.wait_until("the new address", lambda: any("192.0.2.83/32" in node.addresses() for node in nodes))
    stage.delete("brief")
    stage.wait_until("its end", partial(stage.is_gone, "brief"))


def test_the_threads_of_controllers_and_couriers_share_one_arena(stage: Stage) -> None:
    for process in (*stage.agents.controllers, *stage.agents.couriers.values()):
        folder = Path(f"/proc/{process.child.pid}")
        assert len(list((folder / "task").iterdir())) > 1
        assert holdings.arenas_in((folder / "maps").read_text()) == 0


def test_controllers_stop_and_start(stage: Stage) -> None:
    stage.agents.stop_controllers()
    assert not any(controller.is_alive for controller in stage.agents.controllers)
    stage.agents.restart_controllers()
    assert all(controller.is_alive for controller in stage.agents.controllers)
    stage.rest("pair")


def test_a_node_boots_with_an_empty_kernel_and_its_old_disk_though_there_is_no_api_server(
    stage: Stage,
) -> None:
    node = next(each for each in stage.lab.nodes.values() if each is not stage.owner("pair"))
    give(node, UNUSED)
    stage.lab.plane.stop()
    stage.power_off(node)
    assert not any(process.is_alive for process in node.processes)
    stage.power_on(node)
    assert f"{UNUSED}/32" not in node.addresses()
    stored = node.folder / "state" / "plan.json"
    assert "pair" in stored.read_text()
    assert stage.agents.keepers[node.name].is_alive
    stage.lab.plane.start()
    stage.agents.restart_controllers()
    stage.rest("pair")


def is_called(process: Process, name: str) -> bool:
    return f"--node\0{name}\0" in Path(f"/proc/{process.child.pid}/cmdline").read_text()


def test_a_clone_has_the_name_and_the_state_of_its_node_and_answers_for_itself(stage: Stage) -> None:
    node = next(each for each in stage.lab.nodes.values() if each is not stage.owner("pair"))
    twin = stage.clone(node)
    assert (twin.folder / "state" / "plan.json").exists()
    *_, keeper, courier = twin.processes
    for process in (keeper, courier):
        stage.wait_until("its name", partial(is_called, process, node.name))
        assert process.is_alive
    stage.lab.remove_twin(twin)
    stage.lab.tell_addresses(node.name, node)
    assert not keeper.is_alive
    stage.rest("pair")


def test_what_processes_and_kernels_hold_is_counted(stage: Stage) -> None:
    found = {(measure.of, measure.what): many for measure, many in holdings.sample(stage).items()}
    for node in stage.lab.nodes:
        for name in (f"{node}/keeper", f"{node}/courier"):
            assert found[name, "tasks"] > 1
            assert found[name, "descriptors"] >= found[name, "descriptors: socket"] > 0
            assert found[name, "resident, MB"] > found[name, "own memory, MB"] > 1
    kernels = "the nodes' kernels"
    assert found["the machine's kernel", "BPF maps"] >= NODES
    assert found["the machine's kernel", "BPF programs"] >= 3 * NODES
    assert found[kernels, "tc filters"] >= 2 * NODES
    bound = sum(len(node.addresses()) for node in stage.lab.nodes.values())
    assert found[kernels, "addresses"] >= bound == 2 * NODES + 2
    assert found["the state folders", "files"] >= 2 * NODES
    assert found["Kubernetes", "VirtualIP: objects"] == 1
    assert found["Kubernetes", "VirtualIP: managedFields"] > 1
