"""Who should own a VirtualIP, in which order the others would follow it, and why not the rest.

`elect` is told every candidate node as a fact sheet, who owns the address now and what stands in the
way of moving it, and answers with an `Election`: the owner, its succession, and a table that has a row
for *every* candidate with a reason. The table is the VirtualIP's status and the whole answer to "why
is it there". Nothing is remembered: the same facts give the same answer, in whatever order they come.

Ranking. Eligible candidates are ordered by soundness (those that reach their gateway first), then score
(highest first), then spread (fewest addresses of the same group), then a hash of address and node, so that
ties fall differently for different addresses and never flap. A node that does not reach its gateway stays
eligible: where none does, the gateway itself is dead and moves nothing. Nor does it move an owner from
here, for an unsound owner hands over to a sound standby by itself, in milliseconds; but no unsound node is
ever better than a sound owner.

Spreading. When an owner dies its first successor takes the address, and nobody is asked. So the first
successors of a group's addresses on one node are spread in advance: of the standbys that rank alike, the
one on which the fewest addresses of the group would be then (those that it has, and those that it would
get from the same owner) comes first. Whoever is first stays so until another would have fewer: one
address more or less moves no other's successor without need.

Keeping. Whoever owns the address keeps it. Without an observed owner the standing order's choice
keeps it, so that an order is not changed while it is being carried out. There are five causes to move:

| cause | what happened | stopped by `suspend` |
|---|---|---|
| `OwnerUnfit` | the owner's node or agent is gone, out of service, or a required check fails | no |
| `OwnerCordoned` | the owner's node is cordoned or being drained | yes |
| `Switchover` | a person asked for it, and the target is eligible | yes |
| `BetterHealth` | the owner lost more to its failing weighted checks than a standby that beats it | yes |
| `Failback` | failback is Automatic, and a node beat the owner's score for the whole delay | yes |

Out of service is a node with the taint `node.kubernetes.io/out-of-service`, by which a person or a
fencing driver says that it is off. That is a fact and no wish as a cordon is: `suspend` does not stop a
move from there.

"For the whole delay" needs a memory: `Election.better` says since when each node beats the owner, and
is given back as `Facts.better` at the next look. Whoever forgets it (a controller that restarts, a
leader that takes over) counts anew: a failback then comes later, never sooner. `Election.due` is the
time at which looking again would change the answer although no fact did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from vipapi.conditions import Reason


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one candidate node.

    `score` is what its keeper reports (priority with weighted checks, 1 to 254), `lost` the part that
    its failing weighted checks cost. `fitness` is the keeper's own word about this address, None until
    it has said one; `reason` and `message` are its why not. `group_load` counts the addresses of the
    same spread group on the node. `is_sound` is whether the node reaches its gateway.
    """

    node: str
    priority: int = 100
    score: int | None = None
    lost: int = 0
    is_present: bool = True
    is_deleting: bool = False
    is_out_of_service: bool = False
    is_in_domain: bool = True
    has_agent: bool = True
    is_alive: bool = True
    is_witness_only: bool = False
    is_cordoned: bool = False
    is_sound: bool = True
    fitness: Literal["Fit", "Unfit", "NotCandidate"] | None = None
    reason: str = ""
    message: str = ""
    group_load: int = 0

    @property
    def obstacle(self) -> Obstacle | None:
        """Why the node cannot own the address: the first of the obstacles, or None."""
        if self.is_eligible:
            return None
        for stands, reason, message in _OBSTACLES:
            if stands(self):
                return Obstacle(reason, message.format(node=self.node))
        if self.fitness == "Unfit":
            return Obstacle(
                self.reason or "Unfit", self.message or f"the keeper of {self.node} says that it cannot"
            )
        return Obstacle(Reason.CORDONED, f"node {self.node} is cordoned")

    @property
    def is_eligible(self) -> bool:
        """Whether the node may own the address."""
        return self.is_able and not self.is_cordoned

    @property
    def is_able(self) -> bool:
        """Whether nothing that failed stands against the node; a cordon is a wish."""
        is_there = self.is_present and not self.is_deleting and self.is_in_domain
        is_there = is_there and not self.is_out_of_service
        is_heard = self.has_agent and self.is_alive and not self.is_witness_only
        return is_there and is_heard and self.fitness == "Fit"

    @property
    def is_spared(self) -> bool:
        """Whether the only thing against the node is a wish, not a failure: a cordon."""
        return self.is_cordoned and self.is_able

    @property
    def rank_score(self) -> int:
        """The score that counts: what was reported, else the priority."""
        return self.priority if self.score is None else self.score

    def ranks_like(self, other: Candidate) -> bool:
        """Whether only spread and ties tell which of the two is better."""
        return (self.is_sound, self.rank_score) == (other.is_sound, other.rank_score)

    def outscores(self, owner: Candidate) -> bool:
        """Whether the node is better than the owner, in other things than spread and ties."""
        return self.is_sound >= owner.is_sound and self.rank_score > owner.rank_score


class Obstacle(NamedTuple):
    """Why a node cannot own an address."""

    reason: str
    message: str


