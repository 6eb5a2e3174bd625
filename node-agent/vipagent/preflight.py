"""Preflight: what a keeper needs from its node before it can hold an address, each lack with its remedy.

`inspect` decides from facts; `look` reads them (capabilities, kernel, sysctls, the state folder) and
tries the fence. A sysctl is only named where it truly keeps an address from working:
- `arp_ignore` 8 answers nobody.
- `arp_ignore` 0, 1 and 2, `arp_announce`, `arp_filter` and `rp_filter` do no harm: the fence, not they,
  keeps a standby silent, and an owner answers with each.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vipagent import fences
from vipagent.packetfence import FenceRefused
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from vipagent.fences import Backend

_NEEDED_CAPABILITIES: Final = {"NET_ADMIN": 12, "NET_RAW": 13, "BPF": 39}
_SYS_ADMIN: Final = 21
_OLDEST_KERNEL: Final = (5, 18)
_NO_ANSWER: Final = 8
"""The value of arp_ignore that answers nobody (linux, ip-sysctl)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What `look` found. A refusal is empty where there was none; `arp_ignore` is by interface.

    `needs_bpf` is whether no other fence than BPF may be taken.
    """

    capabilities: int
    kernel_release: str
    state_dir: str
    state_dir_refusal: str = ""
    fence_refusal: str = ""
    arp_ignore: tuple[tuple[str, int], ...] = ()
    needs_bpf: bool = True


def inspect(facts: Facts) -> tuple[Problem, ...]:
    """Return everything that keeps this keeper from holding addresses; empty if it is ready."""
    return (*_capabilities(facts), *_kernel(facts), *_state_dir(facts), *_fence(facts), *_sysctls(facts))


def _capabilities(facts: Facts) -> list[Problem]:
    held = {name for name, bit in _NEEDED_CAPABILITIES.items() if facts.capabilities >> bit & 1}
    if facts.capabilities >> _SYS_ADMIN & 1 or not facts.needs_bpf:
        held.add("BPF")  # capabilities(7): CAP_SYS_ADMIN includes what CAP_BPF was split from
    missing = [name for name in _NEEDED_CAPABILITIES if name not in held]
    if not missing:
        return []
    names = ", ".join(missing)
    return [
        Problem(
            "CapabilityMissing",
            f"the keeper lacks the capabilities {names}: add them to the container's "
            "securityContext.capabilities.add, or to AmbientCapabilities of its systemd unit",
        )
    ]


def _kernel(facts: Facts) -> list[Problem]:
    numbers = re.match(r"(\d+)\.(\d+)", facts.kernel_release)
    if numbers is None or (int(numbers[1]), int(numbers[2])) >= _OLDEST_KERNEL:
        return []
    return [
        Problem(
            "KernelTooOld",
            f"Linux {facts.kernel_release} cannot mark addresses as ours (IFA_PROTO): use 5.18 or newer",
        )
    ]


def _state_dir(facts: Facts) -> list[Problem]:
    if not facts.state_dir_refusal:
        return []
    return [
        Problem(
            "StateUnwritable",
            f"the keeper cannot write to {facts.state_dir} ({facts.state_dir_refusal}): make it a folder of "
            "the keeper's user on a writable disk, or name another with --state-dir",
        )
    ]


def _fence(facts: Facts) -> list[Problem]:
    return [Problem("FenceRefused", facts.fence_refusal)] if facts.fence_refusal else []


def _sysctls(facts: Facts) -> list[Problem]:
    return [
        Problem(
            "ARPIgnored",
            f"net.ipv4.conf.{name}.arp_ignore is {value}, so nobody's ARP request is answered: "
            f"set net.ipv4.conf.{name}.arp_ignore and net.ipv4.conf.all.arp_ignore to 0, 1 or 2",
        )
        for name, value in facts.arp_ignore
        if value == _NO_ANSWER
    ]


def look(state_dir: Path, fence_backend: Backend = "auto") -> Facts:
    """Read the facts; the state folder is made (0700) if it is not there."""
    return Facts(
        capabilities=_effective_capabilities(),
        kernel_release=platform.release(),
        state_dir=str(state_dir),
        state_dir_refusal=_try_state_dir(state_dir),
        fence_refusal=_try_fence(fence_backend),
        arp_ignore=_arp_ignore(),
        needs_bpf=fence_backend == "bpf",
    )


def _effective_capabilities() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def _try_state_dir(state_dir: Path) -> str:
    trial = state_dir / ".preflight"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        trial.write_bytes(b"")
        trial.unlink()
    except OSError as cause:
        return os.strerror(cause.errno or 0)
    return ""


def _try_fence(backend: Backend) -> str:
    try:
        fences.load(backend).release()
    except FenceRefused as refused:
        return str(refused)
    return ""


def _arp_ignore() -> tuple[tuple[str, int], ...]:
    """Read what each link does with ARP: the larger of its own value and that of "all" counts."""
    found = {}
    for path in sorted(Path("/proc/sys/net/ipv4/conf").glob("*/arp_ignore")):
        found[path.parent.name] = int(path.read_text(encoding="ascii"))
    everywhere = found.pop("all", 0)
    return tuple(
        (name, max(value, everywhere)) for name, value in found.items() if name not in ("default", "lo")
    )
