"""This node's side of a lease: the fence, the addresses and their announcements, kept as they should be.

It joins `plan` (what is missing or too many) with the doors that do it, and with the two things that
cannot wait for the next look: taking an address that was won, and leaving one that was lost.

    taking        fence opens → addresses bound → announced, in one go; repeats follow (`announcement`)
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
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from vipagent import announcement, metrics
from vipagent.announcer import Announced, FramesUnavailable
from vipagent.kernel import KernelRefused
from vipagent.nodeview import GuardRole, NodeView, Refusal
from vipagent.plan import (
    LIFETIME_S,
    Bind,
    Close,
    Forget,
    Guard,
    Unbind,
    claim,
    place,
    plan,
    refuse,
    roles,
    unfenced,
)
from vipapi.nodestatus import InterfaceStatus, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from vipagent.announcer import Announcer
    from vipagent.fence import Fence
    from vipagent.kernel import Kernel
    from vipagent.messages import Key
    from vipagent.nodeview import IPAddress, LinkIndex
    from vipagent.plan import Action, Claim
    from vipapi.nodeplan import VirtualIPPlan

LOOK_S: Final = 1.5
_MOST_INTERFACES: Final = 64
_BLIND_LOOKS: Final = 8
_BIND_AGAIN_S: Final = 10.0

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


class Node:
    """The fence, the addresses and the announcements of one node. The doors belong to the caller."""

    def __init__(self, *, kernel: Kernel, fence: Fence, announcer: Announcer) -> None:
        self._kernel = kernel
        self._fence = fence
        self._announcer = announcer
        self.view = NodeView(links=())
        self._ours: frozenset[IPAddress] = frozenset()
        self._interfaces: tuple[InterfaceStatus, ...] = ()
        self._interface_names: dict[str, str] = {}
        self._unannounceable: dict[str, Refusal] = {}
        self._planned: dict[str, Claim] = {}
        self._unreadable: dict[str, Refusal] = {}
        self._vips: dict[str, VirtualIPPlan] = {}
        self._held: dict[Key, _Held] = {}
        self._holders: defaultdict[IPAddress, dict[Key, _Held]] = defaultdict(dict)
        self._bound_on: defaultdict[IPAddress, set[LinkIndex]] = defaultdict(set)
        self._bind_refusals: dict[IPAddress, tuple[float, Refusal]] = {}
        self._guards: dict[tuple[LinkIndex, GuardRole], Refusal | None] = {}
        self._locks: defaultdict[IPAddress, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._repeats: dict[Key, asyncio.Task[None]] = {}
        self._preparing: asyncio.Task[None] | None = None
        self._look_lock = asyncio.Lock()
        self._changed = asyncio.Event()

    # What the keeper asks ------------------------------------------------------------------------

    def obstacles(self) -> dict[str, Refusal | None]:
        """Why this node cannot carry each planned VirtualIP now, by UID; None for one that it can.

        What it could not announce at once it does not take: neighbours would go on asking the old owner.
        """
        held = {each.claim.uid for each in self._held.values()}
        found: dict[str, Refusal | None] = dict(self._unreadable)
        for uid, claimed in self._planned.items():
            refusal = refuse(claimed, self.view, self._guards) or self._bind_refusal(claimed)
            found[uid] = self._unannounceable.get(uid) if refusal is None and uid not in held else refusal
        return found

    def _bind_refusal(self, claimed: Claim) -> Refusal | None:
        """Why the kernel would not take an address of a VirtualIP a short while ago."""
        since_s = asyncio.get_running_loop().time() - _BIND_AGAIN_S
        for address in claimed.addresses:
            at_s, refusal = self._bind_refusals.get(address.ip, (0.0, None))
            if refusal is not None and at_s > since_s:
                return refusal
        return None

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
        """What is wrong with the fence, link by link."""
        return tuple(
            Problem(r.reason, r.message) for r in dict.fromkeys(self._guards.values()) if r is not None
        )

    def gateways(self) -> tuple[IPAddress, ...]:
        """The default gateways, best first."""
        return tuple(gateway.address for gateway in self.view.gateways)

    # From start to end ---------------------------------------------------------------------------

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

    # What the lease tells ------------------------------------------------------------------------

    def plan(self, vips: Iterable[VirtualIPPlan]) -> None:
        """Take over the planned VirtualIPs; their addresses are closed from now on (rule 8)."""
        former_vips, former = self._vips, self._planned
        self._vips = {vip.uid: vip for vip in vips}
        self._planned, self._unreadable = {}, {}
        for vip in self._vips.values():
            before = former_vips.get(vip.uid)
            if before is not None and vip.uid in former and _place_in_plan(before) == _place_in_plan(vip):
                self._planned[vip.uid] = former[vip.uid]
                continue
            try:
                self._planned[vip.uid] = claim(vip, is_held=False)
            except ValueError as error:
                self._unreadable[vip.uid] = Refusal("BadAddress", f"{error}: correct spec.addresses")
        for key, held in self._held.items():
            self._follow(key, held)
        self._fence.close(unfenced(self._claims(), self.view, fenced=self._fence.addresses))
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

    def extend(self, key: Key, deadline_ns: int) -> int:
        """Move the fence's deadline of a held set; returns the one before."""
        held = self._held[key]
        self._fence.admit((address.ip for address in held.claim.addresses), deadline_ns)
        former_deadline_ns, held.deadline_ns = held.deadline_ns, deadline_ns
        return former_deadline_ns

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
        await self._attempt(
            "Unbind",
            [
                self._unbind(address.ip, index)
                for address in held.claim.addresses
                for index in tuple(self._bound_on[address.ip])
            ],
        )

    # Looking -------------------------------------------------------------------------------------

    async def watch(self, on_change: Callable[[], None]) -> None:
        """Look at every change and every `LOOK_S`, until cancelled; raises if it cannot look for long."""
        failures = 0
        listener = asyncio.create_task(self._listen())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._changed.wait()
                if listener.done():
                    listener.result()
                self._changed.clear()
                try:
                    await self.look()
                except KernelRefused as refused:
                    failures += 1
                    if failures == _BLIND_LOOKS:
                        raise
                    metrics.failed_actions.labels("Look").inc()
                    _log.warning("%s; it is tried again", refused)
                    await self._renew_blindly()
                else:
                    failures = 0
                    on_change()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _listen(self) -> None:
        try:
            async for _ in self._kernel.watch():
                self._changed.set()
        finally:
            self._changed.set()

    async def look(self) -> None:
        """Observe this node, and mend what is not as it should be."""
        async with self._look_lock:
            self.view = await self._kernel.observe()
            self._note_view()
            await self._read_guards()
            actions = plan(
                self._claims(),
                self.view,
                fenced=self._fence.addresses,
                guards=self._guards,
                lifetime_s=LIFETIME_S,
            )
            has_guarded = False
            for action in actions:
                if has_guarded and not isinstance(action, Close | Guard):
                    await self._read_guards()
                    has_guarded = False
                await self._act(action)
                has_guarded = has_guarded or isinstance(action, Guard)
            if has_guarded:
                await self._read_guards()
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
        for uid, claimed in self._planned.items():
            places = place(claimed, self.view)
            if isinstance(places, Refusal):
                continue
            link = self.view.link(next(iter(places.values())))
            assert link is not None
            self._interface_names[uid] = link.name
            missing = [ip for ip, index in places.items() if not self._announcer.is_ready(index, ip)]
            if missing:
                self._unannounceable[uid] = Refusal(
                    "NotArmed", f"the announcements of {', '.join(map(str, missing))} are still being built"
                )

    def _note_bound(self, held: _Held) -> None:
        held.bound = tuple(str(address.ip) for address in held.claim.addresses if address.ip in self._ours)

    async def _read_guards(self) -> None:
        wanted = roles(self._claims(), self.view)
        self._guards = {
            (index, role): await self._kernel.guarded(index, self._fence, role)
            for index, role in wanted.items()
        }

    def _claims(self) -> list[Claim]:
        return [*(held.claim for held in self._held.values()), *self._planned.values()]

    async def _act(self, action: Action) -> None:
        match action:
            case Close(address):
                if not self._is_held(address):
                    self._fence.close([address])
            case Guard(index, role):
                await self._attempt("Guard", [self._kernel.guard(index, self._fence, role)])
            case Unbind(address, index):
                await self._attempt("Unbind", [self._unbind(address, index)])
            case Bind(address, index, is_new):
                if self._guards.get((index, GuardRole.CARRIER)) is not None:
                    return  # never an address on a link that is not fenced: the guard is tried again too
                await self._attempt("Bind", [self._bind(address, index)])
                if is_new and self._is_taken(address):
                    self._announce([address], asks_gateway=False)
            case Forget(address):
                is_known = any(address == a.ip for claimed in self._claims() for a in claimed.addresses)
                if not (is_known or self._bound_on[address]):
                    self._fence.forget(address)

    async def _attempt(self, name: str, deeds: list[Coroutine[None, None, None]]) -> None:
        """Do things that may fail without stopping their neighbours; the next look plans them again."""
        for outcome in await asyncio.gather(*deeds, return_exceptions=True):
            if isinstance(outcome, KernelRefused):
                metrics.failed_actions.labels(name).inc()
                _log.warning("%s; it is tried again", outcome)
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
                refusal = Refusal("BindRefused", f"{refused}: mend it on this node")
                self._bind_refusals[address] = (asyncio.get_running_loop().time(), refusal)
                raise
            self._bind_refusals.pop(address, None)

    async def _unbind(self, address: IPAddress, index: LinkIndex) -> None:
        """Unbind, unless the address belongs there by now."""
        async with self._locks[address]:
            if self._place_of(address) != index:
                await self._kernel.unbind(address, index)
                self._bound_on[address].discard(index)

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

    # Announcing ----------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        """Have frames built for every address that could come to this node."""
        wanted: dict[tuple[IPAddress, LinkIndex], Announced] = {}
        for claimed in self._claims():
            places = place(claimed, self.view)
            for address, index in {} if isinstance(places, Refusal) else places.items():
                link = self.view.link(index)
                assert link is not None
                gateway = self.view.gateway(address.version, index)
                wanted[address, index] = Announced(index, link.mac, address, gateway)
        try:
            is_news = await self._announcer.prepare(wanted.values())
        except FramesUnavailable as unavailable:
            _log.warning("%s; it is tried again", unavailable)
        else:
            if is_news:
                held = [address.ip for each in self._held.values() for address in each.claim.addresses]
                self._announce(held, asks_gateway=False)
                self._changed.set()

    def _announce(self, addresses: Iterable[IPAddress], *, asks_gateway: bool) -> None:
        """Announce what is bound, where it is bound."""
        for address in addresses:
            if address not in self._bind_refusals:
                for index in self._bound_on[address]:
                    self._announcer.announce(index, [address], asks_gateway=asks_gateway)

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


def _place_in_plan(vip: VirtualIPPlan) -> tuple[str, tuple[str, ...], str | None]:
    """What a VirtualIP's claim is made of, besides its UID."""
    return vip.name, vip.addresses, vip.interface


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
