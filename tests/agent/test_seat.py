"""A seat joins lease, witness and codec: three of them elect an owner over sealed datagrams."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest

from vipagent.datagrams import DatagramRefused
from vipagent.disk import Disk
from vipagent.effects import MILLISECOND, Adopt, Close, Effect, Extend, Open, Phase, Send
from vipagent.messages import Ack, Handover, Message, Request, Want
from vipagent.seat import Seat
from vipagent.succession import key_of, lease_timing
from vipagent.witness import Witness
from vipapi.configuration import Configuration, Member, WitnessSet
from vipapi.link import Vote
from vipapi.nodeplan import (
    MOST_CEILING,
    MOST_FLOOR,
    MOST_TERM,
    CandidatePlan,
    DomainPlan,
    Key,
    Timing,
    VirtualIPPlan,
)
from vipapi.nodestatus import GrantStatus

NODES = ("a", "b", "c")
UID = "domain-uid"
MEMBERS = {node: Member(node, f"192.0.2.{number}") for number, node in enumerate("abcd", 1)}


def witnesses(names: str, *, has_api_vote: bool = False) -> WitnessSet:
    return WitnessSet(tuple(MEMBERS[node] for node in names), has_api_vote)


FIRST = Configuration(1, witnesses=witnesses("abc")).sealed(UID)
PAIR = Configuration(1, witnesses=witnesses("ab", has_api_vote=True)).sealed(UID)


def after(before: Configuration, **changes: object) -> Configuration:
    bare = Configuration(before.epoch + 1, "", before.hash, before.witnesses)
    return msgspec.structs.replace(bare, **changes).sealed(UID)


# Witness c makes room for d, step by step.
JOINING = after(FIRST, witnesses=witnesses("abd"), former=FIRST.witnesses)
SEALING = after(JOINING, former=FIRST.witnesses, is_sealing=True)
CHANGED = after(SEALING)
WEB = VirtualIPPlan(
    uid="web-uid",
    name="web",
    addresses=("192.0.2.10/24",),
    candidates=tuple(CandidatePlan(node, 100) for node in NODES),
    owner="b",
)


def _domain(**changes: object) -> DomainPlan:
    fields: dict[str, object] = {
        "name": "default",
        "uid": UID,
        "port": 7946,
        "timing": Timing(100, 400, 500, 600),
        "configuration": FIRST,
        "members": tuple(MEMBERS.values()),
        "keys": (Key(1, b"k" * 32),),
        "virtual_ips": (WEB,),
    }
    return DomainPlan(**(fields | changes))  # type: ignore[arg-type]


def seat_of(
    node: str,
    domain: DomainPlan | None = None,
    *,
    incarnation: int = 7,
    machine: bytes = b"",
    now_ns: int = 0,
) -> Seat:
    domain = domain or _domain()
    seat = Seat(
        domain,
        domain.configuration,
        node=node,
        machine=machine,
        incarnation=incarnation,
        random=Random(node),
        now_ns=now_ns,
        term_ceiling=0,
    )
    seat.witness.keep(seat.witness.term_ceiling)
    seat.assign(domain, now_ns)
    return seat


class Domain:
    """Some seats and a perfect network; every datagram is sealed and opened again; disks take no time."""

    def __init__(self, nodes: str = "abc", domain: DomainPlan | None = None) -> None:
        self.now_ns = 0
        self.effects: dict[str, list[Effect]] = {node: [] for node in nodes}
        self.away: set[str] = set()
        self.keeps = True
        self.seats = {node: seat_of(node, domain) for node in nodes}
        for node, seat in self.seats.items():
            self.perform(node, seat.judge([WEB.uid], 0, is_sound=True))

    def perform(self, node: str, effects: list[Effect]) -> None:
        for effect in effects:
            seat = self.seats[node]
            match effect:
                case Adopt(configuration):
                    if self.keeps and configuration.epoch > seat.configuration.epoch:
                        self.perform(node, seat.configure(configuration, self.now_ns))
                case Send() if seat.is_local(effect):
                    self.perform(node, seat.deliver(effect, self.now_ns))
                case Send(to):
                    sealed = seat.seal(effect)
                    assert sealed is not None
                    if to in self.seats and not {node, to} & self.away:
                        self.perform(to, self.seats[to].receive(sealed[1], self.now_ns))
                case Close(key):
                    self.effects[node].append(effect)
                    self.perform(node, seat.lease.closed(key, self.now_ns))
                case _:
                    self.effects[node].append(effect)

    def run(self, milliseconds: int) -> None:
        end_ns = self.now_ns + milliseconds * MILLISECOND
        while (due_ns := min(seat.deadline_ns for seat in self.seats.values())) <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            for node, seat in self.seats.items():
                self.perform(node, seat.expire(self.now_ns))
                seat.witness.keep(seat.witness.term_ceiling)
        self.now_ns = end_ns

    def configure(self, configuration: Configuration, nodes: str) -> None:
        for node in nodes:
            self.perform(node, self.seats[node].configure(configuration, self.now_ns))

    def epochs(self) -> dict[str, int]:
        return {node: seat.configuration.epoch for node, seat in self.seats.items()}

    def owners(self) -> list[str]:
        key = key_of(WEB)
        return [node for node, seat in self.seats.items() if seat.lease.phase(key) is Phase.OWNER]


def test_the_elected_candidate_takes_the_address_and_renews_it() -> None:
    domain = Domain()
    domain.run(2_000)
    opened = [effect for effect in domain.effects["b"] if isinstance(effect, Open)]
    assert [effect.term for effect in opened] == [1]
    assert opened[0].origin.reason == "Elected"
    assert any(isinstance(effect, Extend) for effect in domain.effects["b"])
    assert domain.seats["b"].lease.phase(key_of(WEB)) is Phase.OWNER
    assert domain.effects["a"] == domain.effects["c"] == []


def test_every_witness_reports_whom_it_granted_and_whom_it_hears() -> None:
    domain = Domain()
    domain.run(2_000)
    for node in NODES:
        status = domain.seats[node].status(heartbeat_address="192.0.2.1", now_ns=domain.now_ns)
        assert status.role == "Witness"
        assert status.grants == (GrantStatus(uid="web-uid", name="web", holder="b", term=1),)
        assert status.reachable_peers == NODES


@pytest.mark.parametrize("configuration", [FIRST, PAIR], ids=["three", "two-and-the-api-server"])
def test_what_a_seat_reports_changes_with_its_pulse_only(configuration: Configuration) -> None:
    """By time and by what is heard; plans, judgements and new epochs have their own way to the report."""
    deleted = ("gone-uid/192.0.2.9/1", "web-uid/192.0.2.10/1")
    domain = Domain(domain=_domain(configuration=configuration, deleted=deleted))
    changes = 0

    def reported(node: str) -> object:
        seat = domain.seats[node]
        key = key_of(WEB)
        status = seat.status(heartbeat_address="192.0.2.1", now_ns=domain.now_ns)
        return status, seat.lease.phase(key), seat.lease.term(key), seat.problems(domain.now_ns)

    def hear_votes() -> None:
        for seat in domain.seats.values():
            seat.hear_votes(_vote(60_000), domain.now_ns)

    def watch(milliseconds: int, deed: Callable[[], None] = lambda: None) -> None:
        nonlocal changes
        for _ in range(milliseconds // 10):
            before = {
                node: (reported(node), seat.pulse(domain.now_ns)) for node, seat in domain.seats.items()
            }
            deed()
            domain.run(10)
            for node, (told, pulse) in before.items():
                if reported(node) != told:
                    changes += 1
                    assert domain.seats[node].pulse(domain.now_ns) != pulse

    watch(2_000)
    (owner,) = domain.owners()
    domain.away.add(owner)
    watch(3_000)
    watch(1_000, hear_votes)
    domain.away.clear()
    watch(3_000)
    assert changes > len(domain.seats)


@pytest.mark.parametrize(
    ("node", "there", "configuration", "is_answered"),
    [
        pytest.param("a", "abc", FIRST, True, id="by-all"),
        pytest.param("a", "ab", FIRST, True, id="by-one-of-two-others"),
        pytest.param("a", "ad", FIRST, False, id="by-one-that-is-no-witness"),
        pytest.param("a", "a", FIRST, False, id="by-nobody"),
        pytest.param("a", "a", Configuration(1, witnesses=witnesses("a")).sealed(UID), True, id="alone"),
        pytest.param("d", "bcd", FIRST, True, id="no-witness-itself"),
        pytest.param("d", "bd", FIRST, False, id="no-witness-itself-and-one-of-three"),
        pytest.param("a", "ab", PAIR, True, id="by-the-other-of-two"),
        pytest.param("a", "a", PAIR, False, id="by-the-api-server-only"),
        pytest.param("a", "ab", JOINING, True, id="by-a-majority-of-both-sets"),
        pytest.param("a", "ac", JOINING, False, id="by-a-majority-of-the-former-set-only"),
        pytest.param("a", "ad", JOINING, False, id="by-a-majority-of-the-new-set-only"),
        pytest.param("c", "ac", JOINING, False, id="on-its-way-out"),
    ],
)
def test_a_seat_is_answered_by_a_majority_that_knows_it(
    node: str, there: str, configuration: Configuration, *, is_answered: bool
) -> None:
    """The API server's vote counts for nothing: it answers also where no keeper does."""
    domain = Domain(there, _domain(configuration=configuration))
    for seat in domain.seats.values():
        if configuration.witnesses.has_api_vote:
            seat.hear_votes(_vote(60_000), 0)
            seat.hear_api_server(0)
    domain.run(2_000)
    assert domain.seats[node].is_answered(domain.now_ns) is is_answered


