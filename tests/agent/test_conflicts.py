"""What is done about a foreign machine with an address of ours, as stories and as laws."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipagent.conflicts import Act, Watch
from vipagent.sightings import Sighting

ADDRESS = ip_address("192.0.2.10")
ADDRESS6 = ip_address("2001:db8::10")
MAC = "02:00:00:00:00:66"
FOREIGN = Sighting(ADDRESS, MAC)
ANSWER = Sighting(ADDRESS, MAC, is_answer=True)
ROUTER = Sighting(ADDRESS, "02:00:00:00:00:07", ip_address("192.0.2.7"), 51)
SECOND = 1_000_000_000


@dataclass
class Segment:
    """A watch, its clock, and a foreign host that answers each probe while it `answers`."""

    watch: Watch
    now_ns: int = 0
    answers: Sighting | None = None
    sent: list[tuple[float, Act]] = field(default_factory=list)

    def receive(self, sighting: Sighting) -> None:
        self._send(self.watch.receive(sighting, self.now_ns))

    def run(self, seconds: float) -> Segment:
        """Let time pass: whatever is due happens when it is due."""
        end_ns = self.now_ns + int(seconds * SECOND)
        while self.watch.deadline_ns <= end_ns:
            assert self.watch.deadline_ns >= self.now_ns, "a deadline that was not moved would spin"
            self.now_ns = self.watch.deadline_ns
            due_ns = self.watch.deadline_ns
            self._send(self.watch.expire(self.now_ns))
            assert self.watch.deadline_ns > due_ns
        self.now_ns = end_ns
        return self

    def times(self, act: Act) -> list[float]:
        return [at for at, sent in self.sent if sent is act]

    def _send(self, act: Act | None) -> None:
        if act is None:
            return
        self.sent.append((self.now_ns / SECOND, act))
        if act is Act.PROBE and self.answers is not None:
            self.receive(self.answers)

    @property
    def step(self) -> str:
        return self.watch.step.value

    @property
    def conflict(self) -> str:
        told = self.watch.conflict
        return "" if told is None else f"{told.reason}: {told.message}"


def first(*, answers: Sighting | None = None) -> Segment:
    return Segment(Watch.begin(0, is_first=True, may_cede=True), answers=answers)


def taken_over(*, answers: Sighting | None = None, may_cede: bool = True) -> Segment:
    return Segment(Watch.begin(0, is_first=False, may_cede=may_cede), answers=answers)


def test_what_nobody_held_is_probed_three_times_and_bound_after_300_ms() -> None:
    segment = first().run(0.299)
    assert segment.times(Act.PROBE) == [0, 0.1, 0.2]
    assert not segment.watch.may_bind
    assert segment.run(0.001).watch.may_bind
    assert segment.watch.conflict is None


def test_what_another_node_held_is_bound_at_once() -> None:
    segment = taken_over()
    assert segment.watch.may_bind
    assert segment.run(0).sent == []


def test_an_address_that_answers_is_not_bound_and_the_answerer_is_named() -> None:
    segment = first(answers=ANSWER).run(60)
    assert not segment.watch.may_bind
    assert segment.times(Act.ANNOUNCE) == []
    assert segment.conflict == (
        "ForeignHost: the machine with MAC 02:00:00:00:00:66 has 192.0.2.10 too: take the address from it; "
        "this node leaves the addresses unbound until it has been silent for 10 s"
    )


def test_what_was_left_unbound_is_bound_when_the_other_was_silent_for_ten_seconds() -> None:
    segment = first(answers=ANSWER).run(60)
    segment.answers = None
    segment.run(9)
    assert not segment.watch.may_bind
    assert segment.run(3).watch.may_bind
    assert segment.watch.conflict is None


def test_frames_of_the_former_owner_that_are_on_their_way_still_say_nothing() -> None:
    segment = taken_over().run(0.999)
    segment.receive(FOREIGN)
    assert segment.step == "Holding"
    assert segment.sent == []
    segment.run(0.001).receive(FOREIGN)
    assert segment.step == "Defended"


def test_an_answer_to_a_probe_of_this_term_is_believed_at_once_and_to_a_former_owner_s_not() -> None:
    segment = first().run(0.5)
    segment.receive(ANSWER)
    assert segment.times(Act.ANNOUNCE) == [0.5]
    segment = taken_over().run(0.5)
    segment.receive(ANSWER)
    assert segment.times(Act.ANNOUNCE) == []


@pytest.mark.parametrize(
    "sighting",
    [
        pytest.param(FOREIGN, id="a claim"),
        pytest.param(ROUTER, id="a router's advert"),
        pytest.param(Sighting(ADDRESS6, MAC, ip_address("fe80::7"), 51), id="a router's advert for IPv6"),
    ],
)
def test_what_nobody_asked_for_does_not_keep_an_address_from_being_bound(sighting: Sighting) -> None:
    segment = first().run(0.05)
    segment.receive(sighting)
    assert segment.run(0.25).watch.may_bind


def test_an_advertisement_after_a_probe_is_an_answer() -> None:
    segment = first().run(0.05)
    segment.receive(Sighting(ADDRESS6, MAC))
    assert segment.step == "Ceded"


def test_what_came_before_the_first_probe_left_is_no_answer() -> None:
    segment = first()
    segment.receive(ANSWER)
    segment.receive(Sighting(ADDRESS6, MAC))
    assert segment.run(0.3).watch.may_bind


def test_a_foreign_claim_is_defended_once_and_forgotten_if_the_claimant_gives_way() -> None:
    segment = taken_over().run(20)
    segment.receive(FOREIGN)
    assert (segment.step, segment.conflict) == ("Defended", "")
    segment.run(0.5).receive(FOREIGN)
    assert segment.step == "Defended", "it may have crossed the announcement"
    segment.run(12)
    assert segment.step == "Holding"
    assert segment.times(Act.ANNOUNCE) == [20]


def test_who_does_not_give_way_is_told_and_ceded_to_after_30_seconds() -> None:
    segment = taken_over().run(20)
    segment.answers = ANSWER
    segment.receive(FOREIGN)
    segment.run(2)
    assert (segment.step, segment.watch.may_bind) == ("Contested", True)
    assert segment.conflict == (
        "ForeignHost: the machine with MAC 02:00:00:00:00:66 has 192.0.2.10 too: take the address from it; "
        "this node goes on announcing it for now"
    )
    segment.run(29.9)
    assert segment.watch.may_bind
    segment.run(0.1)
    assert (segment.step, segment.watch.may_bind) == ("Ceded", False)
    assert segment.times(Act.ANNOUNCE) == [20, 30, 40, 50]


@pytest.mark.parametrize("sighting", [FOREIGN, ANSWER, ROUTER], ids=["claim", "forged answer", "advert"])
def test_one_frame_every_nine_seconds_is_told_and_takes_no_address_away(sighting: Sighting) -> None:
    segment = taken_over().run(20)
    told = []
    for _ in range(400):
        segment.receive(sighting)
        segment.run(9)
        told.append(segment.conflict)
        assert segment.watch.may_bind
    assert all(told[2:])


def test_what_was_ceded_comes_back_though_claims_that_answer_nothing_go_on() -> None:
    segment = first(answers=ANSWER).run(60)
    segment.answers = None
    for _ in range(12):
        segment.receive(FOREIGN)
        segment.run(1)
    assert segment.watch.may_bind


def test_it_is_defended_twice_as_long_each_time_and_for_eight_minutes_at_most() -> None:
    segment = taken_over()
    longest = []
    for _ in range(7):
        segment.run(1)
        segment.answers = ANSWER
        while segment.step != "Contested":
            segment.run(1)
        contested_ns = segment.now_ns
        while segment.step != "Ceded":
            segment.run(1)
        longest.append((segment.now_ns - contested_ns) // SECOND)
        segment.answers = None
        segment.run(12)
        assert segment.watch.may_bind
    assert longest == [30, 60, 120, 240, 480, 480, 480]


def test_an_hour_later_it_is_defended_no_longer_than_at_first() -> None:
    segment = first(answers=ANSWER).run(1)
    segment.answers = None
    segment.run(3601)
    segment.answers = ANSWER
    segment.run(61 + 2 + 30)
    assert segment.step == "Ceded"


def test_a_keeper_that_ceded_a_set_asks_before_it_binds_it_again() -> None:
    former = first(answers=ANSWER).run(1).watch
    assert not Watch.begin(5 * SECOND, is_first=False, may_cede=True, former=former).may_bind
    assert Watch.begin(3601 * SECOND, is_first=False, may_cede=True, former=former).may_bind
    back = first(answers=ANSWER).run(1)
    back.answers = None
    back.run(12)
    assert Watch.begin(20 * SECOND, is_first=False, may_cede=True, former=back.watch).may_bind


def test_whether_it_may_be_ceded_is_asked_when_it_would_be() -> None:
    segment = taken_over().run(20)
    segment.answers = ANSWER
    segment.run(100)
    segment.watch.may_cede = False
    assert segment.step == "Ceded"
    segment = taken_over(answers=ANSWER, may_cede=False).run(200)
    assert segment.watch.may_bind
    segment.watch.may_cede = True
    assert not segment.run(2).watch.may_bind


def test_a_silent_twin_is_found_by_asking_once_a_minute() -> None:
    segment = taken_over().run(10)
    segment.answers = ANSWER
    segment.run(70)
    assert segment.conflict.startswith("ForeignHost")


def test_what_may_have_two_owners_is_told_and_not_ceded() -> None:
    assert Watch.begin(0, is_first=True, may_cede=False).may_bind
    segment = taken_over(answers=ANSWER, may_cede=False).run(300)
    assert segment.watch.may_bind
    assert "or it is the other candidate (`onQuorumLoss: Hold`)" in segment.conflict


@pytest.mark.parametrize(
    ("sightings", "named"),
    [
        pytest.param(
            [ROUTER, ROUTER],
            "ForeignVRRP: a VRRP router on 192.0.2.7 announces 192.0.2.10 with VRID 51: stop its keepalived",
            id="a router's adverts",
        ),
        pytest.param([FOREIGN, FOREIGN, ROUTER], "ForeignVRRP: a VRRP router on 192.0.2.7", id="at last"),
        pytest.param([ROUTER, FOREIGN, FOREIGN], "ForeignVRRP: a VRRP router on 192.0.2.7", id="at first"),
        pytest.param(
            [Sighting(ADDRESS, "00:00:5e:00:01:33", vrid=51)] * 2,
            "ForeignVRRP: a VRRP router with MAC 00:00:5e:00:01:33 announces 192.0.2.10 with VRID 51",
            id="a virtual MAC address",
        ),
        pytest.param(
            [FOREIGN, FOREIGN, Sighting(ADDRESS, "02:00:00:00:00:77")],
            "ForeignHost: the machine with MAC 02:00:00:00:00:66",
            id="of two the first",
        ),
    ],
)
def test_the_conflict_names(sightings: list[Sighting], named: str) -> None:
    segment = taken_over().run(10)
    for sighting in sightings:
        segment.receive(sighting)
        segment.run(1)
    assert segment.conflict.startswith(named)


happenings = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0, 70)),
        st.tuples(st.sampled_from([FOREIGN, ANSWER, ROUTER]), st.just(0.0)),
    ),
    max_size=30,
)


@given(story=happenings, is_first=st.booleans(), may_cede=st.booleans())
def test_whatever_is_seen_is_told_only_while_it_lasts_and_ends_with_the_addresses_bound(
    *, story: list[tuple[object, float]], is_first: bool, may_cede: bool
) -> None:
    segment = Segment(Watch.begin(0, is_first=is_first, may_cede=may_cede))
    steps = [segment.step]
    for what, seconds in story:
        if isinstance(what, Sighting):
            segment.receive(what)
        else:
            segment.run(seconds)
        steps.append(segment.step)
        assert (segment.watch.conflict is not None) == (segment.step in {"Contested", "Ceded"})
    defences = segment.times(Act.ANNOUNCE)
    gaps = [later - earlier for earlier, later in itertools.pairwise(defences)]
    assert all(gap >= 9.99 for gap in gaps), "at most one in DEFEND_INTERVAL"
    if not may_cede:
        assert not {"Probing", "Ceded"} & {*steps}
    assert segment.run(12).watch.conflict is None
    assert segment.watch.may_bind
