from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vipapi.configuration import API_SERVER, Member, WitnessSet
from vipcontroller.witnesses import Rules, Voter, choose

UID = "d"
NODES = "abcdefgh"


def voters(names: str, zones: dict[str, str] | None = None) -> list[Voter]:
    return [Voter(Member(name, f"192.0.2.{ord(name)}"), (zones or {}).get(name, "")) for name in names]


def witnesses(names: str) -> WitnessSet:
    """`ab+` are the nodes a and b with the API server."""
    members = tuple(voter.member for voter in voters(names.rstrip("+")))
    return WitnessSet(members, has_api_vote=names.endswith("+"))


def chosen(present: str, alive: str, *, count: int = 3, api: bool = True, gone: str = "") -> str:
    rules = Rules(UID, count, may_api_server_vote=api)
    found = choose(rules, witnesses(present), voters(alive), gone=frozenset(gone))
    return "".join(member.node for member in found.members) + ("+" if found.has_api_vote else "")


@pytest.mark.parametrize(
    ("present", "alive", "options", "wanted"),
    [
        pytest.param("", "abc", {}, "abc", id="as many as asked for"),
        pytest.param("", "ab", {}, "ab+", id="two and the API server"),
        pytest.param("", "ab", {"count": 5}, "ab+", id="two where five are asked for"),
        pytest.param("", "a", {}, "a", id="one node"),
        pytest.param("", "", {}, "", id="no node"),
        pytest.param("", "abcd", {"count": 5}, "three", id="the odd number below"),
        pytest.param("", "ab", {"api": False}, "one", id="one of two without the API server"),
        pytest.param("", "ab", {"count": 1}, "one", id="one is asked for"),
        pytest.param("abc", "abcd", {}, "abc", id="who is there stays"),
        pytest.param("abc", "abd", {}, "abd", id="a lost one is replaced"),
        pytest.param("abc", "ab", {}, "ab+", id="a lost one is replaced by the API server"),
        pytest.param("abc", "ab", {"api": False}, "abc", id="a lost one is waited for with nobody else"),
        pytest.param("abc", "ab", {"api": False, "gone": "c"}, "one", id="a gone one is not waited for"),
        pytest.param("ab+", "abc", {}, "abc", id="a third node takes the API server's place"),
        pytest.param("ab+", "a", {}, "ab+", id="the survivor of two waits with the API server"),
        pytest.param("ab+", "a", {"gone": "b"}, "a", id="the survivor of a removed node is alone"),
        pytest.param("ab+", "ab", {"api": False}, "one", id="the API server may not vote any more"),
        pytest.param("a", "ab", {}, "ab+", id="a second node"),
        pytest.param("a", "abc", {}, "abc", id="a second and a third"),
        pytest.param("a", "ab", {"api": False}, "a", id="a second node without the API server"),
        pytest.param("abc", "", {"gone": "abc"}, "abc", id="a selector that selects nobody"),
        pytest.param("abc", "abcde", {"count": 5}, "abcde", id="more are asked for"),
        pytest.param("abc", "abcd", {"count": 5}, "abc", id="more are asked for than an odd number of nodes"),
        pytest.param("abcde", "abcde", {"count": 3}, "three", id="fewer are asked for"),
        pytest.param(
            "abcde", "abcd", {"count": 5}, "abcde", id="four of five survive what three of three do"
        ),
        pytest.param(
            "abcde", "abc", {"count": 5}, "abc", id="three of three survive more than three of five"
        ),
        pytest.param("abcde", "abcd", {"count": 5, "gone": "e"}, "three", id="five become three for good"),
        pytest.param("abcde", "abcdf", {"count": 5}, "abcdf", id="one of five is replaced"),
    ],
)
def test_the_wanted_witnesses(present: str, alive: str, options: dict[str, object], wanted: str) -> None:
    found = chosen(present, alive, **options)  # type: ignore[arg-type]
    if wanted in {"one", "three"}:
        assert len(found) == {"one": 1, "three": 3}[wanted]
        assert set(found) <= set(alive)
    else:
        assert found == wanted


def test_an_address_that_changed_is_taken_over_without_changing_who_votes() -> None:
    moved = [Voter(Member("a", "198.51.100.1")), *voters("bc")]
    found = choose(Rules(UID, 3, may_api_server_vote=True), witnesses("abc"), moved)
    assert found.members[0] == Member("a", "198.51.100.1")
    assert found.names == {"a", "b", "c"}


PRESENT = st.sampled_from(["", "a", "ab+", "abc", "bcd", "abcde", "abcdefg"])
ZONES = st.dictionaries(st.sampled_from(NODES), st.sampled_from("xyz"))
COUNTS = st.sampled_from([1, 3, 5, 7])


@given(present=PRESENT, alive=st.sets(st.sampled_from(NODES)), zones=ZONES, count=COUNTS, api=st.booleans())
def test_a_choice_is_odd_bounded_stable_and_the_same_in_any_order(
    *, present: str, alive: set[str], zones: dict[str, str], count: int, api: bool
) -> None:
    rules = Rules(UID, count, may_api_server_vote=api)
    usable = voters("".join(sorted(alive)), zones)
    found = choose(rules, witnesses(present), usable)
    assert found == choose(rules, witnesses(present), usable[::-1])
    assert found == choose(rules, found, usable), "what was chosen is what is wanted"
    assert not found.names or len(found.names) % 2 == 1
    assert len(found.names) <= count or not alive
    assert found.names <= alive | witnesses(present).names | {API_SERVER}
    assert api or not found.has_api_vote or not alive
    if found.has_api_vote:
        assert len(found.members) == 2


@given(zones=st.fixed_dictionaries({name: st.sampled_from("xyz") for name in NODES}), count=COUNTS)
def test_a_first_choice_spreads_over_the_zones(zones: dict[str, str], count: int) -> None:
    found = choose(Rules(UID, count, may_api_server_vote=True), WitnessSet(), voters(NODES, zones))
    per_zone = Counter(zones[member.node] for member in found.members)
    there = Counter(zones.values())
    fewest = min(taken for zone in there if (taken := per_zone[zone]) < there[zone] or not taken)
    assert all(taken <= fewest + 1 for taken in per_zone.values())


@given(present=PRESENT, alive=st.sets(st.sampled_from(NODES)), count=COUNTS)
def test_what_is_wanted_survives_as_much_as_anything_of_its_size_would(
    present: str, alive: set[str], count: int
) -> None:
    rules = Rules(UID, count, may_api_server_vote=True)
    found = choose(rules, witnesses(present), voters("".join(sorted(alive))))
    if not alive:
        assert found == witnesses(present)
        return
    usable = alive | {API_SERVER}
    spare = len(found.names & usable) - len(found.names) // 2
    largest = min(count, len(alive) if len(alive) % 2 else len(alive) - 1)
    assert spare >= (largest + 1) // 2
