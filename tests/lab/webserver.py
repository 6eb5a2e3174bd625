"""The service of the demonstration: a real HTTP server that answers `/` and `/healthz` with its node's name.

`python -m lab.webserver NODE PORT`.
"""

from __future__ import annotations

import http.server
import socket
import sys
from http import HTTPStatus


class Handler(http.server.BaseHTTPRequestHandler):
    node = ""

    def do_GET(self) -> None:
        known = self.path in {"/", "/healthz"}
        body = f"{self.node}\n".encode() if known else b"not found\n"
        self.send_response(HTTPStatus.OK if known else HTTPStatus.NOT_FOUND)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the probes come fifty times a second."""


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main(node: str, port: int) -> None:
    Handler.node = node
    with Server(("::", port), Handler) as server:
        print(f"{node} serves on port {port}", flush=True)  # noqa: T201  # the lab waits for it
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
