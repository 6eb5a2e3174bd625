"""The fence as nftables on a real kernel: its two clocks, what others do to it, and how keepers take over."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from pyroute2 import AsyncIPRoute, IPRoute

from agent import tcx
from agent.segment import VIP4, VIP6, can_speak
from lab.kernelcalls import entered, new_network
from vipagent import fences, nftables, nftfilters
from vipagent.announcer import Announcer
from vipagent.disk import Disk
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.nftfence import NftFence, clear
from vipagent.node import Node
from vipagent.nodeview import GuardRole, LinkIndex
from vipagent.packetfence import MAX_ADDRESSES, FenceRefused
from vipagent.sweeping import sweep
from vipapi.nodeplan import CandidatePlan, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from vipagent.fences import Backend
    from vipagent.nodeview import IPAddress

SECOND = 10**9
BATCH, ASK_CHAINS, ASK_RULES = 0x10, 10 << 8 | 4, 10 << 8 | 7
WEB = VirtualIPPlan(
    uid="web-uid",
    name="web",
    addresses=(f"{VIP4}/24",),
    candidates=(CandidatePlan("node-a", 100),),
    interface="eth0",
)
CARRIER, OTHER = GuardRole.CARRIER, GuardRole.OTHER


def boot_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def nft(*command: str) -> str:
    ran = subprocess.run([shutil.which("nft") or "nft", *command], capture_output=True, text=True, check=True)
    return ran.stdout


@pytest.fixture
def link() -> Iterator[int]:
    """Stand in a namespace with eth0, up; gives its index."""
    network = new_network()
    with entered(network), IPRoute() as route:
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"})
        for name in ("lo", "eth0", "far0"):
            route.link("set", index=socket.if_nametoindex(name), state="up")
        yield socket.if_nametoindex("eth0")
    os.close(network)


@pytest.fixture
def fence(link: int) -> Iterator[NftFence]:
    """Guard eth0 as a carrier."""
    with NftFence.load() as made:
        made.close([VIP4, VIP6])
        made.guard(link, CARRIER)
        yield made


@pytest.fixture
def loose(link: int) -> Iterator[NftFence]:
    """Guard eth0 as a carrier, as on a kernel that lets others change any table."""
    with NftFence.load(may_own=False) as made:
        made.close([VIP4, VIP6])
        made.guard(link, CARRIER)
        yield made


class Refusing(NftFence):
    """Refuses every change while a test says so."""

    refuses = False

    def _change(self, *change: Any) -> None:
        if self.refuses:
            raise FenceRefused("not now")
        super()._change(*change)


def test_a_link_that_could_not_be_relieved_of_the_fence_is_at_the_next_try(link: int) -> None:
    with Refusing.load() as made:
        made.close([VIP4])
        made.guard(link, CARRIER)
        made.refuses = True
        with pytest.raises(FenceRefused):
            made.unguard(link)
        assert not can_speak()
        made.refuses = False
        assert made.unguard(link)
        assert can_speak()


@pytest.mark.parametrize(
    ("left_ns", "timeout_ms"),
    [
        pytest.param(-SECOND, 0, id="past"),
        pytest.param(0, 0, id="now"),
        pytest.param(999_999, 0, id="less than a millisecond: 0 would be for ever"),
        pytest.param(19_999_999, 0, id="less than two of the longest ticks"),
        pytest.param(20_000_000, 20, id="the shortest"),
        pytest.param(400_999_999, 400, id="never longer than what is left"),
    ],
)
def test_an_element_never_outlives_its_deadline(left_ns: int, timeout_ms: int) -> None:
    assert nftfilters.timeout_ms(left_ns) == timeout_ms


MINUTE = 60 * SECOND


def change(fence: NftFence, *, wall_ns: int, timeout_ms: int = 60_000) -> None:
    """Open for a minute by clocks that were read wrongly: as if it had been held up, or the clock been set.

    `wall_ns` is what the wall clock said then, after what it says now.
    """
    now_ns = boot_ns()
    opening = nftfilters.admit([VIP4], now_ns + MINUTE, now_ns=now_ns, wall_ns=time.time_ns() + wall_ns)
    times = (each.to_bytes(8, "big") for each in (60_000, timeout_ms))
    fence._commit([b"".join(opening).replace(*times)])  # noqa: SLF001 - what only a frozen process can do


@pytest.mark.parametrize(
    ("wall_ns", "is_open"),
    [
        pytest.param(0, True, id="in time"),
        pytest.param(SECOND - MINUTE, True, id="held up"),
        pytest.param(-MINUTE, False, id="held up past its deadline"),
        pytest.param(MINUTE, False, id="a clock that was set back"),
    ],
)
def test_a_change_opens_only_between_its_beginning_and_its_deadline(
    fence: NftFence, wall_ns: int, *, is_open: bool
) -> None:
    change(fence, wall_ns=wall_ns)
    assert can_speak() == is_open


def test_an_element_that_ended_opens_nothing_whatever_the_clock_says(fence: NftFence) -> None:
    change(fence, wall_ns=0, timeout_ms=50)
    until = boot_ns() + SECOND // 20
    while boot_ns() < until:
        can_speak()
    assert not can_speak()


def test_a_deadline_passes_by_itself(fence: NftFence) -> None:
    deadline_ns = boot_ns() + SECOND // 5
    fence.admit([VIP4, VIP6], deadline_ns)
    spoke_at = []
    while (now := boot_ns()) < deadline_ns + SECOND // 10:
        if can_speak():
            spoke_at.append(now)
    assert spoke_at
    assert all(at < deadline_ns for at in spoke_at)
    assert {VIP4, VIP6} == fence.addresses


def test_a_refresh_moves_the_deadline_on_and_a_close_ends_it(fence: NftFence) -> None:
    fence.admit([VIP4], boot_ns() + SECOND // 10)
    fence.admit([VIP4], boot_ns() + 3600 * SECOND)
    until = boot_ns() + SECOND // 5
    while boot_ns() < until:
        assert can_speak()
    fence.close([VIP4])
    assert not can_speak()


@pytest.mark.parametrize("address", ["192.0.2.10", "2001:db8::10", "::", "255.255.255.255"])
def test_a_key_is_of_one_address(address: str) -> None:
    assert nftfilters.address_of(nftfilters.key(ip_address(address))) == ip_address(address)


def test_one_address_too_many_is_refused_and_the_others_stay(fence: NftFence) -> None:
    first = IPv4Address("198.51.100.0")
    with pytest.raises(FenceRefused, match=f"more than {MAX_ADDRESSES} addresses"):
        fence.close([first + number for number in range(MAX_ADDRESSES)])
    assert fence.addresses == {VIP4, VIP6}


def test_many_addresses_go_in_one_change(fence: NftFence) -> None:
    addresses = [IPv4Address("198.51.100.0") + number for number in range(500)]
    fence.close(addresses)
    fence.admit(addresses, boot_ns() + 60 * SECOND)
    assert fence.addresses == {VIP4, VIP6, *addresses}
    door = watched(fence)
    fence.forget_all([*addresses, *addresses])
    assert door.asked.count(BATCH) == 1
    fence.forget_all(addresses[:1])
    assert fence.addresses == {VIP4, VIP6}
    assert "198.51.100" not in nft("list", "ruleset")


THEFTS = [
    pytest.param(("flush", "ruleset"), id="flush ruleset"),
    pytest.param(("delete", "table", "netdev", "vipkeeper"), id="a table deleted"),
    pytest.param(("delete", "table", "inet", "vipkeeper"), id="the other table deleted"),
    pytest.param(("flush", "table", "netdev", "vipkeeper"), id="a table's rules gone"),
    pytest.param(("flush", "chain", "netdev", "vipkeeper", "depart"), id="a chain's rules gone"),
    pytest.param(("flush", "map", "netdev", "vipkeeper", "known"), id="no address known"),
    pytest.param(("flush", "set", "netdev", "vipkeeper", "gratuitous"), id="a new owner is not heard"),
]


@pytest.mark.parametrize("theft", THEFTS)
def test_what_others_take_away_is_missed_and_made_afresh(
    link: int, loose: NftFence, theft: tuple[str, ...]
) -> None:
    loose.admit([VIP6], boot_ns() + 60 * SECOND)
    before = nft("list", "ruleset").count("\n")
    assert not loose.mend()
    nft(*theft)
    missing = loose.guarded(link, CARRIER)
    assert missing is not None
    assert missing.reason == "FenceMissing"
    assert loose.mend()
    assert not loose.mend()
    assert loose.guarded(link, CARRIER) is None
    assert not can_speak()
    assert nft("list", "ruleset").count("\n") == before


@pytest.mark.parametrize("theft", THEFTS[:3])
def test_a_refresh_that_meets_no_fence_makes_it_afresh(loose: NftFence, theft: tuple[str, ...]) -> None:
    nft(*theft)
    loose.admit([VIP6], boot_ns() + 60 * SECOND)
    assert not loose.mend()
    assert not can_speak()


@pytest.mark.parametrize("theft", THEFTS)
def test_what_a_living_keeper_owns_is_not_taken_away(
    link: int, fence: NftFence, theft: tuple[str, ...]
) -> None:
    """Where the kernel knows tables that are owned and stay; elsewhere it is, and made afresh."""
    subprocess.run([shutil.which("nft") or "nft", *theft], capture_output=True, check=False)
    assert (fence.guarded(link, CARRIER) is None) == fence.owns_tables
    assert fence.mend() != fence.owns_tables
    assert not can_speak()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        pytest.param(errno.EOPNOTSUPP, "taken", id="the kernel does not know tables that are owned"),
        pytest.param(errno.EINVAL, "taken", id="an older one, which says so otherwise"),
        pytest.param(errno.ENOMEM, "Cannot allocate memory", id="anything else is no answer to that"),
    ],
)
@pytest.mark.usefixtures("link")
def test_only_a_kernel_without_owned_tables_goes_without_them(answer: int, outcome: str) -> None:
    class Answered(NftFence):
        def _commit(self, messages: Iterable[bytes]) -> None:
            written = b"".join(messages)
            if written == b"".join(nftfilters.trial(nftables.OWNED)):
                raise OSError(answer, os.strerror(answer))
            super()._commit([written])

    try:
        with Answered.load() as fence:
            found = "owned" if fence.owns_tables else "taken"
    except FenceRefused as refused:
        found = str(refused)
    assert found.endswith(outcome)


def test_what_others_can_do_to_the_fence_is_told() -> None:
    assert "neither flush nor change it" in fences.instead_of_bpf(is_owned=True)
    assert "others can flush it" in fences.instead_of_bpf(is_owned=False)


def test_what_a_dead_keeper_leaves_anybody_may_take_away(fence: NftFence) -> None:
    fence.release()
    assert not can_speak()
    nft("flush", "ruleset")
    assert nft("list", "ruleset") == ""


def test_changes_of_others_in_tables_of_their_own_are_none_of_ours(link: int, fence: NftFence) -> None:
    nft("add", "table", "inet", "theirs")
    assert fence.guarded(link, CARRIER) is None
    assert not fence.mend()
    fence.admit([VIP4], boot_ns() + 60 * SECOND)
    assert fence.guarded(link, CARRIER) is None
    assert "theirs" in nft("list", "tables")


def test_a_theft_is_told_with_the_programs_name_and_a_refresh_is_not(loose: NftFence) -> None:
    async def story() -> str:
        programs = loose.watch()
        news = asyncio.ensure_future(anext(programs))
        await asyncio.sleep(0)
        loose.admit([VIP4], boot_ns() + 60 * SECOND)
        await asyncio.to_thread(nft, "flush", "ruleset")
        program = await asyncio.wait_for(news, 10)
        await programs.aclose()
        return program

    assert asyncio.run(story()) == "nft"


def test_a_node_whose_fence_is_flushed_has_it_again_at_once_and_tells_who_did_it(link: int) -> None:
    async def story(kernel: Kernel) -> None:
        announcer = Announcer.open()
        with NftFence.load(may_own=False) as fence:
            node = Node(kernel=kernel, fence=fence, announcer=announcer, look_s=3600)
            await node.start_clean([WEB])
            assert fence.addresses == {VIP4}
            assert node.fence() == "Nftables"
            assert (node.problems(), fence.repairs) == ((), 0)
            looked = asyncio.Event()
            watching = asyncio.create_task(node.watch(looked.set))
            await looked.wait()
            await asyncio.to_thread(nft, "flush", "ruleset")
            while [problem.reason for problem in node.problems()] != ["FenceRemoved"]:
                looked.clear()
                await looked.wait()
            assert fence.guarded(link, CARRIER) is None
            assert not can_speak()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await node.leave_clean()
        announcer.close()

    run(story)


def test_what_another_program_does_right_after_an_installation_is_missed(link: int) -> None:
    class Robbed(NftFence):
        def _commit(self, messages: Iterable[bytes]) -> None:
            super()._commit(messages)
            if self.is_robbed:
                self.is_robbed = False
                nft("delete", "table", "netdev", "vipkeeper")

        is_robbed = False

    with Robbed.load(may_own=False) as fence:
        fence.is_robbed = True
        fence.close([VIP4])
        assert fence.mend()
        fence.guard(link, CARRIER)
        assert not can_speak()


class Door:
    """A fence's door with a listener, who notes the type of each question and may interrupt lists."""

    def __init__(self, door: socket.socket, interruptions: int) -> None:
        self._door = door
        self._interruptions = interruptions
        self.asked: list[int] = []

    def send(self, question: bytes) -> None:
        self.asked.append(int.from_bytes(question[4:6], sys.byteorder))
        self._door.send(question)

    def recv(self, size: int) -> bytes:
        answer = bytearray(self._door.recv(size))
        if self.asked[-1] == ASK_CHAINS and self._interruptions:
            self._interruptions -= 1
            del answer[int.from_bytes(answer[:4], sys.byteorder) :]
            answer[6] |= 0x10
        return bytes(answer)

    def close(self) -> None:
        self._door.close()


