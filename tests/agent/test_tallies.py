"""What Prometheus sees of services."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec
import pytest
from prometheus_client import REGISTRY

from agent.stacks import SECOND, service
from vipagent.runs import Fault, Outcome
from vipagent.tallies import Tallies

if TYPE_CHECKING:
    from vipapi.nodeplan import ServicePlan


@pytest.fixture
def db() -> ServicePlan:
    """A service that no other test counts."""
    return msgspec.structs.replace(service("db"), namespace=uuid4().hex)


def value(metric: str, of: ServicePlan, **more: str) -> float | None:
    labels = {"namespace": of.namespace, "servicefailover": of.failover, "service": of.name, **more}
    return REGISTRY.get_sample_value(f"vipkeeper_service_{metric}", labels)


def tell(tallies: Tallies, of: ServicePlan, run: int, kind: str, at_s: int) -> None:
    tallies.receive(Outcome(of.id, run, kind), at_s * SECOND)  # type: ignore[arg-type]


def test_a_service_has_one_state_at_a_time(db: ServicePlan) -> None:
    tallies = Tallies()
    tallies.show([(db, "Waiting")])
    tallies.show([(db, "Active")])
    assert value("state", db, state="Active") == 1
    assert value("state", db, state="Waiting") == 0
    assert value("state", db, state="StopFailed") == 0


def test_what_is_gone_is_forgotten_and_its_neighbours_are_not(db: ServicePlan) -> None:
    tallies = Tallies()
    app = msgspec.structs.replace(db, name="app")
    for each in (db, app):
        tallies.start(each, 1, 0)
    tallies.show([(db, "Active"), (app, "Active")])
    tallies.show([(app, "Active")])
    assert value("state", db, state="Active") is None
    assert value("starts_total", db) is None
    assert value("state", app, state="Active") == 1
    assert value("starts_total", app) == 1


def test_a_service_that_was_made_anew_under_its_name_is_not_forgotten_with_the_old_one(
    db: ServicePlan,
) -> None:
    tallies = Tallies()
    tallies.show([(db, "Active")])
    tallies.show([(msgspec.structs.replace(db, uid="new"), "Starting")])
    assert value("state", db, state="Active") == 0
    assert value("state", db, state="Starting") == 1


def test_starts_and_stops_are_counted_with_their_times(db: ServicePlan) -> None:
    tallies = Tallies()
    tallies.start(db, 7, 10 * SECOND)
    tell(tallies, db, 7, "Started", 13)
    tallies.stop(db.id, 7, 20 * SECOND)
    tell(tallies, db, 7, "StopFailed", 25)
    tallies.stop(db.id, 7, 30 * SECOND)
    for _ in range(2):
        tell(tallies, db, 7, "Stopped", 31)
    assert value("starts_total", db) == 1
    assert (value("start_seconds_count", db), value("start_seconds_sum", db)) == (1, 3)
    assert (value("stop_seconds_count", db), value("stop_seconds_sum", db)) == (1, 11)


def test_what_ended_by_itself_took_no_time_to_stop(db: ServicePlan) -> None:
    tallies = Tallies()
    tallies.start(db, 7, 0)
    tell(tallies, db, 7, "Stopped", 5)
    assert value("stop_seconds_count", db) is None
    assert value("start_seconds_count", db) is None


def test_what_an_earlier_keeper_left_behind_is_not_counted(db: ServicePlan) -> None:
    tallies = Tallies()
    tallies.stop(db.id, 0, 0)
    tell(tallies, db, 0, "Stopped", 5)
    assert value("stop_seconds_count", db) is None


def test_failures_are_counted_apart_from_stops_that_failed(db: ServicePlan) -> None:
    tallies = Tallies()
    tallies.fail(Fault(db, 1, "it died"))
    tallies.fail(Fault(db, 1, "it died"))
    tallies.fail(Fault(db, 1, "it hangs", is_stop=True))
    assert value("failures_total", db) == 2
    assert value("stop_failures_total", db) == 1
