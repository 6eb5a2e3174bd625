"""Processes of vipkeeper and what they answer about their health."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Answer = tuple[int, str]
NOBODY: Answer = (0, "nobody answers")


def asked(port: int, path: str, address: str = "127.0.0.1") -> Answer:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode().strip()
    except OSError:
        return NOBODY
    finally:
        connection.close()


def answered(port: int, path: str, words: str, address: str = "127.0.0.1") -> Answer:
    """Wait for an answer that has these words in it; returns it, or the last one after a minute."""
    until = time.monotonic() + 60
    while words not in (answer := asked(port, path, address))[1] and time.monotonic() < until:
        time.sleep(0.05)
    return answer


@contextmanager
def running(log: Path, module: str, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is told to end at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, "-m", module, *options], stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
        print(log.read_text())  # noqa: T201
