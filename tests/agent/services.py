"""What the tests of the leash and of its keeper's side share: hooks, cgroups, a runner and what it told."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from vipagent.leash_cgroups import Cgroup, default_cgroup
from vipagent.runner import Runner
from vipagent.runs import Outcome
from vipapi.healthchecks import Exec
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Scripts, Workload
from vipapi.workloads import Systemd as UnitOfSystemd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from vipagent.leash_fence import Way

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
LONG = 600 * SECOND
WAIT_S = 30.0
STORY_S = 120.0
"""How long a whole story with a running keeper may take, on however busy a machine."""
SOON_S = 8.0
"""Well before the ten seconds after which a keeper kills a leash that has not answered."""
LEASE = 6 * SECOND
"""What ends later than its lease by another one has been let run twice as long: a busy machine is quicker."""

DAEMON = "sleep 600 &"
STUBBORN = """
trap '' TERM INT HUP
(trap '' TERM; while :; do sleep 600; done) &
"""
"""Ignores SIGTERM, and starts another `sleep` when that one is asked to end."""
DETACHED = "setsid sh -c 'setsid sleep 600 & setsid sleep 600 &' < /dev/null > /dev/null 2>&1"
"""Forks twice, each time into a session of its own."""


def now_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def hook(folder: Path, name: str, text: str, mode: int = 0o755) -> str:
    """Put a shell script into the hooks folder, complete from the first moment on."""
    folder.mkdir(exist_ok=True)
    new = folder / f".{name}"
    new.write_text(f"#!/bin/sh\n{text}\n")
    new.chmod(mode)
    new.rename(folder / name)
    return name


@contextmanager
def own_cgroup() -> Iterator[Path]:
    """A cgroup for one test, that must be gone at its end; what it leaves is ended all the same."""
    path = default_cgroup(f"test-{uuid4().hex[:8]}")
    assert path is not None
    cgroup = Cgroup(path)
    try:
        yield path
        assert not cgroup.pids()
        assert not path.exists()
    finally:
        cgroup.kill()
        asyncio.run(end(cgroup))


async def end(cgroup: Cgroup) -> None:
    await cgroup.emptied()
    await cgroup.remove()


def plan(
    name: str = "app",
    *,
    stop: str | None = None,
    status: str | None = None,
    start: str = "start",
    **fields: Any,
) -> ServicePlan:
    """A service whose hooks have these names."""
    scripts = Scripts(
        start=Exec(start),
        stop=None if stop is None else Exec(stop),
        status=None if status is None else Exec(status),
    )
    return ServicePlan("uid", "prod", "billing", name, Workload(exec=scripts), **fields)


def service_of(cgroup: Path, name: str = "app") -> Cgroup:
    """Where a service of `plan` runs."""
    return Cgroup(cgroup / f"uid%2F{name}" / "service")


def leash_of(cgroup: Path) -> int:
    """The process id of the leash."""
    (pid,) = (Cgroup(cgroup) / "leash").pids()
    return pid


def kill_leash(cgroup: Path) -> None:
    os.kill(leash_of(cgroup), signal.SIGKILL)


async def until_exists(path: Path) -> str:
    """Wait for a file that has something in it, and return that."""
    while True:
        if path.exists() and (text := path.read_text()):  # noqa: ASYNC240
            return text
        await asyncio.sleep(0.01)


class Gate:
    """Hooks meet at it: each says that it has come, and goes on only when all have."""

    def __init__(self, folder: Path) -> None:
        self._come, self._gate = folder / "come", folder / "gate"
        self._come.mkdir(parents=True)
        os.mkfifo(self._gate)
        self.hook = f"echo x > {self._come}/$$; : < {self._gate}"
        """What a hook that meets others runs: opening a pipe for reading waits for somebody who writes."""

    async def open(self, many: int) -> None:
        """Wait until so many have come, and let them go on."""
        async with asyncio.timeout(WAIT_S):
            while len(list(self._come.iterdir())) < many:  # noqa: ASYNC110 - files tell nobody
                await asyncio.sleep(0.05)
        # Open for as long as this process: some may have come only nearly as far as the pipe.
        os.open(self._gate, os.O_RDWR)


def is_gone(pid: int) -> bool:
    """Whether a process is gone or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def children() -> set[int]:
    """The processes that this one has started."""
    text = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
    return {int(word) for word in text.split()}


def unit_plan(unit: str, **fields: Any) -> ServicePlan:
    """A service that is a unit of systemd."""
    return ServicePlan("uid", "prod", "billing", "app", Workload(systemd=UnitOfSystemd(unit)), **fields)


class Services:
    """A runner with what it told, in order."""

    def __init__(
        self, folder: Path, cgroup: Path | None, *, fence: Way | None = None, ledger: Path | None = None
    ) -> None:
        self.told: asyncio.Queue[Outcome] = asyncio.Queue()
        self.runner = Runner(
            node="node-a",
            hooks_dir=folder / "hooks",
            ocf_root=folder / "ocf",
            cgroup=cgroup,
            on_outcome=self.told.put_nowait,
            fence=fence,
            ledger=ledger,
        )
        self.deadline_ns = 0
        self._runs = 0

    def start(self, service: ServicePlan, *, for_ns: int = LONG) -> int:
        """Start it under a lease of that length; return the run."""
        self._runs += 1
        self.deadline_ns = now_ns() + for_ns
        self.runner.start(service, term=7, run=self._runs, virtual_ip="billing", deadline_ns=self.deadline_ns)
        return self._runs

    async def next(self) -> Outcome:
        """Return what is told next."""
        return await asyncio.wait_for(self.told.get(), WAIT_S)

    async def started(self, service: ServicePlan, *, for_ns: int = LONG) -> int:
        """Start it and see it active."""
        run = self.start(service, for_ns=for_ns)
        assert await self.next() == Outcome(service.id, run, "Started")
        return run

    async def leased(self, service: ServicePlan) -> None:
        """Start it under a short lease, with the leash running before: that takes a while to start."""
        await self.stopped(service, await self.started(service))
        await self.started(service, for_ns=LEASE)

    async def tried(self, service: ServicePlan, *, for_ns: int = LONG) -> Outcome:
        """Start it, and stop it whatever has come of that; return what did."""
        run = self.start(service, for_ns=for_ns)
        told = await self.next()
        await self.stopped(service, run)
        return told

    async def stopped(self, service: ServicePlan, run: int) -> None:
        """Stop it and see it gone."""
        self.runner.stop(service.id, run)
        assert await self.next() == Outcome(service.id, run, "Stopped")


@asynccontextmanager
async def services(
    folder: Path, cgroup: Path | None, *, ledger: Path | None = None
) -> AsyncIterator[Services]:
    running = Services(folder, cgroup, ledger=ledger)
    try:
        yield running
    finally:
        await running.runner.close()
