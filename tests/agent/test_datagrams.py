"""What a keeper believes of what comes in by UDP: everything whole, fresh and signed, and nothing else."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent.datagrams import MAXIMUM_SIZE, Codec, DatagramRefused, domain_tag
from vipagent.messages import (
    Ack,
    Config,
    Denied,
    Free,
    GetConfig,
    Granted,
    Handover,
    Message,
    Observation,
    Observe,
    Offer,
    Prepare,
    Ready,
    Release,
    Released,
    Request,
    Sender,
    Want,
)
from vipapi.configuration import Configuration, Member, Relation, WitnessSet
from vipapi.nodeplan import MOST_VIRTUAL_IPS

_KEY = bytes(range(16))
_SECRET = b"s" * 32
_MACHINE = b"m" * 8
_HEADER, _TAG = 32, 16

MESSAGES = [
    pytest.param(
        Request(7, 123_456_789, 1000, is_sound=True, wants=(Want(_KEY, 3, is_held=True),), polls=(_KEY,)),
        id="Request",
    ),
    pytest.param(
        Ack(
            5,
            7,
            123_456_789,
            1000,
            (
                Granted(_KEY, 3, "node-b", is_standby_sound=True),
                Granted(_KEY, 4, None, is_standby_sound=False),
            ),
            (Denied(_KEY, "node-c", 9, 8), Denied(_KEY, None, 9, 0)),
            (Free(_KEY, 2, 8, None, 0, was_released=False), Free(_KEY, 0, 8, "node-d", 5, was_released=True)),
        ),
        id="Ack",
    ),
    pytest.param(Release(8, _KEY, "node-b"), id="Release"),
    pytest.param(Released(5, 8, _KEY), id="Released"),
    pytest.param(Offer((Free(_KEY, 0, 1, None, 0, was_released=False),)), id="Offer"),
    pytest.param(Prepare(5, _KEY, is_sound=False), id="Prepare"),
    pytest.param(Ready(5, _KEY), id="Ready"),
    pytest.param(Handover(_KEY, 4), id="Handover"),
    pytest.param(GetConfig(), id="GetConfig"),
    pytest.param(Observe(5, _KEY, 4, is_announced=True, is_active=False), id="Observe"),
    pytest.param(Observation(5, _KEY, 4, (b"app-----",), (b"db------",)), id="Observation"),
    pytest.param(
        Config(
            Configuration(3, "h", "g", WitnessSet((Member("a", "192.0.2.1"),)), WitnessSet(), is_sealing=True)
        ),
        id="Config",
    ),
]

_MESSAGE = Release(8, _KEY, None)


def codec(
    me: str = "node-a",
    *,
    machine: bytes = _MACHINE,
    incarnation: int = 5,
    domain_uid: str = "7d0c",
    epoch: int = 1,
    this: str = "a1",
    former: str = "a0",
    keys: dict[int, bytes] | None = None,
    peers: frozenset[str] = frozenset({"node-a", "node-b", "node-c"}),
) -> Codec:
    made = Codec(me=Sender(me, machine, incarnation), domain_uid=domain_uid)
    made.configure(epoch=epoch, this=this, former=former)
    made.adopt(keys=keys or {1: _SECRET}, peers=peers)
    return made


def refusal(receiver: Codec, datagram: bytes) -> str | None:
    try:
        receiver.open(datagram)
    except DatagramRefused as refused:
        return refused.refusal
    return None


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    envelope = codec("node-b").open(codec("node-a").seal("node-b", message))
    assert envelope.sender == ("node-a", _MACHINE, 5)
    assert (envelope.relation, envelope.message) == (Relation.SAME, message)


@pytest.mark.parametrize(
    ("sender", "relation"),
    [
        pytest.param(codec(epoch=0, this="a0"), Relation.FORMER, id="one epoch behind"),
        pytest.param(codec(epoch=0, this="b0"), Relation.CONFLICT, id="one behind, but not on our way"),
        pytest.param(codec(epoch=2, this="a2", former="a1"), Relation.NEXT, id="one epoch ahead"),
        pytest.param(codec(epoch=2, this="b2", former="b1"), Relation.CONFLICT, id="ahead on another way"),
        pytest.param(codec(this="b1"), Relation.CONFLICT, id="the same epoch, another content"),
        pytest.param(codec(epoch=3, this="a3", former="a2"), Relation.AHEAD, id="two epochs ahead"),
    ],
)
def test_a_datagram_tells_how_its_sender_s_configuration_stands_to_ours(
    sender: Codec, relation: Relation
) -> None:
    assert codec("node-b").open(sender.seal("node-b", _MESSAGE)).relation is relation


def test_who_is_two_epochs_behind_is_told_apart() -> None:
    ahead = codec("node-b", epoch=3, this="a3", former="a2")
    assert ahead.open(codec().seal("node-b", _MESSAGE)).relation is Relation.BEHIND


@pytest.mark.parametrize(
    ("sender", "refused"),
    [
        pytest.param(codec(keys={1: b"x" * 32}), "Forged", id="another secret"),
        pytest.param(codec(keys={2: _SECRET}), "UnknownKey", id="a key that we do not have"),
        pytest.param(codec(domain_uid="0bad"), "Domain", id="another domain"),
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
        expected = "Truncated" if length < _HEADER + _TAG else "Forged"
        assert refusal(receiver, datagram[:length]) == expected, length


def test_every_flipped_bit_is_refused() -> None:
    datagram, receiver = codec().seal("node-b", _MESSAGE), codec("node-b")
    for at in range(len(datagram)):
        for bit in range(8):
            flipped = bytearray(datagram)
            flipped[at] ^= 1 << bit
            expected = {0: "NotOurs", 1: "NotOurs", 2: "Version", 3: "UnknownKey"}.get(at, "Forged")
            assert refusal(receiver, bytes(flipped)) == expected, (at, bit)


def test_an_observation_that_is_forged_or_comes_again_is_refused() -> None:
    observation = Observation(5, _KEY, 4, (b"app-----",), ())
    datagram, receiver = codec().seal("node-b", observation), codec("node-b")
    assert refusal(receiver, codec(keys={1: b"x" * 32}).seal("node-b", observation)) == "Forged"
    assert refusal(receiver, codec().seal("node-c", observation)) == "Receiver"
    assert [refusal(receiver, datagram) for _ in range(2)] == [None, "Replayed"]
    late = codec(incarnation=4).seal("node-b", observation)
    assert refusal(receiver, late) == "Incarnation"


def test_an_observation_of_as_many_checks_as_there_can_be_is_one_packet() -> None:
    observation = Observation(
        1 << 40, _KEY, 1 << 40, tuple(bytes([n]) * 8 for n in range(64)), (b"x" * 8,) * 64
    )
    assert len(codec().seal("node-b", observation)) < 1500


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


def test_a_clone_of_the_same_incarnation_is_not_heard_beside_the_one_that_was_first() -> None:
    receiver = codec("node-b")
    assert refusal(receiver, codec().seal("node-b", _MESSAGE)) is None
    assert refusal(receiver, codec(machine=b"c" * 8).seal("node-b", _MESSAGE)) == "Incarnation"


def test_windows_are_kept_for_each_sender() -> None:
    receiver = codec("node-b")
    for name in ("node-a", "node-c"):
        assert refusal(receiver, codec(name).seal("node-b", _MESSAGE)) is None


def test_a_refused_datagram_moves_no_window() -> None:
    sender, receiver = codec(), codec("node-b")
    first, second = sender.seal("node-b", _MESSAGE), sender.seal("node-b", _MESSAGE)
    forged = second[:-1] + bytes([second[-1] ^ 1])
    assert [refusal(receiver, datagram) for datagram in (forged, first, second)] == ["Forged", None, None]


_STEPS = ({1: _SECRET}, {1: _SECRET, 2: b"n" * 32}, {2: b"n" * 32})


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_key_is_rotated_without_a_lost_datagram(is_receivers_turn: list[bool]) -> None:
    """Whoever learns of the new key first, and of the old one's end: both go on hearing each other."""
    one, other, peers = (
        codec(keys=_STEPS[0]),
        codec("node-b", keys=_STEPS[0]),
        frozenset({"node-a", "node-b"}),
    )
    at = {one: 0, other: 0}
    for is_others in is_receivers_turn:
        turn = other if is_others else one
        at[turn] = min(at[turn] + 1, 2, min(at.values()) + 1)
        turn.adopt(keys=_STEPS[at[turn]], peers=peers)
        assert refusal(one, other.seal("node-a", _MESSAGE)) is None
        assert refusal(other, one.seal("node-b", _MESSAGE)) is None


