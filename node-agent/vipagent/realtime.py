"""The door to the scheduler: makes the keeper's loop answer in time on a busy node.

Node death was measured at 398–501 ms with SCHED_FIFO and 450–851 ms without, on a loaded machine. All
of it is best effort: where something is refused, the keeper runs on and says what it lacks.

Children are ordinary processes. But whoever starts one waits until it has replaced itself by its program
(vfork), and one that is ordinary from the start is in no hurry: the loop stood still for up to 200 ms on a
loaded machine (10 ms with `spawn`, which makes it ordinary a moment later). That takes a second processor;
with one the child would keep its starter from running, and nothing is won.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import subprocess
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRIORITY: Final = 10
_OURS: Final = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
_REAP_S: Final = 0.01
_REAP_TRIES: Final = 200
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4  # lock what is used, not whole libraries


def claim_real_time() -> list[str]:
    """Ask for SCHED_FIFO and locked memory, and freeze what the garbage collector need not look at.

    Children do not inherit the priority. Returns what was refused, in words, with the remedy.
    """
    refused = []
    try:
        os.sched_setscheduler(0, _OURS, os.sched_param(_PRIORITY))
    except OSError as error:
        refused.append(
            f"real-time scheduling was refused ({error.strerror}): grant CAP_SYS_NICE, and, where the kernel "
            "shares real time out to cgroups (CONFIG_RT_GROUP_SCHED), a cgroup with a share of it"
        )
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        reason = os.strerror(ctypes.get_errno())
        refused.append(f"locking memory was refused ({reason}): grant CAP_IPC_LOCK")
    gc.collect()
    gc.freeze()
    gc.disable()
    return refused


def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a child, as an ordinary background process; `options` as for `Popen`. Raises `OSError`."""
    if os.sched_getscheduler(0) != _OURS or len(os.sched_getaffinity(0)) == 1:
        return subprocess.Popen(command, **options)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    try:
        child = subprocess.Popen(command, **options)
        os.sched_setscheduler(child.pid, os.SCHED_BATCH, os.sched_param(0))
        return child
    finally:
        os.sched_setscheduler(0, _OURS, os.sched_param(_PRIORITY))


async def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child that has closed its connection, and so is about to end; kill it if it does not."""
    for _ in range(_REAP_TRIES):
        if process.poll() is not None:
            return
        await asyncio.sleep(_REAP_S)
    process.kill()
    while process.poll() is None:  # noqa: ASYNC110 - killed just before: it is gone within a few of these
        await asyncio.sleep(_REAP_S)


def leave(process: subprocess.Popen[bytes]) -> None:
    """Let a child go on without this process, which is about to end and waits for it no more."""
    process.returncode = 0  # else Python warns of a child that nobody has waited for


class GarbageCollector:
    """Collects young garbage at moments of the caller's choice, and each `TIMES_TO_ALL`th time all.

    What was in use when its generation was looked at, and became garbage later, stays until all is looked at:
    a keeper that never did would grow by it.
    """

    TIMES_TO_ALL: Final = 60

    def __init__(self) -> None:
        self._times = 0

    def collect(self) -> None:
        """Collect now: some milliseconds where all is looked at, a fraction of one otherwise."""
        self._times += 1
        gc.collect(2 if self._times % self.TIMES_TO_ALL == 0 else 1)
