"""What witnesses report, taken together: tables of reports and what follows."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from vipapi.configuration import API_SERVER, Configuration, Member, WitnessSet
from vipapi.nodestatus import DomainStatus, GrantStatus
from vipapi.resources import FailoverDomain, FailoverDomainStatus, ObjectMeta, VIPNode, VIPNodeStatus
from vipapi.resources import with_configuration as told
from vipcontroller.observation import Grant, View, view
from vipcontroller.world import World

UID = "uid"


def witnesses(names: str) -> WitnessSet:
    """`ab+` are the nodes a and b with the API server."""
    members = tuple(Member(name, f"192.0.2.{ord(name)}") for name in names.rstrip("+"))
    return WitnessSet(members, has_api_vote=names.endswith("+"))


def single(names: str) -> Configuration:
    return Configuration(epoch=1, hash="1", witnesses=witnesses(names))


def joint(names: str, former: str, *, is_sealing: bool = False) -> Configuration:
    return Configuration(
        epoch=2, hash="2", witnesses=witnesses(names), former=witnesses(former), is_sealing=is_sealing
    )


def says(
    running: Configuration, *, hears: str = "", grants: str = "", buries: str = "", vote: int = 0
) -> DomainStatus:
    """A report; `grants` is the holder of the VirtualIP `vip` with term 7, `buries` a UID."""
    return DomainStatus(
        name="default",
        uid=UID,
        role="Witness",
        configuration=running,
        reachable_peers=tuple(hears),
        grants=(GrantStatus(uid="vip", name="web", holder=grants, term=7),) if grants else (),
        tombstones=(buries,) if buries else (),
        vote_transitions=vote,
    )


def seen(configuration: Configuration, **reports: DomainStatus) -> View:
    status = told(FailoverDomainStatus(), configuration)
    domain = FailoverDomain(metadata=ObjectMeta(name="default", uid=UID), status=status)
    vip_nodes = {
        name: VIPNode(metadata=ObjectMeta(name=name), status=VIPNodeStatus(domains=(report,)))
        for name, report in reports.items()
    }
    return view(World(domains={"default": domain}, vip_nodes=vip_nodes), domain)


def owner(found: View) -> str | None:
    grant = found.owners.get("vip", Grant("", 0))
    return grant.holder or None


THREE, TWO = single("abc"), single("ab+")


def test_before_there_are_witnesses_everybody_with_an_agent_is_alive() -> None:
    found = seen(Configuration(), a=says(Configuration()), b=says(Configuration()))
    assert (found.alive, found.is_quorate) == ({"a", "b"}, False)


def test_a_dead_node_s_last_word_is_one_voice() -> None:
    stale = says(THREE, hears="abc", grants="c")
    found = seen(THREE, a=says(THREE, hears="ab"), b=says(THREE, hears="ab"), c=stale)
    assert found.alive == {"a", "b"}
    assert found.is_quorate
    assert owner(found) is None


def test_whoever_holds_the_api_server_s_vote_speaks_for_it() -> None:
    alone = says(TWO, hears="a", grants="a", buries="old", vote=4)
    dead = says(TWO, hears="ab", grants="b", vote=3)
    found = seen(TWO, a=alone, b=dead)
    assert found.alive == {"a"}
    assert found.is_quorate
    assert owner(found) == "a"
    assert found.hearers[API_SERVER] == found.hearers["a"]


def test_the_api_server_s_vote_buries_nothing() -> None:
    alone = says(TWO, hears="a", buries="old", vote=4)
    found = seen(TWO, a=alone, b=says(TWO, hears="ab"))
    assert (found.buried, found.can_bury, found.is_quorate) == (frozenset(), False, True)
    found = seen(TWO, a=says(TWO, hears="ab", buries="old", vote=4), b=says(TWO, hears="ab", buries="old"))
    assert (found.buried, found.can_bury) == ({"old"}, True)


def test_a_stranger_with_a_witness_s_name_speaks_for_nobody() -> None:
    stranger = replace(says(THREE, hears="abc", grants="a", buries="old"), heartbeat_address="192.0.2.200")
    other = says(THREE, hears="abc", grants="a", buries="old")
    found = seen(THREE, a=stranger, c=other)
    assert (owner(found), found.buried, found.is_quorate) == (None, frozenset(), False)
    found = seen(THREE, a=stranger, b=other, c=other)
    assert (found.alive, found.buried) == ({"b", "c"}, {"old"})
    assert seen(THREE, a=other, c=other).buried == {"old"}, "one that tells no address is the witness"


@pytest.mark.parametrize("status", [Configuration(), single("xyz")], ids=["wiped", "restored"])
def test_the_witnesses_asked_are_those_in_force_and_not_those_of_the_status(status: Configuration) -> None:
    running = replace(single("abc"), epoch=2).sealed(UID)
    found = seen(status, a=says(running, hears="ab", grants="b"), b=says(running, hears="ab", grants="b"))
    assert found.configuration == running
    assert found.has_witnesses
    assert found.alive == {"a", "b"}
    assert owner(found) == "b"


def test_where_keepers_run_what_cannot_be_recovered_something_may_be_granted() -> None:
    found = seen(Configuration(), a=says(THREE, grants="a"))
    assert (found.configuration.epoch, found.has_witnesses, found.buried) == (0, True, frozenset())
    assert not seen(Configuration(), a=says(Configuration())).has_witnesses


def test_without_the_vote_the_survivor_of_two_has_no_majority() -> None:
    found = seen(TWO, a=says(TWO, hears="a", grants="a", buries="old"))
    assert not found.is_quorate
    assert owner(found) is None
    assert found.buried == set()


def test_two_that_hear_each_other_need_no_vote() -> None:
    found = seen(TWO, a=says(TWO, hears="ab", grants="b"), b=says(TWO, hears="ab", grants="b"))
    assert found.is_quorate
    assert owner(found) == "b"


@pytest.mark.parametrize(
    ("granting", "is_sealing", "holder"),
    [
        pytest.param("a", False, "a", id="joining, the former ones grant"),
        pytest.param("bc", False, None, id="joining, only the new ones grant"),
        pytest.param("a", True, None, id="sealing, the former ones alone are not enough"),
        pytest.param("ab", True, "a", id="sealing, majorities of both"),
    ],
)
def test_an_owner_is_who_any_owner_must_be_granted_by(
    granting: str, *, is_sealing: bool, holder: str | None
) -> None:
    running = joint("abc", "a", is_sealing=is_sealing)
    reports = {
        name: says(running, hears="abc", grants="a" if name in granting else "", buries="old")
        for name in "abc"
    }
    found = seen(running, **reports)
    assert owner(found) == holder
    assert found.alive == {"a", "b", "c"}
    assert found.buried == {"old"}


def test_buried_is_what_a_majority_of_both_sets_buries() -> None:
    running = joint("abc", "a")
    reports = {name: says(running, hears="abc") for name in "abc"}
    assert seen(running, **reports | {"a": says(running, buries="old")}).buried == set()
    both = {name: says(running, buries="old") for name in "ab"}
    assert seen(running, **reports | both).buried == {"old"}


def test_who_does_not_know_yet_that_it_is_a_witness_speaks_against_nobody() -> None:
    running = joint("cde", "abc", is_sealing=True)
    reports = {name: says(running, hears="abcde") for name in "abc"}
    found = seen(running, **reports, d=says(THREE), e=says(THREE))
    assert found.alive == {"a", "b", "c", "d", "e"}
    assert found.is_quorate
