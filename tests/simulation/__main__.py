"""Replay one run and print what happened: `python -m simulation MIX SEED`."""

from __future__ import annotations

import sys

from simulation.mixes import MIXES
from simulation.torment import Torment
from simulation.watch import Broken


def main() -> int:
    if len(sys.argv) != 3 or sys.argv[1] not in MIXES:
        sys.stderr.write(f"usage: python -m simulation {{{','.join(MIXES)}}} SEED\n")
        return 2
    torment = Torment(sys.argv[1], int(sys.argv[2]))
    broken: Broken | None = None
    try:
        torment.run()
    except Broken as error:
        broken = error
    for at_ns, line in torment.world.watch.trace:
        sys.stdout.write(f"{at_ns / 1e6:10.3f} ms  {line}\n")
    sys.stdout.write(f"{broken}\n" if broken else "every invariant held\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
