"""The client of the service: an HTTP request through an address every 20 ms, each on a new connection.

`python -m lab.requester FOLDER LABEL=URL...` appends to `FOLDER/LABEL.probes`, in the form of `prober`.
Requests do not wait for each other: one that hangs in a dead connection delays none of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from lab.precision import prefer_precision
from lab.records import Probe

INTERVAL_S = 0.02
PATIENCE_S = 1.0


@dataclass(slots=True)
class Target:
    """One URL, and its requests in the order in which they were sent; None while they are under way."""

    host: str
    port: int
    path: str
    output: BinaryIO
    requests: dict[int, Probe | None] = field(default_factory=dict)

    async def request(self) -> None:
        sent_ns = time.monotonic_ns()
        self.requests[sent_ns] = None
        node = None
        with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(PATIENCE_S):
                node = await self._fetch()
        self.requests[sent_ns] = Probe(sent_ns, time.monotonic_ns() if node else None, node)
        self._write()

    async def _fetch(self) -> str | None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(f"GET {self.path} HTTP/1.0\r\nHost: {self.host}\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.transport.abort()
        return body.decode().strip() if b" 200 " in head.split(b"\r\n")[0] else None

    def _write(self) -> None:
        for sent_ns, done in list(self.requests.items()):
            if done is None:
                break
            self.output.write(done.packed())
            del self.requests[sent_ns]


async def main(asked: list[Target]) -> None:
    prefer_precision()
    under_way: set[asyncio.Task[None]] = set()
    due_s = time.monotonic()
    while True:
        for target in asked:
            task = asyncio.create_task(target.request())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        due_s = max(due_s + INTERVAL_S, time.monotonic())
        await asyncio.sleep(due_s - time.monotonic())


def target_of(folder: Path, label: str, url: str) -> Target:
    folder.mkdir(parents=True, exist_ok=True)
    parts = urlsplit(url)
    assert parts.hostname is not None
    output = (folder / f"{label}.probes").open("ab", buffering=0)
    return Target(parts.hostname, parts.port or 80, parts.path or "/", output)


if __name__ == "__main__":
    asyncio.run(main([target_of(Path(sys.argv[1]), *each.split("=", 1)) for each in sys.argv[2:]]))
