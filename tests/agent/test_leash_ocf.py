"""Services that resource agents hold: Debian's own agents and ours of the same kind, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from agent.services import Services, is_gone, kill_leash, service_of, services, until_exists
from vipagent.leash_ocf import ROOT, pace, words
from vipagent.runs import Outcome
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Ocf, Workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

AGENT = """\
#!/bin/sh
# An agent whose resource is a file, and with `process` also a process; $state.ACTION is run before an action.
state=$OCF_RESKEY_state
echo $1 >> $state.log
env > $state.environment.$1
test -e $state.$1 && . $state.$1
case $1 in
meta-data)
    cat <<END
<?xml version="1.0"?>
<resource-agent name="Fake"><actions>
<action name="start" timeout="5s" />
<action name="monitor" depth="10" timeout="7s" interval="7s" />
<action name="monitor" depth="0" timeout="5s" interval="1s" />
</actions></resource-agent>
END
    ;;
validate-all)
    case $OCF_RESKEY_state in
    /nowhere/*) echo "ocf-exit-reason:State file \\"$OCF_RESKEY_state\\" is not writable" >&2; exit 2 ;;
    esac ;;
start)
    test "$OCF_RESKEY_process" && { sleep 600 > /dev/null 2>&1 & echo $! > $state; }
    test "$OCF_RESKEY_process" || touch $state ;;
monitor)
    test -e $state || exit 7
    test -z "$OCF_RESKEY_process" || kill -0 $(cat $state) ;;
stop)
    test -e $state || exit 0
    test -z "$OCF_RESKEY_process" || kill $(cat $state) 2> /dev/null
    rm -f $state ;;
*) exit 3 ;;
esac
"""


@dataclass(frozen=True)
class Kind:
    """An agent with what it needs to start; `{state}` is a file that is there while it runs."""

    provider: str
    type: str
    parameters: Mapping[str, str]

    def plan(self, folder: Path, **fields: Any) -> ServicePlan:
        parameters = {name: value.format(state=folder / "state") for name, value in self.parameters.items()}
        return agent_plan(self.provider, self.type, parameters, **fields)


FAKE_FILE = Kind("test", "Fake", {"state": "{state}"})
FAKE_PROCESS = Kind("test", "Fake", {"state": "{state}", "process": "yes"})
DUMMY = Kind("heartbeat", "Dummy", {"state": "{state}"})
ANYTHING = Kind(
    "heartbeat", "anything", {"binfile": "/bin/sleep", "cmdline_options": "600", "pidfile": "{state}"}
)
ALL = [
    pytest.param(FAKE_FILE, id="fake-file"),
    pytest.param(FAKE_PROCESS, id="fake-process"),
    pytest.param(DUMMY, id="heartbeat-Dummy"),
    pytest.param(ANYTHING, id="heartbeat-anything"),
]
OF_PROCESSES = [ALL[1], ALL[3]]


def agent_plan(
    provider: str, kind: str, parameters: Mapping[str, str] | None = None, **fields: Any
) -> ServicePlan:
    workload = Workload(ocf=Ocf(provider, kind, dict(parameters or {})))
    return ServicePlan("uid", "prod", "billing", "app", workload, **fields)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an OCF root that has the agents of this machine and ours."""
    root = tmp_path / "ocf"
    (root / "resource.d" / "test").mkdir(parents=True)
    (root / "lib").symlink_to(ROOT / "lib")
    (root / "resource.d" / "heartbeat").symlink_to(ROOT / "resource.d" / "heartbeat")
    ours = root / "resource.d" / "test" / "Fake"
    ours.write_text(AGENT)
    ours.chmod(0o755)
    return tmp_path


def meddle(folder: Path, action: str, text: str) -> None:
    """Have our agent run this before an action."""
    new = folder / "meddling"
    new.write_text(text)
    new.rename(folder / f"state.{action}")


async def told_once_well(node: Services, folder: Path) -> Outcome:
    """Return what is told next; from then on nothing is meddled with, so that the end finds it stopped."""
    told = await node.next()
    for action in ("start", "stop", "monitor"):
        (folder / f"state.{action}").unlink(missing_ok=True)
    return told


def said(folder: Path) -> list[str]:
    """The actions that our agent was told."""
    return (folder / "state.log").read_text().split()


@pytest.mark.parametrize("kind", ALL)
def test_what_an_agent_holds_is_started_and_stopped(folder: Path, cgroup: Path, kind: Kind) -> None:
    async def run() -> None:
        service = kind.plan(folder)
        async with services(folder, cgroup) as node:
            for _ in range(2):
                number = await node.started(service)
                assert (folder / "state").exists()
                pids = service_of(cgroup).pids()
                assert bool(pids) == (kind in (FAKE_PROCESS, ANYTHING))
                await node.stopped(service, number)
                assert not (folder / "state").exists()
                assert all(is_gone(pid) for pid in pids)

    asyncio.run(run())


def test_an_agent_is_told_what_the_api_says(
    folder: Path, cgroup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")

    async def run() -> None:
        service = FAKE_FILE.plan(folder, stop_timeout_ms=20_000)
        async with services(folder, cgroup) as node:
            await node.stopped(service, await node.started(service))

    asyncio.run(run())
    told = {
        action: dict(
            line.split("=", 1) for line in (folder / f"state.environment.{action}").read_text().splitlines()
        )
        for action in ("validate-all", "start", "monitor", "stop")
    }
    for action, environment in told.items():
        assert environment["OCF_ROOT"] == str(folder / "ocf"), action
        assert environment["OCF_RESOURCE_INSTANCE"] == "prod.billing.app"
        assert (environment["OCF_RESOURCE_PROVIDER"], environment["OCF_RESOURCE_TYPE"]) == ("test", "Fake")
        assert (environment["OCF_RA_VERSION_MAJOR"], environment["OCF_RA_VERSION_MINOR"]) == ("1", "1")
        assert environment["OCF_RESKEY_state"] == str(folder / "state")
        assert environment["VIPKEEPER_TERM"] == "7"
        assert "SECRET" not in environment
    assert told["stop"]["OCF_RESKEY_CRM_meta_timeout"] == "20000"
    assert told["monitor"]["OCF_RESKEY_CRM_meta_interval"] == "0", "the last one asks whether it has gone"
    assert said(folder) == ["validate-all", "meta-data", "start", "monitor", "stop", "monitor"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        pytest.param(
            Kind("test", "Fake", {"state": "/nowhere/x"}),
            "test:Fake validate-all exited with status 2 (invalid parameters): "
            'State file "/nowhere/x" is not writable',
            id="fake",
        ),
        pytest.param(
            Kind("heartbeat", "Dummy", {"state": "/nowhere/x"}),
            "heartbeat:Dummy validate-all exited with status 2 (invalid parameters): State file "
            '"/nowhere/x" is not writable',
            id="heartbeat-Dummy",
        ),
        pytest.param(
            Kind("heartbeat", "anything", {"binfile": "/bin/nowhere", "pidfile": "{state}"}),
            "binfile /bin/nowhere does not exist or is not executable by root.",
            id="heartbeat-anything",
        ),
        pytest.param(
            Kind("heartbeat", "IPaddr2", {"ip": "nonsense"}),
            "(not configured): [findif] failed",
            id="heartbeat-IPaddr2",
        ),
    ],
)
def test_an_agent_that_does_not_validate_is_not_started_and_says_why(
    folder: Path, cgroup: Path, kind: Kind, message: str
) -> None:
    async def run() -> Outcome:
        service = kind.plan(folder)
        async with services(folder, cgroup) as node:
            return await node.tried(service)

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert message in told.message
    assert "validate-all" in told.message


def test_an_agent_that_cannot_validate_is_started_all_the_same(folder: Path, cgroup: Path) -> None:
    async def run() -> None:
        meddle(folder, "validate-all", "exit 3")
        service = FAKE_FILE.plan(folder)
        async with services(folder, cgroup) as node:
            await node.stopped(service, await node.started(service))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("action", "text", "message"),
    [
        pytest.param("start", "echo no; exit 1", "start exited with status 1 (generic error): no", id="no"),
        pytest.param("start", "sleep 600", "test:Fake start did not end within 2 s", id="hangs"),
        pytest.param("validate-all", "sleep 600", "validate-all did not end within 2 s", id="hangs-before"),
        pytest.param(
            "start",
            "exit 0",
            "did not work within 2 s: test:Fake monitor exited with status 7 (not running)",
            id="is-never-up",
        ),
        pytest.param("monitor", "exit 9", "monitor exited with status 9 (failed, promoted)", id="has-failed"),
    ],
)
def test_a_start_that_fails_says_why(
    folder: Path, cgroup: Path, action: str, text: str, message: str
) -> None:
    async def run() -> Outcome:
        meddle(folder, action, text)
        service = FAKE_FILE.plan(folder, start_timeout_ms=2000)
        async with services(folder, cgroup) as node:
            number = node.start(service)
            told = await node.next()
            (folder / f"state.{action}").unlink()
            await node.stopped(service, number)
        return told

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert message in told.message


def test_what_is_up_only_later_counts_as_active_only_then(folder: Path, cgroup: Path) -> None:
    async def run() -> None:
        meddle(folder, "monitor", "test $(grep -c monitor $state.log) -ge 3 || exit 1")
        service = FAKE_FILE.plan(folder)
        async with services(folder, cgroup) as node:
            number = await node.started(service)
            assert said(folder).count("monitor") == 3
            (folder / "state.monitor").unlink()
            await node.stopped(service, number)

    asyncio.run(run())


@pytest.mark.parametrize("kind", OF_PROCESSES)
def test_a_process_that_dies_is_told_within_seconds(folder: Path, cgroup: Path, kind: Kind) -> None:
    async def run() -> tuple[Outcome, float]:
        service = kind.plan(folder)
        async with services(folder, cgroup) as node:
            number = await node.started(service)
            began = time.monotonic()
            for pid in service_of(cgroup).pids():
                os.kill(pid, signal.SIGKILL)
            told = await node.next()
            took_s = time.monotonic() - began
            await node.stopped(service, number)
        return told, took_s

    told, took_s = asyncio.run(run())
    assert told.kind == "Died"
    assert "it does not work: " in told.message
    assert "monitor exited with status 1 (generic error)" in told.message
    assert took_s < 10.0, "not only after the ten seconds that its meta-data say"
    assert took_s > 1.9, "three failures a second apart: the agent may be about to start it anew"


def test_monitor_must_fail_three_times_in_a_row_and_then_it_has_died(folder: Path, cgroup: Path) -> None:
    async def run() -> tuple[Outcome, int]:
        service = FAKE_FILE.plan(folder)
        async with services(folder, cgroup) as node:
            number = await node.started(service)
            meddle(folder, "monitor", f"rm $state.monitor; echo x > {folder}/failed; exit 1")
            await until_exists(folder / "failed")
            before = len(said(folder))
            while len(said(folder)) < before + 3:  # noqa: ASYNC110 - a failure that is not repeated is forgiven
                await asyncio.sleep(0.01)
            assert node.told.empty()
            meddle(folder, "monitor", f"echo x >> {folder}/failures; echo out of order; exit 1")
            told = await node.next()
            failures = len((folder / "failures").read_text().split())
            (folder / "state.monitor").unlink()
            await node.stopped(service, number)
        return told, failures

    told, failures = asyncio.run(run())
    assert told.kind == "Died"
    assert told.message == (
        "it does not work: test:Fake monitor exited with status 1 (generic error): out of order"
    )
    assert failures == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "echo busy; exit 1",
            "stop exited with status 1 (generic error): busy; test:Fake monitor says that it runs",
            id="says-no",
        ),
        pytest.param("exit 0", "test:Fake monitor says that it runs", id="only-says-so"),
    ],
)
def test_what_stop_does_not_stop_is_told_until_monitor_says_that_it_does_not_run(
    folder: Path, cgroup: Path, text: str, message: str
) -> None:
    async def run() -> Outcome:
        service = FAKE_FILE.plan(folder)
        async with services(folder, cgroup) as node:
            number = await node.started(service)
            meddle(folder, "stop", text)
            node.runner.stop(service.id, number)
            told = await node.next()
            (folder / "state").unlink()
            assert await node.next() == Outcome(service.id, number, "Stopped")  # without being asked again
        return told

    told = asyncio.run(run())
    assert told.kind == "StopFailed"
    assert message in told.message


NO_WAY = "this node has no way to fence itself"
"""What is said instead of fencing the node that a test runs on: it has no `--fence`."""


@pytest.mark.parametrize(
    ("start", "stop", "monitor", "outcome"),
    [
        pytest.param(5, 5, 5, "Stopped", id="not-installed"),
        pytest.param(6, 6, 6, "Stopped", id="not-configured"),
        pytest.param(2, 2, 2, "Stopped", id="invalid-parameters"),
        pytest.param(5, 1, 6, "Stopped", id="not-installed-and-so-not-configured"),
        pytest.param(1, 5, 5, "Stopped", id="fails-and-is-not-installed"),
        pytest.param(1, 6, 6, "StopFailed", id="fails-and-is-not-configured"),
        pytest.param(1, 0, 2, "StopFailed", id="fails-and-has-invalid-parameters"),
        pytest.param(6, 6, 1, "StopFailed", id="not-configured-but-monitor-fails"),
        pytest.param(1, 1, 1, "Fenced", id="fails-and-monitor-fails"),
        pytest.param(0, 0, 5, "Stopped", id="passed-and-was-removed-after-its-stop"),
        pytest.param(0, 5, 5, "Fenced", id="passed-and-was-removed"),
        pytest.param(0, 0, 6, "Fenced", id="passed-and-is-not-configured-any-more"),
    ],
)
def test_an_agent_that_cannot_run_here_ends_its_node_only_after_a_start_that_passed(
    *, folder: Path, cgroup: Path, start: int, stop: int, monitor: int, outcome: str
) -> None:
    async def run() -> Outcome:
        meddle(folder, "validate-all", "exit 3")
        if start != 0:
            meddle(folder, "start", f"exit {start}")
        service = FAKE_FILE.plan(folder, fences=True)
        async with services(folder, cgroup) as node:
            number = node.start(service)
            assert (await node.next()).kind == ("StartFailed" if start else "Started")
            meddle(folder, "stop", f"exit {stop}")
            meddle(folder, "monitor", f"exit {monitor}")
            node.runner.stop(service.id, number)
            return await told_once_well(node, folder)

    told = asyncio.run(run())
    assert ("Fenced" if NO_WAY in told.message else told.kind) == outcome


@pytest.mark.parametrize("monitor", [5, 6], ids=["not-installed", "not-configured"])
def test_a_start_that_was_killed_may_have_started_it(*, folder: Path, cgroup: Path, monitor: int) -> None:
    async def run() -> Outcome:
        meddle(folder, "start", "sleep 600")
        service = FAKE_FILE.plan(folder, fences=True, start_timeout_ms=1000)
        async with services(folder, cgroup) as node:
            number = node.start(service)
            assert (await node.next()).kind == "StartFailed"
            meddle(folder, "stop", "exit 5")
            meddle(folder, "monitor", f"exit {monitor}")
            node.runner.stop(service.id, number)
            return await told_once_well(node, folder)

    told = asyncio.run(run())
    assert told.kind == "StopFailed"
    assert NO_WAY in told.message


def test_a_stop_that_hangs_is_killed_and_said_once_more(folder: Path, cgroup: Path) -> None:
    async def run() -> float:
        service = FAKE_PROCESS.plan(folder, stop_timeout_ms=1500)
        async with services(folder, cgroup) as node:
            number = await node.started(service)
            pids = service_of(cgroup).pids()
            meddle(folder, "stop", "rm $state.stop; sleep 600")
            began = time.monotonic()
            node.runner.stop(service.id, number)
            while (await node.next()).kind != "Stopped":  # a loaded machine may doubt it for a while
                pass
            took_s = time.monotonic() - began
            assert all(is_gone(pid) for pid in pids)
        return took_s

    # The process was killed and left its file behind, which the second stop removes.
    assert asyncio.run(run()) >= 1.5
    assert not (folder / "state").exists()
    assert said(folder).count("stop") >= 2


def test_an_agent_that_does_not_answer_is_a_doubt_in_time(folder: Path, cgroup: Path) -> None:
    async def run() -> tuple[Outcome, float]:
        service = FAKE_FILE.plan(folder, stop_timeout_ms=1000)
        async with services(folder, cgroup) as node:
            number = await node.started(service)
            meddle(folder, "monitor", "sleep 600")
            began = time.monotonic()
            node.runner.stop(service.id, number)
            told = await node.next()
            took_s = time.monotonic() - began
            (folder / "state.monitor").unlink()
            await node.stopped(service, number)
        return told, took_s

    told, took_s = asyncio.run(run())
    assert told.kind == "StopFailed"
    assert told.message == "whether it still runs is not known: nothing said so within 3 s"
    assert took_s < 20.0


def test_a_start_that_is_stopped_starts_nothing_more(folder: Path, cgroup: Path) -> None:
    async def run() -> None:
        meddle(folder, "start", f"echo x > {folder}/began; sleep 1; touch {folder}/late")
        meddle(folder, "stop", "sleep 1.5")
        service = FAKE_FILE.plan(folder)
        async with services(folder, cgroup) as node:
            number = node.start(service)
            await until_exists(folder / "began")
            (folder / "state").touch()
            await node.stopped(service, number)

    asyncio.run(run())
    assert not (folder / "late").exists()


@pytest.mark.parametrize("kind", [ALL[0], ALL[2], ALL[3]])
def test_what_is_not_renewed_ends_by_itself(folder: Path, cgroup: Path, kind: Kind) -> None:
    async def run() -> None:
        service = kind.plan(folder)
        async with services(folder, cgroup) as node:
            await node.leased(service)
            assert await node.next() == Outcome(service.id, 2, "Stopped")
            assert not (folder / "state").exists()

    asyncio.run(run())


@asynccontextmanager
async def without_leash(folder: Path, cgroup: Path, service: ServicePlan) -> AsyncIterator[Services]:
    """A runner whose leash was killed right after it had started the service."""
    async with services(folder, cgroup) as node:
        await node.started(service)
        kill_leash(cgroup)
        yield node


@pytest.mark.parametrize("kind", ALL)
def test_what_has_lost_its_leash_is_stopped_by_the_next(folder: Path, cgroup: Path, kind: Kind) -> None:
    async def run() -> list[str]:
        service = kind.plan(folder)
        async with without_leash(folder, cgroup, service) as node:
            return [(await node.next()).kind, (await node.next()).kind]

    assert asyncio.run(run()) == ["Died", "Stopped"]
    assert not (folder / "state").exists()


@pytest.mark.parametrize("kind", ALL)
def test_a_keeper_that_starts_stops_what_an_earlier_one_left(folder: Path, cgroup: Path, kind: Kind) -> None:
    async def run() -> None:
        service = kind.plan(folder)
        async with without_leash(folder, cgroup, service):
            pass
        assert (folder / "state").exists()
        async with services(folder, cgroup) as node:
            if await node.runner.start_clean([service]):  # a loaded machine may take more than its 4 s
                assert await node.next() == Outcome(service.id, 0, "Stopped")
            assert not (folder / "state").exists()
            await node.stopped(service, await node.started(service))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("monitor", "fences"),
    [
        pytest.param(0, True, id="runs"),
        pytest.param(1, False, id="fails"),
        pytest.param(6, False, id="not-configured"),
    ],
)
def test_only_what_runs_for_sure_ends_the_node_of_a_keeper_that_starts(
    *, folder: Path, cgroup: Path, monitor: int, fences: bool
) -> None:
    async def run() -> Outcome:
        meddle(folder, "stop", "exit 1")
        meddle(folder, "monitor", f"exit {monitor}")
        service = FAKE_FILE.plan(folder, fences=True)
        async with services(folder, cgroup) as node:
            assert await node.runner.start_clean([service]) == {service.id}
            node.runner.stop(service.id, 0)
            return await told_once_well(node, folder)

    told = asyncio.run(run())
    assert told.kind == "StopFailed"
    assert (NO_WAY in told.message) == fences


def test_a_keeper_that_starts_only_asks_where_nothing_runs(folder: Path, cgroup: Path) -> None:
    async def run() -> None:
        missing = agent_plan("test", "Missing")
        async with services(folder, cgroup) as node:
            assert await node.runner.start_clean([FAKE_FILE.plan(folder)]) == frozenset()
            assert await node.runner.start_clean([missing]) == frozenset()

    asyncio.run(run())
    assert said(folder) == ["monitor"]


@pytest.mark.parametrize(
    ("provider", "kind", "mode", "message"),
    [
        pytest.param(
            "test", "Missing", 0o755, "no resource agent test:Missing: install it as ", id="missing"
        ),
        pytest.param("nobody", "Fake", 0o755, "no resource agent nobody:Fake", id="no-such-provider"),
        pytest.param("test", "../test/Fake", 0o755, "'../test/Fake' is no name", id="path-as-type"),
        pytest.param("..", "Fake", 0o755, "'..' is no name", id="path-as-provider"),
        pytest.param("heartbeat", ".ocf-shellfuncs", 0o755, "'.ocf-shellfuncs' is no name", id="hidden"),
        pytest.param("", "Fake", 0o755, "'' is no name", id="empty"),
        pytest.param("test", "Fake", 0o757, "can be written by everybody", id="world-writable"),
        pytest.param("test", "Fake", 0o644, "is not executable: chmod +x", id="not-executable"),
    ],
)
def test_an_agent_that_may_not_be_run_is_refused_beforehand(
    *, folder: Path, cgroup: Path, provider: str, kind: str, mode: int, message: str
) -> None:
    async def run() -> Outcome:
        (folder / "ocf" / "resource.d" / "test" / "Fake").chmod(mode)
        service = agent_plan(provider, kind, {"state": str(folder / "state")})
        async with services(folder, cgroup) as node:
            while (why_not := node.runner.refusal(service.workload)) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert message in why_not
            node.start(service)
            told = await node.next()
            assert node.runner.problems() == (), "it is no lack of a cgroup"
        return told

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert message in told.message


def test_an_agent_that_is_installed_or_removed_later_is_found_and_missed(folder: Path, cgroup: Path) -> None:
    async def run() -> None:
        ours = folder / "ocf" / "resource.d" / "test" / "Fake"
        workload = FAKE_FILE.plan(folder).workload
        async with services(folder, cgroup) as node:
            assert node.runner.refusal(workload) is None
            ours.rename(folder / "removed")
            while node.runner.refusal(workload) is None:  # noqa: ASYNC110 - it is looked for now and then
                await asyncio.sleep(0.01)
            (folder / "removed").rename(ours)
            while node.runner.refusal(workload) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_an_agent_of_the_node_is_not_refused_but_where_there_is_no_cgroup(folder: Path, cgroup: Path) -> None:
    async def run() -> None:
        workload = DUMMY.plan(folder).workload
        async with services(folder, cgroup) as node:
            assert node.runner.refusal(workload) is None
        async with services(folder, None) as node:
            assert "cgroup" in (node.runner.refusal(workload) or "")

    asyncio.run(run())


def test_a_parameter_that_no_program_can_be_told_is_a_start_that_failed(folder: Path, cgroup: Path) -> None:
    async def run() -> Outcome:
        async with services(folder, cgroup) as node:
            service = agent_plan("test", "Fake", {"state": "a\0b"})
            return await node.tried(service)

    told = asyncio.run(run())
    assert told.kind == "StartFailed"
    assert told.message == "test:Fake validate-all cannot be started: ValueError: embedded null byte"


@pytest.mark.parametrize(
    ("meta_data", "expected"),
    [
        pytest.param("", (10.0, 20.0), id="none"),
        pytest.param(
            '<action name="monitor" depth="0" timeout="20s" interval="5s" />', (5.0, 20.0), id="usual"
        ),
        pytest.param("<action name=\"monitor\"\n timeout='9' />", (10.0, 20.0), id="not-as-we-read-it"),
        pytest.param('<action name="monitor" timeout="180s" interval="2min"/>', (10.0, 30.0), id="bounded"),
        pytest.param('<action name="monitor" timeout="10ms" interval="0"/>', (1.0, 5.0), id="bounded-below"),
        pytest.param(
            '<action name="monitor" depth="10" interval="3s"/><action name="monitor" interval="4"/>',
            (4.0, 20.0),
            id="the-simple-one",
        ),
        pytest.param('<action name="start" interval="3s"/>', (10.0, 20.0), id="of-another-action"),
    ],
)
def test_monitor_runs_as_often_as_the_meta_data_say_within_bounds(
    meta_data: str, expected: tuple[float, float]
) -> None:
    assert pace(meta_data) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        pytest.param(b"", "", id="nothing"),
        pytest.param(b"a\nb\n\n", "b", id="last-line"),
        pytest.param(b"ocf-exit-reason:no disk\nusage: x\n", "no disk", id="reason"),
        pytest.param(
            b"ocf-exit-reason:a\nocf-exit-reason:b\nocf-exit-reason:a\n", "a; b", id="reasons-each-once"
        ),
    ],
)
def test_an_agent_is_quoted_with_the_reasons_that_it_gives(output: bytes, expected: str) -> None:
    assert words(output) == expected
