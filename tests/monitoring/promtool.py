"""The door to promtool, Prometheus' own checker of rules; `python -m monitoring.promtool` prints where it is.

It comes out of Debian's package `prometheus`, which is fetched and unpacked, not installed: no script of it
runs, nothing is enabled or started, and no right of root is needed. apt does that in a place of its own, from
the sources that this machine is set up with, and checks signatures as ever. What was unpacked is kept in
`${XDG_CACHE_HOME:-~/.cache}/vipkeeper/promtool/VERSION`; remove that to have the newest one again. Only where
there is no apt a promtool of `PATH` is used.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.gobuilds import BinariesMissingError, cache_folder, locked

if TYPE_CHECKING:
    from lab.gobuilds import Say

PACKAGE: Final = "prometheus"
REMEDY: Final = "put promtool of Prometheus 2.42 or newer on PATH; no server is needed"


def locate(say: Say = lambda _: None) -> Path:
    """Return promtool's path, fetching it if need be; `say` is told of every step that takes time.

    Raises `BinariesMissingError` where it cannot be had.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        if there := shutil.which("promtool"):
            return Path(there)
        raise BinariesMissingError(f"promtool is missing, and there is no apt to fetch it: {REMEDY}")
    folder = cache_folder() / "promtool"
    with locked(folder, "promtool", say):
        if not (kept := _kept(folder)):
            say(f"fetching Debian's {PACKAGE} for its promtool into {folder} (once; nothing is installed)")
            _fetch(folder)
            kept = _kept(folder)
    return kept[-1]


def _kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/promtool"))


def _fetch(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as name:
        scratch = Path(name)
        for each in ("state/lists/partial", "cache/archives/partial"):
            (scratch / each).mkdir(parents=True)
        (scratch / "status").touch()
        settings = (
            f"Dir::State={scratch}/state",
            f"Dir::State::status={scratch}/status",
            f"Dir::Cache={scratch}/cache",
            "Acquire::Languages=none",
            "APT::Sandbox::User=root",
        )
        apt = ["apt-get", "--quiet=2", *(word for each in settings for word in ("--option", each))]
        # Of several sources one may be away; whether the package is to be had is told by what comes next.
        updated = _run([*apt, "update"], scratch)
        fetched = _run([*apt, "download", PACKAGE], scratch)
        found = sorted(scratch.glob("*.deb"))
        if fetched.returncode != 0 or not found:
            told = (updated.stderr + fetched.stderr).strip()
            raise BinariesMissingError(f"apt cannot fetch the package `{PACKAGE}`: {REMEDY}\n{told}")
        subprocess.run(["dpkg-deb", "--extract", found[0], scratch / "out"], check=True)  # noqa: S607
        asked = ["dpkg-deb", "--field", found[0], "Version"]
        version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        (scratch / "kept").mkdir()
        (scratch / "out/usr/bin/promtool").rename(scratch / "kept/promtool")
        (scratch / "kept").rename(folder / version)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)


def complaints(promtool: Path, folder: Path, *, rules: Any, tests: Any = None) -> str:
    """What promtool has against rules, or against what comes of them in tests; empty if nothing.

    Both are documents of Prometheus: `groups`, and a list for `tests`. They are written into `folder`
    as JSON, which is YAML, too.
    """
    (folder / "rules.yaml").write_text(json.dumps(rules))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": tests}
    (folder / "tests.yaml").write_text(json.dumps(document))
    asked = ["check", "rules", "rules.yaml"] if tests is None else ["test", "rules", "tests.yaml"]
    answer = _run([str(promtool), *asked], folder)
    return "" if answer.returncode == 0 else answer.stdout + answer.stderr


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main() -> int:
    """Print the path; all that takes time is told on standard error."""
    try:
        sys.stdout.write(f"{locate(_say)}\n")
    except BinariesMissingError as failure:
        _say(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