def test_a_seat_that_was_restarted_counts_itself_while_its_witness_must_be_silent() -> None:
    domain = Domain("ab")
    domain.run(2_000)
    domain.seats["a"] = seat_of("a", incarnation=8, now_ns=domain.now_ns)
    domain.run(300)
    assert domain.seats["a"].is_answered(domain.now_ns)


def test_a_seat_that_was_answered_long_ago_is_not() -> None:
    domain = Domain("ab")
    domain.run(2_000)
    domain.away.add("b")
    domain.run(600)
    assert domain.seats["a"].is_answered(domain.now_ns)
    domain.run(1_000)
    assert not domain.seats["a"].is_answered(domain.now_ns)


def test_a_peer_has_a_second_to_be_heard_before_it_is_called_unreachable() -> None:
    alone = seat_of("a")
    for milliseconds, reachable in ((500, tuple(MEMBERS)), (1_500, ("a",))):
        now_ns = milliseconds * MILLISECOND
        assert alone.status(heartbeat_address="192.0.2.1", now_ns=now_ns).reachable_peers == reachable


def test_an_address_set_that_leaves_the_plan_is_closed_and_granted_to_nobody() -> None:
    domain = Domain()
    domain.run(2_000)
    key = key_of(WEB)
    for node in ("a", "c"):
        domain.perform(node, domain.seats[node].assign(_domain(virtual_ips=()), domain.now_ns))
    domain.run(1_000)
    assert domain.seats["b"].lease.phase(key) is not Phase.OWNER  # although b still plans it


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        pytest.param({"uid": "another"}, "Domain", id="another domain"),
        pytest.param({"keys": (Key(1, b"z" * 32),)}, "Forged", id="another secret"),
        pytest.param({"keys": (Key(2, b"k" * 32),)}, "UnknownKey", id="another key id"),
    ],
)
def test_keepers_that_disagree_do_not_talk(changes: dict[str, object], refusal: str) -> None:
    ours, theirs = Domain().seats["a"], seat_of("b", _domain(**changes), incarnation=9)
    with pytest.raises(DatagramRefused, match=refusal):
        ours.receive(_request(theirs, "a"), 1)


