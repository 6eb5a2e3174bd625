"""The pause image, which keeps a pod's namespaces: one program of ours, in an OCI archive.

It is built once, from the Go module in `pause/`, into the cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import gobuilds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.gobuilds import Say

PAUSE = "localhost/vipkeeper-e2e/pause:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MODULE = Path(__file__).parent / "pause"
JSON_TYPE = "application/vnd.oci.image"


def folder() -> Path:
    """Return the folder where `make images` leaves the archives of vipkeeper's own images."""
    return gobuilds.cache_folder() / "images"


def pause_archive(say: Say) -> Path:
    """Return the archive of the pause image, built if need be."""
    sources = hashlib.sha256((MODULE / "main.go").read_bytes() + Path(__file__).read_bytes())
    cached = gobuilds.cache_folder() / "e2e" / f"pause-{sources.hexdigest()[:12]}"
    archive = cached / "pause.tar"
    with gobuilds.locked(cached, "the pause image", say):
        if not archive.exists():
            gobuilds.build(MODULE, cached, {"pause": "."}, stamp={}, say=say)
            _write_archive(archive, PAUSE, {"pause": (cached / "pause").read_bytes()})
    return archive


def _write_archive(path: Path, name: str, programs: Mapping[str, bytes]) -> None:
    """Write an image with nothing in it but programs, of which it runs the first."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for program, content in programs.items():
            _add(tar, program, content, mode=0o755)
    blobs: dict[str, bytes] = {}

    def described(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}

    layered = described(f"{JSON_TYPE}.layer.v1.tar", layer.getvalue())
    config = {
        "os": "linux",
        "architecture": ARCHITECTURES[platform.machine()],
        "config": {"Entrypoint": [f"/{next(iter(programs))}"]},
        "rootfs": {"type": "layers", "diff_ids": [layered["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{JSON_TYPE}.manifest.v1+json",
        "config": described(f"{JSON_TYPE}.config.v1+json", json.dumps(config).encode()),
        "layers": [layered],
    }
    listed = described(f"{JSON_TYPE}.manifest.v1+json", json.dumps(manifest).encode())
    named = {**listed, "annotations": {"io.containerd.image.name": name}}
    index = {"schemaVersion": 2, "mediaType": f"{JSON_TYPE}.index.v1+json", "manifests": [named]}
    with tarfile.open(path, mode="w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for digest, content in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", content)


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
