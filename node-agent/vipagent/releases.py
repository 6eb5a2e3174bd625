"""Releases that are under way: repeated until each witness has seen them or Tw has passed (rule 16).

Attempts that are given up in one turn are told in one datagram: who loses two hundred address sets to a rival
would otherwise keep every witness from answering that rival. A few losses are made good soon; after that each
pause is twice as long as the one before, for a witness that says nothing is dead, cut off or too busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND, Send
from vipagent.messages import Release

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

    from vipagent.effects import Effect
    from vipagent.messages import Key

_RETRY_NS: Final = 12 * MILLISECOND
_SOON: Final = 3
_NEVER_NS: Final = 1 << 63


@dataclass(slots=True)
class _Pending:
    number: int
    successor: str | None
    missing: set[str]
    until_ns: int
    next_ns: int
    times: int = 0


class Releases:
    """The newest release of each address set that some witness may not have seen."""

    def __init__(self) -> None:
        self._pending: dict[Key, _Pending] = {}
        self._has_unsent = False

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def has_unsent(self) -> bool:
        """Whether something was added since `due` was asked; what is added now goes with it, in one round."""
        return self._has_unsent

    @property
    def due_ns(self) -> int:
        """When `due` has something to do next."""
        return min((pending.next_ns for pending in self._pending.values()), default=_NEVER_NS)

    def add(
        self,
        key: Key,
        number: int,
        *,
        successor: str | None,
        witnesses: AbstractSet[str],
        now_ns: int,
        until_ns: int,
    ) -> None:
        """Note that an address set is released in the round of that number; it is due at once."""
        self._pending[key] = _Pending(number, successor, set(witnesses), until_ns, now_ns)
        self._has_unsent = True

    def forget(self, key: Key) -> None:
        """The address set is asked for again."""
        self._pending.pop(key, None)

    def seen(self, witness: str, keys: Iterable[Key], number: int) -> None:
        """A witness has seen the release of these address sets in that round."""
        for key in keys:
            pending = self._pending.get(key)
            if pending is None or pending.number != number:
                continue
            pending.missing.discard(witness)
            if not pending.missing:
                del self._pending[key]

    def due(self, now_ns: int) -> list[Effect]:
        """Return what to send now, for the first time or again."""
        self._has_unsent = False
        told: dict[tuple[str, int, str | None], list[Key]] = {}
        for key, pending in list(self._pending.items()):
            if pending.until_ns <= now_ns:
                del self._pending[key]
            elif pending.next_ns <= now_ns:
                pause_ns = _RETRY_NS << max(0, pending.times - _SOON + 1)
                pending.next_ns = min(now_ns + pause_ns, pending.until_ns)
                pending.times += 1
                for witness in sorted(pending.missing):
                    told.setdefault((witness, pending.number, pending.successor), []).append(key)
        return [
            Send(witness, Release(number, first, successor, tuple(others)))
            for (witness, number, successor), (first, *others) in told.items()
        ]
