"""The door to systemd: units of this node are started, stopped, killed and watched over D-Bus.

    units = Units()
    await units.start("tomcat.service", 60)      # returns once it is active
    await units.change("tomcat.service", known)  # returns when its state is another than the known one
    await units.stop("tomcat.service", 30)       # returns once nothing of it runs

systemd is asked at its own socket (`/run/systemd/private`, as `systemctl` does for root), so that neither
a slow dbus-daemon nor a missing one stands between a service and its end; where that socket is not there,
on the system bus. `DBUS_SYSTEM_BUS_ADDRESS` names another place. A keeper in a container needs one of
the folders `/run/systemd` and `/run/dbus` of the node, the folder and not the socket in it: systemd makes
the socket anew each time it executes itself, as on its own upgrade. That breaks the connection too; it is
made again, and what was waited for is looked at anew.

A call of systemd is only a request: it makes a *job*, and what becomes of that and of the unit comes as
signals. Here a signal (of the unit, of its job, of a reload) is an occasion to look again and nothing
else, but for one fact that systemd tells nowhere else: how a job ended.

A unit *rests* when it is inactive or failed and is not about to start. It is *empty* when it rests and
its control group has no process either, for `KillMode=process` leaves some. `stop` and `kill` end with an
empty unit; both ask systemd to stop it first, which ends a `Restart=always` and a start under way.
Nothing here hinders others from starting it again: a socket, timer or dependency of that unit must not be
enabled.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from dbus_fast import DBusFastError, Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOCKET: Final = "unix:path=/run/systemd/private"
SYSTEM_BUS: Final = "unix:path=/run/dbus/system_bus_socket"

_SYSTEMD: Final = "org.freedesktop.systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_SERVICE: Final = "org.freedesktop.systemd1.Service"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_MANAGER_PATH: Final = "/org/freedesktop/systemd1"
_BUS: Final = "org.freedesktop.DBus"
_BUS_PATH: Final = "/org/freedesktop/DBus"
_FROM_SYSTEMD: Final = f"type='signal',sender='{_SYSTEMD}'"

_CONNECT_S: Final = 2.0
_CALL_S: Final = 5.0
_NUDGE_S: Final = 0.01
_RETURN_S: Final = 3.0
"""How long a systemd that was there before may take to execute itself."""
_KILL_S: Final = 10.0
_LOOK_S: Final = 0.05
"""Between two looks for what no signal tells: the end of a resting unit's processes, a systemd's return."""
_RESULTS: Final = 256
"""How many ends of jobs are kept: that of our own may come before we know its path."""

_LOST: Final = (OSError, EOFError, DBusFastError)
_AWAY: Final = frozenset(
    f"org.freedesktop.DBus.Error.{name}" for name in ("NameHasNoOwner", "NoReply", "ServiceUnknown")
)
_DENIED: Final = frozenset(
    f"org.freedesktop.DBus.Error.{name}" for name in ("AccessDenied", "InteractiveAuthorizationRequired")
)
_NO_SUCH_UNIT: Final = "org.freedesktop.systemd1.NoSuchUnit"
_UNUSABLE: Final = frozenset({"not-found", "masked", "bad-setting", "error"})
_RESTING: Final = frozenset({"inactive", "failed"}) | _UNUSABLE
_HARMLESS_JOBS: Final = ("stop", "nop", "verify-active")

Reason = Literal["NoSystemd", "UnitNotFound", "Refused", "Failed", "TimedOut"]
Ending = Literal["Stopped", "Killed"]


class UnitError(Exception):
    """A unit is not as it was asked to be, or nothing can be known of it; the message says what helps."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _NoSuchUnitError(Exception):
    """systemd has not loaded this unit, or has no file for it."""


@dataclass(frozen=True, slots=True)
class State:
    """What systemd says of a unit.

    `name` is its ActiveState (active, reloading, inactive, failed, activating, deactivating, ...), or of an
    inactive unit that cannot be started its LoadState (not-found, masked, bad-setting, error). `detail` is
    the word of its kind, as running, dead or auto-restart. `is_queued`: it is about to start.
    """

    name: str
    detail: str
    is_queued: bool = False

    @property
    def is_active(self) -> bool:
        """Tell whether it is up."""
        return self.name in ("active", "reloading", "refreshing")

    @property
    def is_resting(self) -> bool:
        """Tell whether it neither runs nor is about to; processes may be left of it (`Units.processes`)."""
        return self.name in _RESTING and not self.is_queued

    def __str__(self) -> str:
        return f"{self.name} ({self.detail})"


@dataclass(frozen=True, slots=True)
class _Look:
    state: State
    name: str
    path: str
    job: str


