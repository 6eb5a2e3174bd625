"""Nftfence: the door to nftables, which is the packet fence where BPF is not to be had.

It has the verbs of every `PacketFence`, and guards links itself. What it puts into the kernel is written by
`nftfilters`, whose docstring tells how an address is open and until when; it is sent over a netlink socket of
its own, so no `nft` program is needed. A call returns when the kernel has done it, and packets see it.

Requirements: Linux 5.18, as for all of the keeper, with CONFIG_NF_TABLES_NETDEV, _INET and
CONFIG_NETFILTER_EGRESS; the capability NET_ADMIN and no other.

**Taking over.** The first change of a new keeper makes the tables afresh in one step of the kernel, with
every address that its predecessor had made known, closed, and every link that was guarded.

**Others.** The ruleset is everybody's: `nft flush ruleset`, or a program that deletes what is not its own,
would take the fence away and leave nothing of it. From Linux 6.9 on a table can belong to the socket that
made it: ours do. A flush of others goes by them, and what would change them is refused, for as long as this
keeper lives, frozen or not; its death leaves them as they are, and free for whoever comes next.

On an older kernel nothing keeps others away. Each change of the ruleset by anyone counts its generation
up, so a look is cheap; `watch` tells of each, and `mend` makes afresh what is missing. Between the two,
some milliseconds, the fence is open. A refresh that meets a deleted table makes it afresh too.

A ruleset under change by another program is locked, so a refresh may take as long as that takes, and the
keeper waits with it.

What a link's new name does to a chain differs by kernel (from Linux 6.16 on a chain follows the name), so
`guarded` compares names, and `guard` makes the chain afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import struct
import time
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Final, Self

from vipagent import nftables, nftfilters
from vipagent.nftables import NETDEV, OWNED, Message
from vipagent.nftfilters import FAMILIES, GRATUITOUS, KNOWN, TABLE
from vipagent.nodeview import GuardRole, Refusal
from vipagent.packetfence import MAX_ADDRESSES, TOO_MANY, FenceRefused, PacketFence

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator

    from vipagent.nodeview import IPAddress

_NETFILTER: Final = 12
_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP = 270, 1, 7
_SO_ATTACH_FILTER, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 26, 32, 33
_BUFFER: Final = 1 << 25
_RECEIVED: Final = 1 << 18
_PROMPT_NS: Final = 50_000_000
_TRIES: Final = 3
_LOOKS: Final = 5
_MOST_LISTED: Final = 3
_ABSENT: Final = (errno.ENOENT, errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
"""What a kernel answers that has no such table, no such family, or no nftables at all."""

_Fact = tuple[str, int, str, int | str]
"""Something that our tables have: what, the family, its chain or set; and how many rules, which link, key."""


class NftFence(PacketFence):
    """The fence as nftables of this network namespace; made by `load`, let go of by `release`.

    Letting go ends nothing in the kernel. Not to be used by two threads, as `Fence`. `repairs` is how often
    it had to be made afresh.
    """

    def __init__(self, door: socket.socket) -> None:
        self._door = door
        self._table_flags = 0
        self._deadlines: dict[IPAddress, int] = {}
        self._guards: dict[int, tuple[str, GuardRole]] = {}
        self._is_installed = False
        self._generation = -1
        self._chains: dict[str, str] | None = None
        self._lack: tuple[int, frozenset[_Fact]] = -1, frozenset()
        self._is_interrupted = False
        self.repairs = 0

    @classmethod
    def load(cls, *, may_own: bool = True) -> Self:
        """Open the door and try what will be needed; changes nothing. Raises FenceRefused.

        Without `may_own` others can take its tables away, as on any kernel before Linux 6.9.
        """
        made = cls(_open())
        try:
            if not (may_own and made._can_own()):
                made._commit(nftfilters.trial())
        except OSError as cause:
            made.release()
            raise _refusal(cause, "take the fence as nftables") from cause
        return made

    def _can_own(self) -> bool:
        """Try all that will be needed in tables of our own, and make ours such; False if none can be."""
        try:
            self._commit(nftfilters.trial(OWNED))
        except OSError as cause:
            if cause.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            return False
        self._table_flags = OWNED
        return True

    @property
    def owns_tables(self) -> bool:
        """Whether the kernel keeps others from changing its tables while this fence is held."""
        return bool(self._table_flags)

    @property
    def addresses(self) -> frozenset[IPAddress]:
        """The addresses that the fence knows: all that were closed or admitted and not forgotten."""
        return frozenset(self._deadlines)

    def admit(self, addresses: Iterable[IPAddress], deadline_ns: int) -> None:
        """Let addresses pass until a CLOCK_BOOTTIME deadline, and not after it.

        The clocks are read right before, and a change that took long is made again from what they say then.
        """
        wanted = dict.fromkeys(addresses, deadline_ns)
        if not wanted:
            return
        new = [address for address in wanted if address not in self._deadlines]
        attempt = f"set the fence of {_listed(wanted)}"
        if len(self._deadlines) + len(new) > MAX_ADDRESSES:
            raise _refusal(OSError(errno.E2BIG, ""), attempt)
        for _try in range(_TRIES):
            wall_ns, now_ns = _clocks()
            change = [
                *nftfilters.learn(new),
                *nftfilters.admit(wanted, deadline_ns, now_ns=now_ns, wall_ns=wall_ns),
            ]
            self._change(change, self._deadlines | wanted, attempt)
            self._deadlines |= wanted
            new = []
            if deadline_ns <= now_ns or _clocks()[1] - now_ns < _PROMPT_NS:
                break

    def forget_all(self, addresses: Iterable[IPAddress]) -> None:
        """Forget addresses, all in one change."""
        gone = {each: None for each in addresses if each in self._deadlines}
        if not gone:
            return
        left = {each: deadline for each, deadline in self._deadlines.items() if each not in gone}
        change = [message for each in gone for message in nftfilters.forget(each)]
        self._change(change, left, f"forget the fence of {_listed(gone)}")
        self._deadlines = left

    def release(self) -> None:
        """Close the door; the tables go on with the deadlines they have."""
        self._door.close()

    def guard(self, link_index: int, role: GuardRole) -> None:
        """Judge the packets of a link for its role from now on."""
        attempt = f"guard link {link_index}"
        name = _name(link_index)
        if name is None:
            raise _refusal(OSError(errno.ENODEV, ""), attempt)
        self._rename_guards()
        with self._guards_as_before(attempt):
            is_whole = self._is_installed and not (self._is_doubtful() and self._missing())
            self._guards = {**self._guards, link_index: (name, role)}
            if not is_whole:
                self._install(self._deadlines, attempt)
                return
            there = self._guard_chains()
            wanted = self._wanted_chains()
            stale = [chain for chain, link in there.items() if wanted.get(chain) != link]
            change = [*nftfilters.unguard(stale)]
            for index, (its_name, its_role) in self._guards.items():
                if any(there.get(each) != its_name for each in nftfilters.guard_chains(index, its_role)):
                    doubled = [each for each in nftfilters.guard_chains(index, its_role) if each in there]
                    change += nftfilters.unguard(each for each in doubled if each not in stale)
                    change += nftfilters.guard(index, its_name, its_role)
            if change:
                self._change(change, self._deadlines, attempt)

    def unguard(self, link_index: int) -> bool:
        """Judge no more of a link's packets, also where an earlier keeper did; whether they were judged."""
        attempt = f"unguard link {link_index}"
        if not self._is_installed:
            self._install(self._deadlines, attempt)
        if link_index not in self._guards:
            return False
        chains = {chain for role in GuardRole for chain in nftfilters.guard_chains(link_index, role)}
        with self._guards_as_before(attempt):
            self._guards = {index: guard for index, guard in self._guards.items() if index != link_index}
            stale = sorted(chains & self._guard_chains().keys())
            if stale:
                self._change(nftfilters.unguard(stale), self._deadlines, attempt)
        return True

    @contextlib.contextmanager
    def _guards_as_before(self, attempt: str) -> Iterator[None]:
        """Have the chains read anew, and the guards be as they were where the change within is refused."""
        before = self._guards
        self._chains = None
        try:
            yield
        except FenceRefused:
            self._guards = before
            raise
        except OSError as cause:
            self._guards = before
            raise _refusal(cause, attempt) from cause

    def look_anew(self) -> None:
        """Have the next `guarded` ask the kernel which links have a chain; those after it believe that.

        The kernel takes the chains of a link that goes without a new generation, so no look believes the
        one before.
        """
        self._chains = None

    def guarded(self, link_index: int, role: GuardRole) -> Refusal | None:
        """Read the fence back: None if the link's packets are judged for this role, else what is wrong."""
        try:
            name = _name(link_index)
            if self._is_doubtful() and self._missing():
                return Refusal("FenceMissing", f"nftables of this node lack part of the table {TABLE}")
            if self._chains is None:
                self._chains = self._guard_chains()
            there = self._chains
        except OSError as cause:
            raise _refusal(cause, f"show the fence of link {link_index}") from cause
        wanted = nftfilters.guard_chains(link_index, role)
        if name is None or any(there.get(chain) != name for chain in wanted):
            return Refusal("FenceMissing", f"nftables do not judge the packets of link {link_index}")
        if role is GuardRole.OTHER and set(nftfilters.guard_chains(link_index, GuardRole.CARRIER)) & set(
            there
        ):
            return Refusal("FenceMissing", f"link {link_index} is still guarded as a carrier")
        return None

    async def watch(self) -> AsyncIterator[str]:
        """Yield after each change of nftables by another program, with that program's name."""
        news = asyncio.Event()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as ear:
            ear.bind((0, 0))
            ear.settimeout(0)
            _hear_generations_only(ear)
            ear.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES_GROUP)
            loop = asyncio.get_running_loop()
            loop.add_reader(ear, news.set)
            try:
                while True:
                    await news.wait()
                    news.clear()
                    for program in self._heard(ear):
                        yield program
            finally:
                loop.remove_reader(ear)

    def mend(self) -> bool:
        """Make afresh what another program took away; whether there was anything. Raises FenceRefused."""
        if not self._is_installed:
            return False
        try:
            if not (self._is_doubtful() and self._missing()):
                return False
        except OSError as cause:
            raise _refusal(cause, "show the fence") from cause
        self._install(self._deadlines, "take the fence again after it was taken away")
        return True

    def uninstall(self) -> bool:
        """Take our tables away, whoever made them; whether there were any. Raises FenceRefused."""
        try:
            is_there = bool(self._found())
            if is_there:
                self._commit([each for family in FAMILIES for each in nftfilters.remove(family)])
        except OSError as cause:
            raise _refusal(cause, "take the fence away") from cause
        self._is_installed, self._deadlines, self._guards = False, {}, {}
        return is_there

    def _heard(self, ear: socket.socket) -> list[str]:
        ours = self._door.getsockname()[0]
        programs: list[str] = []
        while True:
            try:
                answer = ear.recv(_RECEIVED)
            except BlockingIOError:
                return programs
            except OSError as cause:
                if cause.errno != errno.ENOBUFS:
                    raise
                programs.append("one of many programs")
                continue
            for kind, sender, body in nftables.messages_of(answer):
                if nftables.is_about(kind, Message.NEW_GENERATION) and sender != ours:
                    programs.append(nftables.text_of(nftables.attributes_of(body).get(3, b"unknown")))

    def _change(self, change: Iterable[bytes], deadlines: dict[IPAddress, int], attempt: str) -> None:
        """Change what is there; where that fails, make everything afresh so that it ends up as wanted."""
        if self._is_installed:
            try:
                self._commit(change)
            except OSError as cause:
                if cause.errno in (errno.EPERM, errno.ENOMEM):
                    raise _refusal(cause, attempt) from cause
            else:
                return
        self._install(deadlines, attempt)

    def _install(self, deadlines: dict[IPAddress, int], attempt: str) -> None:
        try:
            if not self._is_installed:
                deadlines = self._inherited() | deadlines
            self._rename_guards()
            guards = [(index, name, role) for index, (name, role) in self._guards.items()]
            wall_ns, now_ns = _clocks()
            change = list(
                nftfilters.install(
                    deadlines, guards, now_ns=now_ns, wall_ns=wall_ns, table_flags=self._table_flags
                )
            )
            self._generation = self._asked_generation()
            self._chains = None
            self._commit(change)
        except OSError as cause:
            raise _refusal(cause, attempt) from cause
        self.repairs += self._is_installed
        self._deadlines = deadlines
        self._is_installed = True

    def _inherited(self) -> dict[IPAddress, int]:
        """Take over what an earlier keeper left: its links, and its addresses, closed."""
        found = self._found()
        for what, _family, chain, link in found:
            kind, _, index = chain.partition("-")
            if what == "chain" and link and index.isdigit():
                role = GuardRole.OTHER if kind == "other" else GuardRole.CARRIER
                self._guards.setdefault(int(index), (str(link), role))
        keys = [
            bytes.fromhex(str(key)) for what, _family, name, key in found if (what, name) == ("key", KNOWN)
        ]
        return dict.fromkeys(map(nftfilters.address_of, keys), 0)

    def _rename_guards(self) -> None:
        """Forget links that are gone, and learn the names of the others anew."""
        self._guards = {
            index: (name, role)
            for index, (_, role) in self._guards.items()
            if (name := _name(index)) is not None
        }

    def _wanted_chains(self) -> dict[str, str]:
        return {
            chain: name
            for index, (name, role) in self._guards.items()
            for chain in nftfilters.guard_chains(index, role)
        }

    def _guard_chains(self) -> dict[str, str]:
        """Read which link each chain of guarded links stands at."""
        chains = self._ask(nftables.ask_chains(NETDEV))
        facts = _facts(chains)
        return {chain: str(link) for what, family, chain, link in facts if what == "chain" and link}

    def _is_doubtful(self) -> bool:
        """Whether somebody else has changed nftables since ours were last seen whole."""
        return self._asked_generation() != self._generation

    def _missing(self) -> frozenset[_Fact]:
        """Return what our tables lack; where that is nothing, there is no doubt any more."""
        generation = self._asked_generation()
        if self._lack[0] == generation:
            return self._lack[1]
        self._rename_guards()
        guards = [(index, name, role) for index, (name, role) in self._guards.items()]
        wanted = _facts(_split(nftfilters.install({}, guards, now_ns=0, wall_ns=0)))
        wanted = wanted.union(*map(_facts_of, self._deadlines))
        missing = wanted - self._found()
        if missing:
            self._lack = generation, missing
        else:
            self._generation = generation
        return missing

    def _found(self) -> frozenset[_Fact]:
        """Read what our tables have."""
        questions = [nftables.ask_chains(family) for family in FAMILIES]
        questions += [nftables.ask_rules(family, TABLE) for family in FAMILIES]
        questions += [nftables.ask_elements(family, TABLE, KNOWN) for family in FAMILIES]
        questions.append(nftables.ask_elements(NETDEV, TABLE, GRATUITOUS))
        answers: list[tuple[int, bytes]] = []
        for question in questions:
            try:
                answers += self._ask(question)
            except OSError as cause:
                if cause.errno not in _ABSENT:
                    raise
        return _facts(answers)

    def _commit(self, messages: Iterable[bytes]) -> None:
        """Have the kernel do a batch, all or nothing; raises OSError."""
        messages = list(messages)
        self._door.send(nftables.batch(messages))
        told = [nftables.refusal_in(kind, body) for kind, body in self._received()]
        refusals = [each for each in told if each is not None]
        for each in refusals:
            if each:
                raise OSError(each, os.strerror(each))
        if not refusals:
            raise OSError(errno.EIO, "nftables did not answer")
        if self._asked_generation() == self._generation + 1:
            self._generation += 1

    def _asked_generation(self) -> int:
        for kind, body in self._ask(nftables.ask_generation()):
            if nftables.is_about(kind, Message.NEW_GENERATION):
                return nftables.number_of(nftables.attributes_of(body)[1])
        raise OSError(errno.EIO, "nftables did not answer")

    def _ask(self, question: bytes) -> list[tuple[int, bytes]]:
        """Ask, and return the type and body of each message of the answer; raises OSError.

        A list that changed while it was told is asked for again.
        """
        for _look in range(_LOOKS):
            self._door.send(question)
            answers = self._received()
            for kind, body in answers:
                if refusal := nftables.refusal_in(kind, body):
                    raise OSError(refusal, os.strerror(refusal))
            if not self._is_interrupted:
                return answers
        raise OSError(errno.EINTR, f"it changed during each of {_LOOKS} looks")

    def _received(self) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        self._is_interrupted = False
        while True:
            try:
                answer = self._door.recv(_RECEIVED)
            except BlockingIOError:
                return found
            found += [(kind, body) for kind, _sender, body in nftables.messages_of(answer)]
            self._is_interrupted = self._is_interrupted or nftables.is_interrupted(answer)