def watched(fence: NftFence, interruptions: int = 0) -> Door:
    door = Door(fence._door, interruptions)  # noqa: SLF001 - the kernel interrupts nothing when it is asked to
    fence._door = cast("Any", door)  # noqa: SLF001
    return door


def test_a_list_that_was_interrupted_is_asked_for_again(link: int, fence: NftFence) -> None:
    door = watched(fence, interruptions=1)
    fence.look_anew()
    assert fence.guarded(link, CARRIER) is None
    assert door.asked.count(ASK_CHAINS) == 2


def test_a_list_that_is_interrupted_again_and_again_is_not_believed(link: int, fence: NftFence) -> None:
    watched(fence, interruptions=1000)
    fence.look_anew()
    with pytest.raises(FenceRefused, match="it changed during each of 5 looks"):
        fence.guarded(link, CARRIER)


def test_a_look_lists_the_chains_once_and_the_next_one_again(link: int, fence: NftFence) -> None:
    door = watched(fence)
    for looks in (1, 2):
        fence.look_anew()
        for _ in range(3):
            assert fence.guarded(link, CARRIER) is None
        assert door.asked.count(ASK_CHAINS) == looks


def test_what_is_missing_is_looked_for_once(link: int, loose: NftFence) -> None:
    nft("flush", "ruleset")
    door = watched(loose)
    for _ in range(3):
        assert loose.guarded(link, CARRIER) is not None
    assert door.asked.count(ASK_RULES) == len(nftfilters.FAMILIES)


