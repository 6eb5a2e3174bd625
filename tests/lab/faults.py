"""Frames that the segment loses: which, between whom, and how many of them.

The rules stand in the bridge's own packet filter (nftables, bridge family), so the hosts keep their
carrier and can notice nothing but silence. The whole rule set is replaced in one transaction at each
change. A frame from a host to itself never crosses the bridge and is never lost.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import processes
from lab.topology import API_SERVER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.topology import Segment

REMEDY = "the lab's faults need the `nft` command: install your distribution's `nftables` package"
PARTS = 10_000


class NftMissingError(Exception):
    """There is no `nft` on this machine; the message says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Frames from one host to another that are lost; None is any host, `rate` the part that is lost."""

    sender: str | None = None
    receiver: str | None = None
    udp_port: int | None = None
    rate: float = 1.0

    def rule(self) -> str:
        """Return the loss as a rule of nft's language."""
        parts = []
        if self.sender is not None:
            parts.append(f'iifname "{self.sender}"')
        if self.receiver is not None:
            parts.append(f'oifname "{self.receiver}"')
        if self.udp_port is not None:
            parts.append(f"meta l4proto udp udp dport {self.udp_port}")
        if self.rate < 1:
            parts.append(f"numgen random mod {PARTS} < {round(self.rate * PARTS)}")
        return " ".join([*parts, "drop"])


class Faults:
    """The losses in force on one segment."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._losses: list[Loss] = []
        if shutil.which("nft") is None:
            raise NftMissingError(REMEDY)

    def add(self, *losses: Loss) -> None:
        """Put losses in force."""
        self._losses += losses
        self._enforce()

    def remove(self, *losses: Loss) -> None:
        """Lift losses that were put in force."""
        for loss in losses:
            self._losses.remove(loss)
        self._enforce()

    def clear(self) -> None:
        """Lift them all."""
        self._losses.clear()
        self._enforce()

    @contextmanager
    def during(self, *losses: Loss) -> Iterator[None]:
        """Have losses in force within a `with` block."""
        self.add(*losses)
        try:
            yield
        finally:
            self.remove(*losses)

    def _enforce(self) -> None:
        rules = "\n".join(loss.rule() for loss in self._losses)
        chain = f"chain forward {{\ntype filter hook forward priority 0; policy accept;\n{rules}\n}}"
        text = f"table bridge lab\ndelete table bridge lab\ntable bridge lab {{\n{chain}\n}}\n"
        script = self._segment.folder / "faults.nft"
        script.write_text(text)
        nft = processes.start(
            ["nft", "-f", script],
            name="nft",
            network=self._segment.network,
            log=self._segment.folder / "nft.log",
        )
        if nft.wait(20) != 0:
            raise processes.ProcessFailedError(nft, "refused the rules")


def silence(host: str) -> tuple[Loss, ...]:
    """Lose everything from and to a host, which keeps its carrier."""
    return (Loss(sender=host), Loss(receiver=host))


def apart(one: str, *others: str) -> tuple[Loss, ...]:
    """Lose everything between a host and some others, both ways."""
    return tuple(
        loss
        for other in others
        for loss in (Loss(sender=one, receiver=other), Loss(sender=other, receiver=one))
    )


def without_api_server(host: str) -> tuple[Loss, ...]:
    """Lose everything between a host and the API server; its peers and the clients hear it as before."""
    return apart(host, API_SERVER)


def lossy(rate: float, *, udp_port: int | None = None) -> tuple[Loss, ...]:
    """Lose a part of all frames between all hosts."""
    return (Loss(rate=rate, udp_port=udp_port),)
