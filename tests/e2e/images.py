"""The images that `make images` does not make: of pods that only wait, and of vipkeeper's next version.

The pause image, which also keeps pods' namespaces, is one program of ours in an OCI archive. It is built
once, from the Go module in `pause/`, into the cache.

The next version is the present one with a layer on it, in which `vipapi.__version__` is another. So it is
another image, and tells everybody a version of its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import re
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import gobuilds
from vipapi import __version__

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lab.gobuilds import Say

PAUSE = "localhost/vipkeeper-e2e/pause:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
MODULE = Path(__file__).parent / "pause"
JSON_TYPE = "application/vnd.oci.image"


def archives() -> dict[str, Path]:
    """Return the archives of vipkeeper's own images, as `make images` leaves them, by the images' names."""
    folder = gobuilds.cache_folder() / "images"
    return {name: folder / f"{name}-{__version__}.tar" for name in ("controller", "node-agent")}


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


def write_next_version(archive: Path, target: Path, *, name: str, version: str) -> None:
    """Write the archive of an image of vipkeeper anew, so that it is and tells another version."""
    with tarfile.open(archive) as tar:
        members = {each.name: _content(tar, each.name) for each in tar.getmembers() if each.isfile()}
    [listed] = json.loads(members["index.json"])["manifests"]
    blobs = {entry.rpartition("/")[2]: blob for entry, blob in members.items() if entry.startswith("blobs/")}
    manifest = json.loads(blobs.pop(listed["digest"].partition(":")[2]))
    config = json.loads(blobs.pop(manifest["config"]["digest"].partition(":")[2]))
    layer = _version_layer([blobs[each["digest"].partition(":")[2]] for each in manifest["layers"]], version)
    added = _described(blobs, f"{JSON_TYPE}.layer.v1.tar", layer)
    config["rootfs"]["diff_ids"].append(added["digest"])
    config["config"]["Labels"]["org.opencontainers.image.version"] = version
    config.pop("history", None)
    manifest["layers"].append(added)
    _write_image(target, name, manifest, config, blobs)


def _version_layer(layers: Iterable[bytes], version: str) -> bytes:
    """Return a layer in which vipkeeper has another version, and the file that says so is not compiled."""
    for found in layers:
        with tarfile.open(fileobj=io.BytesIO(found)) as tar:
            files = tar.getnames()
            places = [each for each in files if each.endswith("/site-packages/vipapi/__init__.py")]
            if places:
                [place] = places
                text = _content(tar, place).decode()
                [compiled] = [each for each in files if each.startswith(_compiled(place))]
                break
    else:
        raise ValueError("no layer has vipkeeper in it")
    stated = re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', text)
    folder, _, file = compiled.rpartition("/")
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, place, stated.encode())
        _add(tar, f"{folder}/.wh.{file}", b"")  # how a layer says that a file is gone
    return layer.getvalue()


def _compiled(place: str) -> str:
    """Return how the path of what a module is compiled to begins."""
    folder, _, file = place.rpartition("/")
    return f"{folder}/__pycache__/{file.removesuffix('.py')}."


def _write_archive(path: Path, name: str, programs: Mapping[str, bytes]) -> None:
    """Write an image with nothing in it but programs, of which it runs the first."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for program, content in programs.items():
            _add(tar, program, content, mode=0o755)
    blobs: dict[str, bytes] = {}
    layered = _described(blobs, f"{JSON_TYPE}.layer.v1.tar", layer.getvalue())
    config = {
        "os": "linux",
        "architecture": ARCHITECTURES[platform.machine()],
        "config": {"Entrypoint": [f"/{next(iter(programs))}"]},
        "rootfs": {"type": "layers", "diff_ids": [layered["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{JSON_TYPE}.manifest.v1+json",
        "layers": [layered],
    }
    _write_image(path, name, manifest, config, blobs)


def _write_image(
    path: Path,
    name: str,
    manifest: Mapping[str, Any],
    config: Mapping[str, Any],
    layers: Mapping[str, bytes],
) -> None:
    """Write an archive with one image in it; `layers` are those that its manifest lists, by their digests."""
    blobs = dict(layers)
    described = _described(blobs, f"{JSON_TYPE}.config.v1+json", json.dumps(config).encode())
    whole = json.dumps({**manifest, "config": described}).encode()
    listed = _described(blobs, f"{JSON_TYPE}.manifest.v1+json", whole)
    named = {**listed, "annotations": {"io.containerd.image.name": name}}
    index = {"schemaVersion": 2, "mediaType": f"{JSON_TYPE}.index.v1+json", "manifests": [named]}
    with tarfile.open(path, mode="w") as tar:
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        _add(tar, "index.json", json.dumps(index).encode())
        for digest, content in blobs.items():
            _add(tar, f"blobs/sha256/{digest}", content)


def _described(blobs: dict[str, bytes], kind: str, content: bytes) -> dict[str, Any]:
    """Put something among the blobs, and return how it is referred to."""
    digest = hashlib.sha256(content).hexdigest()
    blobs[digest] = content
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None, name
    return file.read()


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