def test_a_guarded_link_reads_back_as_guarded(link: int) -> None:
    with NftFence.load() as fence:
        for role in (CARRIER, OTHER, CARRIER):
            missing = fence.guarded(link, role)
            assert missing is not None
            assert missing.reason == "FenceMissing"
            fence.guard(link, role)
            fence.guard(link, role)
            assert fence.guarded(link, role) is None


def test_a_link_that_is_renamed_is_guarded_anew_where_that_is_needed(link: int, fence: NftFence) -> None:
    """Newer kernels know a chain's link by its name; with older ones the chain stays where it was."""
    with IPRoute() as route:
        route.link("set", index=link, state="down")
        route.link("set", index=link, ifname="lan0")
        route.link("set", index=link, state="up")
    missing = fence.guarded(link, CARRIER)
    assert (missing is not None) is can_speak("lan0")
    assert missing is None or missing.reason == "FenceMissing"
    fence.guard(link, CARRIER)
    assert fence.guarded(link, CARRIER) is None
    assert not can_speak("lan0")


def test_a_link_that_comes_back_is_guarded_anew(link: int, fence: NftFence) -> None:
    with IPRoute() as route:
        route.link("del", index=link)
        with pytest.raises(FenceRefused, match="there is no such link any more"):
            fence.guard(link, CARRIER)
        fence.admit([VIP4], 0)
        route.link("add", ifname="eth0", kind="veth", peer={"ifname": "far0"})
        again = socket.if_nametoindex("eth0")
        for name in ("eth0", "far0"):
            route.link("set", index=socket.if_nametoindex(name), state="up")
    assert again != link
    assert fence.guarded(again, CARRIER) is not None
    fence.guard(again, CARRIER)
    assert fence.guarded(again, CARRIER) is None
    assert not can_speak()
    assert f"in-{link}" not in nft("list", "ruleset")


