"""Where a process serves its metrics or its health: reads `127.0.0.1:9946` or `[::1]:9946`."""

from __future__ import annotations

_PORTS = range(1, 65536)


def parse(text: str) -> tuple[str, int]:
    """Return address and port; raises `ValueError` that says what to write."""
    address, colon, port = text.rpartition(":")
    if not colon or not address or not port.isascii() or not port.isdigit() or int(port) not in _PORTS:
        raise ValueError(f"{text!r}: must be address:port, such as 127.0.0.1:9946 or [::]:9946")
    return address.removeprefix("[").removesuffix("]"), int(port)
