from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.definitions import definitions, schema_of
from vipapi import effective, timing
from vipapi.nodeplan import Timing
from vipapi.resources import DomainTiming, FailoverDomainSpec, VirtualIPSpec


@pytest.mark.parametrize(
    ("spec", "times"),
    [
        pytest.param({}, (100, 400, 500, 600), id="nothing-said-is-balanced"),
        pytest.param({"profile": "Balanced"}, (100, 400, 500, 600), id="balanced"),
        pytest.param({"profile": "Fast"}, (50, 250, 310, 320), id="fast"),
        pytest.param({"profile": "Relaxed"}, (200, 1000, 1250, 1300), id="relaxed"),
        pytest.param(
            {
                "timing": {
                    "heartbeatMilliseconds": 20,
                    "leaseMilliseconds": 100,
                    "grantMilliseconds": 123,
                    "silenceMilliseconds": 123,
                }
            },
            (20, 100, 123, 123),
            id="its-own",
        ),
    ],
)
def test_the_times_in_force(spec: dict[str, object], times: tuple[int, int, int, int]) -> None:
    assert timing.effective(msgspec.convert(spec, type=FailoverDomainSpec)) == Timing(*times)


@pytest.mark.parametrize("name", sorted(timing.PROFILES))
def test_every_profile_is_safe_and_within_the_schema(name: str) -> None:
    times = timing.PROFILES[name]
    assert timing.objection(times) is None
    schema = schema_of(definitions()["FailoverDomain"])["properties"]["spec"]["properties"]["timing"]
    for field, value in (
        ("heartbeatMilliseconds", times.heartbeat_ms),
        ("leaseMilliseconds", times.lease_ms),
        ("grantMilliseconds", times.grant_ms),
        ("silenceMilliseconds", times.silence_ms),
    ):
        assert schema["properties"][field]["minimum"] <= value <= schema["properties"][field]["maximum"]


@pytest.mark.parametrize(
    ("times", "objection"),
    [
        pytest.param((50, 100, 123, 123), "`heartbeatMilliseconds` must be less than half", id="heartbeat"),
        pytest.param((20, 1000, 1222, 1300), "`grantMilliseconds` must be greater", id="grant"),
        pytest.param((20, 100, 123, 122), "`silenceMilliseconds` must be greater", id="silence"),
    ],
)
def test_unsafe_times_are_refused(times: tuple[int, int, int, int], objection: str) -> None:
    spec = FailoverDomainSpec(timing=DomainTiming(*times))
    with pytest.raises(ValueError, match=objection):
        timing.effective(spec)


@given(st.integers(10, 10000), st.integers(50, 60000), st.integers(62, 120000), st.integers(62, 240000))
def test_times_without_objection_keep_a_lease_inside_its_grant(
    heartbeat: int, lease: int, grant: int, silence: int
) -> None:
    if timing.objection(Timing(heartbeat, lease, grant, silence)) is None:
        slow, fast = 0.9, 1.1
        assert lease / slow <= grant / fast + 1e-6, "the owner's clock is slow, the witness's fast"
        assert silence >= grant
        assert lease > 2 * heartbeat


def test_what_a_spec_leaves_out_is_shown() -> None:
    shown = effective.of_virtual_ip(VirtualIPSpec(addresses=("192.0.2.10/24",)), is_held_alone=False)
    assert (shown.domain, shown.failback_policy, shown.failback_delay_seconds) == ("default", "Manual", 300)
    assert (shown.announcement_count, shown.announcement_refresh_seconds) == (5, 60)
    assert shown.on_quorum_loss == "Release"
    domain = effective.of_domain(FailoverDomainSpec())
    assert (domain.heartbeat_port, domain.witness_count) == (7946, 3)
    assert domain.lease_milliseconds == 400
