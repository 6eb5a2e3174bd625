"""The laws of changing witnesses, with keepers that learn, report and die at random.

The cluster below drives the real controller. Its keepers keep a configuration, hear of newer ones from the
plan or from each other, grant terms, and report, each when it likes; controllers are killed before a write,
start anew, and write what another one has made stale. After every write the truth, not the reports, is
asked whether that step was allowed. A seed tells the whole life of a cluster.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from vipapi.configuration import API_SERVER, Configuration, Member, WitnessSet, fingerprint, is_majority
from vipapi.nodestatus import DomainStatus
from vipapi.resources import (
    FINALIZER,
    FailoverDomain,
    FailoverDomainSpec,
    FailoverDomainStatus,
    Node,
    ObjectMeta,
    VIPNode,
    VIPNodeStatus,
    Witnesses,
    configuration_of,
    with_configuration,
)
from vipcontroller import epochs
from vipcontroller.decisions import Memory, reconcile
from vipcontroller.observation import View
from vipcontroller.world import Moment, World
from vipcontroller.writes import StatusWrite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UID = "uid"
NODES = ("a", "b", "c", "d", "e")
STEPS = 3000
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@dataclass
class Keeper:
    """`term` is the highest that it has granted, `floor` what it told at its last change of epoch."""

    configuration: Configuration = field(default_factory=Configuration)
    drained: int = 0
    term: int = 0
    floor: int = 0
    is_up: bool = True
    network: str = "192.0.2"
    reported: DomainStatus | None = None

    def learn(self, configuration: Configuration) -> None:
        if configuration.epoch > self.configuration.epoch:
            self.configuration = configuration
            self.floor = max(self.floor, self.term)


@dataclass
class Clerk:
    """The controller's process: what it remembers, and what it has decided but not written."""

    memory: Memory = field(default_factory=Memory)
    decided: tuple[str, FailoverDomainStatus] | None = None


