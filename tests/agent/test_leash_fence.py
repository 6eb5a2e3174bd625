"""A node that ends itself: the node is a PID namespace made by the test, and its end is that of process 1.

No test asks for `--fence reboot` where that could be done: it is refused outside of the machine's own PID
namespace, and all tests stand in another (`lab.enclosure`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from agent.fenced import MACHINES_NAMESPACE
from agent.services import DAEMON, SECOND, Services, end, hook, now_ns, own_cgroup, plan
from vipagent.leash_cgroups import Cgroup
from vipagent.leash_fence import obstacle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vipagent.leash_fence import Way

WAIT_S = 60
FENCED = -signal.SIGHUP
"""How process 1 of a PID namespace ends that reboot(2) has ended."""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with own_cgroup() as path:
        yield path
        assert not Cgroup(path).pids(), "what ran on the node has ended with it"
        asyncio.run(end(Cgroup(path)))


@dataclass(frozen=True)
class Played:
    """How a node ended, when, and what its keeper said."""

    status: int
    ended_ns: int
    said: list[dict[str, Any]]

    @property
    def told(self) -> list[str]:
        return [each["kind"] for each in self.said if "kind" in each]

    @property
    def late_s(self) -> float:
        """How long after its service should have been killed the node has ended."""
        (due_ns,) = (each["due_ns"] for each in self.said if "due_ns" in each)
        return (self.ended_ns - due_ns) / SECOND


def play(scenario: str, folder: Path, cgroup: Path, *, before: Sequence[str] = ()) -> Played:
    """Have a node of its own, in which the keeper plays that scenario."""
    outside = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    assert outside != MACHINES_NAMESPACE, "pytest itself must not be in the machine's PID namespace"
    (folder / "hooks").mkdir(mode=0o755)
    command = ["/usr/bin/unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *before, sys.executable]
    command += ["-m", "agent.fenced", scenario, str(outside), str(folder), str(cgroup)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as node:
        try:
            status = node.wait(WAIT_S)
            ended_ns = now_ns()
        finally:
            node.kill()
        assert node.stdout is not None
        return Played(status, ended_ns, [json.loads(line) for line in node.stdout])


def test_a_service_that_cannot_be_stopped_is_told_and_a_second_later_its_node_ends(
    tmp_path: Path, cgroup: Path
) -> None:
    played = play("a_stop_that_fails", tmp_path, cgroup)
    assert played.status == FENCED
    assert played.told == ["StopFailed"]
    told = played.said[-1]
    assert told["message"] == (
        "hook stop exited with status 1: cannot; this node is fenced: it ends itself now"
    )
    assert (played.ended_ns - told["at_ns"]) / SECOND > 0.9


def test_a_service_that_only_blocks_ends_no_node(tmp_path: Path, cgroup: Path) -> None:
    played = play("a_stop_that_fails_where_it_only_blocks", tmp_path, cgroup)
    assert played.status == 0
    assert played.told == ["StopFailed", "Stopped"]
    assert played.said[0]["message"] == "hook stop exited with status 1: cannot"


@pytest.mark.parametrize(
    "scenario",
    ["a_stop_that_fails_before_it_is_to_fence", "a_leash_that_stands_still_when_its_service_is_to_fence"],
)
def test_a_service_that_could_not_be_stopped_ends_its_node_once_it_is_to(
    tmp_path: Path, cgroup: Path, scenario: str
) -> None:
    played = play(scenario, tmp_path, cgroup)
    assert played.status == FENCED
    assert 0.9 < played.late_s < 5.0


@pytest.mark.parametrize(
    "scenario",
    ["a_stop_that_works_after_it_was_not_to_fence", "a_stop_that_fails_and_is_not_to_fence_any_more"],
)
def test_a_service_that_is_not_to_end_its_node_any_more_does_not(
    tmp_path: Path, cgroup: Path, scenario: str
) -> None:
    played = play(scenario, tmp_path, cgroup)
    assert played.status == 0
    assert played.told == ["StopFailed", "Stopped"]


@pytest.mark.parametrize("scenario", ["a_stop_that_works", "a_leash_that_is_killed"])
def test_a_service_that_has_ended_ends_no_node(tmp_path: Path, cgroup: Path, scenario: str) -> None:
    played = play(scenario, tmp_path, cgroup)
    assert played.status == 0
    assert played.told[-1] == "Stopped"
    assert "StopFailed" not in played.told


@pytest.mark.parametrize(
    "scenario",
    [
        "a_hanging_stop_at_the_leases_end",
        "a_leash_that_stands_still",
        "a_keeper_that_is_killed",
        "a_keeper_that_ends",
    ],
)
def test_the_node_has_ended_within_five_seconds_of_when_its_service_should_have(
    tmp_path: Path, cgroup: Path, scenario: str
) -> None:
    played = play(scenario, tmp_path, cgroup)
    assert played.status == FENCED
    assert 0.9 < played.late_s < 5.0


def test_a_mount_that_stays_busy_ends_its_node(tmp_path: Path, cgroup: Path) -> None:
    played = play("a_busy_mount", tmp_path, cgroup)
    assert played.status == FENCED
    assert played.told == ["StopFailed"]
    assert "is still mounted" in played.said[-1]["message"]


def test_what_an_earlier_keeper_left_mounted_and_busy_ends_the_node(tmp_path: Path, cgroup: Path) -> None:
    assert play("a_mount_left_over", tmp_path, cgroup).status == FENCED


def test_what_may_or_may_not_be_left_over_ends_no_node(tmp_path: Path, cgroup: Path) -> None:
    played = play("a_silent_systemd_at_the_start", tmp_path, cgroup)
    assert played.status == 0
    assert played.told == ["StopFailed", "still here"]


def test_a_doubt_that_an_earlier_keeper_left_ends_no_node(tmp_path: Path, cgroup: Path) -> None:
    played = play("a_doubt_left_over", tmp_path, cgroup)
    assert played.status == 0
    assert [each["left"] for each in played.said] == [["uid/app"]]


@pytest.mark.parametrize("scenario", ["starts_that_are_refused", "a_leash_that_does_not_come_up"])
def test_what_was_never_started_ends_no_node(tmp_path: Path, cgroup: Path, scenario: str) -> None:
    played = play(scenario, tmp_path, cgroup)
    assert played.status == 0
    # Of the kinds: a unit without a systemd, hooks, an agent, a mount.
    assert [kind for kind in played.told if kind != "Stopped"] == ["StartFailed"] * 4 + ["still here"]


def test_a_leash_that_hangs_before_it_takes_orders_ends_no_node(tmp_path: Path, cgroup: Path) -> None:
    played = play("a_leash_that_hangs_before_it_takes_orders", tmp_path, cgroup)
    assert played.status == 0
    assert played.told == ["Stopped"]


def test_the_machine_is_not_restarted_from_a_namespace_that_is_not_its_own(
    tmp_path: Path, cgroup: Path
) -> None:
    played = play("what_is_refused", tmp_path, cgroup)
    assert played.status == 0
    (said,) = played.said
    assert "hostPID: true" in said["reboot"]
    assert said["namespace"] is None


def test_a_keeper_without_the_capability_says_so(tmp_path: Path, cgroup: Path) -> None:
    before = ["/usr/bin/setpriv", "--inh-caps=-sys_boot", "--bounding-set=-sys_boot"]
    played = play("what_is_refused", tmp_path, cgroup, before=before)
    assert "SYS_BOOT" in played.said[0]["namespace"]


def test_a_node_says_whether_it_can_end_itself(tmp_path: Path, cgroup: Path) -> None:
    assert os.stat("/proc/self/ns/pid").st_ino != MACHINES_NAMESPACE  # noqa: PTH116
    assert obstacle("namespace") is None

    async def run() -> None:
        none = Services(tmp_path, cgroup)
        assert not none.runner.can_fence
        assert none.runner.problems() == ()
        wrong = Services(tmp_path, cgroup, fence="reboot")
        assert not wrong.runner.can_fence
        (problem,) = wrong.runner.problems()
        assert problem.reason == "CannotFence"
        assert "--fence namespace" in problem.message
        right = Services(tmp_path, cgroup, fence="namespace")
        assert right.runner.can_fence
        assert right.runner.problems() == ()
        for node in (none, wrong, right):
            await node.runner.close()

    asyncio.run(run())


@pytest.mark.parametrize("fence", [None, "reboot"])
def test_a_service_that_fences_says_what_its_node_lacks_for_it(
    tmp_path: Path, cgroup: Path, fence: Way | None
) -> None:
    async def run() -> str:
        hook(tmp_path / "hooks", "start", DAEMON)
        hook(tmp_path / "hooks", "stop", f"rm {tmp_path}/hooks/stop; exit 1")
        node = Services(tmp_path, cgroup, fence=fence)
        try:
            service = plan(stop="stop", fences=True)
            number = await node.started(service)
            node.runner.stop(service.id, number)
            told = await node.next()
            assert told.kind == "StopFailed"
            return told.message
        finally:
            await node.runner.close()

    message = asyncio.run(run())
    lack = "hostPID: true" if fence else "this node has no way to fence itself: start its keeper with --fence"
    assert lack in message
