"""What fuzzing has found, each fault told once in plain words; the seeds of the targets repeat the bytes."""

from __future__ import annotations

import copy
import datetime as dt
import random
from typing import TYPE_CHECKING, Any, TypeGuard

import msgspec
import pytest

from controller import stage
from courier import objects as sources
from fuzz import keepers, lines, objects
from vipagent import epochs
from vipagent.datagrams import DatagramRefused
from vipagent.effects import Phase, Send
from vipagent.messages import Ack, Free, Granted, Offer, Prepare, Request
from vipagent.seat import Seat
from vipagent.seats import Seats
from vipagent.succession import key_of
from vipapi import link, nodeplan
from vipapi.configuration import API_SERVER
from vipapi.healthchecks import HealthCheck
from vipapi.nodeplan import Plan, Timing
from vipcontroller import decisions, world
from vipcontroller.writes import StatusWrite
from vipcourier import planning
from vipcourier.votes import Claim, Write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vipagent.datagrams import Codec

WEB = key_of(keepers.WEB)
REST_NS = 700_000_000


def seat() -> Seat:
    found = Seat(
        keepers.PLANS[0],
        keepers.FIRST,
        node="a",
        machine=b"",
        incarnation=keepers.INCARNATION,
        random=random.Random(1),
        now_ns=0,
        term_ceiling=0,
    )
    found.assign(keepers.PLANS[0], 0)
    found.judge(["web-uid"], 0, is_sound=True)
    return found


def asking(candidate: Seat, codecs: Mapping[str, Codec]) -> Request:
    """Return what it asks of another witness when everybody has called the address set free."""
    effects = candidate.expire(REST_NS)
    for codec in codecs.values():
        offer = Offer((Free(WEB, 0, 0, None, 0, was_released=False),))
        effects += candidate.receive(codec.seal("a", offer), REST_NS)
    effects += candidate.expire(REST_NS)
    asked = [each.message for each in effects if isinstance(each, Send) and isinstance(each.message, Request)]
    return next(request for request in asked if request.wants)


@pytest.mark.parametrize(("ahead_ns", "phase"), [(0, Phase.OWNER), (1, Phase.ACQUIRING)])
def test_an_answer_to_what_was_asked_in_the_future_gives_no_lease(ahead_ns: int, phase: Phase) -> None:
    candidate, codecs = seat(), {witness: keepers.codec_of(witness) for witness in "bc"}
    request = asking(candidate, codecs)
    granted = tuple(Granted(want.key, want.term, None, is_standby_sound=True) for want in request.wants)
    for codec in codecs.values():
        ack = Ack(keepers.INCARNATION, request.round, REST_NS + ahead_ns, 0, granted, (), ())
        try:
            candidate.receive(codec.seal("a", ack), REST_NS)
        except DatagramRefused as refused:
            assert (refused.refusal, bool(ahead_ns)) == ("Unasked", True)  # noqa: PT017 - one of two outcomes
        else:
            assert not ahead_ns
    assert candidate.lease.phase(WEB) is phase


def test_nobody_hands_over_to_the_api_server_that_a_witness_has_named_as_the_standby() -> None:
    send = Send(API_SERVER, Prepare(keepers.INCARNATION, WEB, is_sound=True))
    assert not seat().is_local(send)
    assert seat().seal(send) is None


def test_no_keeper_takes_over_a_number_that_it_could_not_say_again() -> None:
    request = Request(1, 0, nodeplan.MOST_TERM + 1, is_sound=True, wants=(), polls=())
    with pytest.raises(DatagramRefused) as refused:
        keepers.codec_of("a").open(keepers.codec_of("b").seal("a", request))
    assert refused.value.refusal == "Garbage"


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_epoch_that_no_datagram_can_carry_is_never_taken_over(beyond: int) -> None:
    told = msgspec.structs.replace(keepers.FIRST, epoch=epochs.HIGHEST_EPOCH + beyond).sealed(keepers.UID)
    assert bool(epochs.flaw(keepers.UID, told)) == bool(beyond)


def test_a_domain_with_times_under_which_two_could_own_is_not_taken_part_in() -> None:
    seats = Seats(node="a", machine=b"", incarnation=1, random=random.Random(1))
    unsafe = msgspec.structs.replace(keepers.PLANS[0], timing=Timing(100, 400, 450, 600))
    seated, effects, problem = seats.sit(unsafe, keepers.FIRST, term_ceiling=0, now_ns=0)
    assert (seated, effects) == (None, [])
    assert problem is not None
    assert problem.reason == "TimingRefused"


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param({"health_checks": (HealthCheck("new"),)}, id="a probe of a newer version"),
        pytest.param({"announcement_refresh_s": 0}, id="announced without a pause"),
        pytest.param({"observed_term": nodeplan.MOST_FLOOR + 1}, id="a term that leaves no room for others"),
    ],
)
def test_a_plan_that_could_not_be_acted_on_whole_is_refused(spoilt: dict[str, Any]) -> None:
    vip = msgspec.structs.replace(keepers.WEB, **spoilt)
    with pytest.raises(ValueError, match="VirtualIP web"):
        link.decode_for_keeper(nodeplan.encode(Plan("a", (keepers.domain(keepers.FIRST, vip),))))


