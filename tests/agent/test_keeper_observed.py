"""A whole keeper on a real kernel whose owner's address is checked by the standbys: as owner, as standby.

Node a is the keeper. Node b stands in the same namespace, with a seat, a socket and no addresses.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import pytest
from pyroute2 import AsyncIPRoute

from agent.onekeeper import (
    FIRST,
    PORT,
    WEB,
    Courier,
    network,  # noqa: F401 - a fixture that all tests have
    planned,
    run,
    until,
)
from vipagent.effects import Close, Effect, Observed, Open, Send
from vipagent.keeper import now_ns
from vipagent.messages import Observation, Observe
from vipagent.observations import digest
from vipagent.observing import Held, Observing
from vipagent.seat import Seat
from vipagent.seats import Seats
from vipagent.succession import key_of
from vipapi.healthchecks import HealthCheck, Pods, Selector, TCPSocket
from vipapi.nodeplan import DomainPlan, Plan, PodsFact, VirtualIPPlan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from vipapi.nodestatus import HoldingStatus

pytestmark = pytest.mark.usefixtures("importable")

APP = HealthCheck(
    name="app",
    tcp_socket=TCPSocket(port=8080),
    observed_from="Peers",
    period_milliseconds=100,
)
NEVER = HealthCheck(name="never", tcp_socket=TCPSocket(port=9), failure_threshold=1)
OBSERVED: VirtualIPPlan = msgspec.structs.replace(WEB, health_checks=(APP,))
DOMAIN: DomainPlan = planned(FIRST, OBSERVED)


class Peer:
    """Node b: stands by with its own lease, hears what is said to it, and says what it is told to."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self.seat = Seat(
            DOMAIN,
            FIRST,
            node="b",
            machine=b"machine2",
            incarnation=9,
            random=Random(0),
            now_ns=now_ns(),
            term_ceiling=0,
        )
        self.heard: list[Observe | Observation] = []
        self.owns = False
        self.perform(self.seat.assign(DOMAIN, now_ns()))

    def stand_by(self) -> None:
        self.perform(self.seat.judge([OBSERVED.uid], now_ns(), is_sound=True))

    def observes(self) -> list[Observe]:
        return [said for said in self.heard if isinstance(said, Observe)]

    def says(self) -> Observation | None:
        said = [said for said in self.heard if isinstance(said, Observation)]
        return said[-1] if said else None

    def say(self, said: Observe | Observation) -> None:
        self.perform([Send("a", said)])

    def read(self) -> None:
        self.perform(self.seat.receive(self._wire.recv(65535), now_ns()))

    async def live(self) -> None:
        while True:
            self.perform(self.seat.expire(now_ns()))
            await asyncio.sleep(0.01)

    def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send() if self.seat.is_local(effect):
                    self.perform(self.seat.deliver(effect, now_ns()))
                case Send():
                    sealed = self.seat.seal(effect)
                    assert sealed is not None
                    self._wire.sendto(sealed[1], ("192.0.2.1", PORT))
                case Observed("a", said):
                    self.heard.append(said)
                case Open():
                    self.owns = True
                case Close(key):
                    self.owns = False
                    self.perform(self.seat.lease.closed(key, now_ns()))


PeerKind = TypeVar("PeerKind", bound=Peer)


@asynccontextmanager
async def peer(kind: Callable[[socket.socket], PeerKind]) -> AsyncIterator[PeerKind]:
    loop = asyncio.get_running_loop()
    async with AsyncIPRoute() as route:
        await route.link("set", index=1, state="up")
        await route.addr("add", index=1, address="192.0.2.2", prefixlen=32)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("192.0.2.2", PORT))
        wire.setblocking(False)  # noqa: FBT003
        made = kind(wire)
        loop.add_reader(wire, made.read)
        living = loop.create_task(made.live())
        try:
            yield made
        finally:
            loop.remove_reader(wire)
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)


def holding(courier: Courier) -> HoldingStatus | None:
    return courier.report.virtual_ips[0] if courier.report and courier.report.virtual_ips else None


def fitness(courier: Courier) -> tuple[str, str]:
    found = holding(courier)
    return ("", "") if found is None else (found.fitness, found.reason)


def results(courier: Courier) -> dict[str, str]:
    found = holding(courier)
    return {} if found is None else {check.name: check.result for check in found.checks}


def complaint(said: Observe, **fields: Any) -> Observation:
    made = Observation(said.incarnation, said.key, said.term, (digest(APP),), ())
    return msgspec.structs.replace(made, **fields)


