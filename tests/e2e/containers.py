"""The door to a container's processes, seen from the machine: what the kernel lets them do and see.

A container is found by its cgroup, whose path ends in the container's name. Nothing runs in it for this, so
what it has not is not missing because a shell is.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

VOLUME = re.compile(r"/volumes/kubernetes\.io~([a-z-]+)/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a container's first process may do and see; `volumes` are the kinds of its volumes."""

    process: int
    user: int
    capabilities: int
    seccomp: int
    has_no_new_privileges: bool
    has_read_only_root: bool
    volumes: tuple[str, ...]

    def finds(self, name: str) -> bool:
        """Tell whether a file of that name is anywhere in what was mounted for it, or in its root."""
        root = Path(f"/proc/{self.process}/root")
        places = ("run", "var", "etc", "tmp", "opt")
        return any(
            name in (*folders, *files)
            for place in places
            for _, folders, files in os.walk(root / place, followlinks=False)
        )


def processes_of(container_id: str) -> list[int]:
    """Return the numbers of a container's processes, as the caller sees them, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if container_id in (entry / "cgroup").read_text():
                    found.append(int(entry.name))
    return sorted(found)


def id_of(pod: Mapping[str, Any], container: str) -> str:
    """Return the name that the container runtime has for a pod's container."""
    [status] = [each for each in pod["status"]["containerStatuses"] if each["name"] == container]
    return str(status["containerID"]).rpartition("/")[2]


def facts_of(pod: Mapping[str, Any], container: str) -> Facts:
    """Look at a pod's container."""
    process = processes_of(id_of(pod, container))[0]
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    status = dict(line.split(":	", 1) for line in lines if ":	" in line)
    mounts = [line.split() for line in Path(f"/proc/{process}/mountinfo").read_text().splitlines()]
    [root] = [fields for fields in mounts if fields[4] == "/"]
    return Facts(
        process=process,
        user=int(status["Uid"].split()[0]),
        capabilities=int(status["CapBnd"], 16) | int(status["CapEff"], 16) | int(status["CapPrm"], 16),
        seccomp=int(status["Seccomp"]),
        has_no_new_privileges=status["NoNewPrivs"] == "1",
        has_read_only_root="ro" in root[5].split(","),
        volumes=tuple(found[1] for fields in mounts if (found := VOLUME.search(fields[3]))),
    )
