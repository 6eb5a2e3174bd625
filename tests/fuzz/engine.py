"""The engine of long runs: atheris, libFuzzer for Python, guided by what of the code a run has reached.

It is installed when it is first wanted, into a folder of its own in the cache, with the versions and hashes
of `engine.lock`: `make test` does without it, and there is none for every machine. Each target runs in a
process of its own, for so long and with so much memory and no more; its inputs are kept in the cache and
serve the next run as well. What breaks a target is kept there too, and what is printed says how to repeat it.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fuzz.target import Target

LOCK: Final = Path(__file__).with_name("engine.lock")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vipkeeper"
FOLDER: Final = CACHE / "fuzz"
PACKAGES: Final = ("vipapi", "viphealth", "vipcluster", "vipcontroller", "vipagent", "vipcourier")
LONGEST: Final = 8192
MEMORY_MB: Final = 2048
ONE_RUN_S: Final = 20
_PATIENCE_S: Final = 300


class EngineMissingError(Exception):
    """Atheris cannot be had here; the message says why."""


class Outcome(NamedTuple):
    """What came of one target: how many runs it had, and the inputs that broke it."""

    name: str
    runs: int
    broken: tuple[Path, ...]
    status: int


def located(say: Callable[[str], None]) -> Path:
    """Return the folder that has atheris; raises `EngineMissingError`."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / "atheris" / f"{version}-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    say(f"installing atheris in {folder}")
    new = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    command += ["--require-hashes", "--only-binary", ":all:", "--target", str(new), "-r", str(LOCK)]
    if subprocess.run(command, check=False).returncode:
        raise EngineMissingError(
            "atheris cannot be installed: there is one for CPython 3.11 to 3.14 on Linux, x86_64, only; "
            "`make test` fuzzes without it"
        )
    new.rename(folder)
    return folder


def run(target: Target, engine: Path, *, seconds: int, say: Callable[[str], None]) -> Outcome:
    """Run one target for so long, in a process of its own."""
    corpus, broken = FOLDER / target.name / "corpus", FOLDER / target.name / "broken"
    for folder in (corpus, broken):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    before = set(broken.iterdir())
    command = [sys.executable, "-m", "fuzz.engine", target.run.__module__, target.name]
    command += [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={ONE_RUN_S}",
        f"-artifact_prefix={broken}/",
        "-print_final_stats=1",
        str(corpus),
    ]
    log = FOLDER / target.name / "log"
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command,
                check=False,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=seconds + _PATIENCE_S,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], str(engine)])},
            )
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = -9
    said = log.read_text(errors="replace")
    outcome = Outcome(target.name, _counted(said), tuple(sorted(set(broken.iterdir()) - before)), status)
    say(f"{target.name}: {outcome.runs} runs, {len(outcome.broken)} inputs that break it")
    if status:
        say("\n".join(said.splitlines()[-25:]))
    for path in outcome.broken:
        say(f"again: make fuzz TARGET={target.name} INPUT={path}")
    return outcome


def _counted(said: str) -> int:
    """Return how many runs libFuzzer says that there were."""
    found = re.findall(r"^stat::number_of_executed_units:\s*(\d+)", said, re.MULTILINE)
    found = found or re.findall(r"^#(\d+)\t", said, re.MULTILINE)
    return max(map(int, found), default=0)


def begin(module: str, name: str, arguments: Sequence[str]) -> None:
    """Run a target of that module in this process until libFuzzer ends it."""
    import atheris  # noqa: PLC0415 - see above

    with atheris.instrument_imports(include=list(PACKAGES)):  # and nothing of them was imported before
        targets = importlib.import_module(module).TARGETS
    (target,) = (each for each in targets if each.name == name)
    logging.disable(logging.CRITICAL)
    atheris.Setup(["fuzz", *arguments], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    begin(sys.argv[1], sys.argv[2], sys.argv[3:])