def test_one_virtual_ip_that_cannot_be_planned_leaves_the_others_and_its_own_last_plan() -> None:
    planner = planning.Planner("a")
    web, mail = sources.vip(), sources.vip("mail", addresses=["192.0.2.11"])
    before = planner.plan(sources.world(virtual_ips=[web, mail])).plan
    bad = sources.changed(web, spec={"addresses": ["nonsense"]})
    for known, names in ((planner, ["mail", "web"]), (planning.Planner("a"), ["mail"])):
        found = known.plan(sources.world(virtual_ips=[bad, mail]))
        assert [vip.name for vip in found.plan.domains[0].virtual_ips] == names
        assert any("VirtualIP web cannot be planned" in problem for problem in found.problems)
        nodeplan.check(found.plan)
    assert planner.plan(sources.world(virtual_ips=[bad, mail])).plan == before


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_term_that_leaves_no_room_for_others_does_not_count_and_is_told(beyond: int) -> None:
    web = sources.vip()
    web["status"]["term"] = nodeplan.MOST_FLOOR + beyond
    found = planning.Planner("a").plan(sources.world(virtual_ips=[web]))
    [planned] = found.plan.domains[0].virtual_ips
    assert planned.observed_term == (0 if beyond else nodeplan.MOST_FLOOR)
    assert any("status.term" in problem for problem in found.problems) == bool(beyond)
    nodeplan.check(found.plan)


@pytest.mark.parametrize("name", ["a-new-one", "z-new-one"])
def test_a_service_that_another_virtual_ip_wants_too_stays_where_it_was(name: str) -> None:
    planner = planning.Planner("a")
    web, other = sources.vip(), sources.vip(name, addresses=["192.0.2.11"])
    billing = sources.failover()
    planner.plan(sources.world(virtual_ips=[web], failovers=[billing]))
    twice = sources.changed(billing, spec={"services": [sources.service(), sources.service(follows=name)]})
    twice["metadata"]["generation"] += 1
    twice["status"] = {"conditions": [sources.accepted(generation=twice["metadata"]["generation"])]}
    moved = sources.changed(web, spec={"failback": {"policy": "Manual"}})
    found = planner.plan(sources.world(virtual_ips=[moved, other], failovers=[twice]))
    nodeplan.check(found.plan)
    [(vip, service)] = [
        (vip.name, service.name) for vip in found.plan.domains[0].virtual_ips for service in vip.services
    ]
    assert (vip, service) == ("web", "app")
    assert any("twice" in problem for problem in found.problems)


def test_a_line_that_is_refused_whole_and_read_in_steps_has_a_field_twice() -> None:
    line = nodeplan.encode(Plan("a", (keepers.PLANS[0],), ()))
    assert not lines.has_a_field_twice(line)
    assert lines.has_a_field_twice(line.replace(b'"virtualIPs":[', b'"virtualIPs":[],"virtualIPs":[', 1))
    assert not lines.has_a_field_twice(line[:-1])
    for each in (line, line[:-1]):
        lines.to_keeper(each)


def test_a_node_without_an_ip_address_and_a_domain_without_a_port_spoil_no_plan() -> None:
    node = sources.node("a", addresses=("not.an.address", "192.0.2.1"))
    found, problems, _ = planning.Planner("a").plan(sources.world(nodes=[node]))
    assert found.node_addresses == ("192.0.2.1",)
    assert any("not.an.address" in problem for problem in problems)
    found = planning.Planner("a").plan(sources.world(domains=[sources.domain(heartbeat={"port": 0})])).plan
    assert found.domains == ()


def test_a_ceiling_that_somebody_has_written_into_the_lease_goes_no_higher_than_keepers_count() -> None:
    claim = Claim("vote")
    wanted = link.VoteWanted("uid", "default", "a_", 1, 2000, 1, is_needed=True)
    lease = {"metadata": {"resourceVersion": "1", "annotations": {"vipkeeper.io/term-ceiling": "9" * 30}}}
    claim.saw(lease, now_ns=0)
    step = claim.step(wanted, now_ns=10**10, wall=dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    assert isinstance(step, Write)
    assert step.lease["metadata"]["annotations"]["vipkeeper.io/term-ceiling"] == "2000"


def test_a_virtual_ip_with_no_legible_address_is_told_of_and_stops_nothing() -> None:
    metadata = {"name": "web", "uid": "web-uid", "resourceVersion": "1", "generation": 1}
    reader = world.Reader()
    seen = reader.read(
        virtual_ips=[{"metadata": metadata, "spec": {"addresses": 5}}],
        failovers=[{"metadata": {**metadata, "uid": "b"}, "spec": {"services": 5}, "status": {"inForce": 5}}],
        domains=[],
        switchovers=[],
        vip_nodes=[],
        nodes=[],
    )
    assert seen.unreadable.keys() == {"web-uid", "b"}
    now = world.Moment(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 0.0)
    assert decisions.reconcile(seen, decisions.Memory(), now).problems == ()


def test_an_owner_that_tells_nothing_of_addresses_that_nobody_can_read_is_told_of() -> None:
    listed: dict[str, list[Any]] = {name: [] for name in objects.LISTS.values()}
    for (kind, name), document in objects.cluster().items():
        found = copy.deepcopy(document)
        if name == "web":
            found["spec"] = {"addresses": 5}
            del found["status"]["addresses"], found["status"]["inForce"]
        if kind == "VIPNode":
            found["status"]["virtualIPs"] = []
        listed[objects.LISTS[kind]].append(found)
    now = world.Moment(stage.START + dt.timedelta(seconds=1000), 1000.0)
    decided = decisions.reconcile(world.Reader().read(**listed), decisions.Memory(), now)
    assert decided.problems == ()
    (status,) = (write.status for write in decided.writes if write_is_of(write, "web"))
    bound = next(each for each in status.conditions if each.type == "Bound")
    assert bound.message == "the kernel of node-a lacks the addresses"


def write_is_of(write: object, name: str) -> TypeGuard[StatusWrite]:
    return isinstance(write, StatusWrite) and write.metadata.name == name
