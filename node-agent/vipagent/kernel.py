"""Kernel: the door to this node's links, addresses, routes and packet filters, through pyroute2.

It speaks rtnetlink in the keeper's own loop (`AsyncIPRoute`: pyroute2's synchronous classes refuse to
run inside one). Verbs: `observe` looks at everything, `bind` and `unbind` add and remove an address,
`install` and `withdraw` a route or rule, `guard` and `guarded` attach the fence and read it back, `unguard`
takes it off, `watch` tells when to look again.

An address is bound as /32 or /128 with `noprefixroute`, so that it brings no subnet along; IPv6 with
`nodad`, so that it answers at once, and a preferred lifetime of 0, so that it is never chosen as a
source. Its IFA_PROTO mark tells ours from others', and its valid lifetime makes the kernel remove
it some seconds after a keeper's death: a broom, for the fence closed long before.

The fence's programs are attached through clsact at the first priority under a name of ours. A keeper
replaces what an earlier one left in one step of the kernel, so no packet ever meets a link without
either. Filters of others are never touched; one that comes before ours (an earlier place at the first
priority, or a tcx program, which the kernel runs before clsact) could take packets past the fence:
`guarded` says so, and `guard` overtakes it. Only a filter of another kind at that priority cannot be.

Every failure to look or to act is a `KernelRefused`; an absent address to unbind is none. The kernel may
lose an answer (netlink(7): a full receive buffer); one that is not there after `_ANSWER_S` is a failure too,
or whoever waits for it would wait for ever, with the lock of an address in hand. It answers while it is
asked, so the answers to 200 questions in one breath lost each other: `_MOST_ASKED` are asked at once, the
others wait for their turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import struct
from dataclasses import replace
from socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    NETLINK_ROUTE,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_RAW,
    SOL_SOCKET,
    if_indextoname,
    socket,
)
from typing import TYPE_CHECKING, Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from vipagent import rtnetlink
from vipagent.fence import has_tcx_programs
from vipagent.nftfence import NftFence
from vipagent.nodeview import BoundAddress, GuardRole, LinkIndex, NodeView, Refusal, Rule
from vipagent.packetfence import FenceRefused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

    from vipagent.fence import Direction, Fence
    from vipagent.nodeview import Gateway, IPAddress, RoutingEntry
    from vipagent.rtnetlink import Filter

_GETLINK, _GETADDR, _GETROUTE, _GETRULE, _GETFILTER = 18, 22, 26, 34, 46
_NEWADDR, _DELADDR = 20, 21
_REQUEST: Final = 0x005
_REQUEST_REPLACE: Final = 0x505
_REQUEST_DUMP: Final = 0x301
_DUMP_INTERRUPTED: Final = 0x10
_MESSAGE_ERROR, _MESSAGE_DONE = 2, 3
_LOOKS: Final = 5
_ANSWER_S: Final = 1.0
"""For how long the kernel may say nothing; whoever renews addresses blindly then is still in time."""
_PIECES: Final = 10
_MOST_ASKED: Final = 16
_READ_AT_ONCE: Final = 250
_EVENTS_BYTES: Final = 1 << 20
_LARGEST_DATAGRAM: Final = 1 << 16
_REST_S: Final = 0.2

# linux/rtnetlink.h: RTMGRP_LINK, _TC, _IPV4_IFADDR, _IPV6_IFADDR, RTNLGRP_IPV4_RULE, _IPV6_RULE. Not the
# routes: a node with a routing daemon has thousands, and each change of one would be a look.
_GROUPS: Final = 0x1 | 0x8 | 0x10 | 0x100 | 1 << 7 | 1 << 18

_SCOPE_LINK: Final = 253

_INGRESS, _EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_DIRECTIONS: Final[dict[int, Direction]] = {_INGRESS: "ingress", _EGRESS: "egress"}
_PRIORITY: Final = 1
_HANDLES: Final = (0x76, 0x77)
_NAME: Final = "vipkeeper"
_WITHOUT_CLASSIFIER: Final = (
    "this kernel's tc has no BPF. Use one with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF, or start the "
    "keeper with --fence-backend nftables"
)


class KernelRefused(Exception):  # noqa: N818 - a failure of the outside, told with its cause
    """The kernel did not do or tell what it was asked; the cause is chained."""


class InTheWay(KernelRefused):
    """What was to be installed is there already, or another in its place."""


class Kernel:
    """An open door; made by `Kernel.open`."""

    def __init__(self, route: AsyncIPRoute, events: socket) -> None:
        self._route = route
        self._events = events
        self._dumping = asyncio.Lock()  # netlink(7): a socket has one dump under way at a time
        self._turns = asyncio.Semaphore(_MOST_ASKED)
        self._changes = 0
        self._unchanging = asyncio.Event()
        self._unchanging.set()

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls) -> AsyncIterator[Kernel]:
        """Open the door in the running loop and the current network namespace."""
        try:
            async with AsyncIPRoute() as route:
                await route.setup_endpoint()
                with _listening() as events:
                    yield cls(route, events)
        except NetlinkError as cause:
            raise KernelRefused(f"cannot open rtnetlink: {cause}") from cause

    async def observe(self) -> NodeView:
        """Look at every link, address and default gateway, and at the routes and rules with our mark."""
        try:
            return await self._observe()
        except rtnetlink.Unreadable as cause:
            raise KernelRefused(f"cannot look at the kernel: {cause}") from cause

    async def _observe(self) -> NodeView:
        links = [rtnetlink.read_link(body) async for body in _each(await self._dump(ifinfmsg(), _GETLINK))]
        addresses: dict[LinkIndex, list[BoundAddress]] = {}
        async for body in _each(await self._dump(ifaddrmsg(), _GETADDR)):
            index, address = rtnetlink.read_address(body)
            addresses.setdefault(index, []).append(address)
        routes: list[Gateway | None] = []
        entries: set[RoutingEntry] = set()
        for family in (AF_INET, AF_INET6):
            bodies = await self._route_bodies(family)
            routes += [rtnetlink.read_default_route(body) async for body in _each(bodies)]
            entries |= await self._own_entries(family, bodies)
        return NodeView(
            links=tuple(replace(link, addresses=tuple(addresses.get(link.index, ()))) for link in links),
            gateways=tuple(sorted((r for r in routes if r is not None), key=lambda each: each.metric)),
            entries=frozenset(entries),
        )

    async def bind(self, address: IPAddress, link_index: int, *, lifetime_s: int) -> None:
        """Add an address with our mark, or give it a new lifetime."""
        body = rtnetlink.write_new_address(address, link_index, lifetime_s=lifetime_s)
        try:
            await self._change(self._ask, _NEWADDR, _REQUEST_REPLACE, body)
        except (NetlinkError, OSError) as cause:
            raise KernelRefused(f"cannot bind {address} on link {link_index}: {_why(cause)}") from cause

    async def unbind(self, address: IPAddress, link_index: int) -> None:
        """Remove an address that was bound by `bind`; an absent one, or link, or IP on a link, is fine."""
        body = rtnetlink.write_address(address, link_index)
        try:
            await self._change(self._ask, _DELADDR, _REQUEST, body)
        except (NetlinkError, OSError) as cause:
            if _code(cause) not in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO):
                raise KernelRefused(f"cannot unbind {address} on link {link_index}: {_why(cause)}") from cause

    async def install(self, entry: RoutingEntry) -> None:
        """Add a route or rule with our mark; `InTheWay` where its place is taken.

        By another, or by itself: the next `observe` tells, and to ask here would be to list whole tables.
        """
        try:
            await self._change(self._route_or_rule, "add", entry)
        except (NetlinkError, OSError) as cause:
            if _code(cause) == errno.EEXIST:
                raise InTheWay(
                    f"cannot install the {entry}: another is in its place already: remove that one, or give "
                    "this one another metric"
                ) from cause
            raise KernelRefused(f"cannot install the {entry}: {_why(cause)}") from cause

    async def withdraw(self, entry: RoutingEntry) -> None:
        """Remove a route or rule that was added by `install`, no other; an absent one, or link, is fine."""
        try:
            await self._change(self._route_or_rule, "del", entry)
        except (NetlinkError, OSError) as cause:
            if _code(cause) not in (errno.ESRCH, errno.ENOENT, errno.ENODEV):
                raise KernelRefused(f"cannot withdraw the {entry}: {_why(cause)}") from cause

    async def _route_or_rule(self, command: str, entry: RoutingEntry) -> None:
        if isinstance(entry, Rule):
            await self._route.rule(
                command,
                family=_family(entry),
                src=str(entry.source),
                src_len=entry.source.max_prefixlen,
                table=entry.table,
                priority=entry.priority,
                protocol=rtnetlink.ADDRESS_MARK,
            )
            return
        facts: dict[str, Any] = {
            "family": _family(entry),
            "dst": str(entry.destination),
            "oif": entry.link_index,
            "table": entry.table,
            "priority": entry.metric,
            "proto": rtnetlink.ADDRESS_MARK,
        }
        if entry.source is not None:
            facts["prefsrc"] = str(entry.source)
        if entry.via is not None:
            facts["gateway"] = str(entry.via)
        elif facts["family"] == AF_INET:
            facts["scope"] = _SCOPE_LINK
        await self._route.route(command, **facts)

    async def guard(self, link_index: int, fence: Fence | NftFence, role: GuardRole) -> None:
        """Attach the fence to a link for its role, in place of what an earlier keeper left there."""
        try:
            if isinstance(fence, NftFence):
                fence.guard(link_index, role)
                return
            await self._add_clsact(link_index)
            if role is GuardRole.CARRIER:
                await self._attach(link_index, _INGRESS, fence, fence.ingress_fd)
                await self._attach(link_index, _EGRESS, fence, fence.egress_fd)
            else:
                await self._attach(link_index, _EGRESS, fence, fence.other_egress_fd)
                stale = await self._ours(link_index, _INGRESS)
                fence.overtake(link_index, "ingress", None, [each.program_id for each in stale])
                for each in stale:
                    await self._detach(link_index, _INGRESS, each)
        except FenceRefused as refused:
            raise KernelRefused(f"cannot guard link {link_index}: {refused}") from refused
        except (NetlinkError, OSError) as cause:
            # Such a kernel loads the programs all the same, so the choice of a fence does not notice it.
            why = _WITHOUT_CLASSIFIER if _code(cause) == errno.ENOENT else _why(cause)
            raise KernelRefused(f"cannot guard link {link_index}: {why}") from cause

    async def unguard(self, link_index: int, fence: Fence | NftFence | None) -> bool:
        """Take whatever is left of a fence of ours of that kind off a link; whether there was any.

        BPF's clsact stays: the kernel deletes one with all filters that it has at that moment, and a network
        plugin's may be among them that was not there at the look before. Where BPF is not to be had
        (`fence` is None) it all stays, and this is a refusal: what was attached by tcx too could not be
        detached, and nobody could tell whose it is without the filter that has the same program.
        """
        try:
            if isinstance(fence, NftFence):
                return fence.unguard(link_index)
            stale = [(where, each) for where in _DIRECTIONS for each in await self._ours(link_index, where)]
            if stale and fence is None:
                raise KernelRefused(
                    f"cannot remove the BPF fence of a former keeper from link {link_index}: give this "
                    "keeper the capability BPF and a seccomp profile that allows bpf(2), if only for once, "
                    "or restart the node"
                )
            for parent, each in stale:
                assert fence is not None
                fence.overtake(link_index, _DIRECTIONS[parent], None, [each.program_id])
                await self._detach(link_index, parent, each)
        except FenceRefused as refused:
            raise KernelRefused(f"cannot unguard link {link_index}: {refused}") from refused
        except (NetlinkError, OSError) as cause:
            raise KernelRefused(f"cannot unguard link {link_index}: {_why(cause)}") from cause
        return bool(stale)

    async def guarded(self, link_index: int, fence: Fence | NftFence, role: GuardRole) -> Refusal | None:
        """Read the fence back: None if it is attached for this role and first, else what is wrong."""
        if isinstance(fence, NftFence):
            try:
                missing = fence.guarded(link_index, role)
            except FenceRefused as refused:
                raise KernelRefused(f"cannot look at nftables: {refused}") from refused
            return missing or (await self._bypass(link_index) if role is GuardRole.CARRIER else None)
        wanted = {_EGRESS: fence.other_egress_fd}
        if role is GuardRole.CARRIER:
            wanted = {_INGRESS: fence.ingress_fd, _EGRESS: fence.egress_fd}
        for parent, program_fd in wanted.items():
            direction = _DIRECTIONS[parent]
            filters = await self._filters(link_index, parent)
            if not any(each.program_id == fence.ids[program_fd] for each in filters):
                return Refusal(
                    "FenceMissing", f"the fence is not attached to link {link_index} ({direction})"
                )
            if filters[0].program_id != fence.ids[program_fd]:
                return Refusal(
                    "FenceBypassed",
                    f"another tc filter ({filters[0].kind} {filters[0].program_name}) comes before the fence "
                    f"on link {link_index} ({direction}): give it a priority after {_PRIORITY}",
                )
            try:
                programs_ahead = fence.programs_ahead(link_index, direction, program_fd)
            except FenceRefused as refused:
                raise KernelRefused(f"cannot look at link {link_index}: {refused}") from refused
            if programs_ahead:
                return Refusal(
                    "FenceBypassed",
                    f"a tcx program comes before the fence on link {link_index} ({direction}): "
                    "if it is not overtaken at the next look, something puts it there again and again",
                )
        if role is GuardRole.OTHER and await self._ours(link_index, _INGRESS):
            return Refusal("FenceMissing", f"link {link_index} is still guarded as a carrier")
        return None

    async def _bypass(self, link_index: int) -> Refusal | None:
        """Name the tc or tcx programs of others by which packets of a carrier may pass nftables by.

        A former keeper's BPF, which has a filter of ours, is none; tcx programs beside it are not told apart.
        """
        for parent, direction in _DIRECTIONS.items():
            filters = await self._filters(link_index, parent)
            foreign = next((each for each in filters if not _is_ours(each)), None)
            if foreign is not None:
                what = f"a tc filter ({foreign.kind} {foreign.program_name})"
            elif not filters and has_tcx_programs(link_index, direction):
                what = "a tcx program"
            else:
                continue
            return Refusal(
                "FenceBypassed",
                f"{what} on link {link_index} ({direction}) may send packets past nftables: give the keeper "
                "the capability BPF, for a fence that comes before it, or remove it",
            )
        return None

    def has_link(self, link_index: int) -> bool:
        """Whether a link is there at this moment."""
        try:
            if_indextoname(link_index)
        except OSError:
            return False
        return True

    async def watch(self) -> AsyncIterator[None]:
        """Yield after each change of a link, an address or a filter; several changes may yield once.

        A refresh of an address changes nothing and yields nothing. Where the kernel had more to tell
        than the socket could hold, it yields: look at everything.
        """
        seen: dict[Hashable, Hashable] = {}
        loop = asyncio.get_running_loop()
        while True:
            try:
                told = await loop.sock_recv(self._events, _LARGEST_DATAGRAM)
            except OSError as cause:
                if cause.errno != errno.ENOBUFS:
                    raise KernelRefused(f"cannot watch the kernel: {_why(cause)}") from cause
                seen.clear()
                yield
                continue
            news = [_is_news(kind, body, seen) for kind, body in rtnetlink.messages(told)]
            if any(news):
                yield

    async def _change(self, request: Callable[..., Awaitable[Any]], *what: Any, **how: Any) -> None:
        """Ask for a change and wait for the answer; raises `TimeoutError` (an `OSError`) if there is none."""
        self._changes += 1
        self._unchanging.clear()
        try:
            async with self._turns, _patience():
                await request(*what, **how)
        finally:
            self._changes -= 1
            if not self._changes:
                self._unchanging.set()

    async def _ask(self, kind: int, flags: int, body: bytes) -> None:
        """Send a request whose body is written already; raises what the kernel answers."""
        route = self._route
        sequence = route.addr_pool.alloc()
        route.msg_queue.ensure_tag(sequence)
        try:
            route.send(struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, route.epid) + body)
            async for _ in route.get(msg_seq=sequence):
                pass
        finally:
            route.msg_queue.free_tag(sequence)
            route.addr_pool.free(sequence, ban=0xFF)

    async def _rest(self) -> None:
        """Wait until this node changes nothing by itself; for a while, for others change things too."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_REST_S):
                await self._unchanging.wait()

    async def _dump(self, question: Any, kind: int) -> list[bytes]:
        """Ask for a list, whole: one that changed while it was told is asked for again."""
        for _look in range(_LOOKS):
            flags: set[int] = set()
            parser = self._raw_parser(flags)
            request = NetlinkRequest(
                self._route, question, msg_type=kind, msg_flags=_REQUEST_DUMP, parser=parser
            )
            bodies: list[bytes] = []
            try:
                async with self._dumping, _patience() as take_heart:
                    await request.send()
                    async for message in request.response():
                        take_heart()
                        bodies.append(message["body"])
            except (NetlinkError, OSError) as cause:
                raise KernelRefused(f"cannot look at the kernel: {_why(cause)}") from cause
            if not any(each & _DUMP_INTERRUPTED for each in flags):
                return bodies
            await self._rest()
        raise KernelRefused(f"cannot look at the kernel: it changed during each of {_LOOKS} looks")

    def _raw_parser(self, seen: set[int]) -> Callable[[bytes, int, int], Any]:
        """Return a parser that leaves a message's body to us (`rtnetlink` says why).

        It puts the flags of each message into `seen`, also of the last one, which pyroute2 keeps to itself.
        """

        def parse(data: bytes, offset: int, length: int) -> Any:
            kind, flags, sequence = struct.unpack_from("=HHI", data, offset + 4)
            seen.add(flags)
            if kind == _MESSAGE_ERROR:
                return self._route.marshal.parse_one_message(kind, flags, sequence, data, offset, length)
            header = {"type": kind, "flags": flags, "sequence_number": sequence, "error": None}
            if kind == _MESSAGE_DONE:
                (code,) = struct.unpack_from("=i", data, offset + 16)
                if code < 0:
                    header["error"] = NetlinkError(-code, "dump failed")
            return {"header": header, "body": data[offset + 16 : offset + length]}

        return parse

    async def _add_clsact(self, link_index: int) -> None:
        try:
            await self._change(self._route.tc, "add", "clsact", link_index)
        except NetlinkError as cause:
            if cause.code != errno.EEXIST:
                raise

    async def _attach(self, link_index: int, parent: int, fence: Fence, program_fd: int) -> None:
        """Put our program first; a replaced filter keeps its place, a new one goes before the others.

        What an earlier keeper left under tcx is known by its filter in clsact, which has the same program.
        """
        filters = await self._filters(link_index, parent)
        ours = [each for each in filters if _is_ours(each)]
        is_first = bool(ours) and filters[0] is ours[0]
        taken = {each.handle for each in ours}
        handle = ours[0].handle if is_first else next(h for h in _HANDLES if h not in taken)
        await self._change(
            self._route.tc,
            "replace-filter",
            "bpf",
            link_index,
            handle,
            parent=parent,
            prio=_PRIORITY,
            fd=program_fd,
            name=f"{_NAME}-{'in' if parent == _INGRESS else 'out'}",
            direct_action=True,
        )
        stale_ids = {each.program_id for each in ours} - {fence.ids[program_fd]}
        fence.overtake(link_index, _DIRECTIONS[parent], program_fd, stale_ids)
        for stale in ours:
            if stale.handle != handle:
                await self._detach(link_index, parent, stale)

    async def _detach(self, link_index: int, parent: int, stale: Filter) -> None:
        await self._change(
            self._route.tc,
            "del-filter",
            "bpf",
            link_index,
            stale.handle,
            parent=parent,
            prio=stale.priority,
        )

    async def _ours(self, link_index: int, parent: int) -> list[Filter]:
        return [each for each in await self._filters(link_index, parent) if _is_ours(each)]

    async def _filters(self, link_index: int, parent: int) -> list[Filter]:
        """List the filters that a packet meets, in order; a link without clsact has none."""
        question = tcmsg()
        question["index"], question["parent"] = link_index, parent
        try:
            bodies = await self._dump(question, _GETFILTER)
        except KernelRefused as refused:
            if _code(refused.__cause__) in (errno.EINVAL, errno.ENOENT, errno.ENODEV):
                return []
            raise
        try:
            filters = [rtnetlink.read_filter(body) for body in bodies if len(body) > rtnetlink.FILTER_HEADER]
        except rtnetlink.Unreadable as cause:
            raise KernelRefused(f"cannot read the filters of link {link_index}: {cause}") from cause
        return [each for each in filters if each.handle and each.chain == 0]

    async def _route_bodies(self, family: int) -> list[bytes]:
        question = rtmsg()
        question["family"] = family
        return await self._dump(question, _GETROUTE)

    async def _own_entries(self, family: int, route_bodies: list[bytes]) -> set[RoutingEntry]:
        """Pick the routes with our mark, and list the rules that have it."""
        routes = [rtnetlink.read_own_route(body) async for body in _each(route_bodies)]
        rules = [rtnetlink.read_own_rule(body) async for body in _each(await self._rule_bodies(family))]
        return {each for each in (*routes, *rules) if each is not None}

    async def _rule_bodies(self, family: int) -> list[bytes]:
        """List the rules; a kernel without policy routing has none."""
        question = fibmsg()
        question["family"] = family
        try:
            return await self._dump(question, _GETRULE)
        except KernelRefused as refused:
            if _code(refused.__cause__) == errno.EOPNOTSUPP:
                return []
            raise


