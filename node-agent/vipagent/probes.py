"""Runs one probe of a health check and says what it found, within a time.

`Probes.run` sends each kind to its door: `probes_http`, `probes_icmp`, `probes_exec`; the two that
need no more than a socket, TCP and link, stand here. Whatever happens becomes a `Result`; only
cancellation goes through. The timeout covers the whole operation, from looking a name up to the last
byte, so a server that sends one byte a second is as dead as one that sends none.

A target given as an address is reached without a thread. A host *name* is looked up by the system's
resolver in asyncio's thread pool, and the time it takes counts; checks that must work while DNS is
away name addresses.

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
from typing import TYPE_CHECKING

from vipagent import probes_http
from vipagent.health import Result
from vipagent.probes_exec import HookRunner
from vipagent.probes_icmp import Echo
from vipapi.healthchecks import ICMP, Exec, HTTPGet, Link, Probe, TCPSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Address, IPv6Address
    from pathlib import Path

_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
_IFF_RUNNING = 0x40


def target(probe: Probe) -> str:
    """Say in a few words what is probed, for messages."""
    match probe:
        case HTTPGet():
            return probes_http.url(probe)
        case TCPSocket():
            return f"{probe.host or '127.0.0.1'} port {probe.port}"
        case ICMP():
            return probe.target
        case Exec():
            return f"hook {probe.hook}"
        case Link():
            return f"interface {probe.interface}"


class Probes:
    """The five probes. `gateways()` returns the node's default gateways as they are now."""

    def __init__(
        self,
        *,
        hooks_dir: Path,
        gateways: Callable[[], Sequence[IPv4Address | IPv6Address]],
    ) -> None:
        self._echo = Echo()
        self._hooks = HookRunner(hooks_dir)
        self._gateways = gateways

    async def run(self, probe: Probe, timeout_s: float) -> Result:
        """Probe once; raises nothing but `CancelledError`."""
        limit = None
        try:
            if isinstance(probe, Exec):
                await self._hooks.ready()
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

    async def _run(self, probe: Probe) -> Result:
        match probe:
            case HTTPGet():
                return await probes_http.get(probe)
            case TCPSocket():
                return await _connect(probe)
            case ICMP():
                return await self._ping(probe)
            case Exec():
                return await self._hooks.run(probe)
            case Link():
                return look(probe.interface)

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


async def _connect(probe: TCPSocket) -> Result:
    _, writer = await asyncio.open_connection(probe.host or "127.0.0.1", probe.port)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Result(is_ok=True)


def look(interface: str) -> Result:
    """Return whether the interface is up and has carrier; raises nothing."""
    request = struct.pack("16sH14x", interface.encode()[:15], 0)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            reply = fcntl.ioctl(asking, _SIOCGIFFLAGS, request)
    except OSError as error:
        return Result(is_ok=False, message=f"interface {interface}: {_said(error)}")
    (flags,) = struct.unpack("16xH14x", reply)
    if not flags & _IFF_UP:
        return Result(is_ok=False, message=f"interface {interface} is down")
    if not flags & _IFF_RUNNING:
        return Result(is_ok=False, message=f"interface {interface} has no carrier")
    return Result(is_ok=True)