def test_an_owner_that_its_peer_cannot_reach_hands_over_and_keeps_off(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        async with peer(Peer) as other:
            courier.plan(DOMAIN)
            await until(lambda: any(said.is_announced for said in other.observes()))
            said = other.observes()[-1]
            assert (said.key, said.is_active) == (key_of(OBSERVED), False)
            await courier.until(lambda: fitness(courier) == ("Fit", ""))
            other.stand_by()
            other.say(complaint(said))
            await courier.until(lambda: fitness(courier) == ("Unfit", "PeersDisagree"))
            await until(lambda: other.owns)
            await courier.until(lambda: courier.state() == "Standby")
            found = holding(courier)
            assert found is not None
            assert found.message == (
                "through the address these checks fail for b: app; this node keeps off for 60 s"
            )

    run(tmp_path, story)


def test_who_keeps_off_takes_the_address_again_when_the_other_dies(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        async with peer(Peer) as other:
            courier.plan(DOMAIN)
            await until(lambda: any(said.is_announced for said in other.observes()))
            other.stand_by()
            other.say(complaint(other.observes()[-1]))
            await until(lambda: other.owns)
            await courier.until(lambda: fitness(courier) == ("Unfit", "PeersDisagree"))
        await courier.until(lambda: fitness(courier) == ("Fit", "") and courier.state() == "Owner")

    run(tmp_path, story)


def test_complaints_about_another_tenure_change_nothing(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        async with peer(Peer) as other:
            courier.plan(DOMAIN)
            await until(lambda: any(said.is_announced for said in other.observes()))
            other.stand_by()
            said = other.observes()[-1]
            for fields in (
                {"failing": (b"another!",)},
                {"term": said.term - 1},
                {"term": said.term + 1},
                {"incarnation": said.incarnation + 1},
                {"key": b"x" * 16},
            ):
                other.say(complaint(said, **fields))
            count = len(other.heard)
            await until(lambda: len(other.heard) > count + 1)  # each second: it has looked at all of them
            assert not other.owns
            assert other.observes()[-1].term == said.term

    run(tmp_path, story)


def test_an_owner_with_nobody_to_hand_over_to_stays_and_says_so(tmp_path: Path) -> None:
    async def story(courier: Courier) -> None:
        async with peer(Peer) as other:
            courier.plan(DOMAIN)
            await until(lambda: any(said.is_announced for said in other.observes()))
            other.say(complaint(other.observes()[-1]))
            await courier.until(lambda: fitness(courier) == ("Fit", "PeersDisagree"))
            assert courier.state() == "Owner"

    run(tmp_path, story)


def test_a_standby_probes_the_owners_address_and_tells_what_it_sees(tmp_path: Path) -> None:
    """Its own check keeps node a off the address; node b says that it owns it."""
    unfit = msgspec.structs.replace(OBSERVED, health_checks=(APP, NEVER))

    async def story(courier: Courier) -> None:
        async with peer(Peer) as other, AsyncIPRoute() as route:
            courier.plan(planned(FIRST, unfit))
            await courier.until(lambda: fitness(courier) == ("Unfit", "CheckFailed"))
            assert results(courier) == {"never": "Failing"}
            owner = Observe(9, key_of(OBSERVED), 5, is_announced=True, is_active=False)
            telling = asyncio.create_task(_tell(other, owner))
            try:
                await until(lambda: other.says() == Observation(9, owner.key, 5, (digest(APP),), ()))
                await courier.until(lambda: results(courier) == {"never": "Failing", "app": "Failing"})
                await route.addr("add", index=1, address="192.0.2.10", prefixlen=32)
                with socket.create_server(("192.0.2.10", 8080)):
                    await until(lambda: other.says() == Observation(9, owner.key, 5, (), (digest(APP),)))
                    await courier.until(lambda: results(courier)["app"] == "Passing")
            finally:
                telling.cancel()
            await courier.until(lambda: results(courier) == {"never": "Failing"})

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("sender", "held", "count"),
    [
        pytest.param("b", None, 1, id="a-candidate"),
        pytest.param("c", None, 0, id="a-node-that-is-none"),
        pytest.param("b", Held(4, is_announced=True), 0, id="another-than-this-node-which-owns-it"),
    ],
)
def test_only_another_candidate_is_believed_to_be_the_owner(
    sender: str, held: Held | None, count: int
) -> None:
    async def story() -> None:
        seats = Seats(node="a", machine=b"machine1", incarnation=1, random=Random(0))
        seated, _, _ = seats.sit(DOMAIN, FIRST, term_ceiling=0, now_ns=0)
        assert seated is not None
        observing = Observing(
            node="a",
            incarnation=1,
            seats=seats,
            held=lambda _key: held,
            active=frozenset,
            fitness=lambda _uid: None,
            send=lambda _seated, _send: None,
            on_subjects=lambda: None,
            on_change=lambda: None,
        )
        observing.assign([OBSERVED])
        owner = Observe(9, key_of(OBSERVED), 5, is_announced=True, is_active=False)
        observing.hear(seated, Observed(sender, owner))
        observing.assign([OBSERVED])
        assert len(observing.subjects()) == count
        observing.assign([])
        assert observing.subjects() == ()

    asyncio.run(story())


async def _tell(other: Peer, said: Observe) -> None:
    while True:
        other.say(said)
        await asyncio.sleep(0.5)


def test_what_the_courier_finds_of_pods_decides_at_once(tmp_path: Path) -> None:
    pods = Pods(Selector({"app": "web"}), "prod")
    check = HealthCheck(name="pods", pods=pods, period_milliseconds=600_000, success_threshold=1)
    domain = planned(FIRST, msgspec.structs.replace(WEB, health_checks=(check,)))

    async def story(courier: Courier) -> None:
        def tell(*facts: PodsFact) -> None:
            courier.say(Plan("a", (domain,), ("192.0.2.1",), facts))

        tell()
        await courier.until(lambda: fitness(courier) == ("Unfit", "CheckPending"))
        tell(PodsFact(pods, is_ok=True))
        await courier.until(lambda: courier.state() == "Owner")
        tell(PodsFact(pods, is_ok=False, message="0 of 1 are ready"))
        await courier.until(lambda: fitness(courier) == ("Unfit", "CheckFailed"))
        tell(PodsFact(pods, is_ok=True))
        await courier.until(lambda: fitness(courier) == ("Fit", ""))

    run(tmp_path, story)
