"""Announcer: the door to the raw packet socket, and to the process that builds what it sends.

`prepare` has the frames of addresses built ahead of time (`vipagent.frames`, a short-lived process in
the background) and keeps the bytes; `announce` sends them in the same call, in microseconds, so that
nothing stands between binding an address and telling the network. Each node prepares for every
address it might take. What was built once is in stock (`vipagent.stock`), in memory and in the state
folder: `arm` makes it ready without that process, when a VirtualIP returns and when the keeper does.

The socket receives nothing. It sends through the queueing discipline as any program does, never
with PACKET_QDISC_BYPASS, so a closed fence stops these frames too: that is an ENOBUFS, and like every
failed send it is a lost frame, not an exception.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from vipagent import realtime
from vipagent.disk import FramesUnreadable
from vipagent.readdressing import readdressed
from vipagent.stock import Built, Stock

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from vipagent.disk import Disk
    from vipagent.nodeview import IPAddress, LinkIndex

BUILDER: Final = (sys.executable, "-m", "vipagent.frames")
_BUILD_TIMEOUT_S: Final = 30.0
_SLICE: Final = 200
"""So many addresses are built at a time: what is built stays, however slow the node is."""
_ARP, _IPV6 = 0x0806, 0x86DD
_NOT_KEPT: Final = (OSError, metadata.PackageNotFoundError)

_log = logging.getLogger(__name__)


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
class _Ready:
    built_for: Announced
    built: Built


class Announcer:
    """An open socket and the frames that are ready; made by `Announcer.open`."""

    def __init__(self, raw: socket.socket, builder: tuple[str, ...], disk: Disk | None, stock: Stock) -> None:
        self._socket = raw
        self._builder = builder
        self._disk = disk
        self._stock = stock
        self._is_unsaved = False
        self._ready: dict[tuple[int, IPAddress], _Ready] = {}
        self._macs: Mapping[int, str] = {}

    @classmethod
    def open(cls, builder: tuple[str, ...] = BUILDER, *, disk: Disk | None = None) -> Self:
        """Open the socket; raises OSError (PermissionError without the capability NET_RAW).

        `builder` is the command that builds frames; what an earlier keeper had built comes from the disk.
        """
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: receives nothing
        raw.settimeout(0)
        stock = Stock()
        if disk is not None:
            try:
                stock = Stock(disk.load_frames(maker()))
            except (FramesUnreadable, *_NOT_KEPT) as cause:
                _log.warning("%s", cause)
        return cls(raw, builder, disk, stock)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def prepare(self, wanted: Iterable[Announced], *, keeping: Collection[int] = ()) -> bool:
        """Make ready what is not, and drop what is not wanted any more; to be awaited in the background.

        What is ready for the links of `keeping` stays. Returns whether anything new is ready.

        Raises FramesUnavailable; what was ready before stays ready, and the next call asks again.
        """
        wanted = tuple(wanted)
        keys = {(each.link_index, each.address) for each in wanted}
        self._ready = {key: ready for key, ready in self._ready.items() if key in keys or key[0] in keeping}
        lacking = [each for each in wanted if not self._is_built_for(each)]
        for each in lacking:
            self.arm(each)
        missing = [each for each in lacking if not self._is_built_for(each)]
        if not missing:
            return bool(lacking)
        failures: list[str] = []
        for first in range(0, len(missing), _SLICE):
            failures += await self._build(missing[first : first + _SLICE])
        for each in wanted:
            self._stock.find(each.mac, each.address)  # they are the last that may go
        if failures:
            raise FramesUnavailable("; ".join(failures))
        return True

    async def _build(self, missing: list[Announced]) -> list[str]:
        """Have frames built, and return for what they could not be; raises FramesUnavailable."""
        failures = []
        for each, answer in zip(missing, await _ask(missing, self._builder), strict=True):
            if "error" in answer:
                failures.append(f"no frames for {each.address} ({each.mac}): {answer['error']}")
                continue
            question = answer["question"]
            built = Built(
                each.mac,
                each.address,
                each.gateway,
                frames=tuple(bytes.fromhex(frame) for frame in answer["frames"]),
                probe=bytes.fromhex(answer["probe"]),
                question=None if question is None else bytes.fromhex(question),
            )
            self._ready[each.link_index, each.address] = _Ready(each, built)
            self._put_in_stock(built)
        self.follow(self._macs)  # a link may have got another MAC address while frames were built for it
        return failures

    def follow(self, macs: Mapping[int, str]) -> None:
        """Take over which MAC addresses links have now, by index: what is ready leaves from those."""
        self._macs = macs
        for key, ready in self._ready.items():
            mac = macs.get(ready.built_for.link_index)
            if mac and mac != ready.built_for.mac:
                former = ready.built
                built = replace(
                    former,
                    mac=mac,
                    frames=tuple(readdressed(frame, mac) for frame in former.frames),
                    question=None if former.question is None else readdressed(former.question, mac),
                    probe=readdressed(former.probe, mac),
                )
                self._ready[key] = _Ready(replace(ready.built_for, mac=mac), built)
                self._put_in_stock(built)

    def arm(self, each: Announced) -> None:
        """Make an address ready at once if it is in stock for the link's MAC address.

        What was built for another gateway serves until `prepare` has it built anew, without the question.
        """
        built = self._stock.find(each.mac, each.address)
        if built is None:
            return
        key = each.link_index, each.address
        if built.gateway == each.gateway:
            self._ready[key] = _Ready(each, built)
            return
        ready = self._ready.get(key)
        if each.gateway is None or ready is None or ready.built_for.mac != each.mac:
            without = replace(built, gateway=None, question=None)
            self._ready[key] = _Ready(replace(each, gateway=None), without)

    async def save(self) -> None:
        """Keep on disk what came into stock since the last time; to be awaited in the background.

        What cannot be kept is told; it is ready all the same, and tried again with what is built next.
        """
        if self._disk is None or not self._is_unsaved:
            return
        self._is_unsaved = False
        try:
            await asyncio.to_thread(self._disk.store_frames, self._stock.all, maker())
        except _NOT_KEPT as error:
            _log.warning("Frames cannot be kept on disk (%s): a restarted keeper builds them anew", error)

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

    def probe(self, link_index: int, address: IPAddress) -> None:
        """Ask on a link whether somebody else has an address; nothing without frames that are ready."""
        ready = self._ready.get((link_index, address))
        if ready is not None:
            self._send_frames(ready, (ready.built.probe,))

    def _put_in_stock(self, built: Built) -> None:
        self._is_unsaved = self._stock.keep(built) or self._is_unsaved

    def _is_built_for(self, each: Announced) -> bool:
        ready = self._ready.get((each.link_index, each.address))
        return ready is not None and ready.built_for == each

    def _send(self, ready: _Ready, *, asks_gateway: bool) -> bool:
        frames = ready.built.frames
        if asks_gateway and ready.built.question is not None:
            frames = (*frames, ready.built.question)
        return self._send_frames(ready, frames)

    def _send_frames(self, ready: _Ready, frames: tuple[bytes, ...]) -> bool:
        protocol = _ARP if ready.built_for.address.version == 4 else _IPV6  # noqa: PLR2004 - the IP version
        try:
            name = socket.if_indextoname(ready.built_for.link_index)
            for frame in frames:
                self._socket.sendto(frame, (name, protocol))
        except OSError:
            return False
        return True


@cache
def maker() -> str:
    """Return what tells this builder from others: its program and the version of scapy, as a digest.

    Raises `OSError` or `PackageNotFoundError` where one of them is not there.
    """
    program = Path(__file__).with_name("frames.py").read_bytes()
    scapy = metadata.version("scapy").encode()
    return hashlib.blake2b(program + b"\0" + scapy, digest_size=16).hexdigest()


async def _ask(missing: list[Announced], builder: tuple[str, ...]) -> list[dict[str, Any]]:
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
    try:
        process = realtime.spawn(
            builder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as cause:
        raise FramesUnavailable(f"the process that builds frames cannot be started: {cause}") from cause
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