class Cluster:
    def __init__(self, *, count: int, api: bool, size: int) -> None:
        self.spec = FailoverDomainSpec(
            witnesses=Witnesses(count=count, api_server=api, replace_after_seconds=10)
        )
        self.status = FailoverDomainStatus()
        self.version = 1
        self.tick = 0.0
        self.keepers = {name: Keeper() for name in NODES[:size]}
        self.clerks = [Clerk(), Clerk()]
        self.terms: list[tuple[int, tuple[frozenset[str], ...]]] = []
        self.changes = 0
        for name in self.keepers:
            self.report(name)

    def living(self) -> list[str]:
        return [name for name, keeper in self.keepers.items() if keeper.is_up]

    def is_up(self, name: str) -> bool:
        return name in self.keepers and self.keepers[name].is_up

    def report(self, name: str) -> None:
        if not self.is_up(name):
            return
        keeper, living = self.keepers[name], self.living()
        epoch = keeper.configuration.epoch
        keeper.reported = DomainStatus(
            name="default",
            uid=UID,
            role="Witness",
            heartbeat_address=f"{keeper.network}.{ord(name)}",
            configuration=keeper.configuration,
            reachable_peers=tuple(living),
            behind=tuple(peer for peer in living if self.keepers[peer].configuration.epoch < epoch),
            drained_epoch=keeper.drained,
            term_floor=keeper.floor,
            vote_transitions=1 if name == living[0] else 0,
        )

    def hear_the_plan(self, name: str) -> None:
        if self.is_up(name):
            self.keepers[name].learn(configuration_of(self.status))

    def hear_a_peer(self, name: str, peer: str) -> None:
        if self.is_up(name) and self.is_up(peer):
            self.keepers[name].learn(self.keepers[peer].configuration)

    def drain(self, name: str) -> None:
        if self.is_up(name):
            self.keepers[name].drained = self.keepers[name].configuration.epoch

    def spread_floors(self, name: str) -> None:
        if self.is_up(name):
            floors = [self.keepers[peer].floor for peer in self.living()]
            self.keepers[name].floor = max(floors)

    def grant_a_term(self, owner: str) -> None:
        """Whoever is at the owner's epoch or beside it grants; only what is not drained may do so."""
        if not self.is_up(owner):
            return
        own = self.keepers[owner].configuration
        granting = {
            name: keeper
            for name, keeper in self.keepers.items()
            if keeper.is_up and abs(keeper.configuration.epoch - own.epoch) <= 1
        }
        voters = set(granting) | ({API_SERVER} if self.living()[0] in granting else set())
        if own.epoch and is_majority(voters, own.quorums):
            term = max(max(keeper.term, keeper.floor) for keeper in granting.values()) + 1
            assert all(term > earlier for earlier, _ in self.terms), "terms grow over every change"
            self.terms.append((term, own.quorums))
            for keeper in granting.values():
                keeper.term = term

    def die(self, name: str) -> None:
        if self.is_up(name) and len(self.living()) > 1:
            self.keepers[name].is_up = False

    def move(self, name: str) -> None:
        """Give a node another address, or its former one back."""
        if self.is_up(name):
            keeper = self.keepers[name]
            keeper.network = "192.0.2" if keeper.network == "198.51.100" else "198.51.100"

    def return_or_join(self, name: str) -> None:
        self.keepers.setdefault(name, Keeper()).is_up = True
        self.report(name)

    def ask_for(self, *, count: int, api: bool) -> None:
        self.spec = FailoverDomainSpec(
            witnesses=Witnesses(count=count, api_server=api, replace_after_seconds=10)
        )

    def wait(self, seconds: int) -> None:
        self.tick += seconds

    def decide(self, number: int) -> None:
        clerk = self.clerks[number]
        metadata = ObjectMeta(
            name="default", uid=UID, resource_version=str(self.version), generation=1, finalizers=(FINALIZER,)
        )
        world = World(
            domains={"default": FailoverDomain(metadata=metadata, spec=self.spec, status=self.status)},
            nodes={name: Node(metadata=ObjectMeta(name=name)) for name in self.keepers},
            vip_nodes={
                name: VIPNode(
                    metadata=ObjectMeta(name=name), status=VIPNodeStatus(domains=(keeper.reported,))
                )
                for name, keeper in self.keepers.items()
                if keeper.reported is not None
            },
        )
        now = Moment(START + dt.timedelta(seconds=self.tick), self.tick)
        decisions = reconcile(world, clerk.memory, now)
        assert not decisions.problems
        clerk.memory, clerk.decided = decisions.memory, None
        for write in decisions.writes:
            assert isinstance(write, StatusWrite)
            assert isinstance(write.status, FailoverDomainStatus)
            clerk.decided = (write.metadata.resource_version, write.status)

    def write(self, number: int) -> None:
        """Compare-and-swap: of two controllers that decided on one version only one writes."""
        clerk = self.clerks[number]
        if clerk.decided is not None and clerk.decided[0] == str(self.version):
            before, after = configuration_of(self.status), configuration_of(clerk.decided[1])
            self.status, self.version = clerk.decided[1], self.version + 1
            if before != after:
                self.assert_step(before, after)
        clerk.decided = None

    def kill(self, number: int) -> None:
        self.clerks[number] = Clerk()

    def decide_and_write(self, number: int) -> None:
        self.decide(number)
        self.write(number)

    def there(self, quorum: frozenset[str], epoch: int) -> set[str]:
        """Return who of a quorum truly has that epoch on disk."""
        voters = {name for name, keeper in self.keepers.items() if keeper.configuration.epoch >= epoch}
        return quorum & (voters | {API_SERVER})

    def assert_step(self, before: Configuration, after: Configuration) -> None:
        assert after.epoch == before.epoch + 1
        assert after.former_hash == before.hash
        assert after.hash == fingerprint(UID, after)
        assert all(quorum for quorum in after.quorums)
        if not before.epoch:
            assert after.former is None
            return
        assert set(before.quorums) & set(after.quorums), "any two majorities share a witness"
        steady = before.witnesses if before.former is None else before.former
        homes = dict(whole(before) | whole(after))
        assert {*homes.items()} == whole(before) | whole(after), "no node is at two addresses"
        if after.former is None:
            self.changes += 1
            assert before.is_sealing
            assert after.witnesses == before.witnesses
            self.assert_sealed(before)
            return
        assert after.former == steady
        assert is_majority(self.there(steady.names, before.epoch), (steady.names,))
        if after.is_sealing:
            assert before.former is not None
            assert not before.is_sealing
            assert after.witnesses == before.witnesses
            assert all(is_majority(self.there(quorum, before.epoch), (quorum,)) for quorum in before.quorums)

    def term_of(self, quorum: frozenset[str]) -> int:
        """Return the highest term that this quorum granted alone."""
        return max((term for term, quorums in self.terms if quorums == (quorum,)), default=0)

    def assert_sealed(self, sealing: Configuration) -> None:
        assert sealing.former is not None
        old, new, epoch = sealing.former.names, sealing.witnesses.names, sealing.epoch
        drained = {name for name in old if name == API_SERVER or self.keepers[name].drained >= epoch}
        assert is_majority(drained, (old,))
        assert is_majority(self.there(new, epoch), (new,))
        if API_SERVER not in old | new:
            knowing = {name for name in new if self.keepers[name].floor >= self.term_of(old)}
            assert is_majority(knowing, (new,)), "no term of the old witnesses comes twice"

    def assert_whole(self) -> None:
        found = configuration_of(self.status)
        assert not found.is_sealing or found.former is not None
        assert all(len(quorum) % 2 for quorum in found.quorums if found.epoch)