def clear() -> bool:
    """Take our tables away where there are any; False where there are none, or no nftables at all."""
    try:
        door = _open()
    except FenceRefused:
        return False
    with NftFence(door) as fence:
        return fence.uninstall()


def _open() -> socket.socket:
    try:
        door = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    except OSError as cause:
        raise _refusal(cause, "be asked at all") from cause
    try:
        door.bind((0, 0))
        door.settimeout(0)  # the kernel answers within the call that asks
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            door.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    except OSError as cause:
        door.close()
        raise _refusal(cause, "be asked at all") from cause
    return door


def _facts(answers: Iterable[tuple[int, bytes]]) -> frozenset[_Fact]:
    """Read from messages, the kernel's or ours, what our tables have; one form for both."""
    rules: dict[tuple[int, str], int] = {}
    facts: set[_Fact] = set()
    for kind, body in answers:
        family, attributes = body[0] if body else 0, nftables.attributes_of(body)
        if nftables.text_of(attributes.get(1, b"")) != TABLE:
            continue
        name = nftables.text_of(attributes.get(2, b""))
        if nftables.is_about(kind, Message.NEW_CHAIN):
            hook = nftables.attributes_of(attributes.get(4, b""), 0)
            link = nftables.text_of(hook.get(3, b""))
            facts.add(("chain", family, nftables.text_of(attributes[3]), link))
        elif nftables.is_about(kind, Message.NEW_RULE):
            count = rules.get((family, name), 0) + 1
            # The chain of an address that is open has a rule more than that of one that is closed.
            rules[family, name] = 1 if name.startswith("vip-") else count
        elif nftables.is_about(kind, Message.NEW_ELEMENTS) and name in (KNOWN, GRATUITOUS):
            for each in nftables.list_of(attributes.get(3, b"")):
                facts.add(("key", family, name, nftables.key_of(each).hex()))
    return frozenset(facts | {("rules", family, name, count) for (family, name), count in rules.items()})


