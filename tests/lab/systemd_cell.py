"""What becomes systemd: `python -m lab.systemd_cell FOLDER CGROUP SYSTEMD [TREE]`, started by `lab.systemd`.

It forks once. The outer process waits; the inner one is process 1 of a new PID namespace, moves into the
cgroup and into the other namespaces, mounts what systemd shall see instead of the machine's own, and
becomes systemd. It dies with the outer one.

Read-only is everything that systemd writes to when it starts: `/` (`/etc/machine-id`) and `/proc/sys`. Its
`/dev` has no console and no terminals; `/dev/kmsg`, where it logs to, is a file. TREE holds a systemd that
is not installed (`lab.systemd_binaries`) and is laid over `/usr`.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from lab import kernelcalls

CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
MS_NOTHING = 0
MS_RDONLY = 1
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MNT_DETACH = 2
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | Path, target: str | Path, *, kind: str = "", flags: int, options: str = "") -> None:
    """mount(2); raises OSError."""
    words = [str(each).encode() for each in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"mount {kind or source} on {target}: {os.strerror(errno)}")


def main(folder: Path, cgroup: Path, systemd: Path, tree: Path | None) -> int:
    """Become systemd in a child, and wait for it."""
    outer = os.pidfd_open(os.getpid())
    kernelcalls.unshare(kernelcalls.CLONE_NEWPID)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    kernelcalls.die_with_parent(signal.SIGKILL)
    if select.select([outer], [], [], 0)[0]:
        os._exit(1)  # the outer process died before the kernel knew that we follow it
    (cgroup / "cgroup.procs").write_text("0")
    return _become(systemd, folder, tree)


def _become(systemd: Path, folder: Path, tree: Path | None) -> NoReturn:
    kernelcalls.unshare(kernelcalls.CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWUTS)
    _mount_all(folder, tree)
    arguments = ["--system", "--log-target=kmsg", "--show-status=no", "--default-standard-output=null"]
    nowhere = str(folder / "nowhere")
    settings = {
        "container": "vipkeeper-lab",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SYSTEMD_UNIT_PATH": str(folder / "units"),
        "SYSTEMD_GENERATOR_PATH": nowhere,
        "SYSTEMD_ENVIRONMENT_GENERATOR_PATH": nowhere,
    }
    os.execve(systemd, [str(systemd), *arguments], settings)  # noqa: S606  # this process is to be systemd


def _mount_all(folder: Path, tree: Path | None) -> None:
    kernelcalls.mount_own_proc()
    mount("/proc/sys", "/proc/sys", flags=MS_BIND)
    mount("", "/proc/sys", flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    if _libc.umount2(b"/sys/fs/cgroup", MNT_DETACH) != 0 and not Path("/sys/fs/cgroup").is_dir():
        mount("sysfs", "/sys", kind="sysfs", flags=MS_RDONLY)
    mount("cgroup2", "/sys/fs/cgroup", kind="cgroup2", flags=MS_NOTHING)
    _mount_devices(folder)
    if tree is not None:
        mount("overlay", "/usr", kind="overlay", flags=MS_RDONLY, options=f"lowerdir={tree}/usr:/usr")
    mount(folder / "run", "/run", flags=MS_BIND)
    Path("/run/systemd/system").mkdir(parents=True)
    temporary = tempfile.gettempdir()
    mount(temporary, temporary, flags=MS_BIND)
    mount("", "/", flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def _mount_devices(folder: Path) -> None:
    made = folder / "dev"
    made.mkdir()
    mount("tmpfs", made, kind="tmpfs", flags=MS_NOTHING, options="mode=755")
    log = folder / "systemd.log"
    log.touch()
    for name, source in {"kmsg": log, **{each: Path("/dev", each) for each in DEVICES}}.items():
        (made / name).touch()
        mount(source, made / name, flags=MS_BIND)
    mount(made, "/dev", flags=MS_MOVE)
    for name in ("shm", "pts"):
        Path("/dev", name).mkdir()


if __name__ == "__main__":
    folder, cgroup, systemd, *trees = map(Path, sys.argv[1:])
    sys.exit(main(folder, cgroup, systemd, trees[0] if trees else None))
