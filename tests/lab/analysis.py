"""What the records say: outages, who owned an address when, and whether two nodes ever did at once.

Everything here is arithmetic on records, for one address at a time.

An **outage** is a silence between two answers that is longer than a few probes; its length leaves out
the one interval that always lies between two answers, so that a faultless hand-over has length 0. An
answer counts when it arrives: one that sat in a queue while the address moved does not shorten
the outage.

**Two owners**: an answer proves only that its node answered at some instant between question and
answer. So a node is said to answer after another only when its question was sent after the
other's answer had come. All that is judged follows from such answers; no word of vipkeeper's own counts.

Owners that follow each other look like A…A B…B, and if the address comes home like A…A B…B A…A. Two
owners at once, both of them asked all the time, look like A B A B: each of them **returns** again and
again, proved to have answered before another node and after it. No answer can tell one such return from a
lawful one, but the time that it took and its number can:

- Without a hand-over an address changes its owner only when a lease and then the witnesses' grant have
  run out. There and back costs two of these, at least a second under Balanced (twice 500 ms). A node that
  returns within `SETTLED_NS` of its own last answer proves two owners.
- A hand-over is quicker, but somebody has to ask for it. A test whose fault asks the address there and
  back says how many `returns` that makes; every one beyond them is a proof, however clean it looks.
- Even then both ways, each with a request, a standby that prepares itself, a release and a new grant from
  a majority, take longer than `QUICKEST_NS`. A return quicker than that is a proof always.

For this to find an overlap both nodes must be asked while it lasts: a client sends its questions wherever
the last announcement told it to. `inquirer` therefore asks every node itself, past all caches, every 5 ms.
An overlap of two such intervals shows as a return of at most three, and there is one more in every further
two. Shorter ones may stay unseen; what is reported was there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.records import Probe, Sighting

MILLISECOND = 1_000_000
INTERVAL_NS = 2 * MILLISECOND
SILENCE_INTERVALS = 5
SETTLED_NS = 1000 * MILLISECOND
QUICKEST_NS = 50 * MILLISECOND
PAUSE_NS = 100 * MILLISECOND
# How long a frame may have been under way between its node's fence and the bridge's clock.
HELD_UP_NS = MILLISECOND


@dataclass(frozen=True, slots=True)
class Answer:
    """A node answered for the address at some instant from `earliest_ns` to `latest_ns`."""

    earliest_ns: int
    latest_ns: int
    node: str


@dataclass(frozen=True, slots=True)
class Outage:
    """The address did not answer from `start_ns` to `end_ns`, which is None if it did not come back."""

    start_ns: int
    end_ns: int | None
    before: str | None
    after: str | None

    @property
    def length_ms(self) -> float:
        """Return the outage's length; infinite if it did not end."""
        return float("inf") if self.end_ns is None else (self.end_ns - self.start_ns) / MILLISECOND


@dataclass(frozen=True, slots=True)
class Overlap:
    """`old` answered at `left_ns` or later, then `new` until `start_ns`, then `old` again until `end_ns`."""

    old: str
    new: str
    left_ns: int
    start_ns: int
    end_ns: int

    @property
    def length_ms(self) -> float:
        """Return how long after `new` had answered `old` answered again."""
        return (self.end_ns - self.start_ns) / MILLISECOND

    @property
    def away_ns(self) -> int:
        """Return the longest time that can lie between two answers of `old`."""
        return self.end_ns - self.left_ns


def answers_from(probes: Iterable[Probe], *, vantage: str = "") -> list[Answer]:
    """Return the answered probes as answers, in the order in which they came.

    A node that asks itself learns nothing about the wire: name it as `vantage` to leave it out.
    """
    answered = [
        Answer(probe.sent_ns, probe.answered_ns, probe.node)
        for probe in probes
        if probe.answered_ns is not None and probe.node is not None and probe.node != vantage
    ]
    return sorted(answered, key=lambda answer: answer.latest_ns)


def answers_seen(sightings: Iterable[Sighting], address: str) -> list[Answer]:
    """Return what the bridge saw nodes say as owners of an address, answered or announced.

    An announcement is what turns every cache towards its sender: only an owner may make one.
    """
    seen = [
        Answer(sighting.at_ns - HELD_UP_NS, sighting.at_ns, sighting.node)
        for sighting in sightings
        if sighting.address == address
    ]
    return sorted(seen, key=lambda answer: answer.latest_ns)


def silences(
    probes: Sequence[Probe], *, since_ns: int, until_ns: int, interval_ns: int = INTERVAL_NS
) -> list[Outage]:
    """Return every gap between two answers in a stretch of time, the ordinary ones of no length among them.

    The first one starts at the last answer before the stretch, the last one ends at the first answer
    after it or not at all.
    """
    answers = answers_from(probes)
    before = [answer for answer in answers if answer.latest_ns <= since_ns][-1:]
    within = [answer for answer in answers if since_ns < answer.latest_ns <= until_ns]
    after = [answer for answer in answers if answer.latest_ns > until_ns][:1]
    chain = [*before, *within, *after]
    if not chain:
        return [Outage(since_ns, None, None, None)]
    gaps = [
        Outage(min(old.latest_ns + interval_ns, new.latest_ns), new.latest_ns, old.node, new.node)
        for old, new in pairwise(chain)
    ]
    if not before:
        gaps.insert(0, Outage(since_ns, chain[0].latest_ns, None, chain[0].node))
    if not after and until_ns - chain[-1].latest_ns > SILENCE_INTERVALS * interval_ns:
        gaps.append(Outage(chain[-1].latest_ns + interval_ns, None, chain[-1].node, None))
    return gaps


