"""What anybody on the segment sends: frames of ARP, neighbour discovery and VRRP, and what comes of them."""

from __future__ import annotations

import random
from ipaddress import ip_address
from typing import Final

from fuzz.target import Choices, Target
from vipagent import sightings
from vipagent.conflicts import Act, Step, Watch
from vipagent.sightings import ARP_PROTOCOL, IPV4_PROTOCOL, IPV6_PROTOCOL, Sighting

_PROTOCOLS: Final = (ARP_PROTOCOL, IPV4_PROTOCOL, IPV6_PROTOCOL, 0)
_MOST_ADDRESSES: Final = 255
_SECOND_NS: Final = 1_000_000_000
_START_NS: Final = 10**15


class _Everything:
    """Every address there is."""

    def __contains__(self, packed: object) -> bool:
        return True


def frame(data: bytes) -> None:
    """A frame comes; what it says about an address stands in it."""
    choices = Choices(data)
    protocol, whole = choices.pick(_PROTOCOLS), choices.rest()
    found = sightings.read(protocol, whole, _Everything())
    assert len(found) <= _MOST_ADDRESSES
    for each in found:
        assert each.address.packed in whole
        assert bytes.fromhex(each.mac.replace(":", "")) in whole
        assert each.router is None or each.router.packed in whole
        assert each.vrid is None or 0 <= each.vrid <= 255


def claims(data: bytes) -> None:
    """Somebody claims an address of ours, at any time and as often as he likes."""
    choices = Choices(data)
    now_ns, announced_ns = _START_NS, 0
    may_cede = choices.below(2) == 1
    watch = Watch.begin(now_ns, is_first=choices.below(2) == 1, may_cede=may_cede)
    others = (
        Sighting(ip_address("192.0.2.10"), "02:00:00:00:00:09"),
        Sighting(ip_address("192.0.2.10"), "00:00:5e:00:01:07", ip_address("192.0.2.3"), 7),
        Sighting(ip_address("192.0.2.10"), "02:00:00:00:00:08", is_answer=True),
    )
    while not choices.are_over:
        now_ns += choices.pick((0, 1, 10**8, _SECOND_NS, 2 * _SECOND_NS, 15 * _SECOND_NS))
        was_bound = watch.may_bind
        if choices.below(3):
            act = watch.receive(choices.pick(others), now_ns)
        else:
            act = watch.expire(now_ns)
            assert watch.deadline_ns > now_ns, "it is due again at once"
        if act is Act.ANNOUNCE:
            assert now_ns - announced_ns >= 10 * _SECOND_NS, "it can be made to flood the segment"
            announced_ns = now_ns
        assert may_cede or not was_bound or watch.may_bind, "it ceded what it may not"
        assert watch.may_bind or act is not Act.ANNOUNCE
        conflict = watch.conflict
        assert (conflict is None) or watch.step in (Step.CONTESTED, Step.CEDED)


def _seeds() -> tuple[bytes, ...]:
    ethernet = bytes.fromhex("ffffffffffff 020000000009")
    ours = ip_address("192.0.2.10").packed
    arp = ethernet + bytes.fromhex("0806 0001 0800 0604 0001 020000000009") + ours + bytes(6) + ours
    router = ip_address("192.0.2.3").packed
    advert = bytes([0x31, 7, 100, 1, 0, 100, 0, 0]) + ours
    ipv4 = bytes.fromhex("4500 0020 0000 0000 ff70 0000") + router + bytes([224, 0, 0, 18]) + advert
    target = ip_address("2001:db8::10").packed
    advertised = bytes.fromhex("8800 0000 20000000") + target + bytes.fromhex("0201 020000000009")
    ipv6 = bytes.fromhex("60000000 0020 3aff") + target + ip_address("ff02::1").packed + advertised
    vrrp6 = (
        bytes.fromhex("60000000 0018 70ff") + target + target + bytes([0x31, 7, 1, 1, 0, 0, 0, 0]) + target
    )
    return (
        b"\0" + arp,
        b"\1" + ethernet + b"\x08\0" + ipv4,
        b"\2" + ethernet + b"\x86\xdd" + ipv6,
        b"\2" + ethernet + b"\x86\xdd" + vrrp6,
        b"\0" + arp[:30],
    )


TARGETS: Final = (
    Target("frame", frame, _seeds()),
    Target("claims", claims, tuple(random.Random(number).randbytes(60) for number in range(4))),
)