@cache
def _facts_of(address: IPAddress) -> frozenset[_Fact]:
    change = [*nftfilters.learn([address]), *nftfilters.admit([address], 0, now_ns=0, wall_ns=0)]
    return _facts(_split(change))


def _split(messages: Iterable[bytes]) -> list[tuple[int, bytes]]:
    return [(kind, body) for each in messages for kind, _sender, body in nftables.messages_of(each)]


def _listed(addresses: Collection[IPAddress]) -> str:
    first = ", ".join(map(str, islice(addresses, _MOST_LISTED)))
    more = len(addresses) - _MOST_LISTED
    return f"{first} and {more} others" if more > 0 else first


def _clocks() -> tuple[int, int]:
    """Read the wall clock and then CLOCK_BOOTTIME: a delay in between can only make a deadline earlier."""
    return time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _name(link_index: int) -> str | None:
    try:
        return socket.if_indextoname(link_index)
    except OSError:
        return None


def _hear_generations_only(ear: socket.socket) -> None:
    """Have the kernel pass on only what ends a change: a reload of 20,000 rules is one message then."""
    kind = socket.htons(10 << 8 | Message.NEW_GENERATION)
    load_half_word, jump_if_equal, give = 0x28, 0x15, 0x06
    code = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (load_half_word, 0, 0, 4),
            (jump_if_equal, 0, 1, kind),
            (give, 0, 0, 0xFFFFFFFF),
            (give, 0, 0, 0),
        )
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    ear.setsockopt(
        socket.SOL_SOCKET,
        _SO_ATTACH_FILTER,
        struct.pack("@HP", 4, ctypes.addressof(buffer)),
    )


def _refusal(cause: OSError, attempt: str) -> FenceRefused:
    match cause.errno:
        case errno.EPERM | errno.EACCES:
            why = (
                "not permitted. Give the keeper the capability NET_ADMIN (in a pod: securityContext."
                "capabilities.add); where it has that, a keeper that still runs owns the tables: end it"
            )
        case errno.EOPNOTSUPP | errno.ENOENT | errno.EPROTONOSUPPORT | errno.EAFNOSUPPORT | errno.EINVAL:
            why = (
                f"this kernel does not know it ({cause.strerror}). Use one with CONFIG_NF_TABLES_NETDEV, "
                "CONFIG_NF_TABLES_INET and CONFIG_NETFILTER_EGRESS"
            )
        case errno.ENODEV:
            why = "there is no such link any more"
        case errno.E2BIG:
            why = TOO_MANY
        case _:
            why = cause.strerror or str(cause)
    return FenceRefused(f"nftables refused to {attempt}: {why}")
