"""A real systemd for a host of the lab, with units made by the test and nothing of the machine's own.

`Systemd` starts `lab.systemd_cell`, in which systemd is process 1 of PID, mount, cgroup, IPC and UTS
namespaces of its own; the network namespace is the host's, so that its units serve there. It sees the
machine's files read-only (but for the folder of temporary files), a `/run` and a folder of units that lie
in `folder`, and a cgroup v2 tree that begins at a cgroup made for it.

    folder/units      what it has for units, and nothing else; with `add`, one more
    folder/run        its /run
    folder/systemd.log

systemd believes only processes that it can see, and those outside of its PID namespace, such as the lab's
keepers, it cannot. So it runs `systemd-socket-proxyd` beside: who connects to `address` is connected with
systemd's own socket by a process inside. With `bus=True` a dbus-daemon runs inside too, at `bus_address`.

Nothing stays: killing what was started kills all that is in its PID namespace, also when the lab is
killed, and `close` removes the cgroup; where nobody closes, the end of the enclosure does.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab import enclosure, kernelcalls, processes, systemd_binaries
from lab.measuring import environment
from vipagent.leash_cgroups import own_cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pytest

    from lab.systemd_binaries import Program

PATIENCE_S = 20
LONGEST_ADDRESS = 107
IMPLIED = ("sysinit.target", "basic.target", "sockets.target", "shutdown.target")
BUS_POLICY = """<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow send_type="signal"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""


class Systemd:
    """A systemd, from `start` to `close`; `units` are files by their names."""

    def __init__(
        self,
        program: Program,
        folder: Path,
        *,
        network: int,
        units: Mapping[str, str],
        bus: bool = False,
    ) -> None:
        self._program = program
        self._folder = folder
        self._network = network
        self._has_bus = bus
        self._door = folder / "run" / "door"
        self._bus_socket = folder / "run" / "dbus" / "system_bus_socket"
        self._cgroup: Path | None = None
        self._process: processes.Process | None = None
        for name in ("units", "run"):
            (folder / name).mkdir(parents=True)
        for name, text in {**self._own_units(), **units}.items():
            self.add(name, text)

    @property
    def address(self) -> str:
        """Where systemd itself is reached from the lab, as D-Bus writes addresses."""
        assert len(str(self._door)) <= LONGEST_ADDRESS
        return f"unix:path={self._door}"

    @property
    def bus_address(self) -> str:
        """Where its dbus-daemon is reached."""
        assert self._has_bus
        return f"unix:path={self._bus_socket}"

    def add(self, name: str, text: str) -> None:
        """Write a unit file; systemd finds one with a new name by itself."""
        (self._folder / "units" / name).write_text(text)

    def start(self) -> None:
        """Start it and wait until it can be reached; raises `ProcessFailedError`."""
        self._cgroup = _new_cgroup()
        command: list[str | Path] = [sys.executable, "-m", "lab.systemd_cell"]
        command += [self._folder, self._cgroup, self._program.path]
        command += [] if self._program.tree is None else [self._program.tree]
        self._process = processes.start(
            command,
            name="systemd",
            network=self._network,
            log=self._folder / "cell.log",
            environment=environment(),
        )
        sockets = [self._door, *([self._bus_socket] if self._has_bus else [])]
        deadline = time.monotonic() + PATIENCE_S
        while not all(each.exists() for each in sockets):
            if not self._process.is_alive or time.monotonic() > deadline:
                raise processes.ProcessFailedError(self._process, f"does not run:\n{self.log()}")
            time.sleep(0.02)

    def log(self) -> str:
        """Return what systemd has told so far."""
        log = self._folder / "systemd.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def kill(self) -> None:
        """Kill it with everything that it runs, as a node that loses its power does."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._cgroup is not None:
            _remove(self._cgroup)
            self._cgroup = None

    def close(self) -> None:
        """Kill it and remove its files but for the logs."""
        self.kill()
        for name in ("units", "run"):
            shutil.rmtree(self._folder / name)

    def _own_units(self) -> dict[str, str]:
        proxy = self._program.path.parent / "systemd-socket-proxyd"
        wanted = ["door.socket"]
        # What systemd adds to every unit as a dependency must exist.
        units = dict.fromkeys(IMPLIED, "[Unit]\nDefaultDependencies=no\n")
        units["door.socket"] = "[Socket]\nListenStream=/run/door\n"
        units["door.service"] = f"[Service]\nExecStart={proxy} /run/systemd/private\n"
        if self._has_bus:
            wanted += ["dbus.socket", "dbus.service"]
            policy = self._folder / "bus.conf"
            policy.write_text(BUS_POLICY)
            options = f"--config-file={policy} --address=systemd: --nofork --nopidfile"
            units["dbus.socket"] = "[Socket]\nListenStream=/run/dbus/system_bus_socket\n"
            units["dbus.service"] = (
                "[Unit]\nRequires=dbus.socket\n"
                f"[Service]\nExecStart={self._program.dbus_daemon} {options}\n"
                f"StandardError=append:{self._folder}/dbus.log\n"
            )
        units["default.target"] = f"[Unit]\nDefaultDependencies=no\nWants={' '.join(wanted)}\n"
        return units


@contextmanager
def running(
    program: Program, *, network: int, units: Mapping[str, str], bus: bool = False
) -> Iterator[Systemd]:
    """Have a systemd run, in a folder of the enclosure."""
    folder = Path(tempfile.mkdtemp(dir=enclosure.scratch_folder()))
    systemd = Systemd(program, folder, network=network, units=units, bus=bus)
    try:
        systemd.start()
        yield systemd
    finally:
        systemd.close()


@contextmanager
def for_tests(config: pytest.Config, *, bus: bool = False) -> Iterator[Systemd]:
    """Have a systemd run in a network of its own; where it has to be fetched, pytest's user is told."""
    capture = config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"{line}\n")

    with kernelcalls.entered(enclosure.outside_network()):
        program = systemd_binaries.locate(say)
    network = kernelcalls.new_network()
    try:
        with running(program, network=network, units={}, bus=bus) as started:
            yield started
    finally:
        os.close(network)


def _new_cgroup() -> Path:
    """Make a cgroup below that of the enclosure, which removes what is below its own when it ends."""
    own = own_cgroup(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
    assert own is not None, "systemd needs a cgroup2 file system: mount one, at /sys/fs/cgroup or below"
    made = own / f"systemd-{secrets.token_hex(4)}"
    made.mkdir()
    return made


def _remove(cgroup: Path) -> None:
    """End what still runs in a cgroup, and remove it with all below it."""
    (cgroup / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + PATIENCE_S
    while "populated 1" in (cgroup / "cgroup.events").read_text():
        assert time.monotonic() < deadline, f"{cgroup} cannot be emptied"
        time.sleep(0.01)
    for folder, _, _ in os.walk(cgroup, topdown=False):
        Path(folder).rmdir()
