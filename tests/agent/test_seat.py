"""A seat joins lease, witness and codec: three of them elect an owner over sealed datagrams."""

from random import Random

import pytest

from vipagent.datagrams import DatagramRefused
from vipagent.effects import MILLISECOND, Effect, Extend, Open, Phase, Send
from vipagent.seat import Seat
from vipagent.succession import key_of
from vipapi.nodeplan import CandidatePlan, DomainPlan, Key, Member, Timing, VirtualIPPlan
from vipapi.nodestatus import GrantStatus

NODES = ("a", "b", "c")
WEB = VirtualIPPlan(
    uid="web-uid",
    name="web",
    addresses=("192.0.2.10/24",),
    candidates=tuple(CandidatePlan(node, 100) for node in NODES),
    owner="b",
)


def _domain(**changes: object) -> DomainPlan:
    members = tuple(Member(node, f"192.0.2.{number}") for number, node in enumerate(NODES, 1))
    fields: dict[str, object] = {
        "name": "default",
        "uid": "domain-uid",
        "epoch": 1,
        "config_hash": "hash",
        "port": 7946,
        "timing": Timing(100, 400, 500, 600),
        "witnesses": members,
        "members": members,
        "keys": (Key(1, b"k" * 32),),
        "virtual_ips": (WEB,),
    }
    return DomainPlan(**(fields | changes))  # type: ignore[arg-type]


class Domain:
    """Three seats and a perfect network; every datagram is sealed and opened again."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.effects: dict[str, list[Effect]] = {node: [] for node in NODES}
        self.seats = {
            node: Seat(_domain(), node=node, incarnation=7, random=Random(number), now_ns=0, term_ceiling=0)
            for number, node in enumerate(NODES)
        }
        for node, seat in self.seats.items():
            assert seat.witness is not None
            seat.witness.keep(seat.witness.term_ceiling)
            self.perform(node, seat.assign(_domain(), 0))
            self.perform(node, seat.judge([WEB.uid], 0))

    def perform(self, node: str, effects: list[Effect]) -> None:
        for effect in effects:
            if not isinstance(effect, Send):
                self.effects[node].append(effect)
            elif effect.to == node:
                self.perform(node, self.seats[node].deliver(effect, self.now_ns))
            else:
                sealed = self.seats[node].seal(effect)
                assert sealed is not None
                self.perform(effect.to, self.seats[effect.to].receive(sealed[1], self.now_ns))

    def run(self, milliseconds: int) -> None:
        end_ns = self.now_ns + milliseconds * MILLISECOND
        while (due_ns := min(seat.deadline_ns for seat in self.seats.values())) <= end_ns:
            self.now_ns = max(self.now_ns, due_ns)
            for node, seat in self.seats.items():
                self.perform(node, seat.expire(self.now_ns))
        self.now_ns = end_ns


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


def test_a_peer_has_a_second_to_be_heard_before_it_is_called_unreachable() -> None:
    alone = Seat(_domain(), node="a", incarnation=7, random=Random(0), now_ns=0, term_ceiling=0)
    alone.assign(_domain(), 0)
    for milliseconds, reachable in ((500, NODES), (1_500, ("a",))):
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
        pytest.param({"epoch": 2}, "Epoch", id="another epoch"),
        pytest.param({"config_hash": "other"}, "Epoch", id="same epoch, another configuration"),
        pytest.param({"keys": (Key(1, b"z" * 32),)}, "Forged", id="another secret"),
        pytest.param({"keys": (Key(2, b"k" * 32),)}, "UnknownKey", id="another key id"),
    ],
)
def test_keepers_that_disagree_do_not_talk(changes: dict[str, object], refusal: str) -> None:
    ours = Domain().seats["a"]
    theirs = Seat(_domain(**changes), node="b", incarnation=9, random=Random(0), now_ns=0, term_ceiling=0)
    theirs.assign(_domain(**changes), 0)
    send = next(e for e in theirs.expire(200 * MILLISECOND) if isinstance(e, Send) and e.to == "a")
    sealed = theirs.seal(send)
    assert sealed is not None
    with pytest.raises(DatagramRefused, match=refusal):
        ours.receive(sealed[1], 1)
