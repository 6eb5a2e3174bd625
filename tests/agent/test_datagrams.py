"""What a keeper believes of what comes in by UDP: everything whole, fresh and signed, and nothing else."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent.datagrams import Codec, Configuration, DatagramRefused, domain_tag
from vipagent.messages import (
    Ack,
    Denied,
    Free,
    Granted,
    Handover,
    Message,
    Offer,
    Prepare,
    Ready,
    Release,
    Released,
    Request,
    Want,
)

_KEY = bytes(range(16))
_DOMAIN = Configuration(domain_uid="7d0c", epoch=1, config_hash="a1")
_SECRET = b"s" * 32
_OVERHEAD = 24 + 16

MESSAGES = [
    pytest.param(Request(7, 123_456_789, 1000, (Want(_KEY, 3, is_held=True),), (_KEY,)), id="Request"),
    pytest.param(
        Ack(
            5,
            7,
            123_456_789,
            1000,
            (Granted(_KEY, 3, "node-b"), Granted(_KEY, 4, None)),
            (Denied(_KEY, "node-c", 9), Denied(_KEY, None, 9)),
            (Free(_KEY, 2, 8, None, 0, was_released=False), Free(_KEY, 0, 8, "node-d", 5, was_released=True)),
        ),
        id="Ack",
    ),
    pytest.param(Release(8, _KEY, "node-b"), id="Release"),
    pytest.param(Released(5, 8, _KEY), id="Released"),
    pytest.param(Offer((Free(_KEY, 0, 1, None, 0, was_released=False),)), id="Offer"),
    pytest.param(Prepare(5, _KEY), id="Prepare"),
    pytest.param(Ready(5, _KEY), id="Ready"),
    pytest.param(Handover(_KEY, 4), id="Handover"),
]

_MESSAGE = Release(8, _KEY, None)


def codec(
    me: str = "node-a",
    *,
    incarnation: int = 5,
    configuration: Configuration = _DOMAIN,
    keys: dict[int, bytes] | None = None,
    signing_key: int = 1,
    peers: frozenset[str] = frozenset({"node-a", "node-b", "node-c"}),
) -> Codec:
    return Codec(
        me=me,
        incarnation=incarnation,
        configuration=configuration,
        keys=keys or {1: _SECRET},
        signing_key=signing_key,
        peers=peers,
    )


def refusal(receiver: Codec, datagram: bytes) -> str | None:
    try:
        receiver.open(datagram)
    except DatagramRefused as refused:
        return refused.refusal
    return None


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    envelope = codec("node-b").open(codec("node-a").seal("node-b", message))
    assert (envelope.sender, envelope.incarnation, envelope.message) == ("node-a", 5, message)


@pytest.mark.parametrize(
    ("sender", "refused"),
    [
        pytest.param(codec(keys={1: b"x" * 32}), "Forged", id="another secret"),
        pytest.param(codec(keys={2: _SECRET}, signing_key=2), "UnknownKey", id="a key that we do not have"),
        pytest.param(codec(configuration=Configuration("0bad", 1, "a1")), "Domain", id="another domain"),
        pytest.param(codec(configuration=Configuration("7d0c", 2, "a1")), "Epoch", id="a newer epoch"),
        pytest.param(
            codec(configuration=Configuration("7d0c", 1, "b2")), "Epoch", id="the same epoch, another content"
        ),
        pytest.param(codec("node-z"), "Sender", id="a node that is no member"),
    ],
)
def test_a_stranger_is_refused(sender: Codec, refused: str) -> None:
    assert refusal(codec("node-b"), sender.seal("node-b", _MESSAGE)) == refused


def test_what_was_sent_to_another_node_is_refused() -> None:
    assert refusal(codec("node-b"), codec().seal("node-c", _MESSAGE)) == "Receiver"


def test_every_truncation_is_refused() -> None:
    datagram, receiver = codec().seal("node-b", _MESSAGE), codec("node-b")
    for length in range(len(datagram)):
        expected = "Truncated" if length < _OVERHEAD else "Forged"
        assert refusal(receiver, datagram[:length]) == expected, length


def test_every_flipped_bit_is_refused() -> None:
    datagram, receiver = codec().seal("node-b", _MESSAGE), codec("node-b")
    for at in range(len(datagram)):
        for bit in range(8):
            flipped = bytearray(datagram)
            flipped[at] ^= 1 << bit
            expected = {0: "NotOurs", 1: "NotOurs", 2: "Version", 3: "UnknownKey"}.get(at, "Forged")
            assert refusal(receiver, bytes(flipped)) == expected, (at, bit)


def test_anything_added_is_refused() -> None:
    datagram = codec().seal("node-b", _MESSAGE)
    assert refusal(codec("node-b"), datagram + b"\0") == "Forged"


def test_the_same_datagram_counts_once() -> None:
    datagram, receiver = codec().seal("node-b", _MESSAGE), codec("node-b")
    assert refusal(receiver, datagram) is None
    assert refusal(receiver, datagram) == "Replayed"


def test_datagrams_that_overtook_each_other_all_count_once() -> None:
    sender, receiver = codec(), codec("node-b")
    datagrams = [sender.seal("node-b", _MESSAGE) for _ in range(256)]
    assert [refusal(receiver, datagram) for datagram in reversed(datagrams)] == [None] * 256
    assert [refusal(receiver, datagram) for datagram in datagrams] == ["Replayed"] * 256


def test_what_fell_out_of_the_window_is_taken_for_a_replay() -> None:
    sender, receiver = codec(), codec("node-b")
    datagrams = [sender.seal("node-b", _MESSAGE) for _ in range(257)]
    assert refusal(receiver, datagrams[-1]) is None
    assert refusal(receiver, datagrams[0]) == "Replayed"
    assert refusal(receiver, datagrams[1]) is None


def test_a_jump_of_any_length_forgets_nothing_that_is_newer() -> None:
    sender, receiver = codec(), codec("node-b")
    datagrams = [sender.seal("node-b", _MESSAGE) for _ in range(2000)]
    assert [refusal(receiver, datagrams[at]) for at in (0, 1500, 1500, 1400, 1400, 0)] == [
        None, None, "Replayed", None, "Replayed", "Replayed",
    ]  # fmt: skip


def test_an_older_incarnation_is_not_heard_again() -> None:
    receiver = codec("node-b")
    before, after = codec(incarnation=5), codec(incarnation=6)
    late = before.seal("node-b", _MESSAGE)
    assert refusal(receiver, before.seal("node-b", _MESSAGE)) is None
    assert refusal(receiver, after.seal("node-b", _MESSAGE)) is None
    assert refusal(receiver, late) == "Incarnation"


def test_windows_are_kept_for_each_sender() -> None:
    receiver = codec("node-b")
    for name in ("node-a", "node-c"):
        assert refusal(receiver, codec(name).seal("node-b", _MESSAGE)) is None


def test_a_refused_datagram_moves_no_window() -> None:
    sender, receiver = codec(), codec("node-b")
    first, second = sender.seal("node-b", _MESSAGE), sender.seal("node-b", _MESSAGE)
    forged = second[:-1] + bytes([second[-1] ^ 1])
    assert [refusal(receiver, datagram) for datagram in (forged, first, second)] == ["Forged", None, None]


def test_a_key_is_rotated_without_a_lost_datagram() -> None:
    old, new = {1: _SECRET}, {2: b"n" * 32}
    sender, receiver = codec(keys=old), codec("node-b", keys=old)
    peers = frozenset({"node-a", "node-b"})
    receiver.adopt(keys=new | old, signing_key=2, peers=peers)
    assert refusal(receiver, sender.seal("node-b", _MESSAGE)) is None
    sender.adopt(keys=new | old, signing_key=2, peers=peers)
    datagram = sender.seal("node-b", _MESSAGE)
    assert refusal(receiver, datagram) is None
    receiver.adopt(keys=new, signing_key=2, peers=peers)
    assert refusal(receiver, datagram) == "Replayed"
    assert refusal(receiver, codec(keys=old).seal("node-b", _MESSAGE)) == "UnknownKey"


@pytest.mark.parametrize("secret", [pytest.param(b"", id="empty"), pytest.param(b"x" * 15, id="short")])
def test_a_key_that_anybody_could_have_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="heartbeat key 1 has"):
        codec(keys={1: secret})


def test_the_domain_can_be_told_before_anything_is_believed() -> None:
    sender = codec()
    assert domain_tag(sender.seal("node-b", _MESSAGE)) == sender.tag()
    assert domain_tag(b"GET / HTTP/1.1\r\n" + bytes(40)) is None
    assert domain_tag(b"VK") is None


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(datagram: bytes) -> None:
    assert refusal(codec("node-b"), datagram) is not None


@given(st.binary(max_size=200), st.integers(0, 255))
def test_random_bytes_behind_a_true_header_are_refused(rest: bytes, key_id: int) -> None:
    header = bytearray(codec().seal("node-b", _MESSAGE)[:24])
    header[3] = key_id
    assert refusal(codec("node-b"), bytes(header) + rest) is not None


class _Signer(Codec):
    """A member that signs whatever it is given."""

    def sign(self, body: bytes) -> bytes:
        from vipagent import datagrams  # noqa: PLC0415 - what only a test may do

        sealed = self._header + body
        return sealed + datagrams._authenticate(self._keys[self._signing_key], sealed)  # noqa: SLF001


def _signer() -> _Signer:
    return _Signer(
        me="node-a",
        incarnation=5,
        configuration=_DOMAIN,
        keys={1: _SECRET},
        signing_key=1,
        peers=frozenset({"node-b"}),
    )


@given(st.binary(max_size=200))
def test_signed_garbage_is_garbage(body: bytes) -> None:
    assert refusal(codec("node-b"), _signer().sign(body)) == "Garbage"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(st.lists(_VALUES, max_size=6))
def test_a_signed_body_of_another_shape_is_garbage(body: list[object]) -> None:
    assert refusal(codec("node-b"), _signer().sign(msgspec.msgpack.encode(body))) == "Garbage"


@given(st.lists(_VALUES, min_size=1, max_size=6))
def test_no_signed_message_of_whatever_shape_breaks_the_keeper(message: list[object]) -> None:
    body = msgspec.msgpack.encode(["node-a", "node-b", 5, 1, ["request", *message]])
    assert refusal(codec("node-b"), _signer().sign(body)) in {"Garbage", None}
