"""What a VIPNode's status says of a keeper that reports, has problems, or is silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from vipapi.conditions import find
from vipapi.nodestatus import InterfaceStatus, Problem, Report, ServiceStatus
from vipapi.resources import VIPNodeStatus
from vipcourier.status import of_report, of_silence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
FRESH = VIPNodeStatus()
REPORT = Report(node="a", version="0.1.0", incarnation=3, interfaces=(InterfaceStatus("eth0", "Up"),))


def ready(status: VIPNodeStatus) -> tuple[str, str, datetime]:
    condition = find(status.conditions, "Ready")
    assert condition is not None
    assert condition.observed_generation == status.observed_generation
    return condition.status, condition.reason, condition.last_transition_time


def test_a_keeper_without_problems_is_ready() -> None:
    status = of_report(REPORT, before=FRESH, generation=1, now=NOW)
    assert ready(status) == ("True", "AgentReady", NOW)
    assert (status.incarnation, status.interfaces) == (3, REPORT.interfaces)


def test_a_keeper_with_problems_names_them() -> None:
    problem = Problem("NoBPF", "load the module")
    report = Report(node="a", version="0.1.0", incarnation=3, problems=(problem,))
    status = of_report(report, before=FRESH, generation=1, now=NOW)
    assert ready(status) == ("False", "AgentProblem", NOW)
    condition = find(status.conditions, "Ready")
    assert condition is not None
    assert condition.message == "NoBPF: load the module"


def test_services_are_told_and_stay_told_by_a_silent_keeper() -> None:
    services = (ServiceStatus("u", "app", "web", "StopFailed", term=2, message="it ignores SIGKILL"),)
    status = of_report(
        msgspec.structs.replace(REPORT, services=services), before=FRESH, generation=1, now=NOW
    )
    assert status.services == services
    assert of_silence("it hangs", before=status, generation=1, now=LATER).services == services


def test_the_same_report_is_the_same_status() -> None:
    status = of_report(REPORT, before=FRESH, generation=1, now=NOW)
    assert of_report(REPORT, before=status, generation=1, now=LATER) == status


def test_a_silent_keeper_keeps_what_it_last_said() -> None:
    before = of_report(REPORT, before=FRESH, generation=1, now=NOW)
    status = of_silence("it hangs", before=before, generation=1, now=LATER)
    assert ready(status) == ("False", "KeeperDisconnected", LATER)
    assert status.interfaces == REPORT.interfaces
    assert of_silence("it hangs", before=status, generation=1, now=LATER + timedelta(1)) == status


def test_a_keeper_that_comes_back_is_ready_again() -> None:
    silent = of_silence("it hangs", before=FRESH, generation=1, now=NOW)
    assert ready(of_report(REPORT, before=silent, generation=1, now=LATER)) == ("True", "AgentReady", LATER)
