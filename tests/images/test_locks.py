from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING

import pytest

from images import build, locks, seal

if TYPE_CHECKING:
    from pathlib import Path

DEVELOPMENT = locks.pins(build.TREE / "requirements.lock")
LOCKS = {image: build.TREE / image / "requirements.lock" for image in build.IMAGES}
ALLOWED = {
    "Apache-2.0",
    "Apache-2.0 AND BSD-2-Clause",
    "Apache-2.0 AND MIT",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "GPL-2.0-or-later OR Apache-2.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "PSF-2.0",
}
PLANES = {"dbus-fast", "h11", "h2", "pyroute2", "scapy"}


@pytest.mark.parametrize(
    "lock",
    [
        *LOCKS.values(),
        *(
            build.TREE / lock
            for lock in ("requirements.lock", "tests/images/build.lock", "tests/fuzz/engine.lock")
        ),
    ],
)
def test_every_locked_distribution_has_hashes_and_names_no_index(lock: Path) -> None:
    entries = locks.entries(lock)
    assert entries
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in lock.read_text()


@pytest.mark.parametrize("image", build.IMAGES)
def test_an_image_has_the_versions_that_were_tested(image: str) -> None:
    pins = locks.pins(LOCKS[image])
    assert pins.items() <= DEVELOPMENT.items()
    assert not pins.keys() & {
        "pytest",
        "hypothesis",
        "mypy",
        "ruff",
        "hatchling",
        "lupa",
        "aiosmtpd",
        "jsonschema",
    }


def test_the_controller_has_no_library_of_the_data_plane_and_the_agent_no_notifier() -> None:
    controller, agent = (locks.pins(LOCKS[image]).keys() for image in build.IMAGES)
    assert not controller & PLANES
    assert agent >= PLANES
    assert "apprise" in controller
    assert "apprise" not in agent


def test_all_that_the_images_hold_has_a_licence_that_was_reviewed() -> None:
    held = set().union(*(locks.pins(lock) for lock in LOCKS.values()))
    stated = {name: seal.licence(importlib.metadata.metadata(name)) for name in held}
    assert stated.pop("scapy") == "GPL-2.0-only"
    assert {name: licence for name, licence in stated.items() if licence not in ALLOWED} == {}


def test_the_containerfiles_stamp_the_version_of_the_tree() -> None:
    for image in build.IMAGES:
        text = (build.TREE / image / "Containerfile").read_text()
        assert text.count(f"ARG VERSION={build.version()}\n") == text.count("ARG VERSION=") == 2


def test_the_default_bases_are_one_image_by_its_digest() -> None:
    texts = [(build.TREE / image / "Containerfile").read_text() for image in build.IMAGES]
    bases = {
        base for text in texts for base in re.findall(r"^ARG (?:BUILD|RUN)_BASE=(.*)$", text, re.MULTILINE)
    }
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.13-slim-trixie@sha256:[0-9a-f]{64}", *bases)
