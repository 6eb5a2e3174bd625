"""Build both images as OCI archives, without a registry and without a container engine's daemon.

buildah builds from the same Containerfiles that anybody else uses; the differences are arguments. The bases
are `images.base`'s. The wheels are fetched beforehand, on this machine with this machine's settings of pip,
each checked against its lock, and mounted for the time of the build, so that nothing of those settings comes
into an image and nothing but the lock's files into its environment. The isolation is a chroot, the storage
plain folders (`vfs`) in a scratch folder that goes when the build is over: both work where mounts are
restricted.

What a build depends on is summed up in a digest beside its archive; while that is the same, the archive is
kept. All times in an image are those of the last commit.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from images import base
from lab.gobuilds import cache_folder, locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.gobuilds import Say

TREE: Final = Path(__file__).parents[2]
IMAGES: Final = ("controller", "node-agent")
_CONTEXT: Final = (
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "tests/images/build.lock",
    "tests/images/seal.py",
)


def version() -> str:
    """The version that the tree states."""
    stated = re.search(
        r'^__version__ = "(.+)"$', (TREE / "controller/vipapi/__init__.py").read_text(), re.MULTILINE
    )
    assert stated
    return stated[1]


def archive(image: str, stamped: str) -> Path:
    """Where the archive of this image and version lies when it has been built."""
    return cache_folder() / "images" / f"{image}-{stamped}.tar"


def build(stamped: str, say: Say) -> list[Path]:
    """Build what is not there yet and return the archives, the controller's first."""
    build_root, run_root = base.locate(say)
    target = archive("images", stamped)
    with locked(target, f"the images of version {stamped}", say):
        made = [archive(image, stamped) for image in IMAGES]
        for image, path in zip(IMAGES, made, strict=True):
            inputs = _digest(image, stamped, run_root)
            recorded = path.with_suffix(".inputs")
            if path.exists() and recorded.exists() and recorded.read_text() == inputs:
                say(f"{path} is up to date")
                continue
            say(f"building {path}")
            wheels = _wheels(image)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"build-{image}-") as scratch:
                _Builder(Path(scratch)).build(image, stamped, build_root, run_root, wheels).rename(path)
            recorded.write_text(inputs)
    return made


def _context(image: str) -> Iterator[Path]:
    """All files that can change what an image holds."""
    yield from (TREE / each for each in _CONTEXT)
    yield from (TREE / image / each for each in ("Containerfile", "requirements.lock"))
    for folder in ("controller", "node-agent"):
        yield from sorted(
            path for path in (TREE / folder).glob("vip*/**/*") if path.suffix in {".py", ".typed"}
        )


def _digest(image: str, stamped: str, run_root: Path) -> str:
    sums = hashlib.sha256(f"{stamped} {run_root} {_commit_time()}".encode())
    for path in (*_context(image), Path(__file__)):
        sums.update(f"{path.relative_to(TREE)}\0".encode() + path.read_bytes())
    return sums.hexdigest()


def _git(*arguments: str) -> str:
    answer = subprocess.run(["git", *arguments], cwd=TREE, check=False, capture_output=True, text=True)  # noqa: S607
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _commit_time() -> int:
    """When the tree was last committed; a tree without its history gets the beginning of time."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or _git("log", "-1", "--format=%ct") or 0)


def _wheels(image: str) -> Path:
    """Fetch the wheels of an image's lock and of the build's, for the bases' Python; their folder."""
    locks = (TREE / image / "requirements.lock", TREE / "tests/images/build.lock")
    sums = hashlib.sha256(base.PYTHON.encode() + b"".join(lock.read_bytes() for lock in locks))
    folder = cache_folder() / "images" / f"wheels-{image}-{sums.hexdigest()[:12]}"
    if folder.exists():
        return folder
    machine = platform.machine()
    compact = base.PYTHON.replace(".", "")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="wheels-") as scratch:
        fetched = Path(scratch) / "wheels"
        for lock in locks:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
            command += ["--python-version", base.PYTHON, "--implementation", "cp"]
            command += [f"--abi={abi}" for abi in (f"cp{compact}", "abi3", "none")]
            command += [f"--platform=manylinux_{glibc}_{machine}" for glibc in ("2_34", "2_28", "2_17")]
            command += [f"--platform={kind}_{machine}" for kind in ("manylinux2014", "linux")]
            subprocess.run([*command, "--requirement", lock, "--dest", fetched], check=True)
        fetched.rename(folder)
    return folder


class _Builder:
    """buildah with its storage in a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._policy = scratch / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def build(self, image: str, stamped: str, build_root: Path, run_root: Path, wheels: Path) -> Path:
        """Build one image; the path of its archive in the scratch folder."""
        time_s = _commit_time()
        name = f"localhost/vipkeeper/{image}:{stamped}"
        arguments = {
            "BUILD_BASE": self._base("build", build_root, time_s),
            "RUN_BASE": self._base("run", run_root, time_s),
            "WHEELS": "/wheels",
            "VERSION": stamped,
            "REVISION": _git("rev-parse", "HEAD"),
            "CREATED": datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z"),
            "SOURCE_DATE_EPOCH": str(time_s),
        }
        self._run(
            *("build", "--isolation=chroot", "--format=oci", "--pull-never", "--quiet", "--tag", name),
            *("--file", str(TREE / image / "Containerfile"), "--ignorefile", str(TREE / ".containerignore")),
            *("--volume", f"{wheels}:/wheels:ro", f"--timestamp={time_s}"),
            *(f"--build-arg={key}={value}" for key, value in arguments.items()),
            str(TREE),
        )
        archived = self._scratch / "archive.tar"
        self._run("push", "--quiet", "--disable-compression", name, f"oci-archive:{archived}:{name}")
        return archived

    def _base(self, kind: str, root: Path, time_s: int) -> str:
        """Make an image of a root folder, for a Containerfile to start from."""
        name = f"localhost/vipkeeper/base-{kind}:latest"
        container = self._run("from", "scratch")
        self._run("copy", "--quiet", container, f"{root}/", "/")
        self._run("commit", "--quiet", "--rm", f"--timestamp={time_s}", container, name)
        return name

    def _run(self, *arguments: str) -> str:
        storage = [f"--root={self._scratch}/root", f"--runroot={self._scratch}/run", "--storage-driver=vfs"]
        policy = (
            [f"--signature-policy={self._policy}"]
            if arguments[0] in {"build", "push", "commit", "from"}
            else []
        )
        answer = subprocess.run(
            ["buildah", *storage, arguments[0], *policy, *arguments[1:]],  # noqa: S607
            check=False,
            capture_output=True,
            text=True,
            env=_environment(self._scratch),
        )
        if answer.returncode != 0:
            raise SystemExit(f"buildah {arguments[0]}:\n{answer.stdout}{answer.stderr}")
        return answer.stdout.strip()


def _environment(scratch: Path) -> dict[str, str]:
    """Nothing of this machine's own settings but where programs are."""
    return {"PATH": os.environ["PATH"], "HOME": str(scratch), "TMPDIR": str(scratch)}