@pytest.mark.parametrize("backend", ["bpf", "nftables"])
def test_guests_of_a_bridge_reach_the_owner_past_a_closed_fence(backend: Backend) -> None:
    """Also where the bridge hands what it forwards to the hooks of IP (br_netfilter), as Kubernetes wants."""
    node, owner, client = (new_network() for _ in range(3))
    try:
        with entered(node), IPRoute() as route, fences.load(backend) as fence:
            for switch in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
                switch.write_text("1", encoding="ascii")
            route.link("add", ifname="br0", kind="bridge")
            bridge = socket.if_nametoindex("br0")
            for port, guest, address in (("p1", owner, str(VIP4)), ("p2", client, "192.0.2.2")):
                peer = {"ifname": "eth0", "net_ns_fd": guest}
                route.link("add", ifname=port, kind="veth", peer=peer)
                route.link("set", index=socket.if_nametoindex(port), master=bridge, state="up")
                with entered(guest), IPRoute() as inner:
                    inner.link("set", index=socket.if_nametoindex("eth0"), state="up")
                    inner.addr("add", index=socket.if_nametoindex("eth0"), address=address, prefixlen=24)
            route.link("set", index=bridge, state="up")
            route.addr("add", index=bridge, address="192.0.2.1", prefixlen=24)
            fence.close([VIP4, VIP6])

            async def guard(kernel: Kernel) -> None:
                await kernel.guard(bridge, fence, CARRIER)

            run(guard)
            with entered(owner):
                server = socket.create_server((str(VIP4), 8080))
            with server, entered(client), socket.create_connection((str(VIP4), 8080), timeout=10) as asker:
                end, _ = server.accept()
                with end:
                    end.sendall(b"hello")
                    assert asker.recv(5) == b"hello"
            assert not can_speak("br0")
    finally:
        for network in (node, owner, client):
            os.close(network)


