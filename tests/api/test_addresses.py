from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.spellings import (
    A_HOST,
    ADDRESS,
    BAD_ADDRESSES,
    BROADCAST,
    CANONICAL,
    GOOD_ADDRESSES,
    LENGTH,
    UNICAST,
)
from vipapi import addresses


@pytest.mark.parametrize("text", GOOD_ADDRESSES)
def test_a_good_address_is_read_and_written_back_the_same(text: str) -> None:
    address = addresses.parse(text)
    assert str(address) in {text, text.removesuffix("/32").removesuffix("/128")}
    assert address.ip in address.network


REASONS = {
    ADDRESS: "must (be an IPv4 or IPv6 address|have a prefix length|not have a zone|not be an IPv4-mapped)",
    CANONICAL: "must be in canonical form: write '2001:db8::10'",
    UNICAST: "must be a unicast address",
    LENGTH: "must have a prefix length from 1 to",
    A_HOST: "must not be the first or the last address of its own network",
    BROADCAST: "must not be the first or the last address of its own network",
}


@pytest.mark.parametrize(("text", "sentence"), BAD_ADDRESSES)
def test_what_the_api_server_refuses_is_refused_here_for_the_same_reason(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=REASONS[sentence]):
        addresses.parse(text)


def test_a_prefix_names_the_network_and_none_is_a_single_host() -> None:
    assert addresses.parse("192.0.2.10/24").network == ipaddress.ip_network("192.0.2.0/24")
    assert addresses.parse("2001:db8::10").network == ipaddress.ip_network("2001:db8::10/128")


@given(st.text(alphabet="0123456789abcdefABCDEF:./%- ", max_size=44))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = addresses.parse(text)
    except ValueError:
        return
    assert addresses.parse(str(address)) == address


@given(st.ip_addresses().map(str))
def test_one_spelling_for_one_address(text: str) -> None:
    try:
        address = addresses.parse(text)
    except ValueError:
        return
    assert str(address) == text


def test_an_address_is_not_named_twice() -> None:
    with pytest.raises(ValueError, match="must not repeat"):
        addresses.parse_all(["192.0.2.10/24", "192.0.2.10"])


@pytest.mark.parametrize(
    ("allowed", "outside"),
    [
        pytest.param([], [], id="no-ranges-allow-everything"),
        pytest.param(["192.0.2.0/24", "2001:db8::/64"], [], id="each-in-its-family"),
        pytest.param(["192.0.2.0/24"], ["2001:db8::10/64"], id="the-other-family-is-outside"),
        pytest.param(["192.0.2.0/29", "::/0"], ["192.0.2.10/24"], id="beyond-the-range"),
        pytest.param(["192.0.2.10/32", "2001:db8::10/128"], [], id="single-hosts"),
    ],
)
def test_what_lies_in_no_range_is_outside(allowed: list[str], outside: list[str]) -> None:
    ranges = [addresses.parse_range(text) for text in allowed]
    found = addresses.outside(addresses.parse_all(["192.0.2.10/24", "2001:db8::10/64"]), ranges)
    assert [str(address) for address in found] == outside


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("192.0.2.1/24", "must not have host bits: write '192.0.2.0/24'", id="host-bits"),
        pytest.param("192.0.2.0", "must be a network", id="no-prefix"),
        pytest.param("2001:DB8::/64", "must be in canonical form: write '2001:db8::'", id="upper-case"),
        pytest.param("192.0.2.0/33", "must have a prefix length from 1 to 32", id="too-long"),
        pytest.param("192.0.2.0/024", "must have a prefix length", id="leading-zero"),
        pytest.param("rack/8", "must be an IPv4 or IPv6 address", id="a-word"),
    ],
)
def test_a_bad_range_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match="must") as refusal:
        addresses.parse_range(text)
    assert reason in str(refusal.value)
