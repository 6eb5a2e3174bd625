"""The comparison with keepalived: what becomes of it when a subject fails, and how CPU is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from lab import bench, keepalived, peers
from lab.burdens import Burden
from lab.ledger import Beside, Failure, Idle, Ledger
from lab.stage import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.binaries import Binaries
    from lab.cluster import Lab
    from lab.peers import Subject


@dataclass
class Silence:
    """A measurement in which nobody answers."""

    def probes(self, _label: str, *, since_ns: int) -> list[object]:  # noqa: ARG002 - as the real one
        return []


@dataclass
class Nobody:
    """A subject that comes to rest a few times, and for which nobody answers."""

    title: str = "nobody"
    rests: int = 0
    said: list[str] = field(default_factory=list)
    lab: Nobody = field(init=False)
    measured: Silence = field(default_factory=Silence)

    def __post_init__(self) -> None:
        self.lab = self

    def set_up(self) -> None:
        self.said.append("up")

    def close(self) -> None:
        self.said.append("closed")

    def processes(self) -> Sequence[tuple[str, list[int]]]:
        return [("self", [os.getpid(), 2**22 + 1])]

    def rest(self) -> None:
        self.rests += 1


@dataclass
class Weight:
    """A burden that weighs nothing, and tells from when to when."""

    subject: Nobody
    named: str = "cpu"

    def start(self) -> None:
        self.subject.said.append("burdened")

    def end(self) -> None:
        self.subject.said.append("eased")


def measure(subject: Nobody, book: Ledger, say: list[str]) -> list[str]:
    """Do every fault twice, and return the faults that it did not get to."""
    left = peers.measure(
        cast("Subject", subject),
        peers.FAULTS,
        2,
        book,
        say.append,
        burden=cast("Burden", Weight(subject)),
        with_idle=True,
    )
    return [fault.title for fault in left]


def test_a_subject_for_which_nobody_answers_fails_and_what_was_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lab.peers.IDLE_S", 0.01)
    subject, told, book = Nobody(), list[str](), Ledger()
    left = measure(subject, book, told)
    assert left == [fault.title for fault in peers.FAULTS[1:]]
    assert (subject.said, subject.rests) == (["up", "burdened", "eased", "closed"], 1)
    assert told == ["FAILED: nobody answers for minimal, whom to do this to: node loses power"]
    idle, failure = book.entries
    assert isinstance(idle, Idle)
    assert (idle.who, idle.part) == ("nobody", "self")
    assert isinstance(failure, Failure)
    assert failure.of == "nobody: node loses power"


def test_what_a_subject_did_before_it_failed_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = peers.Cost(before="a", after="b", outage_ms=float("inf"), shared_ms=0.25, hiccup_ms=1)
    left = [cost, cost, cost]

    def suffer(_subject: Subject, _fault: peers.Fault) -> peers.Cost:
        if not left:
            raise NotReadyError("enough")
        return left.pop()

    monkeypatch.setattr("lab.peers.IDLE_S", 0.01)
    monkeypatch.setattr("lab.peers.suffer", suffer)
    book = Ledger()
    assert measure(Nobody(), book, []) == [fault.title for fault in peers.FAULTS[2:]]
    runs = [each for each in book.entries if isinstance(each, Beside)]
    assert [(each.fault, each.number) for each in runs] == [
        *[("node loses power", 1), ("node loses power", 2), ("cable pulled", 1)]
    ]
    assert {(each.who, each.load, each.outage_ms, each.shared_ms) for each in runs} == {
        ("nobody", "cpu", None, 0.25)
    }


def test_a_machine_without_keepalived_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    told: list[str] = []
    chosen = bench.plan(runs=1, only="daemon killed", part="both", peers_only="", load=())
    with pytest.raises(keepalived.KeepalivedMissingError):
        bench.run(cast("Binaries", None), told.append, chosen, Ledger())
    assert told == []


def test_the_settings_of_every_subject_are_told_in_full() -> None:
    texts = {peer.title: peer.described().text for peer in peers.PEERS}
    assert "profile: Balanced" in texts["vipkeeper, Balanced"]
    assert "profile: Fast" in texts["vipkeeper, Fast"]
    assert "advert_int 0.1\n" in texts[keepalived.QUICK.title]
    assert "\n    interface eth0\n" in texts[keepalived.DEFAULT.title]
    assert all(address in text for address in peers.ADDRESSES.values() for text in texts.values())
    assert not any(address in text for address in peers.IDLE.values() for text in texts.values())


def test_a_burden_is_named_as_it_is_asked_for() -> None:
    assert Burden(cast("Lab", None), frozenset({"packets", "cpu"})).named == "cpu,packets"
    assert not Burden(cast("Lab", None), ()).named


def test_what_ended_children_spent_is_counted() -> None:
    before = peers.cpu_s(os.getpid())
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert peers.cpu_s(os.getpid()) - before >= 0.25
    assert peers.cpu_s(2**22 + 1) == 0
