"""Runs one probe of a health check and says what it found, within a time.

`Probes.run` sends each kind to its door: `probes_http`, `probes_grpc`, `probes_icmp`, `probes_exec`,
`probes_processes`, `probes_files`, `probes_units`; connections are `probes_names`'. Pods are looked up in
what the courier told (`probes_pods`); the two that need no more than a socket, TCP and link, stand here.
Whatever happens becomes a `Result`; only cancellation goes through. The timeout covers the whole operation,
from looking a name up to the last byte, so a server that sends one byte a second is as dead as one that
sends none.

A target given as an address is reached without a thread. A host *name* is looked up by the node's
resolver in a thread of its own, and the time it takes counts; checks that must work while DNS is
away name addresses.

Libraries that few nodes need (HTTP/2, D-Bus) are imported in a thread when the first check asks for one, and
before its time runs: a keeper's loop that stands still renews nothing.

The link probe asks by ioctl, not by reading /sys: an ioctl answers for the network namespace of the
process, takes no lock that a busy kernel could hold, and copies 40 bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from vipagent import probes_http, probes_pods
from vipagent.health import Result
from vipagent.probes_exec import HookRunner
from vipagent.probes_files import Files
from vipagent.probes_icmp import Echo
from vipagent.probes_names import Names
from vipagent.probes_processes import Processes
from vipagent.probes_threads import Threads
from vipagent.probes_tls import Authorities
from vipagent.probes_units import UnitLooks
from vipapi.healthchecks import (
    GRPC,
    ICMP,
    Exec,
    File,
    HTTPGet,
    Link,
    Pods,
    Probe,
    Process,
    SystemdUnit,
    TCPSocket,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from vipapi.nodeplan import PodsFact

    CheckGRPC = Callable[[GRPC, Names], Awaitable[Result]]

_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
_IFF_RUNNING = 0x40


def target(probe: Probe) -> str:  # noqa: PLR0911 - one word for each kind
    """Say in a few words what is probed, for messages."""
    match probe:
        case HTTPGet():
            return probes_http.url(probe)
        case TCPSocket() | GRPC():
            return f"{probe.host or '127.0.0.1'} port {probe.port}"
        case ICMP():
            return probe.target
        case Exec():
            return f"hook {probe.hook}"
        case Link():
            return f"interface {probe.interface}"
        case Process():
            return f"process {probe.executable}"
        case File():
            return f"file {probe.path}"
        case SystemdUnit():
            return f"unit {probe.unit}"
        case Pods():
            return f"pods {probes_pods.title(probe)}"


class Probes:
    """All kinds of probes.

    `gateways()` returns the node's default gateways as they are now, `facts()` what the courier told of Pods.
    """

    def __init__(
        self,
        *,
        hooks_dir: Path,
        gateways: Callable[[], Sequence[IPv4Address | IPv6Address]],
        facts: Callable[[], Iterable[PodsFact]] = tuple,
        proc: Path = Path("/proc"),
        units: UnitLooks | None = None,
        closed: Iterable[Path] = (),
        names: Names | None = None,
        authorities: Authorities | None = None,
    ) -> None:
        """`closed`: folders that no `file` check may look into, besides those that are always closed."""
        self._echo = Echo()
        self._hooks = HookRunner(hooks_dir)
        self._gateways = gateways
        self._facts = facts
        self._files = Files(closed)
        self._names = names or Names()
        self._authorities = authorities or Authorities()
        self._processes = Processes(proc)
        self._units = units or UnitLooks()
        self._imports: Threads[CheckGRPC] = Threads(1)
        self._check_grpc: CheckGRPC | None = None

    async def run(self, probe: Probe, timeout_s: float) -> Result:
        """Probe once; raises nothing but `CancelledError`."""
        limit = None
        try:
            await self._ready(probe)
            async with asyncio.timeout(timeout_s) as limit:
                return await self._run(probe)
        except TimeoutError as error:
            if limit is not None and limit.expired():
                return Result(is_ok=False, message=_too_late(probe, timeout_s))
            return Result(is_ok=False, message=f"{target(probe)}: {_said(error)}")
        except OSError as error:
            return Result(is_ok=False, message=f"{target(probe)}: {_said(error)}")
        except Exception as error:  # noqa: BLE001 - a health check's odd answer must not end the keeper
            return Result(is_ok=False, message=f"{target(probe)}: {type(error).__name__}: {error}")

    async def close(self) -> None:
        """Close the sockets and end the hooks that run."""
        self._echo.close()
        await self._hooks.close()
        await self._units.close()

    async def _ready(self, probe: Probe) -> None:
        """Have what a kind of probe needs once, and what is not its target's fault."""
        match probe:
            case Exec():
                await self._hooks.ready()
            case SystemdUnit():
                await self._units.ready()
            case GRPC() if self._check_grpc is None:
                self._check_grpc = await self._imports.run("h2", _import_grpc)

    async def _run(self, probe: Probe) -> Result:  # noqa: C901, PLR0911 - one for each kind
        match probe:
            case HTTPGet():
                return await probes_http.get(probe, self._names, self._authorities)
            case TCPSocket():
                return await self._connect(probe)
            case ICMP():
                return await self._ping(probe)
            case Exec():
                return await self._hooks.run(probe)
            case Link():
                return look(probe.interface)
            case GRPC():
                assert self._check_grpc is not None
                return await self._check_grpc(probe, self._names)
            case Process():
                return await self._processes.look(probe)
            case File():
                return await self._files.look(probe)
            case SystemdUnit():
                return await self._units.look(probe)
            case Pods():
                return probes_pods.look_up(probe, self._facts())

    async def _connect(self, probe: TCPSocket) -> Result:
        _, writer = await self._names.connect(probe.host or "127.0.0.1", probe.port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Result(is_ok=True)

    async def _ping(self, probe: ICMP) -> Result:
        if probe.target != "gateway":
            return await self._echo.ping([probe.target])
        gateways = [str(gateway) for gateway in self._gateways()]
        if not gateways:
            return Result(is_ok=False, message="the node has no default gateway")
        return await self._echo.ping(gateways)


def _too_late(probe: Probe, timeout_s: float) -> str:
    time = f"within {timeout_s * 1000:.0f} ms"
    if isinstance(probe, Exec):
        return f"{target(probe)} did not end {time} and was killed"
    return f"{target(probe)}: no answer {time}"


def _said(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"the name is not known to the node's resolver ({error.strerror})"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _import_grpc() -> CheckGRPC:
    from vipagent.probes_grpc import check  # noqa: PLC0415 - see above

    return check


def look(interface: str) -> Result:
    """Return whether the interface is up and has carrier; raises nothing."""
    request = struct.pack("16sH22x", interface.encode()[:15], 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            reply = fcntl.ioctl(asking, _SIOCGIFFLAGS, request)
    except OSError as error:
        return Result(is_ok=False, message=f"interface {interface}: {_said(error)}")
    (flags,) = struct.unpack("16xH22x", reply)
    if not flags & _IFF_UP:
        return Result(is_ok=False, message=f"interface {interface} is down")
    if not flags & _IFF_RUNNING:
        return Result(is_ok=False, message=f"interface {interface} has no carrier")
    return Result(is_ok=True)
