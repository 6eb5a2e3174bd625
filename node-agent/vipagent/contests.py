"""Contests: every conflict watch of this node, kept by the clock, the listener and the node's announcer.

`conflicts` decides for one address set. Here its sightings come in, read from frames by `sightings`, and its
acts go out; whoever asks whether an address set may be bound is told when the answer has changed.

A sighting counts only while the lease runs at the moment at which its frame is read, and if no link of this
node has that MAC address.

**One frame, or one moment, may concern every set** that this node holds: an advert names 255 addresses, and
at a cold start all watches began together. The watches are told at once, which takes microseconds each. What
they want sent and what is to be told of them waits for its turn: at most `_MOST_AT_ONCE` sets are dealt with
before the loop turns, and all of them are told in one call.

**What is remembered** of an address set that this node has no more is kept in memory, for an hour: that this
keeper has ceded it, and how often. Another keeper, and this one after a restart, begin anew. And for as long
as a VirtualIP is planned, the addresses that were planned for it before: those of a set that takes the place
of another are not probed for, for whoever answers may be the old set's owner.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from ipaddress import ip_interface
from itertools import islice
from typing import TYPE_CHECKING, Final

from vipagent import metrics, sightings
from vipagent.conflicts import Act, Watch
from vipagent.sightings import ARP_PROTOCOL
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vipagent.listener import Listener
    from vipagent.messages import Key
    from vipagent.node import Node
    from vipagent.nodeview import IPAddress, Refusal
    from vipagent.sightings import Sighting
    from vipapi.nodeplan import VirtualIPPlan

_MOST_AT_ONCE: Final = 16

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watched:
    """One watch. Until its addresses are bound only those that are `probed` are asked for and heard about."""

    vip: VirtualIPPlan
    addresses: frozenset[IPAddress]
    probed: frozenset[IPAddress]
    watch: Watch
    told: Refusal | None = None
    may_bind: bool = True


class Contests:
    """The watches of the address sets whose leases this node has; used inside a running event loop.

    `lasts_until` is asked for the end of a lease, and `may_cede` whether no other node of ours can hold a
    set meanwhile; `on_change` is told whose answers have changed, soon after they have.
    """

    def __init__(
        self,
        *,
        node: Node,
        listener: Listener,
        now_ns: Callable[[], int],
        lasts_until: Callable[[Key], int],
        may_cede: Callable[[Key], bool],
        on_change: Callable[[tuple[Key, ...]], None],
    ) -> None:
        self._node = node
        self._listener = listener
        self._now_ns = now_ns
        self._lasts_until = lasts_until
        self._may_cede = may_cede
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._watched: dict[Key, _Watched] = {}
        self._keys: dict[bytes, Key] = {}
        self._former: dict[Key, Watch] = {}
        self._planned: dict[str, frozenset[IPAddress]] = {}
        self._outdated: dict[str, frozenset[IPAddress]] = {}
        self._acts: dict[Key, Act] = {}
        self._changed: dict[Key, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due_ns = 0
        self._turn: asyncio.Handle | None = None
        listener.tell(self._hear)

    def plan(self, vips: Iterable[VirtualIPPlan]) -> None:
        """Take over the planned VirtualIPs: what addresses they had before is remembered."""
        planned = {vip.uid: _addresses(vip) for vip in vips}
        outdated = {uid: self._outdated.get(uid, frozenset()) for uid in planned}
        for uid in planned.keys() & self._planned.keys():
            if planned[uid] != self._planned[uid]:
                outdated[uid] |= self._planned[uid]
        self._planned, self._outdated = planned, outdated

    def follow(self) -> None:
        """This node's links or its plan may have changed: listen where addresses could be."""
        self._listener.listen(self._node.carried)
        metrics.lost_frames.inc(self._listener.take_losses())

    def open(self, key: Key, vip: VirtualIPPlan, *, is_first: bool) -> None:
        """The lease of an address set was won; `is_first` is that nobody is known to have held it."""
        now_ns = self._now_ns()
        addresses = _addresses(vip)
        former = self._former.pop(key, None)
        probed = addresses - self._outdated.get(vip.uid, frozenset())
        watch = Watch.begin(
            now_ns, is_first=is_first and bool(probed), may_cede=not vip.is_held_alone, former=former
        )
        self._watched[key] = _Watched(vip, addresses, probed or addresses, watch, may_bind=watch.may_bind)
        self._keys |= dict.fromkeys((address.packed for address in addresses), key)
        self._arm(watch.deadline_ns, now_ns)

    def close(self, key: Key) -> None:
        """The lease of an address set is over."""
        now_ns = self._now_ns()
        watched = self._watched.pop(key)
        self._former = {each: watch for each, watch in self._former.items() if watch.remembers(now_ns)}
        if watched.watch.remembers(now_ns):
            self._former[key] = watched.watch
        for address in watched.addresses:
            if self._keys[address.packed] == key:
                self._pass_on(address)
        _tell(watched, None)

    def _pass_on(self, address: IPAddress) -> None:
        """Tell of an address another held set that has it: that of another domain may."""
        heir = next((key for key, each in self._watched.items() if address in each.addresses), None)
        if heir is None:
            del self._keys[address.packed]
        else:
            self._keys[address.packed] = heir

    def stop(self) -> None:
        """Watch nothing more."""
        for waiting in (self._timer, self._turn):
            if waiting is not None:
                waiting.cancel()

    def may_bind(self, key: Key) -> bool:
        """Whether an address set may be bound as far as others on the segment go."""
        return self._watched[key].watch.may_bind

    def conflict(self, key: Key) -> Problem | None:
        """What people are to know of others who have an address of this set."""
        watched = self._watched.get(key)
        told = None if watched is None else watched.told
        return None if told is None else Problem(told.reason, told.message)

    def _hear(self, protocol: int, frame: bytes) -> int:
        """Take a frame; returns how many addresses of held sets it claims."""
        found = sightings.read(protocol, frame, self._keys)
        if not found:
            return 0
        now_ns = self._now_ns()
        if any(link.mac == found[0].mac for link in self._node.view.links):
            return len(found)
        counts = [self._see(sighting, now_ns) for sighting in found]
        if any(counts):
            kind = "VRRP" if found[0].router is not None else "ARP" if protocol == ARP_PROTOCOL else "NDP"
            metrics.foreign_claims.labels(kind).inc()
        return len(found)

    def _see(self, sighting: Sighting, now_ns: int) -> bool:
        """Tell the watch that it concerns; returns whether it counted as a claim."""
        key = self._keys[sighting.address.packed]
        watched = self._watched[key]
        if now_ns >= self._lasts_until(key) or watched.watch.is_of_before(sighting, now_ns):
            return False
        if watched.watch.may_bind or sighting.address in watched.probed:
            before = watched.watch.step
            watched.watch.may_cede = self._may_cede(key)
            self._do(key, watched, watched.watch.receive(sighting, now_ns))
            if watched.watch.step is not before:
                self._arm(watched.watch.deadline_ns, now_ns)
        return True

    def _wake(self) -> None:
        """Let what is due happen, for some of the sets; the timer comes back at once for the others."""
        self._timer = None
        now_ns = self._now_ns()
        due = ((key, each) for key, each in self._watched.items() if each.watch.deadline_ns <= now_ns)
        for key, watched in tuple(islice(due, _MOST_AT_ONCE)):
            watched.watch.may_cede = self._may_cede(key)
            self._do(key, watched, watched.watch.expire(now_ns))
        due_ns = min((watched.watch.deadline_ns for watched in self._watched.values()), default=None)
        if due_ns is not None:
            self._arm(due_ns, now_ns)

    def _arm(self, due_ns: int, now_ns: int) -> None:
        """Wake at this time at the latest."""
        if self._timer is not None:
            if self._due_ns <= due_ns:
                return
            self._timer.cancel()
        self._due_ns = due_ns
        self._timer = self._loop.call_later(max(0, due_ns - now_ns) / 1e9, self._wake)

    def _do(self, key: Key, watched: _Watched, act: Act | None) -> None:
        """Have done in its turn what a watch wants sent and what is new of it."""
        if act is not None:
            self._acts[key] = act
        if watched.watch.conflict != watched.told or watched.watch.may_bind != watched.may_bind:
            self._changed[key] = None
        if self._turn is None and (self._acts or self._changed):
            self._turn = self._loop.call_soon(self._work)

    def _work(self) -> None:
        self._turn = None
        for key in tuple(islice(self._acts, _MOST_AT_ONCE)):
            act, watched = self._acts.pop(key), self._watched.get(key)
            if watched is None:
                continue
            if act is Act.ANNOUNCE:
                self._node.announce(key)
            else:
                self._node.probe(key, watched.addresses if watched.watch.may_bind else watched.probed)
        changed = [key for key in islice(self._changed, _MOST_AT_ONCE) if key in self._watched]
        for key in tuple(islice(self._changed, _MOST_AT_ONCE)):
            del self._changed[key]
        for key in changed:
            watched = self._watched[key]
            watched.may_bind = watched.watch.may_bind
            conflict = watched.watch.conflict
            if conflict != watched.told:
                _tell(watched, conflict)
        if self._acts or self._changed:
            self._turn = self._loop.call_soon(self._work)
        if changed:
            self._on_change(tuple(changed))


def _addresses(vip: VirtualIPPlan) -> frozenset[IPAddress]:
    return frozenset(ip_interface(text).ip for text in vip.addresses)


def _tell(watched: _Watched, conflict: Refusal | None) -> None:
    """Log and measure what is in conflict now, in the place of what was."""
    if watched.told is not None:
        metrics.conflict.remove(watched.vip.name, watched.told.reason)
    if conflict is not None:
        metrics.conflict.labels(watched.vip.name, conflict.reason).set(1)
        _log.warning("%s: %s", watched.vip.name, conflict.message)
    elif watched.told is not None:
        _log.info("%s: nobody else has its addresses any more", watched.vip.name)
    watched.told = conflict