def whole(configuration: Configuration) -> set[tuple[str, str]]:
    """Return every node of both sets with its address."""
    former = () if configuration.former is None else configuration.former.members
    return {(member.node, member.address) for member in (*configuration.witnesses.members, *former)}


def live(seed: int, steps: int) -> Cluster:
    """Let a cluster live through so many random moments."""
    chance = random.Random(seed)
    cluster = Cluster(
        count=chance.choice([1, 3, 3, 5]), api=chance.random() < 0.7, size=chance.randint(1, len(NODES))
    )
    acts: tuple[tuple[int, Callable[[], None]], ...] = (
        (150, lambda: cluster.report(chance.choice(NODES))),
        (120, lambda: cluster.hear_the_plan(chance.choice(NODES))),
        (20, lambda: cluster.hear_a_peer(chance.choice(NODES), chance.choice(NODES))),
        (80, lambda: cluster.drain(chance.choice(NODES))),
        (50, lambda: cluster.spread_floors(chance.choice(NODES))),
        (40, lambda: cluster.grant_a_term(chance.choice(NODES))),
        (3, lambda: cluster.die(chance.choice(NODES))),
        (2, lambda: cluster.move(chance.choice(NODES))),
        (6, lambda: cluster.return_or_join(chance.choice(NODES))),
        (3, lambda: cluster.ask_for(count=chance.choice([1, 3, 5]), api=chance.random() < 0.7)),
        (10, lambda: cluster.wait(chance.choice([1, 11]))),
        (60, lambda: cluster.decide_and_write(chance.randrange(2))),
        (10, lambda: cluster.decide(chance.randrange(2))),
        (10, lambda: cluster.write(chance.randrange(2))),
        (5, lambda: cluster.kill(chance.randrange(2))),
    )
    weights = [weight for weight, _ in acts]
    for _ in range(steps):
        [(_, act)] = chance.choices(acts, weights)
        act()
        cluster.assert_whole()
    return cluster


@pytest.mark.parametrize("seed", range(8))
def test_every_step_of_every_change_has_what_it_needs(seed: int) -> None:
    cluster = live(seed, STEPS)
    assert configuration_of(cluster.status).epoch > 0


def test_the_lives_above_are_full_of_changes() -> None:
    assert sum(live(seed, STEPS).changes for seed in range(3)) >= 5


def members(names: str) -> WitnessSet:
    return WitnessSet(tuple(Member(name, f"192.0.2.{ord(name)}") for name in names))


def chain(*steps: tuple[str, str, bool]) -> list[Configuration]:
    """A history: each step is its witnesses, its former ones, and whether it is sealing."""
    found = [Configuration()]
    for names, former, is_sealing in steps:
        last = found[-1]
        following = Configuration(
            epoch=last.epoch + 1,
            former_hash=last.hash,
            witnesses=members(names),
            former=members(former) if former else None,
            is_sealing=is_sealing,
        )
        found.append(following.sealed(UID))
    return found


HISTORY = chain(("abc", "", False), ("abd", "abc", False), ("abd", "abc", True), ("abd", "", False))
OTHER = chain(("abc", "", False), ("abe", "abc", False))


def reports(running: Mapping[str, Configuration], **changes: object) -> dict[str, DomainStatus]:
    return {
        name: msgspec.structs.replace(
            DomainStatus(name="default", uid=UID, role="Witness", configuration=configuration), **changes
        )
        for name, configuration in running.items()
    }


