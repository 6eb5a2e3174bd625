"""Where systemd and dbus-daemon come from: this machine, or Debian's packages, unpacked and not installed.

What is installed is used. Else apt downloads the packages with all that this machine lacks for them, and
they are unpacked into the cache, `${XDG_CACHE_HOME:-~/.cache}/vipkeeper/systemd`, in a folder for this
distribution; a cell (`lab.systemd_cell`) sees them laid over its `/usr`. Nothing of the machine itself
changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import debian

if TYPE_CHECKING:
    from lab.gobuilds import Say

SYSTEMD = Path("/usr/lib/systemd/systemd")
DBUS_DAEMON = Path("/usr/bin/dbus-daemon")
PROGRAMS = (SYSTEMD, SYSTEMD.parent / "systemd-socket-proxyd", DBUS_DAEMON)
PACKAGES = ("systemd", "dbus-daemon")


@dataclass(frozen=True, slots=True)
class Program:
    """systemd as the cell sees it; `tree` is what must be laid over `/` for that."""

    path: Path
    dbus_daemon: Path
    tree: Path | None


def locate(say: Say) -> Program:
    """Find systemd, downloading it if need be; raises `BinariesMissingError` when it is nowhere."""
    if _has_all(Path("/")):
        return Program(SYSTEMD, DBUS_DAEMON, None)
    return Program(SYSTEMD, DBUS_DAEMON, debian.unpacked("systemd", PACKAGES, _has_all, say))


def _has_all(root: Path) -> bool:
    return all((root / each.relative_to("/")).exists() for each in PROGRAMS)
