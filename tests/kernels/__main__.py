"""`python -m kernels [ARGUMENT...]` runs pytest on a machine of QEMU's; without arguments, this folder."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from kernels import machine
from lab.gobuilds import BinariesMissingError

ROOT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Run the tests there; returns pytest's exit status. SIGTERM ends the machine too."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no"]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return machine.run([*command, *(arguments or ["tests/kernels"])], environment, ROOT, _say)
    except (BinariesMissingError, machine.MachineFailedError) as failure:
        _say(str(failure))
        return 1


def _say(text: str) -> None:
    sys.stderr.write(f"vipkeeper: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
