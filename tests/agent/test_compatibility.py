"""Keepers of two releases side by side: while nodes are upgraded one by one, and after one was forgotten.

Two rules keep them talking. A release may append a field with a default to any message, and nobody who does
not know it minds; anything else is another version of the datagrams. And the present version on the
wire is written down here: bytes that changed are a new version too, and the release that brings it needs
to say how a cluster gets there.
"""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from agent.test_datagrams import MESSAGES, codec
from vipagent.messages import Message, Sender

ON_THE_WIRE = "4de0df7943403c6a7a35ee9bd002bd7ca2f096909f6597688c8eff24a33bbf3b"


def body_of(message: object, *newer: object) -> bytes:
    return msgspec.msgpack.encode(["node-a", b"m" * 8, 5, 1, "node-b", 1, message, *newer])


@pytest.mark.parametrize("message", MESSAGES)
def test_what_a_newer_release_appends_disturbs_nobody(message: Message) -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    assert isinstance(fields, list)
    for body in (body_of([*fields, "newer"]), body_of(fields, {"newer": 1})):
        envelope = codec("node-b").open(codec("node-a").sign(body, 1))
        assert envelope.sender == Sender("node-a", b"m" * 8, 5)
        assert envelope.message == message


def test_the_datagrams_of_this_version_are_those_that_other_nodes_run() -> None:
    sent = codec("node-a")
    bodies = b"".join(sent.seal("node-b", each.values[0]) for each in MESSAGES)  # type: ignore[arg-type]
    assert hashlib.sha256(bodies).hexdigest() == ON_THE_WIRE
