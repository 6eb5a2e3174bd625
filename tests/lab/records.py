"""What the measuring processes write down, and how it is read back.

All times are CLOCK_MONOTONIC nanoseconds, which every process on the machine shares. A file is only
appended to, in whole records, so it can be read while it is being written.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from bisect import bisect_left
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PROBE = struct.Struct("<QQ32s")


@dataclass(frozen=True, slots=True)
class Probe:
    """A question to an address: when it was sent, when it was answered and by whom; None if never."""

    sent_ns: int
    answered_ns: int | None
    node: str | None

    def packed(self) -> bytes:
        return _PROBE.pack(self.sent_ns, self.answered_ns or 0, (self.node or "").encode())


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """A node's kernel told of an address or a link: `added`, `removed`, `link-up` or `link-down`."""

    at_ns: int
    node: str
    event: str
    address: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """A frame on the bridge in which a node spoke as the owner of an address.

    `kind` is `arp-reply`, `arp-announcement` (target = sender), `neighbour-advert` (asked for or not) or
    `reply` (an answer to a probe). `mac` is the frame's source, `node` the port that it came in by.
    """

    at_ns: int
    node: str
    mac: str
    kind: str
    address: str


@dataclass(frozen=True, slots=True)
class Word:
    """Something that one keeper told another about an address set (`key`, in hex).

    `kind` is `acquire` (a request for what the sender does not hold), `granted`, `release`, `prepare`,
    `ready` or `handover`.
    """

    at_ns: int
    node: str
    to: str
    kind: str
    key: str


def probes_in(path: Path, *, since_ns: int = 0) -> list[Probe]:
    """Read the probes that have come to their end so far, in the order in which they were sent.

    With `since_ns` only those that were sent then or later, at little cost however long the file is.
    """
    if not path.exists():
        return []
    with path.open("rb") as file:
        count = path.stat().st_size // _PROBE.size

        def sent_ns_of(index: int) -> int:
            return int(_PROBE.unpack(os.pread(file.fileno(), _PROBE.size, index * _PROBE.size))[0])

        first = bisect_left(range(count), since_ns, key=sent_ns_of)
        content = os.pread(file.fileno(), (count - first) * _PROBE.size, first * _PROBE.size)
    return [
        Probe(sent_ns, answered_ns or None, node.rstrip(b"\0").decode() or None)
        for sent_ns, answered_ns, node in _PROBE.iter_unpack(content)
    ]


def line_of(record: AddressEvent | Sighting | Word) -> bytes:
    """Return the record as the line that `address_events_in`, `sightings_in` and `words_in` read."""
    return json.dumps(asdict(record)).encode() + b"\n"


def address_events_in(path: Path, *, since_ns: int = 0) -> list[AddressEvent]:
    return [AddressEvent(**each) for each in _lines(path, since_ns=since_ns)]


def sightings_in(path: Path, *, since_ns: int = 0) -> list[Sighting]:
    return [Sighting(**each) for each in _lines(path, since_ns=since_ns)]


def words_in(path: Path) -> list[Word]:
    return [Word(**each) for each in _lines(path)]


def _lines(path: Path, *, since_ns: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the lines from the first that is not older, at little cost however long the file is.

    The file is in the order of `at_ns`.
    """
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.rfind(b"\n") + 1

        def at_ns_around(place: int) -> int:
            """Return the time of the line that the byte at a place is of."""
            start = content.rfind(b"\n", 0, place) + 1
            return int(json.loads(content[start : content.find(b"\n", start)])["at_ns"])

        place = bisect_left(range(end), since_ns, key=at_ns_around)
        for line in content[place:end].splitlines():
            yield json.loads(line)
