"""The frames that announce an address, byte by byte, and the process that builds them."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import ip_address

import pytest

from vipagent.frames import answer, build

MAC = "02:00:00:00:00:01"
SENDER = bytes.fromhex("020000000001")
VIP4, GATEWAY4 = bytes([192, 0, 2, 10]), bytes([192, 0, 2, 254])
VIP6 = ip_address("2001:db8::10").packed


def arp(operation: int, hardware_target: bytes, target: bytes) -> bytes:
    """RFC 826, in a broadcast Ethernet frame."""
    head = b"\xff" * 6 + SENDER + b"\x08\x06" + b"\0\1\x08\0\6\4" + operation.to_bytes(2, "big")
    return head + SENDER + VIP4 + hardware_target + target


def checksum(packet: bytes) -> int:
    """RFC 1071 over an ICMPv6 message and its pseudo header; 0 for a message whose checksum is right."""
    message = packet[40:]
    whole = packet[8:40] + len(message).to_bytes(4, "big") + b"\0\0\0\x3a" + message
    total = sum(int.from_bytes(whole[place : place + 2], "big") for place in range(0, len(whole), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_ipv4_is_announced_by_a_gratuitous_request_and_reply() -> None:
    announcement = build(MAC, ip_address("192.0.2.10"))
    assert announcement.frames == (arp(1, bytes(6), VIP4), arp(2, b"\xff" * 6, VIP4))
    assert announcement.question is None


def test_an_ipv4_probe_is_a_request_from_nobody() -> None:
    probe = build(MAC, ip_address("192.0.2.10")).probe
    assert probe == arp(1, bytes(6), VIP4).replace(SENDER + VIP4, SENDER + bytes(4))


def test_an_ipv6_probe_is_a_solicitation_from_nobody_without_options() -> None:
    probe = build(MAC, ip_address("2001:db8::10")).probe
    assert probe[:14] == bytes.fromhex("3333ff000010") + SENDER + b"\x86\xdd"
    packet = probe[14:]
    assert packet[6:8] == b"\x3a\xff"
    assert packet[8:24] == bytes(16)
    assert packet[24:40] == ip_address("ff02::1:ff00:10").packed
    assert packet[40:41] == b"\x87"
    assert packet[48:] == VIP6
    assert checksum(packet) == 0


def test_the_gateway_is_asked_from_the_address() -> None:
    announcement = build(MAC, ip_address("192.0.2.10"), ip_address("192.0.2.254"))
    assert announcement.question == arp(1, bytes(6), GATEWAY4)


def test_ipv6_is_announced_by_an_unsolicited_advertisement_that_overrides() -> None:
    (frame,) = build(MAC, ip_address("2001:db8::10")).frames
    assert frame[:14] == bytes.fromhex("333300000001") + SENDER + b"\x86\xdd"
    packet = frame[14:]
    next_header, hop_limit = packet[6:8]
    assert (next_header, hop_limit) == (58, 255)
    assert packet[8:24] == VIP6
    assert packet[24:40] == ip_address("ff02::1").packed
    override_only = b"\x20\0\0\0"
    assert (packet[40:42], packet[44:48]) == (b"\x88\0", override_only)
    assert packet[48:64] == VIP6
    assert packet[64:] == b"\2\1" + SENDER
    assert checksum(packet) == 0


def test_an_ipv6_gateway_is_solicited_from_the_address() -> None:
    question = build(MAC, ip_address("2001:db8::10"), ip_address("fe80::12:34:56")).question
    assert question is not None
    assert question[:6] == bytes.fromhex("3333ff340056")
    packet = question[14:]
    assert packet[8:24] == VIP6
    assert packet[24:40] == ip_address("ff02::1:ff34:56").packed
    assert packet[40:41] == b"\x87"
    assert packet[48:64] == ip_address("fe80::12:34:56").packed
    assert packet[64:] == b"\1\1" + SENDER
    assert checksum(packet) == 0


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("", id="nothing"),
        pytest.param("{", id="cut in half"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="empty"),
        pytest.param('{"mac": "02:00:00:00:00:01", "address": "192.0.2.999"}', id="no address"),
        pytest.param('{"mac": 7, "address": "192.0.2.10"}', id="a number for a MAC address"),
        pytest.param('{"mac": "nonsense", "address": "192.0.2.10"}', id="no MAC address"),
        pytest.param(
            '{"mac": "02:00:00:00:00:01", "address": "192.0.2.10", "gateway": "fe80::1"}',
            id="a gateway of the other IP version",
        ),
    ],
)
def test_a_line_without_sense_gets_an_error(line: str) -> None:
    assert set(json.loads(answer(line))) == {"error"}


def test_the_process_answers_line_by_line_and_ends_with_its_input() -> None:
    lines = [
        json.dumps({"mac": MAC, "address": "192.0.2.10", "gateway": "192.0.2.254"}),
        "nonsense",
        json.dumps({"mac": MAC, "address": "2001:db8::10", "gateway": None}),
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "vipagent.frames"],
        env={"PYTHONPATH": ":".join(sys.path)},
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second, third = (json.loads(line) for line in ran.stdout.splitlines())
    both = build(MAC, ip_address("192.0.2.10"), ip_address("192.0.2.254"))
    assert first["frames"] == [frame.hex() for frame in both.frames]
    assert both.question is not None
    assert first["question"] == both.question.hex()
    assert set(second) == {"error"}
    assert third["frames"] == [frame.hex() for frame in build(MAC, ip_address("2001:db8::10")).frames]
    assert third["question"] is None
    assert third["probe"] == build(MAC, ip_address("2001:db8::10")).probe.hex()
