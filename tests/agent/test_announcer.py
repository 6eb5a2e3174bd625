"""The announcer on a real link: what it prepares and what leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyroute2 import IPRoute

from agent.segment import VIP4, VIP6
from lab.kernelcalls import entered, new_network
from vipagent.announcer import Announced, Announcer, FramesUnavailable, maker
from vipagent.disk import Disk
from vipagent.fence import Fence
from vipagent.frames import answer, build
from vipagent.kernel import Kernel
from vipagent.nodeview import GuardRole, LinkIndex
from vipagent.stock import Built

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vipagent.nodeview import IPAddress

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
GATEWAY4 = ip_address("192.0.2.254")
GIVES_UP_AT = """
import sys
for line in sys.stdin:
    if '"{}"' in line:
        sys.exit(3)
    print('{{"frames": [], "question": null, "probe": ""}}')
"""
NOTHING_IS_BUILT = (sys.executable, "-m", "vipagent.no_such_module")


@pytest.fixture
def wire() -> Iterator[tuple[LinkIndex, socket.socket]]:
    """A link, and the ear at its other end, in a namespace of its own."""
    network = new_network()
    with entered(network), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"}, address=MAC)
        for name in ("eth0", "far0"):
            route.link("set", index=socket.if_nametoindex(name), state="up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear:  # ETH_P_ALL
            ear.bind(("far0", 0))
            ear.settimeout(0)
            yield LinkIndex(socket.if_nametoindex("eth0")), ear
    os.close(network)


def heard(ear: socket.socket) -> set[bytes]:
    frames = set()
    while True:
        try:
            frames.add(ear.recv(2048))
        except BlockingIOError:
            return frames


@pytest.fixture
def announcer() -> Iterator[Announcer]:
    made = Announcer.open()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def test_what_was_prepared_leaves_at_once(wire: tuple[LinkIndex, socket.socket]) -> None:
    index, ear = wire
    announcer = Announcer.open()
    wanted = [Announced(index, MAC, VIP4, GATEWAY4), Announced(index, MAC, VIP6)]
    asyncio.run(announcer.prepare(wanted))
    heard(ear)
    before_ns = time.perf_counter_ns()
    assert announcer.announce(index, [VIP4, VIP6]) == ()
    took_us = (time.perf_counter_ns() - before_ns) / 1000
    sys.stdout.write(f"announced two addresses in {took_us:.0f} us\n")
    ipv4, ipv6 = build(MAC, VIP4, GATEWAY4), build(MAC, VIP6)
    frames = heard(ear)
    assert {*ipv4.frames, *ipv6.frames} <= frames
    assert ipv4.question not in frames
    assert announcer.announce(index, [VIP4], asks_gateway=True) == ()
    assert {*ipv4.frames, ipv4.question} <= heard(ear)
    announcer.close()


def test_what_was_not_prepared_is_told(wire: tuple[LinkIndex, socket.socket], announcer: Announcer) -> None:
    index, _ = wire
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP4)]))
    assert announcer.announce(index, [VIP6, VIP4]) == (VIP6,)
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP6)]))
    assert announcer.announce(index, [VIP4, VIP6]) == (VIP4,)


def test_a_link_with_a_new_mac_address_is_prepared_anew(wire: tuple[LinkIndex, socket.socket]) -> None:
    index, ear = wire
    announcer = Announcer.open()
    for mac in (MAC, "02:00:00:00:00:02"):
        asyncio.run(announcer.prepare([Announced(index, mac, VIP4)]))
        heard(ear)
        assert announcer.announce(index, [VIP4]) == ()
        assert set(build(mac, VIP4).frames) <= heard(ear)
    announcer.close()


def test_a_failed_preparation_says_why_and_loses_nothing(
    wire: tuple[LinkIndex, socket.socket], announcer: Announcer
) -> None:
    index, _ = wire
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP4)]))
    wanted = [Announced(index, MAC, VIP4), Announced(index, "nonsense", VIP6)]
    with pytest.raises(FramesUnavailable, match=r"no frames for 2001:db8::10 \(nonsense\)"):
        asyncio.run(announcer.prepare(wanted))
    assert announcer.announce(index, [VIP4, VIP6]) == (VIP6,)


def test_many_addresses_are_built_by_and_by_and_a_builder_that_fails_loses_none_that_were() -> None:
    addresses = [ip_address("10.0.0.0") + number for number in range(500)]
    announcer = Announcer.open((sys.executable, "-c", GIVES_UP_AT.format(addresses[450])))
    with pytest.raises(FramesUnavailable, match="ended with 3"):
        asyncio.run(announcer.prepare([Announced(LinkIndex(1), MAC, address) for address in addresses]))
    ready = [announcer.is_ready(LinkIndex(1), address) for address in addresses]
    assert all(ready[:400])
    assert not any(ready[400:])
    announcer.close()


def test_a_builder_that_cannot_start_is_told() -> None:
    announcer = Announcer.open((sys.executable, "-m", "vipagent.no_such_module"))
    with pytest.raises(
        FramesUnavailable, match=r"the process that builds frames ended with 1: .*no_such_module"
    ):
        asyncio.run(announcer.prepare([Announced(LinkIndex(1), MAC, VIP4)]))
    announcer.close()


def test_a_builder_that_there_is_none_of_is_told() -> None:
    announcer = Announcer.open(("/no/such/program",))
    with pytest.raises(FramesUnavailable, match=r"cannot be started: .*/no/such/program"):
        asyncio.run(announcer.prepare([Announced(LinkIndex(1), MAC, VIP4)]))
    announcer.close()


def test_a_link_that_gets_another_mac_address_while_frames_are_built_never_announces_the_former_one(
    wire: tuple[LinkIndex, socket.socket], announcer: Announcer
) -> None:
    async def story() -> None:
        preparing = asyncio.create_task(
            announcer.prepare([Announced(index, MAC, VIP4), Announced(index, MAC, VIP6)])
        )
        await asyncio.sleep(0)
        announcer.follow({index: OTHER})
        assert await preparing

    index, ear = wire
    asyncio.run(story())
    heard(ear)
    assert announcer.announce(index, [VIP4, VIP6]) == ()
    frames = heard(ear)
    assert {*build(OTHER, VIP4).frames, *build(OTHER, VIP6).frames} <= frames
    assert not {*build(MAC, VIP4).frames, *build(MAC, VIP6).frames} & frames


def test_a_builder_that_nobody_waits_for_any_more_is_ended() -> None:
    async def story() -> int:
        is_free = threading.Event()
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        busy = asyncio.ensure_future(asyncio.to_thread(is_free.wait))
        preparing = asyncio.create_task(announcer.prepare([Announced(LinkIndex(1), MAC, VIP4)]))
        await asyncio.sleep(0)
        (child,) = children()
        preparing.cancel()
        await asyncio.sleep(0)
        is_free.set()
        await busy
        with pytest.raises(asyncio.CancelledError):
            await preparing
        return child

    def children() -> list[int]:
        found = Path("/proc/thread-self/children").read_text().split()
        return [int(child) for child in found if child not in before]

    announcer = Announcer.open((sys.executable, "-c", "import time; time.sleep(60)"))
    before: list[str] = []
    before = [str(child) for child in children()]
    child = asyncio.run(story())
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
    announcer.close()


def test_a_closed_fence_or_a_link_that_is_gone_is_a_lost_frame_and_no_exception(
    wire: tuple[LinkIndex, socket.socket],
) -> None:
    async def guard(index: int, fence: Fence) -> None:
        async with Kernel.open() as kernel:
            await kernel.guard(index, fence, GuardRole.CARRIER)

    index, ear = wire
    announcer = Announcer.open()
    asyncio.run(announcer.prepare([Announced(index, MAC, VIP4), Announced(LinkIndex(9999), MAC, VIP6)]))
    with Fence.load() as fence:
        fence.close([VIP4])
        asyncio.run(guard(index, fence))
        heard(ear)
        assert announcer.announce(index, [VIP4]) == (VIP4,)
        assert announcer.announce(9999, [VIP6]) == (VIP6,)
        assert not set(build(MAC, VIP4).frames) & heard(ear)
        fence.admit([VIP4], time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**12)
        assert announcer.announce(index, [VIP4]) == ()
        assert set(build(MAC, VIP4).frames) <= heard(ear)
    announcer.close()


def built(address: IPAddress, gateway: IPAddress | None = None) -> Built:
    made = build(MAC, address, gateway)
    return Built(MAC, address, gateway, made.frames, made.probe, made.question)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A state folder with what an earlier keeper had built: VIP4 with a gateway, and VIP6 without."""
    disk = Disk(tmp_path)
    disk.store_frames([built(VIP4, GATEWAY4), built(VIP6)], maker())
    return disk


