"""Packetfence: what a packet fence is, whatever it is made of: its verbs, its size and its refusal.

A fence knows addresses, each with a deadline; the kernel lets no packet of a known address pass after its
deadline, by itself. `fence` makes it of BPF, `nftfence` of nftables, and `fences` chooses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vipagent.nodeview import IPAddress

MAX_ADDRESSES: Final = 4096
TOO_MANY: Final = f"more than {MAX_ADDRESSES} addresses. Spread them over more domains"
"""Why a fence refuses an address that it has no room for, and the remedy."""


class FenceRefused(Exception):  # noqa: N818 - an expected refusal with a remedy, not a defect
    """The kernel refused the fence; the message names what is missing and its remedy."""


class PacketFence(ABC):
    """A fence that a keeper holds; as a context manager it is let go of at the end.

    All of it but `release` raises FenceRefused. Not to be used by two threads.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.release()

    @property
    @abstractmethod
    def addresses(self) -> frozenset[IPAddress]:
        """The addresses that the fence knows: all that were closed or admitted and not forgotten."""

    def close(self, addresses: Iterable[IPAddress]) -> None:
        """Close addresses now; when it returns no packet of theirs passes any more."""
        self.admit(addresses, 0)

    @abstractmethod
    def admit(self, addresses: Iterable[IPAddress], deadline_ns: int) -> None:
        """Let addresses pass until a CLOCK_BOOTTIME deadline, and not after it."""

    @abstractmethod
    def forget_all(self, addresses: Iterable[IPAddress]) -> None:
        """Let the kernel treat addresses as none of ours: they pass. Absent ones are fine."""

    @abstractmethod
    def release(self) -> None:
        """Let go of the fence; what is in the kernel goes on with the deadlines it has."""