def _request(sender: Seat, to: str, at_ms: int = 200) -> bytes:
    sends = (e for e in sender.expire(at_ms * MILLISECOND) if isinstance(e, Send))
    sealed = sender.seal(next(e for e in sends if e.to == to and isinstance(e.message, Request)))
    assert sealed is not None
    return sealed[1]


def test_keepers_with_two_configurations_of_one_epoch_do_nothing_for_each_other_and_say_so() -> None:
    other = Configuration(1, witnesses=witnesses("abd")).sealed(UID)
    ours = Domain().seats["a"]
    assert ours.receive(_request(seat_of("b", _domain(configuration=other)), "a"), 700 * MILLISECOND) == []
    assert [problem.reason for problem in ours.problems(800 * MILLISECOND)] == ["EpochConflict"]
    assert ours.problems(3_000 * MILLISECOND) == ()


@pytest.mark.parametrize("first", ["abcd", "dcba", "bd", "c"], ids="first at {}".format)
def test_a_witness_is_replaced_and_nothing_moves(first: str) -> None:
    domain = Domain("abcd")
    domain.run(2_000)
    for configuration in (JOINING, SEALING, CHANGED):
        domain.configure(configuration, first)  # the others learn of it from them
        domain.run(700)
        assert set(domain.epochs().values()) == {configuration.epoch}
    domain.away.add("c")
    domain.run(2_000)
    assert domain.owners() == ["b"]
    assert not any(isinstance(e, Close) for effects in domain.effects.values() for e in effects)
    assert domain.seats["d"].status(heartbeat_address="", now_ns=domain.now_ns).role == "Witness"


