"""The legacy server on a lab's nodes: installed with the hooks of `examples/hooks`, and made to fail.

The hooks are those that a user copies; only the settings in `app.conf` are the lab's. What is said with
`wish` is a file in the server's folder (`legacyserver`), and lasts until it is taken back. A hook can
be replaced by one that misbehaves.
"""

from __future__ import annotations

import sys
import time
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
WEB_EXAMPLES = EXAMPLES.parent / "web-pair" / "hooks"
WEB_START, WEB_SETTINGS = "web-start", "web.conf"
HANGING = "#!/bin/sh\nexec sleep 100000\n"
FAILING = "#!/bin/sh\necho 'told to fail'\nexit 1\n"
PASSING = "#!/bin/sh\nexit 0\n"
TRACE = "hooks.trace"
TRACED = """
told() {{ echo "$(date +%s%N) ${{0##*/}} $1" >>{trace}; }}
told begins
trap 'told $?' EXIT
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A hook began, or ended with a status; the time is that of `time.monotonic_ns`."""

    at_ns: int
    hook: str
    status: int | None


@dataclass(frozen=True, slots=True)
class Legacy:
    """The server on one node; `shared` is the folder that stands for the disk of all nodes.

    Two servers on one node have each a `name` and a `port` of its own.
    """

    host: Host
    shared: Path
    name: str = "app"
    port: int = PORT

    @property
    def folder(self) -> Path:
        return self.host.folder / self.name

    @property
    def hooks(self) -> Path:
        return self.host.folder / "hooks"

    @property
    def command(self) -> list[str]:
        """Return how the server is started by hand, in the foreground."""
        server = [sys.executable, str(Path(legacyserver.__file__))]
        return [*server, self.host.name, str(self.folder), str(self.shared), str(self.port)]

    def install(self) -> None:
        """Put the server's folder and its hooks in place."""
        self._make_folders()
        for name in (START, STOP, STATUS):
            self.restore(name)
        # What stands below the settings is the example's own.
        below = (EXAMPLES / SETTINGS).read_text().split("\n\n", 2)[2]
        interpreter, program, *arguments = self.command
        settings = {
            "START": " ".join([interpreter, program, "--daemon", *arguments]),
            "PROGRAM": program,
            "PID_FILE": str(self.folder / legacyserver.PID_FILE),
            "PORT": str(self.port),
        }
        lines = "".join(f'{name}="{value}"\n' for name, value in settings.items())
        (self.hooks / SETTINGS).write_text(f"{lines}\n{below}")

    def install_in_foreground(self) -> None:
        """Put the server's folder and the hook of `examples/web-pair` in place."""
        self._make_folders()
        self.replace(WEB_START, (WEB_EXAMPLES / WEB_START).read_text())
        settings = {
            "SERVER": " ".join(self.command),
            "PORT": self.port,
            "LOG": self.folder / "server.log",
        }
        lines = "".join(f'{name}="{value}"\n' for name, value in settings.items())
        (self.hooks / WEB_SETTINGS).write_text(lines)

    def _make_folders(self) -> None:
        for folder in (self.folder, self.shared):
            folder.mkdir(exist_ok=True)
        self.hooks.mkdir(mode=0o700, exist_ok=True)

    def trace(self) -> None:
        """Have every hook of the example's write down when it begins and ends."""
        with (self.hooks / SETTINGS).open("a") as settings:
            settings.write(TRACED.format(trace=self.folder / TRACE))

    def steps(self, *, since_ns: int) -> list[Step]:
        """Return what the hooks wrote down since then, in that order."""
        trace = self.folder / TRACE
        ahead_ns = time.time_ns() - time.monotonic_ns()
        lines = [line.split() for line in trace.read_text().splitlines()] if trace.exists() else []
        steps = [
            Step(int(at_ns) - ahead_ns, hook, None if what == "begins" else int(what))
            for at_ns, hook, what in lines
        ]
        return [step for step in steps if step.at_ns >= since_ns]

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
