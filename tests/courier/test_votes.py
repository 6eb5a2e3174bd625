"""The API server's vote: when it is asked for, what an answer gives, and that two never hold it at a time.

The law at the end runs claims of several machines against one store with compare-and-swap. Their clocks
drift, their processes pause and restart, requests and answers are slow or lost, and people delete the
Lease. Time is true time in nanoseconds; no claim ever sees it.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vipapi.link import Vote, VoteWanted
from vipapi.nodeplan import MOST_CEILING, MOST_FLOOR
from vipcourier import votes
from vipcourier.votes import (
    DURATION_NS,
    FIRST_RETRY_NS,
    HOLD_NS,
    IDLE_LOOK_NS,
    LAST_RETRY_NS,
    LOOK_NS,
    PATIENCE_NS,
    RENEWAL_NS,
    TERM_CEILING,
    Claim,
    GiveBack,
    Look,
    Make,
    Wait,
    Write,
    lease_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vipcourier.votes import Step

Document = dict[str, Any]

NAME = lease_name("uid")
MS = 1_000_000
S = 1000 * MS
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def wanted(
    holder: str = "a_1",
    ceiling: int = 1000,
    *,
    incarnation: int = 1,
    epoch: int = 0,
    is_needed: bool = True,
    since_ns: int = 0,
) -> VoteWanted:
    return VoteWanted(
        domain_uid="uid",
        domain_name="default",
        holder=holder,
        incarnation=incarnation,
        term_ceiling=ceiling,
        epoch=epoch,
        is_needed=is_needed,
        since_ns=since_ns,
    )


def given_back(since_ns: int, *, incarnation: int = 1) -> VoteWanted:
    want = wanted(incarnation=incarnation, since_ns=since_ns, is_needed=False)
    return msgspec.structs.replace(want, is_given_back=True)


def voted(until_ns: int, *, floor: int, transitions: int) -> Vote:
    return Vote("uid", until_ns, term_floor=floor, term_ceiling=1000, transitions=transitions, epoch=0)


def lease(
    version: int = 1, holder: str = "", ceiling: int | str = 0, transitions: int = 0, uid: str = "u"
) -> Document:
    return {
        "metadata": {
            "name": NAME,
            "uid": uid,
            "resourceVersion": str(version),
            "annotations": {TERM_CEILING: str(ceiling), "kept": "yes"},
        },
        "spec": {"holderIdentity": holder, "leaseTransitions": transitions, "leaseDurationSeconds": 3},
    }


def step(claim: Claim, now_ns: int, want: VoteWanted | None = None) -> Step:
    return claim.step(want or wanted(), now_ns=now_ns, wall=EPOCH)


def write(claim: Claim, now_ns: int, want: VoteWanted | None = None) -> Write:
    found = step(claim, now_ns, want)
    assert isinstance(found, Write)
    return found


def stored(written: Write, version: int) -> Document:
    """Return what the API server answers a write with."""
    answer = copy.deepcopy(written.lease)
    answer["metadata"]["resourceVersion"] = str(version)
    return answer


def win(claim: Claim, now_ns: int, version: int, want: VoteWanted | None = None) -> Vote:
    written = write(claim, now_ns, want)
    vote = claim.wrote(written, stored(written, version), want or wanted(), now_ns=now_ns + 10 * MS)
    assert vote is not None
    return vote


def seeing(found: Document | None, at_ns: int = 0) -> Claim:
    claim = Claim(NAME)
    assert step(claim, at_ns) == Look()
    claim.saw(found, now_ns=at_ns)
    return claim


def test_a_lease_that_is_missing_is_made_for_nobody_and_waited_out() -> None:
    claim = seeing(None)
    made = step(claim, 0)
    assert made == Make({"metadata": {"name": NAME}, "spec": {"leaseDurationSeconds": 3}})
    claim.saw(lease(1), now_ns=5 * MS)
    assert step(claim, 5 * MS) == Wait(5 * MS + LOOK_NS)
    assert isinstance(step(claim, 5 * MS + DURATION_NS), Write)


@pytest.mark.parametrize("holder", ["b_2", "a_2", ""], ids=["another-node", "another-boot", "nobody"])
def test_another_holders_vote_is_taken_when_it_has_not_changed_for_its_duration(holder: str) -> None:
    claim = seeing(lease(7, holder, ceiling=400, transitions=3), at_ns=S)
    assert step(claim, S + LOOK_NS) == Look()
    claim.saw(lease(7, holder, ceiling=400, transitions=3), now_ns=2 * S)
    assert step(claim, 2 * S) == Wait(2 * S + LOOK_NS)
    assert not isinstance(step(claim, S + DURATION_NS - 1), Write)
    written = write(claim, S + DURATION_NS)
    assert written.lease["metadata"]["resourceVersion"] == "7"
    assert written.lease["metadata"]["annotations"] == {
        TERM_CEILING: "1000",
        votes.EPOCH: "0",
        votes.CLAIM: "1.0",
        "kept": "yes",
    }
    said_at = "2026-01-01T00:00:00.000000Z"
    assert written.lease["spec"] == {
        "holderIdentity": "a_1",
        "leaseTransitions": 4,
        "leaseDurationSeconds": 3,
        "acquireTime": said_at,
        "renewTime": said_at,
    }
    vote = claim.wrote(written, stored(written, 8), wanted(), now_ns=S + DURATION_NS + 99 * MS)
    assert vote == voted(S + DURATION_NS + HOLD_NS, floor=400, transitions=5)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lease(8, "b_2"), id="renewed"),
        pytest.param(lease(8, "c_3"), id="taken-by-a-third"),
        pytest.param(lease(7, "b_2", uid="anew"), id="made-anew"),
    ],
)
def test_a_change_begins_the_wait_anew(changed: Document) -> None:
    claim = seeing(lease(7, "b_2"))
    claim.saw(changed, now_ns=2 * S)
    assert not isinstance(step(claim, 2 * S + DURATION_NS - 1), Write)
    assert isinstance(step(claim, 2 * S + DURATION_NS), Write)


def test_what_was_seen_long_ago_is_taken_at_once_and_only_if_it_is_still_so() -> None:
    claim = seeing(lease(7, "b_2"))
    assert write(claim, 3600 * S).lease["metadata"]["resourceVersion"] == "7"
    claim.was_moved()
    assert step(claim, 3600 * S) == Look()
    claim.saw(lease(9, "b_2"), now_ns=3600 * S)
    assert step(claim, 3600 * S) == Wait(3600 * S + LOOK_NS)


def test_a_vote_is_renewed_while_it_is_wanted_and_keeps_its_floor() -> None:
    claim = seeing(lease(1, "b_2", ceiling=5))
    first = win(claim, 4 * S, 2)
    assert step(claim, 4 * S + RENEWAL_NS - 1) == Wait(4 * S + RENEWAL_NS)
    second = win(claim, 4 * S + RENEWAL_NS, 3)
    assert second == voted(first.until_ns + RENEWAL_NS, floor=5, transitions=2)


def test_a_higher_ceiling_is_written_at_once_and_a_lower_one_changes_nothing() -> None:
    claim = seeing(lease(1))
    win(claim, 4 * S, 2)
    assert isinstance(step(claim, 4 * S + 1, wanted(ceiling=10)), Wait)
    assert win(claim, 4 * S + 1, 3, wanted(ceiling=2000)).term_ceiling == 2000
    assert win(claim, 5 * S, 4, wanted(ceiling=10)).term_ceiling == 2000


def test_a_vote_that_is_not_needed_is_made_and_looked_at_but_not_taken() -> None:
    idle = wanted(is_needed=False)
    claim = seeing(None)
    assert isinstance(step(claim, 0, idle), Make)
    claim.saw(lease(1), now_ns=0)
    assert step(claim, 0, idle) == Wait(IDLE_LOOK_NS)
    assert step(claim, IDLE_LOOK_NS, idle) == Look()
    claim.saw(lease(1), now_ns=IDLE_LOOK_NS)
    assert isinstance(step(claim, DURATION_NS), Write)  # as soon as it is needed


def test_a_version_that_another_wrote_before_the_vote_was_needed_has_been_known_when_it_is() -> None:
    idle = wanted(is_needed=False)
    claim = seeing(lease(1, "b_2"))
    assert step(claim, 1500 * MS, idle) == Look()
    claim.saw(lease(2, "b_2"), now_ns=1500 * MS)
    written = write(claim, 1500 * MS + DURATION_NS)
    assert written.lease["metadata"]["resourceVersion"] == "2"


def test_a_vote_that_was_given_back_is_anybodys_at_once() -> None:
    claim = seeing(lease(1, "b_2", ceiling=5))
    win(claim, 4 * S, 2)
    back = step(claim, 5 * S, given_back(5 * S))
    assert isinstance(back, GiveBack)
    assert back.lease["metadata"]["resourceVersion"] == "2"
    free = copy.deepcopy(back.lease)
    free["metadata"]["resourceVersion"] = "3"
    claim.saw(free, now_ns=5 * S)
    assert step(claim, 5 * S, given_back(5 * S)) == Wait(5 * S + IDLE_LOOK_NS)
    other = seeing(free, at_ns=77 * S)
    assert win(other, 77 * S, 4, wanted("b_2")) == voted(77 * S + HOLD_NS, floor=1000, transitions=3)
    third = seeing(other._seen.lease if other._seen else None, at_ns=0)  # noqa: SLF001 - as it was written
    assert step(third, 0, wanted("c_3")) == Wait(LOOK_NS)  # it is held again


def test_who_gave_the_vote_back_and_needs_it_again_wins_it_anew_at_once() -> None:
    claim = seeing(lease(1, "b_2", ceiling=5))
    win(claim, 4 * S, 2)
    back = step(claim, 4 * S + 1, given_back(4 * S + 1))
    assert isinstance(back, GiveBack)
    claim.failed(now_ns=4 * S + 1)  # whether it was written nobody knows
    claim.saw(back.lease | {"metadata": back.lease["metadata"] | {"resourceVersion": "3"}}, now_ns=4 * S + 2)
    again = wanted(since_ns=4 * S + 1)
    vote = win(claim, 5 * S, 4, again)
    assert vote == msgspec.structs.replace(voted(5 * S + HOLD_NS, floor=5, transitions=2), since_ns=4 * S + 1)
    assert isinstance(step(claim, 5 * S + 1, again), Wait)


def test_who_needs_the_vote_again_before_its_word_was_written_renews_it_for_the_new_want() -> None:
    claim = seeing(lease(1))
    win(claim, 4 * S, 2)
    assert isinstance(step(claim, 4 * S + 1, wanted(since_ns=4 * S)), Write)


@pytest.mark.parametrize(
    ("holder", "said_by", "word"),
    [
        pytest.param("a_1", wanted(since_ns=7), given_back(7), id="it-was-won-since"),
        pytest.param("a_1", wanted(since_ns=9), given_back(7), id="it-was-won-by-a-later-want"),
        pytest.param("a_1", wanted(incarnation=2), given_back(7), id="it-was-won-by-a-later-keeper"),
        pytest.param("b_2", wanted("b_2"), given_back(7), id="it-is-another's"),
        pytest.param("a_1", None, given_back(7), id="nobody-knows-for-whom-it-was-won"),
    ],
)
def test_a_vote_is_not_given_away_where(holder: str, said_by: VoteWanted | None, word: VoteWanted) -> None:
    there = lease(2, holder)
    if said_by is not None:
        winner = seeing(lease(1))
        there = stored(write(winner, 4 * S, said_by), 2)
    assert there["spec"]["holderIdentity"] == holder
    assert step(seeing(there), 0, word) == Wait(IDLE_LOOK_NS)


def test_a_keeper_that_was_restarted_renews_at_once_and_gets_the_ceiling_as_its_floor() -> None:
    claim = seeing(lease(1, "b_2", ceiling=5))
    assert win(claim, 4 * S, 2).term_floor == 5
    anew = wanted(incarnation=2, ceiling=10)
    assert win(claim, 4 * S + 1, 3, anew) == voted(4 * S + 1 + HOLD_NS, floor=1000, transitions=2)
    assert isinstance(step(claim, 4 * S + 2, anew), Wait)
    higher = wanted(incarnation=2, ceiling=2000)
    assert win(claim, 4 * S + 2, 4, higher).term_floor == 1000


def test_what_a_keeper_that_is_gone_wrote_on_its_way_raises_the_floor_of_the_next() -> None:
    claim = seeing(lease(1, "b_2", ceiling=5))
    win(claim, 4 * S, 2)
    written = write(claim, 4 * S + 1, wanted(ceiling=2000))
    claim.failed(now_ns=4 * S + PATIENCE_NS)
    claim.saw(stored(written, 3), now_ns=5 * S)
    assert win(claim, 5 * S, 4, wanted(incarnation=2)).term_floor == 2000


def test_who_is_two_epochs_behind_the_last_holder_does_not_get_the_vote() -> None:
    claim = seeing(lease(1))
    assert win(claim, 4 * S, 2, wanted(epoch=7)).epoch == 7
    assert isinstance(step(claim, 9 * S, wanted(epoch=5)), Look)
    assert win(claim, 9 * S, 3, wanted(epoch=6)).epoch == 7


def test_a_higher_epoch_is_written_at_once() -> None:
    claim = seeing(lease(1))
    win(claim, 4 * S, 2, wanted(epoch=7))
    assert win(claim, 4 * S + 1, 3, wanted(epoch=8)).epoch == 8


def test_a_process_that_finds_its_nodes_own_vote_renews_it_with_its_ceiling_as_floor() -> None:
    claim = seeing(lease(9, "a_1", ceiling=700, transitions=2))
    assert win(claim, 1, 10) == voted(1 + HOLD_NS, floor=700, transitions=3)
    assert win(claim, S, 11).term_floor == 700


def test_a_vote_that_was_taken_by_a_write_whose_answer_was_lost_has_the_floor_that_it_was_taken_with() -> (
    None
):
    claim = seeing(lease(1, "b_2", ceiling=5))
    written = write(claim, 4 * S)
    claim.failed(now_ns=4 * S + PATIENCE_NS)
    now_ns = 4 * S + PATIENCE_NS + FIRST_RETRY_NS
    assert step(claim, now_ns) == Look()
    claim.saw(stored(written, 2), now_ns=now_ns)
    vote = win(claim, now_ns, 3)
    assert (vote.term_floor, vote.term_ceiling, vote.until_ns) == (5, 1000, now_ns + HOLD_NS)


def test_a_vote_that_was_raised_before_it_could_be_taken_is_taken_with_the_raised_ceiling_as_floor() -> None:
    claim = seeing(lease(1, "b_2", ceiling=5))
    write(claim, 4 * S)
    claim.was_moved()
    claim.saw(lease(2, "b_2", ceiling=90), now_ns=4 * S)
    assert win(claim, 7 * S, 3).term_floor == 90


def test_a_vote_that_another_had_in_between_comes_back_with_its_ceiling() -> None:
    claim = seeing(lease(1, "b_2", ceiling=5))
    win(claim, 4 * S, 2)
    claim.was_moved()
    assert step(claim, 9 * S) == Look()
    claim.saw(lease(7, "b_2", ceiling=1500, transitions=2), now_ns=9 * S)
    vote = win(claim, 12 * S, 8)
    assert (vote.term_floor, vote.term_ceiling, vote.transitions) == (1500, 1500, 4)


@pytest.mark.parametrize(
    ("answer", "late_ns"),
    [
        pytest.param({}, PATIENCE_NS + 1, id="late"),
        pytest.param({"version": 1}, 0, id="nothing-was-written"),
        pytest.param({"version": 2, "holder": "b_2"}, 0, id="somebody-rewrote-it-on-the-way"),
    ],
)
def test_an_answer_like_this_gives_no_vote(answer: dict[str, Any], late_ns: int) -> None:
    claim = seeing(lease(1))
    written = write(claim, 4 * S)
    found = lease(**answer) if answer else stored(written, 2)
    assert claim.wrote(written, found, wanted(), now_ns=4 * S + late_ns) is None


def test_an_answer_just_in_time_gives_a_vote_from_before_it_was_asked_for() -> None:
    claim = seeing(lease(1))
    written = write(claim, 4 * S)
    vote = claim.wrote(written, stored(written, 2), wanted(), now_ns=4 * S + PATIENCE_NS)
    assert vote is not None
    assert vote.until_ns == 4 * S + HOLD_NS


def test_failures_are_paused_for_ever_longer_up_to_a_second_and_then_looked_at_again() -> None:
    claim = Claim(NAME)
    pauses = []
    now_ns = 0
    for _ in range(5):
        claim.failed(now_ns=now_ns)
        found = step(claim, now_ns)
        assert isinstance(found, Wait)
        pauses.append(found.until_ns - now_ns)
        now_ns = found.until_ns
        assert step(claim, now_ns) == Look()
    assert pauses == [FIRST_RETRY_NS, 2 * FIRST_RETRY_NS, 4 * FIRST_RETRY_NS, LAST_RETRY_NS, LAST_RETRY_NS]
    claim.saw(lease(1), now_ns=now_ns)
    claim.failed(now_ns=now_ns)
    assert step(claim, now_ns) == Wait(now_ns + FIRST_RETRY_NS)


@pytest.mark.parametrize(
    "text",
    ["many", "", "-5", "9" * 5000, str(MOST_CEILING + 1)],
    ids=["word", "empty", "negative", "endless", "beyond"],
)
def test_a_ceiling_that_was_spoilt_by_hand_is_told_and_what_was_seen_before_counts(text: str) -> None:
    claim = seeing(lease(1, "b_2", ceiling=text))
    assert "term-ceiling cannot be read" in claim.objection
    vote = win(claim, 4 * S, 2)
    assert (vote.term_floor, vote.term_ceiling) == (0, 1000)
    assert claim.objection == ""
    claim = seeing(lease(1, "b_2", ceiling=70))
    claim.saw(lease(2, "b_2", ceiling=text), now_ns=0)
    assert win(claim, 4 * S, 3).term_floor == 70


@pytest.mark.parametrize("ceiling", [MOST_FLOOR + 3000, MOST_CEILING])
def test_the_highest_ceiling_that_is_written_is_read_back(ceiling: int) -> None:
    claim = seeing(lease(1))
    written = write(claim, 4 * S, wanted(ceiling=ceiling))
    other = Claim(NAME)
    other.saw({**written.lease, "metadata": {**written.lease["metadata"], "resourceVersion": "9"}}, now_ns=0)
    assert other.objection == ""
    assert win(other, 4 * S, 10, wanted("c_3")).term_floor == ceiling


def test_a_lease_that_was_deleted_is_made_with_what_is_remembered_of_it() -> None:
    claim = seeing(lease(1, "b_2", ceiling=70, transitions=6))
    claim.saw(None, now_ns=S)
    made = step(claim, S)
    assert isinstance(made, Make)
    assert made.lease["metadata"]["annotations"] == {TERM_CEILING: "70", votes.EPOCH: "0"}
    assert made.lease["spec"]["leaseTransitions"] == 6
    assert "holderIdentity" not in made.lease["spec"]


def test_two_whole_tries_fit_between_a_renewal_and_the_end_of_the_vote() -> None:
    assert RENEWAL_NS + 2 * PATIENCE_NS + FIRST_RETRY_NS < HOLD_NS


class Store:
    """The API server, as far as one Lease goes."""

    def __init__(self) -> None:
        self.lease: Document | None = None
        self._versions = itertools.count(1)

    def create(self, document: Document) -> Document | None:
        """Return the new Lease; None for a conflict."""
        if self.lease is not None:
            return None
        self.lease = copy.deepcopy(document)
        version = str(next(self._versions))
        self.lease["metadata"] |= {"uid": f"uid-{version}", "resourceVersion": version}
        return copy.deepcopy(self.lease)

    def replace(self, document: Document) -> Document | None:
        """Return the new version; None for a conflict."""
        named, there = document["metadata"], (self.lease or {}).get("metadata", {})
        if (named["uid"], named["resourceVersion"]) != (there.get("uid"), there.get("resourceVersion")):
            return None
        self.lease = copy.deepcopy(document)
        self.lease["metadata"]["resourceVersion"] = str(next(self._versions))
        return copy.deepcopy(self.lease)


@dataclass(slots=True)
class Machine:
    """One node's courier and its clock."""

    node: str
    rate: float
    offset_ns: int
    claim: Claim = field(default_factory=lambda: Claim(NAME))
    wants: bool = True
    ceiling: int = 100
    # The keeper's; it is restarted without its courier.
    incarnation: int = 1
    since_ns: int = 0
    has_given_back: bool = False
    # Grows with every restart: what was asked by a process that is gone has nobody to answer to.
    process: int = 0

    def clock(self, now_ns: int) -> int:
        return self.offset_ns + int(now_ns * self.rate)

    def true_time(self, clock_ns: int) -> int:
        return int((clock_ns - self.offset_ns) / self.rate)


