"""Why a lab leaves nothing behind: the program that uses it moves into namespaces of its own first.

`enter()` forks twice. The outer process stays where it was and only waits; the middle one becomes
process 1 of a new PID namespace and only reaps; the inner one returns from `enter()` and goes on as the
program, in a network namespace with nothing but loopback and with a /proc that shows its own
processes only.

    outer (the shell's child) ── waits, passes signals on, removes the scratch folder
      └─ init (process 1)     ── dies with the outer one; when it dies the kernel kills all below it
           └─ inner           ── the program: pytest, or `python -m lab`
                └─ etcd, kube-apiserver, keepers, ... whatever they fork or however they daemonise

All of it stands in a cgroup of its own, where the machine has cgroup2, and services that keepers start in
cgroups below that.

So Ctrl-C, SIGTERM, an exception or kill -9 of any of the three end everything, and the network
namespaces, which no name and no process outside holds, go with them. Two labs cannot meet, and no
packet of a test can leave the machine. `outside_network()` is for the one thing that must: building
the control plane.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lab import kernelcalls
from vipagent.leash_cgroups import own_cgroup

SI_KERNEL = 0x80  # a terminal's Ctrl-C: the kernel sends it to the whole foreground group by itself
PATIENCE_S = 5.0
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class _Entered:
    network: int
    number: int
    scratch: Path


_entered: list[_Entered] = []


class EnclosureRefusedError(Exception):
    """This process may not make namespaces; the message says what it needs."""


def is_entered() -> bool:
    """Tell whether this process already stands in an enclosure."""
    return bool(_entered)


def process_id_outside() -> int:
    """Return the process id, in the machine's own /proc, of the program in the enclosure."""
    return _entered[0].number


def scratch_folder() -> Path:
    """Return the enclosure's folder; it is removed when the enclosure ends."""
    return _entered[0].scratch


def outside_network() -> int:
    """Return a descriptor of the network namespace that the program was started in."""
    return _entered[0].network


def enter() -> None:
    """Go on inside an enclosure; the calling process never returns, its grandchild does.

    Raises `EnclosureRefusedError` without the right to make namespaces. Call it before any thread is started.
    """
    if is_entered():
        return
    if os.geteuid() != 0:
        raise EnclosureRefusedError("the lab makes network namespaces: run it as root")
    sys.stdout.flush()
    sys.stderr.flush()
    outside = kernelcalls.current_network()
    scratch = Path(tempfile.mkdtemp(prefix="vipkeeper-lab-"))
    cgroup = _new_cgroup(scratch.name)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*PASSED_ON, signal.SIGCHLD})
    try:
        kernelcalls.unshare(kernelcalls.CLONE_NEWPID)
    except OSError as refusal:
        raise EnclosureRefusedError(
            f"the lab needs the right to make namespaces (CAP_SYS_ADMIN): {refusal}"
        ) from refusal
    outer = os.pidfd_open(os.getpid())
    child = os.fork()
    if child:
        code = _wait_for(child)
        shutil.rmtree(scratch, ignore_errors=True)
        if cgroup is not None:
            _remove(cgroup)
        os._exit(code)
    kernelcalls.die_with_parent(signal.SIGKILL)
    if cgroup is not None:
        (cgroup / "cgroup.procs").write_text("0")
    if select.select([outer], [], [], 0)[0]:
        os._exit(1)  # the outer process died before the kernel knew that we follow it
    inner = os.fork()
    if inner:
        os._exit(_wait_for(inner))
    os.close(outer)
    number_outside = int(Path("/proc/self").readlink().name)
    kernelcalls.unshare(kernelcalls.CLONE_NEWNS | kernelcalls.CLONE_NEWNET)
    kernelcalls.mount_own_proc()
    kernelcalls.bring_loopback_up()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*PASSED_ON, signal.SIGCHLD})
    _entered.append(_Entered(network=outside, number=number_outside, scratch=scratch))


def _new_cgroup(name: str) -> Path | None:
    """Make a cgroup below this process's own; None without cgroup2."""
    own = own_cgroup(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    if own is None:
        return None
    made = own / name
    made.mkdir()
    return made


def _remove(cgroup: Path) -> None:
    """Remove a cgroup and all below it; its processes died with process 1, but may not be gone yet."""
    deadline = time.monotonic() + PATIENCE_S
    while "populated 1" in (cgroup / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    for folder, _, _ in os.walk(cgroup, topdown=False):
        Path(folder).rmdir()


def _wait_for(child: int) -> int:
    """Reap until `child` has ended; pass on to it the signals that the terminal does not send it anyway."""
    while True:
        told = signal.sigwaitinfo({*PASSED_ON, signal.SIGCHLD})
        if told.si_signo != signal.SIGCHLD:
            if told.si_code != SI_KERNEL:
                os.kill(child, told.si_signo)
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if ended == 0:
                break
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
