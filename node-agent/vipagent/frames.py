"""Frames: the bytes that tell a network segment who has an address now; the door to scapy.

IPv4: a gratuitous ARP request and reply, target = sender = the address (RFC 5227, 2.3; both, because
switches and hosts differ in which they listen to). IPv6: an unsolicited neighbour advertisement with
Override and the target's link-layer address, hop limit 255, to all nodes (RFC 4861, 7.2.6). For the
gateway also a question: an ARP request or neighbour solicitation for the gateway's own address, which
makes it renew what it knows of the asker even where it ignores announcements.

And a probe, the question whether somebody has the address, from nobody: an ARP request whose sender address
is zero (RFC 5227, 2.1.1) or a neighbour solicitation from `::` (RFC 4862, 5.4.2). It changes no table.

Importing scapy costs a second and more than 40 MB, so the keeper does not: it runs this module as
`python -m vipagent.frames`, a process that reads one JSON object a line
(`{"mac": …, "address": …, "gateway": … or null}`), prints one JSON line for each
(`{"frames": [hex, …], "question": hex or null, "probe": hex}`, or `{"error": …}`) and ends with its input.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_EVERYONE = "ff:ff:ff:ff:ff:ff"
_ALL_NODES, _ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
_NO_MAC = "00:00:00:00:00:00"
_NOBODY4, _NOBODY6 = "0.0.0.0", "::"  # noqa: S104 - the sender of a probe, no address to listen on
_HOP_LIMIT = 255
_LAST_24_BITS = 0xFFFFFF


@dataclass(frozen=True, slots=True)
class Announcement:
    """What to send for an address: `frames` at each announcement, `question` to the gateway once.

    `probe` asks whether another has it.
    """

    frames: tuple[bytes, ...]
    probe: bytes
    question: bytes | None = None


def build(
    mac: str, address: IPv4Address | IPv6Address, gateway: IPv4Address | IPv6Address | None = None
) -> Announcement:
    """Build the frames for one address on the link with this MAC address.

    Raises ValueError for what is no MAC address, or a gateway of the other IP version.
    """
    if not _MAC.fullmatch(mac):  # scapy would take it for a host name, or for zeros
        raise ValueError(f"{mac} is no MAC address")
    if gateway is not None and gateway.version != address.version:
        raise ValueError(f"gateway {gateway} and address {address} are of different IP versions")
    if isinstance(address, IPv4Address):
        return _build_arp(mac, str(address), None if gateway is None else str(gateway))
    return _build_ndp(mac, str(address), gateway if isinstance(gateway, IPv6Address) else None)


def _build_arp(mac: str, address: str, gateway: str | None) -> Announcement:
    frame = Ether(src=mac, dst=_EVERYONE)
    request = ARP(op="who-has", hwsrc=mac, psrc=address, hwdst=_NO_MAC, pdst=address)
    reply = ARP(op="is-at", hwsrc=mac, psrc=address, hwdst=_EVERYONE, pdst=address)
    probe = ARP(op="who-has", hwsrc=mac, psrc=_NOBODY4, hwdst=_NO_MAC, pdst=address)
    question = None
    if gateway is not None:
        question = bytes(frame / ARP(op="who-has", hwsrc=mac, psrc=address, hwdst=_NO_MAC, pdst=gateway))
    return Announcement((bytes(frame / request), bytes(frame / reply)), bytes(frame / probe), question)


def _build_ndp(mac: str, address: str, gateway: IPv6Address | None) -> Announcement:
    advertisement = (
        Ether(src=mac, dst=_ALL_NODES_MAC)
        / IPv6(src=address, dst=_ALL_NODES, hlim=_HOP_LIMIT)
        / ICMPv6ND_NA(R=0, S=0, O=1, tgt=address)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )
    probe = _solicitation(mac, _NOBODY6, IPv6Address(address))
    question = None
    if gateway is not None:
        question = bytes(_solicitation(mac, address, gateway) / ICMPv6NDOptSrcLLAddr(lladdr=mac))
    return Announcement((bytes(advertisement),), bytes(probe), question)


def _solicitation(mac: str, source: str, target: IPv6Address) -> Any:
    low = int(target) & _LAST_24_BITS
    group = IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | low)  # solicited-node, RFC 4291, 2.7.1
    return (
        Ether(src=mac, dst=f"33:33:{group.packed[-4:].hex(':')}")
        / IPv6(src=source, dst=str(group), hlim=_HOP_LIMIT)
        / ICMPv6ND_NS(tgt=str(target))
    )


def answer(line: str) -> str:
    """Answer one line of the protocol; a line that makes no sense gets an error, not an exception."""
    try:
        request = json.loads(line)
        gateway = request.get("gateway")
        announcement = build(
            request["mac"], ip_address(request["address"]), None if gateway is None else ip_address(gateway)
        )
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as cause:
        return json.dumps({"error": f"{type(cause).__name__}: {cause}"})
    question = announcement.question
    return json.dumps(
        {
            "frames": [frame.hex() for frame in announcement.frames],
            "question": None if question is None else question.hex(),
            "probe": announcement.probe.hex(),
        }
    )


def main() -> None:
    """Serve standard input, as a background process even where the keeper has real-time priority."""
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    for line in sys.stdin:
        sys.stdout.write(answer(line) + "\n")


if __name__ == "__main__":
    main()
