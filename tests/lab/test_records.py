from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lab.inquirer import checksum
from lab.records import Probe, Sighting, line_of, probes_in, sightings_in

if TYPE_CHECKING:
    from pathlib import Path

PROBES = [Probe(10, 12, "node-a"), Probe(20, None, None), Probe(30, 31, "node-b")]
SIGHTINGS = [Sighting(at_ns, "node-a", "02:00:00:00:00:65", "reply", "192.0.2.10") for at_ns in (10, 20, 30)]


@pytest.mark.parametrize(
    ("since_ns", "place"),
    [
        pytest.param(0, 0, id="all"),
        pytest.param(10, 0, id="from the first on"),
        pytest.param(11, 1, id="after the first"),
        pytest.param(30, 2, id="from the last on"),
        pytest.param(31, 3, id="none"),
    ],
)
def test_a_record_is_read_from_a_moment_on(tmp_path: Path, since_ns: int, place: int) -> None:
    probed, seen = tmp_path / "probes", tmp_path / "sightings"
    probed.write_bytes(b"".join(probe.packed() for probe in PROBES) + PROBES[0].packed()[:7])
    seen.write_bytes(b"".join(map(line_of, SIGHTINGS)) + line_of(SIGHTINGS[0])[:7])
    assert probes_in(probed, since_ns=since_ns) == PROBES[place:]
    assert sightings_in(seen, since_ns=since_ns) == SIGHTINGS[place:]


def test_what_nobody_has_written_yet_is_empty(tmp_path: Path) -> None:
    assert probes_in(tmp_path / "probes", since_ns=5) == []
    assert sightings_in(tmp_path / "sightings", since_ns=5) == []


def test_the_checksum_is_that_of_the_example_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF
