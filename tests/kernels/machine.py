"""A machine of QEMU's with Debian's kernel: its processor is emulated, its disk is this machine's.

The kernel and its modules are those that are installed here, or else Debian's package, unpacked into the
cache (`lab.debian`). What the machine sees as its root is this one's, read-only, by 9p; over it lies a folder
in its memory, so that whatever is done there is gone with it. It has no network. KVM is not used: it is not
to be had everywhere, and not needed.
"""

from __future__ import annotations

import gzip
import lzma
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab import debian

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.gobuilds import Say

PACKAGE: Final = "linux-image-amd64"
MEMORY_MB: Final = 2048
PATIENCE_S: Final = 1800
NEEDED_TO_START: Final = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
LINKS: Final = ("veth", "bridge", "bonding", "8021q", "vrf")

_INIT: Final = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod $module; done
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro root /below
mount -t tmpfs memory /above
mkdir /above/upper /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/upper,workdir=/above/work root /root
for folder in proc sys dev; do mount --move /$folder /root/$folder; done
mkdir -p /root/dev/shm /root/lib/modules /root/run/results
mount -t tmpfs memory /root/dev/shm
mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
mount -t bpf bpf /root/sys/fs/bpf
mount -t 9p -o trans=virtio,version=9p2000.L results /root/run/results
mount --bind /root{modules} /root/lib/modules
exec switch_root /root /bin/sh /run/results/job
"""
_JOB: Final = """
ip link set lo up
modprobe -a {links}
cd {folder}
{command}
echo $? > /run/results/status
sync
echo o > /proc/sysrq-trigger
while :; do :; done
"""


class MachineFailedError(Exception):
    """The machine could not be started, has ended before its command, or takes too long."""


def run(command: Sequence[str], environment: dict[str, str], folder: Path, say: Say) -> int:
    """Run a command in a folder of this machine's, on the other one; returns its exit status.

    What it prints goes to standard output. Raises `MachineFailedError`, and `BinariesMissingError` where
    there is no kernel.
    """
    if platform.machine() != "x86_64":
        raise MachineFailedError("this emulates an x86-64 with this machine's programs: it needs to be one")
    tree = Path("/") if _releases(Path("/")) else debian.unpacked("kernel", [PACKAGE], _has_kernel, say)
    release = _releases(tree)[-1]
    say(f"starting Linux {release} on a machine of QEMU's")
    with tempfile.TemporaryDirectory(prefix="vipkeeper-kernel-") as scratch:
        results = Path(scratch, "results")
        results.mkdir()
        words = ["env", *(f"{name}={value}" for name, value in environment.items()), *command]
        job = _JOB.format(links=" ".join(LINKS), folder=shlex.quote(str(folder)), command=shlex.join(words))
        results.joinpath("job").write_text(job, encoding="utf-8")
        initial = Path(scratch, "initial")
        _make_initial(initial, Path(scratch, "start"), tree, release)
        try:
            _emulate(tree / f"boot/vmlinuz-{release}", initial, results)
            return int(results.joinpath("status").read_text(encoding="ascii"))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise MachineFailedError(
                f"Linux {release} did not run its command to the end: {error}"
            ) from error


def _has_kernel(tree: Path) -> bool:
    return bool(_releases(tree))


def _releases(tree: Path) -> list[str]:
    names = (path.name.removeprefix("vmlinuz-") for path in tree.glob("boot/vmlinuz-*"))
    return sorted(name for name in names if any(tree.glob(f"usr/lib/modules/{name}/kernel/fs/9p/9p.ko*")))


def _make_initial(archive: Path, start: Path, tree: Path, release: str) -> None:
    """Write the file system that the kernel starts with: busybox, what mounts the disk, and how."""
    for name in ("bin", "proc", "sys", "dev", "modules", "below", "above", "root"):
        start.joinpath(name).mkdir(parents=True)
    shutil.copy2("/bin/busybox", start / "bin/busybox")
    for number, module in enumerate(_modules(tree, release), 10):
        content = module.read_bytes()
        if module.suffix == ".xz":
            content = lzma.decompress(content)
        start.joinpath("modules", f"{number}-{module.name}").write_bytes(content)
    init = start / "init"
    init.write_text(_INIT.format(modules=tree / "usr/lib/modules"), encoding="ascii")
    init.chmod(0o755)
    names = "\n".join(str(path.relative_to(start)) for path in sorted(start.rglob("*")))
    packing = ["busybox", "cpio", "--create", "--format=newc"]
    packed = subprocess.run(packing, cwd=start, input=names.encode(), stdout=subprocess.PIPE, check=True)
    archive.write_bytes(gzip.compress(packed.stdout, 1))


def _modules(tree: Path, release: str) -> list[Path]:
    """Return what has to be loaded, in its order."""
    if not tree.joinpath("usr/lib/modules", release, "modules.dep").exists():
        indexing = ["depmod", "--basedir", str(tree / "usr"), release]
        subprocess.run(indexing, check=True)
    asking = ["modprobe", "--dirname", str(tree / "usr"), "--set-version", release, "--show-depends", "--all"]
    told = subprocess.run([*asking, *NEEDED_TO_START], stdout=subprocess.PIPE, text=True, check=True).stdout
    paths = [line.split()[1] for line in told.splitlines() if line.startswith("insmod ")]
    return [Path(path) for path in dict.fromkeys(paths)]


def _emulate(kernel: Path, initial: Path, results: Path) -> None:
    disk = "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"
    shared = f"local,path={results},mount_tag=results,security_model=none"
    # Without cmpxchg16b, of which QEMU 7.2 spoils the flags: Linux 6.12 does not survive that.
    emulator = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max,-cx16", "-m", str(MEMORY_MB)]
    emulator += ["-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none", "-no-reboot"]
    emulator += ["-virtfs", disk, "-virtfs", shared, "-kernel", str(kernel), "-initrd", str(initial)]
    emulator += ["-append", "console=ttyS0 panic=-1 quiet"]
    sys.stdout.flush()
    subprocess.run(emulator, stdin=subprocess.DEVNULL, check=True, timeout=PATIENCE_S)
