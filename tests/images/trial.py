"""Unit tests, run by an image's own Python on its locked libraries: another Python than that of `make test`.

What runs is the vipkeeper that is installed in the image, not that of the checkout: its files lie there too,
for tests that read some, but on no path of Python's. To a copy of the image's unpacked archive come the build
base's shell, what tests need besides the image's libraries, from requirements.lock, and the checkout; all of
it goes when they are over. They run as nobody, in a network of their own that has loopback only. `FILES` says
which: those of the decisions, which need no kernel, no rights and no other program. What was tried is noted
beside the archive and not tried again until the archive, a test or the lock changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement

from images import archive, base, bill, build, check, locks, seal
from lab.gobuilds import cache_folder, locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.gobuilds import Say

_OF_THE_AGENT: Final = (
    *("datagrams", "lease", "lines", "memory", "plan", "reports", "schedule", "seat", "succession"),
    *("vote", "witness", "workload", "suspects", "holdoff"),
)
FILES: Final = {
    "controller": ("api", "controller", "health"),
    "node-agent": ("courier", *(f"agent/test_{name}.py" for name in _OF_THE_AGENT)),
}
"""Below tests/."""
TOOLS: Final = ("aiosmtpd", "hypothesis", "jsonschema", "pytest", "pytest-timeout", "pyyaml")
_TREE: Final = ("charts", "controller", "crds", "docs", "examples", "node-agent", "tests", "pyproject.toml")
_LOOPBACK: Final = (
    "import fcntl, socket, struct\n"
    "with socket.socket() as any: fcntl.ioctl(any, 0x8914, struct.pack('16sh', b'lo', 0x41))"  # SIOCSIFFLAGS
)
_INSIDE: Final = """
"$1" -c "$2" && shift 2 && mount --bind "$0" "$0" && mount -t proc proc "$0/proc" &&
mount -t tmpfs tmpfs "$0/tmp" && mount --rbind /dev "$0/dev" &&
exec chroot --userspec=65532:65532 "$0" "$@"
"""


def trial(image: str, path: Path, say: Say) -> None:
    """Run an image's tests; raises `SystemExit` with what pytest says where one fails."""
    made_of = _digest(image, path)
    noted = path.with_suffix(".tried")
    if noted.exists() and noted.read_text() == made_of:
        say(f"the unit tests have passed in {path.name}")
        return
    say(f"running the tests of {', '.join(FILES[image])} with the Python of {path.name}")
    began = time.monotonic()
    noted.unlink(missing_ok=True)
    tools = _tools(image)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"trial-{image}-") as scratch:
        root = Path(scratch) / "root"
        root.mkdir(mode=0o755)
        Path(scratch).chmod(0o755)
        archive.unpack(path, root)
        subprocess.run(["cp", "-an", f"{base.locate(say)[0]}/.", root], check=True)  # noqa: S607
        for name in ("dev", "proc", "tree"):
            (root / name).mkdir(exist_ok=True)
        shutil.copytree(tools, root / "tools")
        for name in _TREE:
            subprocess.run(["cp", "-R", build.TREE / name, root / "tree"], check=True)  # noqa: S607
        (root / "tree/tests/conftest.py").unlink()  # it makes networks and control planes
        passed = _run(root, image)
    noted.write_text(made_of)
    say(f"{passed}, {time.monotonic() - began:.0f} s in all")


def _run(root: Path, image: str) -> str:
    """Run them in a root folder; pytest's last line."""
    environment = ("PATH=/usr/bin:/bin", "HOME=/tmp", "PYTHONSAFEPATH=1", "PYTHONDONTWRITEBYTECODE=1")
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "sh", "-c", _INSIDE, str(root)]
    command += [sys.executable, _LOOPBACK, "/usr/bin/env", "-i", "-C", "/tree", *environment]
    command += ["PYTHONPATH=/tools", f"/{check.ENVIRONMENT}/bin/python3", "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", "--hypothesis-profile=ci"]
    command += [f"tests/{each}" for each in FILES[image]]
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    if answer.returncode != 0:
        raise SystemExit(f"tests failed in the image {image}:\n{answer.stdout}{answer.stderr}")
    return answer.stdout.strip().splitlines()[-1]


def _tools(image: str) -> Path:
    """Install what tests need besides an image's libraries, for its Python; the folder."""
    wanted = bill.needed(map(Requirement, TOOLS)) - bill.pins(image).keys()
    entries = [each for each in locks.entries(build.TREE / "requirements.lock") if _name(each) in wanted]
    lock = "\n".join(entries) + "\n"
    key = hashlib.sha256(f"{base.PYTHON}\n{lock}".encode()).hexdigest()[:12]
    folder = cache_folder() / "images" / f"tools-{image}-{key}"
    with locked(folder, f"what the tests of {image} need", lambda _: None):
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="tools-") as scratch:
                (Path(scratch) / "lock").write_text(lock)
                command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                command += [*build.of_the_bases(), "--requirement", f"{scratch}/lock"]
                subprocess.run([*command, "--target", f"{scratch}/tools"], check=True)
                Path(scratch, "tools").rename(folder)
    return folder


def _name(entry: str) -> str:
    return seal.canonical(Requirement(entry.partition(" --hash=")[0]).name)


def _digest(image: str, path: Path) -> str:
    """A sum of what an outcome depends on: the archive's inputs, the checkout, the lock."""
    sums = hashlib.sha256(path.with_suffix(".inputs").read_bytes() + repr(FILES[image]).encode())
    for file in (build.TREE / "requirements.lock", *_checkout()):
        sums.update(f"{file}\0".encode() + file.read_bytes())
    return sums.hexdigest()


def _checkout() -> Iterator[Path]:
    for name in _TREE:
        top = build.TREE / name
        found = sorted(top.rglob("*")) if top.is_dir() else [top]
        yield from (each for each in found if each.is_file() and "__pycache__" not in each.parts)
