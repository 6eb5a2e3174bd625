"""The door through which a process is asked for its health: a thread that serves a TCP port.

The thread is not the one that is asked about, so that a loop that hangs is told of as well. It must cost
that loop nothing, whoever connects and whatever they send:

- one thread serves all, at most `MOST` connections; another one closes the oldest, so that who only
  connects keeps no probe out, which says all it has to say at once;
- who has not asked within `PATIENCE_S` is closed, and nobody may send more than a request is long;
- the loop is asked at most every `FRESH_S`, and the thread rests for `REST_S` after each round.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Final, Self

from viphealth.conversation import LONGEST_REQUEST, Health, answer, is_whole

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

MOST: Final = 32
PATIENCE_S: Final = 5.0
FRESH_S: Final = 0.1
REST_S: Final = 0.01
TURN_S: Final = 2.0
_ENDED: Final = Health(sick="the event loop has ended")

_log = logging.getLogger(__name__)


class CannotServeHealth(Exception):  # noqa: N818 - reads as what it says
    """The port cannot be had; the message says why, and what to do."""


def serve(place: tuple[str, int], ask: Callable[[], Health]) -> HealthServer:
    """Serve what `ask` answers, which is called in the server's thread; raises `CannotServeHealth`."""
    address, port = place
    is_ipv6 = ":" in address
    try:
        listener = socket.create_server(
            place,
            family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
            backlog=MOST,
            dualstack_ipv6=address == "::" and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise CannotServeHealth(
            f"the health endpoints cannot be served at {address} port {port}: {why}: "
            "give --health another address or port"
        ) from error
    listener.settimeout(0)
    return HealthServer(listener, ask)


def of_loop(loop: asyncio.AbstractEventLoop, look: Callable[[], Health]) -> LoopQuestion:
    """Return what asks an event loop: `look` is called in it, and a loop that does not call it is sick."""
    return LoopQuestion(loop, look)


class LoopQuestion:
    """Asks an event loop; one thread at a time may do so."""

    def __init__(self, loop: asyncio.AbstractEventLoop, look: Callable[[], Health]) -> None:
        self._loop = loop
        self._look = look
        self._told: Future[Health] = Future()
        self._is_over = False

    def __call__(self) -> Health:
        """Ask, for `TURN_S` at most."""
        told = self._told = Future()
        if self._is_over:
            return _ENDED
        try:
            self._loop.call_soon_threadsafe(self._tell, told)
        except RuntimeError:
            return _ENDED
        try:
            return told.result(TURN_S)
        except CancelledError:
            return _ENDED
        except TimeoutError:
            told.cancel()
            return Health(sick=f"the event loop has not turned for {TURN_S:.0f} s")

    def give_up(self) -> None:
        """Answer who waits at once: said by the loop's own thread, which waits for that one to end."""
        self._is_over = True
        self._told.cancel()

    def _tell(self, told: Future[Health]) -> None:
        if told.set_running_or_notify_cancel():
            try:
                told.set_result(self._look())
            except Exception as error:  # noqa: BLE001 - who asks is told; the loop has other things to do
                told.set_exception(error)


class HealthServer:
    """The thread and its connections, oldest first; used as a context, it ends with it."""

    def __init__(self, listener: socket.socket, ask: Callable[[], Health]) -> None:
        self._listener = listener
        self._waking, self._woken = socket.socketpair()
        self._ask = ask
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._heard: dict[socket.socket, tuple[float, bytes]] = {}
        self._health = Health()
        self._asked_at = float("-inf")
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_serving, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._is_stopping.set()
        self._waking.close()
        if isinstance(self._ask, LoopQuestion):
            self._ask.give_up()
        self._thread.join(TURN_S)

    def _keep_serving(self) -> None:
        while not self._is_stopping.is_set():
            try:
                self._serve_once()
            except Exception:  # noqa: BLE001 - whatever came over the wire, others are answered
                _log.exception("The health endpoints broke and go on")
            self._is_stopping.wait(REST_S)
        for connection in list(self._heard):
            self._close(connection)
        self._selector.close()
        self._woken.close()
        self._listener.close()

    def _serve_once(self) -> None:
        oldest_at = next((at for at, _ in self._heard.values()), None)
        timeout_s = None if oldest_at is None else max(0.0, oldest_at + PATIENCE_S - time.monotonic())
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj in self._heard:
                assert isinstance(key.fileobj, socket.socket)
                self._listen_to(key.fileobj)
        now = time.monotonic()
        for connection, (at, _) in list(self._heard.items()):
            if now >= at + PATIENCE_S:
                self._close(connection)

    def _accept(self) -> None:
        for _ in range(MOST):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # no more of them, or no more file descriptors
                return
            connection.settimeout(0)
            if len(self._heard) >= MOST:
                self._close(next(iter(self._heard)))
            self._heard[connection] = (time.monotonic(), b"")
            self._selector.register(connection, selectors.EVENT_READ)
            self._listen_to(connection)

    def _listen_to(self, connection: socket.socket) -> None:
        at, heard = self._heard[connection]
        try:
            said = connection.recv(LONGEST_REQUEST + 1)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        heard += said
        self._heard[connection] = (at, heard)
        if said and not is_whole(heard):
            return
        if said:
            with contextlib.suppress(OSError):
                connection.send(answer(heard, self._ask_once()))
        self._close(connection)

    def _ask_once(self) -> Health:
        if time.monotonic() >= self._asked_at + FRESH_S:
            try:
                self._health = self._ask()
            except Exception as error:  # noqa: BLE001 - that it broke is the answer
                _log.exception("This process cannot say how it is")
                self._health = Health(sick=f"it cannot say how it is: {type(error).__name__}: {error}")
            self._asked_at = time.monotonic()
        return self._health

    def _close(self, connection: socket.socket) -> None:
        del self._heard[connection]
        self._selector.unregister(connection)
        connection.close()
