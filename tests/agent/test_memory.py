"""What a keeper must not forget of its domains: kept before it counts, never going back."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from vipagent.disk import Disk
from vipagent.memory import Memories
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.nodeplan import DomainPlan, Timing

if TYPE_CHECKING:
    from pathlib import Path

UID = "domain-uid"


def configured(epoch: int, *nodes: str) -> Configuration:
    members = tuple(Member(node, f"192.0.2.{number}") for number, node in enumerate(nodes, 1))
    return Configuration(epoch=epoch, witnesses=WitnessSet(members)).sealed(UID)


def domain(configuration: Configuration) -> DomainPlan:
    return DomainPlan(
        name="default",
        uid=UID,
        port=7946,
        timing=Timing(100, 400, 500, 600),
        configuration=configuration,
        members=(),
        keys=(),
    )


def settled(disk: Disk, *plans: Configuration, is_from_disk: bool = False) -> Memories:
    memories = Memories(disk)
    for configuration in plans:
        asyncio.run(memories.settle([domain(configuration)], is_from_disk=is_from_disk))
    return memories


def fill_disk(folder: Path, what: str) -> Path:
    """Have the next file of a kind not fit; returns what to remove to make room."""
    file = next(folder.glob(f"{what}-*"))
    full = file.with_name(f"{file.name}.new")
    full.symlink_to("/dev/full")
    return full


def reasons(memories: Memories) -> list[str]:
    return list(memories[UID].problems)


FIRST, SECOND, THIRD = (configured(epoch, "a") for epoch in (1, 2, 3))


@pytest.mark.parametrize(
    ("plans", "counts"),
    [
        pytest.param([FIRST, SECOND], SECOND, id="a higher epoch"),
        pytest.param([SECOND, FIRST], SECOND, id="a lower epoch"),
        pytest.param([FIRST, configured(1, "a", "b")], FIRST, id="another of the same epoch"),
        pytest.param([Configuration()], Configuration(), id="none chosen yet"),
        pytest.param([FIRST, THIRD], THIRD, id="some missed"),
    ],
)
def test_the_highest_epoch_counts_also_after_a_restart(
    tmp_path: Path, plans: list[Configuration], counts: Configuration
) -> None:
    assert settled(Disk(tmp_path), *plans)[UID].configuration == counts
    assert settled(Disk(tmp_path), plans[-1], is_from_disk=True)[UID].configuration == counts


def test_what_cannot_be_kept_does_not_count_until_it_can(tmp_path: Path) -> None:
    memories = settled(Disk(tmp_path), FIRST)
    full = fill_disk(tmp_path, "configuration")
    assert memories.offer(UID, SECOND)
    assert not asyncio.run(memories.keep_configurations())
    assert memories[UID].configuration == FIRST
    assert reasons(memories) == ["ConfigurationNotKept"]
    full.unlink()
    assert asyncio.run(memories.keep_configurations())
    assert memories[UID].configuration == SECOND
    assert reasons(memories) == []


def test_what_a_peer_offers_counts_only_while_nothing_higher_came(tmp_path: Path) -> None:
    memories = settled(Disk(tmp_path), FIRST)
    assert memories.offer(UID, THIRD)
    assert not memories.offer(UID, THIRD)
    assert not memories.offer(UID, SECOND)
    assert asyncio.run(memories.keep_configurations())
    assert memories[UID].configuration == THIRD


def test_a_domain_with_a_damaged_configuration_waits_for_the_api_server(tmp_path: Path) -> None:
    settled(Disk(tmp_path), SECOND)
    next(tmp_path.glob("configuration-*")).write_bytes(b"{}")
    memories = settled(Disk(tmp_path), FIRST, is_from_disk=True)
    assert memories[UID].configuration.epoch == 0
    assert reasons(memories) == ["ConfigurationUnreadable"]
    asyncio.run(memories.settle([domain(SECOND)], is_from_disk=False))
    assert memories[UID].configuration == SECOND
    assert reasons(memories) == []


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(Configuration(epoch=2, hash="of something else"), id="another hash"),
        pytest.param(
            Configuration(epoch=2, witnesses=WitnessSet((Member("b", "b.example"),))).sealed(UID),
            id="no address",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(tmp_path: Path, configuration: Configuration) -> None:
    memories = settled(Disk(tmp_path), FIRST, configuration)
    assert memories[UID].configuration == FIRST
    assert reasons(memories) == ["ConfigurationRefused"]
    assert memories.offer(UID, SECOND)
    assert reasons(memories) == []


def test_terms_that_cannot_be_kept_are_a_problem_with_a_remedy(tmp_path: Path) -> None:
    memories = settled(Disk(tmp_path), FIRST)
    assert asyncio.run(memories.keep_terms(UID, 1000, tries_again=False))
    full = fill_disk(tmp_path, "terms")
    assert not asyncio.run(memories.keep_terms(UID, 2000, tries_again=False))
    assert (
        "votes for no new owner beyond term 1000: free space"
        in memories[UID].problems["TermsNotKept"].message
    )
    full.unlink()
    assert not asyncio.run(memories.keep_terms(UID, 2000, tries_again=False))
    assert asyncio.run(memories.keep_terms(UID, 2000, tries_again=True))
    assert reasons(memories) == []
    assert settled(Disk(tmp_path), FIRST)[UID].term_ceiling == 2000


def test_terms_that_cannot_be_read_are_told_until_the_keeper_is_restarted(tmp_path: Path) -> None:
    settled(Disk(tmp_path), FIRST)
    Disk(tmp_path).store_term_ceiling(UID, 1000)
    (kept,) = tmp_path.glob("terms-*")
    kept.write_bytes(b"garbage")
    memories = settled(Disk(tmp_path), FIRST)
    assert reasons(memories) == ["TermsUnreadable"]
    assert asyncio.run(memories.keep_terms(UID, 2000, tries_again=False))
    assert reasons(memories) == ["TermsUnreadable"]
    assert reasons(settled(Disk(tmp_path), FIRST)) == []


class WatchedDisk(Disk):
    """A state folder that notes which threads touch it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.threads: set[int] = set()

    def load_term_ceiling(self, domain_uid: str) -> int:
        self.threads.add(threading.get_ident())
        return super().load_term_ceiling(domain_uid)

    def load_configuration(self, domain_uid: str) -> Configuration | None:
        self.threads.add(threading.get_ident())
        return super().load_configuration(domain_uid)

    def store_configuration(self, domain_uid: str, configuration: Configuration) -> None:
        self.threads.add(threading.get_ident())
        super().store_configuration(domain_uid, configuration)


def test_the_loop_never_waits_for_the_disk(tmp_path: Path) -> None:
    disk = WatchedDisk(tmp_path)
    settled(disk, FIRST)
    assert disk.threads
    assert threading.get_ident() not in disk.threads