@dataclass(frozen=True, slots=True)
class Faults:
    """How likely, in the world of one run, each misfortune is."""

    lost: float
    slow: float
    pause: float
    restart: float
    whim: float
    return_: float
    deletion: float


@dataclass(slots=True)
class Request:
    """Something that a process asked; its answer counts once, and only for that process."""

    machine: Machine
    process: int
    asked: Step
    want: VoteWanted
    is_open: bool = True

    def close(self) -> bool:
        was_open, self.is_open = self.is_open, False
        return was_open and self.process == self.machine.process


class World:
    """Runs machines against a store, in true time, and keeps every vote that was told."""

    def __init__(self, draw: random.Random, faults: Faults, machines: int) -> None:
        self.draw = draw
        self.faults = faults
        self.store = Store()
        self.now_ns = 0
        self.told: list[tuple[int, int, tuple[str, int], Vote]] = []
        self._order = itertools.count()
        self._agenda: list[tuple[int, int, Callable[[], None]]] = []
        self.machines = [
            Machine(name, draw.choice([0.9, 1.1]), draw.randrange(10**6 * S)) for name in "abcd"[:machines]
        ]
        for machine in self.machines:
            self._in(0, lambda machine=machine: self._turn(machine, machine.process))  # type: ignore[misc]

    def run(self, until_ns: int) -> None:
        while self._agenda[0][0] < until_ns:
            self.now_ns, _, act = heapq.heappop(self._agenda)
            act()
        self.now_ns = until_ns

    def _in(self, delay_ns: int, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (self.now_ns + delay_ns, next(self._order), act))

    def _chance(self, likelihood: float) -> bool:
        return self.draw.random() < likelihood

    def _pause(self) -> int:
        """Return how long a process is held up here."""
        return self.draw.randrange(6 * S) if self._chance(self.faults.pause) else self.draw.randrange(MS)

    def _way(self) -> int:
        """Return how long a message takes in one direction."""
        if self._chance(self.faults.slow):
            return self.draw.randrange(self.draw.choice([PATIENCE_NS, 5 * S]))
        return self.draw.randrange(1, 50 * MS)

    def _turn(self, machine: Machine, process: int) -> None:
        """Let a machine look what is due, and do it."""
        if process != machine.process:
            return
        if self._chance(self.faults.deletion):
            self.store.lease = None
        if self._chance(self.faults.restart):
            machine.process += 1
            machine.claim = Claim(NAME)
            self._next(machine, self._pause())
            return
        if self._chance(self.faults.restart):
            machine.incarnation += 1
            machine.ceiling = 100
        if self._chance(self.faults.return_):
            self._give_back(machine)
        elif self._chance(0.5):
            machine.has_given_back = False
        machine.ceiling += self.draw.choice([0, 0, 0, 500])
        if not machine.wants or self._chance(self.faults.whim):
            self._next(machine, self.draw.randrange(6 * S))
            return
        want = msgspec.structs.replace(
            wanted(f"{machine.node}_1", machine.ceiling, incarnation=machine.incarnation),
            since_ns=machine.since_ns,
            is_needed=not machine.has_given_back,
            is_given_back=machine.has_given_back,
        )
        clock_ns = machine.clock(self.now_ns)
        found = machine.claim.step(want, now_ns=clock_ns, wall=EPOCH)
        if isinstance(found, Wait):
            self._next(machine, int((found.until_ns - clock_ns) / machine.rate) + 1)
            return
        self._ask(Request(machine, machine.process, found, want))

    def _give_back(self, machine: Machine) -> None:
        """Let a keeper forget the vote that it holds, and what was won before and is told later."""
        machine.since_ns, machine.has_given_back = machine.clock(self.now_ns), True
        self.told = [
            (began_ns, min(ended_ns, self.now_ns) if keeper[0] == machine.node else ended_ns, keeper, vote)
            for began_ns, ended_ns, keeper, vote in self.told
        ]

    def _next(self, machine: Machine, delay_ns: int) -> None:
        self._in(delay_ns, lambda process=machine.process: self._turn(machine, process))  # type: ignore[misc]

    def _ask(self, request: Request) -> None:
        # The process may be held up after it read its clock and before the request leaves.
        held_up_ns = self._pause()
        self._in(held_up_ns + self._way(), lambda: self._arrive(request))
        self._in(held_up_ns + int(PATIENCE_NS / request.machine.rate), lambda: self._time_out(request))

    def _arrive(self, request: Request) -> None:
        if self._chance(self.faults.lost):
            return
        answer, is_conflict = self._serve(request.asked)
        if not self._chance(self.faults.lost):
            self._in(self._way(), lambda: self._come_back(request, answer, is_conflict=is_conflict))

    def _time_out(self, request: Request) -> None:
        if request.close():
            request.machine.claim.failed(now_ns=request.machine.clock(self.now_ns))
            self._next(request.machine, self._pause())

    def _come_back(self, request: Request, answer: Document | None, *, is_conflict: bool) -> None:
        if request.close():
            self._in(self._pause(), lambda: self._take_in(request, answer, is_conflict=is_conflict))

    def _take_in(self, request: Request, answer: Document | None, *, is_conflict: bool) -> None:
        machine = request.machine
        if request.process != machine.process:
            return
        now_ns = machine.clock(self.now_ns)
        if is_conflict:
            machine.claim.was_moved()
        elif isinstance(request.asked, Write):
            assert answer is not None
            vote = machine.claim.wrote(request.asked, answer, request.want, now_ns=now_ns)
            if vote is not None and vote.since_ns == machine.since_ns:
                keeper = machine.node, request.want.incarnation
                self.told.append((self.now_ns, machine.true_time(vote.until_ns), keeper, vote))
        else:
            machine.claim.saw(answer, now_ns=now_ns)
        self._next(machine, self._pause())

    def _serve(self, asked: Step) -> tuple[Document | None, bool]:
        match asked:
            case Look():
                return copy.deepcopy(self.store.lease), False
            case Make(document):
                answer = self.store.create(document)
                return answer, answer is None
            case Write(document) | GiveBack(document):
                answer = self.store.replace(document)
                return answer, answer is None
        raise AssertionError(asked)