_OBSTACLES: tuple[tuple[Callable[[Candidate], bool], Reason, str], ...] = (
    (lambda c: not c.is_present, Reason.NODE_NOT_FOUND, "the cluster has no node {node}"),
    (lambda c: c.is_deleting, Reason.NODE_DELETING, "node {node} is being removed from the cluster"),
    (
        lambda c: c.is_out_of_service,
        Reason.OUT_OF_SERVICE,
        "node {node} has the taint `node.kubernetes.io/out-of-service`: remove it once the node is back",
    ),
    (
        lambda c: not c.is_in_domain,
        Reason.NOT_IN_DOMAIN,
        "the domain's `nodeSelector` does not select node {node}",
    ),
    (
        lambda c: not c.has_agent,
        Reason.AGENT_MISSING,
        "no node-agent has reported from {node}: is the DaemonSet running there?",
    ),
    (
        lambda c: not c.is_alive,
        Reason.AGENT_UNREACHABLE,
        "a majority of the witnesses does not hear the keeper of {node}",
    ),
    (lambda c: c.is_witness_only, Reason.WITNESS_ONLY, "the keeper of {node} votes but never holds"),
    (
        lambda c: c.fitness is None,
        Reason.NOT_REPORTED,
        "the keeper of {node} has not reported on this VirtualIP yet",
    ),
    (
        lambda c: c.fitness == "NotCandidate",
        Reason.NOT_REPORTED,
        "the keeper of {node} has not heard yet that it is a candidate",
    ),
)
"""What can stand in a node's way before its keeper's own word counts; what explains the rest comes first."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One VirtualIP as the election sees it.

    `owner` is the observed owner, else None; `ordered` the owner of the standing order. `target` is
    what a Switchover asks for. `better` is `Election.better` of the last look. `has_to_wait` holds back
    the first choice of an address that nobody owns, until the agents have had time to report.

    `heirs` is for an address of a spread group: how many of its other addresses each standby would get from
    an owner that dies, by owner and standby; None without a group. `heir` is who would get this one by the
    standing order.
    """

    name: str
    candidates: Sequence[Candidate]
    owner: str | None = None
    ordered: str | None = None
    target: str | None = None
    returns: bool = False
    delay_s: float = 0.0
    is_suspended: bool = False
    has_to_wait: bool = False
    better: Mapping[str, float] = {}
    heirs: Mapping[str, Mapping[str, int]] | None = None
    heir: str | None = None


class Row(msgspec.Struct, frozen=True):
    """One line of the table: a candidate and why it is, is not, or might become the owner."""

    node: str
    eligible: bool
    score: int
    reason: str
    message: str


class Election(msgspec.Struct, frozen=True, kw_only=True):
    """The decision. `cause` is a CamelCase word when the owner differs from the one there is."""

    owner: str | None
    succession: tuple[str, ...]
    table: tuple[Row, ...]
    cause: str = ""
    message: str = ""
    better: Mapping[str, float] = {}
    due: float | None = None


class _Choice(NamedTuple):
    owner: Candidate | None
    cause: str = ""
    message: str = ""
    due: float | None = None


