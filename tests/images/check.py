"""What is held against an archive that has been built: its configuration, its contents, and that it runs.

The root filesystem is unpacked, and its commands are run in it, read-only and as the user
that they are meant for. The base of these images has no shell, so a command that needed one would not run.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images import archive, locks
from images.build import TREE
from images.seal import SBOM
from lab.gobuilds import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT: Final = "opt/vipkeeper"
COMMANDS: Final = {
    "controller": {"vipkeeper-controller": "65532:65532"},
    "node-agent": {"vipkeeper-keeper": "0:0", "vipkeeper-courier": "65532:65532"},
}
PACKAGES: Final = {
    "controller": ("vipapi", "viphealth", "vipcluster", "vipcontroller"),
    "node-agent": ("vipapi", "viphealth", "vipcluster", "vipagent", "vipcourier"),
}
_TOOLS: Final = re.compile(r"(sh|dash|bash|gcc|cc|ld|as|apt|apt-get|dpkg|pip[0-9.]*)")
_BUILDING: Final = ("pip", "setuptools", "hatchling", "wheel")

# Import every module of ours that the image is for.
_IMPORT_ALL: Final = """
import importlib, pkgutil, sys
for package in sys.argv[1:]:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""
_READ_ONLY: Final = """
mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && user=$1 && shift &&
exec chroot --userspec="$user" "$0" "$@"
"""


def check(image: str, stamped: str, path: Path) -> None:
    """Raise `AssertionError` or `CalledProcessError` where an archive is not what it should be."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f"check-{image}-") as scratch:
        root = Path(scratch) / "root"
        root.mkdir(mode=0o755)
        name, config = archive.unpack(path, root)
        assert name == f"localhost/vipkeeper/{image}:{stamped}", name
        main, user = next(iter(COMMANDS[image].items()))
        assert config["config"]["User"] == user, config["config"]
        assert config["config"]["Entrypoint"] == [f"/{ENVIRONMENT}/bin/{main}"], config["config"]
        labels = config["config"]["Labels"]
        assert labels["org.opencontainers.image.version"] == stamped, labels
        assert labels["org.opencontainers.image.created"] == config["created"], labels
        assert all(labels.values()), f"a label that says nothing: {labels}"
        check_contents(image, root)
        for command, its_user in COMMANDS[image].items():
            run(root, its_user, f"/{ENVIRONMENT}/bin/{command}", "--help")
        run(root, user, f"/{ENVIRONMENT}/bin/python3", "-W", "error", "-c", _IMPORT_ALL, *PACKAGES[image])


def check_contents(image: str, root: Path) -> None:
    """Hold the files of an image against what it may have."""
    environment = root / ENVIRONMENT
    commands = {each.name for each in (environment / "bin").iterdir() if not each.name.startswith("python")}
    assert commands == set(COMMANDS[image]), commands
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", f"{ENVIRONMENT}/bin"):
        found = [each.name for each in (root / folder).glob("*") if _TOOLS.fullmatch(each.name)]
        assert not found, f"{folder} has {found}"
    (libraries,) = environment.glob("lib/python*/site-packages")
    for tool in _BUILDING:
        assert not (libraries / tool).exists(), f"{tool} is installed"
    sources = [path for path in libraries.rglob("*.py") if not compiled(path)]
    assert not sources, f"not compiled: {sources[:5]}"
    timed = [path for path in libraries.rglob("*.pyc") if not path.read_bytes()[4] & 1]  # PEP 552
    assert not timed, f"compiled for a time of its source, so each build is another: {timed[:5]}"
    for told in (*environment.rglob("direct_url.json"), *root.rglob("pip.conf")):
        raise AssertionError(f"{told} tells where things came from")
    here = tuple(str(each).encode() for each in (TREE, cache_folder()))
    for path in _files(environment):
        contents = path.read_bytes()
        assert not any(each in contents for each in here), f"{path} has a path of the build machine"
    bill = (environment / SBOM).read_text()
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill)
    assert wrong is None, f"the bill of materials is not CycloneDX: {wrong}"
    listed = {each["name"]: each["version"] for each in json.loads(bill)["components"]}
    assert listed == locks.pins(TREE / image / "requirements.lock"), "the bill of materials is not the lock"


def compiled(source: Path) -> bool:
    """Whether a module of the environment has been compiled."""
    return any((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"))


def run(root: Path, user: str, *command: str) -> None:
    """Run a command in a root filesystem that nobody may write to."""
    arguments = ["unshare", "--mount", "sh", "-c", _READ_ONLY, str(root), user, *command]
    answer = subprocess.run(
        arguments, check=False, capture_output=True, text=True, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    assert answer.returncode == 0, f"{' '.join(command)}\n{answer.stdout}{answer.stderr}"


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
