"""The verbs of service faults that need nothing of vipkeeper, each shown to do what it says."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import enclosure, topology
from lab.legacy import START, Legacy, running
from lab.legacyserver import is_locked
from lab.servicefaults import FAULTS, command_of, kill_everything_on, leash_of, processes_on
from lab.topology import Segment

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCKING = """
import fcntl, os, resource, socket, sys, time
_, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
locked = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(locked, fcntl.LOCK_EX)
much = [socket.socketpair() for _ in range(min(limit, 20_000) // 2 - 50)]
print("locked", flush=True)
time.sleep(1000)
"""
ASLEEP = "import time; print('asleep', flush=True); time.sleep(1000)"


@pytest.fixture(scope="module")
def segment() -> Iterator[Segment]:
    """Two nodes, with nothing on them."""
    made = Segment(Path(tempfile.mkdtemp(dir=enclosure.scratch_folder())))
    for index, name in enumerate(("node-a", "node-b")):
        made.add(name, topology.FIRST_NODE + index)
    yield made
    made.close()


def test_pulling_the_plug_ends_what_has_detached_itself_and_nothing_on_other_nodes(segment: Segment) -> None:
    here, there = (Legacy(host, segment.folder / "shared") for host in segment.hosts.values())
    for server in (here, there):
        server.install()
        server.run(START)
    here.host.kill_everything()
    assert running(here.shared) == ["node-a.1", "node-b.1"]
    kill_everything_on(here.host)
    assert running(here.shared) == ["node-b.1"]
    kill_everything_on(there.host)
    assert running(here.shared) == []
    assert processes_on(here.host) == processes_on(there.host) == []


def test_what_was_killed_holds_no_lock_any_more_however_much_it_had_open(segment: Segment) -> None:
    host, file = segment.hosts["node-a"], segment.folder / "locked"
    process = host.start([sys.executable, "-c", LOCKING, file], name="locking")
    process.wait_for_output("locked", patience_s=20)
    assert is_locked(file)
    kill_everything_on(host)
    assert not is_locked(file)


def test_who_only_looks_at_a_node_can_be_spared(segment: Segment) -> None:
    host = segment.hosts["node-a"]
    looking, other = (host.start([sys.executable, "-c", ASLEEP], name=name) for name in ("looking", "other"))
    for process in (looking, other):
        process.wait_for_output("asleep", patience_s=20)
    kill_everything_on(host, sparing={looking.child.pid})
    assert (looking.is_alive, other.is_alive) == (True, False)
    looking.kill()


def test_the_leash_is_found_by_what_it_runs(segment: Segment) -> None:
    host = segment.hosts["node-b"]
    process = host.start([sys.executable, "-c", ASLEEP, "vipagent.leash", "hooks"], name="named-like-it")
    process.wait_for_output("asleep", patience_s=20)
    assert leash_of(host) == process.child.pid
    process.kill()


def test_a_process_that_has_ended_has_no_command() -> None:
    assert command_of(os.getpid())
    assert command_of(2**22 - 1) == ""


def test_every_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


def test_what_a_fault_is_like_is_a_fault_that_make_test_does() -> None:
    done = {fault.name: fault.ending for fault in FAULTS if not fault.like}
    assert all(done[fault.like] is fault.ending for fault in FAULTS if fault.like)