@pytest.fixture
def heir(disk: Disk) -> Iterator[Announcer]:
    """The announcer of the next keeper, where nothing can be built."""
    made = Announcer.open(NOTHING_IS_BUILT, disk=disk)
    yield made
    made.close()


def test_what_an_earlier_keeper_had_built_is_ready_without_building(
    wire: tuple[LinkIndex, socket.socket], tmp_path: Path
) -> None:
    index, ear = wire
    wanted = [Announced(index, MAC, VIP4, GATEWAY4), Announced(index, MAC, VIP6)]

    async def first() -> None:
        announcer = Announcer.open(disk=Disk(tmp_path))
        await announcer.prepare(wanted)
        await announcer.save()
        announcer.close()

    asyncio.run(first())
    heir = Announcer.open(NOTHING_IS_BUILT, disk=Disk(tmp_path))
    assert not heir.is_ready(index, VIP4)
    assert asyncio.run(heir.prepare(wanted))
    assert not asyncio.run(heir.prepare(wanted))
    heard(ear)
    assert heir.announce(index, [VIP4, VIP6], asks_gateway=True) == ()
    heir.probe(index, VIP4)
    ipv4, ipv6 = build(MAC, VIP4, GATEWAY4), build(MAC, VIP6)
    assert {*ipv4.frames, *ipv6.frames, ipv4.question, ipv4.probe} <= heard(ear)
    heir.close()


