"""Heartbeat sockets on loopback."""

import ipaddress
import select

import pytest

from vipagent.wire import Wire


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_datagram_arrives_as_it_was_sent(host: str) -> None:
    address = ipaddress.ip_address(host)
    receiver = Wire(address, 0)
    sender = Wire(address, 0)
    try:
        sender.port = receiver.bound_port
        sender.send(host, b"heartbeat")
        select.select([receiver], [], [], 5)
        heard: list[bytes] = []
        receiver.receive(heard.append, at_most=8)
        assert heard == [b"heartbeat"]
    finally:
        receiver.close()
        sender.close()


def test_nothing_there_is_no_error() -> None:
    wire = Wire(ipaddress.ip_address("127.0.0.1"), 0)
    heard: list[bytes] = []
    wire.receive(heard.append, at_most=8)
    wire.close()
    assert heard == []


def test_what_cannot_be_sent_is_a_lost_datagram() -> None:
    wire = Wire(ipaddress.ip_address("127.0.0.1"), 0)
    wire.port = 9
    assert not wire.send("127.0.0.1", b"x" * 70_000)
    wire.close()


def test_an_address_that_the_node_does_not_have_cannot_be_bound() -> None:
    with pytest.raises(OSError, match="assign"):
        Wire(ipaddress.ip_address("192.0.2.77"), 0)
