"""The sockets of the heartbeats: one for each address and port that a domain uses, shared between domains.

What is wanted is said again and again (`keep`): an address may come later than its domain, or go away.
A socket that cannot be opened is tried again each time; why not is logged once, and is a problem in the
report until it can.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from vipagent.wire import Wire
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vipagent.access import Place

_DATAGRAMS_PER_WAKE: Final = 64

_log = logging.getLogger(__name__)


class Wires:
    """The open sockets, and which domain sends through which; used inside a running event loop.

    `take` is given each datagram that arrives, and `rest` is called when those of one wake are taken.
    """

    def __init__(self, take: Callable[[bytes], None], rest: Callable[[], None]) -> None:
        self._take = take
        self._rest = rest
        self._loop = asyncio.get_running_loop()
        self._open: dict[Place, Wire] = {}
        self._by_domain: dict[str, Wire] = {}
        self._problems: dict[Place, Problem] = {}

    def keep(self, wanted: Mapping[str, Place]) -> None:
        """Have exactly the sockets open that domains, by their UIDs, want; those that can be opened."""
        self._by_domain = {}
        places = set(wanted.values())
        self._problems = {place: problem for place, problem in self._problems.items() if place in places}
        for place in set(self._open) - places:
            wire = self._open.pop(place)
            self._loop.remove_reader(wire.fileno())
            wire.close()
        for uid, place in wanted.items():
            wire_or_none = self._open.get(place) or self._connect(place)
            if wire_or_none is not None:
                self._by_domain[uid] = wire_or_none

    def send(self, domain_uid: str, to: str, datagram: bytes) -> bool:
        """Send for a domain; False for a datagram that is lost already."""
        wire = self._by_domain.get(domain_uid)
        return wire is not None and wire.send(to, datagram)

    def is_open(self, domain_uid: str) -> bool:
        """Whether a domain has a socket."""
        return domain_uid in self._by_domain

    def problems(self) -> tuple[Problem, ...]:
        """Why sockets that are wanted are not there."""
        return tuple(self._problems.values())

    def _connect(self, place: Place) -> Wire | None:
        try:
            wire = Wire(*place)
        except OSError as error:
            self._note(place, error.strerror or str(error))
            return None
        self._problems.pop(place, None)
        self._open[place] = wire
        self._loop.add_reader(wire.fileno(), self._read, wire)
        return wire

    def _note(self, place: Place, why: str) -> None:
        problem = Problem(
            "HeartbeatRefused",
            f"heartbeats cannot use {place.address} port {place.port} ({why}): where another program has it "
            "(ss -ulpn on the node tells), end that, or make the domain anew with another heartbeat.port",
        )
        if problem != self._problems.get(place):
            _log.warning("%s", problem.message)
        self._problems[place] = problem

    def _read(self, wire: Wire) -> None:
        wire.receive(self._take, at_most=_DATAGRAMS_PER_WAKE)
        self._rest()
