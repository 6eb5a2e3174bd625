"""The door to the state folder: the last plan, the incarnation, what must never go back, and built frames.

What must not go back is for each domain the newest witness configuration and a ceiling of the terms that
were granted. A file is written beside the old one, synced and renamed over it, so that a crash or a full
disk leaves the old one. One that cannot be read is an error with a reason, never a reason to stop: the
courier brings the next plan, and with it a configuration, and frames are built anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from typing import TYPE_CHECKING

import msgspec

from vipagent import stock
from vipagent.epochs import flaw
from vipapi import documents, nodeplan
from vipapi.configuration import Configuration
from vipapi.nodeplan import MOST_CEILING, MOST_TERM

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vipagent.stock import Built
    from vipapi.nodeplan import Plan


class PlanUnreadable(ValueError):  # noqa: N818 - it reads as what happened
    """The stored plan is damaged; the message says where and what happens next."""


class ConfigurationUnreadable(ValueError):  # noqa: N818 - it reads as what happened
    """The stored witness configuration of a domain is damaged; the message says where."""


class TermsUnreadable(ValueError):  # noqa: N818 - it reads as what happened
    """How high the terms of a domain went cannot be read; the message says where."""


class FramesUnreadable(ValueError):  # noqa: N818 - it reads as what happened
    """The stored frames are damaged; the message says where and what happens next."""


class _KeptConfiguration(msgspec.Struct, frozen=True, rename="camel"):
    domain_uid: str
    configuration: Configuration


_configuration = msgspec.json.Decoder(_KeptConfiguration)


class FolderTaken(OSError):  # noqa: N818 - it reads as what happened
    """Another process is the folder's keeper; the message says what to do."""


class Disk:
    """The state folder of one keeper."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plan = folder / "plan.json"
        self._incarnation = folder / "incarnation"
        self._frames = folder / "frames"

    def claim(self) -> None:
        """Make this process the folder's only keeper, until it ends; raises `FolderTaken` if another one is.

        Two keepers on one node would each answer for the other's promises.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)  # the kubelet makes it 0755, and the plan holds the heartbeat keys
        lock = os.open(self._folder / "lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise FolderTaken(
                error.errno,
                "another keeper, or a sweeper (`--clean`, the DaemonSet vipkeeper-sweeper), "
                f"runs with {self._folder}: end it, or name another --state-dir",
            ) from error

    def next_incarnation(self) -> int:
        """Return a number above every earlier one of this folder, and keep it.

        It also stays above the milliseconds of the wall clock, so that a folder that was lost does not
        bring back an old number. Raises `OSError` if it cannot be kept.
        """
        try:
            before = _number(self._incarnation, most=MOST_TERM)
        except (FileNotFoundError, ValueError):
            before = 0
        incarnation = max(before + 1, time.time_ns() // 1_000_000)
        self._replace(self._incarnation, str(incarnation).encode())
        return incarnation

    def load_plan(self) -> Plan | None:
        """Return the last plan, None if there never was one; raises `PlanUnreadable`."""
        try:
            line = self._plan.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PlanUnreadable(
                f"{self._plan} cannot be read ({error}): waiting for the courier's"
            ) from error
        try:
            return nodeplan.decode(line)
        except ValueError as error:
            raise PlanUnreadable(
                f"{self._plan} is damaged ({error}): it is left unused until the courier brings the next plan"
            ) from error

    def store_plan(self, line: bytes) -> None:
        """Keep the plan as it came; when it returns, it survives a power cut. Raises `OSError`."""
        self._replace(self._plan, line)

    def forget_plan(self) -> None:
        """Remove the plan, for it has the heartbeat keys and orders; promises stay. Raises `OSError`."""
        self._plan.unlink(missing_ok=True)

    def load_configuration(self, domain_uid: str) -> Configuration | None:
        """Return the newest configuration that was kept, None if there never was one.

        Raises `ConfigurationUnreadable`.
        """
        path = self._of_domain("configuration", domain_uid)
        try:
            kept = documents.read(_configuration, path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ConfigurationUnreadable(f"{path} is damaged ({error})") from error
        why = flaw(domain_uid, kept.configuration)
        if kept.domain_uid != domain_uid:
            why = f"it is of domain {kept.domain_uid}"
        if why:
            raise ConfigurationUnreadable(f"{path} is damaged ({why})")
        return kept.configuration

    def store_configuration(self, domain_uid: str, configuration: Configuration) -> None:
        """Keep it; when it returns, it survives a power cut. Raises `OSError`."""
        kept = _KeptConfiguration(domain_uid, configuration)
        self._replace(self._of_domain("configuration", domain_uid), msgspec.json.encode(kept))

    def load_term_ceiling(self, domain_uid: str) -> int:
        """Return a number that no term of this domain's witness has passed yet; 0 at the very first start.

        Raises `TermsUnreadable`.
        """
        path = self._of_domain("terms", domain_uid)
        try:
            return _number(path, most=MOST_CEILING)
        except FileNotFoundError:
            return 0
        except (OSError, ValueError) as error:
            raise TermsUnreadable(f"{path} cannot be read ({error})") from error

    def store_term_ceiling(self, domain_uid: str, ceiling: int) -> None:
        """Keep it; when it returns, it survives a power cut. Raises `OSError`."""
        self._replace(self._of_domain("terms", domain_uid), str(ceiling).encode())

    def load_frames(self, maker: str) -> tuple[Built, ...]:
        """Return the frames that were kept of those that this maker built; raises `FramesUnreadable`."""
        try:
            with self._frames.open("rb") as file:
                return stock.decode(file.read(stock.MOST_BYTES + 1), maker)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            raise FramesUnreadable(
                f"{self._frames} is damaged ({error}): it is left unused, and frames are built anew"
            ) from error

    def store_frames(self, built: Iterable[Built], maker: str) -> None:
        """Keep these frames instead of those that were kept. Raises `OSError`.

        What a full disk has no room for takes none: the promises need it more.
        """
        try:
            self._replace(self._frames, stock.encode(built, maker))
        except OSError:
            with contextlib.suppress(OSError):
                self._new(self._frames).unlink()
            raise

    def _of_domain(self, what: str, domain_uid: str) -> Path:
        digest = hashlib.blake2b(domain_uid.encode(), digest_size=8).hexdigest()
        return self._folder / f"{what}-{digest}"

    def _new(self, path: Path) -> Path:
        """Return where a file is written before it takes the place of the old one."""
        return path.with_name(f"{path.name}.new")

    def _replace(self, path: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._new(path)
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _number(path: Path, *, most: int) -> int:
    """Return the number that a file has; raises `ValueError` for one that no keeper writes, and `OSError`."""
    number = int(path.read_text(encoding="ascii"))
    if not 0 <= number <= most:
        raise ValueError(f"{number} is out of range")
    return number