class Units:
    """The units of this node; connects at the first need, and again when the connection is lost.

    Every verb raises `UnitError`. What is cancelled leaves its unit as it is then.
    """

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        named = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
        self._addresses = tuple(addresses) or ((named,) if named else (SOCKET, SYSTEM_BUS))
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None

    async def start(
        self, unit: str, timeout_s: float, *, on_request: Callable[[bool], None] = lambda _: None
    ) -> None:
        """Start a unit and return once it is active.

        After an error it may still be coming up, or come up again (`Restart=`): `stop` it. `on_request` is
        told whether systemd may have the request: True just before it goes out, False if it is refused.
        """
        try:
            async with asyncio.timeout(timeout_s):
                job = await self._queue_start(unit, on_request)
                look = await self._until(unit, lambda look: look.job != job)
        except TimeoutError as late:
            raise UnitError(
                "TimedOut",
                f"{unit} is {await self.state(unit)} after {timeout_s:g} s: see `journalctl -u {unit}`, "
                "or allow it more time to start",
            ) from late
        if not look.state.is_active:
            raise UnitError("Failed", await self._why_not_active(unit, job, look))

    async def stop(self, unit: str, timeout_s: float) -> Ending:
        """Stop a unit and return once it is empty; what is left of it at the timeout is killed.

        A unit that does not exist is stopped already. With an error it may still run.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._request_stop(unit)
                await self._until_empty(unit)
        except TimeoutError:
            await self.kill(unit)
            return "Killed"
        return "Stopped"

    async def kill(self, unit: str) -> None:
        """Kill every process of a unit (SIGKILL) until it is empty; its `Restart=` does not count.

        With an error, after 10 s at the most, it may still run.
        """
        try:
            async with asyncio.timeout(_KILL_S):
                await self._request_stop(unit)
                while not await self._is_empty(unit):
                    # Again and again, for its ExecStopPost= may start more.
                    with contextlib.suppress(_NoSuchUnitError):
                        await self._call("KillUnit", "ssi", unit, "all", int(signal.SIGKILL))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(2 * _LOOK_S):
                            await self._until_empty(unit)
        except TimeoutError as late:
            left = ", ".join(map(str, await self.processes(unit))) or "none"
            raise UnitError(
                "TimedOut",
                f"{unit} is {await self.state(unit)} {_KILL_S:g} s after it was killed (processes: {left}): "
                "only a restart of the node ends what hangs in the kernel",
            ) from late

    async def state(self, unit: str) -> State:
        """Return what a unit is now."""
        return (await self._look(unit)).state

    async def change(self, unit: str, known: State) -> State:
        """Wait until a unit is something else than what is known of it, and return that."""
        return (await self._until(unit, lambda look: look.state != known)).state

    async def processes(self, unit: str) -> tuple[int, ...]:
        """Return the process ids in a unit's control group, also of one that rests."""
        try:
            [found] = await self._call("GetUnitProcesses", "s", unit)
        except _NoSuchUnitError:
            return ()
        return tuple(pid for _, pid, _ in found)

    async def close(self) -> None:
        """Let the connection go; the units stay as they are."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _queue_start(self, unit: str, on_request: Callable[[bool], None]) -> str:
        """Ask systemd to start a unit, and return the path of the job that it makes of that."""
        requests = 0

        def request() -> None:
            nonlocal requests
            requests += 1
            on_request(True)  # noqa: FBT003 - its only argument

        def refuse() -> None:
            if requests == 1:  # of an earlier one that was not answered nobody knows
                on_request(False)  # noqa: FBT003

        try:
            # `replace`: of two requests that contradict each other the later one counts.
            [job] = await self._call("StartUnit", "ss", unit, "replace", before=request)
        except _NoSuchUnitError as missing:
            refuse()
            raise UnitError(
                "UnitNotFound",
                f"{unit} is not on this node: install its unit file, and run `systemctl daemon-reload`",
            ) from missing
        except UnitError as error:
            if error.reason == "Refused":
                refuse()
            raise
        return str(job)

    async def _request_stop(self, unit: str) -> None:
        look = await self._look(unit)
        if not look.state.is_resting:
            with contextlib.suppress(_NoSuchUnitError):
                await self._call("StopUnit", "ss", unit, "replace")

    async def _until_empty(self, unit: str) -> None:
        await self._until(unit, lambda look: look.state.is_resting)
        while not await self._is_empty(unit):  # noqa: ASYNC110  # nothing tells of the processes' end
            await asyncio.sleep(_LOOK_S)

    async def _is_empty(self, unit: str) -> bool:
        return (await self._look(unit)).state.is_resting and not await self.processes(unit)

    async def _why_not_active(self, unit: str, job: str, look: _Look) -> str:
        """Say why a unit is not active although its start is over."""
        result = self._connection.results.get(job) if self._connection is not None else None
        if result == "dependency":
            return f"{unit}: a unit that it needs did not start: see `systemctl list-dependencies {unit}`"
        if result == "canceled":
            return f"{unit} was not started: somebody on the node asked for the contrary meanwhile"
        journal = f"see `journalctl -u {unit}`"
        why = await self._service_result(look.path)
        if why == "start-limit-hit":
            return (
                f"{unit} was started too often (StartLimitBurst=): {journal}, and then run "
                f"`systemctl reset-failed {unit}`"
            )
        if why == "success" and look.state.name == "inactive":
            return (
                f"{unit} ended at once, without an error: its Condition...= must hold, and one of "
                f"Type=oneshot needs RemainAfterExit=yes; {journal}"
            )
        return f"{unit} did not start, it is {look.state}: {why}; {journal}"

    async def _service_result(self, path: str) -> str:
        """Return systemd's word for how a service ended last, and its exit status."""
        get = functools.partial(self._call, "Get", "ss", _SERVICE, path=path, interface=_PROPERTIES)
        [result] = await get("Result")
        if result.value != "exit-code":
            return str(result.value)
        [status] = await get("ExecMainStatus")
        return f"exit status {status.value}"

    async def _until(self, unit: str, is_it: Callable[[_Look], bool]) -> _Look:
        """Look at a unit, now and after every sign of a change, until it is as wanted."""
        while True:
            connection = await self._connected()
            with connection.listening() as ear:
                while connection.is_open:
                    look = await self._look(unit)
                    if is_it(look):
                        return look
                    ear.subjects = {look.name, look.path}
                    await ear.wait()

    async def _look(self, unit: str) -> _Look:
        [found] = await self._call("ListUnitsByNames", "as", [unit])
        if not found:
            raise UnitError("Refused", f"{unit!r} is not the name of a unit, such as tomcat.service")
        [(name, _, load, active, sub, _, path, number, job_type, job)] = found
        word = load if active == "inactive" and load in _UNUSABLE else active
        is_queued = number != 0 and job_type not in _HARMLESS_JOBS
        return _Look(State(word, sub, is_queued), name, path, job)

    async def _call(
        self,
        member: str,
        signature: str,
        *body: object,
        path: str = _MANAGER_PATH,
        interface: str = _MANAGER,
        before: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Call a method of systemd; raises `_NoSuchUnitError` for what is not loaded or has no file.

        `before` is called each time just before the call goes out.
        """
        question = _Question(path, interface, member, signature, body)
        connection = await self._connected()
        try:
            before()
            reply = await connection.ask(question)
        except _LOST:
            # It went away meanwhile, as it does to execute itself. Each of our calls may be made twice.
            connection = await self._connected()
            before()
            try:
                reply = await connection.ask(question)
            except _LOST as lost:
                raise UnitError(
                    "NoSystemd", f"systemd does not answer at {connection.address}: {lost}"
                ) from lost
        if reply.message_type is not MessageType.ERROR:
            return list(reply.body)
        if reply.error_name == _NO_SUCH_UNIT:
            raise _NoSuchUnitError
        said = str(reply.body[0]) if reply.body else str(reply.error_name)
        if reply.error_name in _DENIED:
            said = f"{said} (the keeper must be root of the node)"
        raise UnitError("Refused", f"systemd refuses {member} of {body[0]}: {said}")

    async def _connected(self) -> _Connection:
        async with self._connecting:
            if self._connection is not None and self._connection.is_open:
                return self._connection
            now = asyncio.get_running_loop().time
            deadline = now() + (_RETURN_S if self._connection is not None else 0)
            while True:
                try:
                    self._connection = await self._connect()
                except UnitError:
                    if now() >= deadline:
                        self._connection = None
                        raise
                    await asyncio.sleep(_LOOK_S)
                else:
                    return self._connection

    async def _connect(self) -> _Connection:
        refusals = []
        for address in self._addresses:
            connection = _Connection(address)
            try:
                await connection.open()
            except _LOST as refusal:
                refusals.append(f"{address}: {str(refusal) or type(refusal).__name__}")
            else:
                return connection
        raise UnitError(
            "NoSystemd",
            f"no systemd can be reached ({'; '.join(refusals)}): mount the node's folder /run/systemd or "
            "/run/dbus into the keeper, at the same place, and run the keeper as the node's root",
        )


@dataclass(frozen=True, slots=True)
class _Question:
    path: str
    interface: str
    member: str
    signature: str = ""
    body: tuple[object, ...] = ()
    destination: str = _SYSTEMD


class _Ear:
    """What one who waits for a change listens to: until `subjects` are known, everything."""

    def __init__(self) -> None:
        self.subjects: set[str] = set()
        self._has_heard = asyncio.Event()

    def hear(self, subjects: set[str]) -> None:
        """Take in of which units, as names or paths, something was said; of all, where it names none."""
        if not self.subjects or not subjects or self.subjects & subjects:
            self._has_heard.set()

    async def wait(self) -> None:
        """Wait for something that was said since the last wait."""
        await self._has_heard.wait()
        self._has_heard.clear()


class _Bus(MessageBus):
    """A bus, or the other end of systemd's own socket, which is asked the same way but for the beginning.

    systemd leaves a first message lying that it reads together with the end of the authentication, until
    more comes (seen with 252). So until it has answered, more comes.
    """

    is_authenticated = False

    async def nudge(self) -> None:
        """Go on sending what needs no answer; to be cancelled when there is one."""
        with contextlib.suppress(OSError):
            while True:
                await asyncio.sleep(_NUDGE_S)
                if self.is_authenticated and self._sock is not None:
                    self._sock.send(_NUDGE)

    async def _authenticate(self) -> None:
        await super()._authenticate()
        self.is_authenticated = True


_NUDGE: Final = bytes(
    Message(  # noqa: SLF001  # what sends it is the library's connection, before that would send messages
        destination=_SYSTEMD,
        path=_MANAGER_PATH,
        interface="org.freedesktop.DBus.Peer",
        member="Ping",
        flags=MessageFlag.NO_REPLY_EXPECTED,
        serial=2**32 - 1,
    )._marshall(False)  # noqa: FBT003
)


class _Connection:
    """One connection to systemd, direct or through a bus; once lost it stays so."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.results: dict[str, str] = {}
        self._bus = _Bus(bus_address=address)
        self._bus.add_message_handler(self._take)
        self._is_direct = False
        self._ears: set[_Ear] = set()
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        return self._bus.connected

    async def open(self) -> None:
        """Connect; raises one of `_LOST`."""
        async with asyncio.timeout(_CONNECT_S):
            nudging = asyncio.create_task(self._bus.nudge())
            try:
                await self._bus.connect()
            finally:
                nudging.cancel()
            self._ending = asyncio.create_task(self._end())
            try:
                if not self._is_direct:
                    match = _Question(_BUS_PATH, _BUS, "AddMatch", "s", (_FROM_SYSTEMD,), _BUS)
                    await self.ask(match)
                await self.ask(_Question(_MANAGER_PATH, _MANAGER, "Subscribe"))
            except BaseException:
                self._bus.disconnect()
                raise

    async def close(self) -> None:
        """Disconnect, and wait until nothing of the connection is left."""
        self._bus.disconnect()
        if self._ending is not None:
            await self._ending

    async def ask(self, question: _Question) -> Message:
        """Return the reply, which may be an error; raises one of `_LOST`."""
        message = Message(
            destination=question.destination,
            path=question.path,
            interface=question.interface,
            member=question.member,
            signature=question.signature,
            body=list(question.body),
        )
        try:
            async with asyncio.timeout(_CALL_S):
                reply = await self._bus.call(message)
        except TimeoutError as silence:
            self._bus.disconnect()
            raise TimeoutError(f"no answer within {_CALL_S:g} s") from silence
        if reply.error_name in _AWAY:
            self._bus.disconnect()
            raise ConnectionResetError(*reply.body)
        return reply

    @contextlib.contextmanager
    def listening(self) -> Iterator[_Ear]:
        """Have signals told, and the loss of the connection too."""
        ear = _Ear()
        self._ears.add(ear)
        try:
            yield ear
        finally:
            self._ears.remove(ear)

    async def _end(self) -> None:
        with contextlib.suppress(*_LOST):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._tell(set())

    def _take(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL:
            self._take_signal(message)
        elif self._bus.unique_name is None and message.message_type is MessageType.ERROR:
            # Only a bus gives names; systemd itself knows no Hello, and dbus-fast insists on an answer to it.
            self._is_direct = True
            message.message_type = MessageType.METHOD_RETURN
            message.error_name = None
            message.body = [_SYSTEMD]

    def _take_signal(self, message: Message) -> None:
        if message.member == "JobRemoved":
            _, job, _, result = message.body
            self.results[job] = result
            if len(self.results) > _RESULTS:
                del self.results[next(iter(self.results))]
        if message.interface == _PROPERTIES:
            self._tell({message.path or ""})
        else:
            self._tell({part for part in message.body if isinstance(part, str)})

    def _tell(self, subjects: set[str]) -> None:
        for ear in self._ears:
            ear.hear(subjects)
