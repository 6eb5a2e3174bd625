"""This node's side of a lease: the fence, the addresses and their announcements, kept as they should be.

It joins `plan` (what is missing or too many) with the doors that do it, and with the two things that
cannot wait for the next look: taking an address that was won, and leaving one that was lost.

    taking        fence opens → addresses bound → announced, in one go; repeats follow (`announcement`), and
                  routes and rules, for which no client is kept waiting
    leaving       fence closes at once → addresses unbound

Where services are to start first there is a while between the fence and the addresses, and where they
stop last the addresses are put down, unbound while the fence is still open, before they do.

A look observes, plans and acts. It follows every change that the kernel tells of, and comes by itself
every `LOOK_S` to renew the addresses' lifetimes. Between planning and acting the world moves on, so
each action asks once more whether it is still right, under the lock of its address.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vipagent import announcement, fences, metrics, routing
from vipagent.announcer import Announced, FramesUnavailable
from vipagent.carriers import Carriers
from vipagent.kernel import InTheWay, KernelRefused
from vipagent.nftfence import NftFence
from vipagent.nodeview import GuardRole, NodeView, Refusal
from vipagent.packetfence import MAX_ADDRESSES, TOO_MANY, FenceRefused
from vipagent.plan import (
    LIFETIME_S,
    Bind,
    Close,
    Forget,
    Guard,
    Install,
    Unbind,
    Unguard,
    Withdraw,
    claim,
    place,
    plan,
    refuse,
    roles,
    unfenced,
)
from vipapi.nodestatus import InterfaceStatus, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine, Iterable, Mapping

    from vipagent.announcer import Announcer
    from vipagent.fences import AnyFence
    from vipagent.kernel import Kernel
    from vipagent.messages import Key
    from vipagent.nodeview import IPAddress, LinkIndex, RoutingEntry, Way
    from vipagent.plan import Action, Claim
    from vipapi.nodeplan import VirtualIPPlan

LOOK_S: Final = 1.5
_MOST_INTERFACES: Final = 64
_BLIND_LOOKS: Final = 8
_LONGEST_PAUSE_S: Final = 0.1
_BIND_AGAIN_S: Final = 10.0

_LOOKS_OF_GRACE: Final = 3
_ROBBED_S: Final = 600.0
_NOT_SUCCEEDED: Final = Refusal(
    "FenceMissing", "what a former keeper's fence left has not been removed yet: it will be in a moment"
)

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """One holding, from `open` to `leave`; where it belongs and how it is announced follow the plan.

    `claim.is_held` tells whether its addresses are to be bound, between `take` and `put_down`.
    """

    vip: VirtualIPPlan
    claim: Claim
    deadline_ns: int
    bound: tuple[str, ...] = ()
    announced_anew_s: float | None = None
    again: asyncio.TimerHandle | None = None


class Node:
    """The fence, the addresses and the announcements of one node. The doors belong to the caller."""

    def __init__(
        self, *, kernel: Kernel, fence: AnyFence, announcer: Announcer, look_s: float = LOOK_S
    ) -> None:
        """`look_s` is how long nothing may have happened before this node is looked at all the same."""
        self._look_s = look_s
        self._kernel = kernel
        self._fence = fence
        self._announcer = announcer
        self.view = NodeView(links=())
        self.carried: dict[LinkIndex, frozenset[IPAddress]] = {}
        self._ours: frozenset[IPAddress] = frozenset()
        self._interfaces: tuple[InterfaceStatus, ...] = ()
        self._interface_names: dict[str, str] = {}
        self._unannounceable: dict[str, Refusal] = {}
        self._planned: dict[str, Claim] = {}
        self._vips: dict[str, VirtualIPPlan] = {}
        self._held: dict[Key, _Held] = {}
        self._holders: defaultdict[IPAddress, dict[Key, _Held]] = defaultdict(dict)
        self._bound_on: defaultdict[IPAddress, set[LinkIndex]] = defaultdict(set)
        self._bind_refusals: dict[IPAddress, tuple[float, Refusal]] = {}
        self._guards: dict[tuple[LinkIndex, GuardRole], Refusal | None] = {}
        self._unclosed = TOO_MANY
        self._failures: set[str] = set()
        self._former_failures: set[str] = set()
        self._leftovers: dict[LinkIndex, Refusal | None] = {}
        self._not_succeeded: Refusal | None = _NOT_SUCCEEDED
        self._repairs = 0
        self._looks_of_grace = _LOOKS_OF_GRACE
        self._robbed: tuple[float, str] | None = None
        self._locks: defaultdict[IPAddress, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._repeats: dict[Key, asyncio.Task[None]] = {}
        self._routing_lock = asyncio.Lock()
        self._installed: set[RoutingEntry] = set()
        self._routing_refusals: dict[RoutingEntry, Refusal] = {}
        self._in_the_way: set[RoutingEntry] = set()
        self._ways: dict[Key, frozenset[Way]] = {}
        self._carriers = Carriers(epoch_s=time.time() - time.monotonic())
        self._preparing: asyncio.Task[None] | None = None
        self._look_lock = asyncio.Lock()
        self._changed = asyncio.Event()

    def obstacles(self) -> dict[str, Refusal | None]:
        """Why this node cannot carry each planned VirtualIP now, by UID; None for one that it can.

        What it could not announce at once it does not take: neighbours would go on asking the old owner.
        """
        held = {each.claim.uid for each in self._held.values()}
        fenced = self._fence.addresses
        found: dict[str, Refusal | None] = {}
        for uid, claimed in self._planned.items():
            refusal = refuse(claimed, self.view, self._guards) or self._fence_refusal(claimed, fenced)
            refusal = refusal or self._bind_refusal(claimed) or self._not_succeeded
            found[uid] = self._unannounceable.get(uid) if refusal is None and uid not in held else refusal
        return found

    def _fence_refusal(self, claimed: Claim, fenced: Container[IPAddress]) -> Refusal | None:
        """Why the fence does not know an address of a VirtualIP."""
        for address in claimed.addresses:
            if address.ip not in fenced:
                return Refusal("FenceMissing", f"{address.ip} is not in the fence: {self._unclosed}")
        return None

    def _bind_refusal(self, claimed: Claim) -> Refusal | None:
        """Why the kernel would not take an address of a VirtualIP a short while ago."""
        since_s = asyncio.get_running_loop().time() - _BIND_AGAIN_S
        for address in claimed.addresses:
            at_s, refusal = self._bind_refusals.get(address.ip, (0.0, None))
            if refusal is not None and at_s > since_s:
                return refusal
        return None

    def doubt(self, uid: str) -> Refusal | None:
        """Why a planned VirtualIP that this node can carry had better be elsewhere."""
        return self._carriers.doubt(self._interface_names.get(uid, ""))

    def interface_of(self, uid: str) -> str:
        """The interface that would carry a planned VirtualIP, empty if none."""
        return self._interface_names.get(uid, "")

    def bound(self, key: Key) -> tuple[str, ...]:
        """The addresses of a held set that the kernel showed at the last look."""
        held = self._held.get(key)
        return () if held is None else held.bound

    def interfaces(self) -> tuple[InterfaceStatus, ...]:
        """The interfaces with addresses of the node's own, for the report."""
        return self._interfaces

    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the fence, link by link, and with routes and rules."""
        refusals = [
            *self._guards.values(),
            *self._leftovers.values(),
            *self._routing_refusals.values(),
        ]
        if self._not_succeeded is not _NOT_SUCCEEDED:
            refusals.append(self._not_succeeded)
        found = [Problem(r.reason, r.message) for r in dict.fromkeys(refusals) if r is not None]
        if self._robbed is not None and asyncio.get_running_loop().time() < self._robbed[0] + _ROBBED_S:
            found.append(
                Problem(
                    "FenceRemoved",
                    f"{self._robbed[1]}; it was mended. Have other programs leave the tc filters "
                    "`vipkeeper-in` and `vipkeeper-out` and the nftables `vipkeeper` alone",
                )
            )
        return tuple(found)

    def fence(self) -> fences.Kind:
        """What kind of fence this node has."""
        return fences.kind(self._fence)

    def gateways(self) -> tuple[IPAddress, ...]:
        """The default gateways, best first."""
        return tuple(gateway.address for gateway in self.view.gateways)

    async def start_clean(self, vips: Iterable[VirtualIPPlan]) -> None:
        """Close the fence for every address of ours, then remove what an earlier keeper left (rule 8).

        Raises `KernelRefused` if this node cannot even be looked at.
        """
        self.view = await self._kernel.observe()
        self.plan(vips)
        await self.look()

    async def leave_clean(self) -> None:
        """Close and unbind everything, at the end of this keeper."""
        while self._held:
            key = next(iter(self._held))
            self.close(key)
            await self.leave(key)
        if self._preparing is not None:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)

    def plan(self, vips: Iterable[VirtualIPPlan]) -> None:
        """Take over the planned VirtualIPs; their addresses are closed from now on (rule 8)."""
        former_vips, former = self._vips, self._planned
        self._vips = {vip.uid: vip for vip in vips}
        self._planned = {}
        for vip in self._vips.values():
            before = former_vips.get(vip.uid)
            is_as_before = before is not None and _place_in_plan(before) == _place_in_plan(vip)
            self._planned[vip.uid] = former[vip.uid] if is_as_before else claim(vip, is_held=False)
        for key, held in self._held.items():
            self._follow(key, held)
        self._forget(self._fence.addresses - self._ours)
        self._close(unfenced(self._claims(), self.view, fenced=self._fence.addresses))
        self._note_view()
        self._changed.set()

    def _follow(self, key: Key, held: _Held) -> None:
        """Take over what the plan says now of a held set; other addresses would be another set."""
        planned, vip = self._planned.get(held.claim.uid), self._vips.get(held.claim.uid)
        if planned is None or vip is None or _bare(planned) != _bare(held.claim):
            return
        before = held.claim, held.vip.announcement_count, held.vip.announcement_refresh_s
        held.vip, held.claim = vip, replace(planned, is_held=held.claim.is_held)
        after = held.claim, vip.announcement_count, vip.announcement_refresh_s
        if key in self._repeats and after != before:
            self._announce_from_now(key, held)

    def open(self, key: Key, vip: VirtualIPPlan, deadline_ns: int) -> None:
        """Open the fence of a set that was won; `take` follows."""
        self._held[key] = held = _Held(vip, claim(vip, is_held=False), deadline_ns)
        for address in held.claim.addresses:
            self._holders[address.ip][key] = held
        self._note_bound(held)
        self._fence.admit((address.ip for address in held.claim.addresses), deadline_ns)

    def extend(self, keys: Iterable[Key], deadline_ns: int) -> dict[Key, int]:
        """Move the fence's deadline of held sets, in one change of it; returns the ones before."""
        extended = {key: self._held[key] for key in keys}
        self._fence.admit((a.ip for held in extended.values() for a in held.claim.addresses), deadline_ns)
        former_deadlines_ns = {key: held.deadline_ns for key, held in extended.items()}
        for held in extended.values():
            held.deadline_ns = deadline_ns
        return former_deadlines_ns

    async def take(self, key: Key) -> None:
        """Bind and announce a set whose fence is open; what fails is mended at the next look."""
        held = self._held.get(key)
        if held is None:
            return
        held.claim = replace(held.claim, is_held=True)
        places = place(held.claim, self.view)
        if isinstance(places, Refusal):
            _log.error("Cannot bind %s: %s", held.claim.name, places.message)
        else:
            await self._attempt("Bind", [self._bind(address, index) for address, index in places.items()])
        if self._held.get(key) is held and held.claim.is_held:
            self._announce([address.ip for address in held.claim.addresses], asks_gateway=True)
            self._announce_from_now(key, held)
        if not isinstance(places, Refusal):
            entries = routing.entries(held.claim, places)
            await self._attempt("Install", [self._install(entry) for entry in entries])

    async def put_down(self, key: Key) -> None:
        """Unbind a held set whose fence stays open; `take` binds it again."""
        held = self._held.get(key)
        if held is not None:
            held.claim = replace(held.claim, is_held=False)
            await self._unbind_all(key, held)

    def close(self, key: Key) -> None:
        """Close the fence of a set; when it returns, no packet of its addresses passes. `leave` follows."""
        held = self._held[key]
        self._fence.close(address.ip for address in held.claim.addresses)

    async def leave(self, key: Key) -> str:
        """Unbind a set whose fence is closed, and return its name; what fails is mended at the next look."""
        held = self._held.pop(key)
        for address in held.claim.addresses:
            self._holders[address.ip].pop(key)
        await self._unbind_all(key, held)
        return held.claim.name

    async def _unbind_all(self, key: Key, held: _Held) -> None:
        repeats = self._repeats.pop(key, None)
        if repeats is not None:
            repeats.cancel()
        addresses = {address.ip for address in held.claim.addresses}
        entries = [entry for entry in self._installed if entry.source in addresses]
        await self._attempt("Withdraw", [self._withdraw(entry) for entry in entries])
        await self._attempt(
            "Unbind",
            [
                self._unbind(address.ip, index)
                for address in held.claim.addresses
                for index in tuple(self._bound_on[address.ip])
            ],
        )

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Look at every change and every `LOOK_S`, until cancelled; raises if it cannot look for long.

        A look goes through everything: while much changes, looking takes half of the time at most.
        """
        loop = asyncio.get_running_loop()
        seen_s = loop.time()
        renewed_s = -math.inf
        listener = asyncio.create_task(self._listen())
        sentry = asyncio.create_task(self._stand_sentry())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look_s):
                        await self._changed.wait()
                for each in (listener, sentry):
                    if each.done():
                        each.result()
                self._changed.clear()
                began_s = loop.time()
                try:
                    await self.look()
                except KernelRefused as refused:
                    if loop.time() - seen_s > _BLIND_LOOKS * self._look_s:
                        raise
                    metrics.failed_actions.labels("Look").inc()
                    _log.warning("%s; it is tried again", refused)
                    if loop.time() - renewed_s > self._look_s:
                        renewed_s = loop.time()
                        await self._renew_blindly()
                else:
                    seen_s = loop.time()
                    on_change()
                await asyncio.sleep(min(loop.time() - began_s, _LONGEST_PAUSE_S))
        finally:
            for each in (listener, sentry):
                each.cancel()
            await asyncio.gather(listener, sentry, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            async for _ in self._kernel.watch():
                self._changed.set()
        finally:
            self._changed.set()

    async def _stand_sentry(self) -> None:
        """Make the fence afresh at once when another program takes it away; the kernel keeps one of BPF."""
        if not isinstance(self._fence, NftFence):
            return
        async for program in self._fence.watch():
            try:
                self._fence.mend()
            except FenceRefused as refused:
                metrics.failed_actions.labels("Guard").inc()
                self._warn(refused)
                self._changed.set()
            self._note_repairs(program)

    def _note_repairs(self, program: str) -> None:
        """Tell of a fence of nftables that had to be made afresh, and who may have made that necessary."""
        if isinstance(self._fence, NftFence) and self._fence.repairs > self._repairs:
            metrics.fence_repairs.inc(self._fence.repairs - self._repairs)
            self._repairs = self._fence.repairs
            self._rob(f"{program} took the fence out of nftables")
            self._changed.set()

    def _note_losses(self, former: Mapping[tuple[LinkIndex, GuardRole], Refusal | None]) -> None:
        """Tell of links that were guarded at the last look and are not any more; nftables count their own.

        A link that went away since it was observed has nothing that could be taken from it.
        """
        lost = [
            refusal
            for key, refusal in self._guards.items()
            if refusal is not None and former.get(key, refusal) is None and self._kernel.has_link(key[0])
        ]
        if lost and not isinstance(self._fence, NftFence):
            metrics.fence_repairs.inc(len(lost))
            self._rob(f"{lost[0].reason}: {lost[0].message}")

    def _rob(self, how: str) -> None:
        _log.error("%s: this is mended", how)
        self._robbed = asyncio.get_running_loop().time(), how

    async def _succeed(self) -> None:
        """Remove what is left of a keeper with another kind of fence, once this one has all links."""
        if self._not_succeeded is None:
            return
        if any(each is not None and each.reason == "FenceMissing" for each in self._guards.values()):
            self._looks_of_grace -= 1
            if self._looks_of_grace > 0:
                return  # one link that cannot be guarded must not keep the addresses of all others away
        try:
            await fences.retire(self._kernel, self._fence)
        except (FenceRefused, KernelRefused) as refused:
            metrics.failed_actions.labels("Guard").inc()
            self._warn(refused)
            self._not_succeeded = Refusal("FenceMissing", f"{refused}")
        else:
            self._not_succeeded = None

    async def look(self) -> None:
        """Observe this node, and mend what is not as it should be."""
        async with self._look_lock:
            self.view = await self._kernel.observe()
            self._former_failures, self._failures = self._failures, set()
            self._note_view()
            self._note_links()
            self._note_bindings()
            former = self._guards
            await self._read_guards()
            self._note_losses(former)
            actions = plan(
                self._claims(),
                self.view,
                fenced=self._fence.addresses,
                guards=self._guards,
                bare={index for index, refusal in self._leftovers.items() if refusal is None},
            )
            missing = {action.entry for action in actions if isinstance(action, Install)}
            for entry in self._routing_refusals.keys() - missing:
                del self._routing_refusals[entry]
            self._in_the_way &= missing
            self._close([action.address for action in actions if isinstance(action, Close)])
            has_guarded = False
            for action in actions:
                if isinstance(action, Forget):
                    break  # they are the last
                if has_guarded and not isinstance(action, Guard):
                    await self._read_guards()
                    has_guarded = False
                await self._act(action)
                has_guarded = has_guarded or isinstance(action, Guard)
            if has_guarded:
                await self._read_guards()
            self._forget([action.address for action in actions if isinstance(action, Forget)])
            await self._succeed()
            self._note_repairs("Another program")
            self._note_ways()
        if self._preparing is None or self._preparing.done():
            self._preparing = asyncio.create_task(self._prepare())

    async def _renew_blindly(self) -> None:
        """Renew what is held where it was put: not being able to look is no reason to lose it."""
        places = [(address, index) for address, bound in self._bound_on.items() for index in bound]
        await self._attempt("Bind", [self._bind(address, index) for address, index in places])

    def _note_view(self) -> None:
        """Work out once for each look or plan what every report asks."""
        self._ours = frozenset(b.ip for link in self.view.links for b in link.addresses if b.is_ours)
        for held in self._held.values():
            self._note_bound(held)
        self._interfaces = _interfaces(self.view)
        self._interface_names, self._unannounceable = {}, {}
        carried: defaultdict[LinkIndex, set[IPAddress]] = defaultdict(set)
        for uid, claimed in self._planned.items():
            places = place(claimed, self.view)
            if isinstance(places, Refusal):
                continue
            for address, index in places.items():
                carried[index].add(address)
            link = self.view.link(next(iter(places.values())))
            assert link is not None
            self._interface_names[uid] = link.name
            missing = [ip for ip, index in places.items() if not self._is_armed(index, ip)]
            if missing:
                self._unannounceable[uid] = Refusal(
                    "NotArmed", f"the announcements of {', '.join(map(str, missing))} are still being built"
                )
        self.carried = {index: frozenset(addresses) for index, addresses in carried.items()}

    def _is_armed(self, index: LinkIndex, address: IPAddress) -> bool:
        """Whether an address can be announced at once, as it can be if it ever was on a link like this."""
        if not self._announcer.is_ready(index, address):
            self._announcer.arm(self._announced(index, address))
            if self._is_taken(address):
                self._announce([address], asks_gateway=False)
        return self._announcer.is_ready(index, address)

    def _note_links(self) -> None:
        """Follow links that have gone, have another MAC address, or lose their carrier too often."""
        self._announcer.follow({link.index: link.mac for link in self.view.links if link.is_ethernet})
        self._carriers.see(
            self.view.links, frozenset(self._interface_names.values()), asyncio.get_running_loop().time()
        )
        present = {link.index for link in self.view.links}
        self._leftovers = {index: each for index, each in self._leftovers.items() if index in present}
        for indices in self._bound_on.values():
            indices.intersection_update(present)

    def _note_ways(self) -> None:
        """Announce again what leaves this node in another way than at the last look, or can leave again."""
        former, self._ways = self._ways, {}
        for key in tuple(self._repeats):
            held = self._held.get(key)
            if held is None:
                continue
            ways = self._ways_of(held)
            if ways or key in former:
                self._ways[key] = ways
            if ways and ways != former.get(key, ways):
                self._announce_anew(key, held)

    def _ways_of(self, held: _Held) -> frozenset[Way]:
        """How the frames of a holding leave; nothing while one of its links is down or gone."""
        on = [self._bound_on[address.ip] for address in held.claim.addresses]
        ways = {self.view.way(index) for indices in on for index in indices}
        if None in ways or not all(on):
            return frozenset()
        return frozenset(way for way in ways if way is not None)

    def _note_bound(self, held: _Held) -> None:
        held.bound = tuple(str(address.ip) for address in held.claim.addresses if address.ip in self._ours)

    async def _read_guards(self) -> None:
        wanted = roles(self._claims(), self.view)
        if isinstance(self._fence, NftFence):
            self._fence.look_anew()
        guards: dict[tuple[LinkIndex, GuardRole], Refusal | None] = {}
        for index, role in wanted.items():
            guards[index, role] = await self._kernel.guarded(index, self._fence, role)
            await asyncio.sleep(0)  # nftables answer without letting anybody else go on
        self._guards = guards

    def _claims(self) -> list[Claim]:
        return [*(held.claim for held in self._held.values()), *self._planned.values()]

    async def _act(self, action: Action) -> None:
        match action:
            case Guard(index, role):
                self._leftovers.pop(index, None)
                await self._attempt("Guard", [self._kernel.guard(index, self._fence, role)])
            case Unguard(index):
                await self._attempt("Unguard", [self._unguard(index)])
            case Unbind(address, index):
                await self._attempt("Unbind", [self._unbind(address, index)])
            case Bind(address, index, is_new):
                await self._bind_where_fenced(address, index, is_new=is_new)
            case Install(entry):
                await self._attempt("Install", [self._install(entry)])
            case Withdraw(entry):
                await self._attempt("Withdraw", [self._withdraw(entry)])

    def _forget(self, addresses: Iterable[IPAddress]) -> None:
        """Forget what is not planned, held or bound by now, all in one change of the fence."""
        known = {address.ip for claimed in self._claims() for address in claimed.addresses}
        gone = [each for each in addresses if each not in known and not self._bound_on.get(each)]
        self._change_fence("Forget", self._fence.forget_all, gone)

    def _close(self, addresses: Iterable[IPAddress]) -> None:
        """Make the fence know addresses, closed, as many as it has room for: no other is taken."""
        room = max(0, MAX_ADDRESSES - len(self._fence.addresses))
        new = [address for address in addresses if not self._is_held(address)]
        refused = self._change_fence("Close", self._fence.close, new[:room])
        self._unclosed = TOO_MANY if refused is None else str(refused)

    def _change_fence(
        self, name: str, change: Callable[[list[IPAddress]], None], addresses: list[IPAddress]
    ) -> FenceRefused | None:
        """Change the fence as a look or a plan wants it; what is refused is planned by the next look."""
        try:
            change(addresses)
        except FenceRefused as refused:
            metrics.failed_actions.labels(name).inc()
            self._warn(refused)
            return refused
        return None

    def _warn(self, failure: Exception) -> None:
        """Say what failed; what was the same at the last look was said."""
        message = str(failure)
        if message not in self._failures and message not in self._former_failures:
            _log.warning("%s; it is tried again", message)
        self._failures.add(message)

    async def _bind_where_fenced(self, address: IPAddress, index: LinkIndex, *, is_new: bool) -> None:
        """Bind, but never on a link that is not fenced: the guard is tried again too."""
        if self._guards.get((index, GuardRole.CARRIER)) is None:
            await self._attempt("Bind", [self._bind(address, index)])
            if is_new and self._is_taken(address):
                self._announce([address], asks_gateway=False)

    async def _attempt(self, name: str, deeds: list[Coroutine[None, None, None]]) -> None:
        """Do things that may fail without stopping their neighbours; the next look plans them again."""
        for outcome in await asyncio.gather(*deeds, return_exceptions=True):
            if isinstance(outcome, KernelRefused):
                metrics.failed_actions.labels(name).inc()
                self._warn(outcome)
            elif outcome is not None:
                raise outcome

    def _is_held(self, address: IPAddress) -> bool:
        return bool(self._holders.get(address))

    def _is_taken(self, address: IPAddress) -> bool:
        return any(held.claim.is_held for held in self._holders.get(address, {}).values())

    async def _bind(self, address: IPAddress, index: LinkIndex) -> None:
        async with self._locks[address]:
            if not self._is_taken(address):
                return
            self._bound_on[address].add(index)
            try:
                await self._kernel.bind(address, index, lifetime_s=LIFETIME_S)
            except KernelRefused as refused:
                if not self._is_seen(address, index):
                    refusal = Refusal("BindRefused", f"{refused}: mend it on this node")
                    self._bind_refusals[address] = (asyncio.get_running_loop().time(), refusal)
                raise
            self._bind_refusals.pop(address, None)

    def _is_seen(self, address: IPAddress, index: LinkIndex | None) -> bool:
        """Whether the last look has seen an address bound on a link, and as ours."""
        return any(bound.is_ours and link.index == index for link, bound in self.view.holders(address))

    def _note_bindings(self) -> None:
        """Announce what was refused and is bound all the same: it was the kernel's answer that was lost."""
        for address in tuple(self._bind_refusals):
            if self._is_seen(address, self._place_of(address)):
                del self._bind_refusals[address]
                for key, held in self._holders[address].items():
                    self._announce_anew(key, held)

    async def _unbind(self, address: IPAddress, index: LinkIndex) -> None:
        """Unbind, unless the address belongs there by now."""
        async with self._locks[address]:
            if self._place_of(address) != index:
                await self._kernel.unbind(address, index)
                self._bound_on[address].discard(index)

    async def _unguard(self, index: LinkIndex) -> None:
        """Take a fence of ours off a link, unless it is guarded or has an address by now."""
        if any(index == guarded for guarded, _role in self._guards) or self._has_bound(index):
            return
        try:
            await self._kernel.unguard(index, self._fence)
        except KernelRefused as refused:
            self._leftovers[index] = Refusal("FenceLeftOver", f"{refused}")
            raise
        self._leftovers[index] = None

    def _has_bound(self, index: LinkIndex) -> bool:
        return any(index in on for on in self._bound_on.values())

    async def _install(self, entry: RoutingEntry) -> None:
        """Add a route or rule where it belongs and its address is bound; a refusal is said once.

        What has its place taken is only refused if the look after that does not find it there.
        """
        async with self._routing_lock:
            source = entry.source
            is_bound = source is not None and self._bound_on[source] and source not in self._bind_refusals
            if not is_bound or not self._belongs(entry):
                return
            self._installed.add(entry)
            former = self._routing_refusals.pop(entry, None)
            try:
                await self._kernel.install(entry)
            except KernelRefused as refused:
                if isinstance(refused, InTheWay) and entry not in self._in_the_way:
                    self._in_the_way.add(entry)
                    self._changed.set()
                    return
                refusal = Refusal("RouteRefused", f"{refused}")
                self._routing_refusals[entry] = refusal
                if refusal != former:
                    raise

    async def _withdraw(self, entry: RoutingEntry) -> None:
        """Remove a route or rule, unless it belongs there by now."""
        async with self._routing_lock:
            if not self._belongs(entry):
                self._routing_refusals.pop(entry, None)
                await self._kernel.withdraw(entry)
                self._installed.discard(entry)

    def _belongs(self, entry: RoutingEntry) -> bool:
        """Whether a route or rule is one of a set that was taken, as far as the last look knows."""
        holders = {} if entry.source is None else self._holders.get(entry.source, {})
        for held in holders.values():
            places = place(held.claim, self.view) if held.claim.is_held else Refusal("", "")
            if not isinstance(places, Refusal) and entry in routing.entries(held.claim, places):
                return True
        return False

    def _place_of(self, address: IPAddress) -> LinkIndex | None:
        """Where an address that was taken belongs, as far as the last look knows; None if it was not."""
        for held in self._holders.get(address, {}).values():
            if not held.claim.is_held:
                continue
            places = place(held.claim, self.view)
            if isinstance(places, Refusal):
                return next(iter(self._bound_on[address]), None)
            return places[address]
        return None

    async def _prepare(self) -> None:
        """Have frames built for every address that could come to this node."""
        wanted: dict[tuple[IPAddress, LinkIndex], Announced] = {}
        for claimed in self._claims():
            places = place(claimed, self.view)
            for address, index in {} if isinstance(places, Refusal) else places.items():
                wanted[address, index] = self._announced(index, address)
        try:
            down = {link.index for link in self.view.links if not link.is_up}  # may be back in a moment
            is_news = await self._announcer.prepare(wanted.values(), keeping=down)
        except FramesUnavailable as unavailable:
            _log.warning("%s; it is tried again", unavailable)
        else:
            if is_news:
                held = [address.ip for each in self._held.values() for address in each.claim.addresses]
                self._announce(held, asks_gateway=False)
                self._changed.set()
        await self._announcer.save()

    def _announced(self, index: LinkIndex, address: IPAddress) -> Announced:
        link = self.view.link(index)
        assert link is not None
        return Announced(index, link.mac, address, self.view.gateway(address.version, index))

    def _announce(self, addresses: Iterable[IPAddress], *, asks_gateway: bool) -> None:
        """Announce what is bound, where it is bound."""
        for address in addresses:
            if address not in self._bind_refusals:
                for index in self._bound_on[address]:
                    self._announcer.announce(index, [address], asks_gateway=asks_gateway)

    def probe(self, key: Key, asked: Container[IPAddress]) -> None:
        """Ask whether somebody else has one of these addresses of a held set, each on its link."""
        held = self._held.get(key)
        places = Refusal("", "") if held is None else place(held.claim, self.view)
        if not isinstance(places, Refusal):
            for address, index in places.items():
                if address in asked:
                    self._announcer.probe(index, address)

    def announce(self, key: Key) -> None:
        """Announce a held set that is bound, out of turn."""
        held = self._held.get(key)
        if held is not None:
            self._announce([address.ip for address in held.claim.addresses], asks_gateway=False)

    def announce_again(self) -> None:
        """Announce everything that was taken once more: the network may not know of it."""
        for key, held in self._held.items():
            self._announce_anew(key, held)

    def _announce_anew(self, key: Key, held: _Held) -> None:
        """Begin a holding's burst anew, at once or when the last one that was begun anew is `AGAIN_S` ago."""
        if held.again is None:
            loop = asyncio.get_running_loop()
            in_s = announcement.again_in_s(loop.time(), held.announced_anew_s)
            held.again = loop.call_later(in_s, self._begin_anew, key, held)

    def _begin_anew(self, key: Key, held: _Held) -> None:
        held.again = None
        if key in self._repeats and self._held.get(key) is held:
            held.announced_anew_s = asyncio.get_running_loop().time()
            self._announce([address.ip for address in held.claim.addresses], asks_gateway=True)
            self._announce_from_now(key, held)

    def _announce_from_now(self, key: Key, held: _Held) -> None:
        """Begin the repeats of a holding's announcement, or begin them anew."""
        repeats = self._repeats.pop(key, None)
        if repeats is not None:
            repeats.cancel()
        self._repeats[key] = asyncio.create_task(self._announce_repeatedly(held))

    async def _announce_repeatedly(self, held: _Held) -> None:
        """Repeat the announcement for as long as this holding lasts; cancelled by `leave`."""
        count, refresh_s = held.vip.announcement_count, held.vip.announcement_refresh_s
        for sent in itertools.count(1):
            before_s = announcement.due_s(sent - 1, count=count, refresh_s=refresh_s)
            await asyncio.sleep(announcement.due_s(sent, count=count, refresh_s=refresh_s) - before_s)
            self._announce([address.ip for address in held.claim.addresses], asks_gateway=False)


def _place_in_plan(vip: VirtualIPPlan) -> tuple[object, ...]:
    """What a VirtualIP's claim is made of, besides its UID."""
    return vip.name, vip.addresses, vip.interface, vip.routes, vip.rules


def _bare(claimed: Claim) -> frozenset[IPAddress]:
    return frozenset(address.ip for address in claimed.addresses)


def _interfaces(view: NodeView) -> tuple[InterfaceStatus, ...]:
    return tuple(
        InterfaceStatus(
            name=link.name, link="Up" if link.is_up else "Down", mac_address=link.mac, addresses=own
        )
        for link in view.links
        if not link.is_loopback
        and (own := tuple(str(b.interface) for b in link.addresses if not (b.is_ours or b.is_host)))
    )[:_MOST_INTERFACES]
