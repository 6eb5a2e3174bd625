"""What bad weather makes of a datagram, before it is sent."""

from __future__ import annotations

import random

import pytest

from lab import weather
from lab.inquirer import checksum, question
from vipagent import datagrams, messages
from vipagent.datagrams import Codec, DatagramRefused

KEY = bytes(range(32))
SENDER, RECEIVER = (messages.Sender(name, b"machine", 1) for name in ("node-a", "node-b"))


def sealed() -> bytes:
    codec = Codec(me=SENDER, domain_uid="uid")
    codec.adopt(keys={1: KEY}, peers=frozenset({"node-b"}))
    return codec.seal("node-b", messages.GetConfig())


def opening() -> Codec:
    codec = Codec(me=RECEIVER, domain_uid="uid")
    codec.adopt(keys={1: KEY}, peers=frozenset({"node-a"}))
    return codec


def heard(payload: bytes) -> bytes:
    """The frame in which the bridge hears a datagram, padded as short frames are."""
    empty = question(
        own_mac="02:00:00:00:00:65",
        own_address="192.0.2.101",
        own_port=7946,
        mac="02:00:00:00:00:66",
        address="192.0.2.102",
    ).frame(0)
    return weather.with_payload(empty, payload) + bytes(12)


def fates(kind: str, payload: bytes) -> list[tuple[float, bytes]]:
    chance = random.Random(kind)
    return [each for _ in range(200) for each in weather.fate(kind, heard(payload), chance)]


@pytest.mark.parametrize(
    ("kind", "latest_s", "times"),
    [
        pytest.param("jitter", 0.04, (200, 200), id="jitter"),
        pytest.param("reordering", 0.06, (200, 200), id="reordering"),
        pytest.param("duplicates", 0.03, (60, 140), id="duplicates"),
        pytest.param("replays", 3, (200, 200), id="replays"),
    ],
)
def test_what_comes_late_or_again_is_what_was_said(
    kind: str, latest_s: float, times: tuple[int, int]
) -> None:
    payload = sealed()
    found = fates(kind, payload)
    assert times[0] <= len(found) <= times[1]
    assert len({late_s for late_s, _ in found}) > 1
    assert all(0 <= late_s <= latest_s for late_s, _ in found)
    assert {weather.payload_of(frame) for _, frame in found} == {payload}
    assert isinstance(opening().open(payload).message, messages.GetConfig)


@pytest.mark.parametrize("kind", ["truncated", "flipped", "wrong-key"])
def test_what_was_altered_is_not_what_was_said_and_is_refused(kind: str) -> None:
    payload = sealed()
    for _, frame in fates(kind, payload):
        altered = weather.payload_of(frame)
        assert altered != payload
        with pytest.raises(DatagramRefused):
            opening().open(altered)


def test_a_datagram_that_was_signed_with_a_wrong_key_is_forged_and_nothing_else() -> None:
    [(_, frame), *_] = fates("wrong-key", sealed())
    with pytest.raises(DatagramRefused, match="Forged"):
        opening().open(weather.payload_of(frame))


@pytest.mark.parametrize("kind", weather.KINDS)
def test_a_sent_frame_has_a_sound_header(kind: str) -> None:
    for _, frame in fates(kind, sealed()):
        header, length = frame[14:34], int.from_bytes(frame[38:40])
        assert checksum(header) == 0
        assert int.from_bytes(header[2:4]) == 20 + length == len(frame) - 14
        assert frame[:12] == heard(b"")[:12]


def test_the_tag_that_is_replaced_is_the_whole_tag() -> None:
    payload = sealed()
    assert datagrams.domain_tag(payload) == opening().tag()
    [(_, frame), *_] = fates("wrong-key", payload)
    altered = weather.payload_of(frame)
    assert altered[:-16] == payload[:-16]
    assert altered[-16:] != payload[-16:]
