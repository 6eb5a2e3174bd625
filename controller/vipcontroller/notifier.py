"""The door to apprise: sends notifications to mail servers, chats and webhooks, and delays nothing.

    offer ──▶ a digest of each target ──▶ the target's own thread ──▶ apprise

`offer` only puts something into digests that are bounded. Whoever hangs hangs in a thread of its own: apprise
ends a connection that does not come about or stands still, and one that trickles on is told of after
`HANGING_S`. The threads are daemons, so none of them keeps the process from ending.

The file of settings is read every `RELOAD_S` (a Secret that is mounted changes in place); targets that it has
as before go on with what they had gathered. While it cannot be used nobody is notified, and the log says why.

apprise is imported by the first thread that has a target, so a controller without settings does not have it
in memory. Its own log, those of the libraries that it works with, and what goes wrong in it, may name
addresses with passwords: nothing but the controller's own words leaves a target's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from vipcontroller import notifications
from vipcontroller.notifications import Digest, Pace, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vipcontroller.notifications import Message, Notification, Target

RELOAD_S = 5.0
HANGING_S = 60.0
FAREWELL_S = 3.0
"""How long the end of the process waits for what is being sent, and for what was gathered last."""

_PACE = Pace()
_logger = logging.getLogger("vipcontroller")


class Notifier:
    """Notifies the targets of a file of settings; `count` is told of each target's results."""

    def __init__(
        self,
        path: Path,
        *,
        count: Callable[[str, str], None],
        pace: Pace = _PACE,
        reload_s: float = RELOAD_S,
        hanging_s: float = HANGING_S,
    ) -> None:
        self._path = path
        self._count = count
        self._pace = pace
        self._hanging_s = hanging_s
        self._reload_s = reload_s
        self._lock = threading.Lock()
        self._text: bytes | str = ""
        self._cluster = ""
        self._messengers: dict[Target, _Messenger] = {}
        self._is_stopping = threading.Event()
        self._reloading = threading.Thread(target=self._keep_reading, name="notifier", daemon=True)

    def start(self) -> None:
        """Read the settings for the first time, and go on reading them."""
        _keep_secrets()
        self._read()
        self._reloading.start()

    def stop(self) -> None:
        """Send what was gathered, for a little while, and end."""
        self._is_stopping.set()
        until = time.monotonic() + FAREWELL_S
        with self._lock:
            messengers, self._messengers = list(self._messengers.values()), {}
        for messenger in messengers:
            messenger.stop()
        for messenger in messengers:
            messenger.join(max(0.0, until - time.monotonic()))

    def offer(self, found: Iterable[Notification]) -> None:
        """Have these told to whom they concern; returns at once."""
        with self._lock:
            messengers = list(self._messengers.items())
        for notification in found:
            for target, messenger in messengers:
                if target.wants(notification):
                    messenger.receive(notification)
                elif notification.kind == "OwnerChanged":
                    messenger.withdraw(notification.about)

    def _keep_reading(self) -> None:
        while not self._is_stopping.wait(self._reload_s):
            self._read()
            with self._lock:
                messengers = list(self._messengers.items())
            for target, messenger in messengers:
                if messenger.begins_to_hang(self._hanging_s):
                    self._count(target.name, "hanging")
                    _logger.warning(
                        "The notification target %s has not answered for %g s", target.name, self._hanging_s
                    )

    def _read(self) -> None:
        """Read the file, and where it has changed let targets come and go."""
        try:
            text: bytes | str = self._path.read_bytes()
        except OSError as error:
            text = str(error)
        if text == self._text:
            return
        self._text = text
        try:
            if isinstance(text, str):
                raise ValueError(text)  # noqa: TRY301, TRY004 - it cannot be used, for whatever reason
            settings = notifications.read(text)
        except ValueError as error:
            self._employ(Settings())
            _logger.error("Nobody is notified: %s cannot be used: %s", self._path, error)  # noqa: TRY400
        else:
            self._employ(settings)
            _logger.info("Notifying: %s", ", ".join(each.name for each in settings.targets) or "nobody")

    def _employ(self, settings: Settings) -> None:
        with self._lock:
            if self._is_stopping.is_set():
                return
            before, self._messengers = self._messengers, {}
            is_known = settings.cluster == self._cluster
            self._cluster = settings.cluster
            for target in settings.targets:
                messenger = before.pop(target, None) if is_known else None
                if messenger is None:
                    messenger = _Messenger(target, Digest(settings.cluster, self._pace), self._count)
                    messenger.start()
                self._messengers[target] = messenger
        for messenger in before.values():
            messenger.stop()