def test_what_is_wanted_again_is_not_built_again(heir: Announcer) -> None:
    wanted = [Announced(LinkIndex(1), MAC, VIP4, GATEWAY4), Announced(LinkIndex(1), MAC, VIP6)]
    for each in wanted:
        heir.arm(each)
        assert heir.is_ready(1, each.address)
    assert not asyncio.run(heir.prepare(wanted))
    assert not asyncio.run(heir.prepare([]))
    assert not heir.is_ready(1, VIP4)
    assert asyncio.run(heir.prepare([Announced(LinkIndex(7), MAC, VIP4, GATEWAY4)]))
    assert heir.is_ready(7, VIP4)


def test_what_was_built_for_another_mac_address_is_not_used(heir: Announcer) -> None:
    heir.arm(Announced(LinkIndex(1), OTHER, VIP4, GATEWAY4))
    assert not heir.is_ready(1, VIP4)
    with pytest.raises(FramesUnavailable):
        asyncio.run(heir.prepare([Announced(LinkIndex(1), OTHER, VIP4, GATEWAY4)]))
    assert not heir.is_ready(1, VIP4)


def test_what_a_link_was_readdressed_to_is_in_stock_too(heir: Announcer, disk: Disk) -> None:
    heir.arm(Announced(LinkIndex(1), MAC, VIP6))
    heir.follow({1: OTHER})
    assert not asyncio.run(heir.prepare([]))
    heir.arm(Announced(LinkIndex(1), OTHER, VIP6))
    assert heir.is_ready(1, VIP6)
    asyncio.run(heir.save())
    made = build(OTHER, VIP6)
    assert Built(OTHER, VIP6, None, made.frames, made.probe, None) in disk.load_frames(maker())


@pytest.mark.parametrize("gateway", [ip_address("192.0.2.253"), None], ids=["another", "none"])
def test_what_was_built_for_another_gateway_announces_and_asks_nobody(
    wire: tuple[LinkIndex, socket.socket], heir: Announcer, gateway: IPAddress | None
) -> None:
    index, ear = wire
    wanted = Announced(index, MAC, VIP4, gateway)
    heir.arm(wanted)
    heard(ear)
    assert heir.announce(index, [VIP4], asks_gateway=True) == ()
    theirs = build(MAC, VIP4, GATEWAY4)
    frames = heard(ear)
    assert set(theirs.frames) <= frames
    assert theirs.question not in frames
    if gateway is None:
        assert not asyncio.run(heir.prepare([wanted]))
    else:
        with pytest.raises(FramesUnavailable):  # with the question to that gateway it is to be built
            asyncio.run(heir.prepare([wanted]))
    assert heir.is_ready(index, VIP4)


def test_a_damaged_stock_is_told_once_and_written_anew(
    disk: Disk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        line = answer(json.dumps({"mac": MAC, "address": str(VIP6)}))
        announcer = Announcer.open((sys.executable, "-c", f"print({line!r})"), disk=disk)
        await announcer.save()
        assert (tmp_path / "frames").read_bytes() == b"garbage"
        assert await announcer.prepare([Announced(LinkIndex(1), MAC, VIP6)])
        await announcer.save()
        announcer.close()

    (tmp_path / "frames").write_bytes(b"garbage")
    with caplog.at_level(logging.INFO):
        asyncio.run(story())
    (told,) = caplog.messages
    assert "frames is damaged (it does not begin as one of these does): it is left unused" in told
    assert disk.load_frames(maker()) == (built(VIP6),)


def test_what_a_full_disk_does_not_keep_is_ready_all_the_same(
    disk: Disk, heir: Announcer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def save_twice() -> None:
        await heir.save()
        await heir.save()

    (tmp_path / "frames.new").symlink_to("/dev/full")
    heir.arm(Announced(LinkIndex(1), MAC, VIP6))
    heir.follow({1: OTHER})
    asyncio.run(save_twice())
    assert heir.is_ready(1, VIP6)
    assert [each.name for each in tmp_path.iterdir()] == ["frames"], "what has no room takes some"
    assert len([each for each in caplog.messages if "cannot be kept on disk" in each]) == 1
    assert disk.load_frames(maker()) == (built(VIP4, GATEWAY4), built(VIP6))
