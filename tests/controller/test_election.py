"""Who is elected, in which order the others follow, and why not the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipapi.election import Candidate, Election, Facts, elect, rank


def fit(node: str, score: int = 100, **facts: Any) -> Candidate:
    return Candidate(node=node, score=score, fitness="Fit", **facts)


def unfit(node: str, score: int = 100) -> Candidate:
    return Candidate(node=node, score=score, fitness="Unfit", reason="CheckFailed", message=f"{node} is sick")


def choose(*candidates: Candidate, now: float = 0.0, **facts: Any) -> Election:
    return elect(Facts(name="web", candidates=candidates, **facts), now)


@pytest.mark.parametrize(
    ("candidates", "facts", "owner", "cause"),
    [
        pytest.param((fit("a"), fit("b", 150)), {}, "b", "FirstChoice", id="nobody-owns-it-the-best-gets-it"),
        pytest.param(
            (fit("a", group_load=3), fit("b", group_load=1)), {}, "b", "FirstChoice", id="spread-breaks-ties"
        ),
        pytest.param(
            (fit("a", 101, group_load=3), fit("b")), {}, "a", "FirstChoice", id="score-goes-before-spread"
        ),
        pytest.param((fit("a"), fit("b", 150)), {"owner": "a"}, "a", "", id="an-owner-stays-under-manual"),
        pytest.param((fit("a"), fit("b", 150)), {"ordered": "a"}, "a", "", id="an-order-under-way-stays"),
        pytest.param((unfit("a"), fit("b")), {"owner": "a"}, "b", "OwnerUnfit", id="a-sick-owner-goes"),
        pytest.param(
            (unfit("a"), unfit("b")), {"owner": "a"}, "a", "", id="a-sick-owner-stays-without-another"
        ),
        pytest.param((unfit("a"), unfit("b")), {}, None, "", id="nobody-can"),
        pytest.param((), {}, None, "", id="no-candidates"),
        pytest.param(
            (fit("a"),), {"owner": "gone"}, "a", "FirstChoice", id="an-owner-that-is-no-candidate-goes"
        ),
        pytest.param(
            (unfit("a"), fit("b"), fit("c", 150)),
            {"owner": "a", "ordered": "b"},
            "b",
            "OwnerUnfit",
            id="a-move-under-way-keeps-its-goal",
        ),
        pytest.param(
            (unfit("a"), fit("b")),
            {"owner": "a", "is_suspended": True},
            "b",
            "OwnerUnfit",
            id="suspend-stops-no-failover",
        ),
        pytest.param(
            (fit("a", is_cordoned=True), fit("b")),
            {"owner": "a"},
            "b",
            "OwnerCordoned",
            id="a-drain-moves-it",
        ),
        pytest.param(
            (fit("a", is_cordoned=True), fit("b")),
            {"owner": "a", "is_suspended": True},
            "a",
            "",
            id="suspend-stops-a-drain",
        ),
        pytest.param(
            (fit("a", is_out_of_service=True), fit("b")),
            {"owner": "a", "is_suspended": True},
            "b",
            "OwnerUnfit",
            id="an-owner-that-is-said-to-be-off-goes-also-while-suspended",
        ),
        pytest.param(
            (fit("a"), fit("b")), {"owner": "a", "target": "b"}, "b", "Switchover", id="a-switchover"
        ),
        pytest.param(
            (fit("a"), fit("b")),
            {"owner": "a", "target": "b", "is_suspended": True},
            "a",
            "",
            id="suspend-stops-a-switchover",
        ),
        pytest.param(
            (fit("a"), unfit("b")), {"owner": "a", "target": "b"}, "a", "", id="a-switchover-to-a-sick-node"
        ),
        pytest.param(
            (unfit("a"), fit("b"), fit("c", 150)),
            {"owner": "a", "target": "b"},
            "b",
            "OwnerUnfit",
            id="a-switchover-away-from-a-sick-owner",
        ),
        pytest.param(
            (fit("a", 80, lost=20), fit("b")),
            {"owner": "a"},
            "b",
            "BetterHealth",
            id="a-weighted-failure-moves-it",
        ),
        pytest.param(
            (fit("a", 80, lost=20), fit("b", 90, lost=10)),
            {"owner": "a"},
            "b",
            "BetterHealth",
            id="who-lost-less",
        ),
        pytest.param(
            (fit("a", 80, lost=20), fit("b", lost=50)),
            {"owner": "a"},
            "a",
            "",
            id="what-fails-everywhere-moves-nothing",
        ),
        pytest.param(
            (fit("a", 130, lost=20), fit("b")), {"owner": "a"}, "a", "", id="a-fall-that-leaves-it-the-best"
        ),
        pytest.param(
            (fit("a", 80, lost=20), fit("b")),
            {"owner": "a", "is_suspended": True},
            "a",
            "",
            id="suspend-stops-better-health",
        ),
    ],
)
def test_the_owner_is(
    candidates: tuple[Candidate, ...], facts: dict[str, Any], owner: str | None, cause: str
) -> None:
    election = choose(*candidates, **facts)
    assert (election.owner, election.cause) == (owner, cause)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        pytest.param(Candidate(node="a", is_present=False, is_in_domain=False), "NodeNotFound", id="no-node"),
        pytest.param(Candidate(node="a", is_deleting=True), "NodeDeleting", id="node-deleted"),
        pytest.param(fit("a", is_out_of_service=True, is_alive=False), "OutOfService", id="said-to-be-off"),
        pytest.param(Candidate(node="a", is_in_domain=False), "NotInDomain", id="elsewhere"),
        pytest.param(Candidate(node="a", has_agent=False, is_alive=False), "AgentMissing", id="no-agent"),
        pytest.param(fit("a", is_alive=False), "AgentUnreachable", id="dead"),
        pytest.param(fit("a", is_witness_only=True), "WitnessOnly", id="witness-only"),
        pytest.param(Candidate(node="a"), "NotReported", id="not-reported"),
        pytest.param(Candidate(node="a", fitness="NotCandidate"), "NotReported", id="not-heard-yet"),
        pytest.param(unfit("a"), "CheckFailed", id="unfit"),
        pytest.param(fit("a", is_cordoned=True), "Cordoned", id="cordoned"),
        pytest.param(fit("a"), "Eligible", id="eligible"),
    ],
)
def test_every_candidate_is_told_why(candidate: Candidate, reason: str) -> None:
    (row,) = choose(candidate).table
    assert row.reason == reason
    assert row.eligible == (reason == "Eligible")
    assert "a" in row.message


def test_a_first_choice_waits_until_it_need_not() -> None:
    assert choose(fit("a"), has_to_wait=True).owner is None
    assert choose(fit("a"), has_to_wait=False).owner == "a"
    assert choose(unfit("a"), fit("b"), owner="a", has_to_wait=True).owner == "b"


def test_an_ineligible_owner_that_stays_says_so() -> None:
    (row,) = choose(unfit("a"), owner="a").table
    assert row.message == "a is sick; it stays in the order because no other node is eligible"


def test_the_table_lists_the_eligible_first_and_tells_places() -> None:
    election = choose(unfit("c", 200), fit("a", 120), fit("b", 110), fit("d", 100), owner="b")
    assert [(row.node, row.eligible) for row in election.table] == [
        ("a", True),
        ("b", True),
        ("d", True),
        ("c", False),
    ]
    messages = {row.node: row.message for row in election.table}
    assert messages["b"] == "owns the address"
    assert messages["a"] == "standby 1; scores above the owner, which stays because failback is Manual"
    assert messages["d"] == "standby 2"
    assert election.succession == ("a", "d")


@dataclass
class Looks:
    """An election that is asked again and again, as the controller asks it."""

    better: dict[str, float] = field(default_factory=dict)

    def at(self, now: float, *candidates: Candidate, **facts: Any) -> Election:
        facts = {"owner": "b", "returns": True, "delay_s": 300.0, **facts}
        election = choose(*candidates, now=now, better=self.better, **facts)
        self.better = dict(election.better)
        return election


def test_a_returning_node_waits_out_its_delay() -> None:
    looks, nodes = Looks(), (fit("a", 150), fit("b"))
    first = looks.at(1000.0, *nodes)
    assert (first.owner, first.due) == ("b", 1300.0)
    assert looks.at(1299.9, *nodes).owner == "b"
    last = looks.at(1300.0, *nodes)
    assert (last.owner, last.cause) == ("a", "Failback")


def test_the_delay_begins_again_when_the_better_score_was_interrupted() -> None:
    looks = Looks()
    looks.at(1000.0, fit("a", 150), fit("b"))
    looks.at(1200.0, unfit("a", 150), fit("b"))
    looks.at(1201.0, fit("a", 150), fit("b"))
    assert looks.at(1300.0, fit("a", 150), fit("b")).owner == "b"
    assert looks.at(1501.0, fit("a", 150), fit("b")).owner == "a"


def test_a_controller_that_forgot_returns_later_and_never_sooner() -> None:
    looks = Looks()
    looks.at(1000.0, fit("a", 150), fit("b"))
    looks.better.clear()
    assert looks.at(1300.0, fit("a", 150), fit("b")).owner == "b"
    assert looks.at(1600.0, fit("a", 150), fit("b")).owner == "a"


def test_suspend_stops_a_failback_and_manual_has_none() -> None:
    looks = Looks()
    looks.at(0.0, fit("a", 150), fit("b"))
    assert looks.at(999.0, fit("a", 150), fit("b"), is_suspended=True).owner == "b"
    assert looks.at(999.0, fit("a", 150), fit("b"), returns=False).owner == "b"


nodes = st.sampled_from("abcde")
sheets = st.builds(
    Candidate,
    node=nodes,
    priority=st.integers(1, 254),
    score=st.none() | st.integers(1, 254),
    lost=st.sampled_from([0, 0, 0, 20, 50]),
    is_present=st.sampled_from([True, True, True, False]),
    is_alive=st.sampled_from([True, True, False]),
    is_cordoned=st.sampled_from([False, False, True]),
    is_deleting=st.sampled_from([False, False, True]),
    is_out_of_service=st.sampled_from([False, False, True]),
    is_in_domain=st.sampled_from([True, True, False]),
    is_witness_only=st.sampled_from([False, False, True]),
    has_agent=st.sampled_from([True, True, False]),
    fitness=st.sampled_from([None, "Fit", "Fit", "Fit", "Unfit", "NotCandidate"]),
    group_load=st.integers(0, 3),
)
worlds = st.builds(
    Facts,
    name=st.sampled_from(["web", "db"]),
    candidates=st.lists(sheets, unique_by=lambda sheet: sheet.node, max_size=5).map(tuple),
    owner=st.none() | nodes,
    ordered=st.none() | nodes,
    target=st.none() | nodes,
    returns=st.booleans(),
    delay_s=st.sampled_from([0.0, 300.0]),
    is_suspended=st.booleans(),
    has_to_wait=st.booleans(),
    better=st.dictionaries(nodes, st.floats(0, 1000)),
    heirs=st.none() | st.dictionaries(nodes, st.dictionaries(nodes, st.integers(0, 3))),
    heir=st.none() | nodes,
)


@given(sheets)
def test_a_node_is_eligible_exactly_when_there_is_nothing_to_tell_against_it(sheet: Candidate) -> None:
    assert sheet.is_eligible == (sheet.obstacle is None)
    assert sheet.is_spared == (sheet.obstacle is not None and sheet.obstacle.reason == "Cordoned")


@given(worlds, st.randoms(use_true_random=False))
def test_the_order_of_the_facts_does_not_matter(facts: Facts, random: Any) -> None:
    shuffled = list(facts.candidates)
    random.shuffle(shuffled)
    assert elect(msgspec.structs.replace(facts, candidates=tuple(shuffled)), 1000.0) == elect(facts, 1000.0)


@given(worlds)
def test_a_node_that_cannot_is_never_newly_elected(facts: Facts) -> None:
    election = elect(facts, 1000.0)
    sheet = next((c for c in facts.candidates if c.node == election.owner), None)
    if election.owner not in {None, facts.owner, facts.ordered}:
        assert sheet is not None
        assert sheet.is_eligible
    standbys = {c.node for c in facts.candidates if c.is_eligible} - {election.owner}
    assert set(election.succession) == (standbys if election.owner is not None else set())


@given(worlds)
def test_an_owner_is_never_moved_without_a_cause(facts: Facts) -> None:
    election = elect(facts, 1000.0)
    owner = next((c for c in facts.candidates if c.node == facts.owner), None)
    if owner is None or election.owner == owner.node:
        return
    assert election.cause in {"OwnerUnfit", "OwnerCordoned", "Switchover", "BetterHealth", "Failback"}
    if facts.is_suspended:
        assert election.cause == "OwnerUnfit"
        assert not owner.is_eligible


@given(worlds)
def test_the_same_look_twice_says_the_same(facts: Facts) -> None:
    first = elect(facts, 1000.0)
    heir = first.succession[0] if first.succession and facts.owner == first.owner else facts.heir
    again = msgspec.structs.replace(facts, better=first.better, heir=heir)
    second = elect(again, 1000.0)
    assert (second.owner, second.succession, second.table) == (first.owner, first.succession, first.table)


@given(worlds)
def test_an_order_once_obeyed_is_kept(facts: Facts) -> None:
    """Neither ties nor the manner of the move make it flap."""
    first = elect(facts, 1000.0)
    if first.owner is None:
        return
    obeyed = msgspec.structs.replace(facts, owner=first.owner, ordered=first.owner, target=None, better={})
    assert elect(obeyed, 1000.0).owner == first.owner or obeyed.delay_s == 0


@given(worlds)
def test_every_candidate_is_in_the_table_once(facts: Facts) -> None:
    table = elect(facts, 1000.0).table
    assert sorted(row.node for row in table) == sorted(c.node for c in facts.candidates)
    assert all(row.message and row.reason for row in table)


def test_ties_fall_differently_for_different_addresses() -> None:
    candidates = [fit(node) for node in "abc"]
    first = {rank(f"vip-{number}", candidates)[0].node for number in range(30)}
    assert first == {"a", "b", "c"}


class Group:
    """Addresses of one spread group, elected again and again as the controller does it.

    All nodes are standbys of all the others unless `standbys` says otherwise.
    """

    def __init__(self, owners: dict[str, str], nodes: list[str]) -> None:
        self.owners = owners
        self.nodes = nodes
        self.dead: set[str] = set()
        self.scores: dict[str, int] = {}
        self.heirs: dict[str, str] = {}

    def look(self) -> int:
        """Elect all of them once; returns how many got another first successor."""
        before = dict(self.heirs)
        loads = Counter(self.owners.values())
        heirs: dict[str, Counter[str]] = {}
        for name, heir in before.items():
            heirs.setdefault(self.owners[name], Counter())[heir] += 1
        for name in sorted(self.owners):
            loads[self.owners[name]] -= 1
            if name in self.heirs:
                heirs[self.owners[name]][self.heirs[name]] -= 1
            self.elect(name, loads, heirs)
            loads[self.owners[name]] += 1
            heirs.setdefault(self.owners[name], Counter())[self.heirs[name]] += 1
        return sum(self.heirs[name] != before.get(name) for name in self.owners)

    def settle(self) -> None:
        for _ in range(5):
            if self.look() == 0:
                return
        raise AssertionError("never settles")

    def elect(self, name: str, loads: Counter[str], heirs: dict[str, Counter[str]]) -> None:
        owner = self.owners[name]
        election = elect(
            Facts(
                name=name,
                candidates=[
                    fit(
                        node,
                        self.scores.get(node, 100),
                        group_load=loads[node],
                        is_alive=node not in self.dead,
                    )
                    for node in self.nodes
                ],
                owner=owner,
                ordered=owner,
                heirs=heirs,
                heir=self.heirs.get(name),
            ),
            0.0,
        )
        assert election.owner is not None
        self.owners[name] = election.owner
        self.heirs[name] = election.succession[0]

    def loads_after(self, dead: str) -> Counter[str]:
        """Return how many addresses each node has once that one has died."""
        after = Counter({node: 0 for node in self.nodes if node != dead})
        after.update(self.heirs[name] if owner == dead else owner for name, owner in self.owners.items())
        return after

    def kill(self, node: str) -> None:
        """Let a node die, and its first successors take what it had, without any election."""
        self.dead.add(node)
        for name, owner in self.owners.items():
            if owner == node:
                self.owners[name] = self.heirs[name]


groups = st.builds(
    Group,
    st.lists(nodes, min_size=1, max_size=12).map(
        lambda owners: dict(zip("klmnopqrstuv", owners, strict=False))
    ),
    st.just(list("abcde")),
)


def test_the_addresses_of_a_dead_node_go_to_several_others() -> None:
    group = Group(dict.fromkeys("uvwxyz", "a"), list("abcd"))
    group.settle()
    assert sorted(group.heirs.values()) == ["b", "b", "c", "c", "d", "d"]


def test_a_first_successor_is_never_a_worse_node_for_the_sake_of_the_spread() -> None:
    group = Group(dict.fromkeys("xyz", "a"), list("abcd"))
    group.scores["c"] = 99
    group.settle()
    assert set(group.heirs.values()) == {"b", "d"}


@pytest.mark.parametrize("heir", ["b", "c"])
@pytest.mark.parametrize("owner", [fit("a", is_alive=False), fit("a", is_cordoned=True)])
def test_of_nodes_that_rank_alike_the_first_successor_is_the_new_owner(owner: Candidate, heir: str) -> None:
    """It may have taken the address already, and a drained node's addresses are spread as well."""
    assert choose(owner, fit("b"), fit("c"), owner="a", heir=heir).owner == heir
    assert choose(owner, fit("b"), fit("c"), fit("d", 150), owner="a", heir=heir).owner == "d"


