"""The protocol's rules switched off, one at a time: each a seat, or a world, in which one rule is missing.

A seat's lease and witness are given a subclass that lacks the rule; everything else is production code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from vipagent.effects import Phase, Send
from vipagent.lease import Lease
from vipagent.messages import Release
from vipagent.seat import Seat
from vipagent.vote import Vote
from vipagent.witness import Witness
from vipapi.configuration import Relation
from vipcourier.votes import DURATION_NS, HOLD_NS, Claim

if TYPE_CHECKING:
    from simulation.keeper import Keeper
    from simulation.world import World
    from vipagent.datagrams import Envelope
    from vipagent.effects import Effect
    from vipagent.holding import Holding
    from vipagent.messages import Ack, Granted, Key, Request, Sender, ToWitness, Want
    from vipagent.witness import Grant
    from vipapi.configuration import Configuration
    from vipapi.link import Vote as CouriersVote
    from vipapi.link import VoteWanted
    from vipapi.nodestatus import DomainStatus


def seat_with(*, lease: type[Lease] = Lease, witness: type[Witness] = Witness) -> type[Seat]:
    """A seat whose lease and witness are of these types."""

    class Mutant(Seat):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self.lease.__class__ = lease
            self.witness.__class__ = witness

    return Mutant


class DeadlineFromReceipt(Lease):
    """Rule 1: the deadline is reckoned from when the answer came."""

    def _on_granted(self, witness: str, ack: Ack, granted: Granted, now_ns: int) -> list[Effect]:
        return super()._on_granted(witness, msgspec.structs.replace(ack, sent_at_ns=now_ns), granted, now_ns)


class HalfIsEnough(Lease):
    """Rule 4: half of the witnesses are enough, rounded down but for one."""

    def _deadline_over_ns(self, quorum: frozenset[str], acks_ns: Any) -> int:
        sent_at_ns = sorted((at_ns for node, at_ns in acks_ns.items() if node in quorum), reverse=True)
        enough = max(1, len(quorum) // 2)
        return sent_at_ns[enough - 1] + self._timing.lease_ns if len(sent_at_ns) >= enough else 0


class NewWitnessesOnly(Lease):
    """Rule 4: while witnesses change only the new ones are asked."""

    def configure(self, quorums: tuple[frozenset[str], ...], now_ns: int) -> list[Effect]:
        return super().configure(quorums[-1:], now_ns)


class AnyAnswerCounts(Lease):
    """Rule 6: an answer counts whatever was given up since, and whatever it was an answer to."""

    def _on_granted(self, witness: str, ack: Ack, granted: Granted, now_ns: int) -> list[Effect]:
        holding = self._holdings.get(granted.key)
        if holding is not None:
            holding.min_round = -1
            granted = msgspec.structs.replace(granted, term=holding.term)
        return super()._on_granted(witness, ack, granted, now_ns)


class AnyIncarnationCounts(Lease):
    """Rule 6: an answer to an earlier incarnation counts."""

    def _on_ack(self, witness: str, ack: Ack, now_ns: int) -> list[Effect]:
        return super()._on_ack(witness, msgspec.structs.replace(ack, incarnation=self._incarnation), now_ns)


class ReleasesFirst(Lease):
    """Rule 7: the release leaves before the fence is closed."""

    def _give_up(self, key: Key, holding: Holding, now_ns: int, successor: str | None = None) -> list[Effect]:
        was_owner = holding.phase is Phase.OWNER
        effects = super()._give_up(key, holding, now_ns, successor)
        if not was_owner:
            return effects
        self._round += 1
        release = Release(self._round, key, successor)
        return [*(Send(witness, release) for witness in self._asked), *effects]


class NeverLapses(Lease):
    """Rule 12, and the shell's part of the fence: what ran out is renewed as if nothing had happened."""

    def _lapse(self, now_ns: int) -> list[Effect]:  # noqa: ARG002 - it does not look
        return []


class DatesBackwards(Witness):
    """Rule 2: a grant is dated from the clock reading before the one with the request in hand."""

    def receive(self, sender: Sender, message: ToWitness, now_ns: int) -> list[Send]:
        before_ns = getattr(self, "_before_ns", now_ns)
        self._before_ns = now_ns
        return super().receive(sender, message, before_ns)


class GrantsForALease(Witness):
    """Rule 3: a grant ends when the owner's lease does, with no room for clocks that run apart."""

    def _grant(self, sender: Sender, number: int, want: Want, now_ns: int) -> None:
        shorter = self._timing.grant_ns - self._timing.lease_ns
        super()._grant(sender, number, want, now_ns - shorter)


class LocksNamesOnly(Witness):
    """Rule 3: address sets that share an address do not exclude each other."""

    def _rival(self, key: Key) -> Grant | None:  # noqa: ARG002 - it does not look
        return None

    def _end(self, key: Key) -> Grant:
        grant = self._grants.pop(key)
        for address in grant.addresses:
            self._claims.pop(address, None)
        return grant


class NeverSilent(Witness):
    """Rule 5: a witness that was restarted answers at once."""

    def receive(self, sender: Sender, message: ToWitness, now_ns: int) -> list[Send]:
        self._silent_until_ns = min(self._silent_until_ns, now_ns)
        return super().receive(sender, message, now_ns)