def test_with_the_worst_clocks_and_the_latest_answer_a_vote_is_over_before_another_takes_it() -> None:
    holder, reader = Machine("a", 0.9, 7 * S), Machine("b", 1.1, 3 * S)
    holder.claim = seeing(lease(1, "a_1"), at_ns=holder.clock(0))
    asked = write(holder.claim, holder.clock(0))
    written = stored(asked, 2)
    # The reader sees the very moment of the write; the holder has the answer at the end of its patience.
    reader.claim = seeing(written, at_ns=reader.clock(0))
    vote = holder.claim.wrote(asked, written, wanted(), now_ns=holder.clock(0) + PATIENCE_NS)
    assert vote is not None
    over_ns = holder.true_time(vote.until_ns)
    assert not isinstance(step(reader.claim, reader.clock(over_ns), wanted("b_1")), Write)
    assert isinstance(step(reader.claim, reader.clock(over_ns + 60 * MS), wanted("b_1")), Write)


def some_faults(draw: random.Random, *, deletion: float = 0.0) -> Faults:
    return Faults(
        lost=draw.choice([0, 0.05, 0.2]),
        slow=draw.choice([0, 0.05, 0.5]),
        pause=draw.choice([0, 0.02, 0.1]),
        restart=draw.choice([0, 0.005, 0.02]),
        whim=draw.choice([0, 0.02, 0.2]),
        return_=draw.choice([0, 0.02, 0.2]),
        deletion=deletion,
    )


