"""Where systemd and dbus-daemon come from: this machine, or Debian's packages, unpacked and not installed.

What is installed is used. Else apt downloads the packages with all that this machine lacks for them, and
they are unpacked into the cache, `${XDG_CACHE_HOME:-~/.cache}/vipkeeper/systemd`, in a folder for this
distribution; a cell (`lab.systemd_cell`) sees them laid over its `/usr`. Nothing of the machine itself
changes.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.gobuilds import BinariesMissingError, cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lab.gobuilds import Say

SYSTEMD = Path("/usr/lib/systemd/systemd")
DBUS_DAEMON = Path("/usr/bin/dbus-daemon")
PROGRAMS = (SYSTEMD, SYSTEMD.parent / "systemd-socket-proxyd", DBUS_DAEMON)
PACKAGES = ("systemd", "dbus-daemon")


@dataclass(frozen=True, slots=True)
class Program:
    """systemd as the cell sees it; `tree` is what must be laid over `/` for that."""

    path: Path
    dbus_daemon: Path
    tree: Path | None


def locate(say: Say, *, apt_options: Sequence[str] = (), machine: Path = Path("/")) -> Program:
    """Find systemd, downloading it if need be.

    Raises `BinariesMissingError` when it is nowhere. `machine` is the folder in which what is installed is
    looked for.
    """
    if _has_all(machine):
        return Program(SYSTEMD, DBUS_DAEMON, None)
    tree = cache_folder() / "systemd" / f"{_distribution()}-{platform.machine()}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _locked(tree.with_name(f"{tree.name}.lock")):
        if not _has_all(tree):
            say(f"no systemd on this machine: unpacking Debian's {' and '.join(PACKAGES)} into {tree}")
            _unpack(tree, apt_options)
    return Program(SYSTEMD, DBUS_DAEMON, tree)


def _has_all(root: Path) -> bool:
    return all((root / each.relative_to("/")).exists() for each in PROGRAMS)


def _distribution() -> str:
    release = platform.freedesktop_os_release()
    return f"{release['ID']}{release.get('VERSION_ID', '')}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(tree: Path, apt_options: Sequence[str]) -> None:
    apt_get = shutil.which("apt-get")
    if apt_get is None:
        raise BinariesMissingError(
            "no systemd on this machine: install systemd and dbus-daemon (they need not run)"
        )
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="unpacking-") as scratch:
        archives = Path(scratch, "archives")
        (archives / "partial").mkdir(parents=True)
        options = [f"Dir::Cache::archives={archives}", "APT::Sandbox::User=root", *apt_options]
        apt = [apt_get, "-qq", *(f"-o{each}" for each in options)]
        install = ["install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES]
        for command in (["update"], install):
            done = subprocess.run(
                [*apt, *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise BinariesMissingError(f"apt-get {command[0]} for systemd failed:\n{done.stderr}")
        whole = Path(scratch, "tree")
        for name in ("bin", "lib", "sbin", "lib64"):
            # Older packages have files in /lib, which is a link on the machines that they are made for.
            (whole / "usr" / name).mkdir(parents=True)
            (whole / name).symlink_to(f"usr/{name}")
        for archive in sorted(archives.glob("*.deb")):
            # Not `dpkg-deb --extract`, which would replace those links by folders.
            tar = f"dpkg-deb --fsys-tarfile {archive} | tar --extract --keep-directory-symlink"
            subprocess.run(["/bin/sh", "-ec", tar], cwd=whole, check=True)
        shutil.rmtree(tree, ignore_errors=True)
        whole.rename(tree)
    assert _has_all(tree), f"the packages in {tree} lack a program"
