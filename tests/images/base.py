"""Bases for the two images where there is no container registry: Debian packages, unpacked.

`BUILD` has a shell, sed and Python with venv. `RUN` has Python, the C libraries that it and the wheels load,
and nothing else: no shell and no package manager, so an image that works on it needs none. Both come from the
same packages of the Debian release that the Containerfiles' default base is made of. apt fetches them,
from the mirror that this machine's apt is set up with, into a place of its own where nothing is installed
yet; it checks them against the archive's signature as ever. They are unpacked and not configured: no script
of theirs runs.

What a scanner reads to know the packages of an image stands in /var/lib/dpkg/status.d, a file for each.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lab.gobuilds import cache_folder, locked

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lab.gobuilds import Say

SUITE: Final = "trixie"
PYTHON: Final = "3.13"
BUILD: Final = ("base-files", "coreutils", "dash", "python3-venv", "sed")
RUN: Final = (
    "base-files",
    "libbz2-1.0",
    "libc6",
    "libdb5.3t64",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "liblzma5",
    "libncursesw6",
    f"libpython{PYTHON}-minimal",
    f"libpython{PYTHON}-stdlib",
    "libreadline8t64",
    "libsqlite3-0",
    "libssl3t64",
    "libtinfo6",
    "libuuid1",
    "libzstd1",
    "media-types",
    "netbase",
    "python3-minimal",
    f"python{PYTHON}",
    f"python{PYTHON}-minimal",
    "tzdata",
    "zlib1g",
)

_DEFAULT_MIRROR: Final = "http://deb.debian.org/debian"
_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ACCOUNTS: Final = "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
_GROUPS: Final = "root:x:0:\nnonroot:x:65532:\n"
_LOOKUPS: Final = "passwd: files\ngroup: files\nhosts: files dns\n"
_UNREAD: Final = ("usr/share/man", "usr/share/locale", "usr/share/lintian")
_STATUS: Final = "var/lib/dpkg/status.d"


def locate(say: Say) -> tuple[Path, Path]:
    """Return the root folders of the two bases, build and run, made on first use."""
    folder = cache_folder() / "images" / f"base-{_recipe()}"
    with locked(folder, "the bases of the images", say):
        if not folder.exists():
            say(f"unpacking Debian {SUITE}'s Python into {folder} (once)")
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="base-") as scratch:
                made = Path(scratch) / "made"
                packages = _fetch(Path(scratch))
                _unpack(packages.values(), made / "build")
                _unpack((packages[name] for name in RUN), made / "run")
                made.rename(folder)
    return folder / "build", folder / "run"


def contents(root: Path) -> str:
    """A sum of the packages that a base was made of, and of how."""
    sums = hashlib.sha256(_recipe().encode())
    for package in sorted((root / _STATUS).iterdir()):
        sums.update(f"{package.name}\0".encode() + package.read_bytes())
    return sums.hexdigest()


def _recipe() -> str:
    """A sum of what makes roots out of packages; all else here may change and none is fetched again."""
    settings = (SUITE, BUILD, RUN, _ACCOUNTS, _GROUPS, _LOOKUPS, _UNREAD, _STATUS)
    return hashlib.sha256(f"{settings}{inspect.getsource(_unpack)}".encode()).hexdigest()[:12]


def _mirror() -> str:
    """The first Debian mirror in this machine's apt sources."""
    known = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    for line in known.stdout.splitlines():
        origin, component, uri = line.split(" ", 2)
        if (origin, component) == ("Debian", "main") and "security" not in uri:
            return uri.rstrip("/")
    return _DEFAULT_MIRROR


def _fetch(scratch: Path) -> dict[str, Path]:
    """Fetch `BUILD` and all that it depends on; the packages' files by their names."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "status").touch()
    sources = scratch / "sources.list"
    sources.write_text(f"deb [signed-by={_KEYRING}] {_mirror()} {SUITE} main\n")
    settings = (
        f"Dir::State={scratch}/state",
        f"Dir::State::status={scratch}/status",
        f"Dir::Cache={scratch}/cache",
        f"Dir::Etc::sourcelist={sources}",
        "Dir::Etc::sourceparts=/dev/null",
        "Dir::Etc::preferencesparts=/dev/null",
        "Acquire::Languages=none",
        "APT::Install-Recommends=false",
        "APT::Sandbox::User=root",
    )
    apt = ["apt-get", "--quiet=2", *(word for setting in settings for word in ("--option", setting))]
    subprocess.run([*apt, "update"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [*apt, "--yes", "--download-only", "install", *BUILD], check=True, stdout=subprocess.DEVNULL
    )
    return {path.name.partition("_")[0]: path for path in (scratch / "cache/archives").glob("*.deb")}


def _unpack(packages: Iterable[Path], root: Path) -> None:
    status = root / _STATUS
    status.mkdir(parents=True)
    for package in sorted(packages):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True)  # noqa: S607
        control = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True)  # noqa: S607
        (status / package.name.partition("_")[0]).write_bytes(control.stdout)
    for unread in _UNREAD:
        shutil.rmtree(root / unread, ignore_errors=True)
    (root / "etc/passwd").write_text(_ACCOUNTS)
    (root / "etc/group").write_text(_GROUPS)
    (root / "etc/nsswitch.conf").write_text(_LOOKUPS)
    authorities = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    if authorities:  # Debian's pip does not start without
        (root / "etc/ssl/certs/ca-certificates.crt").write_bytes(
            b"".join(each.read_bytes() for each in authorities)
        )
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    tools = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    subprocess.run(["ldconfig", "-r", root], check=True, env=tools)  # noqa: S607
    (root / "var/cache/ldconfig/aux-cache").unlink(missing_ok=True)
