"""What is answered to whom: the part of HTTP that a kubelet's probe or `curl` speaks, bytes in and bytes out.

- `/healthz`: 200 while the process's own loops turn. What is outside of it never counts: a process that is
  restarted because an API server is away is gone when it is needed.
- `/readyz`: 200 while it is live and does its part; each process says in its own words what that is.

The body is `ok`, or one line that says what is not well. Each connection gets one answer and is closed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

LONGEST_REQUEST: Final = 4096
_LONGEST_LINE: Final = 1000
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class Health(NamedTuple):
    """How a process is: why it is not live, and why it is not ready; both are empty while all is well."""

    sick: str = ""
    unready: str = ""


def is_whole(heard: bytes) -> bool:
    """Whether enough was heard to answer: all of a request, or more than one may be long."""
    return b"\r\n\r\n" in heard or b"\n\n" in heard or len(heard) > LONGEST_REQUEST


def answer(heard: bytes, health: Health) -> bytes:
    """Return what to send to somebody of whom that was heard."""
    if len(heard) > LONGEST_REQUEST:
        return _response(431, "the request is too long")
    line = heard.split(b"\n", 1)[0].strip()
    words = line.decode("ascii", "replace").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):  # noqa: PLR2004 - method, target and version
        return _response(400, "this speaks HTTP: GET /healthz or GET /readyz")
    method, path = words[0], words[1].split("?", 1)[0]
    if method not in {"GET", "HEAD"}:
        return _response(405, "only GET is answered")
    if path == "/healthz":
        trouble = health.sick
    elif path == "/readyz":
        trouble = health.sick or health.unready
    else:
        return _response(404, "there are /healthz and /readyz", has_body=method == "GET")
    return _response(503 if trouble else 200, trouble or "ok", has_body=method == "GET")


def _response(status: int, text: str, *, has_body: bool = True) -> bytes:
    line = " ".join(text.split())
    body = (line[:_LONGEST_LINE] + "\n").encode()
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (body if has_body else b"")
