"""The legacy server on a lab's nodes: installed with the hooks of `examples/hooks`, and made to fail.

The hooks are those that a user copies; only the settings in `app.conf` are the lab's. What is said with
`wish` is a file in the server's folder (`legacyserver`), and lasts until it is taken back. A hook can
be replaced by one that misbehaves.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import legacyserver

if TYPE_CHECKING:
    from lab.topology import Host

PORT = 8090
EXAMPLES = Path(__file__).parents[2] / "examples" / "hooks"
START, STOP, STATUS = "app-start", "app-stop", "app-status"
SETTINGS = "app.conf"
HANGING = "#!/bin/sh\nexec sleep 100000\n"
FAILING = "#!/bin/sh\necho 'told to fail'\nexit 1\n"
PASSING = "#!/bin/sh\nexit 0\n"


@dataclass(frozen=True, slots=True)
class Legacy:
    """The server on one node; `shared` is the folder that stands for the disk of all nodes."""

    host: Host
    shared: Path

    @property
    def folder(self) -> Path:
        return self.host.folder / "app"

    @property
    def hooks(self) -> Path:
        return self.host.folder / "hooks"

    @property
    def command(self) -> list[str]:
        """Return how the server is started by hand, in the foreground."""
        program = Path(legacyserver.__file__)
        return [sys.executable, str(program), self.host.name, str(self.folder), str(self.shared), str(PORT)]

    def install(self) -> None:
        """Put the server's folder and its hooks in place."""
        for folder in (self.folder, self.shared):
            folder.mkdir(exist_ok=True)
        self.hooks.mkdir(mode=0o700, exist_ok=True)
        for name in (START, STOP, STATUS):
            self.restore(name)
        # What stands below the settings is the example's own.
        below = (EXAMPLES / SETTINGS).read_text().split("\n\n", 2)[2]
        interpreter, program, *arguments = self.command
        settings = {
            "START": " ".join([interpreter, program, "--daemon", *arguments]),
            "PROGRAM": program,
            "PID_FILE": str(self.folder / legacyserver.PID_FILE),
            "PORT": str(PORT),
        }
        lines = "".join(f'{name}="{value}"\n' for name, value in settings.items())
        (self.hooks / SETTINGS).write_text(f"{lines}\n{below}")

    def replace(self, hook: str, script: str) -> None:
        """Put another script in a hook's place, in one step: it may be started at any moment."""
        new = self.hooks / f".{hook}"
        new.write_text(script)
        new.chmod(0o755)
        new.replace(self.hooks / hook)

    def restore(self, hook: str) -> None:
        """Put the example's script in a hook's place."""
        self.replace(hook, (EXAMPLES / hook).read_text())

    def run(self, hook: str) -> str:
        """Run a hook by hand and return its output; raises `ProcessFailedError`."""
        return self.host.run(self.hooks / hook)

    def wish(self, what: str, content: str = "") -> None:
        """Make the server misbehave."""
        (self.folder / what).write_text(content)

    def unwish(self, what: str) -> None:
        """Let it be well again."""
        (self.folder / what).unlink(missing_ok=True)

    def be_well(self) -> None:
        """Take every misbehaviour back."""
        for what in legacyserver.WISHES:
            self.unwish(what)
        for hook in (START, STOP, STATUS):
            self.restore(hook)

    def starts(self) -> int:
        """Return how often the server was started on this node."""
        counted = self.folder / legacyserver.STARTS
        return counted.stat().st_size if counted.exists() else 0


def running(shared: Path) -> list[str]:
    """Return the copies, as `NODE.START`, that run at this moment, as the locks on their disk say."""
    return sorted(path.stem for path in shared.glob("*.copy") if legacyserver.is_locked(path))
