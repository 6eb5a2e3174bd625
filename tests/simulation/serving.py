"""The keeper's shell where services follow addresses: production `Workloads`, on a loop in virtual time.

What it wires is what `vipagent.keeper` wires: leases won, renewed and lost go to the services, and addresses
are bound, leases handed over and `closed` said when those are ready. A seat says `occupied` and `is_leaving`
as there. Everything happens in the keeper's loop, and stands still with it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from simulation.leash import Runner
from vipagent.effects import MILLISECOND, Inquired, Send
from vipagent.workloads import Tenure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from simulation.keeper import Keeper
    from vipagent.effects import Open, Told
    from vipagent.messages import Inquire, Key
    from vipagent.runs import Outcome
    from vipagent.seat import Seat
    from vipagent.workloads import Workloads
    from vipapi.nodeplan import Plan, VirtualIPPlan

_BIND_NS: Final = 5 * MILLISECOND


class Loop:
    """What of an event loop `Workloads` needs, in the time of a keeper's machine."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def time(self) -> float:
        return self._keeper.machine.now() / 1e9

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *arguments: Any, context: Any = None) -> Any:
        handle = asyncio.Handle(callback, arguments, self._real, context)
        self._keeper.soon(self._run, handle, callback, arguments)
        return handle

    def call_later(self, delay_s: float, callback: Callable[..., object], *arguments: Any) -> Any:
        machine = self._keeper.machine
        handle = asyncio.TimerHandle(self.time() + delay_s, callback, arguments, self._real)
        wait_ns = machine.clock.when(machine.now() + int(delay_s * 1e9)) - machine.world.agenda.now_ns
        machine.later(max(0, wait_ns) + 1, self._ring, handle, callback, arguments)
        return handle

    def call_at(self, when_s: float, callback: Callable[..., object], *arguments: Any) -> Any:
        return self.call_later(max(0.0, when_s - self.time()), callback, *arguments)

    def _ring(self, handle: asyncio.Handle, callback: Callable[..., object], arguments: Any) -> None:
        if self._keeper.is_alive and not handle.cancelled():
            self._keeper.take(self._run, handle, callback, arguments)

    def _run(self, _: int, handle: asyncio.Handle, callback: Callable[..., object], arguments: Any) -> None:
        if not handle.cancelled():
            callback(*arguments)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer rings in vain."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._real)

    def sleep(self, duration_ns: int) -> asyncio.Future[Any]:
        """Return what is done then."""
        done = self.create_future()
        self.call_later(duration_ns / 1e9, done.set_result, None)
        return done

    def drive(self, work: Coroutine[Any, Any, Any], then: Callable[[], None] | None = None) -> None:
        """Run a coroutine to its end, and call `then`."""
        try:
            awaited = work.send(None)
        except StopIteration:
            if then is not None:
                then()
        else:
            awaited.add_done_callback(lambda _: self.drive(work, then))

    @property
    def _real(self) -> asyncio.AbstractEventLoop:
        return cast("asyncio.AbstractEventLoop", self)

    def made_inside(self, make: Callable[[], Workloads]) -> Workloads:
        """Make that as if this loop were running."""
        asyncio._set_running_loop(self._real)  # noqa: SLF001 - it is how a loop says that it runs
        try:
            return make()
        finally:
            asyncio._set_running_loop(None)  # noqa: SLF001 - as above


@dataclass(slots=True)
class _Won:
    """An address set that is held; as in `vipagent.bindings`."""

    seat: Seat
    vip: VirtualIPPlan
    effect: Open
    deadline_ns: int
    is_taken: bool = False
    turns: int = 0


