"""What a node of the cluster is: `python -m e2e.machine NAME FOLDER`, started in a host's network namespace.

It forks once. The outer process waits; the inner one is process 1 of a new PID namespace, takes mount, UTS
and IPC namespaces of its own, mounts what the node shall have for itself, and then only reaps. It dies with
the outer one and everything that runs on the node with it, containers included: pulling the node's plug is
killing one process.

Its own are `/proc`, an empty `/run` (as after every boot), and `/var`, which is `FOLDER/var` and outlives a
reboot: images, logs, and what pods have written to their `hostPath` volumes. All else is the machine's. What
is mounted in it propagates to the containers, as kubelets ask, and to nowhere else.

A kubelet sets five sysctls that belong to the whole machine, unless they are as it wants them. So it is
shown files that say so.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from lab import kernelcalls
from lab.systemd_cell import CLONE_NEWIPC, CLONE_NEWUTS, MS_BIND, MS_NOTHING, mount

MS_REC_SHARED = 0x4000 | (1 << 20)
IS_UP = "the machine is up"
WANTED_BY_KUBELETS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}


def main(name: str, folder: Path) -> NoReturn:
    """Be a machine in a child, and wait for it."""
    outer = os.pidfd_open(os.getpid())
    kernelcalls.unshare(kernelcalls.CLONE_NEWPID)
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    kernelcalls.die_with_parent(signal.SIGKILL)
    if select.select([outer], [], [], 0)[0]:
        os._exit(1)  # the outer process died before the kernel knew that we follow it
    os.close(outer)
    number_outside = int(Path("/proc/self").readlink().name)
    kernelcalls.unshare(kernelcalls.CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC)
    _mount_all(folder)
    socket.sethostname(name)
    print(f"{IS_UP} {number_outside}", flush=True)  # noqa: T201  # `e2e.node` waits for it
    _reap()


def _mount_all(folder: Path) -> None:
    kernelcalls.mount_own_proc()
    shown = folder / "sysctl"
    shown.mkdir(parents=True, exist_ok=True)
    for name, value in WANTED_BY_KUBELETS.items():
        if Path("/proc/sys", name).exists():
            file = shown / name.replace("/", ".")
            file.write_text(f"{value}\n")
            mount(file, f"/proc/sys/{name}", flags=MS_BIND)
    mount("tmpfs", "/run", kind="tmpfs", flags=MS_NOTHING, options="mode=755")
    var = folder / "var"
    for name in ("lib", "log", "tmp", "cache"):
        (var / name).mkdir(parents=True, exist_ok=True)
    if not (var / "run").is_symlink():
        (var / "run").symlink_to("/run")
    mount(var, "/var", flags=MS_BIND)
    mount("none", "/", flags=MS_REC_SHARED)


def _reap() -> NoReturn:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            continue


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