@pytest.mark.parametrize(
    ("present", "running", "found"),
    [
        pytest.param(0, {"a": 1, "b": 1}, 1, id="wiped, a majority"),
        pytest.param(0, {"a": 1}, 0, id="wiped, no majority"),
        pytest.param(1, {"a": 4, "b": 4}, 4, id="restored from before a change"),
        pytest.param(1, {"a": 4, "b": 1, "c": 1}, 1, id="ahead without a majority and not the next"),
        pytest.param(0, {"a": 2, "b": 1, "c": 1}, 2, id="the next step was written, and one has heard of it"),
        pytest.param(1, {"a": 2, "b": 1, "c": 1}, 2, id="the same with a restored status"),
        pytest.param(0, {"a": 2, "b": 2}, 2, id="joining, majorities of both"),
        pytest.param(0, {"a": 2, "c": 2}, 0, id="joining, of the new ones no majority"),
        pytest.param(2, {"a": 1, "b": 1, "c": 1}, 2, id="keepers that are behind as usual"),
        pytest.param(4, {"a": 4, "b": 4, "c": 1}, 4, id="peace"),
    ],
)
def test_what_the_status_lacks_is_recovered_from_the_keepers(
    present: int, running: dict[str, int], found: int
) -> None:
    said = reports({name: HISTORY[epoch] for name, epoch in running.items()})
    assert epochs.recover(UID, HISTORY[present], said) == HISTORY[found]


def test_of_two_histories_the_one_that_keepers_run_is_recovered() -> None:
    said = reports({"a": HISTORY[2], "b": HISTORY[2], "c": HISTORY[1]})
    assert epochs.recover(UID, OTHER[2], said) == HISTORY[2], "nobody runs the other"
    said |= reports({"e": OTHER[2]})
    assert epochs.recover(UID, OTHER[2], said) == OTHER[2]
    assert epochs.estranged(OTHER[2], said) == ("a", "b")


def test_a_configuration_of_another_domain_or_a_wrong_hash_is_not_recovered() -> None:
    said = reports({"a": HISTORY[1], "b": HISTORY[1]})
    assert epochs.recover("another", Configuration(), said) == Configuration()


HEARD = View(
    alive=frozenset("abcd"),
    hearers={name: frozenset("abcd") for name in "abcd"},
    is_quorate=True,
)


@pytest.mark.parametrize(
    ("floors", "new_floors", "is_done"),
    [
        pytest.param({"a": 5, "b": 5, "c": 5}, {"a": 5, "b": 5, "d": 5}, True, id="all agree"),
        pytest.param(
            {"a": 5, "b": 6, "c": 7}, {"a": 6, "b": 6, "d": 0}, True, id="two have the second lowest"
        ),
        pytest.param({"a": 0, "b": 6, "c": 7}, {"d": 0}, False, id="one of three is enough for nothing"),
    ],
)
def test_the_new_witnesses_must_know_of_every_term(
    floors: dict[str, int], new_floors: dict[str, int], *, is_done: bool
) -> None:
    said = reports(dict.fromkeys("abcd", HISTORY[3]), drained_epoch=3)
    for name, floor in (floors | new_floors).items():
        said[name] = msgspec.structs.replace(said[name], term_floor=floor)
    step = epochs.advance(UID, HISTORY[3], members("abd"), reports=said, view=HEARD)
    assert (step.configuration == HISTORY[4]) == is_done
    assert bool(step.awaits) != is_done


@pytest.mark.parametrize(
    ("view", "running", "awaited"),
    [
        pytest.param(
            View(), "abcd", "a majority of the witnesses to be heard again: bring back a or b or c", id="lost"
        ),
        pytest.param(HEARD, "ad", "b or c to report epoch 1", id="not joined"),
        pytest.param(HEARD, "abd", "", id="there"),
    ],
)
def test_a_change_starts_from_a_majority_that_is_there(view: View, running: str, awaited: str) -> None:
    said = reports(dict.fromkeys(running, HISTORY[1]))
    step = epochs.advance(UID, HISTORY[1], members("abd"), reports=said, view=view)
    assert step.awaits.startswith(awaited)
    assert step.configuration == (HISTORY[1] if awaited else HISTORY[2])


def test_a_status_and_a_configuration_are_one_thing_in_two_forms() -> None:
    for configuration in HISTORY:
        assert configuration_of(with_configuration(FailoverDomainStatus(), configuration)) == configuration