def test_loopback_is_not_judged(link: int, fence: NftFence) -> None:
    with IPRoute() as route:
        route.addr("add", index=link, address=str(VIP4), prefixlen=32)
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind((str(VIP4), 8080))
        server.settimeout(10)
        client.bind((str(VIP4), 0))
        client.sendto(b"hello", (str(VIP4), 8080))
        assert server.recv(16) == b"hello"
    assert fence.addresses == {VIP4, VIP6}


@pytest.mark.parametrize("backend", ["bpf", "nftables"])
def test_a_program_on_a_standby_reaches_a_service_that_its_own_node_answers(
    link: int, backend: Backend
) -> None:
    """As kube-proxy does for the address of a LoadBalancer with an endpoint in the node's own network."""
    nft("add table ip theirs; add chain ip theirs out { type nat hook output priority -100; }")
    nft(f"add rule ip theirs out ip daddr {VIP4} dnat to 192.0.2.1")

    async def story(kernel: Kernel) -> None:
        with fences.load(backend) as fence:
            announcer = Announcer.open()
            node = Node(kernel=kernel, fence=fence, announcer=announcer)
            await node.start_clean([WEB])
            loop = asyncio.get_running_loop()
            with socket.create_server(("192.0.2.1", 80)) as server, socket.socket() as client:
                server.settimeout(0)
                client.settimeout(0)
                async with asyncio.timeout(5):
                    await loop.sock_connect(client, (str(VIP4), 80))
                    end, _ = await loop.sock_accept(server)
                    await loop.sock_sendall(end, b"hello")
                    assert await loop.sock_recv(client, 5) == b"hello"
                end.close()
            await node.leave_clean()
        announcer.close()

    with IPRoute() as route:
        route.addr("add", index=link, address="192.0.2.1", prefixlen=24)
    run(story)


