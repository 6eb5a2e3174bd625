"""What a target is, and the choices that one makes by its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

_AT: Final = (0, 1 << 8, 1 << 16, 1 << 31, 1 << 32, 1 << 53, 1 << 62, 1 << 63)
_EDGES: Final = tuple(edge + by for edge in _AT for by in (-1, 0, 1))


@dataclass(frozen=True, slots=True)
class Target:
    """One surface. `run` returns for whatever bytes, or raises where the code has broken its promise.

    `seeds` are inputs from which others are made; those that once broke something are among them.
    """

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


class Choices:
    """Bytes read as choices, from the first on; when they are over every choice is the first one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def are_over(self) -> bool:
        """Whether there is nothing left to choose by."""
        return self._at >= len(self._data)

    def octets(self, count: int) -> bytes:
        """Return the next bytes, fewer at the end."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.octets(len(self._data))

    def below(self, count: int) -> int:
        """Return a number from 0 to `count` - 1; `count` is at most 256."""
        return int.from_bytes(self.octets(1)) % count

    def pick(self, among: Sequence[T]) -> T:
        """Return one of a few."""
        return among[self.below(len(among))]

    def subset(self, among: Sequence[T]) -> list[T]:
        """Return some of a few."""
        bits = int.from_bytes(self.octets(1))
        return [each for at, each in enumerate(among) if bits >> at & 1]

    def number(self, around: Sequence[int] = (0,)) -> int:
        """Return a number of 64 bits, signed or not: mostly near one of those, or near an edge."""
        kind = self.below(8)
        if kind < 5:
            return self.pick(around) + self.below(7) - 3
        if kind < 7:
            return self.pick(_EDGES)
        return int.from_bytes(self.octets(8), signed=self.below(2) == 1)

    def text(self) -> str:
        """Return a short text, or a very long one."""
        if self.below(16) == 15:
            return "x" * (1 << 8 + self.below(9))
        return self.octets(self.below(12)).decode("latin-1")
