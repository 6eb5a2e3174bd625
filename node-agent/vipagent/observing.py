"""Observing and being observed: joins `vipagent.observations` with the lease, the checks and the wire.

A look at each VirtualIP every `LOOK_S` says what is due and tells the keeper what has changed; it decides
nothing.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from vipagent import observations
from vipagent.effects import Send
from vipagent.messages import Observation, Observe
from vipagent.observations import SAY_S, Dispute, Watches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet

    from vipagent.effects import Observed
    from vipagent.health import Fitness, Subject
    from vipagent.messages import Key, OfPeers
    from vipagent.nodeview import Refusal
    from vipagent.seats import Seated, Seats
    from vipagent.standing import Standing
    from vipapi.nodeplan import VirtualIPPlan
    from vipapi.nodestatus import CheckStatus

LOOK_S: Final = 0.2
_A_TURN: Final = 50


class Held(NamedTuple):
    """An address set that this node holds."""

    term: int
    is_announced: bool


class Observing:
    """The checks of `observedFrom: Peers`, of all VirtualIPs of this node.

    `held` is asked with an address set's key. `on_subjects` is called when something else is to be probed,
    `on_change` when an obstacle or a result has changed.
    """

    def __init__(
        self,
        *,
        node: str,
        incarnation: int,
        seats: Seats,
        held: Callable[[Key], Held | None],
        active: Callable[[], AbstractSet[str]],
        fitness: Callable[[str], Fitness | None],
        send: Callable[[Seated, Send], None],
        on_subjects: Callable[[], None],
        on_change: Callable[[], None],
    ) -> None:
        self._node = node
        self._incarnation = incarnation
        self._seats = seats
        self._held = held
        self._active = active
        self._fitness = fitness
        self._send = send
        self._on_subjects = on_subjects
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._vips: dict[str, VirtualIPPlan] = {}
        self._names: dict[str, dict[bytes, str]] = {}
        self._watches = Watches()
        self._disputes: dict[str, Dispute] = {}
        self._said: dict[str, tuple[float, OfPeers]] = {}
        self._subjects: tuple[Subject, ...] = ()
        self._seen: dict[str, tuple[CheckStatus, ...]] = {}
        self._shape: object = ({}, {})

    async def run(self) -> None:
        """Look again and again, with turns for the rest of the loop in between."""
        while True:
            active = self._active()
            for count, vip in enumerate(tuple(self._vips.values()), 1):
                self._look(vip, is_active=vip.uid in active)
                if count % _A_TURN == 0:
                    await asyncio.sleep(0)
            self._tell()
            await asyncio.sleep(LOOK_S)

    def assign(self, vips: Iterable[VirtualIPPlan]) -> None:
        """Take over the planned VirtualIPs."""
        self._vips = {
            vip.uid: vip for vip in vips if observations.is_observed(vip) and self._node in _candidates(vip)
        }
        for uid in self._disputes.keys() - self._vips.keys():
            del self._disputes[uid]
            self._watches.forget(uid)
        for uid in self._vips.keys() - self._disputes.keys():
            self._disputes[uid] = Dispute()
        self._names = {uid: observations.names(vip) for uid, vip in self._vips.items()}
        self._said = {uid: said for uid, said in self._said.items() if uid in self._vips}
        self._seen = {uid: seen for uid, seen in self._seen.items() if uid in self._vips}
        self._note_subjects()

    def hear(self, seated: Seated, heard: Observed) -> None:
        """Take note of what another candidate of the VirtualIP says."""
        vip = seated.seat.vip(heard.said.key)
        if vip is None or vip.uid not in self._vips or heard.node not in _candidates(vip):
            return
        now = self._loop.time()
        if isinstance(heard.said, Observation):
            self._disputes[vip.uid].hear(heard.node, heard.said, now)
        elif self._held(heard.said.key) is None:
            self._watches.hear(vip.uid, heard.node, heard.said, now)
            self._disputes[vip.uid].see_owner(now)

    def subjects(self) -> tuple[Subject, ...]:
        """Return what is probed of other owners."""
        return self._subjects

    def obstacle(self, uid: str) -> Refusal | None:
        """Why this node is to keep off a VirtualIP for what its peers say."""
        dispute = self._disputes.get(uid)
        return None if dispute is None else dispute.obstacle

    def regard(self, uid: str, standing: Standing) -> Standing:
        """Add to a standing what this node sees of another owner, or what is said of it as the last one."""
        dispute = self._disputes.get(uid)
        if dispute is None:
            return standing
        seen = replace(standing, checks=(*standing.checks, *self._seen.get(uid, ())))
        if dispute.remark is None or not standing.is_fit:
            return seen
        return replace(seen, reason=dispute.remark.reason, message=dispute.remark.message)

    def _look(self, vip: VirtualIPPlan, *, is_active: bool) -> None:
        """Decide anew about one VirtualIP, and say what is due."""
        uid, place, now = vip.uid, self._place(vip), self._loop.time()
        if place is None or uid not in self._vips:
            return
        seated, key = place
        held = self._held(key)
        self._disputes[uid].look(
            self._names[uid],
            term=0 if held is None else held.term,
            has_standby=seated.seat.lease.standby(key) is not None,
            now=now,
        )
        if held is not None:
            self._watches.forget(uid)
            is_active = held.is_announced and is_active
            said = Observe(self._incarnation, key, held.term, held.is_announced, is_active)
            self._say(seated, uid, _candidates(vip) - {self._node}, said, now)
        view = self._watches.view(vip, self._fitness(observations.of_peers(uid)), now)
        self._seen[uid] = () if view is None else view.checks
        if view is not None and view.observation is not None:
            self._say(seated, uid, {view.owner}, view.observation, now)

    def _tell(self) -> None:
        """Tell the keeper what has changed."""
        self._watches.expire(self._loop.time())
        if self._note_subjects():
            self._on_subjects()
        disputed = {uid: (each.obstacle, each.remark) for uid, each in self._disputes.items()}
        shape = (dict(self._seen), disputed)
        if shape != self._shape:
            self._shape = shape
            self._on_change()

    def _note_subjects(self) -> bool:
        found = (self._watches.subject(vip) for vip in self._vips.values())
        subjects = tuple(subject for subject in found if subject is not None)
        is_news, self._subjects = subjects != self._subjects, subjects
        return is_news

    def _place(self, vip: VirtualIPPlan) -> tuple[Seated, Key] | None:
        for seated in self._seats:
            key = seated.seat.key(vip.uid)
            if key is not None:
                return seated, key
        return None

    def _say(self, seated: Seated, uid: str, nodes: AbstractSet[str], said: OfPeers, now: float) -> None:
        """Say it if it is new, or due again."""
        said_at, before = self._said.get(uid, (0.0, None))
        if said == before and now - said_at < SAY_S:
            return
        self._said[uid] = (now, said)
        for node in sorted(nodes):
            self._send(seated, Send(node, said))


def _candidates(vip: VirtualIPPlan) -> frozenset[str]:
    return frozenset(candidate.node for candidate in vip.candidates)