def test_a_keeper_whose_disk_is_full_goes_on_one_epoch_behind_and_is_named() -> None:
    domain = Domain("abcd")
    domain.run(2_000)
    domain.keeps = False
    domain.configure(JOINING, "acd")
    domain.run(2_000)
    assert domain.epochs()["b"] == FIRST.epoch
    assert domain.owners() == ["b"]
    assert domain.seats["a"].status(heartbeat_address="", now_ns=domain.now_ns).behind == ("b",)


def test_what_is_two_epochs_old_is_answered_no_more_but_with_the_newest() -> None:
    domain = Domain("abcd")
    domain.run(2_000)
    domain.away.add("b")
    for configuration in (JOINING, SEALING, CHANGED):
        domain.configure(configuration, "acd")
        domain.run(700)
    assert domain.owners() == ["a"]
    domain.keeps = False
    domain.away.clear()
    domain.run(2_000)
    assert (domain.epochs()["b"], domain.owners()) == (FIRST.epoch, ["a"])
    domain.keeps = True
    domain.run(500)
    assert (domain.epochs()["b"], domain.owners()) == (CHANGED.epoch, ["a"])


def test_a_configuration_that_is_not_what_its_hash_says_is_not_taken_over() -> None:
    domain = Domain("abcd")
    domain.run(1_000)
    forged = msgspec.structs.replace(JOINING, witnesses=witnesses("d"))
    domain.configure(forged, "d")
    domain.run(500)
    assert {domain.epochs()[node] for node in "abc"} == {1}


def test_an_epoch_is_drained_when_every_grant_of_the_time_before_it_is_over() -> None:
    domain = Domain("abcd")
    domain.run(2_000)
    seat = domain.seats["a"]
    drained = []
    for configuration in (JOINING, SEALING):
        domain.configure(configuration, "abcd")
        for milliseconds in (0, 499, 1):
            domain.run(milliseconds)
            drained.append(seat.status(heartbeat_address="", now_ns=domain.now_ns).drained_epoch)
    assert drained == [1, 1, 2, 2, 2, 3]


def test_a_restarted_witness_calls_nothing_drained_while_it_is_silent() -> None:
    seat = seat_of("a", _domain(configuration=SEALING))
    assert seat.status(heartbeat_address="", now_ns=599 * MILLISECOND).drained_epoch == 0
    seat.expire(600 * MILLISECOND)
    assert seat.status(heartbeat_address="", now_ns=600 * MILLISECOND).drained_epoch == 3


def test_new_witnesses_start_above_every_term_of_the_old_ones() -> None:
    domain = Domain("abcd")
    domain.run(2_000)
    for configuration in (JOINING, SEALING):
        domain.configure(configuration, "abcd")
        domain.run(700)
    assert domain.seats["d"].witness.term_floor >= 1


PAIRED = _domain(configuration=PAIR, members=(MEMBERS["a"], MEMBERS["b"]))


def _vote(until_ms: int, *, floor: int = 0) -> Vote:
    return Vote(UID, until_ms * MILLISECOND, floor, floor + 1000, transitions=1, epoch=1)


def _is_needed(seat: Seat, now_ns: int) -> bool:
    wanted = seat.vote_wanted(now_ns)
    assert wanted is not None
    return wanted.is_needed


def test_the_api_server_is_asked_only_when_the_other_is_gone() -> None:
    domain = Domain("ab", PAIRED)
    domain.run(2_000)
    assert domain.owners() == ["b"]
    assert not any(_is_needed(seat, domain.now_ns) for seat in domain.seats.values())
    domain.away.add("b")
    domain.run(200)
    assert not _is_needed(domain.seats["a"], domain.now_ns)  # its owner may still use it
    assert _is_needed(domain.seats["b"], domain.now_ns)
    domain.run(500)
    assert _is_needed(domain.seats["a"], domain.now_ns)
    wanted = domain.seats["a"].vote_wanted(domain.now_ns)
    assert wanted is not None
    assert (wanted.domain_uid, wanted.holder, wanted.term_ceiling, wanted.epoch) == (UID, "a_", 2000, 1)


