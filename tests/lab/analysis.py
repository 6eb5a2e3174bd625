"""What the records say: outages, who owned an address when, and whether two nodes ever did at once.

Everything here is arithmetic on records, for one address at a time.

An **outage** is a silence between two answers that is longer than a few probes; its length leaves out
the one interval that always lies between two answers, so that a faultless hand-over has length 0. An
answer counts when it arrives: one that sat in a queue while the address moved does not shorten
the outage.

**Two owners**: an answer proves only that its node answered at some instant between question and
answer. So a node is said to answer after another only when its question was sent after the
other's answer had come. A node that is proved to answer after another one, having answered before
it, shared the address with it, unless so much time lies between that the address came back by right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lab.records import Probe, Sighting

MILLISECOND = 1_000_000
INTERVAL_NS = 2 * MILLISECOND
SILENCE_INTERVALS = 5
SETTLED_NS = 1000 * MILLISECOND


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
class Tenure:
    """One node, and no other, answered from `first_ns` to `last_ns`."""

    node: str
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A witness granted the address to a node that did not hold it."""

    at_ns: int
    node: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """`old` answered at `end_ns`, having answered before `start_ns`, when `new` answered."""

    old: str
    new: str
    start_ns: int
    end_ns: int

    @property
    def length_ms(self) -> float:
        return (self.end_ns - self.start_ns) / MILLISECOND

    def excused_by(self, grant: Grant) -> bool:
        """Tell whether the address came back to its old owner by a lease of its own."""
        return grant.node == self.old and self.start_ns < grant.at_ns < self.end_ns


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
    """Return what the bridge saw nodes say as owners of an address, gratuitous announcements left out."""
    spoken = {"arp-reply", "reply", "neighbour-advert"}
    seen = [
        Answer(sighting.at_ns, sighting.at_ns, sighting.node)
        for sighting in sightings
        if sighting.address == address and sighting.kind in spoken
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


def first_answer_of(probes: Sequence[Probe], node: str, *, since_ns: int) -> int | None:
    """Return when the client had its first answer from a node."""
    times = (answer.latest_ns for answer in answers_from(probes) if answer.node == node)
    return next((at_ns for at_ns in times if at_ns > since_ns), None)


def tenures(answers: Sequence[Answer]) -> list[Tenure]:
    """Return who owned the address when. `answers` are in the order in which they came.

    An answer of another node that may have been given before the present owner's first one proves no
    change and is left out.
    """
    found: list[Tenure] = []
    for answer in answers:
        if found and found[-1].node == answer.node:
            found[-1] = replace(found[-1], last_ns=answer.latest_ns)
        elif not found or answer.earliest_ns > found[-1].first_ns:
            found.append(Tenure(answer.node, answer.latest_ns, answer.latest_ns))
    return found


def overlaps(
    answers: Sequence[Answer], *, grants: Sequence[Grant] = (), settled_ns: int = SETTLED_NS
) -> list[Overlap]:
    """Return the proofs that two nodes had the address at once.

    A node that answered, then another, then the first again within `settled_ns` of its own last answer
    is such a proof, unless `grants` has one for it since the other began to answer.
    """
    proofs = []
    known: dict[str, Tenure] = {}
    previous: Tenure | None = None
    for tenure in tenures(answers):
        earlier = known.get(tenure.node)
        if earlier and previous and tenure.first_ns - earlier.last_ns < settled_ns:
            proof = Overlap(tenure.node, previous.node, previous.first_ns, tenure.first_ns)
            if not any(proof.excused_by(grant) for grant in grants):
                proofs.append(proof)
        known[tenure.node] = tenure
        previous = tenure
    return proofs


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]