def test_who_comes_with_a_newer_key_alone_is_understood_as_soon_as_it_has_spoken() -> None:
    there, fresh = codec(keys=_STEPS[1]), codec("node-b", keys=_STEPS[2])
    assert refusal(fresh, there.seal("node-b", _MESSAGE)) == "UnknownKey"
    assert refusal(there, fresh.seal("node-a", _MESSAGE)) is None
    assert refusal(fresh, there.seal("node-b", _MESSAGE)) is None


@pytest.mark.parametrize("secret", [pytest.param(b"", id="empty"), pytest.param(b"x" * 15, id="short")])
def test_a_key_that_anybody_could_have_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="heartbeat key 1 has"):
        codec(keys={1: secret})


def test_the_domain_can_be_told_before_anything_is_believed() -> None:
    sender = codec()
    assert domain_tag(sender.seal("node-b", _MESSAGE)) == sender.tag()
    assert domain_tag(b"GET / HTTP/1.1\r\n" + bytes(40)) is None
    assert domain_tag(b"VK") is None


@pytest.mark.parametrize("has_names", [True, False])
def test_the_longest_messages_of_the_largest_plan_fit_into_a_datagram(has_names: bool) -> None:  # noqa: FBT001
    noise = Random(1)
    names = [f"ip-10-20-{n}-{n}.eu-central-1.compute.internal" for n in range(3)]
    keys = [noise.randbytes(16) for _ in range(MOST_VIRTUAL_IPS)]
    terms = [noise.randint(1, 1 << 20) for _ in keys]
    pairs = list(zip(keys, terms, strict=True))
    sender = codec(names[0], peers=frozenset(names))
    granted = tuple(
        Granted(key, term, noise.choice(names) if has_names else None, is_standby_sound=True)
        for key, term in pairs
    )
    for message in (
        Request(
            7,
            1 << 60,
            1000,
            is_sound=True,
            wants=tuple(Want(*each, is_held=True) for each in pairs),
            polls=(),
        ),
        Request(7, 1 << 60, 1000, is_sound=True, wants=(), polls=tuple(keys)),
        Ack(5, 7, 1 << 60, 1000, granted, (), ()),
    ):
        datagram = sender.seal(names[1], message)
        assert len(datagram) < MAXIMUM_SIZE
        assert codec(names[1], peers=frozenset(names)).open(datagram).message == message


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(datagram: bytes) -> None:
    assert refusal(codec("node-b"), datagram) is not None


@given(st.binary(max_size=200), st.integers(0, 255))
def test_random_bytes_behind_a_true_header_are_refused(rest: bytes, key_id: int) -> None:
    header = bytearray(codec().seal("node-b", _MESSAGE)[:_HEADER])
    header[3] = key_id
    assert refusal(codec("node-b"), bytes(header) + rest) is not None


@given(st.binary(max_size=200))
def test_signed_garbage_is_garbage(body: bytes) -> None:
    assert refusal(codec("node-b"), codec().sign(body, 1)) == "Garbage"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


@given(st.lists(_VALUES, max_size=6))
def test_a_signed_body_of_another_shape_is_garbage(body: list[object]) -> None:
    assert refusal(codec("node-b"), codec().sign(msgspec.msgpack.encode(body), 1)) == "Garbage"


@given(st.lists(_VALUES, min_size=1, max_size=6))
def test_no_signed_message_of_whatever_shape_breaks_the_keeper(message: list[object]) -> None:
    body = msgspec.msgpack.encode(["node-a", _MACHINE, 5, 1, "node-b", 1, ["request", *message]])
    assert refusal(codec("node-b"), codec().sign(body, 1)) in {"Garbage", None}
