"""`python -m fuzz [TARGET] [--minutes N]` runs one target, or each of them, for so long, guided by coverage.

`--input FILE` repeats one input instead, without the engine.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz import engine
from fuzz.registry import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 0 where nothing broke."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", choices=sorted(TARGETS), metavar="TARGET")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--input", type=Path)
    options = parser.parse_args(arguments)
    if options.input is not None:
        if options.target is None:
            parser.error("--input needs the name of its target")
        TARGETS[options.target].run(options.input.read_bytes())
        say("it breaks nothing")
        return 0
    try:
        folder = engine.located(say)
    except engine.EngineMissingError as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    names = [options.target] if options.target else list(TARGETS)
    seconds = max(1, round(options.minutes * 60))
    outcomes = [engine.run(TARGETS[name], folder, seconds=seconds, say=say) for name in names]
    return 1 if any(outcome.status or outcome.broken for outcome in outcomes) else 0


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
