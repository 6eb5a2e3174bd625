"""The filters' programs, run by an interpreter of the few instructions that they use."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent import sieve
from vipagent.frames import build
from vipagent.sightings import ARP_PROTOCOL, IPV4_PROTOCOL, IPV6_PROTOCOL

MAC = "02:00:00:00:00:66"
JUMPS = {
    0x15: lambda loaded, wanted: loaded == wanted,
    0x25: lambda loaded, wanted: loaded > wanted,
    0x35: lambda loaded, wanted: loaded >= wanted,
}
LOADS = {0x20: 4, 0x30: 1}

ipv4 = st.integers(0, 2**32 - 1).map(IPv4Address)
ipv6 = st.integers(0, 2**128 - 1).map(IPv6Address)


def passes(program: bytes, frame: bytes) -> bool:
    """Run a program as the kernel does: distances count from the next instruction, short frames end it."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    place = loaded = 0
    while True:
        code, if_so, if_not, number = instructions[place]
        place += 1
        if code in LOADS:
            if number + LOADS[code] > len(frame):
                return False
            loaded = int.from_bytes(frame[number : number + LOADS[code]])
        elif code in JUMPS:
            place += if_so if JUMPS[code](loaded, number) else if_not
        elif code == 0x05:
            place += number
        else:
            assert code == 0x06
            return bool(number)


def claim(address: IPv4Address | IPv6Address) -> bytes:
    """A claim of an address; `build` takes a millisecond, so its frame is built once for each IP version."""
    if isinstance(address, IPv4Address):
        return ARP_CLAIM[:28] + address.packed + ARP_CLAIM[32:]
    return NDP_CLAIM[:62] + address.packed + NDP_CLAIM[78:]


ARP_CLAIM = build(MAC, IPv4Address("192.0.2.1")).frames[1]
NDP_CLAIM = build(MAC, IPv6Address("2001:db8::1")).frames[0]


@given(st.sets(ipv4, max_size=40), ipv4)
def test_claims_of_our_ipv4_addresses_pass_and_no_others(ours: set[IPv4Address], other: IPv4Address) -> None:
    program = sieve.exact(ARP_PROTOCOL, ours)
    assert program is not None
    for address in ours | {other}:
        assert passes(program, claim(address)) == (address in ours)


@given(st.sets(ipv6, max_size=40), ipv6)
def test_claims_of_our_ipv6_addresses_pass_and_none_that_ends_otherwise(
    ours: set[IPv6Address], other: IPv6Address
) -> None:
    program = sieve.exact(IPV6_PROTOCOL, ours)
    assert program is not None
    ends = {address.packed[-4:] for address in ours}
    for address in ours | {other}:
        assert passes(program, claim(address)) == (address.packed[-4:] in ends)


@given(st.sets(ipv4, min_size=1, max_size=40), ipv4)
def test_a_coarse_filter_loses_no_claim(ours: set[IPv4Address], other: IPv4Address) -> None:
    program = sieve.coarse(ARP_PROTOCOL, ours)
    assert all(passes(program, claim(address)) for address in ours)
    assert passes(program, claim(other)) == (min(ours) <= other <= max(ours))


def test_three_hundred_addresses_fit_and_a_thousand_do_not() -> None:
    many = [IPv4Address(0xC0000000 + 3 * n) for n in range(1000)]
    fitting = sieve.exact(ARP_PROTOCOL, many[:300])
    assert fitting is not None
    assert len(fitting) // 8 <= sieve.MOST_INSTRUCTIONS
    assert all(passes(fitting, claim(address)) for address in (*many[:300:10], many[299]))
    assert not any(passes(fitting, claim(address)) for address in many[300::20])
    assert sieve.exact(ARP_PROTOCOL, many) is None


@pytest.mark.parametrize(
    ("protocol", "frame", "is_let_in"),
    [
        pytest.param(IPV4_PROTOCOL, bytes(23) + b"\x70" + bytes(40), True, id="VRRP over IPv4"),
        pytest.param(IPV4_PROTOCOL, bytes(23) + b"\x06" + bytes(40), False, id="TCP"),
        pytest.param(IPV6_PROTOCOL, bytes(20) + b"\x70" + bytes(60), True, id="VRRP over IPv6"),
        pytest.param(IPV6_PROTOCOL, bytes(20) + b"\x06" + bytes(60), False, id="TCP over IPv6"),
        pytest.param(IPV6_PROTOCOL, NDP_CLAIM[:54] + b"\x87" + NDP_CLAIM[55:], False, id="a solicitation"),
        pytest.param(ARP_PROTOCOL, ARP_CLAIM[:20], False, id="half a frame"),
        pytest.param(IPV6_PROTOCOL, NDP_CLAIM, True, id="an advertisement"),
    ],
)
def test_what_is_let_in(protocol: int, frame: bytes, *, is_let_in: bool) -> None:
    program = sieve.exact(protocol, [IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")])
    assert program is not None
    assert passes(program, frame) == is_let_in
    assert not passes(sieve.NOTHING, frame)
