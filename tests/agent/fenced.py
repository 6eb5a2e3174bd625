"""A keeper on a node that may end itself: `python -m agent.fenced SCENARIO OUTSIDE FOLDER CGROUP`.

Run it as process 1 of a PID namespace of its own: that is the node. It makes sure of that, by the number of
the namespace outside (`OUTSIDE`), before it does anything, and asks for `--fence namespace` only, which is
refused in the machine's own namespace. It prints what is told, and ends with 0 where nothing ended the node.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.services import (
    DAEMON,
    LEASE,
    LONG,
    SECOND,
    Services,
    hook,
    kill_leash,
    leash_of,
    now_ns,
    plan,
    service_of,
    unit_plan,
)
from vipagent import leash_fence
from vipagent.ledger import Entry, Ledger
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Mount, Ocf, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MACHINES_NAMESPACE = 0xEFFFFFFC


def say(**facts: Any) -> None:
    print(json.dumps({"at_ns": now_ns(), **facts}), flush=True)  # noqa: T201 - the test reads it


def services(folder: Path, cgroup: Path) -> Services:
    node = Services(folder, cgroup, fence="namespace")
    assert node.runner.can_fence
    return node


async def stop(node: Services, service: ServicePlan, run: int) -> None:
    """Stop it and say what is told, until it has ended."""
    say(stopped=service.name)
    node.runner.stop(service.id, run)
    kind = ""
    while kind != "Stopped":
        told = await node.next()
        kind = told.kind
        say(kind=kind, message=told.message)


async def a_stop_that_fails(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", "echo cannot; exit 1")
    node = services(folder, cgroup)
    service = plan(stop="stop", fences=True)
    await stop(node, service, await node.started(service))


async def a_stop_that_fails_where_it_only_blocks(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", "echo cannot; exit 1")
    # Only when asked again does this stop hook find that there is nothing to do any more.
    hook(folder / "hooks", "status", f"test -e {folder}/running")
    (folder / "running").touch()
    node = services(folder, cgroup)
    service = plan(stop="stop", status="status", fences=False)
    run = await node.started(service)
    node.runner.stop(service.id, run)
    told = await node.next()
    say(kind=told.kind, message=told.message)
    await asyncio.sleep(2 * leash_fence.DELAY_S)
    (folder / "running").unlink()
    say(kind=(await node.next()).kind)
    await node.runner.close()


async def a_stop_that_fails_before_it_is_to_fence(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", "echo cannot; exit 1")
    node = services(folder, cgroup)
    service = plan(stop="stop")
    run = await node.started(service)
    node.runner.stop(service.id, run)
    told = await node.next()
    say(kind=told.kind, message=told.message)
    node.runner.amend(plan(stop="stop", fences=True))
    say(due_ns=now_ns())
    await asyncio.sleep(600)


async def a_leash_that_stands_still_when_its_service_is_to_fence(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", "echo cannot; exit 1")
    node = services(folder, cgroup)
    run = await node.started(plan(stop="stop", stop_timeout_ms=500))
    node.runner.stop(plan().id, run)
    say(kind=(await node.next()).kind)
    os.kill(leash_of(cgroup), signal.SIGSTOP)
    node.runner.amend(plan(stop="stop", stop_timeout_ms=500, fences=True))
    say(due_ns=now_ns() + SECOND // 2)
    await asyncio.sleep(600)


async def a_stop_that_fails_and_is_not_to_fence_any_more(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", f"test -e {folder}/fails || exit 0; exit 1")
    (folder / "fails").touch()
    node = services(folder, cgroup)
    service = plan(stop="stop", fences=True)
    run = await node.started(service)
    node.runner.stop(service.id, run)
    told = await node.next()
    say(kind=told.kind, message=told.message)
    node.runner.amend(plan(stop="stop"))
    await asyncio.sleep(2 * leash_fence.DELAY_S)
    (folder / "fails").unlink()
    await node.stopped(service, run)
    say(kind="Stopped")
    await node.runner.close()


async def a_stop_that_works_after_it_was_not_to_fence(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", f"test -e {folder}/fails || exit 0; rm {folder}/fails; exit 1")
    (folder / "fails").touch()
    node = services(folder, cgroup)
    service = plan(stop="stop", fences=True)
    run = await node.started(service)
    node.runner.amend(plan(stop="stop"))
    node.runner.stop(service.id, run)
    say(kind=(await node.next()).kind)
    await asyncio.sleep(2 * leash_fence.DELAY_S)
    await node.stopped(service, run)
    say(kind="Stopped")
    await node.runner.close()


async def a_stop_that_works(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", "exit 0")
    node = services(folder, cgroup)
    service = plan(stop="stop", fences=True)
    await stop(node, service, await node.started(service))
    await node.runner.close()


async def a_hanging_stop_at_the_leases_end(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", "test $VIPKEEPER_TERM = 7 && sleep 600")
    node = services(folder, cgroup)
    other, service = plan("other"), plan(stop="stop", stop_timeout_ms=1000, fences=True)
    await node.started(other)  # so that the leash is up before the lease that counts begins
    await node.started(service, for_ns=LEASE)
    say(due_ns=node.deadline_ns + 1 * SECOND)
    told = await node.next()
    say(kind=told.kind, message=told.message)
    await asyncio.sleep(600)


async def a_busy_mount(folder: Path, cgroup: Path) -> None:
    target = folder / "disk"
    target.mkdir()
    workload = Workload(mount=Mount("disk", str(target), "tmpfs"))
    service = ServicePlan("uid", "prod", "billing", "app", workload, stop_timeout_ms=500, fences=True)
    node = services(folder, cgroup)
    run = await node.started(service)
    os.chdir(target)
    await stop(node, service, run)


async def a_leash_that_stands_still(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    node = services(folder, cgroup)
    service = plan(stop_timeout_ms=500, fences=True)
    run = await node.started(service)
    os.kill(leash_of(cgroup), signal.SIGSTOP)
    say(due_ns=now_ns() + SECOND // 2)
    await stop(node, service, run)


async def a_leash_that_is_killed(folder: Path, cgroup: Path) -> None:
    hook(folder / "hooks", "start", DAEMON)
    node = services(folder, cgroup)
    service = plan(stop_timeout_ms=500, fences=True)
    run = await node.started(service)
    kill_leash(cgroup)
    say(kind=(await node.next()).kind)
    await stop(node, service, run)
    assert not service_of(cgroup).is_populated
    await node.runner.close()


async def a_silent_systemd_at_the_start(folder: Path, cgroup: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(folder / "silent"))
        silent.listen(100)
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={folder}/silent"
        node = services(folder, cgroup)
        service = unit_plan("silent.service", stop_timeout_ms=500, fences=True)
        assert service.id in await node.runner.start_clean([service])
        node.runner.stop(service.id, 0)
        told = await node.next()
        say(kind=told.kind, message=told.message)
        await asyncio.sleep(2 * leash_fence.DELAY_S)
        say(kind="still here")
        os._exit(0)


def refused(folder: Path) -> tuple[ServicePlan, ...]:
    """One service of each kind that cannot be started, and that nobody could say to have stopped."""
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={folder}/nowhere"
    hook(folder / "hooks", "stop", "exit 1")
    agents = folder / "ocf" / "resource.d" / "test"
    agents.mkdir(parents=True)
    hook(agents, "Fake", "exit 1")
    fields: dict[str, Any] = {"stop_timeout_ms": 500, "fences": True}
    agent, mount = Workload(ocf=Ocf("test", "Fake", {})), Workload(mount=Mount("disk", f"{folder}/missing"))
    return (
        unit_plan("app.service", **fields),
        plan("scripts", start="missing", stop="stop", **fields),
        ServicePlan("uid", "prod", "billing", "agent", agent, **fields),
        ServicePlan("uid", "prod", "billing", "mount", mount, **fields),
    )


async def starts_that_are_refused(folder: Path, cgroup: Path) -> None:
    node = services(folder, cgroup)
    for service in refused(folder):
        run = node.start(service)
        told = await node.next()
        say(kind=told.kind, message=told.message)
        await stop(node, service, run)
    await asyncio.sleep(2 * leash_fence.DELAY_S)
    say(kind="still here")
    await node.runner.close()


async def a_leash_that_does_not_come_up(folder: Path, cgroup: Path) -> None:
    sys.executable = str(folder / "hooks" / hook(folder / "hooks", "leash", "exit 1"))
    await starts_that_are_refused(folder, cgroup)


async def a_leash_that_hangs_before_it_takes_orders(folder: Path, cgroup: Path) -> None:
    sys.executable = str(folder / "hooks" / hook(folder / "hooks", "leash", "exec sleep 600"))
    node = services(folder, cgroup)
    service, *_ = refused(folder)
    run = node.start(service)
    node.runner.stop(service.id, run)
    say(kind=(await node.next()).kind)
    await node.runner.close()


async def a_mount_left_over(folder: Path, cgroup: Path) -> None:
    target = folder / "disk"
    target.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "disk", target], check=True)  # noqa: ASYNC221
    os.chdir(target)
    workload = Workload(mount=Mount("disk", str(target), "tmpfs"))
    service = ServicePlan("uid", "prod", "billing", "app", workload, stop_timeout_ms=500, fences=True)
    node = services(folder, cgroup)
    say(left=sorted(await node.runner.start_clean([service])))
    await asyncio.sleep(600)


async def a_doubt_left_over(folder: Path, cgroup: Path) -> None:
    """The ledger says that a service could not be stopped; nothing of it is left, and its stop hook fails."""
    hook(folder / "hooks", "stop", "exit 1")
    path = folder / "services.json"
    ledger = Ledger(path)
    ledger.enter(Entry(plan(stop="stop", stop_timeout_ms=500, fences=True), is_in_doubt=True))
    await ledger.close()
    node = Services(folder, cgroup, fence="namespace", ledger=path)
    say(left=sorted(await node.runner.start_clean()))
    await node.runner.close()


async def a_keeper(folder: Path, cgroup: Path, *, closes: bool) -> None:
    """Start a service that cannot be stopped, and go away: in good order, or killed."""
    hook(folder / "hooks", "start", DAEMON)
    hook(folder / "hooks", "stop", "sleep 600")
    node = services(folder, cgroup)
    other, service = plan("other"), plan(stop="stop", stop_timeout_ms=6000 if closes else 1000, fences=True)
    await node.started(other)
    await node.started(service, for_ns=LONG if closes else LEASE)
    if closes:
        say(due_ns=now_ns() + 6 * SECOND)
        await node.runner.close()
        os._exit(0)
    say(due_ns=node.deadline_ns + 1 * SECOND)
    os.kill(os.getpid(), signal.SIGKILL)


async def a_keeper_that_is_killed(folder: Path, cgroup: Path) -> None:
    await beside(folder, cgroup, "killed")


async def a_keeper_that_ends(folder: Path, cgroup: Path) -> None:
    await beside(folder, cgroup, "closes")


async def beside(folder: Path, cgroup: Path, how: str) -> None:
    """Run the keeper as a process of this node, and outlive it."""
    command = [sys.executable, "-m", "agent.fenced", how, "0", str(folder), str(cgroup)]
    await asyncio.to_thread(subprocess.run, command, check=False)
    say(keeper="gone")
    await asyncio.sleep(600)


async def what_is_refused(folder: Path, cgroup: Path) -> None:
    del folder, cgroup
    say(reboot=leash_fence.end_node("reboot"), namespace=leash_fence.obstacle("namespace"))


SCENARIOS: tuple[Callable[[Path, Path], Awaitable[None]], ...] = (
    a_stop_that_fails,
    a_stop_that_fails_where_it_only_blocks,
    a_stop_that_fails_before_it_is_to_fence,
    a_leash_that_stands_still_when_its_service_is_to_fence,
    a_stop_that_fails_and_is_not_to_fence_any_more,
    a_stop_that_works_after_it_was_not_to_fence,
    a_stop_that_works,
    a_hanging_stop_at_the_leases_end,
    a_busy_mount,
    a_leash_that_stands_still,
    a_leash_that_is_killed,
    a_silent_systemd_at_the_start,
    starts_that_are_refused,
    a_leash_that_does_not_come_up,
    a_leash_that_hangs_before_it_takes_orders,
    a_mount_left_over,
    a_doubt_left_over,
    a_keeper_that_is_killed,
    a_keeper_that_ends,
    what_is_refused,
)


def main() -> None:
    """Make sure of the namespace, and play the scenario."""
    name, outside, folder, cgroup = sys.argv[1:]
    inside = os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116
    assert inside not in (MACHINES_NAMESPACE, int(outside)), "this would end more than the test"
    if name in ("killed", "closes"):
        assert os.getppid() == 1
        asyncio.run(a_keeper(Path(folder), Path(cgroup), closes=name == "closes"))
        return
    assert os.getpid() == 1
    (play,) = (each for each in SCENARIOS if each.__name__ == name)  # type: ignore[attr-defined]
    asyncio.run(play(Path(folder), Path(cgroup)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
