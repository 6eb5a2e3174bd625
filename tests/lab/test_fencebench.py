"""What the fence's bench makes of what a client asked and was answered."""

from __future__ import annotations

import errno
import struct

import pytest

from lab import fencebench, fencenode
from lab.fencebench import CONTROL, KINDS, Conversation, PartEndedError
from lab.fencenode import MILLISECOND

DEADLINE_NS = 1000 * MILLISECOND


def talk(*answers_ms: float) -> Conversation:
    """Ask every kind each millisecond, answered at these times; the control is silent for 9 ms."""
    told = Conversation()
    for kind in KINDS:
        told.asked += [(kind, at_ms * MILLISECOND) for at_ms in range(990, 1010)]
        told.answered += [(kind, int(at_ms * MILLISECOND)) for at_ms in answers_ms]
    told.answered += [(CONTROL, at_ms * MILLISECOND) for at_ms in (992, 1001, 1008)]
    return told


@pytest.mark.parametrize(
    ("answers_ms", "arrived_ms", "asked_ms", "unanswered_ms"),
    [
        pytest.param((995.1, 998.1), -1.9, -2.0, -1.0, id="before"),
        pytest.param((999.9, 1000.1), 0.1, 0.0, 1.0, id="on the way at the deadline"),
        pytest.param((1003.1, 990.1), 3.1, 3.0, 4.0, id="asked after it"),
        pytest.param((1009.1,), 9.1, 9.0, 9.0, id="to the very last question"),
    ],
)
def test_a_last_answer_belongs_to_the_question_before_it(
    answers_ms: tuple[float, ...], arrived_ms: float, asked_ms: float, unanswered_ms: float
) -> None:
    found = list(fencebench.lasts(talk(*answers_ms), DEADLINE_NS))
    assert [each.kind for each in found] == list(KINDS)
    for each in found:
        assert each.stall_ms == 9
        assert (each.arrived_ms, each.asked_ms, each.unanswered_ms) == (arrived_ms, asked_ms, unanswered_ms)


def test_the_control_is_no_answer_of_the_addresses() -> None:
    assert talk(995.0).answers() == [995 * MILLISECOND] * len(KINDS)


def test_a_node_that_never_answered_is_no_fence_that_closed() -> None:
    with pytest.raises(PartEndedError, match="did not answer ARP"):
        list(fencebench.lasts(talk(), DEADLINE_NS))


@pytest.mark.parametrize(
    ("answer", "refusal"),
    [
        pytest.param(struct.pack("=IHHIIi", 20, 2, 0, 0, 0, -errno.EPERM), errno.EPERM, id="a refusal"),
        pytest.param(struct.pack("=IHHII", 16, 1, 0, 0, 0), errno.EIO, id="something else"),
        pytest.param(b"", errno.EIO, id="nothing"),
    ],
)
def test_a_robbery_that_the_kernel_refuses_is_none(answer: bytes, refusal: int) -> None:
    with pytest.raises(OSError, match="did not do it") as raised:
        fencenode.require_done(answer)
    assert raised.value.errno == refusal


def test_a_robbery_that_the_kernel_has_done_is_one() -> None:
    fencenode.require_done(struct.pack("=IHHIIi", 20, 2, 0, 0, 0, 0))
