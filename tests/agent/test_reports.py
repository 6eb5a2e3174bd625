"""What the report makes of facts."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

import pytest

from vipagent.effects import Origin, Phase
from vipagent.reports import Facts, Keeping, Tenure, has_reunited, holding, is_told, report, takeover
from vipagent.seats import Seats
from vipagent.standing import Standing
from vipapi.configuration import Configuration
from vipapi.nodeplan import CandidatePlan, DomainPlan, Plan, Timing, VirtualIPPlan
from vipapi.nodestatus import (
    CheckStatus,
    DomainStatus,
    HoldingStatus,
    Problem,
    Report,
    ServiceStatus,
    Takeover,
)

WEB = VirtualIPPlan(
    uid="web-uid", name="web", addresses=("192.0.2.10/24",), candidates=(CandidatePlan("a", 100),)
)
OTHERS = VirtualIPPlan(uid="others-uid", name="others", addresses=("192.0.2.11/24",), candidates=())
CAME = Takeover(
    reason="Elected", started_at="2026-01-02T03:04:05.006Z", duration_milliseconds=7, from_node="b"
)
FIT = Standing("Fit", 100)


@pytest.mark.parametrize(
    ("tenure", "state", "shown"),
    [
        pytest.param(Tenure(), "Standby", None, id="nothing of it is here"),
        pytest.param(Tenure(Phase.STANDBY, takeover=CAME), "Standby", None, id="it was here"),
        pytest.param(Tenure(Phase.ACQUIRING), "Acquiring", None, id="on its way here"),
        pytest.param(Tenure(Phase.OWNER, 3, ("192.0.2.10",), CAME), "Owner", CAME, id="held"),
        pytest.param(Tenure(Phase.CLOSING, 3, ("192.0.2.10",), CAME), "Owner", CAME, id="held until closed"),
    ],
)
def test_the_state_is(tenure: Tenure, state: str, shown: Takeover | None) -> None:
    told = holding(WEB, FIT, tenure, interface="eth0")
    assert (told.state, told.takeover) == (state, shown)
    assert (told.term, told.bound) == (tenure.term, tenure.bound)


@pytest.mark.parametrize(
    ("standing", "phase", "expected"),
    [
        pytest.param(Standing("NotCandidate"), Phase.STANDBY, False, id="nothing to do with it"),
        pytest.param(Standing("NotCandidate"), Phase.OWNER, True, id="a candidate no more, and holds it yet"),
        pytest.param(Standing("NotCandidate"), Phase.CLOSING, True, id="a candidate no more, and lets it go"),
        pytest.param(FIT, Phase.STANDBY, True, id="a standby"),
        pytest.param(Standing("Unfit"), Phase.STANDBY, True, id="a candidate that cannot"),
    ],
)
def test_an_address_is_told_of(standing: Standing, phase: Phase, *, expected: bool) -> None:
    assert is_told(standing, phase) is expected


def test_a_conflict_is_told_with_the_holding() -> None:
    conflict = Problem("ForeignHost", "somebody has it")
    tenure = Tenure(Phase.OWNER, 3, (), None, conflict)
    assert holding(WEB, FIT, tenure, interface="eth0").conflict == conflict


def test_a_standing_is_told_as_it_is() -> None:
    unfit = Standing("Unfit", 90, "CheckFailed", "it fails")
    assert holding(WEB, unfit, Tenure(), interface="") == HoldingStatus(
        uid="web-uid",
        name="web",
        state="Standby",
        fitness="Unfit",
        score=90,
        reason="CheckFailed",
        message="it fails",
    )


def test_a_takeover_counts_from_the_last_sign_of_the_former_owner() -> None:
    started_at = datetime(2026, 1, 2, 3, 4, 5, 6_999, tzinfo=UTC)
    assert takeover(Origin("Elected", "b", 0), started_at=started_at, took_ns=7_999_999) == CAME


PAGE = CheckStatus("page", "Failing", "HTTP 500")
SERVICE = ServiceStatus(uid="s", name="app", virtual_ip="web", state="Active")


@pytest.mark.parametrize(
    ("is_witness_only", "candidacy"),
    [pytest.param(False, "Candidate", id="may hold"), pytest.param(True, "WitnessOnly", id="only votes")],
)
def test_a_domain_without_a_seat_is_reported_as_one_without_a_part(
    *, is_witness_only: bool, candidacy: str
) -> None:
    domain = DomainPlan(
        name="default",
        uid="d",
        port=7946,
        timing=Timing(100, 400, 500, 600),
        configuration=Configuration(),
        members=(),
        keys=(),
        virtual_ips=(WEB, OTHERS),
    )
    problem = Problem("NoHeartbeatKey", "mend it")
    told = report(
        Keeping("a", "1.0", 4, is_witness_only),
        Facts(
            plan=Plan("a", (domain,)),
            seats=Seats(node="a", machine=b"m", incarnation=4, random=Random(0)),
            places={},
            standings={"web-uid": FIT, "others-uid": Standing("NotCandidate")},
            takeovers={},
            interfaces=(),
            interface_of={"web-uid": "eth0"}.__getitem__,
            bound=dict[bytes, tuple[str, ...]]().__getitem__,
            conflict=dict[bytes, Problem | None]().__getitem__,
            service_checks={"web-uid": (PAGE,)}.__getitem__,
            services=(SERVICE,),
            problems=(problem,),
            fence="Nftables",
        ),
        0,
    )
    assert (told.node, told.version, told.incarnation, told.candidacy) == ("a", "1.0", 4, candidacy)
    assert told.domains == (DomainStatus(name="default", uid="d", role="Member"),)
    assert told.virtual_ips == (holding(WEB, FIT, Tenure(), interface="eth0", service_checks=(PAGE,)),)
    assert told.virtual_ips[0].service_checks == (PAGE,)
    assert told.services == (SERVICE,)
    assert told.problems == (problem,)
    assert told.fence == "Nftables"


@pytest.mark.parametrize(
    ("former", "latter", "expected"),
    [
        pytest.param(("a", "b"), ("a", "b"), False, id="as before"),
        pytest.param(("a",), ("a", "b"), True, id="a peer is back"),
        pytest.param(("a", "b"), ("a", "c"), True, id="one for another"),
        pytest.param(("a", "b"), ("a",), False, id="a peer is lost"),
    ],
)
def test_peers_that_are_heard_again_are_a_reunion(
    former: tuple[str, ...], latter: tuple[str, ...], *, expected: bool
) -> None:
    assert has_reunited(_reaching(*former), _reaching(*latter)) is expected


def test_a_gateway_that_is_reached_again_is_a_reunion_and_a_new_domain_is_none() -> None:
    assert has_reunited(_reaching("a", is_sound=False), _reaching("a"))
    assert not has_reunited(_reaching("a"), _reaching("a", is_sound=False))
    assert not has_reunited(Report("a", "v", 1), _reaching("a", "b"))


def _reaching(*peers: str, is_sound: bool = True) -> Report:
    domain = DomainStatus("default", "uid", "Member", reachable_peers=peers, is_sound=is_sound)
    return Report("a", "v", 1, domains=(domain,))