class HeedsOldReleases(Witness):
    """Rule 7: a release ends a grant that is newer than it."""

    def _on_release(self, sender: Sender, release: Release, now_ns: int) -> list[Send]:
        newest = msgspec.structs.replace(release, round=1 << 40)
        before = self._newest.get(sender.node, (-1, -1))
        sends = super()._on_release(sender, newest, now_ns)
        self._newest[sender.node] = before
        return sends


class HeedsOldRequests(Witness):
    """Rule 7: a request counts although its sender released after it."""

    def _on_request(self, sender: Sender, request: Request, now_ns: int) -> list[Send]:
        self._newest.pop(sender.node, None)
        return super()._on_request(sender, request, now_ns)


class KeepsNoCeiling(Witness):
    """Rule 14a: terms are granted that a restart would forget."""

    def _is_term_kept(self, want: Want) -> bool:  # noqa: ARG002 - it does not look
        return True

    def _known_term(self, key: Key) -> int:
        return self._terms.get(key, 0)


class RaisesNoFloor(Witness):
    """Rule 14a: with new witnesses terms begin anew."""

    def raise_floor(self) -> None:
        pass

    def take_floor(self, floor: int) -> None:
        pass


class KnowsNoMachine(Witness):
    """Machines: a clone is taken for its original."""

    def receive(self, sender: Sender, message: ToWitness, now_ns: int) -> list[Send]:
        return super().receive(sender._replace(machine=b""), message, now_ns)


class NeverSeals(Seat):
    """Rule 4: a witness of a newer epoch goes on to grant under any older one, and is believed."""

    def hear(self, envelope: Envelope, now_ns: int) -> list[Effect]:
        if envelope.relation is Relation.BEHIND:
            envelope = replace(envelope, relation=Relation.FORMER)
        elif envelope.relation is Relation.AHEAD:
            envelope = replace(envelope, relation=Relation.NEXT)
        return super().hear(envelope, now_ns)


class NeverDrains(Seat):
    """Rule 4: it is said at once that every older grant is over."""

    def status(self, *, heartbeat_address: str, now_ns: int) -> DomainStatus:
        told = super().status(heartbeat_address=heartbeat_address, now_ns=now_ns)
        return msgspec.structs.replace(told, drained_epoch=self.configuration.epoch)


class BuriesTooEarly(Seat):
    """Tombstones: a deleted VirtualIP is reported to be granted to nobody while it still is."""

    def _tombstones(self) -> tuple[str, ...]:
        return self.domain.deleted


class AllMachinesAreOne(Seat):
    """Machines: a clone is taken for its original, by the codec as well."""

    def __init__(self, *arguments: Any, machine: bytes, **more: Any) -> None:
        super().__init__(*arguments, machine=bytes(len(machine)), **more)


class _AnySequence(dict[str, Any]):
    """Windows that forget what they saw."""

    def setdefault(self, key: str, default: Any = None) -> Any:  # noqa: ARG002 - nothing is remembered
        return default


class NoReplayWindow(Seat):
    """Datagrams: one that was seen before counts again."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._codec._windows = _AnySequence()  # noqa: SLF001 - it is what is taken out


def seat_with_vote(mutant: type[Vote]) -> type[Seat]:
    """A seat whose voice of the API server is of this type."""

    class Mutant(Seat):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            self.vote.__class__ = mutant

    return Mutant


class VoteGivenBackAndKept(Vote):
    """Votes: what is given back is not forgotten before the courier is told."""

    def need(self, now_ns: int, *, is_needed: bool) -> None:
        held = self._held
        super().need(now_ns, is_needed=is_needed)
        self._held = held


class HeedsOldVotes(Vote):
    """Votes: what the courier won before it was given back counts, however late it is told."""

    def hear(self, vote: CouriersVote | None) -> None:
        super().hear(None if vote is None else msgspec.structs.replace(vote, since_ns=self.since_ns))


class VoteFromReceipt(Claim):
    """Votes: the vote is reckoned from when the answer came, and for the whole duration."""

    def wrote(self, write: Any, lease: Any, wanted: VoteWanted, *, now_ns: int) -> CouriersVote | None:
        vote = super().wrote(write, lease, wanted, now_ns=now_ns)
        return None if vote is None else msgspec.structs.replace(vote, until_ns=now_ns + DURATION_NS)


class VoteTakenEarly(Claim):
    """Votes: another's vote is taken before its duration has passed."""

    def step(self, wanted: VoteWanted, *, now_ns: int, wall: Any) -> Any:
        if self._seen is not None:
            self._seen = replace(self._seen, since_ns=min(self._seen.since_ns, now_ns - HOLD_NS // 3))
        return super().step(wanted, now_ns=now_ns, wall=wall)


def leave_fences_open(world: World) -> None:
    """Rule 8: a keeper that starts leaves the fences as they are."""
    world.closes_fences_at_start = False


def configure_before_the_disk(world: World) -> None:
    """Rules 9 and 14b: a configuration is taken over before the disk has it."""

    def keep_configuration(keeper: Keeper, uid: str, configuration: Configuration) -> None:
        keeper.machine.keep(keeper, (uid, configuration), keeper.take, keeper.configure, uid, configuration)
        if uid in keeper.seats:
            keeper.take(keeper.configure, uid, configuration)

    world.keep_configuration = keep_configuration  # type: ignore[method-assign]


def reckon_votes_from_receipt(world: World) -> None:
    """Votes: see `VoteFromReceipt`."""
    world.claim_type = VoteFromReceipt


def take_votes_early(world: World) -> None:
    """Votes: see `VoteTakenEarly`."""
    world.claim_type = VoteTakenEarly
