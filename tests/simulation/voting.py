"""The API server's vote, simulated: the coordination Leases, and the couriers' production `Claim`s on them.

A request takes its time in both directions, may be lost before it was carried out or after, and a
courier that is cut off, or an API server that is away, answers nothing until patience runs out. What a
courier says may reach its keeper late.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Final

from simulation.clock import SECOND
from vipagent.effects import MILLISECOND
from vipapi.link import Answer, Vote, Votes, VotesWanted
from vipcourier.votes import PATIENCE_NS, Claim, GiveBack, Look, Make, Wait, Write, lease_name

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.world import World
    from vipapi.link import VoteWanted

Document = dict[str, Any]
_SOCKET_NS: Final = MILLISECOND // 2
_EPOCH: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Office:
    """All Leases of votes, as the API server keeps them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.is_away = False
        self.loss = 0.0
        self.slowest_ns = 20 * MILLISECOND
        self._leases: dict[str, Document] = {}
        self._version = 0

    def carry_out(self, name: str, step: Look | Make | Write | GiveBack) -> Document | None:
        """Do it at once; raises `ValueError` for a conflict."""
        lease = self._leases.get(name)
        if isinstance(step, Look):
            return lease
        wanted = step.lease["metadata"]
        if isinstance(step, Make):
            if lease is not None:
                raise ValueError(name)
        elif lease is None or lease["metadata"]["resourceVersion"] != wanted["resourceVersion"]:
            raise ValueError(name)
        self._version += 1
        metadata = {"uid": name, **wanted, "resourceVersion": str(self._version)}
        self._leases[name] = {**step.lease, "metadata": metadata}
        return self._leases[name]


class Voter:
    """The courier of one machine, as far as it asks for votes; it outlives the keeper, not the machine."""

    def __init__(self, machine: Machine, office: Office) -> None:
        self.machine = machine
        self.office = office
        self._world = machine.world
        self._wanted = VotesWanted()
        self._claims: dict[str, Claim] = {}
        self._won: dict[tuple[str, str, int, int], Vote] = {}
        self._answers: dict[str, Answer] = {}
        self._busy: set[str] = set()
        self.late_until_ns = 0
        """Until then, in true time, its keeper does not get what it says; then all of it, in order."""
        machine.on_votes_wanted = self.want
        machine.on_power_off = self._die

    def want(self, wanted: VotesWanted) -> None:
        self._wanted = wanted
        self._tell()
        for each in wanted.wanted:
            self._ask(each.domain_uid)

    def _die(self) -> None:
        self._wanted = VotesWanted()
        self.forget()

    def forget(self) -> None:
        """The courier was restarted: it starts with empty hands."""
        self._claims.clear()
        self._busy.clear()
        self._answers.clear()
        self._won.clear()
        self._tell()

    def _ask(self, uid: str) -> None:
        wanted = next((each for each in self._wanted.wanted if each.domain_uid == uid), None)
        if wanted is None or uid in self._busy:
            return
        claim = self._claims.get(uid) or self._world.claim_type(uid)
        self._claims[uid] = claim
        asked_at_ns = self.machine.now()
        step = claim.step(wanted, now_ns=asked_at_ns, wall=_EPOCH)
        agenda, clock = self._world.agenda, self.machine.clock
        if isinstance(step, Wait):
            agenda.after(max(0, clock.when(step.until_ns) - agenda.now_ns) + 1, self._ask, uid)
            return
        self._busy.add(uid)
        agenda.after(self._travel_ns(), self._arrive, claim, wanted, step)

    def _travel_ns(self) -> int:
        return int(self._world.random.random() * self.office.slowest_ns)

    def _arrive(self, claim: Claim, wanted: VoteWanted, step: Look | Make | Write | GiveBack) -> None:
        """The request reaches the API server, or does not; then the answer comes back, or does not."""
        office, random, agenda = self.office, self._world.random, self._world.agenda
        is_lost = office.is_away or self.machine.is_cut_from_api or random.random() < office.loss
        answer: Document | ValueError | None = None
        if not is_lost:
            try:
                answer = office.carry_out(lease_name(wanted.domain_uid), step)
            except ValueError as conflict:
                answer = conflict
        if is_lost or random.random() < office.loss:
            agenda.after(PATIENCE_NS, self._fail, claim, wanted)
        else:
            agenda.after(self._travel_ns(), self._take, claim, wanted, step, answer)

    def _fail(self, claim: Claim, wanted: VoteWanted) -> None:
        if self._claims.get(wanted.domain_uid) is not claim:
            return
        self._busy.discard(wanted.domain_uid)
        claim.failed(now_ns=self.machine.now())
        self._ask(wanted.domain_uid)

    def _take(
        self,
        claim: Claim,
        wanted: VoteWanted,
        step: Look | Make | Write | GiveBack,
        answer: Document | ValueError | None,
    ) -> None:
        if self.machine.is_paused:
            self._world.agenda.after(SECOND // 10, self._take, claim, wanted, step, answer)
            return
        if self._claims.get(wanted.domain_uid) is not claim:
            return
        now_ns = self.machine.now()
        self._busy.discard(wanted.domain_uid)
        if wanted.is_needed:
            self._answers[wanted.domain_uid] = Answer(wanted.domain_uid, now_ns)
        if isinstance(answer, ValueError):
            claim.was_moved()
        elif isinstance(step, Write):
            assert answer is not None
            vote = claim.wrote(step, answer, wanted, now_ns=now_ns)
            if vote is not None:
                self._won[_voter(wanted)] = vote
        else:
            claim.saw(answer, now_ns=now_ns)
        self._tell()
        self._ask(wanted.domain_uid)

    def _tell(self) -> None:
        now_ns = self.machine.now()
        self._won = {key: vote for key, vote in self._won.items() if vote.until_ns > now_ns}
        keys = [_voter(each) for each in self._wanted.wanted]
        needed = [each.domain_uid for each in self._wanted.wanted if each.is_needed]
        votes = Votes(
            votes=tuple(self._won[key] for key in keys if key in self._won),
            answers=tuple(self._answers[uid] for uid in needed if uid in self._answers),
        )
        agenda = self._world.agenda
        delay_ns = max(_SOCKET_NS, self.late_until_ns - agenda.now_ns)
        agenda.after(delay_ns, self.machine.hear_votes, votes)  # in order, as on any socket


def _voter(wanted: VoteWanted) -> tuple[str, str, int, int]:
    return wanted.domain_uid, wanted.holder, wanted.incarnation, wanted.since_ns
