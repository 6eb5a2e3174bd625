"""The fence on VLANs, on bonds and in VRFs: it judges there as on a plain link.

Nothing here is measured: a question about one of the node's own addresses, asked after those about the
virtual ones and answered, says that the node has dealt with those too.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether

from agent.segment import VIP4, VIP6, Kind, ipv4, mac, segment
from agent.test_fence_on_the_wire import (
    ALL_ANSWERS,
    CLIENT,
    OWNER,
    QUESTIONS,
    answer_kind,
    bind_both,
    boot_ns,
    held,
    loaded,
    open_prober,
)
from vipagent.nodeview import GuardRole

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterator

    from agent.segment import Segment
    from vipagent.fences import Backend

BACKENDS = pytest.mark.parametrize("backend", ["bpf", "nftables"])
ROUNDS = 5
OWN_QUESTION = bytes(
    Ether(src=mac(CLIENT), dst=mac(OWNER)) / IP(src=str(ipv4(CLIENT)), dst=str(ipv4(OWNER))) / ICMP()
)


@pytest.fixture(params=[kind for kind in Kind if kind is not Kind.PLAIN], ids=lambda kind: kind.value)
def wire(request: pytest.FixtureRequest) -> Iterator[Segment]:
    with segment(OWNER, CLIENT, kind=request.param) as made:
        yield made


def asked(raw: socket.socket) -> set[str]:
    """Ask all questions, and return which were answered before one that the node answers at any time."""
    for question in (*QUESTIONS, OWN_QUESTION):
        raw.send(question)
    found = set()
    while True:
        frame = raw.recv(2048)
        kind = answer_kind(frame)
        if kind is not None:
            found.add(kind)
        elif frame[12:14] == b"\x08\x00" and frame[26:30] == ipv4(OWNER).packed:
            return found


def answered(wire: Segment, wanted: Collection[str] = ()) -> set[str]:
    """Return which questions are answered: asks some times, and on until those that are wanted are.

    A node that could not look for its peer's MAC address while it was fenced tries again after a second.
    """
    found: set[str] = set()
    rounds = 0
    with wire.inside(CLIENT), open_prober() as raw:
        raw.settimeout(60)
        while rounds < ROUNDS or not found.issuperset(wanted):
            found |= asked(raw)
            rounds += 1
    return found


@BACKENDS
@pytest.mark.parametrize("role", GuardRole, ids=lambda role: role.value)
def test_a_closed_fence_silences_and_an_open_one_speaks(
    wire: Segment, backend: Backend, role: GuardRole
) -> None:
    with loaded(backend, wire) as fence:
        fence.close([VIP4, VIP6])
        with wire.inside(OWNER) as index:
            asyncio.run(bind_both(index, fence, role))
        assert answered(wire) == set()
        fence.admit([VIP4, VIP6], boot_ns() + 10**12)
        assert answered(wire, ALL_ANSWERS) == ALL_ANSWERS
        fence.close([VIP4])
        assert answered(wire, {"NDP", "IPv6"}) == {"NDP", "IPv6"}


@BACKENDS
@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL], ids=lambda blow: blow.name)
def test_a_holder_that_is_no_more_is_silent_after_its_deadline(
    wire: Segment, backend: Backend, blow: signal.Signals
) -> None:
    with held(wire, backend, open_ms=8000) as (holder, deadline_ns):
        holder.send_signal(blow)
        assert answered(wire, ALL_ANSWERS) == ALL_ANSWERS
        while boot_ns() < deadline_ns:
            answered(wire)
        assert answered(wire) == set()
