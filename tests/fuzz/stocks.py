"""What a keeper finds of frames that were built before, in a file whose digest is right."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fuzz import made
from fuzz.target import Choices, Target
from vipagent import sightings, stock
from vipagent.sightings import ARP_PROTOCOL, IPV6_PROTOCOL

if TYPE_CHECKING:
    from vipagent.stock import Built

_MAKER: Final = "maker"
_LONGEST_FRAME: Final = 86
_ROWS: Final = (
    (
        "02:00:00:00:00:01",
        "192.0.2.10",
        "192.0.2.254",
        (
            "ffffffffffff02000000000108060001080006040001020000000001c000020a000000000000c000020a",
            "ffffffffffff02000000000108060001080006040002020000000001c000020affffffffffffc000020a",
        ),
        "ffffffffffff0200000000010806000108000604000102000000000100000000000000000000c000020a",
        "ffffffffffff02000000000108060001080006040001020000000001c000020a000000000000c00002fe",
    ),
    (
        "02:00:00:00:00:01",
        "2001:db8::10",
        "fe80::1",
        (
            (
                "33330000000102000000000186dd6000000000203aff20010db8000000000000000000000010ff020000"
                "0000000000000000000000018800f90c2000000020010db8000000000000000000000010020102000000"
                "0001"
            ),
        ),
        (
            "3333ff00001002000000000186dd6000000000183aff00000000000000000000000000000000ff020000"
            "0000000000000001ff00001087004ccf0000000020010db8000000000000000000000010"
        ),
        (
            "3333ff00000102000000000186dd6000000000203aff20010db8000000000000000000000010ff020000"
            "0000000000000001ff00000187004b5200000000fe800000000000000000000000000001010102000000"
            "0001"
        ),
    ),
)


def _base64(frame: str) -> str:
    return base64.b64encode(bytes.fromhex(frame)).decode()


_DOCUMENT: Final = [
    [mac, address, gateway, [_base64(frame) for frame in frames], _base64(probe), _base64(question)]
    for mac, address, gateway, frames, probe, question in _ROWS
]


def body(data: bytes) -> None:
    """A file has this, and a digest of it: what is believed says what it is believed for."""
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    head = f"vipkeeper-frames/1 {_MAKER} {digest}\n".encode()
    try:
        found = stock.decode(head + data, _MAKER)
    except ValueError:
        return
    for each in found:
        _see_to(each)
    assert stock.decode(stock.encode(found, _MAKER), _MAKER) == found


def spoilt(data: bytes) -> None:
    """The same, with what is nearly right: other values in places, and other bytes in frames."""
    choices = Choices(data)
    document: Any = _DOCUMENT
    if choices.below(2):
        document = made.spoil(document, choices)
    else:
        row: list[Any] = list(choices.pick(_DOCUMENT))
        at = choices.pick((3, 4, 5))
        frame = bytearray(base64.b64decode(row[at][0] if at == 3 else row[at]))
        frame[choices.below(len(frame))] = choices.below(256)
        changed = base64.b64encode(frame).decode()
        row[at] = [changed, *row[at][1:]] if at == 3 else changed
        document = [row]
    try:
        body(msgspec.json.encode(document))
    except OverflowError:
        return  # a number that only a line can carry


def _see_to(built: Built) -> None:
    protocol = ARP_PROTOCOL if built.address.version == 4 else IPV6_PROTOCOL
    ours = {built.address.packed}
    whole = (*built.frames, built.probe, *(() if built.question is None else (built.question,)))
    for frame in whole:
        assert len(frame) <= _LONGEST_FRAME
        assert frame[6:12].hex(":") == built.mac
        assert int.from_bytes(frame[12:14]) == protocol
        assert built.address.packed in frame
    for frame in built.frames:
        (found,) = sightings.read(protocol, frame, ours)
        assert (found.address, found.mac) == (built.address, built.mac)
    assert sightings.read(protocol, built.probe, ours) == (), "a probe claims"


TARGETS: Final = (
    Target("stock", body, (b"[]", msgspec.json.encode(_DOCUMENT), b"[" * 5000)),
    Target("spoilt-stock", spoilt, tuple(random.Random(number).randbytes(30) for number in range(8))),
)
