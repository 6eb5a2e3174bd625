"""What the images hold, told from their locks and this environment, which has the same versions.

`needed` follows what distributions ask for, `imported` reads what our own packages import at run time.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import sys
import tomllib
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement

from images import base, build, locks, seal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# Where an image's wheels are chosen: its base's Python on Linux.
_TARGET = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": f"{base.PYTHON}.0",
    "python_version": base.PYTHON,
    "sys_platform": "linux",
}


def project() -> dict[str, Any]:
    """The project file."""
    return tomllib.loads((build.TREE / "pyproject.toml").read_text())


def pins(image: str) -> dict[str, str]:
    """The version of each distribution that an image's lock installs."""
    return locks.pins(build.TREE / image / "requirements.lock")


def declared(image: str) -> list[Requirement]:
    """What the project file says that an image needs."""
    stated = project()["project"]
    return [Requirement(line) for line in (*stated["dependencies"], *stated["optional-dependencies"][image])]


def needed(requirements: Iterable[Requirement]) -> set[str]:
    """The names of all distributions that these requirements ask for, directly and by others."""
    waiting = list(requirements)
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        asked = waiting.pop()
        name, extras = seal.canonical(asked.name), frozenset(asked.extras)
        if (name, extras) not in seen:
            seen.add((name, extras))
            requires = map(Requirement, importlib.metadata.requires(name) or ())
            waiting.extend(each for each in requires if _holds(each, extras))
    return {name for name, _ in seen}


def _holds(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether a distribution of which these extras are wanted asks for this in an image."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate(_TARGET | {"extra": extra}) for extra in ("", *extras))


def imported(packages: Iterable[Path]) -> set[str]:
    """The distributions, none of them ours, from which our packages import anything at run time."""
    ours = {"vipapi", "vipcluster", "viphealth", "vipcontroller", "vipagent", "vipcourier"}
    modules = {
        name
        for package in packages
        for source in package.rglob("*.py")
        for name in _modules(ast.parse(source.read_text()))
    }
    return {
        seal.canonical(owner)
        for name in modules - ours - sys.stdlib_module_names
        for owner in owners().get(name, [name])
    }


@functools.cache
def owners() -> Mapping[str, list[str]]:
    """The distributions that each module here comes from."""
    return importlib.metadata.packages_distributions()


def _modules(node: ast.AST) -> Iterator[str]:
    """The first names of all modules that are imported below a node, those for types only left out."""
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=otherwise):
            for each in otherwise:
                yield from _modules(each)
        case ast.Import(names=names):
            yield from (each.name.partition(".")[0] for each in names)
        case ast.ImportFrom(module=str(module), level=0):
            yield module.partition(".")[0]
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _modules(child)


def licences(image: str) -> dict[str, str]:
    """The SPDX expression of each distribution in an image, and of vipkeeper itself."""
    return {
        name: seal.licence(importlib.metadata.metadata(name)) for name in sorted({"vipkeeper", *pins(image)})
    }


def together(expressions: Iterable[str]) -> str:
    """One SPDX expression for all that is under these."""
    parts = set()
    for each in expressions:
        parts.update([f"({each})"] if " OR " in each else each.split(" AND "))
    return " AND ".join(sorted(parts))