@pytest.mark.parametrize("where", [tcx.INGRESS, tcx.EGRESS])
def test_a_carrier_with_a_tcx_program_of_others_is_bypassed(link: int, fence: NftFence, where: int) -> None:
    async def story(kernel: Kernel) -> None:
        assert await kernel.guarded(link, fence, CARRIER) is None
        tcx.attach_first(link, where)
        bypassed = await kernel.guarded(link, fence, CARRIER)
        assert bypassed is not None
        assert bypassed.reason == "FenceBypassed"
        fence.guard(link, OTHER)
        assert await kernel.guarded(link, fence, OTHER) is None

    run(story)


def test_a_carrier_with_a_tc_filter_of_others_is_bypassed(link: int, fence: NftFence) -> None:
    async def story(kernel: Kernel) -> None:
        async with AsyncIPRoute() as route:
            with Fence.load() as bpf:
                await kernel.guard(link, bpf, CARRIER)
                assert await kernel.guarded(link, fence, CARRIER) is None
                theirs = {"fd": bpf.egress_fd, "name": "theirs", "direct_action": True}
                await route.tc("add-filter", "bpf", link, 1, parent=0xFFFFFFF3, prio=7, **theirs)
        bypassed = await kernel.guarded(link, fence, CARRIER)
        assert bypassed is not None
        assert (bypassed.reason, "tc filter (bpf theirs" in bypassed.message) == ("FenceBypassed", True)

    run(story)


def test_a_look_that_is_refused_by_the_fence_is_followed_by_another(link: int) -> None:
    class Stubborn(NftFence):
        is_stubborn = False

        def _change(self, change: Iterable[bytes], deadlines: dict[IPAddress, int], attempt: str) -> None:
            if self.is_stubborn:
                raise FenceRefused(attempt)
            super()._change(change, deadlines, attempt)

    async def story(kernel: Kernel) -> None:
        with Stubborn.load() as fence:
            announcer = Announcer.open()
            node = Node(kernel=kernel, fence=fence, announcer=announcer)
            await node.start_clean([WEB])
            await kernel.bind(VIP6, LinkIndex(link), lifetime_s=60)  # with our mark: to be closed and unbound
            fence.is_stubborn = True
            node.plan([])
            await node.look()
            assert fence.addresses == {VIP4}
            fence.is_stubborn = False
            await node.look()
            await node.look()
            assert fence.addresses == frozenset()
            await node.leave_clean()
        announcer.close()

    run(story)


def test_a_trial_leaves_nothing_and_touches_nothing(link: int, fence: NftFence) -> None:
    before = nft("list", "ruleset")
    NftFence.load().release()
    assert nft("list", "ruleset") == before
    assert fence.guarded(link, CARRIER) is None


@pytest.mark.parametrize(
    ("old_owns", "new_owns"),
    [
        pytest.param(True, True, id="of its kind"),
        pytest.param(False, True, id="that left its tables to everybody"),
        pytest.param(True, False, id="that owned its tables, by one that does not"),
    ],
)
def test_a_new_keeper_takes_over_what_the_old_one_knew_closed(
    link: int, *, old_owns: bool, new_owns: bool
) -> None:
    with NftFence.load(may_own=old_owns) as old:
        old.close([VIP4, VIP6])
        old.guard(link, CARRIER)
        old.admit([VIP4], boot_ns() + 60 * SECOND)
    assert can_speak()
    with NftFence.load(may_own=new_owns) as new:
        assert new.addresses == frozenset()
        new.close([VIP6])
        assert new.addresses == {VIP4, VIP6}
        assert new.guarded(link, CARRIER) is None
        assert not can_speak()


def test_clearing_leaves_nothing_of_ours_and_all_of_others(fence: NftFence) -> None:
    fence.release()
    nft("add", "table", "inet", "theirs")
    assert clear()
    assert nft("list", "ruleset").split() == ["table", "inet", "theirs", "{", "}"]
    assert not clear()


def test_a_sweep_leaves_nothing_of_it(fence: NftFence, tmp_path: Path) -> None:
    fence.release()
    assert not can_speak()
    asyncio.run(sweep(Disk(tmp_path)))
    assert nft("list", "ruleset") == ""
    assert can_speak()


