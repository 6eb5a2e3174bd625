"""Carriers: which interfaces lose and find their carrier too often for an address to follow.

An owner whose interface goes down hands over at once, and with `failback: Automatic` it gets its addresses
back. A cable that is loose would carry them to and fro. So the carrier of each interface that could carry
an address is judged like a required check of the link, with the damping of `vipagent.health` (4): from the
third fall within ten minutes on, a node whose interface has not been up for long enough is fit, but comes
after every other candidate; where there is none it goes on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vipagent import health
from vipagent.nodeview import Refusal
from vipapi.healthchecks import Link

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from vipagent import nodeview

_UP: Final = health.Result(is_ok=True)
_DOWN: Final = health.Result(is_ok=False)


class Carriers:
    """What is known of each carrier, by the interface's name: one that is made anew is the same."""

    def __init__(self, *, epoch_s: float) -> None:
        """`epoch_s` is the time since 1970 when `now_s` was 0."""
        self._epoch_s = epoch_s
        self._standings: dict[str, health.Standing] = {}

    def see(self, links: Iterable[nodeview.Link], carrying: Collection[str], now_s: float) -> None:
        """Take over a look; `carrying` names the interfaces that would carry addresses now."""
        up = {link.name for link in links if link.is_up}
        seen = {
            name: health.receive(
                self._standings.get(name, health.Standing()),
                _definition(name),
                _UP if name in up else _DOWN,
                now=now_s,
                epoch_s=self._epoch_s,
            )
            for name in {*carrying, *self._standings}
        }
        self._standings = {
            name: standing
            for name, standing in seen.items()
            if name in carrying or (standing.falls and now_s - standing.falls[-1] < health.FORGIVEN_S)
        }

    def doubt(self, name: str) -> Refusal | None:
        """Why an address had better not be on this interface; None if nothing speaks against it."""
        standing = self._standings.get(name)
        if standing is None or not standing.is_damped:
            return None
        return Refusal("InterfaceDamped", f"the carrier of {name}: {standing.message}")


def _definition(name: str) -> health.Definition:
    return health.Definition(Link(interface=name), period_ms=0, timeout_ms=0, rise=1, fall=1)