def test_a_node_that_has_nothing_to_hold_does_not_keep_the_vote_from_others() -> None:
    left = seat_of("d", msgspec.structs.replace(PAIRED, virtual_ips=()))
    left.expire(700 * MILLISECOND)
    assert not _is_needed(left, 5_000 * MILLISECOND)


def test_a_vote_that_was_needed_for_a_moment_is_given_back_and_one_from_before_is_not_used() -> None:
    domain = Domain("ab", PAIRED)
    domain.run(2_000)
    seat = domain.seats["b"]
    domain.away.add("a")
    domain.run(200)
    assert _is_needed(seat, domain.now_ns)
    won = _vote(60_000)
    seat.hear_votes(won, domain.now_ns)
    domain.run(100)
    domain.away.clear()
    domain.run(200)
    assert _is_needed(seat, domain.now_ns)
    domain.run(500)
    assert not _is_needed(seat, domain.now_ns)
    assert seat.vote.transitions(domain.now_ns) == 1
    domain.run(400)
    wanted = seat.vote_wanted(domain.now_ns)
    assert wanted is not None
    assert (wanted.is_given_back, wanted.since_ns) == (True, domain.now_ns)
    seat.hear_votes(won, domain.now_ns)
    assert seat.vote.transitions(domain.now_ns) == 0
    assert domain.owners() == ["b"]


def test_an_owner_needs_the_vote_while_the_other_answers_and_does_not_know_the_address_yet() -> None:
    """The address was made while the other was down; it is back with the plan that it has on disk."""
    domain = Domain("ab", PAIRED)
    domain.run(2_000)
    domain.away.add("a")
    domain.run(200)
    domain.seats["b"].hear_votes(_vote(60_000), domain.now_ns)
    older = msgspec.structs.replace(PAIRED, virtual_ips=())
    domain.seats["a"] = seat_of("a", older, incarnation=8, now_ns=domain.now_ns)
    domain.away.clear()
    for _ in range(50):
        domain.run(100)
        assert _is_needed(domain.seats["b"], domain.now_ns)
    assert domain.owners() == ["b"]
    domain.perform("a", domain.seats["a"].assign(PAIRED, domain.now_ns))
    domain.run(1_000)
    assert not _is_needed(domain.seats["b"], domain.now_ns)


def test_where_the_api_server_has_no_vote_it_is_not_asked() -> None:
    assert seat_of("a").vote_wanted(5_000 * MILLISECOND) is None


def test_a_vote_that_was_won_two_epochs_ahead_is_not_used() -> None:
    seat = seat_of("a", PAIRED)
    seat.hear_votes(msgspec.structs.replace(_vote(6_000), epoch=3), 0)
    assert seat.vote.transitions(0) == 0


def test_what_the_api_server_s_vote_knows_of_terms_its_holder_s_witness_asks_for_too() -> None:
    seat = seat_of("a", PAIRED)
    seat.hear_votes(_vote(6_000, floor=1500), 0)
    status = seat.status(heartbeat_address="", now_ns=0)
    assert (status.term_floor, status.vote_transitions) == (1000, 0)  # not on disk yet
    seat.witness.keep(seat.witness.term_ceiling)
    status = seat.status(heartbeat_address="", now_ns=0)
    assert (status.term_floor, status.vote_transitions) == (1500, 1)


def test_a_witness_is_where_its_configuration_says_and_not_where_another_of_its_name_is() -> None:
    elsewhere = tuple(Member(node, f"198.51.100.{number}") for number, node in enumerate("abcd", 1))
    seat = seat_of("a", _domain(members=elsewhere))
    to = {send.to: seat.seal(send) for send in seat.expire(200 * MILLISECOND) if isinstance(send, Send)}
    sealed = to["b"]
    assert sealed is not None
    assert sealed[0] == "192.0.2.2"


