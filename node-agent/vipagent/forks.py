"""The door to fork: starts a program, and waits for nothing however long its file takes to be read.

What may hang with the disk that a program lies on (whether it may be run, loading it) is done by the new
process, so it delays nobody else. `subprocess` waits until the program is loaded, and holds the interpreter
meanwhile, so a thread would not help.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_REFUSED: Final = 127
_ORDINARY: Final = (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Forked:
    """A new process, of a session of its own, and two pipes to read from.

    `output` has what it prints, on both streams, and `excuses` why it has not become the program, if so.
    """

    pid: int
    output: int
    excuses: int


def start(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    *,
    title: str,
    refusal: Callable[[], str | None],
    settle: Callable[[], None] = lambda: None,
) -> Forked:
    """Start a program, in `/` and with nothing on its standard input. Raises `OSError`.

    In the new process `settle` comes first, and at the last moment `refusal` may say why not.
    """
    output, printed = os.pipe()
    excuses, excused = os.pipe()
    # Nothing may be handled twice: until it is a process of its own, the child has this one's handlers.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _become(command, environment, title, refusal, settle, printed=printed, excused=excused)
    except OSError:
        os.close(output)
        os.close(excuses)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        os.close(printed)
        os.close(excused)
    return Forked(pid, output, excuses)


def why_not(error: OSError) -> str:
    """Say why a program could not be started."""
    text = os.strerror(error.errno or 0)
    return f"{text} (a script needs a first line such as #!/bin/sh)" if error.errno else text


def _become(
    command: tuple[str, ...],
    environment: Mapping[str, str],
    title: str,
    refusal: Callable[[], str | None],
    settle: Callable[[], None],
    *,
    printed: int,
    excused: int,
) -> NoReturn:
    """Become the program, in the new process; where that is refused, leave word and end."""
    try:
        signal.set_wakeup_fd(-1)
        for signum in _ORDINARY:
            signal.signal(signum, signal.SIG_DFL)
        os.setsid()
        os.chdir("/")
        settle()
        nothing = os.open(os.devnull, os.O_RDONLY)
        for descriptor, standard in ((nothing, 0), (printed, 1), (printed, 2)):
            os.dup2(descriptor, standard)
        # Also what exec would close: it may never come to that, and who is connected must see this one's end.
        for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not paths
            if descriptor not in (0, 1, 2, excused):
                with contextlib.suppress(OSError):  # the one of that listing
                    os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        excuse = refusal()
        if excuse is None:
            os.execvpe(command[0], command, environment)  # noqa: S606 - no shell
    except OSError as error:
        excuse = f"{title} cannot be started: {why_not(error)}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must not run on as a second one of us
        excuse = f"{title} cannot be started: {type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        os.write(excused, (excuse or "").encode(errors="replace"))
    os._exit(_REFUSED)
