"""The door to Debian's packages: apt downloads them with all that this machine lacks for them.

They are unpacked into the cache, and not installed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab.gobuilds import BinariesMissingError, cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lab.gobuilds import Say


def unpacked(name: str, packages: Sequence[str], is_whole: Callable[[Path], bool], say: Say) -> Path:
    """Return a folder of the cache with what the packages contain, as it would lie in `/`.

    It is called by `name` and this distribution. Raises `BinariesMissingError` without an apt-get, or where
    that fails.
    """
    tree = cache_folder() / name / f"{_distribution()}-{platform.machine()}"
    tree.parent.mkdir(parents=True, exist_ok=True)
    with _locked(tree.with_name(f"{tree.name}.lock")):
        if not is_whole(tree):
            say(f"no {name} on this machine: unpacking Debian's {' and '.join(packages)} into {tree}")
            _unpack(name, packages, tree)
            assert is_whole(tree), f"the packages in {tree} lack a program"
    return tree


def _distribution() -> str:
    release = platform.freedesktop_os_release()
    return f"{release['ID']}{release.get('VERSION_ID', '')}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(name: str, packages: Sequence[str], tree: Path) -> None:
    apt_get = shutil.which("apt-get")
    if apt_get is None:
        raise BinariesMissingError(f"no {name} on this machine: install {' and '.join(packages)}")
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix="unpacking-") as scratch:
        archives = Path(scratch, "archives")
        (archives / "partial").mkdir(parents=True)
        apt = [apt_get, "-qq", f"-oDir::Cache::archives={archives}", "-oAPT::Sandbox::User=root"]
        install = ["install", "--yes", "--download-only", "--no-install-recommends", *packages]
        for command in (["update"], install):
            done = subprocess.run(
                [*apt, *command],
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise BinariesMissingError(f"apt-get {command[0]} for {name} failed:\n{done.stderr}")
        whole = Path(scratch, "tree")
        for folder in ("bin", "lib", "sbin", "lib64"):
            # Older packages have files in /lib, which is a link on the machines that they are made for.
            (whole / "usr" / folder).mkdir(parents=True)
            (whole / folder).symlink_to(f"usr/{folder}")
        for archive in sorted(archives.glob("*.deb")):
            # Not `dpkg-deb --extract`, which would replace those links by folders.
            tar = f"dpkg-deb --fsys-tarfile {archive} | tar --extract --keep-directory-symlink"
            subprocess.run(["/bin/sh", "-ec", tar], cwd=whole, check=True)
        shutil.rmtree(tree, ignore_errors=True)
        whole.rename(tree)