@pytest.mark.parametrize(("address", "votes"), [("192.0.2.1", True), ("198.51.100.1", False), (None, True)])
def test_who_has_the_name_of_a_witness_and_not_its_address_has_no_vote(
    address: str | None,
    votes: bool,  # noqa: FBT001
) -> None:
    seat = seat_of("a")
    seat.stand_at(address)
    seat.expire(700 * MILLISECOND)
    ask = Request(1, 0, 0, is_sound=True, wants=(), polls=())
    assert bool(seat.deliver(Send("a", ask), 700 * MILLISECOND)) is votes


def test_nobody_speaks_for_the_api_server_before_its_object_knows_of_the_epoch() -> None:
    seat = seat_of("a", _domain(configuration=msgspec.structs.replace(PAIR, epoch=2)))
    found = []
    for epoch in (1, 2):
        seat.hear_votes(msgspec.structs.replace(_vote(6_000), epoch=epoch), 0)
        found.append(seat.status(heartbeat_address="", now_ns=0).vote_transitions)
    assert found == [0, 1]


def test_the_survivor_takes_over_with_the_api_server_s_vote_and_not_without() -> None:
    domain = Domain("ab", PAIRED)
    domain.run(2_000)
    domain.away.add("b")
    domain.run(2_000)
    assert domain.owners() == []
    domain.seats["a"].hear_votes(_vote(6_000, floor=70), domain.now_ns)
    domain.run(50)
    assert domain.owners() == ["a"]
    [opened] = [effect for effect in domain.effects["a"] if isinstance(effect, Open)]
    assert opened.term == 71
    assert domain.seats["a"].status(heartbeat_address="", now_ns=domain.now_ns).vote_transitions == 1


def test_a_lease_that_rests_on_the_api_server_s_vote_ends_with_it() -> None:
    domain = Domain("ab", PAIRED)
    domain.run(2_000)
    domain.away.add("a")
    domain.seats["b"].hear_votes(_vote(4_000), domain.now_ns)
    domain.run(4_000)
    assert domain.owners() == []
    deadlines = [effect.deadline_ns for effect in domain.effects["b"] if isinstance(effect, Extend)]
    assert deadlines[-1] == 4_000 * MILLISECOND
    domain.away.clear()
    domain.run(1_000)
    assert len(domain.owners()) == 1


def test_a_tombstone_is_reported_when_no_grant_of_a_deleted_address_set_stands() -> None:
    domain = Domain()
    domain.run(2_000)
    deleted = _domain(virtual_ips=(), deleted=(WEB.uid,))
    domain.perform("a", domain.seats["a"].assign(deleted, domain.now_ns))  # b, its owner, knows nothing
    found = []
    for milliseconds in (0, 600):
        domain.run(milliseconds)
        found.append(domain.seats["a"].status(heartbeat_address="", now_ns=domain.now_ns).tombstones)
    assert found == [(), (WEB.uid,)]


class _Remembered(str):
    """A UID that tells whether anything refers to it still."""

    __slots__ = ("__weakref__",)


def test_what_was_deleted_is_forgotten_once_it_is_granted_to_nobody() -> None:
    seat = seat_of("a")
    seat.expire(600 * MILLISECOND)
    uid = _Remembered("mail-uid")
    known = weakref.ref(uid)
    seat.assign(_domain(virtual_ips=(WEB, msgspec.structs.replace(WEB, uid=uid))), 0)
    del uid
    seat.assign(_domain(), 0)
    gc.collect()
    assert known() is None


def test_a_retired_address_is_buried_when_neither_plan_nor_grant_names_it() -> None:
    domain = Domain()
    domain.run(2_000)
    moved = msgspec.structs.replace(WEB, addresses=("192.0.2.11/24",))
    retired = (f"{WEB.uid}/192.0.2.10/4",)

    def tombstones() -> tuple[str, ...]:
        return domain.seats["a"].status(heartbeat_address="", now_ns=domain.now_ns).tombstones

    domain.perform("a", domain.seats["a"].assign(_domain(deleted=retired), domain.now_ns))
    assert tombstones() == ()  # the plan still names it
    domain.perform(
        "a", domain.seats["a"].assign(_domain(virtual_ips=(moved,), deleted=retired), domain.now_ns)
    )
    assert tombstones() == ()  # its owner, which knows nothing yet, has it for a while
    domain.run(600)
    assert tombstones() == retired


def test_a_restarted_witness_reports_no_tombstone_before_it_may_speak() -> None:
    seat = seat_of("a", _domain(virtual_ips=(), deleted=(WEB.uid,)))
    assert seat.status(heartbeat_address="", now_ns=0).tombstones == ()
    seat.expire(600 * MILLISECOND)
    assert seat.status(heartbeat_address="", now_ns=600 * MILLISECOND).tombstones == (WEB.uid,)


