"""The seats of this node: in which domains it takes part, and as which plan.

A seat once taken stays for as long as the keeper runs: if a domain that was left comes back, rounds and
sequence numbers go on where they were. What of a plan cannot be followed (no key, another timing, another
configuration of the epoch in force) is a problem, and what was before goes on in its place (`fitted`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from vipagent import epochs
from vipagent.datagrams import LEAST_SECRET
from vipagent.seat import Seat
from vipapi import timing
from vipapi.link import VotesWanted
from vipapi.nodestatus import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from random import Random

    from vipagent.effects import Effect
    from vipapi.configuration import Configuration
    from vipapi.link import Votes
    from vipapi.nodeplan import DomainPlan


@dataclass(slots=True)
class Seated:
    """A seat, and whether the plan names this node no longer in its domain."""

    seat: Seat
    node: str
    has_left: bool = False

    @property
    def is_silent(self) -> bool:
        """Whether this node has left the domain, votes there no more, and has let everything go."""
        return (
            self.has_left
            and self.seat.lease.is_at_rest
            and all(member.node != self.node for member in self.seat.configuration.members)
        )

    @property
    def has_api_vote(self) -> bool:
        """Whether the API server votes in the domain."""
        configuration = self.seat.configuration
        former = configuration.former
        return configuration.witnesses.has_api_vote or (former is not None and former.has_api_vote)


def fitted(
    domain: DomainPlan, in_force: Configuration, before: DomainPlan | None
) -> tuple[DomainPlan | None, Problem | None]:
    """Return the plan of a domain as far as it can be followed, and what is wrong with the rest.

    `before` is the plan that is followed now. None stands for a domain in which there is no part to take.
    """
    problem = epochs.differ(domain, in_force)
    if not domain.keys or any(len(key.secret) < LEAST_SECRET for key in domain.keys):
        problem = Problem(
            "NoHeartbeatKey",
            f"domain {domain.name} has no heartbeat key, or one under {LEAST_SECRET} bytes: "
            "mend its Secret, or delete it and the controller makes it anew",
        )
        if before is None:
            return None, problem if in_force.epoch else None
        domain = msgspec.structs.replace(domain, keys=before.keys)
    objection = timing.objection(domain.timing)
    if before is None and objection is not None:
        return None, Problem(
            "TimingRefused",
            f"domain {domain.name} came with times that are not safe ({objection}): see that controller and "
            "node-agents are of one version",
        )
    if before is not None and domain.timing != before.timing:
        problem = Problem(
            "TimingRefused",
            f"domain {domain.name} came with another timing, which its keepers cannot change while they "
            "hold addresses: the old one goes on until the node-agents of all its nodes were stopped at "
            "one time and are started again",
        )
        domain = msgspec.structs.replace(domain, timing=before.timing)
    return (domain if in_force.epoch else None), problem


class Seats:
    """Every seat that this node has taken since its keeper started, by the domain's UID."""

    def __init__(self, *, node: str, machine: bytes, incarnation: int, random: Random) -> None:
        self._node = node
        self._machine = machine
        self._incarnation = incarnation
        self._random = random
        self._by_uid: dict[str, Seated] = {}
        self._by_tag: dict[bytes, Seated] = {}

    def __iter__(self) -> Iterator[Seated]:
        return iter(tuple(self._by_uid.values()))

    def get(self, domain_uid: str) -> Seated | None:
        """Return the seat in a domain, if one was taken."""
        return self._by_uid.get(domain_uid)

    def addressed(self, tag: bytes | None) -> Seated | None:
        """Return the seat for which a datagram with that domain tag is, if it listens."""
        seated = None if tag is None else self._by_tag.get(tag)
        return None if seated is None or seated.is_silent else seated

    def speaking(self) -> list[Seated]:
        """Return the seats whose domains this node has something to do with."""
        return [seated for seated in self._by_uid.values() if not seated.is_silent]

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is held anywhere, and every release has been seen."""
        return all(seated.seat.lease.is_at_rest for seated in self._by_uid.values())

    @property
    def deadline_ns(self) -> int | None:
        """When some seat has something to do next; None if there is none."""
        return min((seated.seat.deadline_ns for seated in self.speaking()), default=None)

    def votes_wanted(self, now_ns: int) -> VotesWanted:
        """Return which votes of the API server are wanted; time alone can change it."""
        found = (seated.seat.vote_wanted(now_ns) for seated in self.speaking() if seated.has_api_vote)
        return VotesWanted(tuple(vote for vote in found if vote is not None))

    def hear_votes(self, said: Votes, now_ns: int) -> None:
        """Take over what the courier says of the API server's votes: all that are held, and its answers."""
        votes = {vote.domain_uid: vote for vote in said.votes}
        for uid, seated in self._by_uid.items():
            seated.seat.hear_votes(votes.get(uid), now_ns)
        for answer in said.answers:
            answered = self._by_uid.get(answer.domain_uid)
            if answered is not None:
                answered.seat.hear_api_server(answer.at_ns)

    def sit(
        self, domain: DomainPlan, in_force: Configuration, *, term_ceiling: int, now_ns: int
    ) -> tuple[Seated | None, list[Effect], Problem | None]:
        """Take part in a domain as planned; says why if that cannot be, and goes on with what was.

        `in_force` and `term_ceiling` are what the disk has.
        """
        seated = self._by_uid.get(domain.uid)
        followed, problem = fitted(domain, in_force, None if seated is None else seated.seat.domain)
        if followed is None:
            return seated, [], problem
        if seated is None:
            seat = Seat(
                followed,
                in_force,
                node=self._node,
                machine=self._machine,
                incarnation=self._incarnation,
                random=self._random,
                now_ns=now_ns,
                term_ceiling=term_ceiling,
            )
            seated = self._by_uid[domain.uid] = self._by_tag[seat.tag] = Seated(seat, self._node)
        seated.has_left = False
        return seated, seated.seat.assign(followed, now_ns), problem

    def left(self, staying: AbstractSet[str]) -> list[Seated]:
        """Return the seats of domains that the plan does not name; they are to `leave`."""
        return [seated for uid, seated in self._by_uid.items() if uid not in staying]

    def leave(self, seated: Seated, now_ns: int) -> list[Effect]:
        """Give up every address of a domain. Until its configuration counts on it no more, it votes on."""
        seated.has_left = True
        return seated.seat.assign(msgspec.structs.replace(seated.seat.domain, virtual_ips=()), now_ns)
