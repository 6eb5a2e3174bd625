"""Frames in stock: what a file of them is believed, and how many are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from ipaddress import ip_address

import hypothesis
import hypothesis.strategies as st
import pytest

from vipagent.frames import build
from vipagent.stock import MOST_ADDRESSES, MOST_BYTES, Built, Stock, decode, encode, is_sound

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
MAKER = "0123abcd"
VIP4, NEXT4, GATEWAY4 = (ip_address(f"192.0.2.{last}") for last in (10, 11, 254))
VIP6, NEXT6, GATEWAY6 = (ip_address(each) for each in ("2001:db8::10", "2001:db8::11", "fe80::12:34:56"))
PLACES = {
    "a gratuitous request": (VIP4, 0),
    "a gratuitous reply": (VIP4, 1),
    "a probe of IPv4": (VIP4, 2),
    "a question of IPv4": (VIP4, 3),
    "an advertisement": (VIP6, 0),
    "a probe of IPv6": (VIP6, 1),
    "a question of IPv6": (VIP6, 2),
}


def built(mac: str, address: str, gateway: str | None = None) -> Built:
    asked = None if gateway is None else ip_address(gateway)
    made = build(mac, ip_address(address), asked)
    return Built(mac, ip_address(address), asked, made.frames, made.probe, made.question)


V4, V6 = built(MAC, str(VIP4), str(GATEWAY4)), built(MAC, str(VIP6), str(GATEWAY6))


def frames_of(each: Built) -> list[bytes]:
    assert each.question is not None
    return [*each.frames, each.probe, each.question]


def with_frames(each: Built, frames: list[bytes]) -> Built:
    *announced, probe, question = frames
    return dataclasses.replace(each, frames=tuple(announced), probe=probe, question=question)


def file_of(rows: object) -> bytes:
    """A file whose digest is right, whatever it has."""
    body = json.dumps(rows).encode()
    head = f"vipkeeper-frames/1 {MAKER} {hashlib.blake2b(body, digest_size=16).hexdigest()}\n"
    return head.encode() + body


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    mac=st.binary(min_size=6, max_size=6),
    addresses=st.one_of(
        st.tuples(*[st.ip_addresses(v=4, network="192.0.2.0/24")] * 2),
        st.tuples(*[st.ip_addresses(v=6, network="2001:db8::/32")] * 2),
    ),
    has_gateway=st.booleans(),
)
def test_whatever_is_built_is_found_again_in_its_file(
    mac: bytes, addresses: tuple[object, object], *, has_gateway: bool
) -> None:
    address, gateway = map(str, addresses)
    made = built(mac.hex(":"), address, gateway if has_gateway else None)
    assert decode(encode([made], MAKER), MAKER) == (made,)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("of", ["another MAC address", "another address", "another gateway"])
def test_a_frame_of_another_is_not_sound(place: str, of: str) -> None:
    address, at = PLACES[place]
    each = V4 if address == VIP4 else V6
    assert each.gateway is not None
    following = str(NEXT4 if address == VIP4 else NEXT6)
    theirs = {
        "another MAC address": (OTHER, str(address), str(each.gateway)),
        "another address": (MAC, following, str(each.gateway)),
        "another gateway": (MAC, str(address), following),
    }[of]
    frames = frames_of(each)
    is_same = frames[at] == frames_of(built(*theirs))[at]
    frames[at] = frames_of(built(*theirs))[at]
    assert is_sound(with_frames(each, frames)) == is_same
    assert is_same == (of == "another gateway" and "question" not in place)


@pytest.mark.parametrize("at", [11, 56, 57], ids=["the Ethernet source", "the checksum", "its other byte"])
def test_an_advertisement_with_one_wrong_byte_is_not_sound(at: int) -> None:
    wrong = bytearray(V6.frames[0])
    wrong[at] ^= 1
    assert not is_sound(dataclasses.replace(V6, frames=(bytes(wrong),)))


@pytest.mark.parametrize("place", PLACES)
def test_a_frame_that_is_cut_or_longer_or_missing_is_not_sound(place: str) -> None:
    address, at = PLACES[place]
    each = V4 if address == VIP4 else V6
    whole = frames_of(each)[at]
    for wrong in (b"", *(whole[:length] for length in range(len(whole))), whole + b"\0", whole + b"\0\0"):
        frames = frames_of(each)
        frames[at] = wrong
        assert not is_sound(with_frames(each, frames))


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(dataclasses.replace(V4, frames=()), id="no frames"),
        pytest.param(dataclasses.replace(V4, frames=V4.frames[:1]), id="one of two"),
        pytest.param(dataclasses.replace(V6, frames=V6.frames * 2), id="one twice"),
        pytest.param(dataclasses.replace(V4, question=None), id="a gateway without a question"),
        pytest.param(dataclasses.replace(V4, gateway=None), id="a question to nobody"),
        pytest.param(dataclasses.replace(V4, gateway=GATEWAY6), id="a gateway of the other IP version"),
        pytest.param(dataclasses.replace(V4, mac="nonsense"), id="no MAC address"),
        pytest.param(dataclasses.replace(V4, mac=OTHER), id="all for another MAC address"),
        pytest.param(dataclasses.replace(V4, address=VIP6), id="frames of IPv4 for IPv6"),
        pytest.param(dataclasses.replace(V6, address=VIP4), id="frames of IPv6 for IPv4"),
    ],
)
def test_what_does_not_belong_together_is_not_sound(wrong: Built) -> None:
    assert not is_sound(wrong)
    stock = Stock()
    assert not stock.keep(wrong)
    assert stock.all == ()


GOOD = encode([V4, V6], MAKER)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"", "does not begin", id="nothing"),
        pytest.param(b"\0" * 100, "does not begin", id="zeros"),
        pytest.param(GOOD[:-1], "digest", id="cut"),
        pytest.param(GOOD[:-9] + bytes([GOOD[-9] ^ 1]) + GOOD[-8:], "digest", id="one byte is another"),
        pytest.param(GOOD + b" " * MOST_BYTES, "longer than", id="too long"),
        pytest.param(file_of([]).replace(b"[]", b"{}"), "digest", id="of another body"),
        pytest.param(file_of({}), "got `object`", id="no list"),
        pytest.param(file_of([["02", "192.0.2.10"]]), "at least length 6", id="a short row"),
        pytest.param(file_of([[MAC, "192.0.2.999", None, [], "", None]]), "192.0.2.999", id="no address"),
        pytest.param(file_of([[MAC, "192.0.2.10", None, [], "", None]]), "frames for", id="no frames"),
        pytest.param(file_of(json.loads("[" * 900 + "]" * 900)), "got `array`", id="deep"),
        pytest.param(encode([V4] * (MOST_ADDRESSES + 1), MAKER), "more than 1024", id="too many"),
    ],
)
def test_a_file_that_nobody_wrote_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(content, MAKER)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(encode([V4], "another"), id="of another builder"),
        pytest.param(GOOD.replace(b"frames/1 ", b"frames/2 "), id="of another format"),
    ],
)
def test_a_file_that_another_version_wrote_is_of_no_use_and_no_error(content: bytes) -> None:
    assert decode(content, MAKER) == ()


def test_the_addresses_that_were_not_wanted_for_longest_go_first_and_their_number_is_bounded() -> None:
    def numbered(number: int) -> Built:
        """Bytes of the right shape, made faster than by scapy."""
        address = ip_address(int(ip_address("198.18.0.0")) + number)
        frames = [frame.replace(VIP4.packed, address.packed) for frame in frames_of(V4)]
        return dataclasses.replace(with_frames(V4, frames), address=address)

    stock = Stock()
    for number in range(MOST_ADDRESSES):
        assert stock.keep(numbered(number))
    assert stock.find(MAC, numbered(0).address) == numbered(0)
    assert not stock.keep(numbered(1))
    assert stock.keep(V4)
    assert len(stock.all) == MOST_ADDRESSES
    assert stock.find(MAC, numbered(2).address) is None
    assert len(Stock(decode(encode(stock.all, MAKER), MAKER)).all) == MOST_ADDRESSES
    assert [each.address for each in stock.all[-3:]] == [numbered(0).address, numbered(1).address, VIP4]


def test_a_full_file_of_ipv6_fits() -> None:
    assert len(encode([V6] * MOST_ADDRESSES, MAKER)) < MOST_BYTES