def test_a_machine_with_the_name_of_another_is_told_of_when_both_keep_speaking() -> None:
    ours = seat_of("a")
    first, clone = seat_of("b", machine=b"1"), seat_of("b", machine=b"2", incarnation=8)
    ours.receive(_request(clone, "a"), 0)
    for at_ms in range(0, 3_000, 500):
        with pytest.raises(DatagramRefused, match="Incarnation"):
            ours.receive(_request(first, "a", at_ms + 200), at_ms * MILLISECOND)
        told = bool(ours.problems(at_ms * MILLISECOND))
        assert told is (at_ms >= 2_000)
    assert ours.problems(5_000 * MILLISECOND) == ()


def test_the_last_words_of_a_keeper_that_was_restarted_are_no_clone() -> None:
    ours, before, since = seat_of("a"), seat_of("b"), seat_of("b", incarnation=8)
    ours.receive(_request(since, "a"), 0)
    with pytest.raises(DatagramRefused, match="Incarnation"):
        ours.receive(_request(before, "a"), 0)
    assert ours.problems(2_500 * MILLISECOND) == ()


@pytest.mark.parametrize(
    ("me", "configuration", "answering", "is_answered"),
    [
        pytest.param("a", FIRST, "", False, id="alone-of-three"),
        pytest.param("a", FIRST, "b", True, id="two-of-three"),
        pytest.param("a", FIRST, "d", False, id="a-member-without-a-vote"),
        pytest.param("d", FIRST, "b", False, id="no-witness-and-one-of-three"),
        pytest.param("d", FIRST, "bc", True, id="no-witness-and-two-of-three"),
        pytest.param("a", PAIR, "", False, id="the-api-server-does-not-count"),
        pytest.param("a", PAIR, "b", True, id="both-of-a-pair"),
        pytest.param("a", JOINING, "b", True, id="of-both-sets"),
        pytest.param("d", JOINING, "b", False, id="of-the-new-set-only"),
        pytest.param("c", JOINING, "b", False, id="of-the-former-set-only"),
        pytest.param("d", JOINING, "bc", True, id="of-each-set-by-others"),
    ],
)
def test_only_keepers_answers_make_a_majority_in_every_set(
    me: str, configuration: Configuration, answering: str, *, is_answered: bool
) -> None:
    seat = seat_of(me, _domain(configuration=configuration))
    seat.hear_votes(_vote(10_000), 0)
    at_ns = 5_000 * MILLISECOND
    for other in answering:
        peer = seat_of(other, _domain(configuration=configuration))
        sealed = peer.seal(Send(me, Ack(7, 0, 0, 0, (), (), ())))
        assert sealed is not None
        seat.receive(sealed[1], at_ns)
    assert seat.is_answered(at_ns) is is_answered
    assert not seat.is_answered(at_ns + 1_000 * MILLISECOND)


MAIL = msgspec.structs.replace(WEB, uid="mail-uid", name="mail", addresses=("192.0.2.11/24",))


def both_held(**web: object) -> Domain:
    """Return a domain in which b holds both address sets, and all hear of `web` once it does."""
    domain = Domain(domain=_domain(virtual_ips=(WEB, MAIL)))
    for node, seat in domain.seats.items():
        domain.perform(node, seat.judge([WEB.uid, MAIL.uid], 0, is_sound=True))
    domain.run(2_000)
    observed = msgspec.structs.replace(WEB, **web)
    for node, seat in domain.seats.items():
        domain.perform(node, seat.assign(_domain(virtual_ips=(observed, MAIL)), domain.now_ns))
        domain.effects[node].clear()
    return domain


def opened_without(domain: Domain, gone: str) -> dict[bytes, int]:
    """Return, by address set, under which term it is opened when one node is gone."""
    domain.away.add(gone)
    domain.run(3_000)
    effects = (effect for node in set(NODES) - {gone} for effect in domain.effects[node])
    return {effect.key: effect.term for effect in effects if isinstance(effect, Open)}


def tell(domain: Domain, *said: Message) -> None:
    """Have b say something to both others; their answers get lost."""
    for node in "ac":
        for message in said:
            sealed = domain.seats["b"].seal(Send(node, message))
            assert sealed is not None
            domain.seats[node].receive(sealed[1], domain.now_ns)


