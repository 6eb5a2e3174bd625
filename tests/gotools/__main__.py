"""`python -m gotools NAME...` builds what is missing, and prints the path of each on a line of its own.

Without a name that is every tool.
"""

from __future__ import annotations

import sys

import gotools
from lab.gobuilds import BinariesMissingError


def main(wanted: list[str]) -> int:
    """Print the paths; all that takes time is told on standard error."""
    known = gotools.names()
    if unknown := [name for name in wanted if name not in known]:
        sys.stderr.write(f"no such tool: {', '.join(unknown)}; there are {', '.join(known)}\n")
        return 2
    try:
        for name in wanted or known:
            sys.stdout.write(f"{gotools.locate(name, _say)}\n")
    except BinariesMissingError as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