def outages(
    probes: Sequence[Probe], *, since_ns: int, until_ns: int, interval_ns: int = INTERVAL_NS
) -> list[Outage]:
    """Return the gaps that are longer than a few probes."""
    gaps = silences(probes, since_ns=since_ns, until_ns=until_ns, interval_ns=interval_ns)
    return [gap for gap in gaps if gap.length_ms * MILLISECOND > (SILENCE_INTERVALS - 1) * interval_ns]


def longest_silence(
    probes: Sequence[Probe], *, since_ns: int, until_ns: int, interval_ns: int = INTERVAL_NS
) -> Outage:
    """Return the longest gap of a stretch of time, however short."""
    gaps = silences(probes, since_ns=since_ns, until_ns=until_ns, interval_ns=interval_ns)
    return max(gaps, key=lambda gap: gap.length_ms, default=Outage(since_ns, since_ns, None, None))


def silence_left_ms(probes: Sequence[Probe], *, since_ns: int, until_ns: int) -> float:
    """Return the longest silence of a stretch, without what of it was before; infinite if it lasts."""
    return max(
        math.inf if gap.end_ns is None else (gap.end_ns - max(gap.start_ns, since_ns)) / MILLISECOND
        for gap in silences(probes, since_ns=since_ns, until_ns=until_ns)
    )


def first_answer_of(probes: Sequence[Probe], node: str, *, since_ns: int) -> int | None:
    """Return when the client had its first answer from a node."""
    times = (answer.latest_ns for answer in answers_from(probes) if answer.node == node)
    return next((at_ns for at_ns in times if at_ns > since_ns), None)


def changes(answers: Sequence[Answer]) -> list[Answer]:
    """Return the first answer of each owner, in turn. `answers` are in the order in which they came.

    An answer of another node that may have been given before the present owner's first one proves no
    change and is left out. So an address that really had one owner at a time changed it at least as often.
    """
    found: list[Answer] = []
    for answer in answers:
        if not found or (found[-1].node != answer.node and answer.earliest_ns > found[-1].latest_ns):
            found.append(answer)
    return found


def returns(answers: Sequence[Answer]) -> list[Overlap]:
    """Return every proof that a node answered again after another one, lawful ones among them.

    There is one for each change to a node that was an owner before. Of all the answers that prove it those
    are told that lie closest together.
    """
    proofs = []
    owners: set[str] = set()
    for back in changes(answers):
        if back.node in owners:
            others = (
                each for each in answers if each.node != back.node and each.latest_ns < back.earliest_ns
            )
            other = max(others, key=lambda answer: answer.earliest_ns)
            left_ns = max(
                each.earliest_ns
                for each in answers
                if each.node == back.node and each.latest_ns < other.earliest_ns
            )
            proofs.append(Overlap(back.node, other.node, left_ns, other.latest_ns, back.latest_ns))
        owners.add(back.node)
    return proofs


def overlaps(
    answers: Sequence[Answer],
    *,
    since_ns: int = 0,
    lawful_returns: int = 0,
    settled_ns: int = SETTLED_NS,
) -> list[Overlap]:
    """Return the proofs that two nodes had the address at once; `answers` are in the order they came.

    Returns from before `since_ns` are left out. `lawful_returns` is how often since then the address was
    asked away from a node and back to it: so many returns, the slowest, prove nothing, unless they are
    quicker than any can be.
    """
    unsettled = [each for each in returns(answers) if each.end_ns > since_ns and each.away_ns < settled_ns]
    slowest_first = sorted(unsettled, key=lambda proof: proof.away_ns, reverse=True)
    lawful = [each for each in slowest_first if each.away_ns >= QUICKEST_NS][:lawful_returns]
    return [each for each in unsettled if each not in lawful]


def shared_ns(answers: Sequence[Answer], *, since_ns: int = 0, pause_ns: int = PAUSE_NS) -> int:
    """Return for how long at least two nodes had the address since then, as far as answers prove it.

    A node has it from its first answer to the beginning of its last one, and not while it pauses for
    longer than `pause_ns`. An inquirer that asks every node itself must have been at work.
    """
    spans: dict[str, list[list[int]]] = {}
    for each in answers:
        if each.latest_ns < since_ns:
            continue
        own = spans.setdefault(each.node, [])
        if own and each.earliest_ns - own[-1][1] <= pause_ns:
            own[-1][1] = max(own[-1][1], each.earliest_ns)
        else:
            own.append([each.latest_ns, each.latest_ns])
    edges = sorted(
        edge
        for own in spans.values()
        for start_ns, end_ns in own
        if end_ns > start_ns
        for edge in ((start_ns, 1), (end_ns, -1))
    )
    owners, shared = 0, 0
    for (at_ns, step), (next_ns, _) in pairwise(edges):
        owners += step
        shared += (next_ns - at_ns) if owners > 1 else 0
    return shared


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]
