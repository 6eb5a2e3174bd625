"""Build both images as OCI archives, without a registry and without a container engine's daemon.

buildah builds from the same Containerfiles that anybody else uses; the differences are arguments. The bases
are `images.base`'s. The wheels are fetched beforehand, on this machine with this machine's settings of pip,
each checked against its lock, and mounted for the time of the build, so that nothing of those settings comes
into an image and nothing but the lock's files into its environment. The isolation is a chroot, the storage
plain folders (`vfs`) in a scratch folder that goes when the build is over: both work where mounts are
restricted.

What a build depends on is summed up in a digest beside its archive; while that is the same, the archive is
kept. The same inputs on the same packages of the base give the same image, with the same digest:
`images.inputs` says which inputs, and what an image tells of where it comes from.
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

from images import base, inputs
from lab.gobuilds import cache_folder, locked

if TYPE_CHECKING:
    from lab.gobuilds import Say

TREE: Final = Path(__file__).parents[2]
IMAGES: Final = ("controller", "node-agent")
_LABEL: Final = "org.opencontainers.image"
# The same in every image, so that a node has the base once; no zip file can tell an earlier one.
_BASES_TIME_S: Final = int(datetime(1980, 1, 1, tzinfo=UTC).timestamp())


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
            origin = inputs.origin(TREE, image)
            basis = base.contents(build_root)
            made_of = inputs.digest(TREE, image, (stamped, origin.revision, str(origin.time_s), basis))
            recorded = path.with_suffix(".inputs")
            if path.exists() and recorded.exists() and recorded.read_text() == made_of:
                say(f"{path} is up to date")
                continue
            say(f"building {path}")
            wheels = _wheels(image)
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"build-{image}-") as scratch:
                built = _Builder(Path(scratch)).build(image, stamped, origin, (build_root, run_root), wheels)
                recorded.unlink(missing_ok=True)
                built.rename(path)
            recorded.write_text(made_of)
    return made


def _wheels(image: str) -> Path:
    """Fetch the wheels of an image's lock and of the build's, for the bases' Python; their folder."""
    locks = (TREE / image / "requirements.lock", TREE / "tests/images/build.lock")
    sums = hashlib.sha256(base.PYTHON.encode() + b"".join(lock.read_bytes() for lock in locks))
    folder = cache_folder() / "images" / f"wheels-{image}-{sums.hexdigest()[:12]}"
    if folder.exists():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="wheels-") as scratch:
        fetched = Path(scratch) / "wheels"
        for lock in locks:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            command += [*of_the_bases(), "--requirement", str(lock), "--dest", str(fetched)]
            subprocess.run(command, check=True)
        fetched.rename(folder)
    return folder


def of_the_bases() -> list[str]:
    """What has pip choose wheels, checked against a lock, for the bases' Python on this machine."""
    machine = platform.machine()
    compact = base.PYTHON.replace(".", "")
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    options += ["--python-version", base.PYTHON, "--implementation", "cp"]
    options += [f"--abi={abi}" for abi in (f"cp{compact}", "abi3", "none")]
    options += [f"--platform=manylinux_{glibc}_{machine}" for glibc in ("2_34", "2_28", "2_17")]
    return [*options, *(f"--platform={kind}_{machine}" for kind in ("manylinux2014", "linux"))]


class _Builder:
    """buildah with its storage in a scratch folder."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._policy = scratch / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def build(
        self, image: str, stamped: str, origin: inputs.Origin, roots: tuple[Path, Path], wheels: Path
    ) -> Path:
        """Build one image on the two bases; the path of its archive in the scratch folder."""
        name = f"localhost/vipkeeper/{image}:{stamped}"
        build_root, run_root = roots
        arguments = {
            "BUILD_BASE": self._base("build", build_root),
            "RUN_BASE": self._base("run", run_root),
            "WHEELS": "/wheels",
            "VERSION": stamped,
            "SOURCE_DATE_EPOCH": str(origin.time_s),
        }
        created = datetime.fromtimestamp(origin.time_s, UTC).isoformat().replace("+00:00", "Z")
        labels = {"created": created} | ({"revision": origin.revision} if origin.revision else {})
        self._run(
            *("build", "--isolation=chroot", "--format=oci", "--pull-never", "--quiet", "--tag", name),
            *("--file", str(TREE / image / "Containerfile"), "--ignorefile", str(TREE / ".containerignore")),
            *("--volume", f"{wheels}:/wheels:ro", f"--timestamp={origin.time_s}"),
            *(f"--build-arg={key}={value}" for key, value in arguments.items()),
            *(f"--label={_LABEL}.{key}={value}" for key, value in labels.items()),
            str(TREE),
        )
        archived = self._scratch / "archive.tar"
        self._run("push", "--quiet", "--disable-compression", name, f"oci-archive:{archived}:{name}")
        return archived

    def _base(self, kind: str, root: Path) -> str:
        """Make an image of a root folder, for a Containerfile to start from."""
        name = f"localhost/vipkeeper/base-{kind}:latest"
        container = self._run("from", "scratch")
        self._run("copy", "--quiet", container, f"{root}/", "/")
        self._run("commit", "--quiet", "--rm", f"--timestamp={_BASES_TIME_S}", container, name)
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
