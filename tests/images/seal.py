"""Finish an image's environment: only its own commands, compiled, with its bill of materials.

    /opt/vipkeeper/bin/python3 seal.py --command vipkeeper-controller --compiled /compiled

It runs under the interpreter of the environment that it seals, so it needs the standard library only:

- `bin` keeps the interpreter and the commands named; what the libraries bring (`kopf`, `scapy`, …) goes.
- `share/sbom.cdx.json` lists every distribution in the environment, with its licence, as CycloneDX 1.6.
  The same lock gives the same file, byte for byte: no time, and a serial number made of the contents.
- Everything is compiled. The root of a container is read-only, so a program whose modules are not would
  compile them at each start; and a keeper starts several interpreters. Files are looked up by hash, not by
  time: a build may set every file's time to the same moment. The environment's own are never checked again.
  The standard library's go to a folder of their own, to be laid over the base of the run stage (some bases
  have none), and each checks its source: should that base hold another patch release, they are not used.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.metadata
import json
import py_compile
import re
import sys
import sysconfig
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

SBOM: Final = "share/sbom.cdx.json"
NOT_IMPORTED: Final = re.compile(
    r"/(test|tests|idlelib|lib2to3|turtledemo|ensurepip|tkinter|site-packages|dist-packages)/"
)

_SPDX: Final = re.compile(r"[A-Za-z][A-Za-z0-9.+-]+")
_CLASSIFIERS: Final = {
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def licence(metadata: importlib.metadata.PackageMetadata) -> str:
    """The SPDX expression that a distribution states, in any of the three ways that there have been.

    Raises `ValueError` where it states none that can be read, so that no image is made with one.
    """
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    if "License" in metadata and _SPDX.fullmatch(stated := metadata["License"].strip()):
        return stated
    for classifier in metadata.get_all("Classifier", []):
        if known := _CLASSIFIERS.get(classifier):
            return known
    raise ValueError(f"{metadata['Name']} {metadata['Version']} states no licence that can be read")


def canonical(name: str) -> str:
    """A distribution's name as indexes and locks spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bill_of_materials(distributions: Iterable[importlib.metadata.Distribution]) -> dict[str, Any]:
    """All distributions of an environment as a CycloneDX 1.6 document, our own as what it is about."""
    components = sorted(
        (
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{(name := canonical(each.metadata['Name']))}@{each.version}",
                "name": name,
                "version": each.version,
                "licenses": [{"expression": licence(each.metadata)}],
                "purl": f"pkg:pypi/{name}@{each.version}",
            }
            for each in distributions
        ),
        key=lambda component: str(component["name"]),
    )
    ours = [each | {"type": "application"} for each in components if each["name"] == "vipkeeper"]
    theirs = [each for each in components if each["name"] != "vipkeeper"]
    assert len(ours) == 1
    references = [each["bom-ref"] for each in theirs]
    serial = uuid.uuid5(uuid.NAMESPACE_URL, " ".join([str(ours[0]["bom-ref"]), *map(str, references)]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": ours[0]},
        "components": theirs,
        "dependencies": [{"ref": ours[0]["bom-ref"], "dependsOn": references}],
    }


def _remove_commands(bin_dir: Path, kept: set[str]) -> None:
    missing = kept - {each.name for each in bin_dir.iterdir()}
    if missing:
        raise SystemExit(f"the environment has no command {', '.join(sorted(missing))}")
    for each in bin_dir.iterdir():
        if each.name not in kept and not re.fullmatch(r"python[0-9.]*", each.name):
            each.unlink()


def _compile_environment(environment: Path) -> None:
    checked_by_nobody = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(
        environment, maxlevels=20, quiet=1, force=True, invalidation_mode=checked_by_nobody
    ):
        raise SystemExit("not everything in the environment can be compiled")


def _compile_standard_library(compiled: Path) -> None:
    for source in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if NOT_IMPORTED.search(str(source)):
            continue
        target = compiled / source.parent.relative_to("/") / "__pycache__"
        py_compile.compile(
            str(source),
            cfile=str(target / f"{source.stem}.{sys.implementation.cache_tag}.pyc"),
            doraise=True,
            invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH,
        )


def main() -> None:
    """Seal the environment whose interpreter this is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--command", action="append", required=True, help="a command that stays in bin")
    parser.add_argument(
        "--compiled", type=Path, required=True, help="folder for the compiled standard library"
    )
    arguments = parser.parse_args()
    environment = Path(sys.prefix)
    _remove_commands(environment / "bin", set(arguments.command))
    sbom = environment / SBOM
    sbom.parent.mkdir(parents=True, exist_ok=True)
    sbom.write_text(json.dumps(bill_of_materials(importlib.metadata.distributions()), indent=1) + "\n")
    _compile_environment(environment)
    _compile_standard_library(arguments.compiled)


if __name__ == "__main__":
    main()