def rank(name: str, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the eligible candidates, best first: soundness, score, then spread, then a stable hash."""
    eligible = (candidate for candidate in candidates if candidate.is_eligible)
    return tuple(sorted(eligible, key=lambda c: _place(name, c)))


def elect(facts: Facts, now: float) -> Election:
    """Decide one VirtualIP. `now` is any clock that only grows, the one that `better` was told on."""
    names = [candidate.node for candidate in facts.candidates]
    assert len(set(names)) == len(names), facts.name
    ranked = rank(facts.name, facts.candidates)
    current = _find(facts.candidates, facts.owner) or _find(facts.candidates, facts.ordered)
    better = _better(facts, current, ranked, now)
    choice = _choose(facts, current, ranked, better, now)
    succession = _succession(facts, choice.owner, ranked)
    others = (candidate for candidate in facts.candidates if not candidate.is_eligible)
    rows = (*ranked, *sorted(others, key=lambda c: _place(facts.name, c)))
    return Election(
        owner=None if choice.owner is None else choice.owner.node,
        succession=succession,
        table=tuple(_row(facts, candidate, choice, better, succession) for candidate in rows),
        cause=choice.cause,
        message=choice.message,
        better=better,
        due=choice.due,
    )


def _succession(facts: Facts, owner: Candidate | None, ranked: Sequence[Candidate]) -> tuple[str, ...]:
    """Return who follows the owner, best first, the first one chosen so that a group is spread."""
    if owner is None:
        return ()
    others = [c for c in ranked if c.node != owner.node]
    if facts.heirs is not None and others:
        heirs = facts.heirs.get(owner.node, {})
        first = min(
            (c for c in others if c.ranks_like(others[0])),
            key=lambda c: (
                c.group_load + heirs.get(c.node, 0),
                c.node != facts.heir,
                _tie(facts.name, c.node),
            ),
        )
        others = [first, *(c for c in others if c is not first)]
    return tuple(c.node for c in others)


def _place(name: str, candidate: Candidate) -> tuple[bool, int, int, bytes]:
    tie = _tie(name, candidate.node)
    return not candidate.is_sound, -candidate.rank_score, candidate.group_load, tie


def _tie(name: str, node: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{node}".encode(), digest_size=8).digest()


def _find(candidates: Sequence[Candidate], node: str | None) -> Candidate | None:
    return next((candidate for candidate in candidates if candidate.node == node), None)


def _better(
    facts: Facts, current: Candidate | None, ranked: Sequence[Candidate], now: float
) -> Mapping[str, float]:
    """Since when each eligible node has had a better score than the owner; empty without an owner."""
    if current is None or facts.owner != current.node:
        return {}
    return {
        c.node: facts.better.get(c.node, now)
        for c in sorted(ranked, key=lambda c: c.node)
        if c.outscores(current)
    }


def _choose(
    facts: Facts,
    current: Candidate | None,
    ranked: Sequence[Candidate],
    better: Mapping[str, float],
    now: float,
) -> _Choice:
    best = ranked[0] if ranked else None
    if current is None:
        if facts.has_to_wait or best is None:
            return _Choice(None)
        return _Choice(best, "FirstChoice", f"{best.node} has the best rank")
    if not current.is_eligible:
        return _replace(facts, current, best)
    target = _find(ranked, facts.target)
    if facts.is_suspended or target == current:
        return _Choice(current)
    if target is not None:
        return _Choice(target, "Switchover", f"a Switchover asks for {target.node}")
    return _improve(facts, current, ranked, better, now)


def _replace(facts: Facts, current: Candidate, best: Candidate | None) -> _Choice:
    """Decide for an owner that should not be one. With nobody else it stays in the order, and says so."""
    if best is None or (current.is_spared and facts.is_suspended):
        return _Choice(current)
    assert current.obstacle is not None
    cause = "OwnerCordoned" if current.is_spared else "OwnerUnfit"
    return _Choice(_wished(facts, best), cause, current.obstacle.message)


def _wished(facts: Facts, best: Candidate) -> Candidate:
    """Of a move that must be, let a Switchover or the standing order choose where to, if it can.

    The first successor by the standing order may have taken the address already, so it goes before who would
    be as good.
    """
    for node in (facts.target, facts.ordered):
        wished = _find(facts.candidates, node)
        if wished is not None and wished.is_eligible:
            return wished
    heir = _find(facts.candidates, facts.heir)
    return heir if heir is not None and heir.is_eligible and heir.ranks_like(best) else best


def _improve(
    facts: Facts, current: Candidate, ranked: Sequence[Candidate], better: Mapping[str, float], now: float
) -> _Choice:
    healthier = [c for c in ranked if c.outscores(current) and c.lost < current.lost]
    if healthier:
        other = healthier[0]
        message = (
            f"{current.node} scores {current.rank_score} with failing checks, {other.node} {other.rank_score}"
        )
        return _Choice(other, "BetterHealth", message)
    if not facts.returns or not better:
        return _Choice(current)
    ripe = [c for c in ranked if c.node in better and now >= better[c.node] + facts.delay_s]
    if ripe:
        message = f"{ripe[0].node} scores {ripe[0].rank_score}, {current.node} {current.rank_score}"
        return _Choice(ripe[0], "Failback", message)
    return _Choice(current, due=min(since + facts.delay_s for since in better.values()))


def _row(
    facts: Facts,
    candidate: Candidate,
    choice: _Choice,
    better: Mapping[str, float],
    succession: Sequence[str],
) -> Row:
    is_chosen = choice.owner is not None and choice.owner.node == candidate.node
    obstacle = candidate.obstacle
    if obstacle is None:
        message = _standing(facts, candidate, choice, better, succession)
        message += "" if candidate.is_sound else "; it does not reach its gateway"
        return Row(
            candidate.node, eligible=True, score=candidate.rank_score, reason=Reason.ELIGIBLE, message=message
        )
    message = obstacle.message
    if is_chosen and succession:
        message += "; it keeps the address while the VirtualIP is suspended"
    elif is_chosen:
        message += "; it stays in the order because no other node is eligible"
    return Row(
        candidate.node, eligible=False, score=candidate.rank_score, reason=obstacle.reason, message=message
    )


def _standing(
    facts: Facts,
    candidate: Candidate,
    choice: _Choice,
    better: Mapping[str, float],
    succession: Sequence[str],
) -> str:
    """Say what the decision means for an eligible node."""
    if choice.owner is None:
        return "the first choice waits until every candidate's keeper has reported"
    if choice.owner.node == candidate.node:
        if facts.owner == candidate.node:
            return "owns the address"
        return "should own the address" + (f": {choice.message}" if choice.message else "")
    place = f"standby {succession.index(candidate.node) + 1}"
    if candidate.node not in better or choice.cause:
        return place
    stays = "stays because failback is Manual"
    if facts.is_suspended:
        stays = "stays while the VirtualIP is suspended"
    elif facts.returns:
        stays = f"gives way after {facts.delay_s:g} s of it"
    return f"{place}; scores above the owner, which {stays}"
