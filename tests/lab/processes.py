"""Processes of the lab: started in a node's network namespace, logged, stopped, frozen and awaited."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import kernelcalls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One process group that the lab started, and the log of everything that it printed."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        return self.child.poll() is None

    def kill(self) -> None:
        """Kill -9 the process and everything in its group, and reap it."""
        self._signal(signal.SIGKILL)
        self.child.wait()

    def freeze(self) -> None:
        """SIGSTOP the group."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT the group."""
        self._signal(signal.SIGCONT)

    def terminate(self, *, patience_s: float = 10) -> int:
        """SIGTERM the process itself and return its exit code; kill -9 its group if it takes longer."""
        if self.is_alive:
            self.child.terminate()
        try:
            self.child.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.child.returncode

    def wait(self, patience_s: float) -> int:
        """Wait until the process ends by itself; raises `subprocess.TimeoutExpired`."""
        return self.child.wait(patience_s)

    def output(self) -> str:
        """Return everything that the process has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for_output(self, text: str, *, patience_s: float) -> None:
        """Wait until the process has printed `text`.

        Raises `ProcessFailedError` with the end of its log if it ends before that, or takes longer.
        """
        deadline = time.monotonic() + patience_s
        while text not in self.output():
            if not self.is_alive:
                raise ProcessFailedError(
                    self, f"ended with {self.child.returncode} before it printed {text!r}"
                )
            if time.monotonic() > deadline:
                raise ProcessFailedError(self, f"did not print {text!r} within {patience_s} s")
            time.sleep(0.02)

    def _signal(self, number: int) -> None:
        if self.is_alive:
            os.killpg(self.child.pid, number)


class ProcessFailedError(Exception):
    """A process of the lab did not do what the lab needs of it."""

    def __init__(self, process: Process, what: str) -> None:
        super().__init__(f"{process.name} {what}; the end of its log:\n{process.output()[-3000:]}")


def start(
    command: Sequence[str | Path],
    *,
    name: str,
    network: int,
    log: Path,
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
    folder: Path | None = None,
) -> Process:
    """Start a command in a network namespace, in a process group of its own; its output goes to `log`.

    `environment` is added to the lab's own. The log is appended to, so that a restarted process
    continues it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output, kernelcalls.entered(network):
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            pass_fds=tuple(descriptors),
            process_group=0,
            cwd=folder,
        )
    return Process(name=name, child=child, log=log)