@pytest.mark.parametrize(
    ("first", "second"),
    [pytest.param("bpf", "nftables", id="to nftables"), pytest.param("nftables", "bpf", id="to BPF")],
)
def test_the_other_kind_of_fence_takes_over_without_a_gap(link: int, first: Backend, second: Backend) -> None:
    async def story(kernel: Kernel) -> None:
        with fences.load(first) as old, fences.load(second) as new:
            old.close([VIP4])
            await kernel.guard(link, old, CARRIER)
            assert not can_speak()
            new.close([VIP4])
            await kernel.guard(link, new, CARRIER)
            assert await kernel.guarded(link, new, CARRIER) is None
            new.admit([VIP4], boot_ns() + 60 * SECOND)
            assert not can_speak()  # the old one stands until it is retired
            old.release()
            assert not can_speak()
            new.close([VIP4])
            assert await fences.retire(kernel, new)
            assert not can_speak()
            new.admit([VIP4], boot_ns() + 60 * SECOND)
            assert can_speak()
            assert not await fences.retire(kernel, new)

    run(story)


def run(story: Callable[[Kernel], Awaitable[None]]) -> None:
    async def tell() -> None:
        async with asyncio.timeout(30), Kernel.open() as kernel:
            await story(kernel)

    asyncio.run(tell())


class WithoutNftables:
    """The door to a kernel with nfnetlink and without nf_tables."""

    def __init__(self, code: int) -> None:
        self._code = code
        self._answers: list[bytes] = []

    def send(self, question: bytes) -> None:
        self._answers.append(struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -self._code) + question[:16])

    def recv(self, _size: int) -> bytes:
        if not self._answers:
            raise BlockingIOError
        return self._answers.pop()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.ENOENT])
def test_a_kernel_without_nftables_has_nothing_to_take_away(code: int) -> None:
    assert not NftFence(cast("Any", WithoutNftables(code))).uninstall()


def test_a_refused_question_is_not_taken_for_nothing() -> None:
    with pytest.raises(FenceRefused):
        NftFence(cast("Any", WithoutNftables(errno.ENOMEM))).uninstall()


def test_what_is_refused_of_one_kind_leaves_nothing_of_the_other(link: int) -> None:
    async def story(kernel: Kernel) -> None:
        with NftFence(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)) as owner, Fence.load() as bpf:
            owner._door.bind((0, 0))  # noqa: SLF001
            owner._door.settimeout(0)  # noqa: SLF001
            name = nftables.attribute(1, b"vipkeeper\0")
            flags = nftables.attribute(2, (2).to_bytes(4, "big"))  # NFT_TABLE_F_OWNER
            owned = nftables.message(10 << 8, 0x400, nftables.INET, name + flags)
            owner._commit([owned, nftables.add_chain(nftables.INET, "vipkeeper", "a")])  # noqa: SLF001
            bpf.close([VIP4])
            await kernel.guard(link, bpf, CARRIER)
            assert not can_speak()
            with pytest.raises(FenceRefused, match="a keeper that still runs owns the tables"):
                await fences.retire(kernel, None)
            assert can_speak()

    run(story)


@pytest.mark.usefixtures("link")
def test_a_node_stays_unfit_while_a_former_keepers_bpf_cannot_be_removed_whole() -> None:
    trial = """
import asyncio, socket
from agent import tcx
from agent.test_capabilities import keep_only
from agent.test_nftfence import WEB
from vipagent import fences
from vipagent.announcer import Announcer
from vipagent.fence import Fence
from vipagent.kernel import Kernel
from vipagent.node import Node
from vipagent.nodeview import GuardRole
async def work():
    index = socket.if_nametoindex("eth0")
    tcx.attach_first(index, tcx.INGRESS)
    async with Kernel.open() as kernel:
        with Fence.load() as bpf:
            await kernel.guard(index, bpf, GuardRole.CARRIER)
        keep_only(12, 13)
        announcer = Announcer.open()
        with fences.load("nftables") as fence:
            node = Node(kernel=kernel, fence=fence, announcer=announcer)
            await node.start_clean([WEB])
            print(node.obstacles()["web-uid"].reason, node.problems()[0].message)
            await node.leave_clean()
        announcer.close()
asyncio.run(work())
"""
    ran = tell(trial)
    assert ran.startswith("FenceMissing cannot remove the BPF fence of a former keeper from link ")
    assert "give this keeper the capability BPF" in ran

    async def story(kernel: Kernel) -> None:
        index = socket.if_nametoindex("eth0")
        assert len(tcx.programs(index, tcx.INGRESS)) == 2
        with NftFence.load() as fence:
            assert await fences.retire(kernel, fence)
        assert len(tcx.programs(index, tcx.INGRESS)) == 1

    run(story)


