"""`python -m e2e` makes ready what this folder needs, for a first build takes longer than a test may."""

from __future__ import annotations

import sys

import gotools
from e2e import images
from lab import binaries
from lab.gobuilds import BinariesMissingError


def main() -> int:
    """Build what is missing, and print the paths."""
    try:
        found = (
            binaries.locate(say).kube_apiserver,
            binaries.locate_cluster_programs(say).kubelet,
            gotools.locate("helm", say),
            images.pause_archive(say),
        )
    except BinariesMissingError as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    for path in found:
        say(str(path))
    return 0


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
