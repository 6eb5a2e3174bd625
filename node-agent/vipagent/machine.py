"""The door to what tells this machine from a clone of it that goes by the same node name.

A disk that was copied brings node name and state folder along, but not the boot it runs in; and keepers
of one machine (in tests, or in containers with networks of their own) have a network namespace each.
A reboot makes another machine, too: what it held before is over by then, or is waited out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")


def identity() -> bytes:
    """Return the 8 bytes that datagrams carry; raises `OSError` where there is no /proc."""
    boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
    return hashlib.blake2b(f"{boot_id} {_NETWORK.stat().st_ino}".encode(), digest_size=8).digest()
