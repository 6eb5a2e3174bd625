"""How witness configurations follow each other, and why two owners can never be granted at once by them."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vipapi.configuration import (
    API_SERVER,
    Configuration,
    Member,
    Relation,
    Stamp,
    WitnessSet,
    fingerprint,
    is_majority,
    relation,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_UID = "7d0c"
_SETS = st.builds(
    WitnessSet,
    st.sets(st.sampled_from("abcd"), min_size=1, max_size=3).map(
        lambda nodes: tuple(Member(node, f"192.0.2.{ord(node)}") for node in sorted(nodes))
    ),
    st.booleans(),
)


def _after(before: Configuration, **changes: object) -> Configuration:
    bare = Configuration(before.epoch + 1, "", before.hash, before.witnesses)
    return msgspec.structs.replace(bare, **changes).sealed(_UID)


def _change(old: WitnessSet, new: WitnessSet) -> list[Configuration]:
    """All four epochs of a change."""
    first = Configuration(1, witnesses=old).sealed(_UID)
    joining = _after(first, witnesses=new, former=old)
    sealing = _after(joining, former=old, is_sealing=True)
    return [first, joining, sealing, _after(sealing)]


def _majorities(configuration: Configuration) -> Iterator[frozenset[str]]:
    voters = sorted(frozenset().union(*configuration.quorums))
    for count in range(len(voters) + 1):
        for chosen in combinations(voters, count):
            if is_majority(set(chosen), configuration.quorums):
                yield frozenset(chosen)


def _stamp(configuration: Configuration) -> Stamp:
    return Stamp(configuration.epoch, configuration.hash.encode(), configuration.former_hash.encode())


@settings(deadline=None)
@given(_SETS, _SETS)
def test_any_two_majorities_of_neighbouring_configurations_share_a_witness(
    old: WitnessSet, new: WitnessSet
) -> None:
    epochs = _change(old, new)
    for one, other in [*zip(epochs, epochs, strict=True), *pairwise(epochs)]:
        assert all(a & b for a in _majorities(one) for b in _majorities(other))


@given(_SETS, _SETS)
def test_only_neighbours_serve_each_other(old: WitnessSet, new: WitnessSet) -> None:
    epochs = _change(old, new)
    for own in epochs:
        for other in epochs:
            found = relation(_stamp(own), _stamp(other))
            assert found.is_served is (abs(own.epoch - other.epoch) <= 1)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        pytest.param(Stamp(5, b"5", b"4"), Relation.SAME, id="the same"),
        pytest.param(Stamp(5, b"x", b"4"), Relation.CONFLICT, id="the same epoch, another content"),
        pytest.param(Stamp(4, b"4", b"3"), Relation.FORMER, id="the one before"),
        pytest.param(Stamp(4, b"x", b"3"), Relation.CONFLICT, id="one behind on another way"),
        pytest.param(Stamp(6, b"6", b"5"), Relation.NEXT, id="the next one"),
        pytest.param(Stamp(6, b"6", b"x"), Relation.CONFLICT, id="one ahead on another way"),
        pytest.param(Stamp(3, b"3", b"2"), Relation.BEHIND, id="two behind"),
        pytest.param(Stamp(9, b"9", b"8"), Relation.AHEAD, id="far ahead"),
    ],
)
def test_how_another_configuration_stands_to_ours(other: Stamp, expected: Relation) -> None:
    assert relation(Stamp(5, b"5", b"4"), other) is expected


def test_the_hash_tells_every_difference() -> None:
    a, b = (WitnessSet((Member(node, "192.0.2.1"),)) for node in "ab")
    base = Configuration(3, "", "h", a)
    variants = [
        (_UID, base),
        ("other", base),
        *(
            (_UID, msgspec.structs.replace(base, **change))
            for change in (
                {"epoch": 4},
                {"former_hash": "g"},
                {"witnesses": b},
                {"witnesses": WitnessSet((Member("a", "192.0.2.2"),))},
                {"witnesses": WitnessSet(a.members, has_api_vote=True)},
                {"former": b},
                {"former": WitnessSet()},
                {"is_sealing": True},
            )
        ),
    ]
    assert len({fingerprint(uid, configuration) for uid, configuration in variants}) == len(variants)


def test_the_hash_does_not_ask_in_which_order_the_witnesses_stand() -> None:
    members = (Member("a", "192.0.2.1"), Member("b", "192.0.2.2"))
    one, other = (Configuration(1, witnesses=WitnessSet(each)) for each in (members, members[::-1]))
    assert fingerprint(_UID, one) == fingerprint(_UID, other)


def test_a_node_that_both_sets_name_is_where_the_new_one_says() -> None:
    old, new = (WitnessSet((Member("a", address),)) for address in ("192.0.2.1", "192.0.2.9"))
    assert Configuration(2, witnesses=new, former=old).members == (Member("a", "192.0.2.9"),)


@pytest.mark.parametrize(
    ("voters", "quorums", "is_enough"),
    [
        ("ab", ["abc"], True),
        ("a", ["abc"], False),
        ("ab", ["abcd"], False),
        ("abz", ["abcd"], False),
        ("ab", ["abc", "ade"], False),
        ("abd", ["abc", "ade"], True),
        ("", [""], False),
    ],
)
def test_a_majority_is_more_than_half_of_every_quorum(
    voters: str,
    quorums: list[str],
    is_enough: bool,  # noqa: FBT001
) -> None:
    assert is_majority(set(voters), [frozenset(quorum) for quorum in quorums]) is is_enough


def test_the_api_server_votes_under_a_name_that_no_node_can_have() -> None:
    assert WitnessSet((Member("a", "192.0.2.1"),), has_api_vote=True).names == {"a", API_SERVER}
    assert not API_SERVER[0].isalnum()  # RFC 1123, 2.1