class Serving:
    """One keeper's services."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._machine = keeper.machine
        self._won: dict[Key, _Won] = {}
        self.loop = Loop(keeper)
        self.runner = Runner(keeper, self.loop, self._on_outcome)
        self.workloads = self.loop.made_inside(
            lambda: keeper.world.workloads_type(
                node=keeper.machine.name,
                incarnation=keeper.me.incarnation,
                runner=cast("Any", self.runner),
                now_ns=keeper.machine.now,
                on_change=self._on_change,
                on_bindable=self._on_bindable,
                ask=self._ask,
            )
        )

    def start_clean(self, plan: Plan | None, then: Callable[[], None]) -> None:
        """End what a former keeper left behind, before anything is said."""
        domains = () if plan is None else plan.domains
        vips = [vip for domain in domains for vip in domain.virtual_ips]
        self.loop.drive(self.workloads.start_clean(vips), then)

    def assign(self, plan: Plan) -> None:
        self.workloads.assign(
            (vip for domain in plan.domains for vip in domain.virtual_ips),
            {won.vip.uid: self._tenure(won) for won in self._won.values()},
            frozenset(node for domain in plan.domains for node in domain.out_of_service),
        )

    def _tenure(self, won: _Won) -> Tenure:
        since_ns = self._machine.now() + won.seat.domain.timing.grant_ms * MILLISECOND
        origin = won.effect.origin
        return Tenure(
            won.effect.term, origin.former, won.deadline_ns, since_ns, won.is_taken, seen_ns=origin.since_ns
        )

    def own(self, seat: Seat, opened: Open) -> None:
        vip = seat.vip(opened.key)
        assert vip is not None, opened
        self._won[opened.key] = won = _Won(seat, vip, opened, opened.deadline_ns)
        self.workloads.own(vip.uid, self._tenure(won))
        self._bind_or_not(opened.key)

    def extend(self, key: Key, deadline_ns: int) -> None:
        won = self._won[key]
        won.deadline_ns = deadline_ns
        self.workloads.extend(won.vip.uid, deadline_ns)

    def lose(self, key: Key) -> str:
        uid = self._won.pop(key).vip.uid
        self.workloads.lose(uid)
        return uid

    def when_vacated(self, uid: str, then: Callable[[], None]) -> None:
        """Call when nothing runs any more that followed it."""
        self.loop.drive(self.workloads.vacated(uid), then)

    def follow(self) -> None:
        """Stop what runs where the lease is to go elsewhere, or go on with it."""
        for key, won in tuple(self._won.items()):
            self.workloads.leave(won.vip.uid, is_leaving=won.seat.lease.is_leaving(key))

    def is_bound_and_leaving(self, name: str) -> bool:
        """Whether a VirtualIP's addresses are bound here, although another node is to have them."""
        return any(
            won.vip.name == name and won.is_taken and won.seat.lease.is_leaving(key)
            for key, won in self._won.items()
        )

    def converse(self, said: Inquired | Told) -> list[Send]:
        if isinstance(said, Inquired):
            vacancy = self.workloads.answer(said.inquiry)
            self._keeper.world.census.answered(self._machine, vacancy.vacant)
            return [Send(said.node, vacancy)]
        answer = said.answer
        self._keeper.world.census.told(self._keeper, said.node, answer.stuck, answer.vacant)
        self.workloads.hear(said.node, answer)
        return []

    def _ask(self, uid: str, node: str, inquiry: Inquire) -> None:
        for won in self._won.values():
            if won.vip.uid == uid:
                self._keeper.say(won.seat, Send(node, inquiry))

    def _on_bindable(self, uid: str) -> None:
        for key, won in tuple(self._won.items()):
            if won.vip.uid == uid:
                self._bind_or_not(key)

    def _bind_or_not(self, key: Key) -> None:
        won = self._won[key]
        may_bind = self.workloads.may_bind(won.vip.uid)
        if may_bind != won.is_taken:
            won.is_taken = may_bind
            won.turns += 1
            delay_ns = int(self._keeper.world.random.random() * _BIND_NS)
            then = self._bound if may_bind else self._put_down
            self.loop.call_later(delay_ns / 1e9, then, key, won, won.turns)

    def _bound(self, key: Key, won: _Won, turn: int) -> None:
        if self._won.get(key) is won and won.turns == turn:
            self.workloads.bound(won.vip.uid)

    def _put_down(self, _: Key, won: _Won, __: int) -> None:
        self.unbound(won.vip.uid)

    def unbound(self, uid: str) -> None:
        """Some addresses of a VirtualIP are gone: say so when no other set of them is to be bound."""
        if not any(won.is_taken for won in self._won.values() if won.vip.uid == uid):
            self.workloads.unbound(uid)

    def _on_outcome(self, outcome: Outcome) -> None:
        if outcome.kind != "Stopped":
            self._keeper.note(f"hears {outcome.kind} of {outcome.service_id} {outcome.message}")
        self.workloads.receive(outcome)

    def _on_change(self) -> None:
        self._keeper.judge(self._machine.now())

    def fail_where_sick(self) -> None:
        """The services' health checks, on the owner."""
        for uid in sorted(self.workloads.active & self._machine.ailing):
            self.workloads.fail(uid, "it does not answer")