async def _each(bodies: list[bytes]) -> AsyncIterator[bytes]:
    """Yield message after message, and let others go on in between: kube-ipvs0 alone may have thousands."""
    for number, body in enumerate(bodies, 1):
        yield body
        if not number % _READ_AT_ONCE:
            await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def _patience() -> AsyncIterator[Callable[[], None]]:
    """Wait for an answer for `_ANSWER_S` of this keeper's own turns, anew after each call of what is yielded.

    A keeper that was given no processor for a second finds the answer there, and the second over: it was not
    the kernel that was silent. So the time is counted in pieces, and who stands still loses one of them.
    Raises `TimeoutError`.
    """
    loop = asyncio.get_running_loop()
    left = _PIECES
    timer: asyncio.TimerHandle | None = None
    async with asyncio.timeout(None) as limit:

        def count() -> None:
            nonlocal left, timer
            left -= 1
            if left:
                timer = loop.call_later(_ANSWER_S / _PIECES, count)
            else:
                limit.reschedule(loop.time())

        def take_heart() -> None:
            nonlocal left
            left = _PIECES

        timer = loop.call_later(_ANSWER_S / _PIECES, count)
        try:
            yield take_heart
        finally:
            timer.cancel()


def _listening() -> socket:
    """Return a socket that is told of changes.

    pyroute2 has one, and makes objects that only the garbage collector removes of each word; the keeper's
    collector leaves alone what was in use when it looked.
    """
    events = socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE)
    try:
        events.setsockopt(SOL_SOCKET, SO_RCVBUF, _EVENTS_BYTES)
        events.bind((0, _GROUPS))
    except OSError as cause:
        events.close()
        raise KernelRefused(f"cannot watch the kernel: {_why(cause)}") from cause
    return events


