"""The service of the demonstration: a real HTTP server that answers `/` and `/healthz` with its node's name.

`python -m lab.webserver NODE PORT`. One loop serves all connections, ahead of ordinary processes: on a
busy machine the lab's services must not seem sick when only the processor is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial
from http import HTTPStatus

from lab.precision import prefer_precision

PATHS = {"/", "/healthz"}
PATIENCE_S = 5.0


async def answer(node: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request and close the connection."""
    with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            is_known = target.partition("?")[0] in PATHS
            status = HTTPStatus.OK if is_known else HTTPStatus.NOT_FOUND
            body = f"{node if is_known else 'not found'}\n"
            lines = (
                f"HTTP/1.1 {status.value} {status.phrase}",
                "Content-Type: text/plain",
                f"Content-Length: {len(body)}",
                "Connection: close",
                "",
                "" if method == "HEAD" else body,
            )
            writer.write("\r\n".join(lines).encode())
            await writer.drain()
    writer.close()


async def main(node: str, port: int) -> None:
    prefer_precision(priority=1)
    server = await asyncio.start_server(partial(answer, node), None, port, backlog=256)
    print(f"{node} serves on port {port}", flush=True)  # noqa: T201  # the lab waits for it
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
