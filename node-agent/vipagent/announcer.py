"""Announcer: the door to the raw packet socket, and to the process that builds what it sends.

`prepare` has the frames of addresses built ahead of time (`vipagent.frames`, a short-lived process in
the background) and keeps the bytes; `announce` sends them in the same call, in microseconds, so that
nothing stands between binding an address and telling the network. Each node prepares for every
address it might take.

The socket receives nothing. It sends through the queueing discipline as any program does, never
with PACKET_QDISC_BYPASS, so a closed fence stops these frames too: that is an ENOBUFS, and like every
failed send it is a lost frame, not an exception.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from vipagent import realtime

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.nodeview import IPAddress, LinkIndex

BUILDER: Final = (sys.executable, "-m", "vipagent.frames")
_BUILD_TIMEOUT_S: Final = 30.0
_ARP, _IPV6 = 0x0806, 0x86DD


class FramesUnavailable(Exception):  # noqa: N818 - a failure of the outside, told with its cause
    """The process that builds frames failed; those it was asked for are still missing."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An address on a link, as it is announced; `gateway` is asked once, None if there is none."""

    link_index: LinkIndex
    mac: str
    address: IPAddress
    gateway: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class _Frames:
    built_for: Announced
    protocol: int
    frames: tuple[bytes, ...]
    question: bytes | None


class Announcer:
    """An open socket and the frames that are ready; made by `Announcer.open`."""

    def __init__(self, raw: socket.socket, builder: tuple[str, ...]) -> None:
        self._socket = raw
        self._builder = builder
        self._ready: dict[tuple[int, IPAddress], _Frames] = {}

    @classmethod
    def open(cls, builder: tuple[str, ...] = BUILDER) -> Self:
        """Open the socket; raises OSError (PermissionError without the capability NET_RAW).

        `builder` is the command that builds frames.
        """
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: receives nothing
        raw.settimeout(0)
        return cls(raw, builder)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def prepare(self, wanted: Iterable[Announced]) -> bool:
        """Make ready what is not, and drop what is not wanted any more; to be awaited in the background.

        Returns whether anything new is ready.

        Raises FramesUnavailable; what was ready before stays ready, and the next call asks again.
        """
        wanted = tuple(wanted)
        keys = {(each.link_index, each.address) for each in wanted}
        self._ready = {key: frames for key, frames in self._ready.items() if key in keys}
        missing = [each for each in wanted if not self._is_built_for(each)]
        if not missing:
            return False
        failures = []
        for each, answer in zip(missing, await _build(missing, self._builder), strict=True):
            if "error" in answer:
                failures.append(f"no frames for {each.address} ({each.mac}): {answer['error']}")
                continue
            question = answer["question"]
            self._ready[each.link_index, each.address] = _Frames(
                built_for=each,
                protocol=_ARP if each.address.version == 4 else _IPV6,  # noqa: PLR2004 - the IP version
                frames=tuple(bytes.fromhex(frame) for frame in answer["frames"]),
                question=None if question is None else bytes.fromhex(question),
            )
        if failures:
            raise FramesUnavailable("; ".join(failures))
        return True

    def is_ready(self, link_index: int, address: IPAddress) -> bool:
        """Whether an address can be announced on a link at once."""
        return (link_index, address) in self._ready

    def announce(
        self, link_index: int, addresses: Iterable[IPAddress], *, asks_gateway: bool = False
    ) -> tuple[IPAddress, ...]:
        """Send the frames of addresses now; returns those whose frames are not ready or did not leave."""
        unsent = []
        for address in addresses:
            ready = self._ready.get((link_index, address))
            if ready is None or not self._send(ready, asks_gateway=asks_gateway):
                unsent.append(address)
        return tuple(unsent)

    def _is_built_for(self, each: Announced) -> bool:
        ready = self._ready.get((each.link_index, each.address))
        return ready is not None and ready.built_for == each

    def _send(self, ready: _Frames, *, asks_gateway: bool) -> bool:
        frames = ready.frames
        if asks_gateway and ready.question is not None:
            frames = (*frames, ready.question)
        try:
            name = socket.if_indextoname(ready.built_for.link_index)
            for frame in frames:
                self._socket.sendto(frame, (name, ready.protocol))
        except OSError:
            return False
        return True


async def _build(missing: list[Announced], builder: tuple[str, ...]) -> list[dict[str, Any]]:
    questions = "".join(
        json.dumps(
            {
                "mac": each.mac,
                "address": str(each.address),
                "gateway": None if each.gateway is None else str(each.gateway),
            }
        )
        + "\n"
        for each in missing
    )
    process = realtime.spawn(builder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    answering = asyncio.ensure_future(
        asyncio.to_thread(process.communicate, questions.encode(), timeout=_BUILD_TIMEOUT_S)
    )
    try:
        printed, complaints = await asyncio.shield(answering)
    except subprocess.TimeoutExpired as cause:
        process.kill()
        await asyncio.to_thread(process.communicate)
        raise FramesUnavailable(f"building frames took more than {_BUILD_TIMEOUT_S:.0f} s") from cause
    except asyncio.CancelledError:
        process.kill()
        await asyncio.gather(answering, return_exceptions=True)
        raise
    lines = printed.decode().splitlines()
    if process.returncode or len(lines) != len(missing):
        last = complaints.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise FramesUnavailable(f"the process that builds frames ended with {process.returncode}: {last}")
    return [json.loads(line) for line in lines]
