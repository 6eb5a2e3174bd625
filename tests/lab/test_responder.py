"""What counts as an answer to a probe, where faults send strange datagrams."""

from __future__ import annotations

import pytest

from lab.responder import QUESTION, read

ASKED = QUESTION.pack(7)


def test_an_answer_says_when_it_was_asked_and_who_answers() -> None:
    assert read(ASKED + b"node-a") == (7, "node-a")


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(ASKED[:5], id="half a question"),
        pytest.param(ASKED, id="nobody's name"),
        pytest.param(ASKED + b"-", id="a name without a letter"),
        pytest.param(ASKED + b"n\xc4de", id="no name"),
        pytest.param(b"VK\x01\x01" + bytes(40), id="a keeper's datagram"),
    ],
)
def test_what_is_no_answer_is_told_and_ends_nothing(
    strange: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(strange) is None
    assert capsys.readouterr().err == f"no answer to a probe: {strange.hex()}\n"
