"""What a courier says, read in steps: the same as in one go, and never much at once."""

from __future__ import annotations

import gc
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent import lines
from vipapi import link
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.healthchecks import HealthCheck, TCPSocket
from vipapi.link import Vote, Votes
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Plan, Timing, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMBERS = tuple(Member(f"node-{n}", f"10.0.0.{n}") for n in range(1, 101))


def domain(virtual_ips: int) -> DomainPlan:
    candidates = tuple(CandidatePlan(member.node, 100) for member in MEMBERS)
    return DomainPlan(
        name="default",
        uid="domain-uid",
        port=7946,
        timing=Timing(100, 400, 500, 600),
        configuration=Configuration(epoch=1, witnesses=WitnessSet(MEMBERS[:3])).sealed("domain-uid"),
        members=MEMBERS,
        keys=(Key(1, b"k" * 32),),
        virtual_ips=tuple(
            VirtualIPPlan(
                uid=f"uid-{n}",
                name=f"web-{n}",
                addresses=(f"10.1.{n // 250}.{n % 250 + 1}/16",),
                candidates=candidates,
                health_checks=(HealthCheck("port", tcp_socket=TCPSocket(80)),),
            )
            for n in range(virtual_ips)
        ),
        deleted=("gone",),
        heartbeat_interface="eth0",
        gateway_probe="Off",
    )


def whole(line: bytes) -> Plan | Votes:
    said = lines.outline(line)
    if isinstance(said, Votes):
        return said
    steps = lines.read(said)
    try:
        while True:
            next(steps)
    except StopIteration as done:
        plan: Plan = done.value
        return plan


@given(st.lists(st.integers(0, 5), max_size=3))
def test_a_plan_read_in_steps_is_the_plan_that_was_said(sizes: list[int]) -> None:
    plan = Plan("node-1", tuple(domain(size) for size in sizes), ("10.0.0.1",))
    line = link.encode(plan)
    assert whole(line) == link.decode_for_keeper(line) == plan


def test_votes_are_read_at_once() -> None:
    votes = Votes((Vote("domain-uid", 5, 1, 1000, 1, 1),))
    assert lines.outline(link.encode(votes)) == votes


def _with(change: Callable[[DomainPlan], DomainPlan]) -> bytes:
    return link.encode(Plan("node-1", (change(domain(2)),)))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"", "truncated", id="nothing"),
        pytest.param(b'{"type":"report"}', "Invalid value 'report'", id="another kind of line"),
        pytest.param(b'{"type":"plan"}', "missing required field `node`", id="no node"),
        pytest.param(b'{"type":"plan","node":"a","domains":[{}]}', "missing required field", id="no domain"),
        pytest.param(
            link.encode(Plan("node-1", (domain(2),))).replace(b'"name":"web-1"', b'"name":7'),
            "domain default, VirtualIP number 2: Expected `str`",
            id="a VirtualIP of another shape",
        ),
        pytest.param(_with(lambda d: msgspec.structs.replace(d, port=0)), "there is no port 0", id="no port"),
        pytest.param(link.encode(Plan("node-1", format=99)), "upgrade the keeper", id="a newer format"),
    ],
)
def test_a_line_that_is_no_plan_is_refused_with_a_reason(line: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        whole(line)


@pytest.fixture
def without_collector() -> Iterator[None]:
    """As in the keeper, which collects garbage when nothing is due."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
def test_no_step_of_a_large_plan_takes_nearly_as_long_as_reading_it() -> None:
    line = link.encode(Plan("node-1", (domain(1000),)))
    times_s = [time.thread_time()]
    link.decode_for_keeper(line)
    times_s.append(time.thread_time())
    said = lines.outline(line)
    times_s.append(time.thread_time())
    assert isinstance(said, lines.PlanOutline)
    for _ in lines.read(said):
        times_s.append(time.thread_time())  # noqa: PERF401 - the clock is read after each step
    in_one_go_s, *steps_s = (after - before for before, after in pairwise(times_s))
    sys.stdout.write(
        f"{len(line)} bytes: {in_one_go_s * 1000:.1f} ms in one go, "
        f"{len(steps_s)} steps of up to {max(steps_s) * 1000:.1f} ms\n"
    )
    assert len(steps_s) > 2000
    assert max(steps_s) < in_one_go_s / 2
