"""Kills a keeper at a certain word between keepers, as soon as the bridge hears it.

`python -m lab.ambush WORD KEY PROCESS [RECEIVER]` runs in the bridge's network namespace. WORD is a kind of
`lab.records.Word`, KEY names the address set in hex, PROCESS is the process group that dies. The word itself
goes on to its receiver; where RECEIVER is named only words to it count, for an owner's renewals are granted
all the time. What follows the word does not come, or comes too late to be heard by the sender.
"""

from __future__ import annotations

import os
import signal
import sys

from lab import capture, leasewatch
from lab.precision import prefer_precision


def main(kind: str, key: str, victim: int, receiver: str) -> None:
    prefer_precision()
    ear = capture.Ear(leasewatch.FILTER)
    print("lying in wait", flush=True)  # noqa: T201  # the lab waits for it
    while True:
        _, _, frame = ear.hear()
        if any(
            (said, about.hex()) == (kind, key) and receiver in {"", to}
            for to, said, about in leasewatch.words_of(frame)
        ):
            os.killpg(victim, signal.SIGKILL)
            print("struck", flush=True)  # noqa: T201  # the lab waits for it
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), "".join(sys.argv[4:]))
