"""What keepers leave on a node goes by `vipkeeper-keeper --clean`, and nothing else does."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from ipaddress import ip_interface
from typing import TYPE_CHECKING

import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent import tcx
from agent.segment import NO_DAD, VIP4, VIP6
from agent.services import plan
from lab.kernelcalls import entered, new_network
from vipagent.disk import Disk, FolderTaken
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.ledger import Entry, Ledger
from vipagent.nodeview import GuardRole
from vipagent.sweeping import still_started, sweep
from vipagent.tenancy import NetworkTaken, claim

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
HOLD = """
import sys
from pathlib import Path
from vipagent.disk import Disk
from vipagent.tenancy import claim
claim(Disk(Path(sys.argv[1])))
print("held", flush=True)
sys.stdin.read()
"""
OWN = {ip_interface("192.0.2.1/24"), ip_interface("2001:db8::1/64")}


@pytest.fixture
def links() -> Iterator[tuple[int, int]]:
    """Stand on a node with eth0 and eth1, addresses of its own on the first; yields their indices."""
    network = new_network()
    with entered(network), IPRoute() as route:
        for name in ("eth0", "eth1"):
            route.link("add", ifname=name, kind="veth", peer={"ifname": f"{name}-far"})
            for end in (name, f"{name}-far"):
                route.link("set", index=route.link_lookup(ifname=end)[0], state="up")
        first, second = (route.link_lookup(ifname=name)[0] for name in ("eth0", "eth1"))
        route.addr("add", index=first, address="192.0.2.1", prefixlen=24)
        route.addr("add", index=first, address="2001:db8::1", prefixlen=64, flags=NO_DAD)
        yield first, second
    os.close(network)


async def keep_and_vanish(links: tuple[int, int]) -> None:
    """Leave what a killed keeper that held addresses leaves behind."""
    first, second = links
    fence = Fence.load()
    async with Kernel.open() as kernel:
        fence.close([VIP4, VIP6])
        await kernel.guard(first, fence, GuardRole.CARRIER)
        await kernel.guard(second, fence, GuardRole.OTHER)
        for address in (VIP4, VIP6):
            await kernel.bind(address, first, lifetime_s=60)
    fence.release()


async def left(links: tuple[int, int]) -> tuple[set[object], list[str], list[str]]:
    """List what is there: addresses of the first link, filters of both, kinds of queueing of both."""
    async with Kernel.open() as kernel, AsyncIPRoute() as route:
        link = (await kernel.observe()).link(links[0])
        assert link is not None
        filters, kinds = [], []
        for index in links:
            kinds += [str(each.get("kind")) async for each in await route.get_qdiscs(index=index)]
            for parent in (INGRESS, EGRESS):
                found = [each async for each in await route.tc("dump-filter", index=index, parent=parent)]
                options = [each.get_nested("TCA_OPTIONS", "TCA_BPF_NAME") for each in found if each["handle"]]
                filters += map(str, options)
        return {b.interface for b in link.addresses if not b.interface.is_link_local}, filters, kinds


def test_a_sweep_leaves_nothing_of_a_killed_keeper(links: tuple[int, int], tmp_path: Path) -> None:
    async def story() -> None:
        before = await left(links)
        await keep_and_vanish(links)
        addresses, filters, kinds = await left(links)
        assert {VIP4, VIP6} <= {each.ip for each in addresses if hasattr(each, "ip")}
        assert len(filters) == 3
        assert kinds.count("clsact") == 2
        for _ in range(2):
            await sweep(Disk(tmp_path))
            addresses, filters, kinds = await left(links)
            assert (addresses, filters) == before[:2]
            # Whoever deletes a clsact deletes the filters that others add at the same moment.
            assert sorted(kinds) == sorted([*before[2], "clsact", "clsact"])
        assert before[0] == OWN
        assert before[1] == []

    asyncio.run(story())


def test_a_sweep_leaves_filters_and_programs_of_others_alone(links: tuple[int, int], tmp_path: Path) -> None:
    async def story() -> None:
        tcx.attach_first(links[0], tcx.INGRESS)
        others = tcx.programs(links[0], tcx.INGRESS)
        await keep_and_vanish(links)
        assert len(tcx.programs(links[0], tcx.INGRESS)) == 2
        async with AsyncIPRoute() as route:
            with Fence.load() as fence:
                await route.tc(
                    *("add-filter", "bpf", links[0], 1),
                    parent=INGRESS,
                    prio=7,
                    fd=fence.egress_fd,
                    name="somebody",
                    direct_action=True,
                )
        await sweep(Disk(tmp_path))
        _, filters, kinds = await left(links)
        assert filters == ["somebody"]
        assert kinds.count("clsact") == 2
        assert tcx.programs(links[0], tcx.INGRESS) == others

    asyncio.run(story())


def test_a_sweep_forgets_the_keys_and_keeps_the_promises(links: tuple[int, int], tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.store_plan(b'{"keys": "secret"}')
    disk.store_term_ceiling("uid", 1000)
    incarnation = disk.next_incarnation()
    assert links
    asyncio.run(sweep(disk))
    assert disk.load_plan() is None
    assert disk.load_term_ceiling("uid") == 1000
    assert disk.next_incarnation() > incarnation


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vipagent", "--clean", *options, "--state-dir", str(folder)],
        stderr=subprocess.PIPE,
        text=True,
    )


def hold(folder: Path) -> subprocess.Popen[bytes]:
    """Start what has a keeper's place, until it is told to end."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


