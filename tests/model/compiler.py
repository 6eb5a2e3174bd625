"""The door to a C compiler: finds one, or installs Debian's, and compiles the model."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from lab import enclosure, kernelcalls

SOURCE = Path(__file__).with_name("protocol.c")
COMPILERS = ("cc", "gcc", "clang", "tcc")
PACKAGES = ("gcc", "libc6-dev")
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")


class NoCompilerError(Exception):
    """There is none, and this process cannot install one; the message says what to do."""


def compile_model(folder: Path) -> Path:
    """Compile the model in that folder and return the program."""
    program = folder / "protocol"
    subprocess.run([_compiler(), *FLAGS, "-o", program, SOURCE], check=True)
    return program


def _compiler() -> str:
    found = _on_path()
    if found is None:
        _install()
        found = _on_path()
    if found is None:
        raise NoCompilerError(f"Debian's {' and '.join(PACKAGES)} brought no C compiler")
    return found


def _on_path() -> str | None:
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def _install() -> None:
    apt_get = shutil.which("apt-get")
    if apt_get is None or os.geteuid() != 0:
        raise NoCompilerError(f"no C compiler: as root, install {' and '.join(PACKAGES)}")
    network = (
        kernelcalls.entered(enclosure.outside_network())
        if enclosure.is_entered()
        else contextlib.nullcontext()
    )
    with network:
        subprocess.run([apt_get, "update", "-qq"], check=True)
        subprocess.run(
            [apt_get, "install", "-y", "-qq", "--no-install-recommends", *PACKAGES],
            check=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
