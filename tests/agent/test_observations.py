"""What standbys see of an owner, and what the owner makes of it: tables, stories and laws."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vipagent.health import Health, Result, Subject, service_subjects, subjects
from vipagent.messages import Observation, Observe
from vipagent.observations import (
    FORGIVEN_S,
    FRESH_S,
    LAST_RESORT_S,
    LEAST_HOLD_OFF_S,
    MOST_HOLD_OFF_S,
    Dispute,
    View,
    Watches,
    at_address,
    digest,
    is_observed,
    names,
    of_peers,
)
from vipapi.configuration import Configuration
from vipapi.healthchecks import GRPC, ICMP, HealthCheck, HTTPGet, TCPSocket
from vipapi.nodeplan import CandidatePlan, DomainPlan, Plan, Timing, VirtualIPPlan

KEY = b"k" * 16
OK = Result(is_ok=True)
NO = Result(is_ok=False, message="refused")


def check(name: str = "app", port: int = 80, **fields: Any) -> HealthCheck:
    return HealthCheck(name=name, tcp_socket=TCPSocket(port=port), observed_from="Peers", **fields)


APP, DB = check(), check("db", 5432)
OWN = HealthCheck(name="own", tcp_socket=TCPSocket(port=81))


def vip(**fields: Any) -> VirtualIPPlan:
    made: dict[str, Any] = {
        "uid": "web-uid",
        "name": "web",
        "addresses": ("192.0.2.10/24", "2001:db8::10/64"),
        "candidates": tuple(CandidatePlan(node, 100) for node in "abc"),
        "health_checks": (APP, OWN),
    }
    return VirtualIPPlan(**(made | fields))


WEB = vip()
CHECKS = names(WEB)


def observe(term: int = 3, *, announced: bool = True, active: bool = False, incarnation: int = 7) -> Observe:
    return Observe(incarnation, KEY, term, is_announced=announced, is_active=active)


def test_a_check_of_peers_is_none_of_the_nodes_own() -> None:
    domain = DomainPlan(
        "d", "d", 7946, Timing(100, 400, 500, 600), Configuration(), (), (), (vip(service_checks=(DB, OWN)),)
    )
    plan = Plan("a", (domain,))
    assert [subject.checks for subject in subjects(plan)] == [(OWN,)]
    assert [subject.checks for subject in service_subjects(plan, {"web-uid"})] == [(OWN,)]


def test_only_checks_of_peers_make_an_owner_observed() -> None:
    assert is_observed(WEB)
    assert is_observed(vip(health_checks=(), service_checks=(DB,)))
    assert not is_observed(vip(health_checks=(OWN,)))
    candidate = msgspec.structs.replace(APP, observed_from="Candidate")
    assert not is_observed(vip(health_checks=(candidate,)))


@pytest.mark.parametrize(
    ("addresses", "host"),
    [
        pytest.param(("192.0.2.10/24", "2001:db8::10/64"), "192.0.2.10", id="ipv4"),
        pytest.param(("2001:db8::10/64",), "2001:db8::10", id="ipv6"),
        pytest.param(("192.0.2.10",), "192.0.2.10", id="host-address"),
    ],
)
def test_the_first_address_is_what_is_probed(addresses: tuple[str, ...], host: str) -> None:
    virtual_ip = vip(addresses=addresses)
    for fields in (
        {"tcp_socket": TCPSocket(port=80)},
        {"http_get": HTTPGet(port=80, path="/healthz")},
        {"grpc": GRPC(port=80, service="shop")},
    ):
        made = HealthCheck(name="app", observed_from="Peers", **fields)  # type: ignore[arg-type]
        (probe,) = fields.values()
        assert at_address(made, virtual_ip).probe == msgspec.structs.replace(probe, host=host)


def test_what_has_no_host_is_left_as_it_is() -> None:
    made = HealthCheck(name="gw", icmp=ICMP(target="gateway"), observed_from="Peers")
    assert at_address(made, WEB) == made


def test_checks_that_differ_anywhere_have_different_names_between_keepers() -> None:
    made = [APP, DB, check(port=81), check(period_milliseconds=500), check("app2")]
    assert len({digest(each) for each in made}) == len(made)
    assert digest(check()) == digest(APP)


class Observer:
    """A standby that probes each second what it is to probe."""

    def __init__(self, virtual_ip: VirtualIPPlan = WEB) -> None:
        self.vip = virtual_ip
        self.watches = Watches()
        self.health = Health()
        self.now = 0.0

    def hear(self, said: Observe, owner: str = "a") -> None:
        self.watches.hear(self.vip.uid, owner, said, self.now)

    def pass_time(self, seconds: int, result: Result = OK, said: Observe | None = None) -> None:
        for _ in range(seconds):
            if said is not None:
                self.hear(said)
            self.watches.expire(self.now)
            subject = self.subject()
            self.health.update([] if subject is None else [subject])
            for definition in self.health.definitions:
                self.health.receive(definition, result, now=self.now)
            self.now += 1

    def subject(self) -> Subject | None:
        return self.watches.subject(self.vip)

    def view(self) -> View | None:
        return self.watches.view(self.vip, self.health.fitness(of_peers(self.vip.uid)), self.now)

    def says(self) -> Observation | None:
        view = self.view()
        return None if view is None else view.observation


def test_an_observer_that_knows_no_owner_says_nothing() -> None:
    observer = Observer()
    observer.pass_time(10, NO)
    assert observer.subject() is None
    assert observer.view() is None


def test_an_owner_is_probed_once_it_has_announced() -> None:
    observer = Observer()
    observer.pass_time(5, NO, observe(announced=False))
    assert observer.subject() is None
    observer.pass_time(1, NO, observe())
    subject = observer.subject()
    assert subject is not None
    assert [each.probe for each in subject.checks] == [TCPSocket(port=80, host="192.0.2.10")]


def test_nothing_is_said_until_a_dead_owner_would_have_been_noticed() -> None:
    observer = Observer()
    observer.pass_time(3, NO, observe())
    view = observer.view()
    assert view is not None
    assert view.observation is None
    assert [status.result for status in view.checks] == ["Unknown"]
    observer.pass_time(1, NO, observe())
    assert observer.says() == Observation(7, KEY, 3, (digest(APP),), ())
    view = observer.view()
    assert view is not None
    assert (view.owner, [status.message for status in view.checks]) == ("a", ["refused"])
    observer.pass_time(2, OK, observe())
    assert observer.says() == Observation(7, KEY, 3, (), (digest(APP),))


def test_services_are_observed_while_they_are_all_active() -> None:
    observer = Observer(vip(service_checks=(DB,)))
    observer.pass_time(5, NO, observe())
    assert observer.says() == Observation(7, KEY, 3, (digest(APP),), ())
    observer.pass_time(3, NO, observe(active=True))
    assert observer.says() == Observation(7, KEY, 3, (digest(APP),), ())
    observer.pass_time(1, NO, observe(active=True))
    assert observer.says() == Observation(7, KEY, 3, (digest(APP), digest(DB)), ())
    observer.pass_time(1, NO, observe(active=False))
    assert observer.says() == Observation(7, KEY, 3, (digest(APP),), ())


@pytest.mark.parametrize(
    "next_owner",
    [
        pytest.param((observe(4), "b"), id="another-node"),
        pytest.param((observe(4), "a"), id="another-term"),
        pytest.param((observe(3, incarnation=8), "a"), id="another-incarnation"),
    ],
)
def test_a_new_tenure_is_seen_with_new_eyes(next_owner: tuple[Observe, str]) -> None:
    observer = Observer()
    observer.pass_time(9, NO, observe())
    said, owner = next_owner
    observer.hear(said, owner)
    view = observer.view()
    assert view is not None
    assert (view.owner, view.observation) == (owner, None)


def test_what_was_found_in_one_term_is_forgotten_in_the_next() -> None:
    slow = check(success_threshold=50)
    observer = Observer(vip(health_checks=(slow,)))
    observer.pass_time(9, NO, observe(3))
    assert observer.says() == Observation(7, KEY, 3, (digest(slow),), ())
    observer.pass_time(9, OK, observe(4))
    assert observer.says() == Observation(7, KEY, 4, (), (digest(slow),))


def test_an_old_owner_does_not_drown_the_new_one() -> None:
    observer = Observer()
    observer.pass_time(5, NO, observe(4))
    observer.hear(observe(3), "b")
    view = observer.view()
    assert view is not None
    assert view.owner == "a"


def test_an_owner_that_falls_silent_is_not_observed() -> None:
    observer = Observer()
    observer.pass_time(5, NO, observe())
    observer.pass_time(int(FRESH_S) + 2, NO)
    assert observer.subject() is None
    assert observer.view() is None


class Owner:
    """An owner in a term whose peers speak each second."""

    def __init__(self, term: int = 3) -> None:
        self.dispute = Dispute()
        self.term = term
        self.now = 1000.0
        self.has_standby = True
        self.checks = names(WEB)
        self.look()

    def look(self) -> None:
        self.dispute.look(self.checks, term=self.term, has_standby=self.has_standby, now=self.now)

    def hear(self, peers: dict[str, bool], seconds: int = 1, *, term: int | None = None) -> None:
        for _ in range(seconds):
            for node, passes in peers.items():
                self.dispute.hear(node, said(term or self.term, passes=passes), self.now)
            self.look()
            self.now += 1

    def pass_time(self, seconds: float, *, sees_owner: bool = True) -> None:
        for _ in range(int(seconds)):
            self.now += 1
            if sees_owner:
                self.dispute.see_owner(self.now)
            self.look()

    def become(self, term: int) -> None:
        self.term = term
        self.look()

    @property
    def is_off(self) -> bool:
        return self.dispute.obstacle is not None


def said(term: int, *, passes: bool = False) -> Observation:
    return Observation(7, KEY, term, () if passes else (digest(APP),), (digest(APP),) if passes else ())


@pytest.mark.parametrize(
    ("peers", "is_off"),
    [
        pytest.param({}, False, id="nobody"),
        pytest.param({"b": False}, True, id="the-only-one"),
        pytest.param({"b": True}, False, id="the-only-one-is-content"),
        pytest.param({"b": False, "c": True}, False, id="one-of-two"),
        pytest.param({"b": False, "c": False}, True, id="both"),
        pytest.param({"b": False, "c": False, "d": True}, True, id="two-of-three"),
        pytest.param({"b": False, "c": True, "d": True}, False, id="one-of-three"),
    ],
)
def test_a_majority_of_those_who_speak_decides(peers: dict[str, bool], is_off: bool) -> None:  # noqa: FBT001
    owner = Owner()
    owner.hear(peers, 5)
    assert owner.is_off == is_off


def test_an_owner_that_its_peers_accuse_says_who_and_what() -> None:
    owner = Owner()
    owner.hear({"b": False, "c": False, "d": True})
    assert owner.dispute.obstacle is not None
    assert owner.dispute.obstacle.reason == "PeersDisagree"
    assert owner.dispute.obstacle.message == (
        "through the address these checks fail for b, c: app; this node keeps off for 60 s"
    )


def test_who_fell_silent_does_not_count() -> None:
    owner = Owner()
    owner.hear({"c": True})
    owner.now += FRESH_S
    owner.hear({"b": False})
    assert owner.is_off


def test_another_terms_observation_counts_for_nothing() -> None:
    owner = Owner(term=3)
    for term in (2, 4):
        owner.hear({"b": False, "c": False}, 5, term=term)
    assert not owner.is_off
    owner.hear({"b": False}, 1)
    assert owner.is_off
    standby = Owner(term=0)
    standby.hear({"b": False}, 5, term=3)
    assert not standby.is_off


def test_a_check_that_this_node_does_not_have_counts_for_nothing() -> None:
    owner = Owner()
    owner.dispute.hear("b", Observation(7, KEY, 3, (digest(DB),), ()), owner.now)
    owner.look()
    assert not owner.is_off


def test_the_last_candidate_keeps_the_address_and_says_why() -> None:
    owner = Owner()
    owner.has_standby = False
    owner.hear({"b": False, "c": False}, 100)
    assert not owner.is_off
    assert owner.dispute.remark is not None
    assert "it stays here, for no other candidate stands by" in owner.dispute.remark.message
    owner.hear({"b": True, "c": True}, 1)
    assert owner.dispute.remark is None
    owner.hear({"b": False, "c": False}, 1)
    owner.has_standby = True
    owner.look()
    assert owner.is_off


def test_an_accused_owner_goes_on_leaving_whatever_is_said_then() -> None:
    owner = Owner()
    owner.hear({"b": False})
    owner.has_standby = False
    owner.hear({"b": True}, int(3 * LEAST_HOLD_OFF_S))
    assert owner.is_off


def turns_off(owner: Owner, term: int) -> int:
    """Have the owner accused in a term; return how long it keeps off."""
    owner.become(term)
    owner.hear({"b": False})
    assert owner.is_off
    owner.become(0)
    for second in range(2000):
        if not owner.is_off:
            return second
        owner.pass_time(1)
    raise AssertionError("it keeps off for ever")


def test_each_time_it_keeps_off_for_twice_as_long() -> None:
    owner = Owner()
    lengths = [turns_off(owner, term) for term in range(3, 9)]
    expected = [60, 120, 240, 480, 600, 600]
    assert all(abs(length - each) <= 2 for length, each in zip(lengths, expected, strict=True))
    owner.pass_time(FORGIVEN_S)
    assert abs(turns_off(owner, 20) - LEAST_HOLD_OFF_S) <= 2


def test_who_keeps_off_and_hears_of_no_owner_stands_by_again() -> None:
    owner = Owner()
    owner.hear({"b": False})
    owner.become(0)
    owner.pass_time(LAST_RESORT_S - 2, sees_owner=False)
    assert owner.is_off
    owner.pass_time(2, sees_owner=False)
    assert not owner.is_off
    owner.pass_time(1, sees_owner=True)
    assert owner.is_off


def test_a_lease_that_nobody_else_took_ends_the_hold_off() -> None:
    owner = Owner()
    owner.hear({"b": False})
    owner.become(0)
    owner.pass_time(LAST_RESORT_S, sees_owner=False)
    owner.become(4)
    assert not owner.is_off
    owner.hear({"b": True}, 100)
    assert not owner.is_off
    owner.hear({"b": False})
    owner.become(0)
    assert owner.dispute.obstacle is not None
    assert "for 120 s" in owner.dispute.obstacle.message


class Cluster:
    """Candidates of one address: each says what it sees of the owner; the address moves to who stands by."""

    def __init__(self, nodes: str, accusers: str) -> None:
        self.disputes = {node: Dispute() for node in nodes}
        self.accusers = accusers
        self.owner: str | None = nodes[0]
        self.term = 1
        self.now = 0.0
        self.moves: list[float] = []

    def step(self) -> None:
        self.now += 1
        for node, dispute in self.disputes.items():
            if node == self.owner:
                for peer in self.disputes.keys() - {node}:
                    dispute.hear(peer, said(self.term, passes=peer not in self.accusers), self.now)
            elif self.owner is not None:
                dispute.see_owner(self.now)
            standbys = [n for n, each in self.disputes.items() if n != node and each.obstacle is None]
            term = self.term if node == self.owner else 0
            dispute.look(CHECKS, term=term, has_standby=bool(standbys), now=self.now)
        if self.owner is not None and self.disputes[self.owner].obstacle is not None:
            self.owner = None
        standing_by = [node for node, each in self.disputes.items() if each.obstacle is None]
        if self.owner is None and standing_by:
            self.owner = standing_by[0]
            self.term += 1
            self.moves.append(self.now)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 5), st.data())
def test_whoever_accuses_whom_the_address_has_an_owner_and_moves_less_and_less(
    count: int, data: st.DataObject
) -> None:
    nodes = "abcde"[:count]
    accusers = "".join(data.draw(st.sets(st.sampled_from(nodes))))
    cluster = Cluster(nodes, accusers)
    for _ in range(3600):
        cluster.step()
        assert cluster.owner is not None
    # Each node lets go at most as often as its hold-offs allow: 60 + 120 + 240 + 480 s, then each 600 s.
    assert len(cluster.moves) <= count * (5 + 3600 / MOST_HOLD_OFF_S)


def test_where_every_candidate_keeps_off_the_last_one_keeps_the_address() -> None:
    cluster = Cluster("abc", accusers="abc")
    for _ in range(int(LEAST_HOLD_OFF_S) - 5):
        cluster.step()
    assert len(cluster.moves) == 2
    assert cluster.owner == "c"
    assert cluster.disputes["c"].remark is not None
    assert all(cluster.disputes[node].obstacle is not None for node in "ab")


def test_an_owner_that_is_unreachable_is_left_for_one_that_is_not() -> None:
    """Nobody accuses the second owner, so it stays there."""
    cluster = Cluster("abc", accusers="bc")
    cluster.disputes["b"].look(names(WEB), term=0, has_standby=True, now=0.0)
    for _ in range(3):
        cluster.step()
    cluster.accusers = ""
    for _ in range(3600):
        cluster.step()
    assert len(cluster.moves) <= 2
