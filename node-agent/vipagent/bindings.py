"""The address sets that this node holds, from the lease won until nothing of them is here any more.

    won ───▶ addresses bound and announced (a take-over) as soon as services and other machines let it
             put down while one of them does not, and bound again, under the same lease
    lost ──▶ fence closed at once ──▶ addresses unbound ──▶ no service runs that followed it ──▶ `on_left`

It decides nothing: `workloads` and `contests` say whether addresses may be bound, and the node does it.
Binding and unbinding take a while, in which any of this may change; each change of what is wanted is
a turn, and what was begun in another turn is let be.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vipagent import metrics, reports
from vipagent.effects import MILLISECOND
from vipagent.observing import Held
from vipagent.workloads import Tenure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vipagent.contests import Contests
    from vipagent.effects import Open
    from vipagent.messages import Key
    from vipagent.node import Node
    from vipagent.seats import Seated
    from vipagent.tasks import Tasks
    from vipagent.workloads import Workloads
    from vipapi.nodeplan import VirtualIPPlan
    from vipapi.nodestatus import Takeover

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Won:
    """An address set that is held: how it was won, until when, and whether its addresses are to be bound.

    `free_ns` is since when nobody else has had the addresses; `turns` counts how often it has changed whether
    they are to be bound.
    """

    seated: Seated
    vip: VirtualIPPlan
    effect: Open
    deadline_ns: int
    free_ns: int = 0
    is_taken: bool = False
    turns: int = 0


class Bindings:
    """What of the held address sets is bound; used inside a running event loop.

    `on_left` is told of a set once it is unbound and nothing runs that followed it, `on_change` whenever the
    report has to follow.
    """

    def __init__(
        self,
        *,
        node: Node,
        workloads: Workloads,
        contests: Contests,
        tasks: Tasks,
        now_ns: Callable[[], int],
        on_left: Callable[[Seated, Key], None],
        on_change: Callable[[], None],
    ) -> None:
        self._node = node
        self._workloads = workloads
        self._contests = contests
        self._tasks = tasks
        self._now_ns = now_ns
        self._on_left = on_left
        self._on_change = on_change
        self._won: dict[Key, _Won] = {}
        self._keys: dict[str, list[Key]] = {}
        self._takeovers: dict[Key, Takeover] = {}

    @property
    def takeovers(self) -> Mapping[Key, Takeover]:
        """How each set that is announced was taken over."""
        return self._takeovers

    @property
    def tenures(self) -> Mapping[str, Tenure]:
        """The leases that this node has, by the UID of the VirtualIP."""
        return {won.vip.uid: self._tenure(won) for won in self._won.values()}

    def held(self, key: Key) -> Held | None:
        """Return the set as checks from other nodes need it; None if it is not held."""
        won = self._won.get(key)
        return None if won is None else Held(won.effect.term, won.is_taken and key in self._takeovers)

    def is_held(self, uid: str) -> bool:
        """Whether an address set of a VirtualIP is held."""
        return uid in self._keys

    def seated(self, uid: str) -> tuple[Seated, ...]:
        """Return where the held sets of a VirtualIP have their leases."""
        return tuple(won.seated for won in self._sets(uid).values())

    def lasts_until_ns(self, key: Key) -> int:
        """Return when the lease of a held set ends."""
        return self._won[key].deadline_ns

    def may_cede(self, key: Key) -> bool:
        """Tell whether another node of ours can hold a held set."""
        won = self._won[key]
        return not (won.seated.seat.vip(key) or won.vip).is_held_alone

    def open(self, seated: Seated, opened: Open) -> None:
        """The lease was won."""
        key = opened.key
        vip = seated.seat.vip(key)
        assert vip is not None, opened
        self._node.open(key, vip, opened.deadline_ns)
        self._won[key] = won = _Won(seated, vip, opened, opened.deadline_ns)
        self._keys.setdefault(vip.uid, []).append(key)
        self._contests.open(key, vip, is_first=opened.origin.former is None)
        self._workloads.own(vip.uid, self._tenure(won))
        self._bind_or_not(key)

    def extend(self, keys: Iterable[Key], deadline_ns: int) -> None:
        """The leases were renewed to one deadline."""
        former_deadlines_ns = self._node.extend(keys, deadline_ns)
        for key in former_deadlines_ns:
            self._won[key].deadline_ns = deadline_ns
            self._workloads.extend(self._won[key].vip.uid, deadline_ns)
        for former_ns in set(former_deadlines_ns.values()):
            metrics.lease_margin.observe((former_ns - self._now_ns()) / 1e9)

    def close(self, key: Key) -> None:
        """The lease is over."""
        self._node.close(key)
        self._contests.close(key)
        won = self._won.pop(key)
        self._keys[won.vip.uid].remove(key)
        if not self._keys[won.vip.uid]:
            del self._keys[won.vip.uid]
        self._workloads.lose(won.vip.uid)
        self._tasks.spawn(self._leave(won.seated, key, won.vip.uid))

    def follow(self) -> None:
        """Stop what runs where the lease is to go elsewhere, or go on with it."""
        for uid in self._workloads.followed:
            for key, won in self._sets(uid).items():
                self._workloads.leave(uid, is_leaving=won.seated.seat.lease.is_leaving(key))

    def workloads_changed(self, uid: str) -> None:
        """The services of a VirtualIP let its addresses be bound, or do not any more."""
        for key in self._sets(uid):
            self._bind_or_not(key)

    def contests_changed(self, keys: Iterable[Key]) -> None:
        """Another machine has an address of each of these held sets, or has it no more."""
        for key in keys:
            if self._contests.may_bind(key) and not self._won[key].is_taken:
                self._won[key].free_ns = self._now_ns()
            self._bind_or_not(key)
        self._on_change()

    def _sets(self, uid: str) -> dict[Key, _Won]:
        """Return the held sets of a VirtualIP: two for a while after its addresses were changed."""
        return {key: self._won[key] for key in self._keys.get(uid, ())}

    def _tenure(self, won: _Won) -> Tenure:
        # Another set of this VirtualIP's addresses excludes nobody from this one: its lease may still run.
        since_ns = self._now_ns() + won.seated.seat.domain.timing.grant_ms * MILLISECOND
        origin = won.effect.origin
        return Tenure(
            won.effect.term, origin.former, won.deadline_ns, since_ns, won.is_taken, seen_ns=origin.since_ns
        )

    def _bind_or_not(self, key: Key) -> None:
        """Bind the addresses of a set that is held when its services and others let it, and only then."""
        won = self._won[key]
        may_bind = self._workloads.may_bind(won.vip.uid) and self._contests.may_bind(key)
        if may_bind != won.is_taken:
            won.is_taken = may_bind
            won.turns += 1
            self._tasks.spawn(self._take(key) if may_bind else self._put_down(key, won.vip.uid))

    async def _take(self, key: Key) -> None:
        """Bind and announce what the lease has won, and what services were waited for."""
        won = self._won.get(key)
        if won is None:
            return
        vip, opened, turn = won.vip, won.effect, won.turns
        started_at = datetime.now(tz=UTC)
        await self._node.take(key)
        if self._won.get(key) is not won or won.turns != turn:
            return
        self._workloads.bound(vip.uid)
        metrics.holds(vip.name, opened.term)
        if key in self._takeovers:
            return
        origin = opened.origin
        took_ns = self._now_ns() - max(origin.since_ns, won.free_ns)
        self._takeovers[key] = reports.takeover(origin, started_at=started_at, took_ns=took_ns)
        metrics.took(reason=origin.reason, seconds=took_ns / 1e9)
        _log.info(
            "Took %s in term %d from %s (%s) in %d ms",
            vip.name, opened.term, origin.former, origin.reason, took_ns // MILLISECOND,
        )  # fmt: skip
        self._on_change()

    async def _put_down(self, key: Key, uid: str) -> None:
        """Unbind what is held still, for what stands beneath it is to stop, or another machine has it."""
        await self._node.put_down(key)
        self._unbound(uid)

    async def _leave(self, seated: Seated, key: Key, uid: str) -> None:
        """Unbind what the lease has lost, wait until nothing runs that followed it, then let it say so."""
        name = await self._node.leave(key)
        await self._workloads.vacated(uid)
        self._takeovers.pop(key, None)
        if uid not in self._keys:
            metrics.left(name)
        _log.info("Left %s", name)
        self._on_left(seated, key)
        self._unbound(uid)
        self._on_change()

    def _unbound(self, uid: str) -> None:
        sets = self._sets(uid).values()
        if not any(won.is_taken for won in sets):
            self._workloads.unbound(uid)
            for won in sets:
                metrics.left(won.vip.name)
