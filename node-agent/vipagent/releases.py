"""Releases that are under way: repeated until each witness has seen them or Tw has passed (rule 16)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND, Send

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from vipagent.effects import Effect
    from vipagent.messages import Key, Release

_RETRY_NS: Final = 12 * MILLISECOND
_NEVER_NS: Final = 1 << 63


@dataclass(slots=True)
class _Pending:
    release: Release
    missing: set[str]
    until_ns: int
    next_ns: int


class Releases:
    """The newest release of each address set that some witness may not have seen."""

    def __init__(self) -> None:
        self._pending: dict[Key, _Pending] = {}

    def __bool__(self) -> bool:
        return bool(self._pending)

    @property
    def due_ns(self) -> int:
        """When `repeat` has something to do next."""
        return min((pending.next_ns for pending in self._pending.values()), default=_NEVER_NS)

    def add(self, release: Release, witnesses: AbstractSet[str], *, now_ns: int, until_ns: int) -> None:
        """Note a release that has just been sent to these witnesses."""
        self._pending[release.key] = _Pending(release, set(witnesses), until_ns, now_ns + _RETRY_NS)

    def forget(self, key: Key) -> None:
        """The address set is asked for again."""
        self._pending.pop(key, None)

    def seen(self, witness: str, key: Key, number: int) -> None:
        """A witness has seen the release of that round."""
        pending = self._pending.get(key)
        if pending is None or pending.release.round != number:
            return
        pending.missing.discard(witness)
        if not pending.missing:
            del self._pending[key]

    def repeat(self, now_ns: int) -> list[Effect]:
        """Return what to send again now."""
        effects: list[Effect] = []
        for key, pending in list(self._pending.items()):
            if pending.until_ns <= now_ns:
                del self._pending[key]
            elif pending.next_ns <= now_ns:
                pending.next_ns = now_ns + _RETRY_NS
                effects += [Send(witness, pending.release) for witness in sorted(pending.missing)]
        return effects