def check_that_one_holds_at_a_time(told: list[tuple[int, int, tuple[str, int], Vote]]) -> None:
    until_ns: dict[str, int] = {}
    for began_ns, ended_ns, (node, _), _ in told:
        for other, other_until_ns in until_ns.items():
            assert other == node or other_until_ns <= began_ns or ended_ns <= began_ns, (
                other,
                node,
                began_ns,
            )
        until_ns[node] = max(ended_ns, until_ns.get(node, 0))


# A run of a whole minute takes its time on a busy machine.
@settings(deadline=None)
@given(seed=st.integers(0, 2**32), machines=st.integers(2, 4))
def test_no_two_hold_the_vote_at_a_time_and_floors_and_ceilings_grow(*, seed: int, machines: int) -> None:
    draw = random.Random(seed)
    world = World(draw, some_faults(draw), machines)
    world.run(60 * S)
    check_that_one_holds_at_a_time(world.told)
    ceilings: dict[tuple[str, int], int] = {}
    newest = 0
    for _, _, keeper, vote in world.told:
        others = max((ceiling for other, ceiling in ceilings.items() if other != keeper), default=0)
        assert vote.term_floor >= others
        assert vote.term_ceiling >= max(ceilings.values(), default=0)
        assert vote.transitions >= newest > -1
        ceilings[keeper], newest = vote.term_ceiling, vote.transitions
    holders = {vote.transitions: node for _, _, (node, _), vote in world.told}
    assert all(
        holders[vote.transitions] == node and vote.transitions > 0 for _, _, (node, _), vote in world.told
    )


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), machines=st.integers(2, 4))
def test_no_two_hold_the_vote_at_a_time_also_when_people_delete_the_lease(
    *, seed: int, machines: int
) -> None:
    draw = random.Random(seed)
    world = World(draw, some_faults(draw, deletion=draw.choice([0.01, 0.1])), machines)
    world.run(60 * S)
    check_that_one_holds_at_a_time(world.told)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_after_any_trouble_who_alone_wants_the_vote_gets_it_and_keeps_it(*, seed: int) -> None:
    draw = random.Random(seed)
    world = World(draw, some_faults(draw, deletion=draw.choice([0, 0.05])), 3)
    world.run(20 * S)
    world.faults = Faults(lost=0, slow=0, pause=0, restart=0, whim=0, return_=0, deletion=0)
    for machine in world.machines:
        machine.wants = machine.node == "a"
    # What is still under way takes up to its pause and its way; then come the longest pause and the wait.
    world.run(45 * S)
    quiet = [(began, ended) for began, ended, (node, _), _ in world.told if began > 40 * S and node == "a"]
    assert len(quiet) > 6
    assert all(later[0] < former[1] for former, later in itertools.pairwise(quiet))
