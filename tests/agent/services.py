"""What the tests of the leash and of its keeper's side share: hooks, cgroups, and waiting for both."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from vipagent.leash_cgroups import Cgroup, default_cgroup
from vipapi.healthchecks import Exec
from vipapi.nodeplan import ServicePlan
from vipapi.workloads import Scripts, Workload
from vipapi.workloads import Systemd as UnitOfSystemd

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
LONG = 600 * SECOND

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
    **fields: int,
) -> ServicePlan:
    """A service whose hooks have these names."""
    scripts = Scripts(
        start=Exec(start),
        stop=None if stop is None else Exec(stop),
        status=None if status is None else Exec(status),
    )
    return ServicePlan("uid", "prod", "billing", name, Workload(exec=scripts), **fields)  # type: ignore[arg-type]


def service_of(cgroup: Path, name: str = "app") -> Cgroup:
    """Where a service of `plan` runs."""
    return Cgroup(cgroup / f"uid%2F{name}" / "service")


async def until_exists(path: Path) -> str:
    """Wait for a file that has something in it, and return that."""
    while True:
        if path.exists() and (text := path.read_text()):  # noqa: ASYNC240
            return text
        await asyncio.sleep(0.01)


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


def unit_plan(unit: str, **fields: int) -> ServicePlan:
    """A service that is a unit of systemd."""
    return ServicePlan("uid", "prod", "billing", "app", Workload(systemd=UnitOfSystemd(unit)), **fields)  # type: ignore[arg-type]