class _Messenger(threading.Thread):
    """Sends one target what its digest gathers."""

    def __init__(self, target: Target, digest: Digest, count: Callable[[str, str], None]) -> None:
        super().__init__(name=f"notifier-{target.name}", daemon=True)
        self._target = target
        self._digest = digest
        self._count = count
        self._changed = threading.Condition()
        self._is_stopping = False
        self._busy_since: float | None = None

    def receive(self, notification: Notification) -> None:
        with self._changed:
            self._digest.receive(notification, time.monotonic())
            self._changed.notify_all()

    def withdraw(self, about: str) -> None:
        with self._changed:
            self._digest.withdraw(about)

    def stop(self) -> None:
        """Send what is there at once, and end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()

    def begins_to_hang(self, hanging_s: float) -> bool:
        """Whether one message has taken far too long; True once for each."""
        with self._changed:
            since = self._busy_since
            if since is None or time.monotonic() < since + hanging_s:
                return False
            self._busy_since = None
            return True

    def run(self) -> None:
        send = _open(self._target)
        if send is None:
            self._count(self._target.name, "error")
            _logger.error(
                "The notification target %s is not used: its `url` is none that apprise can use; "
                "`apprise --details` lists them",
                self._target.name,
            )
            return
        while True:
            message = self._next()
            if message is not None:
                self._deliver(send, message)
            with self._changed:
                if self._is_stopping:
                    return

    def _next(self) -> Message | None:
        """Wait until something is to be sent; None when there is nothing and will be nothing."""
        with self._changed:
            while not self._is_stopping:
                deadline = self._digest.deadline
                pause_s = None if deadline is None else deadline - time.monotonic()
                if pause_s is not None and pause_s <= 0:
                    break
                self._changed.wait(pause_s)
            message = self._digest.take(time.monotonic())
            self._busy_since = None if message is None else time.monotonic()
            return message

    def _deliver(self, send: Callable[[Message], bool], message: Message) -> None:
        is_sent = send(message)
        with self._changed:
            self._busy_since = None
            if is_sent:
                self._digest.sent()
            is_kept = not is_sent and self._digest.put_back(time.monotonic())
        self._count(self._target.name, "ok" if is_sent else "error")
        if not is_sent:
            _logger.warning(
                "Could not notify %s of %r; %s. Look at the target with apprise's own command, `apprise -vv`",
                self._target.name,
                message.title,
                "it is tried again" if is_kept else "it is lost",
            )


def _keep_secrets() -> None:
    """Let no record pass that another logger than the controller's makes in a target's thread.

    Only where records are made does one place see all of them, whatever loggers and handlers there are.
    """
    make = logging.getLogRecordFactory()
    if not isinstance(make, _Discretion):
        logging.setLogRecordFactory(_Discretion(make))


class _Discretion:
    """Makes log records; those that are to be kept have a level that is below every handler's."""

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*arguments, **named)
        if isinstance(threading.current_thread(), _Messenger) and record.name != _logger.name:
            record.levelno = logging.NOTSET - 1
        return record


def _open(target: Target) -> Callable[[Message], bool] | None:
    """Return what sends a message to a target and says whether it did; None for an unusable address."""
    import apprise  # noqa: PLC0415 - megabytes of memory, for those only who want notifications

    # Some of its plugins have threads of their own.
    own_log = logging.getLogger("apprise")
    own_log.setLevel(logging.CRITICAL + 1)
    own_log.propagate = False
    asset = apprise.AppriseAsset(
        app_id="vipkeeper",
        app_desc="vipkeeper",
        async_mode=False,
        storage_mode=apprise.PersistentStoreMode.MEMORY,
    )
    door = apprise.Apprise(asset=asset)
    try:
        if not door.add(target.url):
            return None
    except Exception:  # noqa: BLE001 - whatever a plugin makes of an address, it may name the address
        return None

    def send(message: Message) -> bool:
        severity: Any = apprise.NotifyType(message.severity)
        try:
            return bool(
                door.notify(
                    title=message.title,
                    body=message.body,
                    notify_type=severity,
                    body_format=apprise.NotifyFormat.TEXT,
                )
            )
        except Exception:  # noqa: BLE001 - the same; the caller logs that it failed, and counts it
            return False

    return send