def test_an_answer_to_what_was_never_asked_is_refused_and_no_sign_of_a_witness() -> None:
    seat, other = seat_of("a"), seat_of("b")
    for never in (Ack(7, 1, 0, 0, (), (), ()), Ack(7, 0, 1, 0, (), (), ())):
        sealed = other.seal(Send("a", never))
        assert sealed is not None
        with pytest.raises(DatagramRefused) as refused:
            seat.receive(sealed[1], 0)
        assert refused.value.refusal == "Unasked"
    assert not seat.is_answered(0)


@pytest.mark.parametrize("below", [0, 1])
def test_the_highest_term_that_is_observed_leaves_room_for_every_take_over(below: int) -> None:
    observed = MOST_FLOOR - below
    assert opened_without(both_held(observed_term=observed), "b") == {
        key_of(WEB): observed + 1,
        key_of(MAIL): 2,
    }


@pytest.mark.parametrize(
    ("floor", "term"),
    [
        pytest.param(MOST_FLOOR, MOST_FLOOR + 1, id="the highest that is believed"),
        pytest.param(MOST_FLOOR + 1, 2, id="one above"),
        pytest.param(MOST_TERM, 2, id="the highest that can be said"),
    ],
)
def test_no_floor_that_a_keeper_tells_of_stops_a_take_over(floor: int, term: int) -> None:
    domain = both_held()
    request = Request(10_000, 0, floor, is_sound=True, wants=(), polls=())
    ack = Ack(7, 0, 0, floor, granted=(), denied=(), free=())
    tell(domain, request, ack)
    domain.run(1_000)
    assert opened_without(domain, "b") == {key_of(WEB): term, key_of(MAIL): term}


def test_one_address_set_without_terms_left_stops_no_other() -> None:
    domain = both_held()
    wants = (Want(key_of(WEB), MOST_TERM, is_held=True),)
    held = Request(10_000, 0, 0, is_sound=True, wants=wants, polls=())
    tell(domain, held)
    assert opened_without(domain, "b") == {key_of(MAIL): 2}


def test_take_overs_go_on_above_the_highest_floor_when_witnesses_restart_and_change() -> None:
    domain = both_held(observed_term=MOST_FLOOR)
    opened_without(domain, "b")
    for seat in domain.seats.values():
        seat.witness.raise_floor()
    domain.run(1_000)
    domain.away.clear()
    [owner] = domain.owners()
    assert opened_without(domain, owner).keys() == {key_of(WEB), key_of(MAIL)}


@pytest.mark.parametrize("kept", [MOST_FLOOR, MOST_CEILING - 1, MOST_CEILING])
def test_what_is_written_of_terms_is_what_is_read_back(tmp_path: Path, kept: int) -> None:
    disk = Disk(tmp_path)
    witness = Witness(me="a", timing=lease_timing(Timing(100, 400, 500, 600)), now_ns=0, term_ceiling=kept)
    disk.store_term_ceiling(UID, witness.term_ceiling)
    assert disk.load_term_ceiling(UID) == witness.term_ceiling >= kept


def vote_wanted_after(message: Message) -> int:
    """Return which ceiling of terms node a wants in the API server's Lease when b has said something."""
    seat, other = (seat_of(node, _domain(configuration=PAIR)) for node in "ab")
    seat.judge([WEB.uid], 0, is_sound=True)
    sealed = other.seal(Send("a", message))
    assert sealed is not None
    seat.receive(sealed[1], 0)
    wanted = seat.vote_wanted(0)
    assert wanted is not None
    return wanted.term_ceiling


def test_nothing_is_written_into_the_api_servers_lease_that_could_not_be_read_back() -> None:
    assert vote_wanted_after(Handover(key_of(WEB), 5)) == 2000
    assert vote_wanted_after(Handover(key_of(WEB), MOST_TERM - 1)) == MOST_CEILING


def test_a_floor_that_leaves_no_room_is_not_written_into_the_api_servers_lease() -> None:
    assert vote_wanted_after(Ack(7, 0, 0, MOST_FLOOR, granted=(), denied=(), free=())) > MOST_FLOOR
    assert vote_wanted_after(Ack(7, 0, 0, MOST_FLOOR + 1, granted=(), denied=(), free=())) == 2000
