"""How long a node keeps off a VirtualIP after its services failed there.

    60 s after the first failure, twice as long after each further one, 600 s at the longest

Failures are forgotten when the services have all been active for an hour, and when one that is blamed is
planned otherwise or no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vipagent.effects import MILLISECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipapi.nodeplan import ServicePlan

FIRST_HOLD_OFF_S: Final = 60
LONGEST_HOLD_OFF_S: Final = 600

_SECOND: Final = 1000 * MILLISECOND
_FORGIVEN_AFTER_NS: Final = 3600 * _SECOND


@dataclass(slots=True)
class Trouble:
    """The failures so far; `blamed` are the services, by id, with the generation that failed."""

    failures: int
    blamed: Mapping[str, int]
    message: str

    @property
    def hold_off_s(self) -> int:
        """How long the last of them keeps this node off."""
        return min(FIRST_HOLD_OFF_S << min(self.failures - 1, 10), LONGEST_HOLD_OFF_S)

    @property
    def told(self) -> str:
        """The hold-off, for people."""
        return f"this node is kept off for {self.hold_off_s} s"


class HoldOff:
    """What has failed here, and until when this node is kept off for that."""

    def __init__(self) -> None:
        self._trouble: Trouble | None = None
        self._until_ns: int | None = None
        self._active_since_ns: int | None = None

    @property
    def trouble(self) -> Trouble | None:
        """What this node is kept off for; None while it is not."""
        return None if self._until_ns is None else self._trouble

    @property
    def deadline_ns(self) -> int | None:
        """When `expire` has something to do."""
        if self._until_ns is not None:
            return self._until_ns
        if self._trouble is None or self._active_since_ns is None:
            return None
        return self._active_since_ns + _FORGIVEN_AFTER_NS

    def blame(self, services: Mapping[str, int], message: str, now_ns: int) -> None:
        """These failed, in these generations."""
        failures = 1 + (self._trouble.failures if self._trouble else 0)
        self._trouble = Trouble(failures, services, message)
        self._until_ns = now_ns + self._trouble.hold_off_s * _SECOND
        self._active_since_ns = None

    def assign(self, services: Mapping[str, ServicePlan]) -> None:
        """Take over what is planned, by id: what was corrected is tried at once."""
        if self._trouble is not None and any(
            key not in services or services[key].generation != generation
            for key, generation in self._trouble.blamed.items()
        ):
            self._forget()

    def expire(self, now_ns: int) -> None:
        """Let time pass."""
        if self._until_ns is not None and now_ns >= self._until_ns:
            self._until_ns = None
        if self._active_since_ns is not None and now_ns >= self._active_since_ns + _FORGIVEN_AFTER_NS:
            self._forget()

    def see(self, *, is_active: bool, now_ns: int) -> None:
        """All services are active, or not."""
        if not is_active:
            self._active_since_ns = None
        elif self._active_since_ns is None:
            self._active_since_ns = now_ns

    def _forget(self) -> None:
        self._trouble = self._until_ns = None
