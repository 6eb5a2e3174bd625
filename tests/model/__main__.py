"""Make all searches: `python -m model`; or one: `python -m model lease --without silence`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from model import runs
from model.compiler import compile_model


def _tell(name: str, outcome: runs.Outcome) -> None:
    violates = f"{outcome.violates} in {outcome.steps} steps" if outcome.violates else "no violation"
    size = f"{outcome.states:>12,} states {outcome.cpu_s:7.1f} s {outcome.memory_mb:6,} MB"
    sys.stdout.write(f"{size}  {violates:22}  {name}\n")
    sys.stdout.flush()


def main() -> int:
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        program = compile_model(Path(folder))
        if len(sys.argv) > 1:
            outcome = runs.search(program, " ".join(sys.argv[1:]))
            sys.stdout.write(outcome.output)
            return outcome.violates is not None
        for options, violates in runs.HARMFUL.values():
            outcome = runs.search(program, options)
            _tell(options, outcome)
            wrong += outcome.violates != violates
        for options in (*runs.MASKED.values(), *runs.SHORT, *runs.LONG):
            outcome = runs.search(program, options)
            _tell(options, outcome)
            wrong += outcome.violates is not None
    return wrong > 0


if __name__ == "__main__":
    sys.exit(main())