def _family(entry: RoutingEntry) -> int:
    subject = entry.source if isinstance(entry, Rule) else entry.destination
    return AF_INET if subject.version == 4 else AF_INET6  # noqa: PLR2004 - the IP version


def _is_ours(each: Filter) -> bool:
    return each.program_name.startswith(_NAME) and each.handle in _HANDLES


def _is_news(kind: int, body: bytes, seen: dict[Hashable, Hashable]) -> bool:
    """Tell a change from the echo of a refresh: an address that is as it was, but for its lifetime."""
    if kind not in (_NEWADDR, _DELADDR):
        return True
    try:
        key, state = rtnetlink.read_address_event(body)
    except rtnetlink.Unreadable:
        return True
    if kind == _DELADDR:
        seen.pop(key, None)
        return True
    is_news = seen.get(key) != state
    seen[key] = state
    return is_news


def _code(cause: BaseException | None) -> int | None:
    if isinstance(cause, NetlinkError):
        return int(cause.code)
    return cause.errno if isinstance(cause, OSError) else None


def _why(cause: Exception) -> str:
    if isinstance(cause, TimeoutError):
        return f"it did not answer within {_ANSWER_S:.0f} s"
    match _code(cause):
        case errno.EPERM | errno.EACCES:
            return f"not permitted ({cause}): the keeper needs the capability NET_ADMIN, and the link IPv6"
        case errno.ENODEV:
            return f"there is no such link any more ({cause})"
        case _:
            return str(cause)
