"""When a Lease may be taken: measured on the clock of whoever looks, and on nobody else's."""

from __future__ import annotations

from typing import Any

from vipcluster.client import REQUEST_TIMEOUT_S
from vipcluster.leader import LEASE_S, RENEW_DEADLINE_S, RETRY_S, is_free, see

Document = dict[str, Any]


def lease(holder: str = "one", renewed: str = "2020-01-01T00:00:00.000000Z", **spec: Any) -> Document:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": LEASE_S, **spec}}


def test_a_lease_is_free_when_it_has_not_changed_for_its_duration_on_our_clock() -> None:
    seen = see(None, lease(), 1000.0)
    seen = see(seen, lease(), 1014.0)
    assert not is_free(seen, 1014.9)
    assert is_free(seen, 1015.0)


def test_a_renewal_counts_from_when_we_saw_it_whatever_time_is_written_in_it() -> None:
    seen = see(None, lease(renewed="2020-01-01T00:00:00.000000Z"), 1000.0)
    seen = see(seen, lease(renewed="1999-01-01T00:00:00.000000Z"), 1010.0)
    assert not is_free(seen, 1024.0)
    assert is_free(seen, 1025.0)


def test_a_lease_that_was_let_go_is_free_at_once() -> None:
    assert is_free(see(None, lease(holder=""), 0.0), 0.0)
    assert is_free(see(None, {"metadata": {}}, 0.0), 0.0)


def test_another_holder_is_given_its_time() -> None:
    seen = see(None, lease("one"), 0.0)
    assert not is_free(see(seen, lease("two"), 14.0), 20.0)


def test_a_leader_stops_before_a_follower_may_begin() -> None:
    assert RENEW_DEADLINE_S + REQUEST_TIMEOUT_S <= LEASE_S
    assert RETRY_S + REQUEST_TIMEOUT_S < RENEW_DEADLINE_S
