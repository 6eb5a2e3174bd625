"""A keeper's seat in one domain: its lease, its witness, the API server's vote, and the words between them.

It joins the pure parts and touches nothing outside: datagrams and clock readings go in, effects and
sealed datagrams come out. What this node says to itself, or to the vote that it holds, never becomes a
datagram; the shell delivers it with a clock reading of its own.

Configurations (`vipapi.configuration`). Every keeper of the domain has a witness, and it answers whoever
asks under its own epoch or a neighbouring one; so nothing is disturbed while a new epoch spreads, and
what is two epochs old is answered no more. Keepers at different epochs tell each other: who is behind is
sent the newer configuration (`Adopt`), whether or not it can reach the API server. An epoch never falls,
and is on disk before it is used: the shell calls `configure` only then (rules 9 and 14b).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from vipagent.datagrams import Codec, DatagramRefused, Envelope
from vipagent.effects import Adopt, Inquired, Observed, Send, Told
from vipagent.lease import Lease
from vipagent.messages import (
    Ack,
    Config,
    GetConfig,
    Inquire,
    Observation,
    Observe,
    Release,
    Request,
    Sender,
    Vacant,
)
from vipagent.peers import Peers
from vipagent.succession import key_of, lease_timing, orders, rosters
from vipagent.vote import Vote
from vipagent.witness import Witness
from vipapi import link
from vipapi.configuration import API_SERVER, Relation, fingerprint, is_majority
from vipapi.nodeplan import MOST_CEILING
from vipapi.nodestatus import DomainStatus, GrantStatus

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable
    from random import Random

    from vipagent.effects import Effect
    from vipagent.messages import Key, Message
    from vipapi.configuration import Configuration
    from vipapi.nodeplan import DomainPlan, VirtualIPPlan
    from vipapi.nodestatus import Problem

_API_SERVER_ANSWERS_NS: Final = 1_000_000_000
_VOTE_NEEDED_NS: Final = 500_000_000
_ANSWERS_HEARTBEATS: Final = 1.5
_LATELY_NS: Final = 1_000_000_000
_TERMS_AHEAD: Final = 1000
_NEVER_NS: Final = -(1 << 62)


class Seat:
    """One domain in which this node takes part; `configuration` is on disk already."""

    def __init__(
        self,
        domain: DomainPlan,
        configuration: Configuration,
        *,
        node: str,
        machine: bytes,
        incarnation: int,
        random: Random,
        now_ns: int,
        term_ceiling: int,
    ) -> None:
        assert configuration.epoch
        self.domain = domain
        self.configuration = configuration
        self._me = Sender(node, machine, incarnation)
        self._timing = timing = lease_timing(domain.timing)
        self.lease = Lease(
            me=node,
            incarnation=incarnation,
            quorums=configuration.quorums,
            timing=timing,
            random=random,
            now_ns=now_ns,
        )
        self.witness = Witness(me=node, timing=timing, now_ns=now_ns, term_ceiling=term_ceiling)
        self.vote = Vote(timing=timing, now_ns=now_ns)
        self._codec = Codec(me=self._me, domain_uid=domain.uid)
        self.tag: Final = self._codec.tag()
        self._configured_ns = now_ns
        self._drained_epoch = 0
        self.is_sound = True
        self._addresses: dict[str, str] = {}
        self._peers = Peers()
        self._stands_at: str | None = None
        self._is_stranger = False
        self._vote_needed_until_ns = _NEVER_NS
        self._vips: dict[Key, VirtualIPPlan] = {}
        self._keys: dict[str, Key] = {}
        self._uids: dict[Key, str] = {}
        self._stamp()

    def assign(self, domain: DomainPlan, now_ns: int) -> list[Effect]:
        """Take over the newest plan: address sets, orders, members, keys; not its configuration."""
        assert domain.timing == self.domain.timing
        self.domain = domain
        self._vips = {key_of(vip): vip for vip in domain.virtual_ips}
        self._keys = {vip.uid: key for key, vip in self._vips.items()}
        granted = {key: uid for key, uid in self._uids.items() if key in self.witness.grants}
        self._uids = granted | {key: vip.uid for key, vip in self._vips.items()}
        self._meet(now_ns)
        self.witness.assign(rosters(domain), now_ns)
        return self.lease.assign(orders(domain, self._me.node), now_ns)

    def configure(self, configuration: Configuration, now_ns: int) -> list[Effect]:
        """Take over a newer configuration that is on disk; what is two epochs older is answered no more."""
        assert configuration.epoch > self.configuration.epoch
        self._drained_epoch = self._drain(now_ns)
        self.configuration = configuration
        self._configured_ns = now_ns
        self._stamp()
        self._look_for_itself()
        self._meet(now_ns)
        self.witness.raise_floor()
        return self.lease.configure(configuration.quorums, now_ns)

    def _stamp(self) -> None:
        """Name the configuration in every datagram.

        The timing is part of the name: an owner with another T than its witnesses' Tw was made for is unsafe.
        """
        timing = ",".join(str(milliseconds) for milliseconds in msgspec.structs.astuple(self.domain.timing))
        configuration = self.configuration
        self._codec.configure(
            epoch=configuration.epoch,
            this=f"{configuration.hash},{timing}",
            former=f"{configuration.former_hash},{timing}",
        )

    def _meet(self, now_ns: int) -> None:
        """Take over who belongs to the domain, and where it is.

        A witness is where its configuration says: whoever goes by its name elsewhere remembers nothing of
        what it granted.
        """
        members = (*self.domain.members, *self.configuration.members)
        self._addresses = {member.node: member.address for member in members}
        self._peers.meet(self._addresses, now_ns)
        self._codec.adopt(
            keys={key.key_id: key.secret for key in self.domain.keys},
            peers=frozenset(self._addresses) - {self._me.node},
        )

    def stand_at(self, address: str | None) -> None:
        """Take over which address this node's heartbeats come from; None while it has none."""
        self._stands_at = address
        self._look_for_itself()

    def _look_for_itself(self) -> None:
        """Tell whether the configuration names another machine by this node's name: then it has no vote."""
        named = next((m.address for m in self.configuration.members if m.node == self._me.node), None)
        self._is_stranger = named is not None and self._stands_at not in (None, named)

    def judge(
        self,
        fit_uids: Iterable[str],
        now_ns: int,
        *,
        is_sound: bool,
        occupied_uids: frozenset[str] = frozenset(),
    ) -> list[Effect]:
        """Take over which address sets this node is fit to hold, and whether it reaches its gateway.

        Services run here that follow those of `occupied_uids`.
        """
        self.is_sound = is_sound
        fit = frozenset(fit_uids)
        keys = frozenset(key for uid, key in self._keys.items() if uid in fit)
        occupied = frozenset(key for uid, key in self._keys.items() if uid in occupied_uids)
        return self.lease.judge(keys, now_ns, is_sound=is_sound, occupied=occupied)

    def key(self, uid: str) -> Key | None:
        """The key of a planned VirtualIP's address set; None if it is not planned here."""
        return self._keys.get(uid)

    def vip(self, key: Key) -> VirtualIPPlan | None:
        """The planned VirtualIP of that key."""
        return self._vips.get(key)

    def receive(self, datagram: bytes, now_ns: int) -> list[Effect]:
        """Act on a datagram; raises `DatagramRefused`."""
        try:
            envelope = self._codec.open(datagram)
        except DatagramRefused as refused:
            if refused.refusal == "Incarnation" and refused.sender is not None:
                self._peers.hear_outdated(refused.sender, now_ns)
            raise
        if isinstance(envelope.message, Ack) and not self.lease.has_asked(envelope.message, now_ns):
            raise DatagramRefused("Unasked", envelope.sender.node)
        return self.hear(envelope, now_ns)

    def hear(self, envelope: Envelope, now_ns: int) -> list[Effect]:
        """Act on what another keeper of this domain says."""
        node, message = envelope.sender.node, envelope.message
        self._peers.hear(node, envelope.relation, now_ns)
        self.lease.hear(node, now_ns, is_answer=isinstance(message, Ack))
        if envelope.relation is Relation.CONFLICT:
            return []
        match message:
            case Config(configuration):
                return self._on_config(configuration)
            case GetConfig():
                return [Send(node, Config(self.configuration))]
        said = self._said(node, message)
        if said is not None:
            return [said]
        effects: list[Effect] = []
        if envelope.relation.is_served:
            effects += self._route(envelope.sender, message, now_ns)
        return effects + self._compare(node, envelope.relation, now_ns)

    def _said(self, node: str, message: Message) -> Effect | None:
        """Return what is said of services or of an owner, whatever the witness configuration."""
        match message:
            case Inquire() if not self._is_stranger:
                return Inquired(node, message)
            case Vacant() if message.incarnation == self._me.incarnation:
                return Told(node, message)
            case Observe():
                return Observed(node, message)
            case Observation() if message.incarnation == self._me.incarnation:
                return Observed(node, message)
            case _:
                return None

    def _compare(self, node: str, relation: Relation, now_ns: int) -> list[Effect]:
        """Who is at another epoch is told of ours, or asked for its own; once in a heartbeat."""
        if relation is Relation.SAME:
            return []
        if not self._peers.is_to_be_told(node, now_ns, at_most_every_ns=self._timing.heartbeat_ns):
            return []
        is_behind = relation in (Relation.FORMER, Relation.BEHIND)
        return [Send(node, Config(self.configuration) if is_behind else GetConfig())]

    def _on_config(self, told: Configuration) -> list[Effect]:
        """A configuration is taken over only if it is newer, and what its hash says."""
        is_whole = fingerprint(self.domain.uid, told) == told.hash
        return [Adopt(told)] if is_whole and told.epoch > self.configuration.epoch else []

    def deliver(self, send: Send, now_ns: int) -> list[Effect]:
        """Act on a message from this node to itself, or to the API server's vote."""
        assert self.is_local(send)
        if send.to != API_SERVER:
            return self._route(self._me, send.message, now_ns)
        assert isinstance(send.message, Request | Release)
        effects: list[Effect] = []
        for answer in self.vote.receive(self._me, send.message, now_ns):
            self.lease.hear(API_SERVER, now_ns, is_answer=True)
            effects += self._route(Sender(API_SERVER, b"", 0), answer.message, now_ns)
        return effects

    def is_local(self, send: Send) -> bool:
        """Whether a message is to be delivered here.

        Where a witness, or an order, has named the API server as if it could own an address, there is nobody
        who understands what is said to it then: such a message is lost.
        """
        if send.to == API_SERVER:
            return isinstance(send.message, Request | Release)
        return send.to == self._me.node

    def seal(self, send: Send) -> tuple[str, bytes] | None:
        """Return where to and what to send; None if nobody knows the receiver's address any more."""
        address = self._addresses.get(send.to)
        return None if address is None else (address, self._codec.seal(send.to, send.message))

    def _route(self, sender: Sender, message: Message, now_ns: int) -> list[Effect]:
        match message:
            case Request() | Release():
                return [] if self._is_stranger else list(self.witness.receive(sender, message, now_ns))
            case Ack():
                self._peers.hear_answer(sender.node, now_ns)
            case Config() | GetConfig() | Inquire() | Vacant() | Observe() | Observation():
                return []
        return self.lease.receive(sender.node, message, now_ns)

    def hear_votes(self, vote: link.Vote | None, now_ns: int) -> None:
        """What the courier says of this domain's vote; None when it holds none."""
        was_held = self.vote.transitions(now_ns) > 0
        if vote is not None and vote.epoch > self.configuration.epoch + 1:
            vote = None  # it was won by one that knew more, for epochs that are not served here
        self.vote.hear(vote)
        if vote is not None:
            self.witness.take_floor(vote.term_floor)
        if self.vote.transitions(now_ns) and not was_held:
            self.lease.hurry(now_ns)

    def hear_api_server(self, at_ns: int) -> None:
        """It answered then, though perhaps to say that another node has its vote.

        The courier asks again within a second, so for that long this node is not alone.
        """
        self.lease.hear(API_SERVER, at_ns + _API_SERVER_ANSWERS_NS, is_answer=True)

    def vote_wanted(self, now_ns: int) -> link.VoteWanted | None:
        """Return what to ask the API server for; None where it has no vote.

        It is needed only while the keepers' own votes do not suffice. An owner asks as soon as an answer is
        late, for its lease runs on. A standby asks when its own witness calls an address set free: before
        that it could only take the vote from the owner. Who has nothing to hold never asks: a node that has
        left would keep the vote from those who stayed. Who needed it for a while gives it back (`vote`).
        """
        if not any(API_SERVER in quorum for quorum in self.configuration.quorums):
            return None
        if self._needs_vote(now_ns):
            self._vote_needed_until_ns = now_ns + _VOTE_NEEDED_NS
        highest = max(self.lease.highest_term, self.witness.term_floor)
        node, machine, incarnation = self._me
        is_needed = now_ns < self._vote_needed_until_ns
        self.vote.need(now_ns, is_needed=is_needed)
        return link.VoteWanted(
            domain_uid=self.domain.uid,
            domain_name=self.domain.name,
            holder=f"{node}_{machine.hex()}",
            incarnation=incarnation,
            term_ceiling=min((highest // _TERMS_AHEAD + 2) * _TERMS_AHEAD, MOST_CEILING),
            epoch=self.configuration.epoch,
            is_needed=is_needed,
            since_ns=self.vote.since_ns,
            is_given_back=self.vote.is_given_back,
        )

    def _needs_vote(self, now_ns: int) -> bool:
        quorums = self.configuration.quorums
        since_ns = now_ns - int(_ANSWERS_HEARTBEATS * self._timing.heartbeat_ns)
        answering = self._peers.answering(since_ns) - {API_SERVER}
        if is_majority(answering | {self._me.node}, quorums):
            # Who has an older plan answers, and grants nothing that is not in it.
            return self.vote.transitions(now_ns) > 0 and self.lease.leans_on(API_SERVER, since_ns)
        node = self._me.node
        return self.lease.is_asking or any(
            self.witness.calls_free(key, node, now_ns) for key in self.lease.polls
        )

    def is_answered(self, now_ns: int) -> bool:
        """Whether a majority of the witnesses, this one among them, has answered within a second."""
        answering = self._peers.answering(now_ns - _LATELY_NS) - {API_SERVER}
        return is_majority(answering | {self._me.node}, self.configuration.quorums)

    def expire(self, now_ns: int) -> list[Effect]:
        """Do what is due."""
        return self.lease.expire(now_ns) + self.witness.expire(now_ns)

    @property
    def deadline_ns(self) -> int:
        """When `expire` has something to do next."""
        grants_end_ns = self.witness.deadline_ns
        return self.lease.deadline_ns if grants_end_ns is None else min(self.lease.deadline_ns, grants_end_ns)

    def pulse(self, now_ns: int) -> Hashable:
        """Return what of `status`, and of what is held, changes by itself: by time or by what is heard."""
        return (
            self._peers.reachable(now_ns),
            self._peers.behind(now_ns),
            self.problems(now_ns),
            self._drain(now_ns),
            self._vote_transitions(now_ns),
            self.witness.term_floor,
            tuple((grant.holder, grant.term) for grant in self.witness.grants.values()),
            self.lease.standings,
        )

    def status(self, *, heartbeat_address: str, now_ns: int) -> DomainStatus:
        """What this seat reports; it changes only when somebody would act on it."""
        peers = self._peers.reachable(now_ns) & self._addresses.keys()
        grants = self.witness.grants
        node = self._me.node
        return DomainStatus(
            name=self.domain.name,
            uid=self.domain.uid,
            role="Witness" if any(node in quorum for quorum in self.configuration.quorums) else "Member",
            heartbeat_address=heartbeat_address,
            configuration=self.configuration,
            reachable_peers=tuple(sorted({*peers, node})),
            behind=tuple(sorted(self._peers.behind(now_ns) & self._addresses.keys())),
            grants=tuple(
                GrantStatus(uid=vip.uid, name=vip.name, holder=grants[key].holder, term=grants[key].term)
                for key, vip in sorted(self._vips.items(), key=lambda item: item[1].name)
                if key in grants
            ),
            drained_epoch=self._drain(now_ns),
            term_floor=self.witness.term_floor,
            tombstones=self._tombstones(),
            vote_transitions=self._vote_transitions(now_ns),
            is_sound=self.is_sound,
        )

    def _drain(self, now_ns: int) -> int:
        """The newest epoch with every grant over that was made before it came."""
        is_drained = not self.witness.is_silent and now_ns - self._configured_ns >= self._timing.grant_ns
        return self.configuration.epoch if is_drained else self._drained_epoch

    def _vote_transitions(self, now_ns: int) -> int:
        """Not 0 only if this node may speak for the API server: what it says there the object knows too."""
        is_known = self.vote.knows(
            epoch=self.configuration.epoch, term_floor=self.witness.term_floor, now_ns=now_ns
        )
        return self.vote.transitions(now_ns) if is_known else 0

    def _tombstones(self) -> tuple[str, ...]:
        """What of the deleted this witness grants to nobody, now and later."""
        if self.witness.is_silent:
            return ()
        in_use = {
            named
            for key, grant in self.witness.grants.items()
            for named in _named(self._uids[key], grant.addresses)
        }
        for key, vip in self._vips.items():
            in_use |= _named(vip.uid, self.witness.addresses(key))
        return tuple(name for name in self.domain.deleted if _subject(name) not in in_use)

    def problems(self, now_ns: int) -> tuple[Problem, ...]:
        """What is wrong with this domain's keepers, as seen from here."""
        return self._peers.problems(self.domain.name, self.configuration.epoch, now_ns)


def _subject(name: str) -> str:
    """Return what a name in the plan's `deleted` is about: UID, or UID/address without the generation."""
    return "/".join(name.split("/")[:2])


def _named(uid: str, addresses: Iterable[str]) -> set[str]:
    """Return a VirtualIP and each of its addresses as `_subject` has them."""
    return {uid, *(f"{uid}/{address}" for address in addresses)}
