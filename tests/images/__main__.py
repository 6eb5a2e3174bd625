"""`python -m images build` builds both images, checks them, runs unit tests in them, and prints both."""

from __future__ import annotations

import argparse
import sys

from images import build, check, trial


def _say(text: str) -> None:
    print(f"vipkeeper: {text}", file=sys.stderr, flush=True)  # noqa: T201 - a program's progress


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    building = actions.add_parser("build", help="build both images, check them and run unit tests in them")
    building.add_argument("--version", default=build.version(), help="another version to stamp them with")
    arguments = parser.parse_args()
    for image, path in zip(build.IMAGES, build.build(arguments.version, _say), strict=True):
        check.check(image, arguments.version, path)
        trial.trial(image, path, _say)
        print(path)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
