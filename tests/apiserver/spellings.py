"""Good and bad spellings of a virtual address, each bad one with the sentence that it must be refused with.

Both the API server's rules and `vipapi.addresses` are held to these tables.
"""

from __future__ import annotations

import pytest

A_HOST = "must not be the first address of its prefix, which belongs to the network itself"
BROADCAST = "must not be the last address of its prefix, which is the network's broadcast address"
ADDRESS = "must be an IPv4 or IPv6 address, with or without a prefix length"
CANONICAL = "must be in canonical form (RFC 5952: lower case, the longest run of zeros as `::`)"
UNICAST = "must be the unicast address of a host: not loopback"
LENGTH = "must have a prefix length greater than or equal to 1"

GOOD_ADDRESSES = [
    "192.0.2.10/24",
    "192.0.2.10",
    "192.0.2.10/32",
    "192.0.2.0/31",
    "192.0.2.1/31",
    "192.0.2.1/30",
    "192.0.2.255/23",
    "192.0.3.0/23",
    "192.0.2.0",
    "10.0.0.255/8",
    "10.255.255.254/8",
    "10.255.255.255",
    "2001:db8::10/64",
    "2001:db8::10",
    "2001:db8::/127",
    "2001:db8::/128",
    "fd00::1/8",
    "2001:db8::ffff:ffff:ffff:ffff/64",
]
BAD_ADDRESSES = [
    pytest.param("web", ADDRESS, id="a-word"),
    pytest.param("192.0.2.10/33", ADDRESS, id="prefix-too-long"),
    pytest.param("2001:db8::10/129", ADDRESS, id="ipv6-prefix-too-long"),
    pytest.param("192.0.2.10/", ADDRESS, id="empty-prefix"),
    pytest.param("192.0.2.10/024", ADDRESS, id="prefix-with-leading-zero"),
    pytest.param("192.0.2.10/+24", ADDRESS, id="prefix-with-a-sign"),
    pytest.param("192.0.2.10/255.255.255.0", ADDRESS, id="netmask"),
    pytest.param("192.000.002.010", ADDRESS, id="leading-zeros"),
    pytest.param("192.0.2", ADDRESS, id="three-numbers"),
    pytest.param("192.0.2.256", ADDRESS, id="number-out-of-range"),
    pytest.param(" 192.0.2.10", ADDRESS, id="a-space"),
    pytest.param("::ffff:192.0.2.10", ADDRESS, id="ipv4-mapped"),
    pytest.param("fe80::1%eth0", ADDRESS, id="zone"),
    pytest.param("2001:DB8::10", CANONICAL, id="upper-case"),
    pytest.param("2001:db8:0:0:0:0:0:10/64", CANONICAL, id="zeros-written-out"),
    pytest.param("2001:0db8::10", CANONICAL, id="ipv6-leading-zero"),
    pytest.param("127.0.0.1", UNICAST, id="loopback"),
    pytest.param("::1", UNICAST, id="ipv6-loopback"),
    pytest.param("169.254.1.1/16", UNICAST, id="link-local"),
    pytest.param("fe80::1/64", UNICAST, id="ipv6-link-local"),
    pytest.param("224.0.0.18", UNICAST, id="multicast"),
    pytest.param("ff02::1", UNICAST, id="ipv6-multicast"),
    pytest.param("0.0.0.0", UNICAST, id="unspecified"),  # noqa: S104 -- nothing binds to it
    pytest.param("::", UNICAST, id="ipv6-unspecified"),
    pytest.param("255.255.255.255", UNICAST, id="broadcast"),
    pytest.param("192.0.2.10/0", LENGTH, id="prefix-zero"),
    pytest.param("192.0.2.0/24", A_HOST, id="first-of-its-network"),
    pytest.param("192.0.2.128/25", A_HOST, id="first-of-half-a-network"),
    pytest.param("2001:db8::/64", A_HOST, id="routers-anycast"),
    pytest.param("192.0.2.255/24", BROADCAST, id="last-of-its-network"),
    pytest.param("192.0.2.127/25", BROADCAST, id="last-of-half-a-network"),
    pytest.param("10.1.255.255/15", BROADCAST, id="last-of-a-wide-network"),
    pytest.param("192.0.2.3/30", BROADCAST, id="last-of-four"),
]
