"""Frames for another MAC address are those that would have been built for it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent.frames import build
from vipagent.readdressing import readdressed

MACS = st.binary(min_size=6, max_size=6).map(lambda packed: packed.hex(":"))


@pytest.mark.parametrize(
    ("addresses", "gateways"),
    [
        pytest.param(st.ip_addresses(v=4), st.ip_addresses(v=4), id="IPv4"),
        pytest.param(st.ip_addresses(v=6), st.ip_addresses(v=6), id="IPv6"),
    ],
)
def test_a_frame_is_readdressed_as_it_would_have_been_built(addresses: object, gateways: object) -> None:
    @given(MACS, MACS, addresses, gateways)  # type: ignore[arg-type]
    def law(mac: str, other: str, address: object, gateway: object) -> None:
        former = build(mac, ip_address(str(address)), ip_address(str(gateway)))
        latter = build(other, ip_address(str(address)), ip_address(str(gateway)))
        assert tuple(readdressed(frame, other) for frame in former.frames) == latter.frames
        assert readdressed(former.probe, other) == latter.probe
        assert former.question is not None
        assert readdressed(former.question, other) == latter.question

    law()
