"""`python -m simulation MIX SEED` replays one run and prints what happened; `campaign` runs many."""

from __future__ import annotations

import sys

from simulation import campaign
from simulation.runs import NAMES, make
from simulation.watch import Broken


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["campaign"]:
        return campaign.main(arguments[1:])
    if len(arguments) != 2 or arguments[0] not in NAMES:
        sys.stderr.write(f"usage: python -m simulation {{campaign,{','.join(NAMES)}}} SEED\n")
        return 2
    run = make(arguments[0], int(arguments[1]))
    broken: Broken | None = None
    try:
        run.run()
    except Broken as error:
        broken = error
    for at_ns, line in run.world.watch.trace:
        sys.stdout.write(f"{at_ns / 1e6:10.3f} ms  {line}\n")
    sys.stdout.write(f"{broken}\n" if broken else "every invariant held\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
