"""The door to an OCI archive: its configuration, and its layers laid over each other in a folder."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def _blob(archive: tarfile.TarFile, descriptor: dict[str, Any]) -> str:
    """The name within the archive of what a descriptor points to."""
    algorithm, digest = descriptor["digest"].split(":")
    name = f"blobs/{algorithm}/{digest}"
    assert archive.getmember(name).size == descriptor["size"], f"{name} is not as long as it is said to be"
    return name


def _read(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is not a file"
    read: dict[str, Any] = json.load(file)
    return read


def unpack(path: Path, root: Path) -> tuple[str, dict[str, Any]]:
    """Unpack an archive's only image below `root`; its name and its configuration."""
    with tarfile.open(path) as archive:
        assert _read(archive, "oci-layout") == {"imageLayoutVersion": "1.0.0"}
        (entry,) = _read(archive, "index.json")["manifests"]
        manifest = _read(archive, _blob(archive, entry))
        assert manifest["schemaVersion"] == 2, manifest["schemaVersion"]
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=archive.extractfile(_blob(archive, layer)), mode="r:*") as contents:
                contents.extractall(root, filter="tar")
        config = _read(archive, _blob(archive, manifest["config"]))
        return entry["annotations"]["org.opencontainers.image.ref.name"], config