def test_without_a_group_the_first_successor_is_the_best_rank() -> None:
    candidates = [fit(node) for node in "abcd"]
    election = choose(*candidates, owner="a", heir="d")
    assert election.succession == tuple(c.node for c in rank("web", candidates) if c.node != "a")


@given(groups, nodes)
def test_nobody_would_be_better_off_with_another_successor(group: Group, dead: str) -> None:
    group.settle()
    after = group.loads_after(dead)
    for name, owner in group.owners.items():
        if owner == dead:
            assert after[group.heirs[name]] - 1 <= min(after.values())


@given(groups, nodes)
def test_one_address_more_gives_at_most_one_of_each_owner_another_successor(group: Group, owner: str) -> None:
    group.settle()
    before = dict(group.heirs)
    group.owners["another"] = owner
    group.settle()
    changed = Counter(group.owners[name] for name, heir in before.items() if group.heirs[name] != heir)
    assert set(changed.values()) <= {1}


@given(groups, nodes)
def test_who_took_an_address_as_its_first_successor_keeps_it(group: Group, dead: str) -> None:
    group.settle()
    group.kill(dead)
    after = dict(group.owners)
    group.settle()
    assert group.owners == after


@given(groups, nodes)
def test_a_controller_that_is_first_to_see_a_death_orders_what_the_keepers_do(
    group: Group, dead: str
) -> None:
    group.settle()
    taken = {name: group.heirs[name] for name, owner in group.owners.items() if owner == dead}
    group.dead.add(dead)
    group.look()
    assert {name: group.owners[name] for name in taken} == taken


def test_five_hundred_addresses_on_fifty_nodes_are_spread_in_one_look_or_two() -> None:
    nodes = [f"node-{number:02}" for number in range(50)]
    group = Group({f"vip-{number:03}": nodes[number % 50] for number in range(500)}, nodes)
    group.look()
    group.look()
    assert group.look() == 0
    for dead in nodes:
        after = group.loads_after(dead)
        assert max(after.values()) - min(after.values()) <= 1