@pytest.mark.usefixtures("links")
@pytest.mark.parametrize("folder", ["state", "another"], ids=["of-this-folder", "of-another-folder"])
def test_a_sweep_waits_for_the_keepers_end_and_lets_none_start_while_it_stays(
    tmp_path: Path, folder: str
) -> None:
    """A keeper with another state folder has addresses and fences in the same kernel."""
    holder = hold(tmp_path / folder)
    with start(tmp_path / "state", "--stay") as sweeper:
        assert sweeper.stderr is not None
        assert "Waiting, for " in sweeper.stderr.readline()
        holder.communicate()
        assert "Nothing of vipkeeper is left" in sweeper.stderr.readline()
        with pytest.raises(FolderTaken):
            Disk(tmp_path / "state").claim()
        with pytest.raises(NetworkTaken):
            claim(Disk(tmp_path / "another"))
        sweeper.send_signal(signal.SIGTERM)
        assert sweeper.wait(10) == 0


@pytest.mark.usefixtures("links")
def test_a_network_has_one_keeper_whatever_its_state_folder(tmp_path: Path) -> None:
    holder = hold(tmp_path / "first")
    second = subprocess.run(
        [sys.executable, "-m", "vipagent", "--node=a", f"--state-dir={tmp_path / 'second'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert second.returncode == 1
    assert "runs on this node's network, whatever its --state-dir: end it" in second.stderr
    # Who was refused has claimed nothing, and a claim ends with its process at once, however that ends.
    elsewhere = hold_elsewhere(tmp_path / "second")
    holder.kill()
    holder.communicate()
    with pytest.raises(FolderTaken):
        claim(Disk(tmp_path / "second"))
    hold(tmp_path / "first").communicate()
    elsewhere.communicate()


def hold_elsewhere(folder: Path) -> subprocess.Popen[bytes]:
    """Start what has a keeper's place in another network."""
    network = new_network()
    try:
        with entered(network):
            return hold(folder)
    finally:
        os.close(network)


@pytest.mark.usefixtures("links")
def test_who_is_ended_before_the_node_is_clean_does_not_say_that_it_is(tmp_path: Path) -> None:
    """A container's first process must have a handler for that: the kernel gives it no default."""
    Disk(tmp_path).claim()
    with start(tmp_path) as sweeper:
        assert sweeper.stderr is not None
        assert "Waiting, for " in sweeper.stderr.readline()
        sweeper.send_signal(signal.SIGTERM)
        assert sweeper.wait(10) == 143


@pytest.mark.usefixtures("links")
def test_a_keeper_that_is_there_to_stay_is_never_swept_behind_its_back(tmp_path: Path) -> None:
    holder = hold(tmp_path)
    Disk(tmp_path).store_plan(b"plan")
    with start(tmp_path, "--stay", "--patience=0") as sweeper:
        assert sweeper.stderr is not None
        assert "Waiting, for " in sweeper.stderr.readline()
        assert "A keeper runs on" in sweeper.stderr.readline()
        holder.communicate()
        hold(tmp_path).communicate()
        sweeper.send_signal(signal.SIGTERM)
        assert sweeper.wait(10) == 143
    assert (tmp_path / "plan.json").exists()


@pytest.mark.usefixtures("links")
def test_services_that_a_killed_keeper_left_running_are_named(tmp_path: Path) -> None:
    ledger = tmp_path / "services.json"

    async def story() -> list[str]:
        assert await still_started(ledger) == []
        book = Ledger(ledger)
        book.enter(Entry(plan("web")))
        await book.close()
        return await still_started(ledger)

    title = plan("web").title
    assert asyncio.run(story()) == [title]
    with start(tmp_path) as sweeper:
        assert sweeper.stderr is not None
        assert f"Services that nobody stops any more: {title}. Stop them by hand" in sweeper.stderr.read()
        assert sweeper.wait(10) == 0