def tell(trial: str) -> str:
    """Run a program in this namespace that gives up capabilities, and return what it prints."""
    ran = subprocess.run(
        [sys.executable, "-c", trial],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.usefixtures("link")
def test_auto_takes_what_the_kernel_gives() -> None:
    trial = """
from agent.test_capabilities import keep_only
from vipagent import fences
from vipagent.packetfence import FenceRefused
for capabilities in ((12, 39), (12,), ()):
    keep_only(*capabilities)
    try: print(fences.kind(fences.load("auto")))
    except FenceRefused as refused: print(refused)
"""
    with_both, without_bpf, without_any = tell(trial).splitlines()
    assert (with_both, without_bpf) == ("BPF", "Nftables")
    assert "BPF and NET_ADMIN" in without_any
    assert "Instead of BPF: nftables refused to be asked at all: not permitted" in without_any


def test_a_kernel_without_bpf_is_fenced_by_nftables_and_one_without_either_says_so(
    link: int, tmp_path: Path
) -> None:
    trial = f"""
import asyncio, pathlib
from agent import seccomp
from agent.test_nftfence import WEB, can_speak
from vipagent import fences
from vipagent.announcer import Announcer
from vipagent.packetfence import FenceRefused
from vipagent.kernel import Kernel
from vipagent.node import Node
from vipagent.preflight import inspect, look
folder = pathlib.Path({str(tmp_path)!r})
async def work():
    async with Kernel.open() as kernel:
        announcer = Announcer.open()
        with fences.load("auto") as fence:
            node = Node(kernel=kernel, fence=fence, announcer=announcer)
            await node.start_clean([WEB])
            print(node.fence(), node.problems(), node.obstacles()["web-uid"].reason, can_speak())
            await node.leave_clean()
        announcer.close()
seccomp.take_bpf_away()
print(inspect(look(folder)))
asyncio.run(work())
print(*(each.message for each in inspect(look(folder, "bpf"))))
seccomp.take_netfilter_away()
print(*(each.message for each in inspect(look(folder, "nftables"))))
print(*(each.message for each in inspect(look(folder))))
try: fences.load("auto")
except FenceRefused as refused: print(refused)
"""
    with IPRoute() as route:
        route.addr("add", index=link, address="192.0.2.1", prefixlen=24)
    ready, running, without_bpf, without_nftables, *without_either = tell(trial).splitlines()
    assert ready == "()"
    assert running == "Nftables () NotArmed False"
    assert "this kernel has no bpf system call" in without_bpf
    assert "CONFIG_NF_TABLES_NETDEV" in without_nftables
    assert without_either == [without_either[0]] * 2
    assert "this kernel has no bpf system call" in without_either[0]
    assert "Instead of BPF: nftables refused to be asked at all: this kernel does not" in without_either[0]


def test_a_batch_asks_for_one_answer() -> None:
    pieces = [
        nftables.add_table(nftables.INET, "a") + nftables.add_table(nftables.INET, "b"),
        nftables.add_table(nftables.INET, "c") + nftables.add_table(nftables.INET, "d"),
    ]
    written = nftables.batch(pieces)
    names = [
        nftables.text_of(nftables.attributes_of(body).get(1, b""))
        for _, _, body in nftables.messages_of(written)
    ]
    assert names == ["", "a", "b", "c", "d", ""]
    asked, offset = [], 0
    while offset < len(written):
        asked.append(int.from_bytes(written[offset + 6 : offset + 8], sys.byteorder) & 4)
        offset += int.from_bytes(written[offset : offset + 4], sys.byteorder)
    assert asked == [0, 0, 0, 0, 4, 0]
