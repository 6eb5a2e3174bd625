"""keepalived on a lab's nodes: the addresses that a VirtualIP would be, under VRRP.

Every address is a VRRP instance of its own; all nodes start as backups and none takes an address back by
itself (`nopreempt`), which is what a VirtualIP does unless told otherwise. One address may depend on the
node's web server, by a script as the manual has it. A track file for each address takes it off a node, which
is keepalived's way to move an address by hand.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.processes import Process
    from lab.topology import Host

REMEDY = "the comparison needs keepalived: install your distribution's `keepalived` package"
CHECK = """#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1
printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3
read -r -t 1 _ status _ <&3 && [ "$status" = 200 ]
"""
FIRST_PRIORITY = 250
"""Near the highest that a router without the address of its own may have: the skew is short then."""
PRIORITY_STEP = 10


class KeepalivedMissingError(Exception):
    """There is no keepalived on this machine; the message says what to install."""


def find() -> str:
    """Return where keepalived is; raises `KeepalivedMissingError`."""
    found = shutil.which("keepalived")
    if found is None:
        raise KeepalivedMissingError(REMEDY)
    return found


@dataclass(frozen=True, slots=True)
class Settings:
    """How keepalived is set up: seconds between adverts, and lines of `global_defs`."""

    title: str
    advert_s: float
    general: tuple[str, ...] = ()

    @property
    def rested_ms(self) -> int:
        """Return for how long one node must have answered until every other one could take over.

        That is three adverts and a skew of less than one, after which a router that hears no owner becomes
        it, and no less than two runs of the check script, after which a node that was restarted passes.
        """
        return max(int(4500 * self.advert_s), 2500)


DEFAULT = Settings("keepalived, adverts every 1 s (default)", 1)
QUICK = Settings(
    "keepalived, adverts every 100 ms",
    0.1,
    (
        "vrrp_version 3",
        "vrrp_rt_priority 50",
        "vrrp_rlimit_rttime 1000000",  # at the default of 10 ms the kernel killed it again and again here
        "vrrp_no_swap",
        "vrrp_higher_prio_send_advert true",  # or who asked the other of two masters goes on doing so
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Router:
    """keepalived of one node; `rank` 0 is the first choice of VRRP. `addresses` by name, with prefix."""

    host: Host
    rank: int
    settings: Settings
    addresses: Mapping[str, str]
    checked: str
    port: int
    path: str

    def install(self) -> None:
        """Write the configuration, the check and the track files into the host's folder."""
        check = self._file("check-web")
        check.write_text(CHECK.format(port=self.port, path=self.path))
        check.chmod(0o700)
        for name in self.addresses:
            self.give_back(name)
        self._file("keepalived.conf").write_text(self.configuration())

    def configuration(self) -> str:
        """Return keepalived's configuration file."""
        general = ["router_id " + self.host.name, "script_user root", "enable_script_security"]
        blocks = [
            _block("global_defs", [*general, *self.settings.general]),
            _block(
                "vrrp_script web",
                [f'script "{self._file("check-web")}"', "interval 1", "timeout 1", "fall 2", "rise 2"],
            ),
        ]
        for number, (name, address) in enumerate(self.addresses.items(), start=1):
            blocks += [
                _block(f"track_file off-{name}", [f'file "{self._track(name)}"', "weight 0"]),
                _block(
                    f"vrrp_instance {name}",
                    [
                        "state BACKUP",
                        "nopreempt",
                        "interface eth0",
                        f"virtual_router_id {50 + number}",
                        f"priority {FIRST_PRIORITY - PRIORITY_STEP * self.rank}",
                        f"advert_int {self.settings.advert_s}",
                        f"virtual_ipaddress {{\n{address} dev eth0\n}}",
                        f"track_file {{\noff-{name}\n}}",
                        *(["track_script {\nweb\n}"] if name == self.checked else []),
                    ],
                ),
            ]
        return "\n".join(blocks)

    def start(self) -> Process:
        """Start keepalived, as its systemd unit does; raises `KeepalivedMissingError`."""
        pids = [self._file(f"{name}.pid") for name in ("keepalived", "vrrp")]
        for pid in pids:
            pid.unlink(missing_ok=True)
        command: list[str | Path] = [
            *(find(), "--dont-fork", "--log-console", "--log-detail", "--vrrp"),
            *("--use-file", self._file("keepalived.conf")),
            *("--pid", pids[0], "--vrrp_pid", pids[1]),
        ]
        return self.host.start(command, name="keepalived")

    def take_off(self, name: str) -> None:
        """Let this node give an address up, and have it no more."""
        self._track(name).write_text("1\n")

    def give_back(self, name: str) -> None:
        """Let this node have an address again."""
        self._track(name).write_text("0\n")

    def _track(self, name: str) -> Path:
        return self._file(f"off-{name}")

    def _file(self, name: str) -> Path:
        return self.host.folder / name


def indented(router: Router) -> str:
    """Return the configuration and the check of one node, to be read by people."""
    depth, lines = 0, []
    for line in router.configuration().splitlines():
        depth -= line == "}"
        lines.append("    " * depth + line)
        depth += line.endswith("{")
    check = CHECK.format(port=router.port, path=router.path)
    return "\n".join([*lines, "", "# check-web", check])


def version() -> str:
    """Return what keepalived calls its own version; raises `KeepalivedMissingError`."""
    told = subprocess.run([find(), "--version"], capture_output=True, text=True, check=True)
    return (told.stderr or told.stdout).splitlines()[0].partition(" (")[0]


def family(pid: int) -> list[int]:
    """Return a process and all its descendants, parents first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(each for child in children for each in family(int(child)))]


def _block(name: str, lines: list[str]) -> str:
    return "\n".join([f"{name} {{", *lines, "}"])
