"""Who may hold an address alone (`onQuorumLoss: Hold`) where services follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from courier.objects import accepted, failover, service, vip, world
from vipcourier.planning import Planner

if TYPE_CHECKING:
    from vipcourier.reading import Document

HELD: Document = {"onQuorumLoss": "Hold", "allowedNamespaces": {"names": ["prod"]}}
ONCE = service("db")
TWICE = service("cache", singleton=False)


def is_held_alone(*failovers: Document, planner: Planner | None = None) -> bool:
    planned = (planner or Planner("a")).plan(world(virtual_ips=[vip(**HELD)], failovers=list(failovers)))
    (found,) = planned.plan.domains[0].virtual_ips
    assert [candidate.node for candidate in found.candidates] == ["a", "b"]
    return found.is_held_alone


@pytest.mark.parametrize(
    ("failovers", "is_so"),
    [
        pytest.param([failover("one", TWICE)], True, id="services-that-may-run-twice"),
        pytest.param([failover("one", ONCE)], False, id="one-that-may-not"),
        pytest.param([failover("one", TWICE, ONCE)], False, id="one-among-others"),
        pytest.param([failover("one", TWICE), failover("two", ONCE)], False, id="one-of-another-object"),
        pytest.param([failover("one", service("db", singleton=True))], False, id="said-so"),
    ],
)
def test_nobody_holds_alone_what_a_service_follows_that_must_not_run_twice(
    failovers: list[Document], *, is_so: bool
) -> None:
    assert is_held_alone(*failovers) is is_so


def test_it_is_held_alone_only_while_no_such_service_follows() -> None:
    planner = Planner("a")

    def edited(generation: int, *services: Document) -> Document:
        document = failover("one", *services, conditions=[accepted(generation=generation)])
        document["metadata"] |= {"generation": generation, "resourceVersion": str(generation)}
        return document

    found = [
        is_held_alone(edited(generation, *services), planner=planner)
        for generation, services in enumerate([(TWICE,), (TWICE, ONCE), (TWICE,)], 1)
    ]
    assert found == [True, False, True]
